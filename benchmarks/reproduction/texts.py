"""What an adapter is trained on, what it is chosen by and what it is judged on.

Contract: held-out text is of three kinds: questions and answers of the held-out pairs of the run's own corpus ('hundred', or
English conversations), definitions of WordNet, and where the corpus is 'hundred' turns of English conversations, of which
nothing is trained on then. Adapters are chosen by the validation pairs and by further definitions of WordNet. No training
sentence is a near-duplicate of any of it, by the rule that `load_corpus` has for the pairs, and no text of the held-out pairs
one of a training pair's.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lattice_jax.config import Config
from lattice_jax.corpus.pairs import load_pairs
from lattice_jax.corpus.sentences import load_sentences, without_near_duplicates
from lattice_jax.material import Material, gather
from lattice_jax.teachers.cache import extract

PAIRS, DEFINITIONS, CONVERSATIONS = "hundred", "WordNet", "chatterbot"
LARGEST_SAMPLE = "wordnet:155000"
"""Samples of WordNet lie within one another, so that of the words outside this one no smaller sample has any."""
JUDGED_TEXTS = 500


class Judged(NamedTuple):
    """Embeddings that no adapter is trained on, by their kind."""

    validation: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]


def definitions() -> tuple[list[str], list[str]]:
    """Definitions to judge by, and others to choose by: of words that are in no sample for training."""
    sampled = {pair.question for pair in load_pairs(LARGEST_SAMPLE)}
    rest = list(dict.fromkeys(pair.answer for pair in load_pairs("wordnet") if pair.question not in sampled))
    held_out, others = rest[:JUDGED_TEXTS], rest[JUDGED_TEXTS : 2 * JUDGED_TEXTS]
    return held_out, list(without_near_duplicates(others, held_out, 0.8))


def conversations() -> list[str]:
    """Turns of English conversations, those whose hash is smallest."""
    turns = load_sentences("chatterbot:english")
    return sorted(turns, key=lambda turn: hashlib.sha256(turn.encode()).digest())[:JUDGED_TEXTS]


def load(config: Config) -> tuple[Material, Judged]:
    """What `config` names, less the near-duplicates of judged text, and the judged text."""
    material = gather(config)
    converses = config.corpus.pairs.startswith("chatterbot")
    own, (held_out, validation) = CONVERSATIONS if converses else PAIRS, definitions()
    turns = [] if converses else conversations()
    judged = Judged(
        {own: np.concatenate(material.pairs("validation")), DEFINITIONS: extract(validation, config.teacher).embeddings[:]},
        {own: _held_out_pairs(material, config), DEFINITIONS: extract(held_out, config.teacher).embeddings[:]},
    )
    if turns:
        judged = judged._replace(held_out={**judged.held_out, CONVERSATIONS: extract(turns, config.teacher).embeddings[:]})
    return _without(material, held_out + validation + turns, config.corpus.near_duplicate_similarity), judged


def _held_out_pairs(material: Material, config: Config) -> np.ndarray:
    """Questions and answers of the held-out pairs, less those whose words a text of a training pair holds: what is an answer
    in one conversation may be a question in the next."""

    def texts(side: str) -> list[str]:
        pairs = [material.corpus.pairs[index] for index in getattr(material.corpus.split, side)]
        return [pair.question for pair in pairs] + [pair.answer for pair in pairs]

    held_out = texts("held_out")
    kept = set(without_near_duplicates(held_out, texts("train"), config.corpus.near_duplicate_similarity))
    return np.concatenate(material.pairs("held_out"))[[text in kept for text in held_out]]


def _without(material: Material, judged: list[str], threshold: float) -> Material:
    """The material without sentences that repeat judged text."""
    sentences = material.corpus.sentences
    kept = set(without_near_duplicates(sentences, judged, threshold))
    return material._replace(sentences=material.sentences[np.flatnonzero([text in kept for text in sentences])])
