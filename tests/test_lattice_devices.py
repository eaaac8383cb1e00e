"""The cube spread over two devices equals the cube on one: values, gradients, and three updates."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from small_cube import SMALL, WALLS, cell_parameters, lively_parameters, noise_like, quick_jit, world

from lattice_jax.config import GridConfig, LatticeConfig, OptimizerConfig
from lattice_jax.errors import InputError
from lattice_jax.lattice import cell, cube, devices, grid
from lattice_jax.lattice.devices import cell_mesh, collect, extend_across, pad_rows, place, real_rows, row_partition
from lattice_jax.lattice.grid import offsets
from lattice_jax.lattice.propagate import propagate
from lattice_jax.lattice.step import World, mix
from lattice_jax.training.loop import initial_state
from lattice_jax.training.schedule import make_optimizer

KEY = jax.random.key(3)


def lattice(height: int, sharing: str = "cell", walls: str = "zero") -> LatticeConfig:
    """A cube that is tiny but for its rows."""
    return dataclasses.replace(SMALL, grid=GridConfig(2, height, 3), sharing=sharing, walls=walls, steps=3)


def injected(config: LatticeConfig) -> jax.Array:
    return noise_like(jnp.zeros((1, config.grid.height, config.grid.width, 2, config.cell.visible)), 4)


def test_the_mesh_has_as_many_devices_as_rows_can_keep_busy():
    assert cell_mesh(lattice(4)).size == cell_mesh(lattice(5)).size == cell_mesh(lattice(2)).size == 2
    assert cell_mesh(dataclasses.replace(lattice(4), devices=1)) is None
    with pytest.raises(InputError, match=r"lattice\.devices is 3, and there are 2") as refusal:
        cell_mesh(dataclasses.replace(lattice(4), devices=3))
    assert "--config.lattice.devices" in refusal.value.fix


@pytest.mark.parametrize(("height", "padded"), [(4, 4), (5, 6), (3, 4)])
def test_placing_pads_and_divides_rows_and_collecting_takes_the_padding_away(height, padded):
    config, mesh = lattice(height), cell_mesh(lattice(height))
    parameters = {"gate": cell_parameters(config)["gate"], "shared": jnp.ones((2, 1, 1, 3))}
    placed = place(parameters, config.grid, mesh)
    assert placed["gate"].shape == (2, padded, *parameters["gate"].shape[2:])
    assert placed["gate"].sharding.spec == PartitionSpec(None, devices.AXIS)
    assert [shard.data.shape[1] for shard in placed["gate"].addressable_shards] == [padded // 2] * 2
    assert placed["shared"].sharding.spec == PartitionSpec()
    assert not np.any(placed["gate"][:, height:])
    for name, array in collect(placed, config.grid).items():
        np.testing.assert_array_equal(array, parameters[name])
    assert place(parameters, config.grid, None) is parameters
    for mesh_or_none in (mesh, None):
        described = devices.placed(jax.eval_shape(lambda: parameters), config.grid, mesh_or_none)
        assert {
            name: (leaf.shape, leaf.dtype, leaf.sharding or parameters[name].sharding) for name, leaf in described.items()
        } == {
            name: (leaf.shape, leaf.dtype, leaf.sharding) for name, leaf in place(parameters, config.grid, mesh_or_none).items()
        }


@pytest.mark.parametrize("height", [2, 3, 5])
@pytest.mark.parametrize("walls", WALLS)
def test_every_device_sees_the_rows_beyond_its_own(walls, height):
    config, mesh = lattice(height), cell_mesh(lattice(height))
    field = noise_like(jnp.zeros((2, height, 3, 1)), 1)
    extent = {"height": height, "devices": 2}
    spec = PartitionSpec(None, devices.AXIS)
    spread = jax.shard_map(
        functools.partial(extend_across, walls=walls, **extent), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    parts = np.split(np.asarray(quick_jit(spread)(pad_rows(field, 1, config.grid, mesh))), 2, 1)
    whole, rows = np.asarray(grid.extend(field, walls)), devices.rows_per_device(config.grid, 2)
    np.testing.assert_array_equal(parts[0], whole[:, : rows + 2])
    np.testing.assert_array_equal(parts[1][:, : height - rows + 2], whole[:, rows:])


def test_real_rows_are_kept_and_padding_is_cleared():
    config, mesh = lattice(5), cell_mesh(lattice(5))
    spec = PartitionSpec(None, devices.AXIS)
    keep = functools.partial(real_rows, height=5, devices=2)
    cleared = jax.shard_map(keep, mesh=mesh, in_specs=spec, out_specs=spec)(jnp.ones((2, 6, 3)))
    np.testing.assert_array_equal(cleared, np.broadcast_to([[1.0], [1], [1], [1], [1], [0]], (2, 6, 3)))
    assert devices.padded_height(config.grid, mesh) == 6


@pytest.mark.parametrize(("sharing", "walls"), list(itertools.product(("cell", "layer", "lattice"), WALLS)))
def test_two_devices_mix_neighbours_as_one_does_gradients_too(sharing, walls):
    """An odd height, so that the second device has a row of padding, under all walls and sharings."""
    config = lattice(5, sharing, walls)
    mesh, around, extent = cell_mesh(config), offsets("von_neumann"), {"height": 5, "devices": 2}
    weights, field = cell_parameters(config)["perception"], noise_like(jnp.zeros((2, 5, 3, 2, 3)), 1)
    spread_world = World(walls, functools.partial(extend_across, walls=walls, **extent), functools.partial(real_rows, **extent))
    by_rows = PartitionSpec(None, devices.AXIS)
    spread = jax.shard_map(
        lambda weights, field: mix(weights, field, around, spread_world),
        mesh=mesh,
        in_specs=(row_partition(weights, 1), by_rows),
        out_specs=by_rows,
        check_vma=False,
    )

    def gradients(way, weights, field):
        result, pull = jax.vjp(way, weights, field)
        cotangent = noise_like(jnp.zeros((2, 5, 3, 2, 3)), 2)
        return result, *pull(pad_rows(cotangent, 1, config.grid, mesh) if way is spread else cotangent)

    def plain(weights, field):
        return mix(weights, field, around, world(walls))

    expected = quick_jit(functools.partial(gradients, plain))(weights, field)
    padded = (pad_rows(array, 1, config.grid, mesh) for array in (weights, field))
    found = quick_jit(functools.partial(gradients, spread))(*padded)
    for name, wanted, array in zip(("value", "to weights", "to field"), expected, found, strict=True):
        np.testing.assert_allclose(array[:, :5], wanted, atol=1e-5, err_msg=name)
        if name != "value":
            np.testing.assert_array_equal(array[:, 5:], 0.0, err_msg=name)


def outcome(parameters, values, config, mesh):
    """A figure that every cell and every step goes into."""
    passed = propagate(parameters, values, key=KEY, config=config, sampled=True, mesh=mesh, trajectory=True)
    return (
        jnp.vdot(passed.state.visible, noise_like(passed.state.visible, 5))
        + jnp.vdot(passed.state.memory, noise_like(passed.state.memory, 6))
        + jnp.vdot(passed.trajectory, noise_like(passed.trajectory, 7))
        + jnp.sum(passed.activity)
    )


def differentiated(config: LatticeConfig, mesh):
    """Value and gradients of `outcome`, with gradients as they lie on the devices."""
    gradients = quick_jit(jax.value_and_grad(functools.partial(outcome, config=config, mesh=mesh), argnums=(0, 1)))
    parameters = place(cell_parameters(config), config.grid, mesh)
    value, (to_parameters, to_injected) = gradients(parameters, injected(config))
    return value, to_parameters, to_injected


@pytest.mark.parametrize(("height", "sharing", "walls"), [(5, "layer", "periodic"), (3, "cell", "reflect")])
def test_two_devices_give_the_values_and_gradients_of_one(height, sharing, walls):
    config = lattice(height, sharing, walls)
    plain, spread = (differentiated(config, mesh) for mesh in (None, cell_mesh(config)))
    np.testing.assert_allclose(spread[0], plain[0], rtol=1e-5)
    np.testing.assert_allclose(spread[2], plain[2], atol=1e-4)
    for name, gradient in collect(spread[1], config.grid).items():
        np.testing.assert_allclose(gradient, plain[1][name], atol=1e-4, rtol=1e-4, err_msg=name)
        if sharing == "cell":
            np.testing.assert_array_equal(spread[1][name][:, height:], 0.0, err_msg=name)


@pytest.mark.parametrize(("input_face", "output_face"), [("top", "bottom"), ("right", "left"), ("front", "top")])
def test_any_faces_may_be_joined_on_two_devices_with_every_cell_firing_alike(input_face, output_face):
    config = dataclasses.replace(
        SMALL, grid=GridConfig(3, 3, 4), steps=3, sharing="layer", input_face=input_face, output_face=output_face
    )
    vectors, parameters = noise_like(jnp.zeros((2, config.surface_size(input_face))), 8), lively_parameters(config)

    def run(mesh):
        answered = quick_jit(functools.partial(cube.answer, key=KEY, config=config, sampled=False, mesh=mesh))
        return answered(place(parameters, config.grid, mesh), vectors)

    plain, spread = run(None), run(cell_mesh(config))
    np.testing.assert_allclose(spread.vectors, plain.vectors, atol=1e-5)
    np.testing.assert_allclose(spread.propagation.activity, plain.propagation.activity, rtol=1e-4)


def three_updates(config: LatticeConfig, mesh) -> dict:
    """Parameters after three steps of AdamW towards handing vectors on."""
    vectors = noise_like(jnp.zeros((4, 15)), 8)
    decayed = {name: name in cell.DECAYED for name in lively_parameters(config)}
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), 3, lambda _: decayed)
    start = initial_state(place(lively_parameters(config), config.grid, mesh), optimizer)

    def loss(parameters):
        answered = cube.answer(parameters, vectors, key=KEY, config=config, sampled=True, mesh=mesh)
        return jnp.mean(jnp.square(answered.vectors - vectors))

    def update(parameters, moments):
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = optimizer.update(jax.grad(loss)(parameters), moments, parameters)
        return optax.apply_updates(parameters, updates), moments

    parameters, moments = start.params, start.optimizer_state
    # Every array stays where it lies; left to itself the compiler may move one, and the second step compiles again.
    placement = jax.tree.map(lambda array: array.sharding, (parameters, moments))
    compiled = quick_jit(update, out_shardings=placement)
    for _ in range(3):
        parameters, moments = compiled(parameters, moments)
    return parameters


def test_three_updates_on_two_devices_equal_three_on_one_and_leave_the_padding_zero():
    config, start = lattice(5), lively_parameters(lattice(5))
    plain, spread = (three_updates(config, mesh) for mesh in (None, cell_mesh(config)))
    for name, array in spread.items():
        np.testing.assert_allclose(array[:, :5], plain[name], atol=2e-5, err_msg=name)
        np.testing.assert_array_equal(array[:, 5:], 0.0, err_msg=name)
        assert not np.array_equal(plain[name], start[name]), name


def test_partition_follows_the_rows():
    assert row_partition(jnp.zeros((2, 4, 3)), 1) == PartitionSpec(None, devices.AXIS)
    assert row_partition(jnp.zeros((5, 2, 4, 3)), 2) == PartitionSpec(None, None, devices.AXIS)
    assert row_partition(jnp.zeros((2, 1, 3)), 1) == PartitionSpec()
