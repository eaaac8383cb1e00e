"""The fused step: against the plain one, whole and spread; its kernels lowered for a GPU; its refusals; what it moves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from small_cube import SMALL, cell_parameters, lively_state, noise_like, quick_jit, with_cell, with_update, world

from lattice_jax.config import GridConfig, LatticeConfig
from lattice_jax.errors import InputError
from lattice_jax.lattice import devices
from lattice_jax.lattice.cell import parameters_per_cell, shapes
from lattice_jax.lattice.fused.step import fused_step, sample_blocks
from lattice_jax.lattice.fused.traffic import step_bytes
from lattice_jax.lattice.step import State, World, in_precision, step, with_transposed

FIRES = {
    "per sample": noise_like(jnp.zeros((3, 4, 5, 2, 1)), 2) > 0,
    "per batch": noise_like(jnp.zeros((3, 4, 5, 1, 1)), 3) > 0,
    "expected": jnp.full((1, 4, 1, 1, 1), 0.7),
}


def plain(parameters, state, fires, *, world: World, config: LatticeConfig) -> State:
    """`step` with what a pass prepares."""
    return step(with_transposed(parameters, config), state, fires, world=world, config=config)


interpreted = functools.partial(fused_step, interpret=True)


def outcome(way, config: LatticeConfig, around: World, fires: jax.Array, parameters: dict, state: State):
    """The next state, and the gradients of noise times it."""

    def move(parameters, state):
        return way(in_precision(parameters, config), state, fires.astype(jnp.float32), world=around, config=config)

    def both(parameters, state):
        moved, pull = jax.vjp(move, parameters, state)
        return moved, pull(noise_like(moved, 9))

    return quick_jit(both)(parameters, state)


def assert_close(one, other, tolerance: float) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), one, other)


def error(one, other) -> float:
    """Distance of two trees, relative to the second's size."""
    square = jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), one, other))
    return float(jnp.sqrt(square / jax.tree.reduce(jnp.add, jax.tree.map(lambda b: jnp.sum(jnp.square(b)), other))))


@pytest.mark.parametrize(
    ("walls", "residual", "bound", "fires", "whole"),
    [
        ("zero", True, "tanh", "per sample", True),
        ("zero", False, "none", "expected", False),
        ("periodic", True, "none", "per batch", True),
    ],
)
def test_the_fused_step_has_the_values_and_gradients_of_the_plain_one(walls, residual, bound, fires, whole):
    config = with_update(dataclasses.replace(SMALL, walls=walls), residual=residual, bound=bound)
    parameters, state = cell_parameters(config), lively_state(config)
    fused = outcome(interpreted, config, world(walls)._replace(whole=whole), FIRES[fires], parameters, state)
    assert_close(fused, outcome(plain, config, world(walls), FIRES[fires], parameters, state), 1e-5)


def test_several_blocks_of_samples_and_of_hidden_columns_change_nothing():
    config = with_cell(SMALL, visible=4, memory=4, hidden=64, perception="moore")
    config = dataclasses.replace(config, grid=GridConfig(2, 3, 2))
    parameters, state = cell_parameters(config), lively_state(config, batch=70)
    assert sample_blocks(70) == (64, 2)
    fires = noise_like(jnp.zeros((2, 3, 2, 70, 1)), 4) > 0
    fused = outcome(interpreted, config, world("zero")._replace(whole=True), fires, parameters, state)
    by_steps = outcome(plain, config, world("zero"), fires, parameters, state)
    for one, other in zip(jax.tree.leaves(fused), jax.tree.leaves(by_steps), strict=True):
        assert error(one, other) < 1e-5


def test_in_bfloat16_both_ways_differ_by_its_rounding_alone():
    config = dataclasses.replace(SMALL, precision="bfloat16")
    parameters, state = cell_parameters(config), lively_state(config)
    fused = outcome(interpreted, config, world("zero")._replace(whole=True), FIRES["per sample"], parameters, state)
    by_steps = outcome(plain, config, world("zero"), FIRES["per sample"], parameters, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(fused)} == {jnp.dtype("float32")}
    for one, other in zip(jax.tree.leaves(fused), jax.tree.leaves(by_steps), strict=True):
        assert error(one, other) < 1e-2


def test_two_devices_give_the_values_and_gradients_of_one_and_none_to_padding():
    config = dataclasses.replace(SMALL, grid=GridConfig(2, 5, 2))
    mesh, parameters, state = devices.cell_mesh(config), cell_parameters(config), lively_state(config)
    fires = noise_like(jnp.zeros((2, 5, 2, 2, 1)), 5) > 0
    extent = {"height": 5, "devices": mesh.size}
    part = World(
        "zero",
        functools.partial(devices.extend_across, walls="zero", **extent),
        functools.partial(devices.real_rows, **extent),
    )

    def spread(parameters, state, fires, *, world, config):
        del world
        rows = PartitionSpec(None, devices.AXIS)
        move = functools.partial(interpreted, world=part, config=config)
        move = jax.shard_map(move, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
        pad = functools.partial(devices.pad_rows, axis=1, grid=config.grid, mesh=mesh)
        return devices.collect(move(*jax.tree.map(pad, (parameters, state, fires))), config.grid)

    padded = jax.tree.map(lambda leaf: devices.pad_rows(leaf, 1, config.grid, mesh), (parameters, state))
    moved, gradients = outcome(spread, config, part, fires, *padded)
    by_steps = outcome(plain, config, world("zero"), fires, parameters, state)
    assert_close((moved, devices.collect(gradients, config.grid)), by_steps, 1e-5)
    for gradient in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(gradient[:, 5:], 0.0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 72])
def test_the_kernels_of_the_full_cell_lower_for_a_gpu(monkeypatch, precision, batch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = LatticeConfig(GridConfig(3, 3, 3), precision=precision)
    around = world("zero")._replace(whole=True)
    parameters = {name: jax.ShapeDtypeStruct((3, 3, 3, *shape), jnp.float32) for name, shape in shapes(config.cell).items()}
    state = State(*[jax.ShapeDtypeStruct((3, 3, 3, batch, config.cell.visible), jnp.float32)] * 2)

    def both(parameters, state):
        move = functools.partial(fused_step, fires=jnp.ones((1, 1, 1, 1, 1)), world=around, config=config)
        moved, pull = jax.vjp(lambda p, s: move(in_precision(p, config), s), parameters, state)
        return moved, pull(moved)

    lowered = jax.jit(both).trace(parameters, state).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("@__gpu$xla.gpu.triton") == 5


@pytest.mark.parametrize(
    ("config", "backend", "found"),
    [
        (LatticeConfig(), "cpu", "on cpu"),
        (LatticeConfig(sharing="layer"), "gpu", "lattice.sharing is 'layer'"),
        (LatticeConfig(walls="reflect"), "gpu", "lattice.walls is 'reflect'"),
        (with_cell(LatticeConfig(), hidden=96), "gpu", "32 visible and 96 hidden"),
        (with_cell(LatticeConfig(), visible=8, memory=8), "gpu", "8 visible and 128 hidden"),
    ],
)
def test_what_the_kernels_cannot_run_is_refused_with_the_way_out(monkeypatch, config, backend, found):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with pytest.raises(InputError, match=found) as refusal:
        fused_step({}, lively_state(SMALL), jnp.ones((1, 1, 1, 1, 1)), world=world("zero"), config=config)
    assert "engine scan" in str(refusal.value)


def test_bytes_are_those_of_a_count_by_hand():
    cells, batch = 60, 16
    moved = step_bytes(SMALL, batch, fused=True)
    assert moved["forward weights"] == cells * 4 * parameters_per_cell(SMALL.cell)
    state, visible, message = 4 * (3 + 3), 4 * 3, 4 * 5
    speak, move = state + message, (visible + message + state) + state
    assert moved["forward fields"] == cells * batch * (speak + move)
    owed = state + visible + message
    backward = speak + (visible + message + 2 * state + owed) + (state + owed + state)
    assert moved["backward fields"] == cells * batch * backward


def test_low_precision_and_fusion_move_fewer_bytes():
    full = LatticeConfig()
    low = dataclasses.replace(full, precision="bfloat16")
    for name in step_bytes(full, 64, fused=True):
        counts = [step_bytes(config, 64, fused=fused)[name] for config in (full, low) for fused in (False, True)]
        assert counts[0] >= counts[1] > counts[3]
        assert counts[0] > counts[2] >= counts[3]
    fields = [
        sum(step_bytes(low, 64, fused=fused)[f"{way} fields"] for way in ("forward", "backward")) for fused in (False, True)
    ]
    assert fields[0] > 4 * fields[1]
