"""The BERT family against torch, layer by layer, and checkpoints that fit wholly or not at all.

`tests/data/encoders` comes from torch and transformers, see benchmarks/parity_reference.py: random weights in the files of a
real checkpoint, and the states of every layer for a padded batch.
"""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice_jax.errors import InputError
from lattice_jax.teachers import bert_checkpoints
from lattice_jax.teachers.bert import relative_buckets
from lattice_jax.teachers.checkpoint import open_tensors
from lattice_jax.teachers.families import FAMILIES
from lattice_jax.teachers.filling import fill, parameter_shapes

FOLDER = Path(__file__).parent / "data" / "encoders"
CASES = sorted(path.name for path in FOLDER.iterdir())
FAMILIES_OF_BERT = ("bert", "distilbert", "mpnet", "roberta", "xlm-roberta")
PARITY = 1e-5


def values(case: str) -> dict:
    return json.loads((FOLDER / case / "config.json").read_text())


def tensors(case: str) -> dict[str, np.ndarray]:
    """Those of a committed checkpoint, all loaded, so that a test may change them."""
    return dict(open_tensors(FOLDER / case)[0])


def load(values: dict, tensors: dict, numbers: str = "float32"):
    """The encoder of a configuration and its parameters."""
    family = FAMILIES[values["model_type"]]
    config = family.read_config(values)
    encoder = family.build(config, numbers)
    names, left_out = family.names(config, tensors), family.not_needed(config, tensors)
    parameters = fill(tensors, names, parameter_shapes(encoder), left_out, values["model_type"], numbers=numbers)
    return encoder, {"params": parameters}


def states(case: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / case / "states.npz") as arrays:
        return dict(arrays)


def test_every_family_has_a_reference_and_both_number_types_and_shards_occur():
    assert {values(case)["model_type"] for case in CASES} == set(FAMILIES_OF_BERT)
    kinds = {open_tensors(FOLDER / case)[0].kind(next(iter(tensors(case)))) for case in CASES}
    assert kinds == {"F32", "BF16"}
    assert {len(open_tensors(FOLDER / case)[1]) > 1 for case in CASES} == {True, False}


@pytest.mark.parametrize("case", CASES)
def test_every_layer_equals_the_reference(case):
    encoder, variables = load(values(case), tensors(case))
    reference = states(case)
    found = encoder.apply(variables, reference["token_ids"], reference["mask"])
    assert len(found) == len(reference) - 2 == encoder.config.layers + 1
    for index, state in enumerate(found):
        difference = np.abs(np.asarray(state) - reference[f"hidden_{index}"])[reference["mask"]]
        assert difference.max() < PARITY, f"layer {index}"


@pytest.mark.parametrize("case", CASES)
def test_padding_changes_no_token(case):
    encoder, variables = load(values(case), tensors(case))
    token_ids = jnp.array([[3, 7, 4, 9]])
    alone = encoder.apply(variables, token_ids, jnp.ones((1, 4), bool))[-1]
    padded_ids = jnp.concatenate([token_ids, jnp.full((1, 5), 11)], axis=1)
    padded = encoder.apply(variables, padded_ids, jnp.arange(9)[None] < 4)[-1]
    np.testing.assert_allclose(padded[:, :4], alone, atol=2e-6)


@pytest.mark.parametrize("case", ["bert", "mpnet"])
def test_bfloat16_is_close_and_stays_bfloat16(case):
    encoder, variables = load(values(case), tensors(case), "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("bfloat16")}
    reference = states(case)
    found = encoder.apply(variables, reference["token_ids"], reference["mask"])
    assert {state.dtype for state in found} == {jnp.dtype("bfloat16")}
    last = np.asarray(found[-1].astype(jnp.float32))
    expected = reference["hidden_2"]
    assert 1e-4 < np.abs(last - expected)[reference["mask"]].max() < 0.1 * np.abs(expected).max()


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


def test_mpnet_equals_the_equations_in_numpy():
    exact = {name.removeprefix("mpnet."): tensor.astype(np.float64) for name, tensor in tensors("mpnet").items()}
    ids = np.array([3, 7, 1, 9])

    def dense(x, name):
        return x @ exact[f"{name}.weight"].T + exact[f"{name}.bias"]

    def norm(x, name):
        deviation = x - x.mean(-1, keepdims=True)
        scaled = deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + epsilon)
        return scaled * exact[f"{name}.weight"] + exact[f"{name}.bias"]

    epsilon = values("mpnet")["layer_norm_eps"]
    # The third token is the padding's id, within a text: it takes position 1 and isn't counted.
    position_rows = exact["embeddings.position_embeddings.weight"][[2, 3, 1, 4]]
    x = norm(exact["embeddings.word_embeddings.weight"][ids] + position_rows, "embeddings.LayerNorm")
    bias = exact["encoder.relative_attention_bias.weight"][relative_buckets(4, 32)]
    for layer in range(2):
        name = f"encoder.layer.{layer}"
        query, key, value = (dense(x, f"{name}.attention.attn.{part}").reshape(4, 4, 6) for part in "qkv")
        mixed = np.zeros((4, 4, 6))
        for head in range(4):
            scores = query[:, head] @ key[:, head].T / math.sqrt(6) + bias[:, :, head]
            weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            mixed[:, head] = weights @ value[:, head]
        x = norm(x + dense(mixed.reshape(4, 24), f"{name}.attention.attn.o"), f"{name}.attention.LayerNorm")
        wide = dense(x, f"{name}.intermediate.dense")
        activated = wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        x = norm(x + dense(activated, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    encoder, variables = load(values("mpnet"), tensors("mpnet"))
    found = encoder.apply(variables, jnp.asarray(ids)[None], jnp.ones((1, 4), bool))[-1]
    np.testing.assert_allclose(found[0], x, atol=1e-5)


# Of the base models; the counts are those of transformers' models without their pooler.
FULL_SIZES = [
    ("bert", {"vocab_size": 30522}, 108_891_648),
    ("distilbert", {"vocab_size": 30522}, 66_362_880),
    ("mpnet", {"vocab_size": 30527, "max_position_embeddings": 514}, 108_895_872),
    ("roberta", {"vocab_size": 50265, "max_position_embeddings": 514}, 124_055_040),
    ("xlm-roberta", {"vocab_size": 250002, "max_position_embeddings": 514}, 277_453_056),
]


@pytest.mark.parametrize(("family", "sizes", "count"), FULL_SIZES)
def test_the_full_size_has_as_many_parameters_as_the_published_model(family, sizes, count):
    base = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    distilled = {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}
    full = values(family) | (distilled if family == "distilbert" else base) | {"max_position_embeddings": 512} | sizes
    encoder = bert_checkpoints.build(bert_checkpoints.read_config(full), "float32")
    assert sum(math.prod(shape) for shape in parameter_shapes(encoder).values()) == count


# Names


def test_the_first_names_of_layer_norms_are_read_too():
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors("bert_with_head").items()
    }
    assert old.keys() != tensors("bert_with_head").keys()
    jax.tree.map(
        np.testing.assert_array_equal,
        load(values("bert_with_head"), old)[1],
        load(values("bert_with_head"), tensors("bert_with_head"))[1],
    )


@pytest.mark.parametrize("family", FAMILIES_OF_BERT)
def test_a_prefix_and_what_is_not_needed_change_nothing(family):
    prefix = bert_checkpoints.PREFIXES[family]
    bare = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors(family).items()
        if name not in bert_checkpoints.HEADS[family]
    }
    prefixed = {prefix + name: tensor for name, tensor in bare.items()}
    beside = dict.fromkeys([*bert_checkpoints.HEADS[family], f"{prefix}embeddings.position_ids"], np.zeros(3))
    jax.tree.map(np.testing.assert_array_equal, load(values(family), bare)[1], load(values(family), {**prefixed, **beside})[1])


def test_tensors_that_are_not_needed_are_not_loaded():
    class Watched(dict):
        def __getitem__(self, name):
            loaded.append(name)
            return super().__getitem__(name)

    loaded: list[str] = []
    load(values("mpnet"), Watched(tensors("mpnet")))
    assert set(tensors("mpnet")) - set(loaded) == {name for name in tensors("mpnet") if name.startswith("lm_head.")} != set()


def test_a_checkpoint_that_does_not_fit_lists_both_sides():
    changed = tensors("bert")
    changed["encoder.layer.1.adapter.weight"] = changed.pop("encoder.layer.1.intermediate.dense.weight")
    changed["encoder.layer.0.output.dense.bias"] = np.zeros(9, np.float32)
    changed["encoder.layer.0.attention.self.key.weight"] = np.zeros((24, 23), np.float32)
    with pytest.raises(InputError) as raised:
        load(values("bert"), changed)
    found = raised.value.found
    assert "no parameter takes: ['encoder.layer.1.adapter.weight']" in found
    assert "no tensor fills: ['layer_1/widen/kernel']" in found
    assert "layer_0/narrow/bias (9,) instead of (24,)" in found
    assert "layer_0/attention/query_key_value/kernel (24, 24) and (23, 24) and (24, 24) instead of (24, 72)" in found


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_a_missing_part_of_a_joined_parameter_is_named(part):
    changed = tensors("mpnet")
    del changed[f"mpnet.encoder.layer.0.attention.attn.{part}.bias"]
    with pytest.raises(InputError, match=r"no tensor fills: \['layer_0/attention/query_key_value/bias'\]"):
        load(values("mpnet"), changed)


def test_a_checkpoint_with_more_layers_is_refused():
    extra = {"encoder.layer.2.output.dense.bias": np.zeros(24, np.float32)}
    with pytest.raises(InputError, match=r"no parameter takes: \['encoder\.layer\.2\.output\.dense\.bias'\]"):
        load(values("bert"), tensors("bert") | extra)


# Configurations


@pytest.mark.parametrize(
    ("case", "key", "value", "message"),
    [
        ("bert", "hidden_act", "mish", "activation 'mish'"),
        ("distilbert", "activation", "gelu_10", "activation 'gelu_10'"),
        ("bert", "position_embedding_type", "relative_key", "positions of type 'relative_key'"),
        ("roberta", "hidden_size", "24", "hidden_size = '24'"),
        ("distilbert", "n_heads", 5, "5 heads in 24 numbers"),
        ("distilbert", "dim", None, "dim = None"),
        ("mpnet", "relative_attention_num_buckets", None, "relative_attention_num_buckets = None"),
        ("xlm-roberta", "pad_token_id", None, "pad_token_id = None"),
    ],
)
def test_a_configuration_that_the_encoder_cannot_follow_is_refused(case, key, value, message):
    with pytest.raises(InputError, match=message):
        bert_checkpoints.read_config(values(case) | {key: value})


def test_positions_that_begin_past_the_padding_leave_fewer_for_the_text():
    lengths = {case: bert_checkpoints.read_config(values(case)).max_length for case in CASES}
    assert lengths["bert"] == lengths["distilbert"] == 20
    assert lengths["roberta"] == lengths["mpnet"] == lengths["xlm-roberta"] == 18
