"""The LLaMA family: every layer against torch, what its rotations mean, and configurations that are refused.

The checkpoints in `data/llama` and their states come from torch and transformers, see benchmarks/parity_llama.py.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice_jax.errors import InputError
from lattice_jax.teachers import llama
from lattice_jax.teachers.checkpoint import open_tensors, read_config
from lattice_jax.teachers.families import FAMILIES
from lattice_jax.teachers.filling import fill, parameter_shapes
from lattice_jax.teachers.llama import LlamaConfig, RotaryConfig, frequencies, rotation, turn

DATA = Path(__file__).parent / "data" / "llama"
VARIANTS = ["linear_with_biases", "llama_2", "llama_3", "llama_3_1", "mistral"]
PARITY = 1e-5

META_LLAMA_3_1 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
"""The config.json of the 8B model, as its makers spell it."""


def load(name: str, numbers: str = "float32") -> tuple[LlamaConfig, Any, dict]:
    """A checkpoint's configuration, its encoder and the variables that its files fill."""
    values = read_config(DATA / name / "config.json")
    family, tensors = FAMILIES[values["model_type"]], open_tensors(DATA / name)[0]
    config = family.read_config(values)
    encoder = family.build(config, numbers)
    names, left_out = family.names(config, tensors), family.not_needed(config, tensors)
    parameters = fill(tensors, names, parameter_shapes(encoder), left_out, config.family, numbers=numbers)
    return config, encoder, {"params": parameters}


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / name / "states.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_equals_torch(name):
    expected = reference(name)
    _, encoder, variables = load(name)
    states = jax.jit(encoder.apply)(variables, expected["token_ids"], expected["mask"])
    assert len(states) == len(expected["states"]) == 3
    for layer, (found, wanted) in enumerate(zip(states, expected["states"], strict=True)):
        assert found.dtype == jnp.float32
        difference = np.abs(np.asarray(found) - wanted)[expected["mask"]].max()
        assert difference < PARITY, f"layer {layer} differs by {difference}"


def test_the_variants_differ_in_what_they_are_there_for():
    configs = {name: load(name)[0] for name in VARIANTS}
    assert {name: config.heads // config.key_value_heads for name, config in configs.items()} == {
        "linear_with_biases": 2,
        "llama_2": 1,
        "llama_3": 2,
        "llama_3_1": 4,
        "mistral": 2,
    }
    assert configs["llama_3"].rotary.base == configs["llama_3_1"].rotary.base == 500_000
    assert [configs[name].rotary.scaling for name in VARIANTS] == ["linear", "default", "default", "llama3", "default"]
    assert [configs[name].sliding_window for name in VARIANTS] == [None, None, None, None, 5]
    assert configs["llama_3_1"].head_size == 16 != configs["llama_3_1"].hidden_size // configs["llama_3_1"].heads
    tied = set(open_tensors(DATA / "llama_3_1")[0])
    assert "lm_head.weight" not in tied
    assert "lm_head.weight" in open_tensors(DATA / "llama_3")[0]
    stored = {name: {str(tensor.dtype) for tensor in open_tensors(DATA / name)[0].values()} for name in VARIANTS}
    assert stored == {name: {"bfloat16" if name in ("llama_3", "mistral") else "float32"} for name in VARIANTS}
    assert all(len(open_tensors(DATA / name)[1]) > 1 for name in VARIANTS)


@pytest.mark.parametrize("name", ["llama_3", "mistral"])
def test_bfloat16_stays_near_float32(name):
    expected = reference(name)
    _, encoder, variables = load(name, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}
    last = encoder.apply(variables, expected["token_ids"], expected["mask"])[-1]
    assert last.dtype == jnp.bfloat16
    found, wanted = np.asarray(last, np.float32)[expected["mask"]], expected["states"][-1][expected["mask"]]
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.999


def test_padding_on_either_side_changes_no_token():
    _, encoder, variables = load("llama_3_1")
    token_ids = jnp.array([[3, 7, 4, 9, 21]])
    alone = encoder.apply(variables, token_ids, jnp.ones((1, 5), bool))[-1]
    for before, after in ((0, 4), (3, 0), (2, 2)):
        padded = jnp.pad(token_ids, ((0, 0), (before, after)), constant_values=11)
        mask = jnp.pad(jnp.ones((1, 5), bool), ((0, 0), (before, after)))
        found = encoder.apply(variables, padded, mask)[-1]
        assert jnp.isfinite(found).all()
        np.testing.assert_allclose(found[:, before : before + 5], alone, atol=2e-5)


def test_a_token_sees_itself_and_the_window_before_it():
    seen = np.asarray(llama.attention_mask(jnp.array([[True, True, True, True, False]]), 2))[0]
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]
    np.testing.assert_array_equal(seen, np.array(expected, bool))
    np.testing.assert_array_equal(np.asarray(llama.attention_mask(jnp.ones((1, 3), bool), None))[0], np.tri(3, dtype=bool))


def test_gradient_is_zero_from_tokens_after_and_beyond_all_windows():
    config, _, variables = load("mistral")
    hidden = jax.random.normal(jax.random.key(0), (1, 12, config.hidden_size))
    layer, mask = llama.LlamaLayer(config), jnp.ones((1, 12), bool)
    parameters = {"params": variables["params"]["layer_0"]}
    slope = jax.grad(lambda states: layer.apply(parameters, states, mask)[0, 8].sum())(hidden)
    reached = np.abs(np.asarray(slope[0])).sum(1) > 0
    assert np.flatnonzero(reached).tolist() == [4, 5, 6, 7, 8]


def test_rotated_scores_depend_on_the_distance_alone():
    rotary, length = RotaryConfig(base=500_000.0), 40
    query, key = (jax.random.normal(jax.random.key(seed), (1, 1, 1, 1, 64)) for seed in (0, 1))
    cosine, sine = rotation(rotary, 64, length)
    queries, keys = (turn(jnp.repeat(states, length, axis=3), cosine, sine)[0, 0, 0] for states in (query, key))
    scores = np.asarray(queries @ keys.T)
    for distance in (0, 1, 7):
        diagonal = np.diagonal(scores, -distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=2e-4)
    assert np.ptp(scores) > 5


def test_llama_3_1_slows_what_turns_seldom_and_keeps_what_turns_often():
    rotary = llama.read_config(META_LLAMA_3_1).rotary
    plain = 500_000.0 ** (-np.arange(64) / 64)
    turns = 8192 * plain / (2 * np.pi)
    ratio = frequencies(rotary, 128) / plain
    np.testing.assert_allclose(ratio[turns > 4], 1, rtol=1e-6)
    np.testing.assert_allclose(ratio[turns < 1], 1 / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.sum() == 6
    share = (turns[between] - 1) / 3
    np.testing.assert_allclose(ratio[between], share + (1 - share) / 8, rtol=1e-5)


def test_both_spellings_of_positions_mean_the_same():
    older = llama.read_config(META_LLAMA_3_1)
    newer = {name: value for name, value in META_LLAMA_3_1.items() if name not in ("rope_scaling", "rope_theta")}
    newer["rope_parameters"] = META_LLAMA_3_1["rope_scaling"] | {"rope_theta": 500000.0}
    assert llama.read_config(newer) == older
    first = dict(META_LLAMA_3_1, rope_scaling={"type": "linear", "factor": 2.0})
    assert llama.read_config(first).rotary == RotaryConfig(
        base=500_000.0, scaling="linear", factor=2.0, original_positions=131072
    )
    assert older.rotary.original_positions == 8192
    assert (older.head_size, older.key_value_heads, older.max_length, older.padding_id) == (128, 8, 131072, 0)


def test_llama_3_8b_has_its_eight_billion_parameters():
    shapes = parameter_shapes(llama.Llama(llama.read_config(META_LLAMA_3_1)))
    head = 128256 * 4096
    assert sum(int(np.prod(shape)) for shape in shapes.values()) + head == 8_030_261_248


def test_an_older_mistral_has_the_window_and_heads_of_the_7b_model():
    values = {name: value for name, value in META_LLAMA_3_1.items() if name not in ("rope_scaling", "num_key_value_heads")}
    config = llama.read_config(values | {"model_type": "mistral"})
    assert (config.sliding_window, config.key_value_heads) == (4096, 8)
    assert llama.read_config(values | {"model_type": "mistral", "sliding_window": None}).sliding_window is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "positions by 'yarn'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "positions by 'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "rotary settings"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "rotary settings"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised"),
        ({"num_key_value_heads": 7}, "7 key-value heads"),
        ({"hidden_size": 4100}, "hidden size 4100"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers of different kinds"),
        (
            {"num_hidden_layers": None, "vocab_size": "many", "num_attention_heads": 0},
            "vocab_size, num_hidden_layers, num_attent",
        ),
    ],
)
def test_what_would_change_the_result_and_is_not_done_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        llama.read_config(META_LLAMA_3_1 | change)


def test_a_checkpoint_that_does_not_fit_lists_both_sides():
    values = json.loads((DATA / "llama_2" / "config.json").read_text())
    tensors = dict(open_tensors(DATA / "llama_2")[0])
    tensors["model.layers.1.mlp.extra.weight"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    config = llama.read_config(values)
    encoder = llama.Llama(config)
    names, left_out = llama.parameter_names(config, tensors), llama.not_needed(config, tensors)
    with pytest.raises(InputError) as raised:
        fill(tensors, names, parameter_shapes(encoder), left_out, "llama")
    assert "no parameter takes: ['model.layers.1.mlp.extra.weight']" in raised.value.found
    assert "no tensor fills: ['layer_1/widen/weight']" in raised.value.found
