"""Neighbourhoods and walls against a loop over single cells."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_cube import WALLS, quick_jit

from lattice_jax.lattice.grid import SELF, extend, offsets, seen, shift
from lattice_jax.lattice.surface import towards

ALL_OFFSETS = tuple(itertools.product((-1, 0, 1), repeat=3))


def entry(position: int, size: int, walls: str) -> int | None:
    """Where a reader that asks for `position` along one axis really looks; None for nowhere."""
    if 0 <= position < size:
        return position
    return {
        "zero": None,
        "periodic": position % size,
        "reflect": -position if position < 0 else 2 * (size - 1) - position,
        "edge": min(max(position, 0), size - 1),
    }[walls]


def shift_by_loop(field: np.ndarray, offset: tuple[int, int, int], walls: str) -> np.ndarray:
    """`shift`, cell by cell."""
    result = np.zeros_like(field)
    depth, height, width = field.shape[:3]
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                place = [entry(a + b, size, walls) for a, b, size in zip((z, y, x), offset, field.shape[:3], strict=True)]
                if None not in place:
                    result[z, y, x] = field[tuple(place)]
    return result


@functools.partial(quick_jit, static_argnames="walls")
def all_shifts(field: jax.Array, walls: str) -> jax.Array:
    """The field as every offset shows it."""
    return jnp.stack([shift(field, offset, walls) for offset in ALL_OFFSETS])


@functools.partial(quick_jit, static_argnames="walls")
def all_seen(field: jax.Array, walls: str) -> jax.Array:
    """The same by the fast way: one extended field and its slices."""
    return jnp.stack([seen(extend(field, walls), offset) for offset in ALL_OFFSETS])


def test_von_neumann_offsets_are_self_and_the_six_faces_in_order():
    assert offsets("von_neumann") == (
        (0, 0, 0),
        (-1, 0, 0),
        (0, -1, 0),
        (0, 0, -1),
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
    )


def test_moore_offsets_are_self_and_the_26_others_in_lexicographic_order():
    expected = [(z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    expected.remove((0, 0, 0))
    assert offsets("moore") == ((0, 0, 0), *expected)
    assert len(offsets("moore")) == 27


def test_the_neighbour_towards_a_face_is_the_one_nearer_to_it():
    depths = jnp.broadcast_to(jnp.arange(4).reshape(4, 1, 1), (4, 2, 3))
    np.testing.assert_array_equal(shift(depths, towards("front"), "edge"), np.maximum(np.asarray(depths) - 1, 0))
    np.testing.assert_array_equal(shift(depths, towards("back"), "edge"), np.minimum(np.asarray(depths) + 1, 3))
    assert (towards("top"), towards("right")) == ((0, -1, 0), (0, 0, 1))
    np.testing.assert_array_equal(shift(depths, SELF, "zero"), depths)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(shape=st.tuples(*[st.integers(2, 5)] * 3), walls=st.sampled_from(WALLS), seed=st.integers(0, 2**31))
@example(shape=(3, 4, 5), walls="zero", seed=0)
@example(shape=(2, 3, 4), walls="periodic", seed=0)
@example(shape=(2, 2, 3), walls="reflect", seed=0)
@example(shape=(4, 2, 3), walls="edge", seed=0)
def test_shift_and_extended_slices_equal_a_loop_over_cells(shape, walls, seed):
    """Two channels a cell, because trailing axes must travel with their cell."""
    field = np.random.default_rng(seed).permutation(2 * np.prod(shape)).reshape(*shape, 2).astype(np.int32) + 1
    expected = np.stack([shift_by_loop(field, offset, walls) for offset in ALL_OFFSETS])
    np.testing.assert_array_equal(all_shifts(jnp.asarray(field), walls), expected)
    np.testing.assert_array_equal([shift(field, offset, walls) for offset in ALL_OFFSETS], expected)
    np.testing.assert_array_equal(all_seen(jnp.asarray(field), walls), expected)
