"""The pool of states: what is drawn, written, reseeded and damaged, and diversity on states with a known answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import SMALL, lively_state

from lattice_jax.config import GridConfig, PoolConfig
from lattice_jax.lattice import pool
from lattice_jax.lattice.step import State

KEY = jax.random.key(2)
SIZE = 6


def lively_pool() -> pool.Pool:
    """States that differ, with ages 1 to 6 and losses 0.0, 0.3, 0.1, 0.5, 0.2, 0.4."""
    loss = jnp.array([0.0, 0.3, 0.1, 0.5, 0.2, 0.4])
    return pool.Pool(lively_state(SMALL, SIZE), jnp.arange(1, SIZE + 1, dtype=jnp.int32), loss)


def by_state(state: State) -> np.ndarray:
    """[state, number]: everything that each state holds."""
    return np.concatenate([np.moveaxis(np.asarray(field), 3, 0).reshape(field.shape[3], -1) for field in state], 1)


def states(rows) -> State:
    """The inverse, for rows of 2 x 3 x 2 cells with 1 visible and 1 memory channel."""
    fields = np.asarray(rows, np.float32).reshape(-1, 2, 2, 3, 2, 1)
    return State(*(jnp.moveaxis(jnp.asarray(fields[:, part]), 0, 3) for part in range(2)))


def test_a_new_pool_is_quiescent():
    created = pool.create(SMALL, SIZE)
    assert created.state.visible.shape == (3, 4, 5, SIZE, 3)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(created))


def test_states_are_drawn_without_replacement_with_what_is_known_of_them():
    whole, seen = lively_pool(), set()
    for number in range(20):
        places, drawn = pool.draw(whole, 4, key=jax.random.fold_in(KEY, number))
        assert len(set(places.tolist())) == 4
        seen |= set(places.tolist())
        np.testing.assert_array_equal(by_state(drawn.state), by_state(whole.state)[places])
        np.testing.assert_array_equal(drawn.age, whole.age[places])
        np.testing.assert_array_equal(drawn.loss, whole.loss[places])
    assert seen == set(range(SIZE))


def test_what_is_written_back_is_in_its_places_and_nothing_else_has_changed():
    whole = lively_pool()
    places, drawn = pool.draw(whole, 3, key=KEY)
    new = pool.Pool(jax.tree.map(lambda field: field + 1, drawn.state), drawn.age + 1, drawn.loss + 1)
    written = pool.write_back(whole, places, new)
    expected = by_state(whole.state)
    expected[places] += 1
    np.testing.assert_array_equal(by_state(written.state), expected)
    changed = np.isin(np.arange(SIZE), places)
    np.testing.assert_array_equal(written.age, np.asarray(whole.age) + changed)
    np.testing.assert_allclose(written.loss, np.asarray(whole.loss) + changed)


@pytest.mark.parametrize("count", [0, 2, SIZE])
def test_the_states_with_the_worst_answers_are_reseeded(count):
    reseeded = pool.reseed(lively_pool(), count)
    worst = [3, 5, 1, 4, 2, 0][:count]
    quiet = ~by_state(reseeded.state).any(1)
    assert set(np.flatnonzero(quiet)) == set(worst)
    np.testing.assert_array_equal(np.asarray(reseeded.age) == 0, quiet)


def test_the_best_states_that_were_asked_before_are_damaged_in_a_region():
    whole = lively_pool()
    whole = whole._replace(age=whole.age.at[0].set(0))
    hurt = pool.damage_best(whole, 2, PoolConfig(damage="box"), SMALL.grid, key=KEY)
    changed = (by_state(hurt.state) != by_state(whole.state)).any(1)
    assert set(np.flatnonzero(changed)) == {2, 4}, "place 0 has the smallest loss, but was never asked"
    np.testing.assert_array_equal(hurt.age, whole.age)


def test_damage_clears_the_region_and_leaves_the_rest():
    state = lively_state(SMALL, 4)
    masks = pool.damage_masks("any", SMALL.grid, 4, key=KEY)
    for before, after in zip(state, pool.damage(state, masks), strict=True):
        np.testing.assert_array_equal(after, np.where(masks, 0.0, before))


@functools.cache
def regions(kind: str) -> np.ndarray:
    """[region, depth, height, width] of a cube with sides 6, 8, 9."""
    masks = pool.damage_masks(kind, GridConfig(6, 8, 9), 200, key=KEY)
    return np.moveaxis(np.asarray(masks[..., 0]), 3, 0)


@pytest.mark.parametrize("kind", [*pool.KINDS, "any"])
def test_a_region_is_part_of_the_cube_and_of_no_two_alike(kind):
    share = regions(kind).mean((1, 2, 3))
    assert share.min() > 0
    assert share.max() < 0.6
    assert len(np.unique(regions(kind).reshape(200, -1), axis=0)) > (3 if kind == "half_cube" else 100)


def test_a_sphere_is_all_cells_within_a_radius_of_one_of_them():
    cells = np.indices((6, 8, 9)).reshape(3, -1).T
    apart = np.square(cells[:, None] - cells[None]).sum(-1)
    for region in regions("sphere"):
        inside = region.reshape(-1)
        farthest_in = np.where(inside, apart, -1).max(1)
        assert np.any(farthest_in < np.where(inside, 999, apart).min(1))
        assert farthest_in[inside].min() <= 3**2, "half the shortest side at most"


def test_a_box_is_full_and_within_its_sides():
    for region in regions("box"):
        cells = np.argwhere(region)
        sides = cells.max(0) - cells.min(0) + 1
        assert len(cells) == np.prod(sides)
        assert np.all(sides >= 1)
        assert np.all(sides <= np.round(0.75 * np.array([6, 8, 9])))


def test_half_cubes_are_the_six_halves():
    found = {region.tobytes() for region in regions("half_cube")}
    place = np.indices((6, 8, 9))
    wanted = [place[axis] < (size - 1) / 2 for axis, size in enumerate((6, 8, 9))]
    wanted += [place[axis] > (size - 1) / 2 for axis, size in enumerate((6, 8, 9))]
    assert found == {region.tobytes() for region in wanted}


def test_any_kind_of_damage_is_each_of_the_three():
    halves = {region.tobytes() for region in regions("half_cube")}
    full = [len(np.argwhere(r)) == np.prod(np.ptp(np.argwhere(r), axis=0) + 1) for r in regions("any")]
    half = [region.tobytes() in halves for region in regions("any")]
    for share in (np.mean(half), np.mean(np.logical_and(full, np.logical_not(half))), 1 - np.mean(full)):
        assert 0.2 < share < 0.5


# Diversity


CONSTRUCTED = {
    "orthogonal, of one size": (np.eye(4, 24), 2**0.5, 4.0),
    "orthogonal, in memory alone": (np.eye(4, 24, 14) * 7, 2**0.5, 4.0),
    "all the same": (np.ones((4, 24)), 0.0, 1.0),
    "opposite": (np.array([[1.0], [-1.0]]) * np.ones((2, 24)), 2.0, 1.0),
    "two groups": (np.eye(2, 24)[[0, 0, 1, 1]], 2**0.5 * 4 / 6, 2.0),
    "quiescent": (np.zeros((4, 24)), 0.0, 1.0),
}


@pytest.mark.parametrize("case", CONSTRUCTED)
def test_diversity_of_constructed_states(case):
    rows, distance, rank = CONSTRUCTED[case]
    found = pool.diversity(states(rows))
    assert float(found.distance) == pytest.approx(distance, abs=1e-3)
    assert float(found.effective_rank) == pytest.approx(rank, abs=0.02)


def test_effective_rank_is_the_entropy_of_the_singular_values_and_scale_changes_nothing():
    rows = np.random.default_rng(0).normal(size=(5, 24)) @ np.diag(np.linspace(0.1, 2, 24))
    share = np.linalg.svd(rows, compute_uv=False)
    share = share / share.sum()
    found, larger = pool.diversity(states(rows)), pool.diversity(states(30 * rows))
    assert float(found.effective_rank) == pytest.approx(np.exp(-np.sum(share * np.log(share))), rel=1e-4)
    assert float(larger.distance) == pytest.approx(float(found.distance), rel=1e-5)
    assert float(larger.effective_rank) == pytest.approx(float(found.effective_rank), rel=1e-4)


@pytest.mark.parametrize(
    ("rows", "alarm"),
    [
        (np.eye(4, 24), False),
        (np.ones((4, 24)) + 0.01 * np.eye(4, 24), True),
        (np.arange(1, 5)[:, None] * np.ones((4, 24)), True),
        (np.ones((4, 24)) + 2 * np.eye(4, 24), False),
    ],
    ids=["diverse", "nearly one state", "one state in four sizes", "a common part, and one of their own"],
)
def test_the_alarm_is_for_states_that_are_as_good_as_one(rows, alarm):
    assert bool(pool.collapsed(pool.diversity(states(rows)), PoolConfig())) == alarm
