"""The cube as a dynamical system: passes, influence, exponents, and all metrics of a small cube."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import SMALL, lively_parameters

from lattice_jax.config import EmergenceConfig, UpdateConfig
from lattice_jax.lattice import cube
from lattice_jax.lattice.emergence import criticality, dynamics, influence, metrics
from lattice_jax.lattice.emergence.information import Division
from lattice_jax.lattice.emergence.observe import Inputs, observe

CONFIG = dataclasses.replace(SMALL, update=UpdateConfig(rate=0.7))
PARAMETERS = lively_parameters(CONFIG)
CODES = jnp.asarray(np.random.default_rng(3).normal(size=(3, 20)), jnp.float32)
KEY = jax.random.key(0)
QUESTIONS = 3


@functools.cache
def recorded() -> dynamics.Record:
    return dynamics.record(PARAMETERS, CODES, config=CONFIG)


def test_a_recorded_pass_is_that_of_the_cube():
    answer = cube.answer(PARAMETERS, CODES, key=KEY, config=CONFIG, sampled=False, trajectory=True)
    found = recorded()
    np.testing.assert_allclose(found.trajectory[1:], answer.propagation.trajectory, atol=1e-5)
    np.testing.assert_allclose(found.answers, answer.vectors, atol=1e-5)
    assert not np.any(found.trajectory[0, 1:])
    np.testing.assert_array_equal(found.trajectory[0, 0], found.trajectory[1, 0])


def test_responses_are_the_last_states_and_the_products_of_all():
    found, record = dynamics.respond(PARAMETERS, CODES, config=CONFIG), recorded()
    np.testing.assert_allclose(found.final, record.trajectory[-1], atol=1e-5)
    states = np.moveaxis(np.asarray(record.trajectory), 4, 2).reshape(CONFIG.steps + 1, 3, QUESTIONS, -1)
    states = states - states.mean(2, keepdims=True)
    np.testing.assert_allclose(found.likeness, states @ np.swapaxes(states, 2, 3), atol=1e-3)


# Influence


def answered_with(gains: np.ndarray) -> np.ndarray:
    """The answers of a cube whose cells' updates are multiplied by `gains` [depth, height, width]."""
    prepared, injected = dynamics.prepare(PARAMETERS, CONFIG), dynamics.inject(PARAMETERS, CODES, CONFIG)
    state = dynamics.start(injected, CONFIG)
    for fires in dynamics.updates(CONFIG):
        moved = fires * jnp.asarray(gains, jnp.float32)[..., None, None]
        state = dynamics.advance(prepared, state, injected, moved, config=CONFIG)
    return np.asarray(dynamics.read_out(PARAMETERS, state.visible, CONFIG))


def test_ablation_is_the_change_of_an_answer_without_a_block_of_cells():
    found = influence.by_ablation(PARAMETERS, CODES, block=2, config=CONFIG, together=4)
    assert found.shape == (3, 4, 5)
    whole = answered_with(np.ones((3, 4, 5)))
    for depth, height, width in ((1, 0, 0), (2, 2, 4), (0, 2, 2)):
        gains = np.ones((3, 4, 5))
        gains[depth, height : height + 2, width : width + 2] = 0
        change = np.linalg.norm(answered_with(gains) - whole, axis=1) / np.linalg.norm(whole, axis=1)
        np.testing.assert_allclose(found[depth, height : height + 2, width : width + 2], change.mean(), rtol=1e-4)


def test_the_gradient_is_the_small_change_of_which_ablation_is_the_whole_one():
    probes = np.sqrt(20) * np.eye(20)[:, None].repeat(QUESTIONS, 1)  # every direction once: the norm is exact
    found = influence.by_gradient(PARAMETERS, CODES, jnp.asarray(probes, jnp.float32), config=CONFIG)
    whole, step = answered_with(np.ones((3, 4, 5))), 1e-2
    for cell in ((0, 1, 1), (1, 2, 3), (2, 0, 4)):
        gains = np.ones((3, 4, 5))
        gains[cell] += step
        more = answered_with(gains)
        gains[cell] -= 2 * step
        slope = (more - answered_with(gains)) / (2 * step)
        expected = np.sqrt(np.square(slope).sum(1).mean() / np.square(whole).sum(1).mean())
        assert float(found[cell]) == pytest.approx(expected, rel=0.02)


def test_concentration_is_zero_for_equal_shares_and_nearly_one_for_a_single_cell():
    alone = np.zeros((2, 5, 10))
    assert influence.concentration(alone) == 0
    alone[1, 2, 3] = 7.0
    assert influence.concentration(alone) == pytest.approx(0.99)
    assert influence.concentration(np.full((2, 5, 10), 3.0)) == pytest.approx(0)


def test_agreement_is_that_of_ranks():
    one = np.arange(24.0).reshape(2, 3, 4)
    assert influence.agreement(one, np.exp(one)) == pytest.approx(1)
    assert influence.agreement(one, -one) == pytest.approx(-1)
    assert influence.agreement(one, np.ones_like(one)) == 0


# Criticality


@pytest.mark.parametrize("largest", [0.5, 1.0, 1.25])
def test_the_exponent_of_a_linear_map_is_the_logarithm_of_its_largest_eigenvalue(largest):
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    matrix = jnp.asarray(basis @ np.diag([largest, 0.3 * largest, 0.2, 0.1]) @ basis.T, jnp.float32)
    # Away from the origin, as the size of differences is taken from that of the state.
    middle = jnp.ones((4, 2))
    found = jax.jit(
        lambda state, direction: criticality.largest_exponent(
            lambda point: matrix @ (point - middle) + middle,
            state,
            direction,
            steps=20,
            transient=15,
            relative=1e-2,
            sample_axis=1,
        )
    )(middle, jnp.asarray(np.random.default_rng(2).normal(size=(4, 2)), jnp.float32))
    np.testing.assert_allclose(found, np.log(largest), atol=2e-3)


def test_the_logistic_map_is_chaotic_with_exponent_ln_2():
    """x' = 4 x (1 - x) (Ott 2002, Chaos in Dynamical Systems, section 2.4)."""
    found = jax.jit(
        lambda state: criticality.largest_exponent(
            lambda point: 4 * point * (1 - point),
            state,
            jnp.ones_like(state),
            steps=4000,
            transient=20,
            relative=1e-4,
            sample_axis=0,
        )
    )(jnp.array([0.2345]))
    assert float(found[0]) == pytest.approx(np.log(2), abs=0.03)


def test_growth_is_the_distance_by_that_at_the_start():
    one = np.zeros((4, 2, 1, 1, 2, 1))
    other = one + np.array([1.0, 2.0, 4.0, 1.0]).reshape(4, 1, 1, 1, 1, 1) * np.array([1.0, 0.1]).reshape(1, 1, 1, 1, 2, 1)
    np.testing.assert_allclose(criticality.perturbation_growth(one, other), [[1, 1], [2, 2], [4, 4], [1, 1]])


def test_a_cube_whose_cells_hardly_move_keeps_differences():
    """With a rate near zero nothing moves, so differences neither grow nor die."""
    slow = dataclasses.replace(CONFIG, update=UpdateConfig(rate=1e-4), injection="pulse")
    found = criticality.cube_exponent(PARAMETERS, CODES, steps=4, transient=1, relative=1e-2, config=slow, key=KEY)
    np.testing.assert_allclose(found, 0, atol=2e-3)


# All metrics together

SETTINGS = EmergenceConfig(questions=3, topics=2, clusters=2, untrained_cubes=2, shuffles=3, ablation_block=2, exponent_steps=3)


@functools.cache
def observed():
    drawn = np.random.default_rng(4)
    inputs = Inputs(
        shown=np.asarray(CODES),
        probed=drawn.normal(size=(12, 20)).astype(np.float32),
        answers=drawn.normal(size=(12, 20)).astype(np.float32),
        labels=np.arange(12) % 2,
        division=Division(np.arange(8), np.arange(8, 12)),
    )
    return observe(PARAMETERS, inputs, config=CONFIG, settings=SETTINGS, ablate=True, key=KEY)


def test_every_metric_is_compared_with_its_null_model():
    where = metrics.setting(CONFIG, SETTINGS, seed=0)
    found = observed()
    at_start = [metrics.values(found._replace(influence_ablation=None), where)] * 2
    assert metrics.METRICS.keys() - at_start[0].keys() == {"influence_agreement"}
    rows = metrics.compared(found, at_start, where, shuffles=3)
    assert rows.keys() == metrics.METRICS.keys()
    for name, row in rows.items():
        assert np.isfinite([row["value"], row["null"], row["null_deviation"]]).all(), name
        assert row["definition"]
        assert row["range"]
        assert row["draws"] == (2 if row["null_model"] == "untrained cube" else 3)
        if row["null_model"] == "untrained cube":
            assert row["null"] == pytest.approx(row["value"])
            assert row["z"] is None
    json.dumps(rows, allow_nan=False)
    assert metrics.compared(found, at_start, where, shuffles=3) == rows


def test_the_cheap_metrics_are_those_of_the_table():
    where = metrics.setting(CONFIG, SETTINGS, seed=0)
    everything = metrics.values(observed(), where)
    cheap = metrics.cheap_values(np.asarray(recorded().trajectory), where)
    assert set(cheap) == set(metrics.CHEAP) < set(everything)
    for name, value in cheap.items():
        assert value == pytest.approx(everything[name], abs=1e-6)


def test_a_signal_from_another_face_is_followed_along_its_axis():
    side = dataclasses.replace(CONFIG, input_face="right", output_face="left")
    assert metrics.setting(side, SETTINGS, seed=0)[:2] == (2, True)
    assert metrics.setting(CONFIG, SETTINGS, seed=0)[:2] == (0, False)
