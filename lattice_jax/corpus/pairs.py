"""Question-answer pairs.

Contract: pairs come in the order of their source, no question twice, no text empty. Where a file that a user wrote says
anything else it is refused with its line number; where the corpus of someone else does, the first entry of a question is kept
(of a word in WordNet its most frequent sense), and what was left out is counted by reason. `list_pairs` gives both views: the
distinct `pairs`, and all `entries`, whose questions may repeat, for whoever embeds or counts a whole corpus.
The shipped data/scikit_learn_pairs.jsonl holds the glossary and the frequently asked questions of scikit-learn 1.2
(BSD-3-Clause, notice beside it), made by benchmarks/extract_scikit_learn.py. All other corpora are read where they are
installed; readers/catalogue.py lists them.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lattice_jax.corpus.readers.catalogue import CORPORA
from lattice_jax.corpus.readers.chatterbot import read_chatterbot
from lattice_jax.corpus.readers.debian_faq import read_debian_faq
from lattice_jax.corpus.readers.entries import Columns, Reading
from lattice_jax.corpus.readers.files import read_csv, read_jsonl, read_tsv
from lattice_jax.corpus.readers.perlfaq import read_perlfaq
from lattice_jax.corpus.readers.python_faq import read_python_faq
from lattice_jax.corpus.readers.tables import read_table_files
from lattice_jax.corpus.readers.wordnet import read_wordnet
from lattice_jax.corpus.textfile import numbered_lines, whole_lines
from lattice_jax.errors import InputError

_SHIPPED = {"hundred": "scikit_learn_pairs.jsonl", "ten": "scikit_learn_pairs.jsonl"}

_CORPUS_READERS = {
    "wordnet": read_wordnet,
    "chatterbot": read_chatterbot,
    "debian-faq": read_debian_faq,
    "perlfaq": read_perlfaq,
    "python-faq": read_python_faq,
}

_TABLE_READERS = {".csv": read_csv, ".tsv": read_tsv}

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


@dataclass(frozen=True)
class Listing:
    """Everything that a corpus or a file holds."""

    pairs: tuple[Pair, ...]
    """The first entry of every question."""
    entries: tuple[Pair, ...]
    """All entries in order; questions may repeat."""
    left_out: Mapping[str, int]
    """Reason -> how many entries are not among `pairs` for it."""


def load_pairs(name: str, columns: Columns = Columns()) -> tuple[Pair, ...]:  # noqa: B008 (immutable)
    """Pairs, no question twice, of 'hundred' (all that are shipped), 'ten', an installed corpus, a file or a directory.

    As `list_pairs`, of which it gives the `pairs`.
    """
    return list_pairs(name, columns).pairs


def list_pairs(name: str, columns: Columns = Columns()) -> Listing:  # noqa: B008
    """All that 'hundred', 'ten', an installed corpus ('wordnet:20000'), a file or a directory holds.

    A file is CSV or TSV with a header line, Parquet, or else JSONL, by its suffix; a directory is one of Hugging Face
    `datasets`. `columns` names the two columns or keys of these.
    Raises InputError, with line numbers, for a file that is missing, unreadable, empty or not UTF-8, a line that can't be
    parsed, a question or answer that is missing, empty or no text, and a question that occurs twice in a JSONL, CSV or TSV
    file; with the install line for a corpus or a library that is absent.
    """
    reading = _read(name, columns)
    entries = tuple(Pair(entry.question, entry.answer) for entry in reading.entries)
    if name == "ten":
        entries = tuple(pair for pair in entries if pair.question in TEN_QUESTIONS)
    if not entries:
        raise InputError(
            f"corpus.pairs {name!r} holds no pairs",
            expected="at least one question with an answer",
            fix="set --config.corpus.pairs to another corpus or file",
        )
    first = {}
    for pair in entries:
        first.setdefault(pair.question, pair)
    left_out = dict(reading.left_out)
    if len(first) < len(entries):
        left_out["further entries of the same question"] = len(entries) - len(first)
    return Listing(tuple(first.values()), entries, left_out)


def is_installed_corpus(name: str) -> bool:
    """Whether `name` is that of a corpus in the catalogue, with or without a choice, be it installed or not."""
    corpus, colon, choice = name.partition(":")
    return corpus in _CORPUS_READERS and not (colon and not choice)


def _read(name: str, columns: Columns) -> Reading:
    if is_installed_corpus(name):
        corpus, _, choice = name.partition(":")
        return _CORPUS_READERS[corpus](choice)
    suffix = Path(name).suffix.lower()
    if name not in _SHIPPED and (suffix == ".parquet" or os.path.isdir(name)):
        return read_table_files(Path(name), columns)
    forms = ", ".join(repr(form) for source in CORPORA.values() for form in source.forms)
    keys = f"{columns.question!r} and {columns.answer!r}"
    content = (
        f"a JSONL file with {keys} on every line, a CSV or TSV file with these columns, or a Hugging Face datasets directory; "
        f"or an installed corpus: {forms}"
    )
    if suffix in _TABLE_READERS:
        lines = whole_lines(name, shipped=_SHIPPED, setting="corpus.pairs", content=content)
        return _TABLE_READERS[suffix](lines, name, columns)
    lines = numbered_lines(name, shipped=_SHIPPED, setting="corpus.pairs", content=content)
    return read_jsonl(lines, name, Columns() if name in _SHIPPED else columns)


def data_hash(pairs: Sequence[Pair], sentences: Sequence[str]) -> str:
    """SHA-256, in hexadecimal, of all texts in order; equal only for equal contents."""
    contents = [[[pair.question, pair.answer] for pair in pairs], list(sentences)]
    return hashlib.sha256(json.dumps(contents, ensure_ascii=False).encode()).hexdigest()
