"""The fused step: against the plain one, whole and spread; its kernels lowered for a GPU; its refusals; what it moves."""

import dataclasses
import functools
import inspect
import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from small_cube import (
    SMALL,
    cell_parameters,
    lively_parameters,
    lively_state,
    noise_like,
    quick_jit,
    with_cell,
    with_update,
    world,
)

from lattice_jax.config import GridConfig, LatticeConfig
from lattice_jax.errors import InputError
from lattice_jax.lattice import cube, devices, propagate
from lattice_jax.lattice.cell import parameters_per_cell, shapes
from lattice_jax.lattice.fused import launch
from lattice_jax.lattice.fused.kernels import Plan
from lattice_jax.lattice.fused.launch import sample_blocks
from lattice_jax.lattice.fused.step import _step_forward, advance, recomputes
from lattice_jax.lattice.fused.traffic import step_bytes
from lattice_jax.lattice.step import State, World, in_precision, step, with_transposed

KEY = jax.random.key(0)


def firings(kind: str, cells: tuple[int, ...] = (3, 4, 5), batch: int = 2, steps: int = 2) -> jax.Array:
    """How far each cell moves in each step."""
    if kind == "expected":
        return jnp.full((steps, 1, cells[1], 1, 1, 1), 0.7)
    return (noise_like(jnp.zeros((steps, *cells, batch if kind == "per sample" else 1, 1)), 2) > 0).astype(jnp.float32)


def held_cells(cells: tuple[int, ...] = (3, 4, 5)) -> jax.Array:
    """The first layer."""
    return jnp.broadcast_to((jnp.arange(cells[0]) == 0).reshape(-1, 1, 1, 1, 1), (*cells, 1, 1))


def by_steps(parameters, state, fires, held, *, world: World, config: LatticeConfig) -> tuple[State, jax.Array]:
    """What `advance` computes, by `step`."""
    parameters, squares = with_transposed(parameters, config), []
    for fired in fires:
        moved = step(parameters, state, fired, world=world, config=config)
        moved = moved._replace(visible=jnp.where(held, state.visible, moved.visible))
        sums = jnp.stack([jnp.square(moved.visible - state.visible), jax.lax.stop_gradient(jnp.square(moved.visible))])
        squares.append(jnp.sum(sums, (1, 2, 3, 5)))
        state = moved
    return state, jnp.stack(squares)


def fused(*arguments, **settings) -> tuple[State, jax.Array]:
    """`advance` in plain JAX."""
    return advance(*arguments, interpret=True, **settings)[:2]


def advance_alone(*arguments, **settings) -> tuple[State, jax.Array]:
    """`advance` by the compiled kernels."""
    return advance(*arguments, **settings)[:2]


def outcome(way, config: LatticeConfig, around: World, fires: jax.Array, parameters: dict, state: State, jit=quick_jit):
    """State and squares after the steps, and the gradients of noise times them."""
    held = held_cells(state.visible.shape[:3])

    def move(parameters, state):
        return way(in_precision(parameters, config), state, fires, held, world=around, config=config)

    def both(parameters, state):
        moved, pull = jax.vjp(move, parameters, state)
        return moved, pull(noise_like(moved, 9))

    return jit(both)(parameters, state)


def assert_close(one, other, tolerance: float) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), one, other)


def error(one, other) -> float:
    """Distance of two trees, relative to the second's size."""
    square = jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), one, other))
    return float(jnp.sqrt(square / jax.tree.reduce(jnp.add, jax.tree.map(lambda b: jnp.sum(jnp.square(b)), other))))


@pytest.mark.parametrize(("steps", "tolerance"), [(1, 1e-5), (2, 2e-5)])
@pytest.mark.parametrize(
    ("walls", "residual", "bound", "fires", "whole"),
    [
        ("zero", True, "tanh", "per sample", True),
        ("zero", False, "none", "expected", False),
        ("periodic", True, "none", "per batch", True),
    ],
)
def test_the_fused_step_has_the_values_and_gradients_of_the_plain_one(walls, residual, bound, fires, whole, steps, tolerance):
    config = with_update(dataclasses.replace(SMALL, walls=walls), residual=residual, bound=bound)
    parameters, state = cell_parameters(config), lively_state(config)
    found = outcome(fused, config, world(walls)._replace(whole=whole), firings(fires, steps=steps), parameters, state)
    assert_close(found, outcome(by_steps, config, world(walls), firings(fires, steps=steps), parameters, state), tolerance)


@pytest.mark.parametrize(
    ("perception", "gate", "remat"),
    [("moore", "von_neumann", "always"), ("moore", "von_neumann", "never"), ("von_neumann", "moore", "never")],
)
def test_where_one_cell_fires_alone_nothing_is_read_that_was_not_written(perception, gate, remat):
    """Its neighbours across edges and corners are perceived by it and not heard, so they don't speak; or heard alone."""
    config = dataclasses.replace(with_cell(SMALL, perception=perception, gate=gate), remat=remat)
    parameters, state = cell_parameters(config), lively_state(config)
    fires = jnp.zeros((2, 3, 4, 5, 1, 1)).at[:, 1, 1, 2].set(1.0)
    found = outcome(fused, config, world("zero")._replace(whole=True), fires, parameters, state)
    assert_close(found, outcome(by_steps, config, world("zero"), fires, parameters, state), 2e-5)


def test_several_blocks_of_samples_and_of_hidden_columns_change_nothing():
    config = with_cell(SMALL, visible=4, memory=4, hidden=64, perception="moore")
    config = dataclasses.replace(config, grid=GridConfig(2, 3, 2))
    parameters, state = cell_parameters(config), lively_state(config, batch=130)
    assert sample_blocks(130) == (64, 3)
    fires = firings("per sample", (2, 3, 2), batch=130)
    found = outcome(fused, config, world("zero")._replace(whole=True), fires, parameters, state)
    expected = outcome(by_steps, config, world("zero"), fires, parameters, state)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert error(one, other) < 1e-5


def test_where_some_samples_of_a_cell_act_and_others_rest_all_is_written_that_is_added_up_over_both():
    """Two blocks of samples that fire in opposite corners, so that each cell speaks, and is owed something, in one at most."""
    config = dataclasses.replace(with_cell(SMALL, gate="moore"), grid=GridConfig(4, 3, 3))
    parameters, state = cell_parameters(config), lively_state(config, batch=80)
    assert sample_blocks(80) == (64, 2)
    fires = jnp.zeros((2, 4, 3, 3, 80, 1)).at[:, 0, 0, 0, :64].set(1.0).at[:, 3, 2, 2, 64:].set(1.0)
    found = outcome(fused, config, world("zero")._replace(whole=True), fires, parameters, state)
    expected = outcome(by_steps, config, world("zero"), fires, parameters, state)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize(
    ("injection", "batch", "settings"), [("held", 3, {"read": "output"}), ("pulse", 1, {"trajectory": True})]
)
def test_a_pass_by_the_kernels_is_that_by_the_scan(monkeypatch, injection, batch, settings):
    """From injection to read-out, from a state that another question left and to a horizon; the way there, too."""
    config = dataclasses.replace(SMALL, injection=injection)
    parameters, vectors = lively_parameters(config), noise_like(jnp.zeros((batch, config.surface_size("front"))), 3)
    start, horizon = lively_state(config, batch), jnp.int32(3)

    def ask(parameters, vectors):
        told = cube.answer(
            *(parameters, vectors), key=KEY, config=config, sampled=True, start=start, horizon=horizon, **settings
        )
        return told.vectors, told.propagation

    def both(parameters, vectors):
        told, pull = jax.vjp(ask, parameters, vectors)
        return told, pull(noise_like(told, 9))

    expected = quick_jit(both)(parameters, vectors)
    monkeypatch.setattr(devices, "engine", lambda config: "fused")
    monkeypatch.setattr(propagate, "fused_advance", functools.partial(advance, interpret=True))
    # A function of its own: `both` is compiled already, with the scan.
    assert_close(quick_jit(lambda *given: both(*given))(parameters, vectors), expected, 2e-5)


def test_programs_that_would_leave_samples_out_are_refused(monkeypatch):
    monkeypatch.setitem(launch.SHAPES, "move", launch.Shape(128, 4))
    parameters, state = cell_parameters(SMALL), lively_state(SMALL, batch=130)
    with pytest.raises(ValueError, match="move can't have programs of"):
        outcome(fused, SMALL, world("zero")._replace(whole=True), firings("per batch"), parameters, state)


def test_in_bfloat16_both_ways_differ_by_its_rounding_alone():
    config = dataclasses.replace(SMALL, precision="bfloat16")
    parameters, state = cell_parameters(config), lively_state(config)
    found = outcome(fused, config, world("zero")._replace(whole=True), firings("per sample"), parameters, state)
    expected = outcome(by_steps, config, world("zero"), firings("per sample"), parameters, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert error(one, other) < 1e-2


def test_two_devices_give_the_values_and_gradients_of_one_and_none_to_padding():
    config = dataclasses.replace(SMALL, grid=GridConfig(2, 5, 2))
    mesh, parameters, state = devices.cell_mesh(config), cell_parameters(config), lively_state(config)
    fires = firings("per sample", (2, 5, 2))
    extent = {"height": 5, "devices": mesh.size}
    part = World(
        "zero",
        functools.partial(devices.extend_across, walls="zero", **extent),
        functools.partial(devices.real_rows, **extent),
    )
    pad = functools.partial(devices.pad_rows, grid=config.grid, mesh=mesh)

    def spread(parameters, state, fires, held, *, world, config):
        del world

        def move(*arguments):
            state, squares = fused(*arguments, world=part, config=config)
            return state, jax.lax.psum(squares, devices.AXIS)

        rows, later_rows = PartitionSpec(None, devices.AXIS), PartitionSpec(None, None, devices.AXIS)
        move = jax.shard_map(
            *(move,), mesh=mesh, in_specs=(rows, rows, later_rows, rows), out_specs=(rows, PartitionSpec()), check_vma=False
        )
        padded = jax.tree.map(lambda leaf: pad(leaf, 1), (parameters, state))
        state, squares = move(*padded, pad(fires, 2), pad(held, 1))
        return devices.collect(state, config.grid), squares

    padded = jax.tree.map(lambda leaf: pad(leaf, 1), parameters)
    moved, gradients = outcome(spread, config, part, fires, padded, state)
    expected = outcome(by_steps, config, world("zero"), fires, parameters, state)
    assert_close((moved, (devices.collect(gradients[0], config.grid), gradients[1])), expected, 1e-5)
    for gradient in jax.tree.leaves(gradients[0]):
        np.testing.assert_array_equal(gradient[:, 5:], 0.0)


def hopper_device() -> jax.sharding.AbstractDevice:
    """An H100, for what asks which GPU it compiles for; later versions of JAX want to know its platform too."""
    known = inspect.signature(jax.sharding.AbstractDevice).parameters
    fields = {"device_kind": "NVIDIA H100 80GB HBM3", "num_cores": 132, "platform": "gpu"}
    return jax.sharding.AbstractDevice(**{name: value for name, value in fields.items() if name in known})


@pytest.mark.parametrize(
    ("precision", "batch", "cell"),
    [
        *product(("float32", "bfloat16"), (1, 130), ({},)),
        ("float32", 130, {"visible": 16, "memory": 16, "hidden": 16}),
        ("bfloat16", 1, {"visible": 64, "memory": 64, "hidden": 256, "perception": "von_neumann", "gate": "moore"}),
    ],
)
def test_the_kernels_lower_for_a_gpu(monkeypatch, precision, batch, cell):
    """Of the full cell, the narrowest that they take, and a wide one whose neighbourhoods have changed places."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = with_cell(LatticeConfig(GridConfig(3, 3, 3), precision=precision), **cell)
    around = world("zero")._replace(whole=True)
    parameters = {name: jax.ShapeDtypeStruct((3, 3, 3, *shape), jnp.float32) for name, shape in shapes(config.cell).items()}
    state = State(*[jax.ShapeDtypeStruct((3, 3, 3, batch, config.cell.visible), jnp.float32)] * 2)
    fires, held = jnp.ones((1, 1, 1, 1, 1, 1)), held_cells((3, 3, 3))

    def both(parameters, state):
        def move(parameters, state):
            return advance(in_precision(parameters, config), state, fires, held, world=around, config=config)[:2]

        moved, pull = jax.vjp(move, parameters, state)
        return moved, pull(moved)

    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=hopper_device())):
        lowered = jax.jit(both).trace(parameters, state).lower(lowering_platforms=("cuda",)).as_text()
    forward, backward = ("speak", "hear", "move"), ("update_backward", "content_backward", "collect", "speak_backward")
    kernels = (*forward, *backward, "weigh_moves", "correlate", "weigh_messages")
    assert sorted(re.findall(r'__gpu\$xla.gpu.triton.*?name = "(\w+)"', lowered)) == sorted(kernels)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 5e-3), ("bfloat16", 3e-2)])
@pytest.mark.parametrize(
    ("batch", "fires", "walls", "whole", "remat"),
    [
        (8, "per batch", "zero", True, "automatic"),
        (40, "per batch", "zero", True, "automatic"),
        (100, "per batch", "zero", True, "automatic"),
        (100, "per sample", "zero", True, "always"),
        (24, "expected", "periodic", True, "never"),
        (24, "per sample", "zero", False, "never"),
    ],
)
def test_on_a_gpu_the_kernels_are_as_near_to_float32_as_their_numbers(precision, tolerance, batch, fires, walls, whole, remat):
    config = LatticeConfig(GridConfig(5, 6, 7), precision=precision, walls=walls, remat=remat)
    parameters, state = cell_parameters(config), lively_state(config, batch=batch)
    moves = firings(fires, (5, 6, 7), batch)
    found = outcome(advance_alone, config, world(walls)._replace(whole=whole), moves, parameters, state, jax.jit)
    with jax.default_matmul_precision("highest"):
        plain = dataclasses.replace(config, precision="float32")
        expected = outcome(by_steps, plain, world(walls), moves, parameters, state, jax.jit)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert error(one, other) < tolerance


@pytest.mark.parametrize(
    ("config", "backend", "found"),
    [
        (LatticeConfig(), "cpu", "the device is cpu"),
        (LatticeConfig(sharing="layer"), "gpu", "lattice.sharing is 'layer'"),
        (LatticeConfig(walls="reflect"), "gpu", "lattice.walls is 'reflect'"),
        (with_cell(LatticeConfig(), hidden=96), "gpu", "32 visible and 96 hidden"),
        (with_cell(LatticeConfig(), visible=8, memory=8), "gpu", "8 visible and 128 hidden"),
        (with_cell(LatticeConfig(), visible=64, memory=64, hidden=512), "gpu", "64 visible and 512 hidden channels in float32"),
    ],
)
def test_what_the_kernels_cannot_run_is_refused_with_the_way_out(monkeypatch, config, backend, found):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with pytest.raises(InputError, match=found) as refusal:
        advance({}, lively_state(SMALL), firings("per batch"), held_cells(), world=world("zero"), config=config)
    assert "engine scan" in str(refusal.value)
    with pytest.raises(InputError, match=found):
        devices.engine(dataclasses.replace(config, engine="fused"))


def test_on_a_gpu_the_kernels_are_taken_wherever_they_can_run(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for precision in ("float32", "bfloat16"):
        assert devices.engine(LatticeConfig(precision=precision)) == "fused"
        assert devices.engine(LatticeConfig(precision=precision, walls="reflect")) == "scan"
    wide = with_cell(LatticeConfig(), visible=64, memory=64, hidden=512)
    assert devices.engine(wide) == "scan"
    assert devices.engine(dataclasses.replace(wide, precision="bfloat16")) == "fused"


@pytest.mark.parametrize(
    ("remat", "gigabytes", "expected"), [("always", 80, True), ("never", 1, False), ("automatic", 80, False)]
)
def test_what_is_kept_for_the_gradient_depends_on_the_setting(monkeypatch, remat, gigabytes, expected):
    assert again_with(monkeypatch, remat, gigabytes) is expected


@pytest.mark.parametrize("batch", [256, 65])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_by_itself_it_depends_on_the_memory(monkeypatch, precision, batch):
    """Kept is what a step hands its gradient, but for weights and masks, for all samples and those that pad them.

    For a cell and sample two states, what is proposed and a factor, and two hidden layers.
    """
    config = LatticeConfig(GridConfig(2, 3, 2), precision=precision, remat="never")
    plan = Plan(world("zero")._replace(whole=True), config, (2, 3, 2), 64, interpret=True, recomputes=False)
    parameters = in_precision(cell_parameters(config), config)
    arguments = parameters, jnp.zeros((2, 3, 2, 64, 64)), jnp.ones((2, 3, 2, 1, 2))
    _, (_, state, _, proposed, listened) = jax.eval_shape(functools.partial(_step_forward, plan=plan), *arguments)
    sizes = jax.tree.map(lambda leaf: leaf.size * leaf.dtype.itemsize / (12 * 64), (state, proposed, listened))
    each = jax.tree.reduce(float.__add__, sizes)
    assert each == {"float32": 1668, "bfloat16": 1156}[precision]
    kept = each * 2475 * {256: 256, 65: 128}[batch] * 11 / 1e9
    assert not again_with(monkeypatch, "automatic", 1.51 * kept, precision, batch)
    assert again_with(monkeypatch, "automatic", 1.49 * kept, precision, batch)


def again_with(monkeypatch, remat: str, gigabytes: float, precision: str = "bfloat16", batch: int = 256) -> bool:
    """`recomputes` for the full cube at 11 steps, beside so much memory."""

    class Gpu:
        def memory_stats(self) -> dict:
            return {"bytes_limit": gigabytes * 1e9}

    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu()])
    return recomputes(LatticeConfig(precision=precision, remat=remat), (11, 15, 15), batch, 11)


def test_bytes_are_those_of_a_count_by_hand():
    cells, batch = 60, 16
    moved = step_bytes(SMALL, batch, fused=True)
    assert moved["forward weights"] == cells * 4 * parameters_per_cell(SMALL.cell)
    state, visible, message, number = 4 * (3 + 3), 4 * 3, 4 * 5, 4
    listen = (state + message + number) + (state + message + state + message)
    move = (state + state + message) + (state + visible + number)
    assert moved["forward fields"] == cells * batch * (listen + move)
    proposed = forgotten = visible  # in float32, as in the sums over neighbours
    update_backward = (state + visible + visible + state + number) + (state + visible + proposed + forgotten)
    content_backward = (state + message + proposed + state + visible) + (state + visible + message + message + message)
    weigh_moves = state + message + message + message + proposed + forgotten + visible + visible
    correlate = (visible + message) + (visible + message)
    collect = (message + state + visible + message) + (state + message + number)
    speak_backward = (state + number + message + number + state) + (state + message)
    weigh_messages = state + message
    sample_by_sample = update_backward + content_backward + collect + speak_backward
    backward = sample_by_sample + weigh_moves + correlate + weigh_messages
    assert moved["backward fields"] == cells * batch * backward
    again = step_bytes(dataclasses.replace(SMALL, remat="always"), batch, fused=True)
    assert again["backward fields"] == cells * batch * (backward + listen)


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
    assert fields[0] > 1.9 * fields[1]
