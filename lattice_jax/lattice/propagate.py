"""Propagation: the cube stepped from injection to read-out, in one scan.

Contract: a pure function of parameters, injected values, key, settings and start state. Without a start state the cube is
quiescent, zero everywhere but on the input face; what reaches any other cell came through neighbours, one cell a step. A start
state is taken as it is given: no gradient flows into it, so a pass answers for its own steps alone. The same function runs on
one device or on a mesh, with equal values.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Key

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice import devices, grid
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.firing import Horizon, Read, firing, most_firings
from lattice_jax.lattice.fused.step import advance as fused_advance
from lattice_jax.lattice.native import engine as native
from lattice_jax.lattice.step import Field, State, World, in_precision, step, with_transposed
from lattice_jax.lattice.surface import face_mask

_ACTIVITY_EPSILON = 1e-6


class Propagation(NamedTuple):
    """What a pass leaves behind."""

    state: State
    activity: Float[Array, "steps batch"]
    """Mean square change of the visible channels in each step, relative to their mean square: 0 for a cube at rest, and from
    the horizon on."""
    trajectory: Float[Array, "steps depth height width batch channel"] | None
    """The visible channels after every step, where asked for."""


def _advance(
    parameters: Parameters,
    injected: Field,
    at_input: Bool[Array, "d h w 1 1"],
    fires: Float[Array, "steps #d #h #w #batch 1"],
    start: State | None,
    *,
    world: World,
    config: LatticeConfig,
    trajectory: bool,
) -> tuple[State, Float[Array, "steps 2 batch"], Array | None]:
    """All steps, by the scan or the kernels, for the cells that this program holds; activity as its two sums of squares."""

    def inject(visible: Field) -> Field:
        return jnp.where(at_input, injected, visible)

    parameters = in_precision(parameters, config)
    if start is None:
        shape = (*at_input.shape[:3], injected.shape[3])
        start = State(jnp.zeros((*shape, config.cell.visible)), jnp.zeros((*shape, config.cell.memory)))
    start = start._replace(visible=inject(start.visible))
    if devices.engine(config) == "fused":
        held = at_input & (config.injection == "held")
        return fused_advance(parameters, start, fires, held, world=world, config=config, trajectory=trajectory)
    parameters = with_transposed(parameters, config)
    move = functools.partial(step, world=world, config=config)
    if config.remat != "never":
        move = jax.checkpoint(move)

    def one_step(state: State, fires: Array):
        moved = move(parameters, state, fires)
        if config.injection == "held":
            moved = moved._replace(visible=inject(moved.visible))
        squares = jnp.stack([jnp.square(moved.visible - state.visible), jax.lax.stop_gradient(jnp.square(moved.visible))])
        return moved, (jnp.sum(squares, (1, 2, 3, 5)), moved.visible if trajectory else None)

    state, (squares, visible) = jax.lax.scan(one_step, start, fires)
    return state, squares, visible


def _advance_across(
    parameters: Parameters,
    injected: Field,
    at_input: Array,
    fires: Array,
    start: State | None,
    *,
    mesh: Mesh,
    config: LatticeConfig,
    trajectory: bool,
):
    """`_advance` with the rows of cells divided over the devices of `mesh`; parameters come placed, results leave unpadded."""
    pad = functools.partial(devices.pad_rows, grid=config.grid, mesh=mesh)
    injected, at_input, fires = pad(injected, 1), pad(at_input, 1), pad(fires, 2)
    start = jax.tree.map(lambda field: pad(field, 1), start)
    by_rows = PartitionSpec(None, devices.AXIS)
    extent = {"height": config.grid.height, "devices": mesh.size}
    world = World(
        config.walls,
        functools.partial(devices.extend_across, walls=config.walls, **extent),
        functools.partial(devices.real_rows, **extent),
    )

    def on_device(parameters, injected, at_input, fires, start):
        state, squares, visible = _advance(
            parameters, injected, at_input, fires, start, world=world, config=config, trajectory=trajectory
        )
        return state, jax.lax.psum(squares, devices.AXIS), visible

    state, squares, visible = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(
            jax.tree.map(lambda leaf: devices.row_partition(leaf, 1), parameters),
            devices.row_partition(injected, 1),
            by_rows,
            devices.row_partition(fires, 2),
            by_rows,
        ),
        out_specs=(by_rows, PartitionSpec(), PartitionSpec(None, None, devices.AXIS)),
        check_vma=False,
    )(parameters, injected, at_input, fires, start)
    return devices.collect(state, config.grid), squares, None if visible is None else visible[:, :, : config.grid.height]


def holds_something(state: State) -> Bool[Array, " batch"]:
    """Which samples' states are not quiescent: something in them is not zero."""
    return jnp.any(state.visible != 0, (0, 1, 2, 4)) | jnp.any(state.memory != 0, (0, 1, 2, 4))


def propagate(
    parameters: Parameters,
    injected: Field,
    *,
    key: Key[Array, ""],
    config: LatticeConfig,
    sampled: bool,
    mesh: Mesh | None = None,
    read: Read = "cube",
    start: State | None = None,
    horizon: Horizon | None = None,
    trajectory: bool = False,
) -> Propagation:
    """Let a signal cross the cube by local rules alone.

    `injected`: visible channels of the input face, laid out as a grid that is 1 cell thick along the face's axis. `sampled`
    draws firing masks from `key`; otherwise every update is scaled by the rate. With a mesh, `parameters` come from
    `devices.place`. Of a pass that is read at the "output" only the state of the output face counts: cells rest as soon as what
    they do can't reach it. A trajectory is never the native engine's; the scan computes it on a CPU.

    `start`: what the cells hold before the input is injected; samples whose start is all zero are quiescent, and the light cone
    of the input holds for them alone. `horizon`: steps after which every cell keeps its state; None is `config.steps`.
    """
    start = jax.lax.stop_gradient(start)
    fires = firing(
        config,
        injected.shape[3],
        sampled=sampled,
        key=key,
        read=read,
        started=None if start is None else holds_something(start),
        horizon=horizon,
    )
    at_input = face_mask(config.input_face, config.grid)[..., None, None]
    if devices.engine(config) == "native" and not trajectory:
        firings = most_firings(config, sampled=sampled, read=read, quiescent=start is None)
        state, squares = native.advance(parameters, injected, fires, config=config, firings=firings, start=start)
        visible = None
    elif mesh is None:
        world = World(config.walls, functools.partial(grid.extend, walls=config.walls), whole=True)
        state, squares, visible = _advance(
            parameters, injected, at_input, fires, start, world=world, config=config, trajectory=trajectory
        )
    else:
        state, squares, visible = _advance_across(
            parameters, injected, at_input, fires, start, mesh=mesh, config=config, trajectory=trajectory
        )
    return Propagation(state, squares[:, 0] / (squares[:, 1] + _ACTIVITY_EPSILON), visible)
