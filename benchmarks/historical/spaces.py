"""The two ways to measure: in a space that the earlier attempt's own layers made, and in the teacher's.

Contract: a `Space` says how questions become codes for the cube, how answers become targets, how codes become embeddings again,
where a prediction is compared with its target, and whether the layers learn with the cube. `historical_space` follows what is
known of the earlier attempt: the target goes through layers as PyTorch initialises them, trained with the cube or left random,
and is compared behind them; the mirrored decoder back to the teacher's space is reached by no loss. Which layers the target
went through is not known for certain, so both kinds are here: the stack that the question goes through, or one Linear of its
own. `teacher_space` is frozen before the cube learns: principal components there and back, compared in the teacher's space.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lattice_jax.lattice.adapter import hierarchical_widths, principal_components


class Space(NamedTuple):
    """How targets are made and compared."""

    initialise: Callable[[jax.Array], dict]
    """Key to parameters."""
    encode: Callable[[dict, Array], Array]
    """(parameters, questions [n, teacher]) -> codes [n, code]."""
    target: Callable[[dict, Array], Array]
    """(parameters, answers [n, teacher]) -> codes [n, code] that the cube is to say."""
    decode: Callable[[dict, Array], Array]
    """(parameters, codes) -> embeddings."""
    compared: Literal["codes", "embeddings"]
    """What losses and similarity compare: the code that the cube reads out with the target's code, or decoded embeddings."""
    learns: bool
    """Whether the parameters of the space are trained with the cube."""


class Layers(nn.Module):
    """Linear, LayerNorm, ReLU by the given widths, Linear at the end, with the start values of torch.nn.Linear.

    Weights and biases alike are uniform in +-1/sqrt(inputs). Over an embedding of length 1 the biases, which all texts share,
    then have as much energy as everything that the text contributes.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, values: Array) -> Array:
        for width in self.widths[:-1]:
            values = nn.relu(nn.LayerNorm()(self._linear(values, width)))
        return self._linear(values, self.widths[-1])

    def _linear(self, values: Array, width: int) -> Array:
        bound = values.shape[-1] ** -0.5

        def bias(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        # Uniform in +-sqrt(3 * (1/3) / inputs).
        kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        return nn.Dense(width, kernel_init=kernel, bias_init=bias)(values)


def random_layers(teacher: int, code: int, layers: int) -> Layers:
    """The last `layers` widths of the adapter's stack (768 -> 537 -> 375 -> 225 where there are 3 or more); 1 is one Linear."""
    return Layers(hierarchical_widths(teacher, code)[1:][-layers:])


def historical_space(teacher: int, code: int, *, target: Literal["shared", "own"], learns: bool) -> Space:
    """Question through a stack of widths 0.7 times the last, 768 -> 537 -> 375 -> 225, and its mirror image back.

    `target`: answers go through the same stack, or through one Linear layer of their own. `learns`: all these layers are
    trained with the cube; otherwise they stay as they were drawn.
    """
    widths = hierarchical_widths(teacher, code)
    there, back, own = Layers(widths[1:]), Layers(widths[-2::-1]), random_layers(teacher, code, 1)

    def initialise(key: jax.Array) -> dict:
        there_key, back_key, own_key = jax.random.split(key, 3)
        embedding = jnp.zeros((1, teacher))
        layers = {"there": there.init(there_key, embedding), "back": back.init(back_key, jnp.zeros((1, code)))}
        return layers | ({"own": own.init(own_key, embedding)} if target == "own" else {})

    def encode(parameters: dict, embeddings: Array) -> Array:
        return cast(Array, there.apply(parameters["there"], embeddings))

    def encode_target(parameters: dict, embeddings: Array) -> Array:
        return cast(Array, own.apply(parameters["own"], embeddings))

    def decode(parameters: dict, codes: Array) -> Array:
        return cast(Array, back.apply(parameters["back"], codes))

    return Space(initialise, encode, encode if target == "shared" else encode_target, decode, "codes", learns)


def teacher_space(text: Float[np.ndarray, "n teacher"], code: int) -> Space:
    """Principal components of `text` there and back, codes with a mean square of 1 over it, frozen; the same for every key."""
    fitted = principal_components(text, code)
    mean, components = (jnp.asarray(values, jnp.float32) for values in fitted)
    scale = float(np.sqrt(np.mean(np.square((text - fitted.mean) @ fitted.components))))

    def encode(parameters: dict, embeddings: Array) -> Array:
        del parameters
        return (embeddings - mean[None]) @ components / scale

    def decode(parameters: dict, codes: Array) -> Array:
        del parameters
        return mean[None] + codes * scale @ components.T

    return Space(lambda key: {}, encode, encode, decode, "embeddings", learns=False)
