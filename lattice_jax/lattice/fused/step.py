"""Lattice steps in GPU kernels: three a step, seven for its gradient.

Contract: `advance` equals a scan of `step.step` in value and gradient, for weights of a cell's own under zero and periodic
walls; the firing mask gets no gradient. One program of a kernel is one cell and a block of samples, and a cell that does not
act is skipped:

    speak   a cell's normalised message, from its state, where a neighbour that fires will hear it
    hear    what a cell that fires perceives and gathers of its neighbours
    move    its next state

The gradient keeps the state before the step, what the cells proposed, and what they said and heard, unless that takes too much
memory; then it speaks and hears again. `to_x` is the gradient with respect to x. It goes back from the update to what was
proposed (`update_backward`) and to what the cell owes its neighbours (`content_backward`), collects what those owe the cell,
with `step.adjoint_weights` (`collect`), and ends at the state (`speak_backward`). Beside these the gradients to the weights
are added up over the samples, by `weighing`.
`traffic.step_bytes` counts what this moves.
In float32, products on the GPU are TF32, as XLA's are.

The kernels are Pallas lowered by Triton, which JAX has deprecated for Mosaic GPU from 0.11 on. But Mosaic GPU is for Hopper and
later, and its tensor-core products take 64 rows or more, where a training batch has fewer samples.
"""

import functools
import math
from typing import cast

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from lattice_jax.config import LatticeConfig
from lattice_jax.errors import SettingsError
from lattice_jax.lattice.cell import Parameters, hidden_width, shapes
from lattice_jax.lattice.fused import kernels, weighing
from lattice_jax.lattice.fused.kernels import Plan
from lattice_jax.lattice.fused.launch import FEWEST_ROWS, SHAPES, launch, sample_blocks
from lattice_jax.lattice.grid import Offset, seen
from lattice_jax.lattice.step import Field, Firing, State, World, adjoint_weights

_MESSAGES = ("message_scale", "message_kernel", "message_bias")
SPEAKS = (*_MESSAGES, "gate_scale")
HEARS = ("perception", "gate")
_PROPOSES = ("content_scale", "content_kernel", "content_bias", "gate_bias", "candidate_kernel", "candidate_bias")
_REMEMBERS = ("memory_kernel", "memory_bias")
_UPDATES = (*_REMEMBERS, "step_size")
_MOVES = (*_PROPOSES, *_UPDATES)

_SHARE_OF_MEMORY = 2 / 3
"""How much of a GPU may hold what the gradient keeps of the steps; weights, moments and gradients take the rest."""
_ON_CHIP = 232_448
"""Bytes that the programs of a multiprocessor share on a Hopper GPU."""
_MOST_UNROLLED = 64
"""Steps; more are a loop, which compiles sooner."""


def _chosen(parameters: Parameters, names: tuple[str, ...]) -> Parameters:
    return {name: parameters[name] for name in names}


def _floats(**channels: int) -> dict[str, tuple]:
    """Results of so many channels in float32."""
    return {name: (count, jnp.float32) for name, count in channels.items()}


def _acting(fires: Float[Array, "#d #h #w #batch 2"], plan: Plan) -> Firing:
    """Not zero where some sample of a block fires: what a program of any kernel reads must have been written for all of it."""
    acts = fires[..., 1:]
    if acts.shape[3] == 1:
        return acts
    rows, blocks = sample_blocks(plan.batch)
    most = jnp.max(acts.reshape(*acts.shape[:3], blocks, rows, 1), 4, keepdims=True)
    return jnp.broadcast_to(most, (*acts.shape[:3], blocks, rows, 1)).reshape(acts.shape)


def _zeros_between(acts: Firing, *names: str) -> dict[str, str]:
    """`at_rest` of what is multiplied over all samples of a cell: zeros where some of its programs act and others don't."""
    return dict.fromkeys(names, "") if acts.shape[3] > 1 else {}


def _ever(acts: Firing) -> Firing:
    """Not zero where some sample acts."""
    return jnp.max(acts, 3, keepdims=True)


def _beside(acts: Firing, around: tuple[Offset, ...], plan: Plan) -> Firing:
    """Not zero for cells of which a neighbour, or they themselves, act."""
    extended = plan.world.extend(jnp.broadcast_to(acts, (*plan.grid, *acts.shape[3:])))
    return functools.reduce(jnp.maximum, (seen(extended, offset) for offset in around))


def _listen(parameters: Parameters, state: Field, acts: Firing, plan: Plan) -> tuple[dict, dict]:
    """What the cells beside one that fires say, and what those that act make of it."""
    kernel = parameters["message_kernel"]
    hidden, kind = kernel.shape[-1], kernel.dtype
    said, _ = launch(
        *(kernels.speak, plan),
        fields={"state": state, "acts": _beside(acts, plan.near("gate"), plan)},
        weights=_chosen(parameters, SPEAKS),
        results=_floats(factor=1) | {"message": (hidden, kind)},
        # A cell that is touched but not heard has the gradient 0, times this factor.
        at_rest={"message": "", "factor": ""},
    )
    heard, _ = launch(
        *(kernels.hear, plan),
        fields={"state": state, "acts": acts},
        weights=_chosen(parameters, HEARS),
        around={"perception": state, "gate": said["message"]},
        results=_floats(around=state.shape[-1]) | {"gathered": (hidden, kind)},
        at_rest=_zeros_between(acts, "around"),
    )
    return said, heard


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _step(parameters: Parameters, state: Field, fires: Float[Array, "#d #h #w #batch 2"], plan: Plan) -> tuple[Field, Field]:
    """The next state, and the square of each cell's move."""
    return _step_forward(parameters, state, fires, plan)[0]


def _step_forward(parameters, state, fires, plan):
    acts = _acting(fires, plan)
    said, heard = _listen(parameters, state, acts, plan)
    found, _ = launch(
        *(kernels.move, plan),
        fields={"state": state, **heard, "fires": fires, "acts": acts},
        weights=_chosen(parameters, _MOVES),
        results=_floats(state=state.shape[-1], proposed=plan.config.cell.visible, moved=1),
        at_rest={"state": "state", "moved": ""} | _zeros_between(acts, "proposed"),
    )
    listened = None if plan.recomputes else (said, heard)
    return (found["state"], found["moved"]), (parameters, state, fires, found["proposed"], listened)


def _step_backward(plan, residuals, gradient):
    parameters, state, fires, proposed, listened = residuals
    acts = _acting(fires, plan)
    said, heard = listened or _listen(parameters, state, acts, plan)
    moving = {"state": state, "proposed": proposed, "fires": fires, "acts": acts} | heard
    to_state, to_sums, to_moves = _move_backward(parameters, moving, gradient, plan)
    _, to_hears = launch(
        *(weighing.correlate, plan),
        fields={**to_sums, "acts": _ever(acts)},
        weights=_chosen(parameters, HEARS),
        around={"perception": state, "gate": said["message"]},
        gradients=HEARS,
    )
    touched = _beside(acts, tuple({*plan.near("perception"), *plan.near("gate")}), plan)
    collected, _ = launch(
        *(kernels.collect, plan),
        fields={"message": said["message"], "to_state": to_state, "acts": touched},
        # A row that only pads the grid heard its neighbours in vain: none of them reads it.
        weights={name: plan.world.real(adjoint_weights(parameters[name], plan.near(name), plan.world)) for name in HEARS},
        around=to_sums,
        results=_floats(state=state.shape[-1], product=1) | {"message": (said["message"].shape[-1], said["message"].dtype)},
        at_rest={"state": "to_state"},
    )
    speaking = {"to_" + name: field for name, field in collected.items()}
    speaking |= {"state": state, "factor": said["factor"], "acts": touched}
    to_state, to_speaks = _speak_backward(parameters, speaking, plan)
    return to_moves | to_hears | to_speaks, to_state, jnp.zeros_like(fires)


def _move_backward(parameters: Parameters, fields: dict, gradient: tuple[Field, Field], plan: Plan):
    """Gradients to the state, to the neighbour sums by the names of their weights, and to the weights of `kernels.move`."""
    visible, hidden = plan.config.cell.visible, fields["gathered"].shape[-1]
    low, width, acts = fields["gathered"].dtype, fields["state"].shape[-1], fields["acts"]
    proposing, to_size = launch(
        *(kernels.update_backward, plan),
        fields=fields | {"to_state": gradient[0], "to_moved": gradient[1]},
        weights=_chosen(parameters, _UPDATES),
        results=_floats(to_own=width, to_perceived=visible) | {"to_proposed": (visible, low), "to_forget": (visible, low)},
        at_rest=_zeros_between(acts, "to_proposed", "to_forget"),
        gradients=("step_size",),
    )
    owed, _ = launch(
        *(kernels.content_backward, plan),
        fields=fields | proposing | {"to_state": gradient[0]},
        weights=_chosen(parameters, _PROPOSES),
        results=_floats(state=width, perceived=visible)
        | {"to_gathered": (hidden, low), "gated": (hidden, low), "to_content": (hidden, low)},
        at_rest={"state": "to_state", "perceived": "", "to_gathered": ""} | _zeros_between(acts, "gated", "to_content"),
    )
    multiplied = {name: owed[name] for name in ("gated", "to_gathered", "to_content")}
    multiplied |= {name: proposing[name] for name in ("to_proposed", "to_forget")}
    _, to_products = launch(
        *(weighing.weigh_moves, plan),
        fields=multiplied | {name: fields[name] for name in ("state", "proposed", "around")} | {"acts": _ever(acts)},
        weights=_chosen(parameters, (*_PROPOSES, *_REMEMBERS)),
        gradients=(*_PROPOSES, *_REMEMBERS),
    )
    return owed["state"], {"perception": owed["perceived"], "gate": owed["to_gathered"]}, to_size | to_products


def _speak_backward(parameters: Parameters, fields: dict, plan: Plan) -> tuple[Field, Parameters]:
    """Gradients to the state before a step, and to the weights of `kernels.speak`."""
    owed, to_scale = launch(
        *(kernels.speak_backward, plan),
        fields=fields,
        weights=_chosen(parameters, SPEAKS),
        results=_floats(state=fields["state"].shape[-1])
        | {"to_message": (fields["to_message"].shape[-1], fields["to_message"].dtype)},
        at_rest={"state": "to_state"} | _zeros_between(fields["acts"], "to_message"),
        gradients=("gate_scale",),
    )
    _, to_products = launch(
        *(weighing.weigh_messages, plan),
        fields={"state": fields["state"], "to_message": owed["to_message"], "acts": _ever(fields["acts"])},
        weights=_chosen(parameters, _MESSAGES),
        gradients=_MESSAGES,
    )
    return owed["state"], to_scale | to_products


_step.defvjp(_step_forward, _step_backward)


def product_bytes(config: LatticeConfig) -> int:
    """Bytes of a number that is multiplied."""
    return 4 if config.precision == "float32" else 2


def _most_on_chip(config: LatticeConfig) -> int:
    """Bytes of the operands that a program of `speak` or of `weigh_moves`, which hold the most, has on the chip at once."""
    inner, hidden = 2 * config.cell.visible, hidden_width(config.cell)
    speaking, weighed = inner * (SHAPES["speak"].rows + hidden), weighing.MANY_ROWS * (inner + hidden)
    return product_bytes(config) * max(speaking, weighed)


def obstacle(config: LatticeConfig, *, interpret: bool = False) -> tuple[str, str] | None:
    """What keeps the kernels from running here, and what they need instead; None where nothing does."""
    if config.sharing != "cell":
        return f"lattice.sharing is {config.sharing!r}", "weights of its own for every cell ('cell')"
    if config.walls not in ("zero", "periodic"):
        return f"lattice.walls is {config.walls!r}", "'zero' or 'periodic', whose gradient the kernels know"
    if interpret:
        return None
    if jax.default_backend() != "gpu":
        return f"the device is {jax.default_backend()}", "a GPU"
    widths = config.cell.visible, hidden_width(config.cell)
    found = "lattice.cell has {} visible and {} hidden channels in {}".format(*widths, config.precision)
    if any(width < FEWEST_ROWS or width != pl.next_power_of_2(width) for width in widths):
        return found, f"powers of two, {FEWEST_ROWS} or more, as the tensor cores take them"
    if (most := _most_on_chip(config)) > _ON_CHIP:
        return found, f"fewer, or lattice.precision bfloat16: operands take {most:,} bytes, a GPU has {_ON_CHIP:,}"
    return None


def require(config: LatticeConfig, *, interpret: bool = False) -> None:
    """Raises SettingsError where `obstacle` finds one."""
    if (against := obstacle(config, interpret=interpret)) is not None:
        found, expected = against
        raise SettingsError(
            f"lattice.engine is 'fused', and {found}", expected=expected, fix="set --config.lattice.engine scan"
        )


def recomputes(config: LatticeConfig, grid: tuple[int, int, int], batch: int, steps: int) -> bool:
    """Whether the gradient speaks and hears again, as `lattice.remat` says, for so many cells of this device and samples.

    By itself it does not where the device doesn't tell its memory.
    """
    if config.remat != "automatic":
        return config.remat == "always"
    rows, blocks = sample_blocks(batch)
    kept = 4 * (2 * (config.cell.visible + config.cell.memory) + config.cell.visible + 1)
    kept += 2 * product_bytes(config) * hidden_width(config.cell)
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    return math.prod(grid) * rows * blocks * steps * kept > _SHARE_OF_MEMORY * memory


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
    kernels in plain JAX on any device, for tests. Raises SettingsError for shared weights, for walls other than zero and
    periodic, without a GPU, and for widths that the GPU kernels can't take.
    """
    require(config, interpret=interpret)
    depth, height, width, batch, visible = start.visible.shape
    rows, blocks = sample_blocks(batch)
    grid = (depth, height, width)
    again = recomputes(config, grid, batch, len(fires))
    plan = Plan(world, config, grid, rows * blocks, interpret, again)

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

    # A loop would copy all that the gradient needs to where it is stacked, and back.
    unroll = not again and len(fires) <= _MOST_UNROLLED
    started = pad(jnp.concatenate([start.visible, start.memory], -1))
    state, (squares, shown) = jax.lax.scan(one_step, started, pad(moves), unroll=unroll)
    state = state[:, :, :, :batch]
    return State(state[..., :visible], state[..., visible:]), squares[..., :batch], shown
