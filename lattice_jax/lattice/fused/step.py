"""One lattice step in two GPU kernels, and its gradient in two more: no hidden layer but the messages is ever in GPU memory.

Contract: `fused_step` equals `step.step` in value and gradient, for weights of a cell's own under zero and periodic walls; the
firing mask gets no gradient. One program of a kernel is one cell and a block of samples:

    speak   reads a cell's state and its message weights, writes its normalised message
    move    reads its neighbours' visible channels and messages, the state and all other weights, writes the new state

The gradient keeps nothing but the state before the step: it speaks again, then takes both kernels backwards, each recomputing
its cell. `move_backward` gives what the cell owes its neighbours for what it perceived and gathered; `speak_backward` collects
what its neighbours owe, with `step.adjoint_weights`. `traffic.step_bytes` counts what this moves. A block of samples writes
weight gradients of its own, which are added afterwards. In float32, products on the GPU are TF32, as XLA's are.

The kernels are Pallas lowered by Triton, which JAX has deprecated for Mosaic GPU from 0.11 on. But Mosaic GPU is for Hopper and
later, and its tensor-core products take 64 rows or more, where a training batch has fewer samples.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from lattice_jax.config import LatticeConfig
from lattice_jax.errors import InputError
from lattice_jax.lattice.cell import Parameters, hidden_width, shapes
from lattice_jax.lattice.fused import kernels
from lattice_jax.lattice.fused.kernels import Plan
from lattice_jax.lattice.grid import Offset, offsets
from lattice_jax.lattice.step import Firing, State, World, adjoint_weights

SPEAKS = ("message_scale", "message_kernel", "message_bias", "gate_scale")
_MOVES = (
    *("content_scale", "content_kernel", "content_bias", "gate_bias", "candidate_kernel", "candidate_bias"),
    *("memory_kernel", "memory_bias", "step_size"),
)

_FEWEST_ROWS, _MOST_ROWS = 16, 64
_FEWEST_WARPS, _ROWS_PER_WARP = 4, 8


def _specs(width: int, rows: int) -> tuple[Callable, Callable, Callable]:
    """Which part of an array a program gets: of a field, of weights, of weight gradients that each block of samples writes."""

    def place(depth, cell, block):
        return depth, jax.lax.div(cell, width), jax.lax.rem(cell, width), block

    def of_field(field) -> pl.BlockSpec:
        def index(*program):
            return (*(0 if size == 1 else i for i, size in zip(place(*program), field.shape[:4], strict=True)), 0)

        return pl.BlockSpec((None, None, None, min(rows, field.shape[3]), field.shape[4]), index)

    def of_weights(weights) -> pl.BlockSpec:
        rest = weights.shape[3:]
        return pl.BlockSpec((None, None, None, *rest), lambda *program: (*place(*program)[:3], *[0] * len(rest)))

    def of_partial(weights) -> pl.BlockSpec:
        rest = weights.shape[4:]
        return pl.BlockSpec(
            (None, None, None, None, *rest), lambda *program: (program[2], *place(*program)[:3], *[0] * len(rest))
        )

    return of_field, of_weights, of_partial


def _launch(kernel: Callable, plan: Plan, *, fields: dict, weights: dict, around: dict, results: dict, gradients: tuple = ()):
    """Run `kernel` for every cell and block of samples; fields of `results` (channels and type of each) and weight gradients.

    Of `fields` and `weights` a program gets its own part; fields in `around` it reads where it likes.
    """
    batch = fields["visible"].shape[3]
    rows, blocks = sample_blocks(batch)
    of_field, of_weights, of_partial = _specs(plan.grid[2], rows)
    out_fields = {name: jax.ShapeDtypeStruct((*plan.grid, batch, size), kind) for name, (size, kind) in results.items()}
    out_weights = {name: jax.ShapeDtypeStruct((blocks, *weights[name].shape), weights[name].dtype) for name in gradients}
    fields_out, partial = pl.pallas_call(
        functools.partial(kernel, plan=plan),
        grid=(plan.grid[0], plan.grid[1] * plan.grid[2], blocks),
        in_specs=(
            jax.tree.map(of_field, fields),
            jax.tree.map(of_weights, weights),
            jax.tree.map(lambda _: pl.BlockSpec(memory_space=pl.ANY), around),
        ),
        out_specs=(jax.tree.map(of_field, out_fields), jax.tree.map(of_partial, out_weights)),
        out_shape=(out_fields, out_weights),
        compiler_params=triton.CompilerParams(num_warps=max(_FEWEST_WARPS, rows // _ROWS_PER_WARP), num_stages=1),
        interpret=plan.interpret,
    )(fields, weights, around)
    summed = {name: jnp.sum(value, 0, dtype=jnp.float32).astype(value.dtype) for name, value in partial.items()}
    return fields_out, summed


def _neighbours(plan: Plan) -> dict[str, tuple[Offset, ...]]:
    """Where those lie whose visible channels and whose messages a cell reads."""
    return {"perception": offsets(plan.config.cell.perception), "gate": offsets(plan.config.cell.gate)}


def _shown(fields: dict, plan: Plan) -> dict:
    """Fields as a cell's neighbours may read them, and where these lie."""
    around = {name: jnp.array(near, jnp.int32) for name, near in _neighbours(plan).items()}
    return around | {name: field if plan.world.whole else plan.world.extend(field) for name, field in fields.items()}


def _surround(parameters: Parameters, state: State, plan: Plan) -> dict:
    """What the cells show each other: visible channels and messages, seen beyond the walls."""
    kernel = parameters["message_kernel"]
    told, _ = _launch(
        *(kernels.speak, plan),
        fields=state._asdict(),
        weights={name: parameters[name] for name in SPEAKS},
        around={},
        results={"message": (kernel.shape[-1], kernel.dtype)},
    )
    return _shown({"visible": state.visible, **told}, plan)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _step(parameters: Parameters, state: State, fires: Firing, plan: Plan) -> State:
    moved, _ = _launch(
        *(kernels.move, plan),
        fields={**state._asdict(), "fires": fires},
        weights={name: parameters[name] for name in (*_MOVES, "perception", "gate")},
        around=_surround(parameters, state, plan),
        results={"visible": (state.visible.shape[-1], jnp.float32), "memory": (state.memory.shape[-1], jnp.float32)},
    )
    return State(**moved)


def _step_forward(parameters, state, fires, plan):
    return _step(parameters, state, fires, plan), (parameters, state, fires)


def _step_backward(plan, residuals, gradient):
    parameters, state, fires = residuals
    visible = state.visible.shape[-1]
    moves, kernel = (*_MOVES, "perception", "gate"), parameters["message_kernel"]
    owed = {"visible": (visible, jnp.float32), "memory": (visible, jnp.float32)}
    to_state, to_moves = _launch(
        *(kernels.move_backward, plan),
        fields={**state._asdict(), "fires": fires, "to_visible": gradient.visible, "to_memory": gradient.memory},
        weights={name: parameters[name] for name in moves},
        around=_surround(parameters, state, plan),
        results={**owed, "perceived": (visible, jnp.float32), "gathered": (kernel.shape[-1], kernel.dtype)},
        gradients=moves,
    )
    # A row that only pads the grid heard its neighbours in vain: none of them reads it.
    adjoint = {
        f"{name}_adjoint": plan.world.real(adjoint_weights(parameters[name], near, plan.world))
        for name, near in _neighbours(plan).items()
    }
    to_all, to_speaks = _launch(
        *(kernels.speak_backward, plan),
        fields={**state._asdict(), "to_visible": to_state["visible"], "to_memory": to_state["memory"]},
        weights={**{name: parameters[name] for name in SPEAKS}, **adjoint},
        around=_shown({name: to_state[name] for name in ("perceived", "gathered")}, plan),
        results=owed,
        gradients=SPEAKS,
    )
    return to_moves | to_speaks, State(**to_all), jnp.zeros_like(fires)


_step.defvjp(_step_forward, _step_backward)


def sample_blocks(batch: int) -> tuple[int, int]:
    """Samples of one program, and how many programs share a cell: a batch is padded to a power of two, or a multiple of 64."""
    rows = min(max(pl.next_power_of_2(batch), _FEWEST_ROWS), _MOST_ROWS)
    return rows, -(-batch // rows)


def _require(config: LatticeConfig, interpret: bool) -> None:
    """Raises InputError where the kernels can't run."""
    found, expected = None, ""
    widths = (config.cell.visible, hidden_width(config.cell))
    if config.sharing != "cell":
        found, expected = f"lattice.sharing is {config.sharing!r}", "weights of its own for every cell ('cell')"
    elif config.walls not in ("zero", "periodic"):
        found, expected = f"lattice.walls is {config.walls!r}", "'zero' or 'periodic', whose gradient the kernels know"
    elif interpret:
        return
    elif jax.default_backend() != "gpu":
        found, expected = f"lattice.engine is 'fused' on {jax.default_backend()}", "a GPU"
    elif any(width < _FEWEST_ROWS or width != pl.next_power_of_2(width) for width in widths):
        found = "lattice.cell has {} visible and {} hidden channels".format(*widths)
        expected = f"powers of two, {_FEWEST_ROWS} or more, as the tensor cores take them"
    if found:
        raise InputError(f"{found}, and the engine is 'fused'", expected=expected, fix="set --config.lattice.engine scan")


def fused_step(
    parameters: Parameters, state: State, fires: Firing, *, world: World, config: LatticeConfig, interpret: bool | None = None
) -> State:
    """`step.step` by the kernels of this module; parameters as `step.in_precision` gives them, the state in float32.

    `interpret` runs the kernels in plain JAX on any device, for tests. Raises InputError for shared weights, for walls other
    than zero and periodic, without a GPU, and for widths that the GPU kernels can't take.
    """
    _require(config, bool(interpret))
    depth, height, width, batch, _ = state.visible.shape
    missing = math.prod(sample_blocks(batch)) - batch

    def pad(field: Array) -> Array:
        return jnp.pad(field, [(0, missing if axis == 3 and field.shape[3] == batch else 0) for axis in range(5)])

    own = {name: parameters[name] for name in shapes(config.cell)}
    plan = Plan(world, config, (depth, height, width), bool(interpret))
    fires = jax.lax.stop_gradient(fires.astype(jnp.float32))
    moved = _step(own, jax.tree.map(pad, state), fires if fires.shape[3] == 1 else pad(fires), plan)
    return jax.tree.map(lambda field: field[:, :, :, :batch], moved)
