"""An encoder in stages: what its layers begin with, layer after layer, and what follows the last one.

Contract: `hidden_states` gives what the encoder as a whole gives, one state at a time, so that nothing beyond the last state
that is asked for is computed. Every stage is compiled by itself. All layers are alike, so one compilation serves them all, and
what a new padded length costs does not grow with their number.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import jax
from flax import linen as nn
from jaxtyping import Array, ArrayLike


class StagedEncoder(nn.Module):
    """Token ids and a mask [batch, length] in; the embeddings and every layer's hidden states [batch, length, hidden] out."""

    def begin(self, token_ids: Array, mask: Array) -> tuple[Array, Array]:
        """The embeddings, and what every layer gets beside the states."""
        raise NotImplementedError

    def one_layer(self) -> nn.Module:
        """A layer by itself: the states and what `begin` made for every layer in, the next states out."""
        raise NotImplementedError

    @nn.nowrap
    def dense_widths(self) -> tuple[int, ...]:
        """How wide its `Dense` modules are, on either side, where all of them take a `product`; none where it has no such."""
        return ()

    def end(self, hidden: Array) -> Array:
        """The last states as the family hands them on."""
        return hidden

    def __call__(self, token_ids: Array, mask: Array) -> tuple[Array, ...]:
        hidden, shared = self.begin(token_ids, mask)
        states = [hidden]
        for layer in self.layer:
            states.append(layer(states[-1], shared))
        return (*states[:-1], self.end(states[-1]))


def hidden_states(encoder: StagedEncoder, parameters: dict[str, Any], token_ids: ArrayLike, mask: ArrayLike) -> Iterator[Array]:
    """The embeddings, then each layer's states, each computed when it is asked for."""
    layers = sum(name.startswith("layer_") for name in parameters)
    other = {name: leaf for name, leaf in parameters.items() if not name.startswith("layer_")}
    hidden, shared = _begin(other, token_ids, mask, encoder=encoder)
    for number in range(layers):
        yield hidden
        hidden = through_layer(parameters[f"layer_{number}"], hidden, shared, layer=encoder.one_layer())
    yield _end(other, hidden, encoder=encoder)


@partial(jax.jit, static_argnames="encoder")
def _begin(parameters: dict, token_ids: ArrayLike, mask: ArrayLike, *, encoder: StagedEncoder) -> tuple[Array, Array]:
    return cast(tuple[Array, Array], encoder.apply({"params": parameters}, token_ids, mask, method="begin"))


@partial(jax.jit, static_argnames="layer")
def through_layer(parameters: dict, hidden: Array, shared: Array, *, layer: nn.Module) -> Array:
    """The next states by one layer with its own parameters."""
    # The default on accelerators would round the factors of float32 products to fewer bits.
    with jax.default_matmul_precision("highest"):
        return cast(Array, layer.apply({"params": parameters}, hidden, shared))


@partial(jax.jit, static_argnames="encoder")
def _end(parameters: dict, hidden: Array, *, encoder: StagedEncoder) -> Array:
    return cast(Array, encoder.apply({"params": parameters}, hidden, method="end"))
