"""Encoders: relative positions against their definition, and checkpoints that fit wholly or not at all."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice_jax.errors import InputError
from lattice_jax.teachers.bert import NOT_NEEDED, EncoderConfig, build_encoder, convert, parameter_names, relative_buckets

SIZES = {
    "vocabulary_size": 20,
    "hidden_size": 8,
    "layers": 2,
    "heads": 2,
    "feed_forward_size": 12,
    "positions": 16,
    "padding_id": 1,
    "layer_norm_epsilon": 1e-5,
}
CONFIGS = {
    "bert": EncoderConfig(family="bert", relative_buckets=0, **SIZES),
    "mpnet": EncoderConfig(family="mpnet", relative_buckets=32, **SIZES),
}


def checkpoint(config: EncoderConfig) -> dict[str, np.ndarray]:
    """Random tensors in the checkpoint's own layout."""
    generator = np.random.default_rng(0)
    rows = {
        "word_embeddings.weight": (20, 8),
        "position_embeddings.weight": (16, 8),
        "token_type_embeddings.weight": (2, 8),
        "relative_attention_bias.weight": (32, 2),
        "intermediate.dense.weight": (12, 8),
        "intermediate.dense.bias": (12,),
        "output.dense.weight": (8, 12),
    }

    def shape(name: str) -> tuple[int, ...]:
        if "attention.output.dense.weight" in name:
            return 8, 8
        fitting = [size for ending, size in rows.items() if name.endswith(ending)]
        if fitting:
            return fitting[0]
        return (8,) if name.endswith("bias") or "LayerNorm" in name else (8, 8)

    return {name: generator.normal(size=shape(name)).astype(np.float32) for name in parameter_names(config)}


def test_relative_buckets_follow_the_definition():
    def bucket(offset: int) -> int:
        distance, half = abs(offset), 16
        if distance >= 8:
            distance = next((8 + step for step in range(8) if distance < 8 * 16 ** ((step + 1) / 8) - 1e-9), 15)
        return distance + half * (offset > 0)

    expected = [[bucket(key - query) for key in range(384)] for query in range(384)]
    np.testing.assert_array_equal(relative_buckets(384, 32), expected)
    # Where a bucket begins exactly at a power of two, rounding could put the token one lower.
    assert [relative_buckets(200, 32)[0, d] - 16 for d in (7, 8, 16, 32, 64, 128)] == [7, 8, 10, 12, 14, 15]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_checkpoint_fills_every_parameter(family):
    config = CONFIGS[family]
    tensors = checkpoint(config)
    parameters = convert({**tensors, **dict.fromkeys(NOT_NEEDED, np.zeros(3))}, config)
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters)) == sum(tensor.size for tensor in tensors.values())
    widen = parameters["stack"]["layer_1"]["widen"]["kernel"]
    np.testing.assert_array_equal(widen, tensors["encoder.layer.1.intermediate.dense.weight"].T)
    hidden = build_encoder(config).apply({"params": parameters}, jnp.full((1, 4), 5), jnp.ones((1, 4), bool))
    assert hidden.shape == (1, 4, 8)
    assert jnp.isfinite(hidden).all()


@pytest.mark.parametrize("family", CONFIGS)
def test_padding_changes_no_token(family):
    config = CONFIGS[family]
    variables = {"params": convert(checkpoint(config), config)}
    token_ids = jnp.array([[3, 7, 4, 9]])
    alone = build_encoder(config).apply(variables, token_ids, jnp.ones((1, 4), bool))
    padded_ids = jnp.concatenate([token_ids, jnp.full((1, 5), 11)], axis=1)
    padded = build_encoder(config).apply(variables, padded_ids, jnp.arange(9)[None] < 4)
    np.testing.assert_allclose(padded[:, :4], alone, atol=1e-6)


def test_mpnet_equals_the_equations_in_numpy():
    config = CONFIGS["mpnet"]
    tensors = {name: tensor.astype(np.float64) for name, tensor in checkpoint(config).items()}
    ids = np.array([3, 7, 1, 9])

    def dense(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(x, name):
        deviation = x - x.mean(-1, keepdims=True)
        scaled = deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    # The third token is the padding's id, within a text: it takes position 1 and isn't counted.
    position_rows = tensors["embeddings.position_embeddings.weight"][[2, 3, 1, 4]]
    x = norm(tensors["embeddings.word_embeddings.weight"][ids] + position_rows, "embeddings.LayerNorm")
    bias = tensors["encoder.relative_attention_bias.weight"][relative_buckets(4, 32)]
    for layer in range(2):
        name = f"encoder.layer.{layer}"
        query, key, value = (dense(x, f"{name}.attention.attn.{part}").reshape(4, 2, 4) for part in "qkv")
        mixed = np.zeros((4, 2, 4))
        for head in range(2):
            scores = query[:, head] @ key[:, head].T / 2 + bias[:, :, head]
            weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            mixed[:, head] = weights @ value[:, head]
        x = norm(x + dense(mixed.reshape(4, 8), f"{name}.attention.attn.o"), f"{name}.attention.LayerNorm")
        wide = dense(x, f"{name}.intermediate.dense")
        activated = wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        x = norm(x + dense(activated, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    parameters = convert(checkpoint(config), config)
    found = build_encoder(config).apply({"params": parameters}, jnp.asarray(ids)[None], jnp.ones((1, 4), bool))
    np.testing.assert_allclose(found[0], x, atol=1e-4)


def test_a_checkpoint_that_does_not_fit_lists_both_sides():
    config = CONFIGS["bert"]
    tensors = checkpoint(config)
    tensors["encoder.layer.1.adapter.weight"] = tensors.pop("encoder.layer.1.intermediate.dense.weight")
    tensors["encoder.layer.0.output.dense.bias"] = np.zeros(9, np.float32)
    with pytest.raises(InputError) as raised:
        convert(tensors, config)
    found = raised.value.found
    assert "no parameter takes: ['encoder.layer.1.adapter.weight']" in found
    assert "no tensor fills: ['stack/layer_1/widen/kernel']" in found
    assert "['stack/layer_0/narrow/bias (9,) instead of (8,)']" in found


def test_a_checkpoint_with_more_layers_is_refused():
    config = CONFIGS["mpnet"]
    extra = {"encoder.layer.2.output.dense.bias": np.zeros(8, np.float32)}
    with pytest.raises(InputError, match=r"no parameter takes: \['encoder\.layer\.2\.output\.dense\.bias'\]"):
        convert(checkpoint(config) | extra, config)
