"""One adapter, trained as a run trains its own, and its figures beside principal components of the same text.

Contract: figures are plain numbers. Every mean has its bootstrap interval; the gain over principal components is paired over
the texts. Components are fitted on exactly the embeddings that the adapter is trained on, each as often for both.
"""

import time
from pathlib import Path

import numpy as np

from benchmarks.reproduction.texts import load
from lattice_jax.adaptation import fit_adapter, mixed_text
from lattice_jax.config import Config
from lattice_jax.evaluation.similarity import cosine_similarity, paired_difference
from lattice_jax.lattice.adapter import PrincipalComponents, principal_components

GOAL = 0.95
SHOWN_OF_TRAINING = 2000


def measure(config: Config, workdir: Path) -> dict:
    """Train the adapter that `config` describes and judge it."""
    material, judged = load(config)
    pairs, sentences = material.adapter_text()
    text = mixed_text(pairs, sentences, config.adapter.pair_fraction)
    start = time.perf_counter()
    codec = fit_adapter(config, material, workdir)
    seconds = time.perf_counter() - start
    components = principal_components(text, codec.adapter.code)
    shown = text[np.random.default_rng(0).permutation(len(text))[:SHOWN_OF_TRAINING]]

    def figures(embeddings: np.ndarray) -> dict:
        return compare(codec.reproduce(embeddings), components.reconstruct(embeddings), embeddings)

    spectrum = np.linalg.eigvalsh(np.cov(text.T.astype(np.float64)))
    return {
        "teacher": config.teacher.name,
        "pairs": config.corpus.pairs,
        "sentences": config.corpus.sentences,
        "strategy": config.adapter.strategy,
        "learning_rate": config.adapter.learning_rate,
        "steps": config.adapter.steps,
        "texts": len(pairs) + len(sentences),
        "seconds": seconds,
        "variance_beyond": float(spectrum[: -codec.adapter.code].sum() / spectrum.sum()),
        "components_for_goal": {kind: components_for_goal(text, embeddings) for kind, embeddings in judged.held_out.items()},
        "training": figures(shown),
        "validation": {kind: figures(embeddings) for kind, embeddings in judged.validation.items()},
        "held_out": {kind: figures(embeddings) for kind, embeddings in judged.held_out.items()},
    }


def compare(adapted: np.ndarray, projected: np.ndarray, embeddings: np.ndarray) -> dict:
    """Cosines to `embeddings` of what came back by either way, and their paired difference, with intervals."""
    ours, theirs = (cosine_similarity(found, embeddings) for found in (adapted, projected))
    nothing = np.zeros(len(embeddings))
    estimates = {"adapter": (ours, nothing), "components": (theirs, nothing), "gain": (ours, theirs)}
    found = {name: paired_difference(*values) for name, values in estimates.items()}
    return {name: {"value": one.value, "interval": [one.low, one.high]} for name, one in found.items()}


def components_for_goal(text: np.ndarray, embeddings: np.ndarray) -> int:
    """How many principal components of `text` bring `embeddings` back with a mean cosine of `GOAL`."""
    # Those of a smaller width are the first of those of a larger one, so one decomposition serves all widths.
    mean, every = principal_components(text, text.shape[1])
    fewest, most = 1, text.shape[1]
    while fewest < most:
        width = (fewest + most) // 2
        projected = PrincipalComponents(mean, every[:, :width]).reconstruct(embeddings)
        reached = np.mean(cosine_similarity(projected, embeddings)) >= GOAL
        fewest, most = (fewest, width) if reached else (width + 1, most)
    return fewest
