"""Random numbers that compile and run fast.

Contract: `normal` and `permutation` give the numbers of their namesakes in `jax.random`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key


def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers.

    They depend on a number's place in the flattened array alone, so they can be drawn flat; XLA compiles that in a third of a
    second on the CPU, a draw of five dimensions in more than one.
    """
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def permutation(key: Key[Array, ""], size: int) -> Int32[Array, " size"]:
    """The numbers below `size` in random order.

    `jax.random` sorts pairs of a random number and an index, so often that two that are alike in every round are unlikely
    (`jax._src.random.core._shuffle`). XLA's CPU sorts single numbers three times as fast as pairs, and a pair of 32 bits each
    is one number of 64.
    """
    order = jnp.arange(size, dtype=jnp.int32)
    for _ in range(math.ceil(3 * math.log(max(1, size)) / math.log(2**32 - 1))):
        key, subkey = jax.random.split(key)
        drawn = jax.random.bits(subkey, (size,), jnp.uint32)
        with jax.enable_x64(True):
            pairs = drawn.astype(jnp.uint64) << np.uint64(32) | np.arange(size, dtype=np.uint64)
            places = jnp.sort(pairs, stable=False).astype(jnp.uint32)
        order = order[places]
    return order
