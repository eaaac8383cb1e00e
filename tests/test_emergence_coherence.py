"""Spatial coherence and temporal consistency, on states whose figures are known."""

import itertools

import numpy as np
import pytest

from lattice_jax.lattice.emergence import coherence, metrics, nulls, stability

GRID = (4, 6, 8)
DRAWN = np.random.default_rng(0)


def field(values: np.ndarray) -> np.ndarray:
    """One question, one channel."""
    return values[..., None, None].astype(np.float32)


DEPTH, HEIGHT, WIDTH = np.indices(GRID)
CHECKERBOARD = field((-1.0) ** (DEPTH + HEIGHT + WIDTH))
GRADIENT = field(WIDTH)


def moran_by_loop(values: np.ndarray, radius, periodic: bool) -> float:
    """The definition, pair by pair."""
    z = values - values.mean()
    cells = list(itertools.product(*map(range, values.shape)))
    total, weight = 0.0, 0
    for one, other in itertools.permutations(cells, 2):
        apart = np.abs(np.subtract(one, other))
        if periodic:
            apart = np.minimum(apart, np.array(values.shape) - apart)
        if radius(apart):
            total, weight = total + z[one] * z[other], weight + 1
    return len(cells) / weight * total / np.square(z).sum()


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    ("neighbourhood", "radius"), [("von_neumann", lambda a: a.sum() == 1), ("moore", lambda a: a.max() == 1)]
)
def test_morans_i_is_the_sum_over_all_pairs(neighbourhood, radius, periodic):
    values = DRAWN.normal(size=(3, 4, 5))
    found = coherence.morans_i(field(values), neighbourhood, periodic=periodic)
    assert found[0] == pytest.approx(moran_by_loop(values.astype(np.float32), radius, periodic), abs=1e-5)


@pytest.mark.parametrize("periodic", [True, False])
def test_a_checkerboard_is_perfectly_dispersed(periodic):
    assert coherence.morans_i(CHECKERBOARD, "von_neumann", periodic=periodic)[0] == pytest.approx(-1)
    for direction in coherence.DIRECTIONS:
        sign = (-1) ** np.abs(direction).sum()
        assert coherence.directional_correlation(CHECKERBOARD, direction, periodic=periodic)[0] == pytest.approx(sign)


def test_a_gradient_is_smooth_along_and_constant_across():
    assert coherence.morans_i(GRADIENT, "von_neumann", periodic=False)[0] > 0.85
    assert coherence.directional_correlation(GRADIENT, (1, 0, 0), periodic=False)[0] == pytest.approx(1)
    assert coherence.directional_correlation(GRADIENT, (0, 1, 0), periodic=False)[0] == pytest.approx(1)
    table = coherence.correlogram(GRADIENT, periodic=False)
    rows = dict(zip(coherence.DIRECTIONS, table, strict=True))
    assert np.nanmin(rows[(0, 1, 0)]) == pytest.approx(1)
    assert np.isfinite(rows[(0, 1, 0)]).sum() == GRID[1] - 1
    assert np.isfinite(rows[(1, 1, 1)]).sum() == min(GRID) - 1
    along = rows[(0, 0, 1)]
    assert np.all(np.diff(along) < 0), "the two ends of a gradient are each other's opposite"
    assert along[0] > 0.5
    assert along[-1] < -0.99


def test_there_are_thirteen_directions_no_two_of_them_opposite():
    assert len(coherence.DIRECTIONS) == 13
    assert not {tuple(-np.array(direction)) for direction in coherence.DIRECTIONS} & set(coherence.DIRECTIONS)
    assert len(coherence.across(0)) == 4


def test_the_null_of_a_correlogram_is_what_cells_without_order_have():
    """Every pair of shuffled cells has the expected correlation -1/(cells - 1); few pairs stray farther than many."""
    cells, white = int(np.prod(GRID)), field(DRAWN.normal(size=GRID))
    generator = np.random.default_rng(5)

    def z_scores(values: np.ndarray) -> np.ndarray:
        null = coherence.correlogram_null(values, periodic=False, shuffles=60, generator=generator)
        table = coherence.correlogram(values, periodic=False)
        for part in null:
            np.testing.assert_array_equal(np.isnan(part), np.isnan(table))
        return (table - null.mean) / null.deviation

    null = coherence.correlogram_null(white, periodic=False, shuffles=60, generator=generator)
    assert np.nanmean(null.mean[:, 0]) == pytest.approx(-1 / (cells - 1), abs=0.01)
    assert np.all(null.deviation[:, 0] < null.deviation[:, 2])
    assert np.nanstd(z_scores(white)) == pytest.approx(1, abs=0.4)
    assert z_scores(GRADIENT)[coherence.DIRECTIONS.index((0, 0, 1)), 0] > 5


def test_cells_without_order_have_the_expected_moran():
    cells = int(np.prod(GRID))
    draws = [coherence.morans_i(field(DRAWN.normal(size=GRID)), "moore", periodic=False)[0] for _ in range(200)]
    assert np.mean(draws) == pytest.approx(-1 / (cells - 1), abs=4 * np.std(draws) / np.sqrt(200))


def test_waves_in_the_plane_are_lateral_and_layers_are_not():
    planted = field(np.sin(HEIGHT) + np.sin(WIDTH) + 0 * DEPTH)
    layered = field(DRAWN.normal(size=GRID[0])[:, None, None] + DRAWN.normal(size=GRID))
    generator = np.random.default_rng(1)

    def z_score(values: np.ndarray) -> float:
        def measure(values: np.ndarray) -> float:
            return float(coherence.lateral_coherence(values, axis=0, periodic=False)[0])

        draws = [measure(nulls.shuffled_within_layers(values, generator, axis=0)) for _ in range(50)]
        z = nulls.compare(measure(values), draws).z
        assert z is not None
        return z

    assert z_score(planted) > 5
    assert abs(z_score(layered)) < 4


@pytest.mark.parametrize(("periodic", "along_columns"), [(False, -1 / np.sqrt(50)), (True, -1 / 2)])
def test_axial_coherence_is_the_correlation_along_the_layers_mean_over_questions(periodic, along_columns):
    """Both columns of the first question are 1, 2, 6 from layer to layer: -2, -1, 3 about their mean, so the pairs give
    (2 - 3) / sqrt(5 x 10), and with the pair across the wall (2 - 3 - 6) / 14. In the second no layer differs from the next."""
    final = np.empty((3, 1, 2, 2, 1), np.float32)
    final[:, 0, :, 0, 0] = np.array([[1], [2], [6]])
    final[:, 0, :, 1, 0] = np.array([1, 5])
    found = metrics.METRICS["axial_coherence"].measure(final, metrics.Setting(periodic, block=1, seed=0))
    assert found == pytest.approx((along_columns + 1) / 2)


def test_questions_are_measured_one_by_one_and_a_constant_field_has_no_order():
    both = np.concatenate([CHECKERBOARD, GRADIENT, np.full_like(GRADIENT, 3.0)], axis=3)
    found = coherence.morans_i(both, "von_neumann", periodic=False)
    assert found[0] == pytest.approx(-1)
    assert found[1] > 0.85
    assert found[2] == 0


# Time


def pass_of(states: np.ndarray) -> np.ndarray:
    """Whole states [time, cell] as the trajectory of a row of cells."""
    return states[:, :, None, None, None, None].astype(np.float32)


def test_states_at_rest_are_consistent_and_states_at_right_angles_are_not():
    still = pass_of(np.tile(DRAWN.normal(size=5), (6, 1)))
    assert stability.temporal_consistency(still)[0] == pytest.approx(1)
    assert stability.temporal_consistency(pass_of(np.eye(6)))[0] == 0
    flipping = pass_of(np.outer((-1.0) ** np.arange(6), DRAWN.normal(size=5)))
    assert stability.temporal_consistency(flipping)[0] == pytest.approx(-1)
    assert stability.temporal_consistency(np.zeros((4, 1, 1, 1, 1, 1)))[0] == 0


def test_a_slow_wave_is_autocorrelated_and_shuffling_time_breaks_it():
    times = np.arange(40)
    wave = pass_of(np.sin(2 * np.pi * times[:, None] / 40 + DRAWN.uniform(0, 6, 20)))
    value = float(stability.temporal_autocorrelation(wave)[0])
    generator = np.random.default_rng(2)
    draws = [float(stability.temporal_autocorrelation(nulls.shuffled_times(wave, generator))[0]) for _ in range(40)]
    assert value > 0.9
    assert np.mean(draws) == pytest.approx(-1 / 40, abs=0.1)
    assert nulls.compare(value, draws).z > 5


def test_settling_is_after_the_last_large_change():
    def settling(sizes: list[float]) -> float:
        states = np.concatenate([[1.0], 1.0 + np.cumsum(sizes)])[:, None]
        return float(stability.settling_time(pass_of(states), 0.05)[0])

    assert settling([0.5, 0.5, 0.01, 0.01]) == 3
    assert settling([0.5, 0.01, 0.5, 0.01]) == 4
    assert settling([0.01, 0.01, 0.01, 0.5]) == 5
    assert settling([0.0, 0.0, 0.0, 0.0]) == 1


def test_a_pass_that_comes_to_rest_settles_sooner_than_with_its_changes_in_random_order():
    metric, where = metrics.METRICS["settling_time"], metrics.Setting(periodic=False, block=1, seed=0)
    assert metric.null.shuffle is not None
    directions = DRAWN.normal(size=(17, 50))
    sizes = np.repeat([1.0, 0.01], [9, 8])[:, None]
    generator = np.random.default_rng(5)
    for order, settled in ((slice(None), True), (generator.permutation(17), False)):
        states = pass_of(np.cumsum((sizes * directions)[order], axis=0))
        draws = [metric.measure(metric.null.shuffle(states, generator, where), where) for _ in range(20)]
        compared = nulls.compare(metric.measure(states, where), draws)
        assert compared.z is not None
        assert (compared.z < -3) == settled


def test_relative_change_is_of_the_state_that_it_leads_to():
    change = stability.relative_change(pass_of(np.array([[0.0], [2.0], [3.0], [3.0]])))
    np.testing.assert_allclose(change[:, 0], [1, 1 / 3, 0])


# Null models


def test_shuffles_keep_every_number_and_move_whole_cells():
    values = DRAWN.normal(size=(*GRID, 2, 3))
    generator = np.random.default_rng(3)
    moved = nulls.shuffled_cells(values, generator)
    rows = {tuple(row) for row in values.reshape(-1, 6)}
    assert {tuple(row) for row in moved.reshape(-1, 6)} == rows
    assert not np.array_equal(moved, values)
    within = nulls.shuffled_within_layers(values, generator, axis=2)
    for layer in range(GRID[2]):
        one, other = (side[:, :, layer].reshape(-1, 6) for side in (values, within))
        assert {tuple(row) for row in one} == {tuple(row) for row in other}
    trajectory = np.arange(7)[:, None]
    shuffled = nulls.shuffled_times(trajectory, generator)
    assert shuffled[0] == 0
    assert sorted(shuffled.ravel()) == list(range(7))
    states = np.array([5.0, 6, 8, 12, 20, 36])[:, None] * np.array([1, -1])
    moved = nulls.shuffled_changes(states, generator)
    assert not np.array_equal(moved, states)
    np.testing.assert_array_equal(moved[[0, -1]], states[[0, -1]])
    np.testing.assert_array_equal(np.sort(np.diff(moved[:, 0])), [1, 2, 4, 8, 16])
    np.testing.assert_array_equal(moved[:, 1], -moved[:, 0])


def test_whole_blocks_are_moved_and_stay_whole():
    blocks = np.arange(24).reshape(2, 3, 4)
    values = blocks.repeat(5, 1).repeat(5, 2)[:, :13, :17]
    moved = nulls.shuffled_blocks(values, np.random.default_rng(3), block=5)
    assert moved.shape == values.shape
    assert not np.array_equal(moved, values)
    np.testing.assert_array_equal(np.sort(moved[:, ::5, ::5], axis=None), np.arange(24))
    np.testing.assert_array_equal(moved, moved[:, ::5, ::5].repeat(5, 1).repeat(5, 2)[:, :13, :17])


def test_a_band_is_the_mean_and_deviation_of_every_place():
    found = nulls.band([np.array([1.0, 5.0, np.nan]), np.array([3.0, 5.0, np.nan])])
    np.testing.assert_allclose(found.mean, [2, 5, np.nan])
    np.testing.assert_allclose(found.deviation, [np.sqrt(2), 0, np.nan])


def test_a_comparison_is_the_standard_score():
    compared = nulls.compare(5.0, [1.0, 2.0, 3.0])
    assert (compared.null, compared.null_deviation, compared.z, compared.draws) == (2.0, 1.0, 3.0, 3)
    assert nulls.compare(5.0, [2.0, 2.0 + 1e-6]).z is None
    assert nulls.compare(5.0, [2.0, 2.0 + 1e-4]).z is None
    assert nulls.compare(5.0, [2.0, 2.0 + 1e-2]).z is not None
