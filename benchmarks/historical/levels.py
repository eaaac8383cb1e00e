"""What predictors that know nothing score by cosine similarity.

Contract: pure arithmetic over targets [n, d], in float64. A predictor is constant when it says the same whatever is asked. Over
unit targets u_i the best constant is their mean m, and its mean cosine is |m|, because

    mean_i u_i . m / |m| = |m|,   |m|^2 = (n + n (n - 1) c) / n^2 = (1 + (n - 1) c) / n

with c the mean cosine of two different targets. So the level depends on c and n alone, and whatever makes targets alike raises
it: a layer with biases does, and one that is trained to be easily predicted does without end.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.evaluation.similarity import cosine_similarity, unit_rows


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


def raw_levels(pairs: Pairs) -> dict[str, float]:
    """What needs no model at all, in the space that the pairs come in."""
    return {
        "question": float(cosine_similarity(pairs.questions, pairs.answers).mean()),
        "constant": similarity_of_constant(best_constant(pairs.answers), pairs.answers),
        "pairwise": pairwise_similarity(pairs.answers),
    }


def stack_levels(stack: nn.Module, answers: Float[np.ndarray, "n d"], seeds: Sequence[int]) -> dict[str, list[float]]:
    """Pairwise cosine and the constant's level of `answers` behind layers that were drawn and never trained, for each seed."""
    found: dict[str, list[float]] = {"pairwise": [], "constant": []}
    for seed in seeds:
        codes, _ = stack.init_with_output(jax.random.key(seed), jnp.asarray(answers))
        targets = np.asarray(codes)
        found["pairwise"].append(pairwise_similarity(targets))
        found["constant"].append(similarity_of_constant(best_constant(targets), targets))
    return found
