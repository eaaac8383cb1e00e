"""Question-answer pairs.

Contract: pairs come in file order, stripped of white space at the ends, no question twice, none empty; anything else in a
file is refused with its line number.
The shipped data/scikit_learn_pairs.jsonl holds the glossary and the frequently asked questions of scikit-learn 1.2
(BSD-3-Clause, notice beside it), made by benchmarks/extract_scikit_learn.py.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from lattice_jax.corpus.textfile import numbered_lines
from lattice_jax.errors import InputError

_SHIPPED = {"hundred": "scikit_learn_pairs.jsonl", "ten": "scikit_learn_pairs.jsonl"}

TEN_QUESTIONS = (
    "What is supervised learning?",
    "What is unsupervised learning?",
    "What is a feature, or a feature vector?",
    "What is a categorical feature?",
    "What is data leakage?",
    "What is early stopping?",
    "What is a cross-validation estimator?",
    "What is an evaluation metric?",
    "What is online learning?",
    "Will you add GPU support?",
)
"""The set 'ten': varied machine-learning questions of general interest. They are training pairs in 'hundred' too."""


@dataclass(frozen=True)
class Pair:
    """One question and its answer, both non-empty."""

    question: str
    answer: str


def load_pairs(name: str) -> tuple[Pair, ...]:
    """Pairs of 'hundred' (all that are shipped), 'ten', or a JSONL file with 'question' and 'answer' on every line.

    Raises InputError, with line numbers, for a file that is missing, unreadable, empty or not UTF-8, a line that is no JSON
    object, a 'question' or 'answer' that is missing, empty or no text, and a question that occurs twice.
    """
    content = "a JSONL file with 'question' and 'answer' on every line"
    lines = numbered_lines(name, shipped=_SHIPPED, setting="corpus.pairs", content=content)
    first_line: dict[str, int] = {}
    pairs = []
    for number, line in lines:
        pair = _parse(line, f"line {number} of {name!r}")
        if pair.question in first_line:
            raise InputError(
                f"lines {first_line[pair.question]} and {number} of {name!r} have the same question: {pair.question!r}",
                expected="every question once",
                fix="remove one of the two lines",
            )
        first_line[pair.question] = number
        pairs.append(pair)
    return tuple(pair for pair in pairs if name != "ten" or pair.question in TEN_QUESTIONS)


def data_hash(pairs: Sequence[Pair], sentences: Sequence[str]) -> str:
    """SHA-256, in hexadecimal, of all texts in order; equal only for equal contents."""
    contents = [[[pair.question, pair.answer] for pair in pairs], list(sentences)]
    return hashlib.sha256(json.dumps(contents, ensure_ascii=False).encode()).hexdigest()


def _parse(line: str, place: str) -> Pair:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        # ValueError also covers numbers too long to convert; RecursionError comes from thousands of nested brackets.
        raise _bad_line(f"{place} is not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise _bad_line(f"{place} is not a JSON object but {type(entry).__name__}")
    return Pair(question=_text(entry, "question", place), answer=_text(entry, "answer", place))


def _text(entry: dict, key: str, place: str) -> str:
    if key not in entry:
        raise _bad_line(f"{place} has no {key!r}")
    text = entry[key]
    if not isinstance(text, str):
        raise _bad_line(f"{place} has a {key!r} that is {type(text).__name__}, not text")
    if not text.strip():
        raise _bad_line(f"{place} has an empty {key!r}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _bad_line(f"{place} has half of a surrogate pair in its {key!r}")
    return text.strip()


def _bad_line(found: str) -> InputError:
    return InputError(
        found,
        expected='{"question": "...", "answer": "..."}, both with text, on every line',
        fix="mend or remove the line, or set --config.corpus.pairs to another file",
    )
