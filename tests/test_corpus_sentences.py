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
