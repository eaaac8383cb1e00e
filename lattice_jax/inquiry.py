"""What a cube is asked to be observed by: which questions, about which topics, as which codes.

Contract: questions that a cube has learned stand beside new ones: validation questions while it learns, held-out ones when the
run has ended. What is chosen depends on configuration and text alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lattice_jax.config import Config, EmergenceConfig
from lattice_jax.corpus.splits import Split
from lattice_jax.lattice.adapter import Codec
from lattice_jax.lattice.emergence import specialisation
from lattice_jax.lattice.emergence.information import Division
from lattice_jax.lattice.emergence.observe import Inputs
from lattice_jax.material import Material


class Asked(NamedTuple):
    """Rows of the corpus that are asked."""

    shown: tuple[int, ...]
    """New ones whose passes are stored."""
    fit: tuple[int, ...]
    """Training ones that probes are fitted on."""
    judge: tuple[int, ...]
    """New ones that probes are judged on."""

    @property
    def probed(self) -> list[int]:
        """All that probes and topics are about, those to fit on first."""
        return [*self.fit, *self.judge]


class Topics(NamedTuple):
    """Groups of questions that mean alike."""

    labels: Int[np.ndarray, " question"]
    names: tuple[str, ...]
    """Each topic by its most central question."""


def spread(rows: tuple[int, ...], count: int) -> tuple[int, ...]:
    """`count` of the rows, or all where there are fewer, evenly spaced: neighbours in a corpus are often about one thing."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return tuple(rows[place] for place in places)


def choose_questions(split: Split, settings: EmergenceConfig) -> Asked:
    """Questions from each side, for the end of a run."""
    return _choose(split.train, split.held_out, settings.questions, settings.probe_questions)


def questions_to_follow(split: Split, settings: EmergenceConfig) -> Asked:
    """The same for while the cube learns: validation questions are the new ones."""
    return _choose(split.train, split.validation, settings.questions, settings.followed_questions)


def _choose(known: tuple[int, ...], new: tuple[int, ...], shown: int, probed: int) -> Asked:
    judge = spread(new, probed // 3)
    return Asked(spread(new, shown), spread(known, probed - len(judge)), judge)


def find_topics(embeddings: Float[np.ndarray, "question teacher"], texts: list[str], count: int, seed: int) -> Topics:
    """Topics by k-means of question embeddings, each named by the question nearest to its mean."""
    labels = specialisation.groups_of(embeddings, clusters=min(count, len(texts) // 2), seed=seed)
    names = []
    for topic in range(labels.max() + 1):
        rows = np.flatnonzero(labels == topic)
        apart = np.linalg.norm(embeddings[rows] - embeddings[rows].mean(0), axis=1)
        names.append(texts[rows[apart.argmin()]])
    return Topics(labels, tuple(names))


def make_inputs(config: Config, material: Material, codec: Codec, asked: Asked) -> tuple[Inputs, Topics]:
    """The questions as a cube is asked them, and the topics of all that probes are about."""
    questions = [material.corpus.pairs[row].question for row in asked.probed]
    topics = find_topics(material.questions[asked.probed], questions, config.emergence.topics, config.seed)

    def codes(encode: Callable, embeddings: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        return np.asarray(encode(jnp.asarray(embeddings[list(rows)])))

    fitted = len(asked.fit)
    inputs = Inputs(
        shown=codes(codec.encode_questions, material.questions, asked.shown),
        probed=codes(codec.encode_questions, material.questions, asked.probed),
        answers=codes(codec.encode_answers, material.answers, asked.probed),
        labels=topics.labels,
        division=Division(np.arange(fitted), np.arange(fitted, len(questions))),
    )
    return inputs, topics
