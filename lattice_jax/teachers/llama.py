"""The LLaMA family: LLaMA 2 and 3, SmolLM2, TinyLlama and Mistral, and how their checkpoints fill them.

Contract: token ids and a mask [batch, length] in; out come the hidden states [batch, length, hidden] of the embeddings and then
of each layer, the last one after the final norm, as transformers' `output_hidden_states=True` gives them. The mask is True for
tokens and False for padding, on either side, which changes no token's state. A token sees itself and those before it, of these
at most `sliding_window`, itself among them. Norms, rotations and softmax are float32 whatever the numbers of the products are.
What a config.json asks for and this encoder doesn't do is an `InputError`.

Weights keep the checkpoint's own orientation [out, in]: nothing is transposed, so a layer streams from disk as it lies there.

Sources: Touvron et al., "LLaMA" (2023), arXiv:2302.13971; Su et al., "RoFormer" (2021), arXiv:2104.09864; Ainslie et al., "GQA"
(2023), arXiv:2305.13245; Shazeer, "GLU Variants Improve Transformer" (2020), arXiv:2002.05202; Jiang et al., "Mistral 7B"
(2023), arXiv:2310.06825. The smoothed frequencies of LLaMA 3.1 are those of Grattafiori et al., "The Llama 3 Herd of Models"
(2024), arXiv:2407.21783, as Meta's reference code has them.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32

from lattice_jax.errors import InputError
from lattice_jax.teachers.stages import StagedEncoder


@dataclass(frozen=True)
class RotaryConfig:
    """How fast each pair of channels turns with the position."""

    base: float = 10_000.0
    scaling: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    """By how much the slow pairs are slowed down (linear: all pairs)."""
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192
    """Context of the training before it was stretched; llama3 slows pairs by how often they turn within it."""


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of an encoder, as its config.json states them."""

    family: Literal["llama", "mistral"]
    vocabulary_size: int
    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    """Each serves heads / key_value_heads query heads."""
    head_size: int
    feed_forward_size: int
    max_length: int
    padding_id: int
    norm_epsilon: float
    rotary: RotaryConfig
    attention_bias: bool = False
    feed_forward_bias: bool = False
    sliding_window: int | None = None


def read_config(values: Mapping[str, Any]) -> LlamaConfig:
    """The sizes that a config.json's values state; absent ones are what transformers takes them for."""
    family = values["model_type"]
    named = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    stated = {name: values.get(name) for name in (*named, "max_position_embeddings")}
    missing = [name for name, value in stated.items() if not isinstance(value, int) or value < 1]
    if missing:
        raise _unsupported(family, f"has no whole number above 0 as {', '.join(missing)}", "one for each of them")
    heads, hidden_size = values["num_attention_heads"], values["hidden_size"]
    head_size = values.get("head_dim") or hidden_size // heads
    # A config.json of Mistral without these two means its 7B model, one of LLaMA means plain attention.
    key_value_heads = values.get("num_key_value_heads", 8 if family == "mistral" else None) or heads
    window = values.get("sliding_window", 4096) if family == "mistral" else None
    _refuse_the_unknown(family, values)
    if heads % key_value_heads or head_size % 2 or (values.get("head_dim") is None and hidden_size % heads):
        raise _unsupported(
            family,
            f"has {heads} heads, {key_value_heads} key-value heads, {head_size} channels a head, hidden size {hidden_size}",
            "heads that are a multiple of the key-value heads, an even number of channels each, together the hidden size",
        )
    padding = values.get("pad_token_id")
    return LlamaConfig(
        family=family,
        vocabulary_size=values["vocab_size"],
        hidden_size=hidden_size,
        layers=values["num_hidden_layers"],
        heads=heads,
        key_value_heads=key_value_heads,
        head_size=head_size,
        feed_forward_size=values["intermediate_size"],
        max_length=values["max_position_embeddings"],
        # The mask alone keeps padding out: any id of the vocabulary serves where the checkpoint names none (-1 in some).
        padding_id=padding if padding is not None and padding >= 0 else 0,
        norm_epsilon=values.get("rms_norm_eps", 1e-6),
        rotary=_read_rotary(family, values),
        attention_bias=family == "llama" and bool(values.get("attention_bias", False)),
        feed_forward_bias=family == "llama" and bool(values.get("mlp_bias", False)),
        sliding_window=window,
    )


def _read_rotary(family: str, values: Mapping[str, Any]) -> RotaryConfig:
    """The rotation, spelt as `rope_parameters` (transformers 5) or as `rope_theta` and `rope_scaling` (before)."""
    spelt = values.get("rope_parameters") or values.get("rope_scaling") or {}
    settings: dict[str, Any] = {"rope_theta": values.get("rope_theta"), **spelt}
    scaling = settings.get("rope_type") or settings.get("type") or "default"
    wanted = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
    if scaling not in wanted:
        raise _unsupported(family, f"scales its rotary positions by {scaling!r}", f"one of {', '.join(wanted)}")
    missing = [name for name in wanted[scaling] if name not in settings]
    if missing or settings.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unsupported(family, f"has the rotary settings {settings}", f"all channels turned, and {wanted[scaling]} given")
    return RotaryConfig(
        base=float(settings["rope_theta"] or 10_000.0),
        scaling=scaling,
        factor=float(settings.get("factor", 1.0)),
        low_frequency_factor=float(settings.get("low_freq_factor", 1.0)),
        high_frequency_factor=float(settings.get("high_freq_factor", 4.0)),
        original_positions=settings.get("original_max_position_embeddings") or values["max_position_embeddings"],
    )


def _refuse_the_unknown(family: str, values: Mapping[str, Any]) -> None:
    """Settings that would change the result and that this encoder doesn't have."""
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise _unsupported(family, f"has the activation {values['hidden_act']!r}", "'silu'")
    if values.get("quantization_config"):
        raise _unsupported(family, "describes quantised weights", "weights as float32, float16 or bfloat16")
    # Nothing is learned here, so dropout changes nothing; layers of different kinds would.
    if len(set(values.get("layer_types") or ["one"])) > 1:
        raise _unsupported(family, "has layers of different kinds (layer_types)", "one kind of attention in all layers")


def _unsupported(family: str, found: str, expected: str) -> InputError:
    return InputError(
        f"the {family} configuration {found}", expected=expected, fix="use a checkpoint of LLaMA 2 or 3, SmolLM2 or Mistral 7B"
    )


class RMSNorm(nn.Module):
    """Each state over its root mean square, float32 inside."""

    epsilon: float
    numbers: str

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (hidden.shape[-1],), self.numbers)
        precise = hidden.astype(jnp.float32)
        normed = precise * jax.lax.rsqrt(jnp.mean(precise**2, axis=-1, keepdims=True) + self.epsilon)
        return normed.astype(self.numbers) * scale[None, None]


class Linear(nn.Module):
    """A product with a weight [out, in], as checkpoints hold it."""

    features: int
    bias: bool
    numbers: str

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        weight = self.param("weight", nn.initializers.normal(0.02), (self.features, hidden.shape[-1]), self.numbers)
        product = jnp.einsum("bli,oi->blo", hidden, weight)
        if not self.bias:
            return product
        return product + self.param("bias", nn.initializers.zeros, (self.features,), self.numbers)[None, None]


class LlamaLayer(nn.Module):
    """Causal attention, then a gated feed-forward block, each on the normed states and added to them."""

    config: LlamaConfig
    numbers: str = "float32"

    @nn.compact
    def __call__(self, hidden: Array, mask: Array) -> Array:
        config, (batch, length, _) = self.config, hidden.shape
        linear = partial(Linear, bias=config.attention_bias, numbers=self.numbers)
        normed = RMSNorm(config.norm_epsilon, self.numbers, name="attention_norm")(hidden)
        groups = (config.key_value_heads, config.heads // config.key_value_heads)
        inner = config.key_value_heads * config.head_size

        # Heads before positions, which is what XLA multiplies fast on the CPU.
        def split(states: Array, groups: tuple[int, int]) -> Array:
            return states.reshape(batch, length, *groups, config.head_size).transpose(0, 2, 3, 1, 4)

        query = split(linear(config.heads * config.head_size, name="query")(normed), groups)
        key = split(linear(inner, name="key")(normed), (groups[0], 1))
        value = split(linear(inner, name="value")(normed), (groups[0], 1))
        cosine, sine = rotation(config.rotary, config.head_size, length)
        query, key = turn(query, cosine, sine), turn(key, cosine, sine)
        scores = jnp.einsum("bkgqc,bksc->bkgqs", query, key[:, :, 0], preferred_element_type=jnp.float32)
        seen = attention_mask(mask, config.sliding_window)[:, None, None]
        scores = jnp.where(seen, scores / math.sqrt(config.head_size), jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.numbers)
        mixed = jnp.einsum("bkgqs,bksc->bkgqc", weights, value[:, :, 0])
        mixed = mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, config.heads * config.head_size)
        hidden = hidden + linear(config.hidden_size, name="output")(mixed)
        linear = partial(Linear, bias=config.feed_forward_bias, numbers=self.numbers)
        normed = RMSNorm(config.norm_epsilon, self.numbers, name="feed_forward_norm")(hidden)
        gate = nn.silu(linear(config.feed_forward_size, name="gate")(normed))
        widened = linear(config.feed_forward_size, name="widen")(normed)
        return hidden + linear(config.hidden_size, name="narrow")(gate * widened)


class Llama(StagedEncoder):
    """The embeddings through every layer and the final norm."""

    config: LlamaConfig
    numbers: str = "float32"

    def setup(self):
        config, numbers = self.config, jnp.dtype(self.numbers)
        self.words = nn.Embed(config.vocabulary_size, config.hidden_size, dtype=numbers, param_dtype=numbers)
        self.layer = [self.one_layer() for _ in range(config.layers)]
        self.norm = RMSNorm(config.norm_epsilon, self.numbers)

    @nn.nowrap
    def one_layer(self) -> LlamaLayer:
        return LlamaLayer(self.config, self.numbers, parent=None)

    def begin(self, token_ids: Array, mask: Array) -> tuple[Array, Array]:
        """The embeddings, and the mask as it is."""
        return self.words(token_ids), mask

    def end(self, hidden: Array) -> Array:
        return self.norm(hidden)


def attention_mask(mask: Bool[Array, "batch length"], window: int | None) -> Bool[Array, "batch length length"]:
    """[text, query, key]: whether the query's token sees the key's."""
    position = np.arange(mask.shape[1])
    behind = position[:, None] - position[None, :]
    seen = (behind >= 0) & (behind < (window or mask.shape[1]))
    return jnp.asarray(seen)[None] & mask[:, None, :]


def frequencies(rotary: RotaryConfig, head_size: int) -> Float32[np.ndarray, " half"]:
    """Radians by which each pair of channels turns from one position to the next."""
    # In float32 at the places where torch rounds, so that both agree at far positions too.
    exponent = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    rate = np.float32(1) / np.float32(rotary.base) ** exponent
    if rotary.scaling == "default":
        return rate
    slowed = rate / np.float32(rotary.factor)
    if rotary.scaling == "linear":
        return slowed
    # Share of its own rate that a pair keeps: none if it turns less than low times within the original context, all above high.
    turns = rotary.original_positions * rate / np.float32(2 * math.pi)
    low, high = rotary.low_frequency_factor, rotary.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
    return (1 - kept) * slowed + kept * rate


def rotation(rotary: RotaryConfig, head_size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine [1, 1, 1, length, half] of each pair's angle at each position."""
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies(rotary, head_size)[None]
    return np.cos(angles)[None, None, None], np.sin(angles)[None, None, None]


def turn(heads: Float[Array, "batch key_value group length channel"], cosine: np.ndarray, sine: np.ndarray) -> Array:
    """Rotate the pairs (channel, channel + half) of every head by the angles of their position."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(heads.dtype)


# Tensor of a layer in the checkpoint -> our parameter; biases where the configuration has them.
LAYER_TABLE: Mapping[str, str] = {
    "input_layernorm.weight": "attention_norm/scale",
    "self_attn.q_proj.weight": "query/weight",
    "self_attn.k_proj.weight": "key/weight",
    "self_attn.v_proj.weight": "value/weight",
    "self_attn.o_proj.weight": "output/weight",
    "post_attention_layernorm.weight": "feed_forward_norm/scale",
    "mlp.gate_proj.weight": "gate/weight",
    "mlp.up_proj.weight": "widen/weight",
    "mlp.down_proj.weight": "narrow/weight",
}


def prefix(tensors: Collection[str]) -> str:
    """What a checkpoint with a language head puts before the names of the model below it."""
    return "model." if any(name.startswith("model.") for name in tensors) else ""


def layer_names(config: LlamaConfig, tensors: Collection[str], layer: int) -> dict[str, str]:
    """Tensor of the checkpoint -> parameter of `LlamaLayer`, for one layer."""
    names = {}
    for tensor, ours in LAYER_TABLE.items():
        names[f"{prefix(tensors)}layers.{layer}.{tensor}"] = ours
        biased = (tensor.startswith("self_attn") and config.attention_bias) or (
            tensor.startswith("mlp") and config.feed_forward_bias
        )
        if biased:
            bias = tensor.replace(".weight", ".bias")
            names[f"{prefix(tensors)}layers.{layer}.{bias}"] = ours.replace("/weight", "/bias")
    return names


def parameter_names(config: LlamaConfig, tensors: Collection[str]) -> dict[str, str]:
    """Tensor of the checkpoint -> parameter of `Llama`, for every layer."""
    before = prefix(tensors)
    return {f"{before}embed_tokens.weight": "words/embedding", f"{before}norm.weight": "norm/scale"} | {
        name: f"layer_{layer}/{ours}"
        for layer in range(config.layers)
        for name, ours in layer_names(config, tensors, layer).items()
    }


def not_needed(config: LlamaConfig, tensors: Collection[str]) -> list[str]:
    """The language head, stored or tied to the embeddings, and the rotary frequencies that old checkpoints store."""
    frequencies_stored = [f"{prefix(tensors)}layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(config.layers)]
    return ["lm_head.weight", f"{prefix(tensors)}rotary_emb.inv_freq", *frequencies_stored]
