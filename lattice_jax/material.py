"""What a run works on: the texts of a corpus, and their embeddings.

Contract: each text is embedded once for all runs. Held-out pairs are embedded with the rest; whoever takes them from here says
so by naming their side.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lattice_jax.config import Config
from lattice_jax.corpus.corpus import Corpus, load_corpus
from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.teachers.cache import extract

Progress = Callable[[int, int], None]


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
