"""The pass: equal to a loop of steps, nothing faster than light, nothing dark inside the cone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import (
    METRICS,
    SMALL,
    cell_parameters,
    cells_of,
    noise_like,
    quick_jit,
    with_cell,
    with_update,
    world,
)

from lattice_jax.config import GridConfig, LatticeConfig
from lattice_jax.lattice.firing import firing
from lattice_jax.lattice.propagate import Propagation, propagate
from lattice_jax.lattice.step import State, step, with_transposed

PARAMETERS = cell_parameters(SMALL)
BATCH = 2
INJECTED = noise_like(jnp.zeros((1, 4, 5, BATCH, 3)), 11)
KEY = jax.random.key(5)


@functools.cache
def runner(config: LatticeConfig, sampled: bool, trajectory: bool = True):
    """`propagate`, compiled once for a configuration."""

    def run(parameters, injected, key) -> Propagation:
        return propagate(parameters, injected, key=key, config=config, sampled=sampled, trajectory=trajectory)

    return quick_jit(run)


def by_loop(config: LatticeConfig, parameters: dict, injected: jax.Array, fires: jax.Array) -> list[State]:
    """The start state and the state after every step, by a Python loop; the input face is the front."""
    shape = (config.grid.depth, config.grid.height, config.grid.width, injected.shape[3])
    start = jnp.zeros((*shape, config.cell.visible)).at[:1].set(injected)
    move = quick_jit(functools.partial(step, world=world(config.walls), config=config))
    states = [State(start, jnp.zeros((*shape, config.cell.memory)))]
    for now in fires:
        state = move(with_transposed(parameters, config), states[-1], now)
        if config.injection == "held":
            state = state._replace(visible=state.visible.at[:1].set(injected))
        states.append(state)
    return states


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("injection", ["held", "pulse"])
def test_the_scan_equals_a_loop_of_steps(injection, sampled):
    config = dataclasses.replace(SMALL, injection=injection)
    states = by_loop(config, PARAMETERS, INJECTED, firing(config, BATCH, sampled=sampled, key=KEY))
    passed = runner(config, sampled)(PARAMETERS, INJECTED, KEY)
    np.testing.assert_allclose(passed.trajectory, [state.visible for state in states[1:]], atol=1e-6)
    np.testing.assert_allclose(passed.state.memory, states[-1].memory, atol=1e-6)
    np.testing.assert_array_equal(passed.trajectory[-1], passed.state.visible)
    held = np.all(np.asarray(passed.trajectory[:, :1]) == np.asarray(INJECTED))
    assert held == (injection == "held")


def test_activity_is_the_mean_square_change_over_the_mean_square():
    config = dataclasses.replace(SMALL, injection="pulse")
    passed = runner(config, True)(PARAMETERS, INJECTED, KEY)
    start = jnp.zeros_like(passed.trajectory[:1]).at[:, :1].set(INJECTED[None])
    states = np.concatenate([start, passed.trajectory])
    change, size = np.square(np.diff(states, axis=0)), np.square(states[1:])
    expected = change.mean((1, 2, 3, 5)) / size.mean((1, 2, 3, 5))
    assert expected.shape == (config.steps, BATCH)
    np.testing.assert_allclose(passed.activity, expected, rtol=1e-4)


def test_the_trajectory_comes_only_where_asked_for():
    assert runner(SMALL, True, trajectory=False)(PARAMETERS, INJECTED, KEY).trajectory is None


def test_remat_changes_neither_values_nor_gradients_and_is_really_there():
    def outcome(parameters, injected, config):
        passed = propagate(parameters, injected, key=KEY, config=config, sampled=True)
        return jnp.vdot(passed.state.visible, noise_like(passed.state.visible, 3)) + jnp.sum(passed.activity)

    plain, recomputed = (dataclasses.replace(SMALL, remat=remat) for remat in ("never", "always"))
    differentiate = [functools.partial(jax.value_and_grad(outcome, argnums=(0, 1)), config=c) for c in (plain, recomputed)]
    for one, other in zip(*(jax.tree.leaves(quick_jit(d)(PARAMETERS, INJECTED)) for d in differentiate), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    programs = [str(jax.make_jaxpr(d)(PARAMETERS, INJECTED)) for d in differentiate]
    assert ["remat" in program or "checkpoint" in program for program in programs] == [False, True]


# Firing


def test_measured_firing_rate_is_the_configured_one_and_masks_differ_by_step_and_sample():
    config = dataclasses.replace(with_update(SMALL, rate=0.7), steps=50)
    fires = np.asarray(quick_jit(functools.partial(firing, config, 8, sampled=True))(key=KEY))
    assert fires.shape == (50, 3, 4, 5, 8, 1)
    assert set(np.unique(fires)) == {0.0, 1.0}
    assert abs(fires.mean() - 0.7) < 4 * np.sqrt(0.21 / fires.size)
    assert len(np.unique(fires.reshape(50, -1), axis=0)) == 50
    assert len(np.unique(np.moveaxis(fires, 4, 0).reshape(8, -1), axis=0)) == 8
    assert np.all(np.abs(fires.mean((0, 4, 5)) - 0.7) < 5 * np.sqrt(0.21 / 400))


def test_a_mask_for_the_batch_serves_every_sample():
    config = with_update(SMALL, mask="batch")
    assert firing(config, 8, sampled=True, key=KEY).shape == (4, 3, 4, 5, 1, 1)
    twice = jnp.broadcast_to(INJECTED[:, :, :, :1], INJECTED.shape)
    one, other = np.moveaxis(runner(config, True)(PARAMETERS, twice, KEY).trajectory, 4, 0)
    np.testing.assert_array_equal(one, other)
    one, other = np.moveaxis(runner(SMALL, True)(PARAMETERS, twice, KEY).trajectory, 4, 0)
    assert not np.array_equal(one, other)


def test_a_shorter_pass_fires_as_the_start_of_a_longer_one():
    longer = dataclasses.replace(SMALL, steps=9)
    np.testing.assert_array_equal(firing(longer, BATCH, sampled=True, key=KEY)[:4], firing(SMALL, BATCH, sampled=True, key=KEY))


def test_expected_updates_and_rate_one_need_no_key_and_sampled_ones_depend_on_it():
    other_key = jax.random.key(6)
    everything = with_update(SMALL, rate=1.0)
    for config, sampled in ((SMALL, False), (everything, True)):
        run = runner(config, sampled)
        np.testing.assert_array_equal(
            run(PARAMETERS, INJECTED, KEY).trajectory, run(PARAMETERS, INJECTED, other_key).trajectory
        )
    run = runner(SMALL, True)
    np.testing.assert_array_equal(run(PARAMETERS, INJECTED, KEY).trajectory, run(PARAMETERS, INJECTED, KEY).trajectory)
    assert not np.array_equal(run(PARAMETERS, INJECTED, KEY).trajectory, run(PARAMETERS, INJECTED, other_key).trajectory)
    assert np.all(np.asarray(firing(everything, BATCH, sampled=True, key=KEY)) == 1)
    assert np.all(np.asarray(firing(SMALL, BATCH, sampled=False, key=KEY)) == np.float32(0.7))


def test_the_mean_of_sampled_steps_is_the_expected_step():
    config = LatticeConfig(GridConfig(2, 2, 2), SMALL.cell, SMALL.update, steps=1, minimum_arrival=0.0, injection="pulse")
    parameters, samples = cell_parameters(config), 4_000
    injected = jnp.broadcast_to(noise_like(jnp.zeros((1, 2, 2, 1, 3)), 2), (1, 2, 2, samples, 3))
    start = jnp.zeros((2, 2, 2, 1, 3)).at[:1].set(injected[:, :, :, :1])
    expected = np.asarray(runner(config, False)(parameters, injected, KEY).state.visible[:, :, :, :1])
    sampled = np.asarray(runner(config, True)(parameters, injected, KEY).state.visible)
    full_change = (expected - np.asarray(start)) / 0.7
    deviation = np.abs(full_change) * np.sqrt(0.21 / samples)
    assert np.all(np.abs(sampled.mean(3, keepdims=True) - expected) <= 5 * deviation + 1e-6)
    assert np.all(sampled.std(3) > 0)


# The light cone


@pytest.mark.parametrize("neighbourhood", METRICS)
def test_before_light_arrives_every_layer_is_blind_to_the_input(neighbourhood):
    config = dataclasses.replace(with_cell(SMALL, perception=neighbourhood), grid=GridConfig(5, 3, 4), steps=4)
    parameters = cell_parameters(config)
    one, other = (
        np.asarray(runner(config, False)(parameters, noise_like(jnp.zeros((1, 3, 4, 1, 3)), seed), KEY).trajectory)
        for seed in (1, 2)
    )
    differs = np.any(one != other, (2, 3, 4, 5))
    steps, layers = np.indices(differs.shape)
    np.testing.assert_array_equal(differs, layers <= steps + 1)


@pytest.mark.parametrize("neighbourhood", METRICS)
def test_the_gradient_to_the_input_is_zero_outside_the_light_cone_and_nowhere_inside(neighbourhood):
    config = dataclasses.replace(with_cell(SMALL, perception=neighbourhood), grid=GridConfig(3, 5, 6), steps=3)
    parameters = cell_parameters(config)

    def corner(injected):
        passed = propagate(parameters, injected, key=KEY, config=config, sampled=False)
        return jnp.sum(passed.state.visible[2, 0, 1])

    gradient = quick_jit(jax.grad(corner))(noise_like(jnp.zeros((1, 5, 6, 1, 3)), 1))
    apart = cells_of(config).reshape(3, 5, 6, 3)[0] - np.array([2, 0, 1])
    inside = METRICS[neighbourhood](apart) <= 3
    assert 0 < inside.sum() < 30
    np.testing.assert_array_equal(np.all(np.asarray(gradient[0]) != 0, (-1, -2)), inside)
    np.testing.assert_array_equal(np.any(np.asarray(gradient[0]) != 0, (-1, -2)), inside)


SENDER = ("message_scale", "message_kernel", "message_bias", "gate_scale")
KEEPER = ("memory_kernel", "memory_bias")


def delay(name: str, away: np.ndarray) -> np.ndarray:
    """Steps from the use of a parameter to its effect `away` cells off.

    A message is there within its step, visible channels travel a cell a step, memory is told one step later.
    """
    if name in SENDER:
        return np.maximum(away - 1, 0)
    return np.maximum(away, 1) if name in KEEPER else away


def first_use(name: str) -> np.ndarray:
    """The first step in which a parameter of each layer [depth, 1, 1] works on anything but zeros.

    The start state is zero off the input face, and biases fill every cell in the first step.
    """
    depth = np.arange(3).reshape(3, 1, 1)
    if name in ("perception", "content_scale", "content_kernel"):
        return np.where(depth <= 1, 1, 2)
    if name in ("message_scale", "message_kernel"):
        return np.where(depth == 0, 1, 2)
    return np.ones_like(depth)


@pytest.mark.parametrize("injection", ["held", "pulse"])
def test_every_parameter_of_every_cell_inside_the_cone_learns_and_none_outside(injection):
    """By the step that first uses it and the steps that are left to reach the output cell."""
    config = dataclasses.replace(SMALL, grid=GridConfig(3, 4, 5), steps=4, injection=injection)

    def corner(parameters):
        passed = propagate(parameters, INJECTED, key=KEY, config=config, sampled=False)
        return jnp.sum(passed.state.visible[2, 0, 0])

    gradient = quick_jit(jax.grad(corner))(PARAMETERS)
    away = METRICS["von_neumann"](cells_of(config) - np.array([2, 0, 0])).reshape(3, 4, 5)
    clamped = (injection == "held") & (np.arange(3).reshape(3, 1, 1) == 0)
    for name, array in gradient.items():
        # A held face forgets what its cells would show, so they work through their memory and messages alone.
        learns = (first_use(name) + delay(name, away) <= config.steps) & ~(clamped & (name == "step_size"))
        assert 0 < learns.sum() < learns.size
        learned = np.any(np.asarray(array) != 0, tuple(range(3, array.ndim)))
        np.testing.assert_array_equal(learned, learns, err_msg=name)


def test_with_steps_enough_every_parameter_of_every_cell_learns_from_the_output_face():
    config = dataclasses.replace(SMALL, steps=8, injection="pulse")

    def face(parameters):
        passed = propagate(parameters, INJECTED, key=KEY, config=config, sampled=False)
        return jnp.vdot(passed.state.visible[2], noise_like(passed.state.visible[2], 3))

    for name, array in quick_jit(jax.grad(face))(PARAMETERS).items():
        assert np.all(np.any(np.asarray(array) != 0, tuple(range(3, array.ndim)))), name


# Symmetry


def test_a_sideways_move_of_the_input_moves_the_whole_pass_in_a_periodic_cube_of_one_rule():
    config = dataclasses.replace(SMALL, sharing="lattice", walls="periodic")
    run = functools.partial(runner(config, False), cell_parameters(config))
    still, moved = run(INJECTED, KEY), run(jnp.roll(INJECTED, (1, 2), (1, 2)), KEY)
    np.testing.assert_allclose(moved.trajectory, jnp.roll(still.trajectory, (1, 2), (2, 3)), atol=1e-6)
    assert not np.allclose(moved.trajectory, still.trajectory, atol=1e-2)


def test_samples_do_not_hear_each_other():
    alone = runner(SMALL, False)(PARAMETERS, INJECTED[:, :, :, :1], KEY)
    together = runner(SMALL, False)(PARAMETERS, INJECTED, KEY)
    np.testing.assert_allclose(together.state.visible[:, :, :, :1], alone.state.visible, atol=1e-6)
