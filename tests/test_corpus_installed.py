"""The corpora that this machine has installed, read whole and compared with the catalogue.

Each test names the package that it wants and is skipped where that is absent; the formats are tested without any in the other
files. Counts are those of the versions in the catalogue.
"""

import re

import pytest

from lattice_jax.config import CorpusConfig
from lattice_jax.corpus.corpus import load_corpus
from lattice_jax.corpus.overlap import jaccard, word_list, word_set
from lattice_jax.corpus.pairs import list_pairs, load_pairs
from lattice_jax.corpus.readers.catalogue import CORPORA, FAQ_LANGUAGES
from lattice_jax.corpus.texts import corpus_texts
from lattice_jax.errors import InputError

MARKUP = {
    "wordnet": r'\((a|p|ip)\)"|_[^"]*" mean\?$',
    "chatterbot": r"```",
    "debian-faq": r"</?(p|a|em|code|div|span)\b|&\w+;|^\d+\.\d+",
    "perlfaq": r"\b[BCEFISXZ]<|^=\w",
    "python-faq": r"</?(p|a|em|code|div|span)\b|&\w+;|\u00b6|:\w+:`",
}


def installed(name):
    """All of a corpus, or a skip that says what to install."""
    try:
        return list_pairs(name)
    except InputError as error:
        if "is not installed" not in error.found:
            raise
        pytest.skip(f"{error.found}; {error.fix}")


@pytest.mark.parametrize("name", list(CORPORA))
def test_the_catalogue_counts_what_is_there(name):
    listing = installed(name)
    assert (len(listing.entries), len(listing.pairs)) == (CORPORA[name].entries, CORPORA[name].questions)


@pytest.mark.parametrize("name", list(CORPORA))
def test_texts_are_clean(name):
    for pair in installed(name).entries:
        for text in (pair.question, pair.answer):
            assert text == " ".join(text.split()) != "", text
            assert not re.search(MARKUP[name], text), text


def test_wordnet_has_the_most_frequent_sense_first():
    installed("wordnet")
    answers = {pair.question: pair.answer for pair in load_pairs("wordnet")}
    assert answers['What does the noun "dog" mean?'].startswith("a member of the genus Canis")
    assert answers['What does the verb "run" mean?'].startswith("move fast by using one's feet")
    assert answers['What does the adjective "able" mean?'].startswith("(usually followed by `to') having the necessary means")
    assert answers['What does the noun "bank" mean?'].startswith("sloping land")


def test_wordnet_lists_every_text_for_embedding():
    entries = installed("wordnet").entries
    texts = corpus_texts("wordnet")
    assert len(texts) == 2 * 206_978
    assert (texts[0], texts[206_978]) == (entries[0].question, entries[0].answer)


def test_twenty_thousand_wordnet_pairs_are_divided_without_relatives_on_two_sides():
    installed("wordnet")
    corpus = load_corpus(CorpusConfig(pairs="wordnet:20000", sentences="none", held_out_pairs=500, validation_pairs=500))
    split = corpus.split
    assert (len(split.held_out), len(split.validation), len(split.train)) == (500, 500, 19_000)
    answers = {index: word_set(pair.answer) for index, pair in enumerate(corpus.pairs)}
    for index in split.held_out[:25]:
        assert all(jaccard(answers[index], answers[other]) < 0.8 for other in split.train)
    folded = {" ".join(word_list(corpus.pairs[index].question)) for index in split.held_out}
    assert not folded & {" ".join(word_list(corpus.pairs[index].question)) for index in split.train}


def test_chatterbot_languages_are_those_of_the_catalogue():
    whole = installed("chatterbot")
    parts = [list_pairs(f"chatterbot:{language}").entries for language in CORPORA["chatterbot"].languages]
    assert sum(parts, ()) == whole.entries
    english = list_pairs("chatterbot:english")
    assert (len(english.entries), len(english.pairs)) == (2_306, 1_015)


def test_english_chatterbot_is_divided():
    installed("chatterbot")
    corpus = load_corpus(CorpusConfig(pairs="chatterbot:english", sentences="none", held_out_pairs=100, validation_pairs=100))
    assert (len(corpus.split.held_out), len(corpus.split.validation), len(corpus.split.train)) == (100, 100, 815)
    assert corpus.left_out["further entries of the same question"] == 1_291


@pytest.mark.parametrize("language", FAQ_LANGUAGES[1:])
def test_debian_languages_are_aligned(language):
    assert len(installed(f"debian-faq:{language}").entries) == 147
    aligned = installed(f"debian-faq:en:{language}")
    assert len(aligned.entries) + aligned.left_out.get("sections that are not translated", 0) == 147
    assert len(aligned.entries) >= 130
    english = {pair.question for pair in load_pairs("debian-faq")}
    assert {pair.question for pair in aligned.pairs} <= english
