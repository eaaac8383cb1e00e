"""The three losses of the cube, elementwise over the batch.

Contract: each takes arrays with the batch as an axis and returns one value a sample, 0 at best; the caller weighs and reduces.
Targets are frozen arrays, so none of them can be lowered by moving the target.
"""

import jax
import jax.numpy as jnp
import optax
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
