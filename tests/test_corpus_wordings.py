"""Questions asked in other wordings: what each one does to a text, and to texts that give it nothing to do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_jax.corpus.pairs import load_pairs
from lattice_jax.corpus.wordings import WORDINGS

QUESTION = "What is an n_jobs parameter, and why doesn't it help?"


def reworded(name: str, question: str, seed: int = 0) -> str:
    return WORDINGS[name](question, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lower_case", "what is an n_jobs parameter, and why doesn't it help?"),
        ("upper_case", "WHAT IS AN N_JOBS PARAMETER, AND WHY DOESN'T IT HELP?"),
        ("without_punctuation", "What is an n jobs parameter and why doesn t it help"),
        ("first_half", "What is an n_jobs parameter,"),
        ("longest_word", "parameter"),
        ("asked_twice", f"{QUESTION} {QUESTION}"),
    ],
)
def test_wordings_without_chance(name, expected):
    assert reworded(name, QUESTION) == reworded(name, QUESTION, seed=1) == expected


def test_typos_swap_two_letters_inside_every_longer_word():
    mistyped = reworded("typos", QUESTION)
    words, others = QUESTION.split(), mistyped.split()
    for word, other in zip(words, others, strict=True):
        assert sorted(word) == sorted(other)
        assert word[0] == other[0]
        assert sum(a != b for a, b in zip(word, other, strict=True)) in (0, 2)
    assert others[5:7] == ["and", "why"], "words of three letters stay as they are"
    assert others[0] == "Waht", "the only way to swap two letters between the first and the last of four"
    assert reworded("typos", QUESTION) == mistyped
    assert reworded("typos", QUESTION, seed=1) != mistyped


def test_words_in_any_order_are_the_same_words():
    shuffled = reworded("words_in_any_order", QUESTION)
    assert shuffled != QUESTION
    assert sorted(shuffled.split()) == sorted(QUESTION.split())


@given(question=st.text(min_size=1).filter(str.strip))
def test_no_wording_is_empty(question):
    for name in WORDINGS:
        assert reworded(name, question).strip()


def test_every_wording_changes_most_real_questions():
    questions = [pair.question for pair in load_pairs("hundred")]
    for name in WORDINGS:
        changed = sum(reworded(name, question) != question for question in questions)
        assert changed > 0.9 * len(questions), name
