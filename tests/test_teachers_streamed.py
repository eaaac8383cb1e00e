"""Layers from disk one after the other: the same states as all at once, and what is read of the checkpoint and when."""

import dataclasses
import gc
import json
import runpy
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_teachers_llama import DATA, VARIANTS, load, reference
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers import cache
from lattice_jax.teachers.cache import extract
from lattice_jax.teachers.checkpoint import open_tensors
from lattice_jax.teachers.embed import TOKENS_PER_SWEEP, last_pool, mean_pool, sweeps
from lattice_jax.teachers.streamed import Batch, Streamed, encode_streamed, open_streamed, sweep

CONFIGURATION = Path(__file__).parents[1] / "configs" / "llama3_8b.py"


class Watched(Mapping[str, np.ndarray]):
    """A checkpoint's tensors that write down the name of each one asked for."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors = tensors
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def streamed(name: str, numbers: str = "float32") -> Streamed:
    config, _, _ = load(name)
    return open_streamed(open_tensors(DATA / name)[0], config, numbers=numbers)


def batches(name: str) -> list[Batch]:
    """The reference's texts as two batches of different lengths; the last text, padded on the left, is left out."""
    expected = reference(name)
    ids, mask = expected["token_ids"], expected["mask"]
    return [Batch(ids[:1], mask[:1]), Batch(ids[1:2, :10], mask[1:2, :10])]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("prefetch", [True, False])
def test_every_layer_of_every_batch_equals_torch(name, prefetch):
    expected, layers = reference(name)["states"], 0
    for layer, hidden in enumerate(sweep(streamed(name), batches(name), prefetch=prefetch)):
        np.testing.assert_allclose(hidden[0][0], expected[layer, 0], atol=1e-5)
        np.testing.assert_allclose(hidden[1][0, :9], expected[layer, 1, :9], atol=1e-5)
        layers += 1
    assert layers == 3


@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_states_equal_the_whole_encoder(numbers):
    _, encoder, variables = load("llama_3", numbers)
    texts = batches("llama_3")
    whole = [encoder.apply(variables, text.token_ids, text.mask) for text in texts]
    for layer, hidden in enumerate(sweep(streamed("llama_3", numbers), texts)):
        for found, states, text in zip(hidden, whole, texts, strict=True):
            assert found.dtype == jnp.dtype(numbers)
            wanted = np.asarray(states[layer], np.float32)[text.mask]
            # One ulp of bfloat16 at states of up to 8, from another order of the same sums.
            tolerance = 1e-5 if numbers == "float32" else 2**-4
            np.testing.assert_allclose(np.asarray(found, np.float32)[text.mask], wanted, atol=tolerance)


def test_vectors_are_pooled_and_averaged_over_the_layers_asked_for():
    expected = reference("llama_2")["states"]
    first, second = encode_streamed(streamed("llama_2"), batches("llama_2"), pool=mean_pool, states=(0, -1))
    for vectors, wanted in ((first, expected[:, 0]), (second, expected[:, 1, :9])):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors[0], (wanted[0].mean(0) + wanted[2].mean(0)) / 2, atol=1e-5)
    (_, last) = encode_streamed(streamed("llama_2"), batches("llama_2"), pool=last_pool)
    np.testing.assert_allclose(last[0], expected[-1, 1, 8], atol=1e-5)


def test_each_layer_is_read_once_and_only_as_far_as_needed():
    config, _, _ = load("llama_2")
    watched = Watched(open_tensors(DATA / "llama_2")[0])
    opened = open_streamed(watched, config)
    assert "lm_head.weight" not in watched.asked
    watched.asked.clear()
    progress = []
    encode_streamed(opened, batches("llama_2"), pool=mean_pool, on_layer=lambda *step: progress.append(step), prefetch=False)
    layers = [name.split(".")[2] for name in watched.asked if ".layers." in name]
    assert layers == sorted(layers)
    assert len(set(watched.asked)) == 2 + 2 * 9
    assert progress == [(0, 2), (1, 2), (2, 2)]
    watched.asked.clear()
    encode_streamed(opened, batches("llama_2"), pool=mean_pool, states=(1,))
    assert {name.split(".")[2] for name in watched.asked if ".layers." in name} == {"0"}


def test_only_one_layer_is_held_at_a_time():
    opened, texts = streamed("llama_2"), batches("llama_2")
    gc.collect()
    before = {id(array) for array in jax.live_arrays()}
    for hidden in sweep(opened, texts):
        gc.collect()
        held = [array for array in jax.live_arrays() if id(array) not in before]
        weights = [array for array in held if array.ndim == 2]
        assert not weights
        assert len(hidden) == 2


def test_a_checkpoint_that_does_not_fit_is_refused_before_it_is_read():
    config, _, _ = load("llama_2")
    tensors = dict(open_tensors(DATA / "llama_2")[0])
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(InputError, match=r"no tensor fills: \['layer_1/widen/weight'\]"):
        open_streamed(tensors, config)


def shipped_configuration(tmp_path: Path) -> tuple[TeacherConfig, Tokenizer]:
    """The teacher of configs/llama3_8b.py, pointed at a small checkpoint of that family, and its tokenizer."""
    shutil.copytree(DATA / "llama_3", tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"max_position_embeddings": 8192}))
    words = {word: index for index, word in enumerate(["<unk>", *map(str, range(47))])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    shipped = runpy.run_path(str(CONFIGURATION))["CONFIG"].teacher
    directories = {"name": str(tmp_path), "cache_directory": str(tmp_path / "cache")}
    return dataclasses.replace(shipped, numbers="float32", **directories), tokenizer


def test_the_configuration_of_llama_3_8b_needs_only_a_directory(tmp_path):
    config, tokenizer = shipped_configuration(tmp_path)
    assert config.streamed
    found = extract(["1 2 3", "40 7"], config).embeddings[:]
    _, encoder, variables = load("llama_3")
    for text, embedding in zip(["1 2 3", "40 7"], found, strict=True):
        ids = tokenizer.encode(config.template.replace("{text}", text)).ids
        state = encoder.apply(variables, jnp.array([ids]), jnp.ones((1, len(ids)), bool))[-1][0, -1]
        np.testing.assert_allclose(embedding, state / jnp.linalg.norm(state), atol=1e-5)


def test_texts_on_their_way_to_disk_go_through_the_layers_in_whole_sweeps(tmp_path, monkeypatch):
    """However few texts another teacher would be given at once, the layers are read once for all of these."""
    config, _ = shipped_configuration(tmp_path)
    monkeypatch.setattr(cache, "ENCODED_ROWS", 1)
    encode, calls = cache.encode, []
    monkeypatch.setattr(
        cache, "encode", lambda teacher, tokens, **how: calls.append(len(tokens)) or encode(teacher, tokens, **how)
    )
    assert extract(["1 2 3", "40 7", "9", "8 " * 30], config).new == 4
    assert calls == [4]


def test_sweeps_hold_every_batch_once_and_few_tokens():
    planned = [(1024, 20, [0]), (512, 90, [1]), (64, 300, [2]), (64, 4, [3]), (16, 10_000, [4]), (16, 1, [5])]
    groups = list(sweeps(planned))
    assert [batch for group in groups for batch in group] == planned
    assert [len(group) for group in groups] == [1, 3, 1, 1]
    sizes = [sum(length * size for length, size, _ in group) for group in groups]
    # A batch that is larger than a sweep goes alone.
    assert [size <= TOKENS_PER_SWEEP for size in sizes] == [True, True, False, True]


@pytest.mark.parametrize("states", [(3,), (-4,), ()])
def test_states_that_are_not_there_are_refused(states):
    with pytest.raises(InputError, match="are asked for"):
        encode_streamed(streamed("llama_2"), batches("llama_2"), pool=mean_pool, states=states)
