"""What predictors that know nothing score by cosine similarity.

Contract: pure arithmetic over targets [n, d], in float64. A predictor is constant when it says the same whatever is asked. Over
unit targets u_i the best constant is their mean m, and its mean cosine is |m|, because

    mean_i u_i . m / |m| = |m|,   |m|^2 = (n + n (n - 1) c) / n^2 = (1 + (n - 1) c) / n

with c the mean cosine of two different targets. So the level depends on c and n alone, and whatever makes targets alike raises
it: a layer with biases does, and one that is trained to be easily predicted does without end.
"""

import numpy as np
from jaxtyping import Float

from lattice_jax.evaluation.similarity import unit_rows


def pairwise_similarity(targets: Float[np.ndarray, "n d"]) -> float:
    """Mean cosine of two different targets, -1 / (n - 1) .. 1."""
    units = unit_rows(targets, "the targets")
    cosines = units @ units.T
    return float((cosines.sum() - np.trace(cosines)) / (len(units) * (len(units) - 1)))


def constant_level(pairwise: float | Float[np.ndarray, " k"], count: int) -> Float[np.ndarray, "..."]:
    """Mean cosine that the best constant prediction reaches over `count` targets of that mean pairwise cosine."""
    return np.sqrt((1 + (count - 1) * np.asarray(pairwise, np.float64)) / count)


def best_constant(targets: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """The direction with the highest mean cosine to all targets: the mean of the targets scaled to length 1."""
    return unit_rows(targets, "the targets").mean(axis=0)


def similarity_of_constant(constant: Float[np.ndarray, " d"], targets: Float[np.ndarray, "n d"]) -> float:
    """Mean cosine of one prediction to all targets."""
    return float((unit_rows(targets, "the targets") @ unit_rows(constant[None], "the constant")[0]).mean())


def similarity_to_others(predicted: Float[np.ndarray, "n d"], targets: Float[np.ndarray, "n d"]) -> float:
    """Mean cosine of each prediction to the targets that are not its own: what shuffled answers score, over all shuffles."""
    cosines = unit_rows(predicted, "the predictions") @ unit_rows(targets, "the targets").T
    return float((cosines.sum() - np.trace(cosines)) / (len(targets) * (len(targets) - 1)))
