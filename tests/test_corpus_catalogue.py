"""The catalogue: complete, printed in the README, and what each corpus says when it is absent."""

import sys
from pathlib import Path

import pytest

from lattice_jax.corpus.pairs import _CORPUS_READERS, list_pairs, load_pairs
from lattice_jax.corpus.readers.catalogue import CORPORA, corpora_table
from lattice_jax.corpus.readers.entries import Columns, clean, visible
from lattice_jax.corpus.sentences import load_sentences
from lattice_jax.corpus.texts import corpus_texts
from lattice_jax.errors import InputError

HOUSE = Path(__file__).parent.parent


def test_every_corpus_of_the_catalogue_has_a_reader():
    assert list(_CORPUS_READERS) == list(CORPORA)
    assert all(form.partition(":")[0] == name for name, source in CORPORA.items() for form in source.forms)


def test_readme_holds_the_catalogue():
    assert corpora_table() in (HOUSE / "README.md").read_text()


@pytest.mark.parametrize("name", list(CORPORA))
def test_an_absent_corpus_says_what_to_install_and_under_which_licence(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LATTICE_JAX_DEBIAN_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match=f"corpus '{name}' is not installed") as raised:
        load_pairs(name)
    assert raised.value.fix.startswith(CORPORA[name].install)
    assert CORPORA[name].licence in raised.value.expected
    if name != "chatterbot":
        assert "LATTICE_JAX_DEBIAN_ROOT" in raised.value.fix


def test_texts_are_all_questions_then_all_answers(tmp_path):
    pairs = load_pairs("hundred")
    texts = corpus_texts("hundred")
    assert texts == [pair.question for pair in pairs] + [pair.answer for pair in pairs]
    path = tmp_path / "pairs.tsv"
    path.write_text("prompt\treply\nb\t1\na\t1\n")
    assert corpus_texts(str(path), Columns("prompt", "reply")) == ["b", "a", "1", "1"]


def test_texts_of_sentences(tmp_path):
    assert corpus_texts("scikit_learn_guide") == list(load_sentences("scikit_learn_guide"))
    path = tmp_path / "lines.txt"
    path.write_text("Second.\nFirst.\nSecond.\n")
    assert corpus_texts(str(path)) == ["Second.", "First.", "Second."]


def test_shipped_pairs_leave_nothing_out():
    listing = list_pairs("hundred")
    assert listing.pairs == listing.entries
    assert listing.left_out == {}


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" two \t\n\u00a0\u2028words\x00 ", "two words"),
        ("\ufeff\u200bmarks\u200b", "marks"),
        ("\u4e00\n \u4e8c\u3002\nthree \u56db", "\u4e00\u4e8c\u3002 three \u56db"),
        ("\u4e00\n\n\u4e8c \u4e09", "\u4e00 \u4e8c \u4e09"),
        ("\ud55c\n\uae00", "\ud55c \uae00"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
    ],
)
def test_clean_leaves_one_line(text, cleaned):
    assert clean(text) == cleaned


def test_what_is_visible():
    assert all(map(visible, ["a", "?", "\u4e00", " \u20ac "]))
    assert not any(map(visible, ["", " \n", "\u200b\ufeff", "\x00\u00a0"]))
