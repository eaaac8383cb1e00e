"""The BERT and MPNet encoders, and how their checkpoints fill them.

Contract: token ids and a mask [batch, length] in, the last layer's hidden states [batch, length, hidden] out, float32. The mask
is True for tokens and False for padding, which changes no token's state. There is no dropout: teachers are frozen. One table
per family says where each module of a checkpoint goes; a tensor that is neither in it nor listed as not needed, or a parameter
that stays unfilled, is an `InputError` that lists both sides.

Sources: Devlin et al., "BERT" (2019), arXiv:1810.04805; Song et al., "MPNet" (2020), arXiv:2004.09297; the buckets of relative
positions are those of Raffel et al., "T5" (2020), arXiv:1910.10683, section 2.1.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int
from safetensors import safe_open

from lattice_jax.errors import InputError

FURTHEST_DISTANCE = 128
"""Tokens further apart than this share one bucket of relative position (MPNet's own constant, absent from its config.json)."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder, as its config.json states them."""

    family: Literal["bert", "mpnet"]
    vocabulary_size: int
    hidden_size: int
    layers: int
    heads: int
    feed_forward_size: int
    positions: int
    padding_id: int
    layer_norm_epsilon: float
    relative_buckets: int
    """Buckets of relative position that MPNet's attention tells apart; 0 for BERT."""


def read_config(path: Path) -> EncoderConfig:
    """Read the sizes of an encoder from a Hugging Face config.json."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return EncoderConfig(
        family=values["model_type"],
        vocabulary_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        feed_forward_size=values["intermediate_size"],
        positions=values["max_position_embeddings"],
        padding_id=values["pad_token_id"],
        layer_norm_epsilon=values["layer_norm_eps"],
        relative_buckets=values.get("relative_attention_num_buckets", 0),
    )


class Attention(nn.Module):
    """Multi-head self-attention with a bias [batch or 1, heads or 1, query, key] on the scores."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden: Array, bias: Array) -> Array:
        batch, length, size = hidden.shape
        split = (batch, length, self.config.heads, size // self.config.heads)
        query, key, value = (nn.Dense(size, name=name)(hidden).reshape(split) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqhc,bkhc->bhqk", query, key) / math.sqrt(split[-1])
        mixed = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores + bias, axis=-1), value)
        return nn.Dense(size, name="output")(mixed.reshape(hidden.shape))


class Layer(nn.Module):
    """Attention, then a feed-forward block, each added to its input and normalised afterwards."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden: Array, bias: Array) -> Array:
        attended = Attention(self.config, name="attention")(hidden, bias)
        hidden = _layer_norm(self.config, "attention_norm")(hidden + attended)
        widened = nn.gelu(nn.Dense(self.config.feed_forward_size, name="widen")(hidden), approximate=False)
        return _layer_norm(self.config, "output_norm")(hidden + nn.Dense(self.config.hidden_size, name="narrow")(widened))


class Stack(nn.Module):
    """The normalised embeddings through every layer."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, embedded: Array, bias: Array) -> Array:
        hidden = _layer_norm(self.config, "embedding_norm")(embedded)
        for index in range(self.config.layers):
            hidden = Layer(self.config, name=f"layer_{index}")(hidden, bias)
        return hidden


class Bert(nn.Module):
    """BERT: learned absolute positions; every text is one segment, of type 0."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, token_ids: Array, mask: Array) -> Array:
        positions = jnp.arange(token_ids.shape[1])[None]
        embedded = (
            _embedding(self.config, self.config.vocabulary_size, "words")(token_ids)
            + _embedding(self.config, self.config.positions, "positions")(positions)
            + _embedding(self.config, 2, "segments")(jnp.zeros_like(positions))
        )
        return Stack(self.config, name="stack")(embedded, padding_bias(mask))


class MPNet(nn.Module):
    """MPNet: absolute positions counted past the padding id, and a bias by relative position that all layers share."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, token_ids: Array, mask: Array) -> Array:
        # Counted by id and not by mask, as MPNet was trained: a literal "<pad>" in a text takes no position.
        counted = (token_ids != self.config.padding_id).astype(jnp.int32)
        positions = jnp.cumsum(counted, axis=1) * counted + self.config.padding_id
        embedded = _embedding(self.config, self.config.vocabulary_size, "words")(token_ids) + _embedding(
            self.config, self.config.positions, "positions"
        )(positions)
        buckets = relative_buckets(token_ids.shape[1], self.config.relative_buckets)
        by_head = nn.Embed(self.config.relative_buckets, self.config.heads, name="relative_bias")(buckets)
        bias = padding_bias(mask) + jnp.transpose(by_head, (2, 0, 1))[None]
        return Stack(self.config, name="stack")(embedded, bias)


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


Kind = Literal["dense", "norm", "embedding"]

_TENSORS: Mapping[Kind, Mapping[str, str]] = {
    "dense": {"weight": "kernel", "bias": "bias"},
    "norm": {"weight": "scale", "bias": "bias"},
    "embedding": {"weight": "embedding"},
}

# Module of the checkpoint -> our module, and what kind of module it is.
_BERT_TABLE: Mapping[str, tuple[str, Kind]] = {
    "embeddings.word_embeddings": ("words", "embedding"),
    "embeddings.position_embeddings": ("positions", "embedding"),
    "embeddings.token_type_embeddings": ("segments", "embedding"),
    "embeddings.LayerNorm": ("stack/embedding_norm", "norm"),
    "encoder.layer.{layer}.attention.self.query": ("stack/layer_{layer}/attention/query", "dense"),
    "encoder.layer.{layer}.attention.self.key": ("stack/layer_{layer}/attention/key", "dense"),
    "encoder.layer.{layer}.attention.self.value": ("stack/layer_{layer}/attention/value", "dense"),
    "encoder.layer.{layer}.attention.output.dense": ("stack/layer_{layer}/attention/output", "dense"),
    "encoder.layer.{layer}.attention.output.LayerNorm": ("stack/layer_{layer}/attention_norm", "norm"),
    "encoder.layer.{layer}.intermediate.dense": ("stack/layer_{layer}/widen", "dense"),
    "encoder.layer.{layer}.output.dense": ("stack/layer_{layer}/narrow", "dense"),
    "encoder.layer.{layer}.output.LayerNorm": ("stack/layer_{layer}/output_norm", "norm"),
}

_MPNET_TABLE: Mapping[str, tuple[str, Kind]] = {
    "embeddings.word_embeddings": ("words", "embedding"),
    "embeddings.position_embeddings": ("positions", "embedding"),
    "embeddings.LayerNorm": ("stack/embedding_norm", "norm"),
    "encoder.relative_attention_bias": ("relative_bias", "embedding"),
    "encoder.layer.{layer}.attention.attn.q": ("stack/layer_{layer}/attention/query", "dense"),
    "encoder.layer.{layer}.attention.attn.k": ("stack/layer_{layer}/attention/key", "dense"),
    "encoder.layer.{layer}.attention.attn.v": ("stack/layer_{layer}/attention/value", "dense"),
    "encoder.layer.{layer}.attention.attn.o": ("stack/layer_{layer}/attention/output", "dense"),
    "encoder.layer.{layer}.attention.LayerNorm": ("stack/layer_{layer}/attention_norm", "norm"),
    "encoder.layer.{layer}.intermediate.dense": ("stack/layer_{layer}/widen", "dense"),
    "encoder.layer.{layer}.output.dense": ("stack/layer_{layer}/narrow", "dense"),
    "encoder.layer.{layer}.output.LayerNorm": ("stack/layer_{layer}/output_norm", "norm"),
}

# The pooler serves next-sentence prediction; the positions are 0, 1, 2, ...
NOT_NEEDED = frozenset({"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"})


def build_encoder(config: EncoderConfig) -> Bert | MPNet:
    """The module of a configuration, without parameters."""
    return {"bert": Bert, "mpnet": MPNet}[config.family](config)


def parameter_names(config: EncoderConfig) -> dict[str, str]:
    """Checkpoint tensor -> path of our parameter, for every layer."""
    table = {"bert": _BERT_TABLE, "mpnet": _MPNET_TABLE}[config.family]
    return {
        f"{module.format(layer=layer)}.{tensor}": f"{ours.format(layer=layer)}/{parameter}"
        for layer in range(config.layers)
        for module, (ours, kind) in table.items()
        for tensor, parameter in _TENSORS[kind].items()
    }


def convert(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> dict:
    """The parameters of `build_encoder(config)`, filled from a checkpoint's tensors; all or an `InputError`."""
    names = parameter_names(config)
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    initialised = jax.eval_shape(build_encoder(config).init, jax.random.key(0), ids, jax.ShapeDtypeStruct((1, 8), jnp.bool_))
    leaves = cast(dict[str, jax.ShapeDtypeStruct], flatten_dict(initialised["params"], sep="/"))
    wanted = {path: leaf.shape for path, leaf in leaves.items()}
    # Checkpoints hold dense weights as [out, in], linen as [in, out].
    filled = {
        names[name]: tensor.T if names[name].endswith("/kernel") else tensor
        for name, tensor in tensors.items()
        if name in names
    }
    unknown = sorted(set(tensors) - set(names) - NOT_NEEDED)
    unfilled = sorted(set(wanted) - set(filled))
    misshapen = [
        f"{path} {filled[path].shape} instead of {shape}"
        for path, shape in wanted.items()
        if path in filled and filled[path].shape != shape
    ]
    if unknown or unfilled or misshapen:
        raise InputError(
            f"the checkpoint doesn't fit the {config.family} encoder: tensors that no parameter takes: {unknown or 'none'}; "
            f"parameters that no tensor fills: {unfilled or 'none'}; of another shape: {misshapen or 'none'}",
            expected=f"the tensors of a {config.family} checkpoint with {config.layers} layers, none missing and none more",
            fix="use the model's own config.json and model.safetensors, both from one checkpoint",
        )
    return unflatten_dict({path: jnp.asarray(tensor, jnp.float32) for path, tensor in filled.items()}, sep="/")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file."""
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- the handle has no iteration


def _layer_norm(config: EncoderConfig, name: str) -> nn.LayerNorm:
    # The fast variance, a difference of two means, loses digits that parity within 1e-5 needs.
    return nn.LayerNorm(epsilon=config.layer_norm_epsilon, use_fast_variance=False, name=name)


def _embedding(config: EncoderConfig, rows: int, name: str) -> nn.Embed:
    return nn.Embed(rows, config.hidden_size, name=name)
