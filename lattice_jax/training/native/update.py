"""Clipping and AdamW as one compiled call.

Contract: `clipped_adamw` equals the optax chain of `schedule.make_optimizer`, from and to the state of that chain, up to
rounding, for float32 leaves on one CPU device. XLA makes three passes of the moments and the parameters, and one for the norm;
here gradients are read twice and all else once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from lattice_jax.config import OptimizerConfig
from lattice_jax.native import build

_EPSILON = 1e-8
"""As `optax.adamw` has it."""


def _library() -> None:
    build.load(
        Path(__file__).parent,
        ("adamw_update",),
        purpose="the parameter update",
        instead="set --config.optimizer.no-fused",
    )


def clipped_adamw(
    gradients: Any,
    state: Any,
    params: Any,
    *,
    config: OptimizerConfig,
    rate: optax.Schedule,
    decay_mask: Callable[[Any], Any],
    threads: int,
) -> tuple[Any, Any, Float[Array, ""]]:
    """The next parameters, the next state, and the gradients' global norm before clipping.

    `decay_mask`: parameters to a tree of booleans of the same structure, True where weight decay applies.
    """
    _library()
    _, (moments, *_) = state
    count, first, second = cast(optax.ScaleByAdamState, moments)
    after = optax.safe_increment(count)
    powers = jnp.asarray(after, jnp.float32)
    b1, b2 = config.first_moment_decay, config.second_moment_decay
    settings = jnp.stack(
        [
            *map(jnp.float32, (config.gradient_clip, b1, b2)),
            *(1 - jnp.float32(decay) ** powers for decay in (b1, b2)),
            *(jnp.float32(_EPSILON), jnp.asarray(rate(count), jnp.float32)),
        ]
    )
    weight_decay = np.array([config.weight_decay * decays for decays in jax.tree.leaves(decay_mask(params))], np.float32)
    old, structure = jax.tree.flatten(params)
    replaced = [*old, *jax.tree.leaves(first), *jax.tree.leaves(second)]
    ahead = [settings, weight_decay, np.array([threads], np.int32), *jax.tree.leaves(gradients)]
    call = jax.ffi.ffi_call(
        "adamw_update",
        [jax.ShapeDtypeStruct((), np.float32), *(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in replaced)],
        input_output_aliases={len(ahead) + i: 1 + i for i in range(len(replaced))},
    )
    norm, *new = cast(list[Array], call(*ahead, *replaced))
    parts = (new[start : start + len(old)] for start in range(0, len(new), len(old)))
    params, first, second = (jax.tree.unflatten(structure, part) for part in parts)
    return params, optax.tree.set(state, count=after, mu=first, nu=second), norm
