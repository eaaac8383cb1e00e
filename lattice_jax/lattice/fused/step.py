"""Lattice steps in GPU kernels: three a step, five for its gradient, and no hidden layer but the messages in GPU memory.

Contract: `advance` equals a scan of `step.step` in value and gradient, for weights of a cell's own under zero and periodic
walls; the firing mask gets no gradient. One program of a kernel is one cell and a block of samples, and a cell that does not
act is skipped:

    speak   a cell's normalised message, from its state, where a neighbour that fires will hear it
    hear    what a cell that fires perceives and gathers of its neighbours
    move    its next state

The gradient keeps the state before the step and what the cells proposed. It speaks and hears again; then `move_backward` gives
what the cell owes its neighbours, `correlate` the gradients of the neighbour weights, `collect` what the neighbours owe the
cell, with `step.adjoint_weights`, and `speak_backward` the gradient to the state. `traffic.step_bytes` counts what this moves.
In float32, products on the GPU are TF32, as XLA's are.

The kernels are Pallas lowered by Triton, which JAX has deprecated for Mosaic GPU from 0.11 on. But Mosaic GPU is for Hopper and
later, and its tensor-core products take 64 rows or more, where a training batch has fewer samples.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from lattice_jax.config import LatticeConfig
from lattice_jax.errors import InputError
from lattice_jax.lattice.cell import Parameters, hidden_width, shapes
from lattice_jax.lattice.fused import kernels
from lattice_jax.lattice.fused.kernels import Plan
from lattice_jax.lattice.fused.launch import FEWEST_ROWS, LISTENING, adding, launch, multiplying, sample_blocks
from lattice_jax.lattice.grid import Offset, seen
from lattice_jax.lattice.step import Field, Firing, State, World, adjoint_weights

SPEAKS = ("message_scale", "message_kernel", "message_bias", "gate_scale")
HEARS = ("perception", "gate")
_MOVES = (
    *("content_scale", "content_kernel", "content_bias", "gate_bias", "candidate_kernel", "candidate_bias"),
    *("memory_kernel", "memory_bias", "step_size"),
)


def _chosen(parameters: Parameters, names: tuple[str, ...]) -> Parameters:
    return {name: parameters[name] for name in names}


def _floats(**channels: int) -> dict[str, tuple]:
    """Results of so many channels in float32."""
    return {name: (count, jnp.float32) for name, count in channels.items()}


def _acting(fires: Float[Array, "#d #h #w #batch 2"], plan: Plan) -> Firing:
    """Not zero where some sample of a program of products fires: what such a program reads must have been written."""
    acts = fires[..., 1:]
    if acts.shape[3] == 1:
        return acts
    rows, blocks = sample_blocks(plan.batch)
    most = jnp.max(acts.reshape(*acts.shape[:3], blocks, rows, 1), 4, keepdims=True)
    return jnp.broadcast_to(most, (*acts.shape[:3], blocks, rows, 1)).reshape(acts.shape)


def _beside(acts: Firing, around: tuple[Offset, ...], plan: Plan) -> Firing:
    """Not zero for cells of which a neighbour, or they themselves, act."""
    extended = plan.world.extend(jnp.broadcast_to(acts, (*plan.grid, *acts.shape[3:])))
    return functools.reduce(jnp.maximum, (seen(extended, offset) for offset in around))


def _listen(parameters: Parameters, state: Field, acts: Firing, plan: Plan) -> tuple[dict, dict]:
    """What all cells say, and what those that act make of it."""
    kernel = parameters["message_kernel"]
    hidden, kind = kernel.shape[-1], kernel.dtype
    said, _ = launch(
        *(kernels.speak, plan, multiplying(plan.batch)),
        fields={"state": state, "acts": _beside(acts, plan.near("gate"), plan)},
        weights=_chosen(parameters, SPEAKS),
        results=_floats(factor=1) | {"message": (hidden, kind)},
        at_rest={"message": ""},
    )
    heard, _ = launch(
        *(kernels.hear, plan, LISTENING),
        fields={"state": state, "acts": acts},
        weights=_chosen(parameters, HEARS),
        around={"perception": state, "gate": said["message"]},
        results=_floats(around=state.shape[-1]) | {"gathered": (hidden, kind)},
    )
    return said, heard


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _step(parameters: Parameters, state: Field, fires: Float[Array, "#d #h #w #batch 2"], plan: Plan) -> tuple[Field, Field]:
    """The next state, and the square of each cell's move."""
    return _step_forward(parameters, state, fires, plan)[0]


def _step_forward(parameters, state, fires, plan):
    acts = _acting(fires, plan)
    _, heard = _listen(parameters, state, acts, plan)
    found, _ = launch(
        *(kernels.move, plan, multiplying(plan.batch)),
        fields={"state": state, **heard, "fires": fires, "acts": acts},
        weights=_chosen(parameters, _MOVES),
        results=_floats(state=state.shape[-1], proposed=plan.config.cell.visible, moved=1),
        at_rest={"state": "state", "moved": ""},
    )
    return (found["state"], found["moved"]), (parameters, state, fires, found["proposed"])


def _step_backward(plan, residuals, gradient):
    parameters, state, fires, proposed = residuals
    acts, own = _acting(fires, plan), {"state": state, "proposed": proposed}
    said, heard = _listen(parameters, state, acts, plan)
    message, width = (said["message"].shape[-1], said["message"].dtype), state.shape[-1]
    owed, to_moves = launch(
        *(kernels.move_backward, plan, multiplying(plan.batch)),
        fields=own | heard | {"fires": fires, "acts": acts, "to_state": gradient[0], "to_moved": gradient[1]},
        weights=_chosen(parameters, _MOVES),
        results=_floats(state=width, perceived=plan.config.cell.visible) | {"gathered": message},
        at_rest={"state": "to_state", "perceived": "", "gathered": ""},
        gradients=_MOVES,
    )
    to_sums, weights = {"perception": owed["perceived"], "gate": owed["gathered"]}, _chosen(parameters, HEARS)
    _, to_hears = launch(
        *(kernels.correlate, plan, adding(plan.batch)),
        fields={**to_sums, "acts": acts},
        weights=weights,
        around={"perception": state, "gate": said["message"]},
        gradients=HEARS,
    )
    touched = _beside(acts, tuple({*plan.near("perception"), *plan.near("gate")}), plan)
    collected, _ = launch(
        *(kernels.collect, plan, LISTENING),
        fields={"message": said["message"], "to_state": owed["state"], "acts": touched},
        # A row that only pads the grid heard its neighbours in vain: none of them reads it.
        weights={name: plan.world.real(adjoint_weights(weights[name], plan.near(name), plan.world)) for name in HEARS},
        around=to_sums,
        results=_floats(state=width, product=1) | {"message": message},
        at_rest={"state": "to_state"},
    )
    found, to_speaks = launch(
        *(kernels.speak_backward, plan, multiplying(plan.batch)),
        fields={"to_" + name: field for name, field in collected.items()}
        | {"state": state, "factor": said["factor"], "acts": touched},
        weights=_chosen(parameters, SPEAKS),
        results=_floats(state=width),
        at_rest={"state": "to_state"},
        gradients=SPEAKS,
    )
    return to_moves | to_hears | to_speaks, found["state"], jnp.zeros_like(fires)


_step.defvjp(_step_forward, _step_backward)


def obstacle(config: LatticeConfig, *, interpret: bool = False) -> tuple[str, str] | None:
    """What keeps the kernels from running here, and what they need instead; None where nothing does."""
    widths = (config.cell.visible, hidden_width(config.cell))
    if config.sharing != "cell":
        return f"lattice.sharing is {config.sharing!r}", "weights of its own for every cell ('cell')"
    if config.walls not in ("zero", "periodic"):
        return f"lattice.walls is {config.walls!r}", "'zero' or 'periodic', whose gradient the kernels know"
    if interpret:
        return None
    if jax.default_backend() != "gpu":
        return f"the device is {jax.default_backend()}", "a GPU"
    if any(width < FEWEST_ROWS or width != pl.next_power_of_2(width) for width in widths):
        found = "lattice.cell has {} visible and {} hidden channels".format(*widths)
        return found, f"powers of two, {FEWEST_ROWS} or more, as the tensor cores take them"
    return None


def require(config: LatticeConfig, *, interpret: bool = False) -> None:
    """Raises InputError where `obstacle` finds one."""
    if (against := obstacle(config, interpret=interpret)) is not None:
        found, expected = against
        raise InputError(f"lattice.engine is 'fused', and {found}", expected=expected, fix="set --config.lattice.engine scan")


def advance(
    parameters: Parameters,
    start: State,
    fires: Float[Array, "steps #d #h #w #batch 1"],
    held: Bool[Array, "d h w 1 1"],
    *,
    world: World,
    config: LatticeConfig,
    trajectory: bool = False,
    interpret: bool = False,
) -> tuple[State, Float[Array, "steps 2 batch"], Array | None]:
    """The state after all steps, the sums over the cells that `propagate` makes activity of, and the visible channels after
    every step where asked for.

    Parameters as `step.in_precision` gives them. The visible channels of `held` cells stay as they start. `interpret` runs the
    kernels in plain JAX on any device, for tests. Raises InputError for shared weights, for walls other than zero and periodic,
    without a GPU, and for widths that the GPU kernels can't take.
    """
    require(config, interpret=interpret)
    depth, height, width, batch, visible = start.visible.shape
    rows, blocks = sample_blocks(batch)
    plan = Plan(world, config, (depth, height, width), rows * blocks, interpret)

    def pad(field: Array) -> Array:
        missing = plan.batch - batch if field.shape[-2] == batch else 0
        return jnp.pad(field, [(0, missing if axis == field.ndim - 2 else 0) for axis in range(field.ndim)])

    own = _chosen(parameters, tuple(shapes(config.cell)))
    moves_memory = jnp.broadcast_to(fires.astype(jnp.float32), (len(fires), *plan.grid, *fires.shape[4:]))
    moves = jax.lax.stop_gradient(jnp.concatenate([jnp.where(held, 0.0, moves_memory), moves_memory], -1))

    def one_step(state: Field, fires: Array):
        state, moved = cast(tuple[Array, Array], _step(own, state, fires, plan))
        shown = state[..., :visible]
        squares = jnp.stack([moved[..., 0], jax.lax.stop_gradient(jnp.sum(jnp.square(shown), -1))])
        return state, (jnp.sum(squares, (1, 2, 3)), shown[:, :, :, :batch] if trajectory else None)

    state, (squares, shown) = jax.lax.scan(one_step, pad(jnp.concatenate([start.visible, start.memory], -1)), pad(moves))
    state = state[:, :, :, :batch]
    return State(state[..., :visible], state[..., visible:]), squares[..., :batch], shown
