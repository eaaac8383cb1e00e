"""Passes that begin where another one ended, and passes that end before the last step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import SMALL, assert_close, lively_parameters, lively_state, noise_like, quick_jit, with_cell, with_update

from lattice_jax.config import GridConfig, LatticeConfig
from lattice_jax.lattice import cube
from lattice_jax.lattice.devices import cell_mesh, place
from lattice_jax.lattice.firing import firing, light_cone
from lattice_jax.lattice.step import State

KEY = jax.random.key(3)
WIDE = with_cell(SMALL, visible=16, memory=16, hidden=40, perception="moore")
QUIESCENT = with_update(SMALL, quiescent=True, mask="batch")


def vectors(config: LatticeConfig, batch: int) -> jax.Array:
    return noise_like(jnp.zeros((batch, config.surface_size(config.input_face))), 5)


def some_quiescent(config: LatticeConfig, batch: int) -> State:
    """Random states, the first of them all zero."""
    return jax.tree.map(lambda field: field.at[:, :, :, 0].set(0.0), lively_state(config, batch))


def steps(number: int) -> jax.Array:
    return jnp.asarray(number, jnp.int32)


@functools.cache
def asking(config: LatticeConfig, sampled: bool, read: str = "cube"):
    """`cube.answer` from a start and to a horizon, compiled once."""

    def ask(parameters, given, start, horizon):
        return cube.answer(parameters, given, key=KEY, config=config, sampled=sampled, read=read, start=start, horizon=horizon)

    return quick_jit(ask)


CASES = {
    "a mask a sample": (WIDE, 3, None),
    "one mask, to a horizon": (with_update(WIDE, mask="batch"), 13, 3),
    "some samples quiescent": (with_update(SMALL, quiescent=True), 2, None),
    "recomputed, to a horizon": (dataclasses.replace(QUIESCENT, remat="always"), 3, 2),
    "once a cell": (dataclasses.replace(WIDE, weight_gradients="deferred"), 2, None),
    "pulse": (dataclasses.replace(SMALL, injection="pulse"), 2, 3),
    "replaced state": (with_update(SMALL, residual=False), 2, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_the_compiled_engine_begins_and_ends_as_the_scan_does_gradients_too(case):
    config, batch, horizon = CASES[case]
    parameters, given, start = lively_parameters(config), vectors(config, batch), some_quiescent(config, batch)

    def loss(parameters, given, config):
        answer = cube.answer(
            parameters,
            given,
            key=KEY,
            config=config,
            sampled=True,
            start=start,
            horizon=None if horizon is None else steps(horizon),
        )
        shown = (answer.vectors, answer.propagation.state, answer.propagation.activity)
        weighed = jax.tree.map(lambda value, weight: jnp.sum(value * weight), shown, noise_like(shown, 9))
        return jnp.sum(jnp.stack(jax.tree.leaves(weighed))), shown

    results = []
    for engine in ("native", "scan"):
        each = dataclasses.replace(config, engine=engine)
        differentiate = jax.value_and_grad(functools.partial(loss, config=each), (0, 1), has_aux=True)
        results.append(quick_jit(differentiate)(parameters, given))
    ((_, values), gradients), ((_, plain_values), plain_gradients) = results
    assert_close(values, plain_values)
    assert_close(gradients, plain_gradients)


@pytest.mark.parametrize("engine", ["scan", "native"])
@pytest.mark.parametrize("sampled", [True, False])
def test_a_start_of_zeros_is_the_quiescent_one(engine, sampled):
    config = dataclasses.replace(QUIESCENT, engine=engine)
    parameters, given = lively_parameters(config), vectors(config, 2)
    nothing = jax.tree.map(jnp.zeros_like, lively_state(config, 2))
    with_start, without = (asking(config, sampled)(parameters, given, start, None) for start in (nothing, None))
    assert_close(with_start, without, 1e-6)
    from_another = asking(config, sampled)(parameters, given, lively_state(config, 2), None)
    assert not np.allclose(from_another.vectors, without.vectors, atol=1e-3)


@pytest.mark.parametrize("engine", ["scan", "native"])
def test_two_passes_end_to_end_are_one(engine):
    config = dataclasses.replace(SMALL, engine=engine)
    parameters, given, start = lively_parameters(config), vectors(config, 2), lively_state(config, 2)
    ask = asking(config, False)
    whole = ask(parameters, given, start, steps(4))
    first = ask(parameters, given, start, steps(1))
    second = ask(parameters, given, first.propagation.state, steps(3))
    assert_close((second.vectors, second.propagation.state), (whole.vectors, whole.propagation.state))
    nowhere = ask(parameters, given, whole.propagation.state, steps(0))
    assert_close((nowhere.vectors, nowhere.propagation.state), (whole.vectors, whole.propagation.state), 1e-7)


@pytest.mark.parametrize("read", ["cube", "output"])
@pytest.mark.parametrize("config", [SMALL, QUIESCENT], ids=["a mask a sample", "quiescent"])
def test_a_pass_to_a_horizon_is_the_pass_of_so_many_steps(config, read):
    parameters, given = lively_parameters(config), vectors(config, 2)
    to_horizon = asking(config, True, read)(parameters, given, None, steps(3))
    shorter = asking(dataclasses.replace(config, steps=3), True, read)(parameters, given, None, None)
    assert_close(to_horizon.vectors, shorter.vectors)
    if read == "cube":
        assert_close(to_horizon.propagation.state, shorter.propagation.state)
        assert_close(to_horizon.propagation.activity[:3], shorter.propagation.activity)
        np.testing.assert_array_equal(to_horizon.propagation.activity[3:], 0.0)


def test_only_samples_that_hold_something_fire_ahead_of_the_light():
    fires = firing(QUIESCENT, 2, sampled=True, key=KEY, started=jnp.array([False, True]))
    alone = firing(QUIESCENT, 2, sampled=True, key=KEY)
    np.testing.assert_array_equal(fires[..., :1, :], alone)
    everywhere = firing(with_update(QUIESCENT, quiescent=False), 2, sampled=True, key=KEY)
    np.testing.assert_array_equal(fires[..., 1:, :], everywhere)
    assert not np.array_equal(alone, everywhere)


def test_a_read_cone_ends_at_the_horizon():
    for horizon in (0, 2, 4):
        cone = np.asarray(light_cone(SMALL, "output", horizon=steps(horizon)))
        np.testing.assert_array_equal(cone[:horizon], light_cone(SMALL, "output")[4 - horizon :])
        assert not cone[horizon:].any()


@pytest.mark.parametrize("engine", ["scan", "native"])
def test_nothing_flows_back_into_the_start(engine):
    config = dataclasses.replace(SMALL, engine=engine)
    parameters, given, start = lively_parameters(config), vectors(config, 2), lively_state(config, 2)

    def loss(start):
        answer = cube.answer(parameters, given, key=KEY, config=config, sampled=False, start=start)
        return jnp.sum(jnp.square(answer.vectors))

    for gradient in jax.tree.leaves(quick_jit(jax.grad(loss))(start)):
        np.testing.assert_array_equal(gradient, 0.0)


def test_two_devices_begin_as_one_does():
    config = dataclasses.replace(SMALL, grid=GridConfig(2, 5, 3), steps=3)
    parameters, given, start = lively_parameters(config), vectors(config, 2), lively_state(config, 2)

    def run(mesh):
        ask = functools.partial(cube.answer, key=KEY, config=config, sampled=True, mesh=mesh)
        return quick_jit(ask)(place(parameters, config.grid, mesh), given, start=start, horizon=steps(2))

    plain, spread = run(None), run(cell_mesh(config))
    assert_close(spread, plain)


def test_gradient_norms_by_layer_add_up_to_that_of_all_cells():
    gradients = noise_like(lively_parameters(SMALL), 4)
    figures = cube.gradient_figures(gradients, SMALL)
    assert figures.pop("dead_cells") == 0
    norms = figures
    assert list(norms) == ["gradient_norm/layer_00", "gradient_norm/layer_01", "gradient_norm/layer_02"]
    cells = [value for name, value in gradients.items() if name not in ("injection", "read_out")]
    total = sum(float(jnp.sum(jnp.square(value))) for value in cells)
    assert sum(float(norm) ** 2 for norm in norms.values()) == pytest.approx(total, rel=1e-5)
    changed = cube.gradient_figures({name: value.at[0].multiply(2.0) for name, value in gradients.items()}, SMALL)
    assert float(changed["gradient_norm/layer_00"]) == pytest.approx(2 * float(norms["gradient_norm/layer_00"]), rel=1e-5)
    assert float(changed["gradient_norm/layer_01"]) == float(norms["gradient_norm/layer_01"])
    one_rule = dataclasses.replace(SMALL, sharing="lattice")
    assert cube.gradient_figures(noise_like(lively_parameters(one_rule), 4), one_rule) == {}


@pytest.mark.parametrize(("face", "nearest"), [("front", 0), ("back", 2)])
def test_layers_are_counted_from_the_input_face(face, nearest):
    other = {"front": "back", "back": "front"}
    config = dataclasses.replace(SMALL, input_face=face, output_face=other[face])
    gradients = noise_like(lively_parameters(config), 4)
    there = {
        name: value if name in ("injection", "read_out") else value.at[nearest].multiply(2.0)
        for name, value in gradients.items()
    }
    before, after = (cube.gradient_figures(values, config) for values in (gradients, there))
    changed = [name for name in before if float(after[name]) != float(before[name])]
    assert changed == ["gradient_norm/layer_00"]


def test_cells_without_gradient_are_counted_without_the_rows_that_fill_up_devices():
    gradients = noise_like(lively_parameters(SMALL), 4)
    grid = SMALL.grid
    silent = {name: value.at[1, :, 0].set(0.0) for name, value in gradients.items() if name not in ("injection", "read_out")}
    padded = {name: jnp.pad(value, [(0, 0), (0, 2)] + [(0, 0)] * (value.ndim - 2)) for name, value in silent.items()}
    expected = grid.height / (grid.depth * grid.height * grid.width)
    for values in (silent, padded):
        assert float(cube.gradient_figures(values, SMALL)["dead_cells"]) == pytest.approx(expected)
