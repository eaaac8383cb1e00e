"""Unlabelled sentences, and the overlap of texts that keeps them apart from what is held out."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lattice_jax.corpus.overlap import contained, jaccard, similar_pairs, word_list, word_set
from lattice_jax.corpus.sentences import load_sentences, without_near_duplicates
from lattice_jax.errors import InputError

WORD_SETS = st.lists(st.frozensets(st.sampled_from("abcdefghijkl")), max_size=12)
TWENTY_FIVE, SEVEN = frozenset("abcdefghijklmnopqrstuvwxy"), frozenset("abcdefg")  # 0.28 * 25 exceeds 7 in floating point
THRESHOLDS = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])


def test_none_is_no_sentence():
    assert load_sentences("none") == ()


def test_text_file_gives_its_lines(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("  One sentence. \r\nNa\u00efve \u2028 second one.\n".encode())
    assert load_sentences(str(path)) == ("One sentence.", "Na\u00efve \u2028 second one.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\n\xff bad\n", "line 2 .* is not UTF-8"),
        (b" \n\n", "holds no text"),
        (b"One.\r\n\r\nTwo.", "line 2 .* is blank: an empty text"),
        (b"One.\n\n", "line 2 .* is blank"),
        ("One.\n\u200b\u3000\n".encode(), "line 2 .* is blank"),
    ],
)
def test_bad_text_file_is_refused(tmp_path, content, message):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_sentences(str(path))


def test_missing_text_file_is_refused_with_the_choices(tmp_path):
    with pytest.raises(InputError) as raised:
        load_sentences(str(tmp_path / "missing.txt"))
    assert "there is no such file" in str(raised.value)
    assert all(choice in str(raised.value) for choice in ("'scikit_learn_guide'", "'none'", "corpus.sentences"))


TURNS = "conversations:\n- - Who walks there?\n  - A friend.\n  - Then come in.\n- - Who walks there?\n  - Nobody.\n"
TEXTS = ("Who walks there?", "A friend.", "Then come in.", "Nobody.")


def test_an_installed_corpus_gives_its_questions_and_answers_each_once(install_python):
    install_python("chatterbot-corpus", {"chatterbot_corpus/data/elvish/tales.yml": TURNS})
    assert load_sentences("chatterbot:elvish") == TEXTS


def test_several_sources_are_joined_in_their_order(install_python, tmp_path):
    install_python("chatterbot-corpus", {"chatterbot_corpus/data/elvish/tales.yml": TURNS})
    path = tmp_path / "text.txt"
    path.write_text("One sentence.\n")
    guide = load_sentences("scikit_learn_guide")
    assert load_sentences(f"chatterbot:elvish+{path}+scikit_learn_guide") == (*TEXTS, "One sentence.", *guide)


def test_a_file_with_a_plus_in_its_name_is_one_source(tmp_path):
    path = tmp_path / "more+text.txt"
    path.write_text("One sentence.\n")
    assert load_sentences(str(path)) == ("One sentence.",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scikit_learn_guide+wordnut:20000", "'wordnut:20000' names none"),
        ("scikit_learn_guide+hundred", "'hundred' names none"),
        ("scikit_learn_guide+none", "'none' names none"),
        ("scikit_learn_guide+", "'' names none"),
        ("wordnet:+scikit_learn_guide", "'wordnet:' names none"),
        ("scikit_learn_guide+wordnet+scikit_learn_guide", "'scikit_learn_guide' is named twice"),
        ("\0+wordnet", "names none"),
    ],
)
def test_what_cannot_be_joined_is_refused_with_the_sources_that_there_are(name, message):
    with pytest.raises(InputError) as raised:
        load_sentences(name)
    assert message in raised.value.found
    assert repr(name) in raised.value.found
    assert all(choice in raised.value.expected for choice in ("'scikit_learn_guide'", "'wordnet:20000'", "'+'"))
    assert "--config.corpus.sentences" in raised.value.fix


def test_an_absent_corpus_among_sources_says_how_to_install_it(install_debian):
    install_debian({})
    with pytest.raises(InputError, match="corpus 'wordnet' is not installed"):
        load_sentences("scikit_learn_guide+wordnet:20000")


def test_sentence_goes_when_a_longer_answer_holds_enough_of_its_words():
    answer = "An outlier detector is an unsupervised binary predictor, which models core and outlying samples in data."
    sentences = [
        "Outlier detector: unsupervised, binary predictor!",  # all 5 words
        "The unsupervised predictor models samples, binary data.",  # 6 of 7 words, 0.86
        "My unsupervised predictor models the samples.",  # 4 of 6, 0.67
        "Nothing of the kind.",
        "...",
    ]
    assert without_near_duplicates(sentences, ["Something else.", answer], 0.8) == tuple(sentences[2:])
    assert without_near_duplicates(sentences, ["Something else.", answer], 1.0) == tuple(sentences[1:])
    assert without_near_duplicates(sentences, [], 0.8) == tuple(sentences)


def test_words_of_two_texts_do_not_add_up():
    assert without_near_duplicates(["one two three four"], ["one two", "three four"], 0.8) == ("one two three four",)


def test_words_are_folded():
    assert word_list("Na\u00efve  \uff22ayes' x_train, STRASSE/stra\u00dfe") == [
        "na\u00efve",
        "bayes",
        "x_train",
        "strasse",
        "strasse",
    ]


def test_jaccard():
    assert jaccard(word_set("a b c"), word_set("b c d")) == 0.5
    assert jaccard(word_set("a"), word_set("A!")) == 1
    assert jaccard(frozenset(), frozenset()) == 0


@settings(max_examples=300, deadline=None)
@given(texts=WORD_SETS, threshold=THRESHOLDS)
@example(texts=[TWENTY_FIVE, SEVEN], threshold=0.28)
def test_similar_pairs_are_those_of_comparing_all(texts, threshold):
    expected = [
        (earlier, later)
        for later in range(len(texts))
        for earlier in range(later)
        if jaccard(texts[earlier], texts[later]) >= threshold - 1e-12 and texts[earlier] | texts[later]
    ]
    assert list(similar_pairs(texts, threshold)) == expected


@settings(max_examples=300, deadline=None)
@given(texts=WORD_SETS, others=WORD_SETS, threshold=THRESHOLDS)
@example(texts=[TWENTY_FIVE], others=[SEVEN], threshold=0.28)
def test_contained_is_that_of_comparing_all(texts, others, threshold):
    expected = [
        bool(text) and any(len(text & other) / len(text) >= threshold - 1e-12 and text & other for other in others)
        for text in texts
    ]
    assert contained(texts, others, threshold) == expected
