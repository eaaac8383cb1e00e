"""What a run works on: the texts of a corpus, and their embeddings.

Contract: each text is embedded once for all runs. Held-out pairs are embedded with the rest; whoever takes them from here says
so by naming their side. A run keeps in `corpus.json` which texts it was trained on and how they were divided, and is refused
others from then on: what is held out now may have been a training pair then.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lattice_jax.config import Config
from lattice_jax.corpus.corpus import Corpus, load_corpus
from lattice_jax.errors import InputError
from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.records import read_record, write_record
from lattice_jax.teachers.cache import extract

Progress = Callable[[int, int], None]

CORPUS_RECORD, SUMMARY = "corpus.json", "summary.json"
_HASHES = {"data_hash": "texts", "division_hash": "division into training, validation and held-out pairs"}


class Material(NamedTuple):
    """Texts and their embeddings, in the teacher's space."""

    corpus: Corpus
    questions: np.ndarray
    answers: np.ndarray
    sentences: np.ndarray
    cut: int
    """Texts of which the teacher didn't read the end."""

    def pairs(self, side: str) -> Pairs:
        """Questions and answers of 'train', 'validation' or 'held_out'."""
        rows = list(getattr(self.corpus.split, side))
        return Pairs(self.questions[rows], self.answers[rows])

    def judged_pairs(self, side: str, training_pairs: int) -> Pairs:
        """`pairs`, of the training side at most `training_pairs`, spread over all."""
        found = self.pairs(side)
        if side != "train" or len(found.questions) <= training_pairs:
            return found
        rows = np.linspace(0, len(found.questions) - 1, training_pairs).astype(int)
        return Pairs(found.questions[rows], found.answers[rows])

    def adapter_text(self) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings that the adapter may learn from: those of the training pairs, and those of the unlabelled sentences."""
        return np.concatenate(self.pairs("train")), self.sentences


def gather(config: Config, on_progress: Progress | None = None) -> Material:
    """Load the corpus and embed it, each text once for all runs."""
    corpus = load_corpus(config.corpus)
    texts = [pair.question for pair in corpus.pairs] + [pair.answer for pair in corpus.pairs] + list(corpus.sentences)
    found = extract(texts, config.teacher, on_progress=on_progress)
    embeddings, count = found.embeddings[:], len(corpus.pairs)
    return Material(corpus, embeddings[:count], embeddings[count : 2 * count], embeddings[2 * count :], found.cut)


def record_corpus(corpus: Corpus, workdir: Path, *, resume: bool) -> None:
    """Write `corpus.json`, or, to resume, refuse other texts and another division than those written there."""
    if resume:
        require_same_corpus(corpus, workdir)
    if not resume or not (workdir / CORPUS_RECORD).is_file():
        write_record(workdir / CORPUS_RECORD, _hashes(corpus))


def require_same_corpus(corpus: Corpus, workdir: Path) -> None:
    """Refuse texts and a division that are not those of the run in a folder."""
    path, fields = workdir / CORPUS_RECORD, dict.fromkeys(_HASHES, str)
    if not path.is_file():
        # A run of before this record: where it has ended, its summary tells of the texts, and else there is nothing to compare.
        path, fields = workdir / SUMMARY, {"data_hash": str}
        if not path.is_file():
            return
    recorded, found = read_record(path, fields, expected="which texts the run was trained on"), _hashes(corpus)
    different = [name for name in fields if recorded[name] != found[name]]
    if different:
        raise InputError(
            f"the {' and the '.join(_HASHES[name] for name in different)} are not those of the run in {workdir}: "
            + ", ".join(f"{name} {found[name]}" for name in different),
            expected=", ".join(f"{name} {recorded[name]}" for name in different) + f" ({path}): what is held out now may have "
            "been a training pair then",
            fix="restore the files of --config.corpus.pairs and --config.corpus.sentences, or train anew in another --workdir",
        )


def _hashes(corpus: Corpus) -> dict[str, str]:
    return {"data_hash": corpus.hash, "division_hash": corpus.split.hash}
