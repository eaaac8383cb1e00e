"""How fast the parameters move: warm-up, cosine decay, clipping, AdamW.

Contract: `learning_rate_schedule(config, steps)` is linear from 0 to the peak over the warm-up, then a half cosine that ends
on the final rate at `steps`; a run no longer than its warm-up stays on the linear part. `make_optimizer` clips by the global
norm first, so that one bad batch can't fill Adam's moments. Its `apply` is the whole update, compiled where that is asked for;
both ways give the same from the same state.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lattice_jax.config import OptimizerConfig
from lattice_jax.training.native.update import clipped_adamw

DecayMask = Callable[[Any], Any]
"""Parameters to a tree of booleans of the same structure: True where weight decay applies."""


class Optimizer(NamedTuple):
    """An optax transformation, with the whole update as one function."""

    init: optax.TransformInitFn
    update: optax.TransformUpdateExtraArgsFn
    apply: Callable[[Any, Any, Any], tuple[Any, Any, Float[Array, ""]]]
    """Gradients, state and parameters to the next parameters, the next state, and the gradients' norm before clipping."""


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of the updates already made, 0 to `steps`."""
    rise = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    final_fraction = config.final_learning_rate / config.learning_rate
    fall = optax.cosine_decay_schedule(config.learning_rate, max(steps - config.warmup_steps, 1), alpha=final_fraction)
    schedule = optax.join_schedules([rise, fall], [config.warmup_steps])
    # A float count, because strict promotion forbids the product of optax's integer count and a rate.
    return lambda count: schedule(jnp.asarray(count, jnp.float32))


def make_optimizer(
    config: OptimizerConfig, steps: int, decay_mask: DecayMask | None = None, *, native_threads: int = 0
) -> Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) on gradients clipped by their global norm.

    `decay_mask` chooses the parameters that weight decay shrinks; None takes them all. With `native_threads`, so many make the
    update in compiled C, for float32 parameters on one CPU device.
    """
    rate = learning_rate_schedule(config, steps)
    b1, b2 = config.first_moment_decay, config.second_moment_decay
    adamw = optax.adamw(rate, b1=b1, b2=b2, weight_decay=config.weight_decay, mask=decay_mask)
    chain = optax.chain(clip_by_global_norm(config.gradient_clip), adamw)
    apply = partial(_apply, chain)
    if native_threads:
        mask = decay_mask or (lambda params: jax.tree.map(lambda _: True, params))
        apply = partial(clipped_adamw, config=config, rate=rate, decay_mask=mask, threads=native_threads)
    return Optimizer(chain.init, chain.update, apply)


def _apply(chain: optax.GradientTransformationExtraArgs, gradients: Any, state: Any, params: Any):
    """`Optimizer.apply` by optax."""
    # optax multiplies floats by integer counts, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = chain.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, optax.tree.norm(gradients)


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` (Pascanu and others, arXiv:1211.5063), by one factor for all gradients.

    optax chooses between two versions of every gradient, for which XLA writes all of them out once more and reads both: a
    factor goes into the passes that AdamW makes over them.
    """

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        factor = jnp.minimum(1.0, largest / optax.tree.norm(updates))
        return jax.tree.map(lambda gradient: gradient * factor, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)
