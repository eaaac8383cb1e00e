"""How checkpoints of the BERT family state their sizes and name their tensors.

Contract: one table per family says where each module of a checkpoint goes. A checkpoint may put its family's prefix before
every name, as those with a head do, and may call the weights of layer norms gamma and beta, as the first ones did. What a
config.json asks for and the encoder can't do is an `InputError`.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from lattice_jax.errors import InputError
from lattice_jax.teachers.bert import ACTIVATIONS, Encoder, EncoderConfig

Kind = Literal["dense", "norm", "embedding"]

_TENSORS: Mapping[Kind, Mapping[str, str]] = {
    "dense": {"weight": "kernel", "bias": "bias"},
    "norm": {"weight": "scale", "bias": "bias"},
    "embedding": {"weight": "embedding"},
}
_OLD_NAMES = {"weight": "gamma", "bias": "beta"}

Table = Mapping[str, tuple[str, Kind]]
"""Module of the checkpoint -> our module, and what kind of module it is. The query, key and value are joined in this order."""

_BERT: Table = {
    "embeddings.word_embeddings": ("words", "embedding"),
    "embeddings.position_embeddings": ("positions", "embedding"),
    "embeddings.token_type_embeddings": ("segments", "embedding"),
    "embeddings.LayerNorm": ("embedding_norm", "norm"),
    "encoder.layer.{layer}.attention.self.query": ("layer_{layer}/attention/query_key_value", "dense"),
    "encoder.layer.{layer}.attention.self.key": ("layer_{layer}/attention/query_key_value", "dense"),
    "encoder.layer.{layer}.attention.self.value": ("layer_{layer}/attention/query_key_value", "dense"),
    "encoder.layer.{layer}.attention.output.dense": ("layer_{layer}/attention/output", "dense"),
    "encoder.layer.{layer}.attention.output.LayerNorm": ("layer_{layer}/attention_norm", "norm"),
    "encoder.layer.{layer}.intermediate.dense": ("layer_{layer}/widen", "dense"),
    "encoder.layer.{layer}.output.dense": ("layer_{layer}/narrow", "dense"),
    "encoder.layer.{layer}.output.LayerNorm": ("layer_{layer}/output_norm", "norm"),
}

_DISTILBERT: Table = {
    "embeddings.word_embeddings": ("words", "embedding"),
    "embeddings.position_embeddings": ("positions", "embedding"),
    "embeddings.LayerNorm": ("embedding_norm", "norm"),
    "transformer.layer.{layer}.attention.q_lin": ("layer_{layer}/attention/query_key_value", "dense"),
    "transformer.layer.{layer}.attention.k_lin": ("layer_{layer}/attention/query_key_value", "dense"),
    "transformer.layer.{layer}.attention.v_lin": ("layer_{layer}/attention/query_key_value", "dense"),
    "transformer.layer.{layer}.attention.out_lin": ("layer_{layer}/attention/output", "dense"),
    "transformer.layer.{layer}.sa_layer_norm": ("layer_{layer}/attention_norm", "norm"),
    "transformer.layer.{layer}.ffn.lin1": ("layer_{layer}/widen", "dense"),
    "transformer.layer.{layer}.ffn.lin2": ("layer_{layer}/narrow", "dense"),
    "transformer.layer.{layer}.output_layer_norm": ("layer_{layer}/output_norm", "norm"),
}

_MPNET: Table = {
    "embeddings.word_embeddings": ("words", "embedding"),
    "embeddings.position_embeddings": ("positions", "embedding"),
    "embeddings.LayerNorm": ("embedding_norm", "norm"),
    "encoder.relative_attention_bias": ("relative_bias", "embedding"),
    "encoder.layer.{layer}.attention.attn.q": ("layer_{layer}/attention/query_key_value", "dense"),
    "encoder.layer.{layer}.attention.attn.k": ("layer_{layer}/attention/query_key_value", "dense"),
    "encoder.layer.{layer}.attention.attn.v": ("layer_{layer}/attention/query_key_value", "dense"),
    "encoder.layer.{layer}.attention.attn.o": ("layer_{layer}/attention/output", "dense"),
    "encoder.layer.{layer}.attention.LayerNorm": ("layer_{layer}/attention_norm", "norm"),
    "encoder.layer.{layer}.intermediate.dense": ("layer_{layer}/widen", "dense"),
    "encoder.layer.{layer}.output.dense": ("layer_{layer}/narrow", "dense"),
    "encoder.layer.{layer}.output.LayerNorm": ("layer_{layer}/output_norm", "norm"),
}

TABLES: Mapping[str, Table] = {
    "bert": _BERT,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}
PREFIXES = {
    "bert": "bert.",
    "distilbert": "distilbert.",
    "mpnet": "mpnet.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
}

# The pooler serves next-sentence prediction; the buffers hold 0, 1, 2, ... and zeros.
_NOT_NEEDED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.dense.weight", "pooler.dense.bias")
_WEIGHT_AND_BIAS = ("weight", "bias")
_LANGUAGE_HEAD = (
    "lm_head.bias",
    *(f"lm_head.{module}.{tensor}" for module in ("dense", "layer_norm", "decoder") for tensor in _WEIGHT_AND_BIAS),
)
HEADS: Mapping[str, Collection[str]] = {
    "bert": (
        "cls.predictions.bias",
        *(f"cls.predictions.{module}.{tensor}" for module in ("transform.dense", "decoder") for tensor in _WEIGHT_AND_BIAS),
        *(f"cls.predictions.transform.LayerNorm.{tensor}" for tensor in (*_WEIGHT_AND_BIAS, *_OLD_NAMES.values())),
        *(f"cls.seq_relationship.{tensor}" for tensor in _WEIGHT_AND_BIAS),
    ),
    "distilbert": tuple(
        f"{module}.{tensor}"
        for module in ("vocab_transform", "vocab_layer_norm", "vocab_projector")
        for tensor in _WEIGHT_AND_BIAS
    ),
    "mpnet": _LANGUAGE_HEAD,
    "roberta": _LANGUAGE_HEAD,
    "xlm-roberta": _LANGUAGE_HEAD,
}
"""Tensors of the heads that predict masked words or the next sentence, which stand outside of the prefix."""

_DISTILBERT_KEYS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}


def read_config(values: Mapping[str, Any]) -> EncoderConfig:
    """The sizes of an encoder from the values of its config.json."""
    family = values["model_type"]

    def stated(key: str, kind: type) -> Any:
        key = _DISTILBERT_KEYS.get(key, key) if family == "distilbert" else key
        value = values.get(key)
        if type(value) is not kind:
            raise InputError(
                f"config.json of a {family} checkpoint has {key} = {value!r}",
                expected=f"a value of type {kind.__name__}",
                fix="use the checkpoint's own config.json",
            )
        return value

    config = EncoderConfig(
        family=family,
        vocabulary_size=stated("vocab_size", int),
        hidden_size=stated("hidden_size", int),
        layers=stated("num_hidden_layers", int),
        heads=stated("num_attention_heads", int),
        feed_forward_size=stated("intermediate_size", int),
        positions=stated("max_position_embeddings", int),
        padding_id=stated("pad_token_id", int),
        # DistilBERT has this constant in its code.
        layer_norm_epsilon=1e-12 if family == "distilbert" else stated("layer_norm_eps", float),
        activation=stated("hidden_act", str),
        segments=stated("type_vocab_size", int) if "embeddings.token_type_embeddings" in TABLES[family] else 0,
        relative_buckets=stated("relative_attention_num_buckets", int) if family == "mpnet" else 0,
    )
    if config.activation not in ACTIVATIONS:
        raise InputError(
            f"the {family} checkpoint wants the activation {config.activation!r}",
            expected="one of " + ", ".join(ACTIVATIONS),
            fix="use another checkpoint",
        )
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(
            f"the {family} checkpoint wants positions of type {values['position_embedding_type']!r}",
            expected="'absolute', learned positions",
            fix="use another checkpoint",
        )
    if config.hidden_size % config.heads:
        raise InputError(
            f"the {family} checkpoint wants {config.heads} heads in {config.hidden_size} numbers",
            expected="a number of heads that divides them",
            fix="use the checkpoint's own config.json",
        )
    return config


def build(config: EncoderConfig, numbers: str) -> Encoder:
    """The module of a configuration, without parameters."""
    return Encoder(config, numbers)


def parameter_names(config: EncoderConfig, present: Collection[str]) -> dict[str, str]:
    """Tensor of the checkpoint, under the name that is present, -> path of the parameter that it fills, for every layer."""
    prefix = _prefix(config, present)
    names = {}
    for module, (ours, kind) in TABLES[config.family].items():
        for layer in range(config.layers if "{layer}" in module else 1):
            for tensor, parameter in _TENSORS[kind].items():
                name = f"{prefix}{module.format(layer=layer)}."
                old = kind == "norm" and name + _OLD_NAMES[tensor] in present
                names[name + (_OLD_NAMES[tensor] if old else tensor)] = f"{ours.format(layer=layer)}/{parameter}"
    return names


def not_needed(config: EncoderConfig, present: Collection[str]) -> set[str]:
    """Tensors that no embedding depends on."""
    return {_prefix(config, present) + name for name in _NOT_NEEDED} | set(HEADS[config.family])


def _prefix(config: EncoderConfig, present: Collection[str]) -> str:
    prefix = PREFIXES[config.family]
    return prefix if any(name.startswith(prefix) for name in present) else ""
