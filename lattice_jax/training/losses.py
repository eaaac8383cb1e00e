"""The losses of the cube, elementwise over the batch.

Contract: each takes arrays with the batch as an axis and returns one value a sample, 0 at best; the caller weighs and reduces.
Targets are frozen arrays, so none of them can be lowered by moving the target.
"""

import jax
import jax.numpy as jnp
import optax
from jax.nn import logsumexp
from jaxtyping import Array, Float

from lattice_jax.lattice.firing import Horizon


def surface_reconstruction(read: Float[Array, "batch code"], target: Float[Array, "batch code"]) -> Float[Array, " batch"]:
    """Mean squared error between the vector read at the output face and the code of the right answer.

    Codes have a mean square of 1, so an output of zeros scores about 1.
    """
    return jnp.mean(jnp.square(read - target), -1)


def internal_consistency(
    activity: Float[Array, "steps batch"], last: int, horizon: Horizon | None = None
) -> Float[Array, " batch"]:
    """How far the cube still is from rest: its mean relative change over the last steps.

    The activity of a step is the mean square change of the visible channels of all cells over their mean square, so an answer
    is consistent when it no longer depends on the step at which it is read. All cells count, not those of the faces alone.
    The last steps are those before the `horizon`, `last` or more; without one, those of the pass.
    """
    if horizon is None:
        return jnp.mean(activity[-last:], 0)
    return jnp.mean(jax.lax.dynamic_slice_in_dim(activity, horizon - last, last), 0)


def dialogue_similarity(
    decoded: Float[Array, "batch teacher"], answer: Float[Array, "batch teacher"]
) -> Float[Array, " batch"]:
    """Cosine distance in the teacher's own space between the decoded output and the right answer's embedding, 0 to 2."""
    return optax.losses.cosine_distance(decoded, answer, epsilon=1e-6)


_SAME_ANSWER = 0.999
_SMALLEST_SQUARE = 1e-12


def contrastive(
    decoded: Float[Array, "batch teacher"],
    answer: Float[Array, "batch teacher"],
    candidates: Float[Array, "candidates teacher"],
    temperature: float,
) -> Float[Array, " batch"]:
    """Cross-entropy of the right answer among it and `candidates`, by cosine over temperature (InfoNCE; van den Oord et al.
    2018), in nats.

    Candidates that equal the right answer, its own row among them, don't count against it.
    """
    answer_units = _units(answer)
    units, others = _units(decoded), _units(candidates)
    same = answer_units @ others.T > _SAME_ANSWER
    against = jnp.where(same, -jnp.inf, units @ others.T / temperature)
    right = jnp.sum(units * answer_units, -1) / temperature
    return logsumexp(jnp.concatenate([right[:, None], against], -1), -1) - right


def _units(vectors: Float[Array, "n teacher"]) -> Float[Array, "n teacher"]:
    return vectors / jnp.sqrt(jnp.sum(jnp.square(vectors), -1, keepdims=True) + _SMALLEST_SQUARE)
