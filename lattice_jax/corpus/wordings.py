"""Other ways to ask a question: what people type who ask otherwise than a corpus does.

Contract: pure functions of a text and a generator. Each gives some text for every text that isn't empty, the same one where
there is nothing to change: a script without capitals, a question of one word. Words are what stands between spaces.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

Reword = Callable[[str, np.random.Generator], str]
"""(question, generator) -> the question in another wording."""

_FEWEST_LETTERS = 4
"""Of a word that gets a typo; the first and the last letter keep their places, as in most typos."""


def without_punctuation(question: str) -> str:
    """Letters, digits and single spaces alone."""
    return " ".join(re.sub(r"[^\w\s]|_", " ", question).split()) or question


def with_typos(question: str, generator: np.random.Generator) -> str:
    """Two neighbouring letters inside every longer word change places."""

    def mistyped(match: re.Match[str]) -> str:
        word = match.group()
        if len(word) < _FEWEST_LETTERS:
            return word
        place = int(generator.integers(1, len(word) - 2))
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return re.sub(r"[^\W\d_]+", mistyped, question)


def in_any_order(question: str, generator: np.random.Generator) -> str:
    """The same words, shuffled."""
    words = question.split()
    return " ".join(words[place] for place in generator.permutation(len(words))) or question


def first_half(question: str) -> str:
    """The first half of the words, as of a question that was sent too early."""
    words = question.split()
    return " ".join(words[: (len(words) + 1) // 2]) or question


def longest_word(question: str) -> str:
    """A single word, as people type into a search box."""
    return max(without_punctuation(question).split(), key=len, default=question)


WORDINGS: Mapping[str, Reword] = {
    "lower_case": lambda question, _: question.lower(),
    "upper_case": lambda question, _: question.upper(),
    "without_punctuation": lambda question, _: without_punctuation(question),
    "typos": with_typos,
    "words_in_any_order": in_any_order,
    "first_half": lambda question, _: first_half(question),
    "longest_word": lambda question, _: longest_word(question),
    "asked_twice": lambda question, _: f"{question} {question}",
}
"""All of them by name, from what changes least of the text."""
