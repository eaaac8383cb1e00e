"""Products on a matrix unit beside XLA's: values, encoders, and who may use it."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.native import build
from lattice_jax.teachers.embed import embed, load_teacher, pad, tokenize
from lattice_jax.teachers.native import product
from lattice_jax.teachers.native.product import choose, has_matrix_unit, split_product
from lattice_jax.teachers.stages import hidden_states

TEXTS = json.loads((Path(__file__).parent / "data" / "teacher_texts.json").read_text(encoding="utf-8"))
LAST_WITH_FIRST = (((1,), (0,)), ((), ()))
WIDTHS = (768, 3072)

with_unit = pytest.mark.skipif(not has_matrix_unit(), reason="this processor has no matrix unit")


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def split(states, matrix) -> np.ndarray:
    return np.asarray(jax.jit(partial(split_product, dimension_numbers=LAST_WITH_FIRST))(states, matrix))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Distance relative to size."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@with_unit
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("states", "depth", "columns"),
    [(1, 32, 32), (33, 64, 96), (320, 96, 32), (1000, 384, 64), (271, 1536, 160)],
)
def test_it_is_the_product_to_a_few_millionths(states, depth, columns, threads, monkeypatch):
    monkeypatch.setattr(product.joblib, "cpu_count", lambda: threads)
    left, right = drawn(states, depth), drawn(depth, columns, seed=1)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    found = split(left, right)
    assert error(found, exact) < 6e-6
    assert error(found[-1], exact[-1]) < 1e-5  # a last block that is not whole
    assert error(found, exact) > error(left @ right, exact)  # that it is not XLA's


@with_unit
def test_the_same_call_gives_the_same_bits_on_any_number_of_threads(monkeypatch):
    left, right, found = drawn(500, 64), drawn(64, 96, seed=1), []
    for threads in (1, 2, 7):
        monkeypatch.setattr(product.joblib, "cpu_count", lambda threads=threads: threads)
        found.append(split(left, right))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@with_unit
@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_small_and_large_numbers_are_split_as_well(size):
    left, right = drawn(300, 64) * np.float32(size), drawn(64, 32, seed=1)
    assert error(split(left, right), left.astype(np.float64) @ right) < 6e-6


@with_unit
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_seen_where_it_belongs(value):
    left, right = drawn(300, 64), drawn(64, 32, seed=1)
    left[7, 5] = value
    finite = np.isfinite(split(left, right))
    assert not finite[7].any()
    assert np.delete(finite, 7, 0).all()


@with_unit
def test_a_state_becomes_the_same_whatever_is_beside_it():
    left, right = drawn(8, 40, 64), drawn(64, 32, seed=1)
    multiply = jax.jit(partial(split_product, dimension_numbers=(((2,), (0,)), ((), ()))))
    together = np.asarray(multiply(left, right))
    assert together.shape == (8, 40, 32)
    np.testing.assert_array_equal(multiply(left[3:4, :5], right), together[3:4, :5])


@with_unit
def test_a_process_that_did_not_ask_for_the_unit_may_multiply():
    """The system ends one that uses tiles without having been given them."""
    program = """
import jax.numpy as jnp
from lattice_jax.teachers.native.product import split_product
print(float(split_product(jnp.ones((3, 64)), jnp.ones((64, 32)), None).sum()))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == [str(3 * 64 * 32.0)]


@with_unit
def test_a_teacher_takes_it_and_its_embeddings_are_those_of_xla():
    plain = load_teacher(TeacherConfig(name="minilm", products="xla"))
    teacher = load_teacher(TeacherConfig(name="minilm"))
    assert plain.encoder.product is None
    assert teacher.encoder.product is split_product
    texts = [text for text in TEXTS if text.strip()]
    found, expected = (embed(each, texts, batch_size=32) for each in (teacher, plain))
    assert 0 < np.abs(found - expected).max() < 1e-5
    np.testing.assert_allclose(np.sum(found * expected, 1), 1, atol=1e-6)


@with_unit
def test_every_layer_of_a_teacher_is_that_of_xla_to_a_ten_thousandth():
    plain = load_teacher(TeacherConfig(name="minilm", products="xla"))
    encoder = plain.encoder.clone(product=split_product)
    texts = [text for text in TEXTS if text.strip()]
    batch = pad([text.ids[:64] for text in tokenize(plain.tokenizer, texts)], 64, plain.padding_id)
    found, expected = (list(hidden_states(each, plain.parameters, *batch)) for each in (encoder, plain.encoder))
    np.testing.assert_array_equal(found[0], expected[0])
    for state, wanted in zip(found[1:], expected[1:], strict=True):
        assert 0 < np.abs(state - wanted)[batch[1]].max() < 1e-4


def test_xla_multiplies_where_it_is_asked_for_and_where_the_unit_cannot():
    assert choose("xla", numbers="float32", widths=WIDTHS) is None
    assert choose("auto", numbers="bfloat16", widths=WIDTHS) is None
    assert choose("auto", numbers="float32", widths=()) is None
    assert choose("auto", numbers="float32", widths=(312, 1200)) is None
    assert choose("auto", numbers="float32", widths=WIDTHS) is (split_product if has_matrix_unit() else None)


@pytest.mark.parametrize(
    ("numbers", "widths", "found"),
    [
        ("bfloat16", WIDTHS, "the numbers are bfloat16"),
        ("float32", (), "another family"),
        ("float32", (312, 1200), "312 and 1200 numbers wide"),
    ],
)
def test_a_unit_that_is_asked_for_and_cannot_is_refused_with_the_reason(numbers, widths, found):
    with pytest.raises(InputError, match=rf"{found}[\s\S]*--config.teacher.products auto"):
        choose("split", numbers=numbers, widths=widths)


def test_a_processor_without_a_unit_needs_no_compiler_and_refuses_split(monkeypatch):
    monkeypatch.setattr(build, "processor", lambda: "flags : avx2 avx512f")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert choose("auto", numbers="float32", widths=WIDTHS) is None
    with pytest.raises(InputError, match="no matrix unit"):
        choose("split", numbers="float32", widths=WIDTHS)


def test_a_unit_without_a_compiler_is_named_with_the_fix(monkeypatch):
    monkeypatch.setattr(build, "processor", lambda: "flags : amx_bf16 amx_tile")
    monkeypatch.setattr(product.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("CC", "no-such-compiler")
    build.load.cache_clear()
    try:
        with pytest.raises(InputError, match=r"install gcc[\s\S]*--config.teacher.products xla"):
            choose("auto", numbers="float32", widths=WIDTHS)
    finally:
        monkeypatch.undo()
        build.load.cache_clear()
