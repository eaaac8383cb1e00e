"""The cell's budget, counted from its arrays, and its start values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import SMALL, quick_jit, with_cell

from lattice_jax.config import CellConfig, GridConfig, LatticeConfig
from lattice_jax.errors import InputError
from lattice_jax.lattice import draw
from lattice_jax.lattice.cell import (
    COMPONENTS,
    DECAYED,
    component_counts,
    hidden_width,
    initialise,
    parameters_per_cell,
    shapes,
    sharing_shape,
)
from lattice_jax.lattice.grid import offsets
from lattice_jax.lattice.surface import towards


def start(config: LatticeConfig, seed: int = 0) -> dict:
    """`initialise` as one compiled program, which takes a fraction of the time."""
    return quick_jit(functools.partial(initialise, config))(key=jax.random.key(seed))


def start_shapes(config: LatticeConfig) -> dict:
    """The arrays of `initialise` without their numbers."""
    return jax.eval_shape(functools.partial(initialise, config), key=jax.random.key(0))


def count(arrays: dict) -> int:
    """Numbers in a dict of arrays."""
    return sum(array.size for array in arrays.values())


@pytest.mark.parametrize(("perception", "expected"), [("moore", 25_024), ("von_neumann", 24_384)])
def test_a_cell_of_hidden_128_and_memory_32_has_25_thousand_parameters(perception, expected):
    cell = CellConfig(visible=32, memory=32, hidden=128, perception=perception)
    arrays = start(LatticeConfig(cell=cell, sharing="lattice"))
    assert abs(count(arrays) - 25_000) <= 0.05 * 25_000
    assert count(arrays) == expected == parameters_per_cell(cell) == sum(component_counts(cell).values())


def test_the_default_cube_has_about_61_million_parameters():
    arrays = start_shapes(LatticeConfig())
    assert count(arrays) == 2_475 * parameters_per_cell(CellConfig())
    assert 61e6 < count(arrays) < 62e6


def test_every_array_belongs_to_one_component():
    names = [name for part in COMPONENTS.values() for name in part]
    assert sorted(names) == sorted(shapes(CellConfig()))
    assert {name for name in names if name.endswith("_kernel")} == DECAYED


@functools.cache
def counts_by_width() -> dict[int, int]:
    """Parameters of a cell of 4 visible channels at every hidden width."""
    return {hidden: parameters_per_cell(CellConfig(visible=4, memory=4, hidden=hidden)) for hidden in range(1, 1_200)}


@pytest.mark.parametrize("budget", [300, 301, 2_000, 25_000, 25_015])
def test_the_hidden_width_is_the_one_nearest_to_the_budget(budget):
    cell = CellConfig(visible=4, memory=4, parameter_budget=budget)
    counts = counts_by_width()
    nearest = min(counts, key=lambda hidden: abs(counts[hidden] - budget))
    assert hidden_width(cell) == nearest
    assert parameters_per_cell(cell) == counts[nearest]


def test_the_arrays_take_the_solved_width():
    config = with_cell(SMALL, parameter_budget=1_000)
    arrays = start_shapes(config)
    assert count(arrays) == 3 * 4 * 5 * parameters_per_cell(config.cell)
    assert arrays["content_kernel"].shape[-1] == hidden_width(config.cell) != config.cell.hidden


def test_a_budget_below_the_narrowest_cell_is_refused():
    with pytest.raises(InputError, match=r"lattice\.cell\.parameter_budget is 100") as refusal:
        hidden_width(CellConfig(parameter_budget=100))
    assert str(parameters_per_cell(CellConfig(hidden=1))) in refusal.value.expected


@pytest.mark.parametrize(("sharing", "leading"), [("cell", (3, 4, 5)), ("layer", (3, 1, 1)), ("lattice", (1, 1, 1))])
def test_shared_weights_have_one_copy(sharing, leading):
    config = LatticeConfig(grid=GridConfig(3, 4, 5), cell=SMALL.cell, sharing=sharing, steps=8)
    arrays = start_shapes(config)
    assert sharing_shape(config) == leading
    assert {name: array.shape for name, array in arrays.items()} == {
        name: (*leading, *shape) for name, shape in shapes(config.cell).items()
    }


def test_cells_start_as_a_wave_guide_with_weights_of_their_own():
    arrays = start(SMALL)
    ahead = offsets("von_neumann").index(towards("front"))
    np.testing.assert_array_equal(arrays["perception"][..., ahead, :], np.ones((3, 4, 5, 3)))
    assert 0.01 < float(jnp.std(jnp.delete(arrays["perception"], ahead, -2))) < 0.1
    for name in DECAYED:
        assert len(np.unique(arrays[name].reshape(60, -1), axis=0)) == 60


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5, 2, 3), (2, 0), ()])
def test_numbers_drawn_flat_are_those_of_jax(shape):
    key = jax.random.key(3)
    np.testing.assert_array_equal(draw.normal(key, shape), jax.random.normal(key, shape))


@pytest.mark.parametrize("size", [0, 1, 2, 60, 1626, 2475, 5000])
def test_orders_are_drawn_as_by_jax(size):
    keys = jax.random.split(jax.random.key(4), 3)
    drawn = jax.jit(jax.vmap(lambda key: draw.permutation(key, size)))(keys)
    np.testing.assert_array_equal(drawn, jax.vmap(lambda key: jax.random.permutation(key, size))(keys))
    assert drawn.dtype == jnp.int32


def test_alike_numbers_keep_their_order(monkeypatch):
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: jnp.arange(shape[0], dtype=dtype) // 2 % 3)
    np.testing.assert_array_equal(draw.permutation(jax.random.key(0), 7), [0, 1, 6, 2, 3, 4, 5])


def test_start_values_depend_on_the_key_alone():
    first, again, other = (start(SMALL, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["content_kernel"], again["content_kernel"])
    assert not np.array_equal(first["content_kernel"], other["content_kernel"])
