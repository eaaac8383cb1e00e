"""The encoders of the BERT family: BERT, DistilBERT, MPNet, RoBERTa and XLM-RoBERTa.

Contract: token ids and a mask [batch, length] in; the normalised embeddings and every layer's hidden states [batch, length,
hidden] out, as transformers' `output_hidden_states` gives them. The mask is True for tokens and False for padding, which
changes no token's state. There is no dropout: teachers are frozen. Products run in the module's `numbers`, those of states and
weights by `product` where one is given; layer norms and softmax are computed in float32. How checkpoints fill these modules is
said in `bert_checkpoints`.

Sources: Devlin et al., "BERT" (2019), arXiv:1810.04805; Sanh et al., "DistilBERT" (2019), arXiv:1910.01108; Song et al.,
"MPNet" (2020), arXiv:2004.09297; Liu et al., "RoBERTa" (2019), arXiv:1907.11692; Conneau et al., "XLM-R" (2020),
arXiv:1911.02116; the buckets of relative positions are those of Raffel et al., "T5" (2020), arXiv:1910.10683, section 2.1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from lattice_jax.teachers.native.product import Product
from lattice_jax.teachers.stages import StagedEncoder

FURTHEST_DISTANCE = 128
"""Tokens further apart than this share one bucket of relative position (MPNet's own constant, absent from its config.json)."""

_EXACT, _BY_TANH = partial(jax.nn.gelu, approximate=False), partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": _EXACT,
    "gelu_python": _EXACT,
    "gelu_new": _BY_TANH,
    "gelu_fast": _BY_TANH,
    "gelu_pytorch_tanh": _BY_TANH,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
"""By the names that a config.json has for them."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder, as its config.json states them."""

    family: Literal["bert", "distilbert", "mpnet", "roberta", "xlm-roberta"]
    vocabulary_size: int
    hidden_size: int
    layers: int
    heads: int
    feed_forward_size: int
    positions: int
    """Rows of the table of absolute positions."""
    padding_id: int
    layer_norm_epsilon: float
    activation: str = "gelu"
    segments: int = 0
    """Rows of the table of segments, of which every text takes the first; 0 where the family has none."""
    relative_buckets: int = 0
    """Buckets of relative position that MPNet's attention tells apart; 0 for all others."""

    @property
    def positions_after_padding(self) -> bool:
        """Whether positions count on from the padding's id, as in fairseq's models, instead of from 0."""
        return self.family in ("mpnet", "roberta", "xlm-roberta")

    @property
    def max_length(self) -> int:
        """Tokens of a text that have positions."""
        return self.positions - self.padding_id - 1 if self.positions_after_padding else self.positions


class LayerNorm(nn.Module):
    """A layer norm of which everything is computed in float32; linen's own mixes types where its parameters are bfloat16."""

    epsilon: float

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        size = hidden.shape[-1:]
        scale, bias = self.param("scale", nn.initializers.ones, size), self.param("bias", nn.initializers.zeros, size)
        precise = hidden.astype(jnp.float32)
        # The variance of deviations: a difference of two means loses digits that parity within 1e-5 needs.
        deviation = precise - jnp.mean(precise, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(deviation), axis=-1, keepdims=True)
        normalised = deviation * jax.lax.rsqrt(variance + self.epsilon)
        return (normalised * scale.astype(jnp.float32)[None, None] + bias.astype(jnp.float32)[None, None]).astype(hidden.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with a bias [batch or 1, heads or 1, query, key] on the scores."""

    config: EncoderConfig
    numbers: str
    product: Product | None

    @nn.compact
    def __call__(self, hidden: Array, bias: Array) -> Array:
        dense = partial(nn.Dense, dtype=self.numbers, dot_general=self.product)
        batch, length, size = hidden.shape
        heads, width = self.config.heads, size // self.config.heads
        joined = dense(3 * size, name="query_key_value")(hidden)
        # Heads before positions: XLA's batched products on the CPU are three times as fast than with the heads between.
        query, key, value = joined.reshape(batch, length, 3, heads, width).transpose(2, 0, 3, 1, 4)
        scores = jnp.einsum("bhqc,bhkc->bhqk", query, key, preferred_element_type=jnp.float32) / math.sqrt(width)
        scores = scores + bias
        # The softmax divides after the product, where there are fewer numbers: a quarter less time on the CPU.
        exponentials = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        mixed = jnp.einsum("bhqk,bhkc->bhqc", exponentials.astype(self.numbers), value, preferred_element_type=jnp.float32)
        mixed = mixed / jnp.sum(exponentials, axis=-1, keepdims=True)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(hidden.shape).astype(self.numbers)
        return dense(size, name="output")(mixed)


class Layer(nn.Module):
    """Attention, then a feed-forward block, each added to its input and normalised afterwards."""

    config: EncoderConfig
    numbers: str
    product: Product | None

    @nn.compact
    def __call__(self, hidden: Array, bias: Array) -> Array:
        dense = partial(nn.Dense, dtype=self.numbers, dot_general=self.product)
        attended = Attention(self.config, self.numbers, self.product, name="attention")(hidden, bias)
        hidden = LayerNorm(self.config.layer_norm_epsilon, name="attention_norm")(hidden + attended)
        widened = dense(self.config.feed_forward_size, name="widen")(hidden)
        activated = ACTIVATIONS[self.config.activation](widened)
        narrowed = dense(self.config.hidden_size, name="narrow")(activated)
        return LayerNorm(self.config.layer_norm_epsilon, name="output_norm")(hidden + narrowed)


class Encoder(StagedEncoder):
    """Words, positions and, where the family has them, segments, through every layer."""

    config: EncoderConfig
    numbers: str = "float32"
    product: Product | None = None
    """In the place of `jax.lax.dot_general`, for the products with weights."""

    def setup(self):
        config = self.config
        table = partial(nn.Embed, features=config.hidden_size, dtype=self.numbers)
        self.words, self.positions = table(config.vocabulary_size), table(config.positions)
        if config.segments:
            self.segments = table(config.segments)
        if config.relative_buckets:
            self.relative_bias = nn.Embed(config.relative_buckets, config.heads, dtype=jnp.float32)
        self.embedding_norm = LayerNorm(config.layer_norm_epsilon)
        self.layer = [self.one_layer() for _ in range(config.layers)]

    @nn.nowrap
    def one_layer(self) -> Layer:
        return Layer(self.config, self.numbers, self.product, parent=None)

    @nn.nowrap
    def dense_widths(self) -> tuple[int, ...]:
        return self.config.hidden_size, self.config.feed_forward_size

    def begin(self, token_ids: Array, mask: Array) -> tuple[Array, Array]:
        """The normalised embeddings, and the bias [batch, heads or 1, query or 1, key] on every layer's scores."""
        config, length = self.config, token_ids.shape[1]
        if config.positions_after_padding:
            # Counted by id and not by mask, as these were trained: a literal "<pad>" in a text takes no position.
            counted = (token_ids != config.padding_id).astype(jnp.int32)
            positions = jnp.cumsum(counted, axis=1) * counted + config.padding_id
        else:
            positions = jnp.arange(length)[None]
        embedded = self.words(token_ids) + self.positions(positions)
        if config.segments:
            embedded = embedded + self.segments(jnp.zeros((1, length), jnp.int32))
        bias = padding_bias(mask)
        if config.relative_buckets:
            by_head = self.relative_bias(relative_buckets(length, config.relative_buckets))
            bias = bias + jnp.transpose(by_head, (2, 0, 1))[None]
        return self.embedding_norm(embedded), bias


def padding_bias(mask: Bool[Array, "batch length"]) -> Float[Array, "batch 1 1 length"]:
    """Added to attention scores, it makes the weight of padding exactly zero."""
    return jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min).astype(jnp.float32)[:, None, None, :]


def relative_buckets(length: int, buckets: int) -> Int[np.ndarray, "length length"]:
    """The bucket of each key position as seen from each query position.

    Half of the buckets for keys before the query and half for those after; of each half, one bucket per distance at first, then
    logarithmically wider ones up to `FURTHEST_DISTANCE`.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    distance, half = np.abs(offset), buckets // 2
    exact = half // 2
    # log2 is exact at powers of two, which is where the buckets' borders are.
    octaves = np.log2(np.maximum(distance, exact) / exact) / math.log2(FURTHEST_DISTANCE / exact)
    wide = np.minimum(exact + np.floor(octaves * (half - exact)), half - 1)
    return (np.where(distance < exact, distance, wide) + half * (offset > 0)).astype(np.int32)
