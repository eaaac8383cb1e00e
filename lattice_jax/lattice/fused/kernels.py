"""What a program of a GPU kernel computes for one cell and a block of samples: its message, its next state, their gradients.

Contract: the bodies of the kernels that `fused` launches. Each gets four dicts of references, in which the program's cell is
all there is, `fields` [row, channel] and `weights` to read, `results` and `to_weights` to write, and, where it is shown any,
the `Surroundings`, in which it reads of its neighbours. The mathematics is that of `step`, in float32 but for what
`lattice.precision` rounds: the operands of products, and messages, said, gathered and differentiated. Visible channels and
memory lie one after the other in one field.

Triton wants powers of two in every array. Before every product its operands change places among the threads, at which all of
them wait, so a program is fast where others run beside it, and few do where it holds much. So whatever can do without products
has a kernel of its own: with the neighbour sums in the kernels of the products those took ten times as long. And the gradient
is computed in parts that hold little: sample by sample here, and to all weights but two vectors in `weighing`. Registers are
scarce, so a hidden layer is computed and differentiated some columns at a time.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from lattice_jax.config import LatticeConfig, UpdateConfig
from lattice_jax.lattice.grid import Offset, offsets
from lattice_jax.lattice.step import World

Rows = Float[Array, "row channel"]

_COLUMNS = 32
"""Columns of a hidden layer that are computed at a time."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the kernels are compiled for."""

    world: World
    config: LatticeConfig
    grid: tuple[int, int, int]
    """Cells that this program holds."""
    batch: int
    """Samples, padded to whole blocks."""
    interpret: bool
    recomputes: bool
    """Whether the gradient speaks and hears again."""

    def near(self, name: str) -> tuple[Offset, ...]:
        """Where the neighbours lie that a cell sums over with its weights of this name, "perception" or "gate"."""
        return offsets(self.config.cell.perception if name == "perception" else self.config.cell.gate)


class Surroundings:
    """What this program's cell sees of its neighbours, in whole fields or in fields extended beyond the walls."""

    def __init__(self, fields: dict, plan: Plan):
        self.fields, self.plan = fields, plan
        width = plan.grid[2]
        self.cell = (pl.program_id(0), jax.lax.div(pl.program_id(1), width), jax.lax.rem(pl.program_id(1), width))
        self.block = pl.program_id(2)

    def see(self, name: str, offset: Offset, samples: pl.Slice, columns: pl.Slice) -> Rows:
        """Samples of the neighbour at `offset`; beyond a wall of a whole field, those of the cell at the other side."""
        if self.plan.world.whole:
            place = (jax.lax.rem(index + size, size) for index, size in zip(self._beyond(offset), self.plan.grid, strict=True))
        else:
            place = (index + 1 for index in self._beyond(offset))
        return self.fields[name][(*place, samples, columns)].astype(jnp.float32)

    def sees(self, offset: Offset) -> Array:
        """Whether what `see` gives is what the cell sees."""
        if not self.plan.world.whole or self.plan.world.walls == "periodic":
            return jnp.bool_(True)
        inside = ((index >= 0) & (index < size) for index, size in zip(self._beyond(offset), self.plan.grid, strict=True))
        return functools.reduce(jnp.logical_and, inside)

    def sum(self, name: str, weights: dict, rows: int, columns: pl.Slice) -> Rows:
        """`step.plain_neighbour_sum` of the field and the weights of a name, for this block's samples."""
        total, samples = jnp.zeros((rows, columns.size)), pl.Slice(self.block * rows, rows)
        for k, offset in enumerate(self.plan.near(name)):
            weight = jnp.where(self.sees(offset), weights[name][k, columns], 0.0)
            total += weight[None] * self.see(name, offset, samples, columns)
        return total

    def _beyond(self, offset: Offset) -> list:
        return [index + step for index, step in zip(self.cell, offset, strict=True)]


def skipping(kernel: Callable, at_rest: Mapping[str, str]) -> Callable:
    """`kernel` for cells of which `fields["acts"]` is not zero for some sample of the block.

    `at_rest`: of a result, the field that it is for the other cells, or "" for zero; what is not named is left as it is, for
    nothing reads it. Weight gradients are zero there.
    """

    def run(fields: dict, weights: dict, around: dict, results: dict, to_weights: dict, *, plan: Plan) -> None:
        acts = jnp.max(fields["acts"][...]) > 0
        surroundings = Surroundings(around, plan) if around else None

        @pl.when(acts)
        def _():
            kernel(fields, weights, surroundings, results, to_weights, plan=plan)

        @pl.when(jnp.logical_not(acts))
        def _():
            for name, field in at_rest.items():
                result = results[name]
                result[...] = fields[field][...] if field else jnp.zeros(result.shape, result.dtype)
            for gradient in to_weights.values():
                _clear(gradient)

    return run


def _clear(array) -> None:
    """Zeros, row by row where the rows are no power of two."""
    row = array.shape if array.shape[0] == pl.next_power_of_2(array.shape[0]) else array.shape[1:]
    for place in [...] if row == array.shape else range(array.shape[0]):
        array[place] = jnp.zeros(row, array.dtype)


def _columns(hidden: int) -> int:
    return hidden if hidden % _COLUMNS else _COLUMNS


def pieces(width: int) -> list[pl.Slice]:
    """All columns, some at a time."""
    return [pl.Slice(start, _columns(width)) for start in range(0, width, _columns(width))]


def _over_columns(hidden: int, body: Callable, start):
    """A loop over all columns, some at a time: what `body` makes of them and of what it made before."""
    width = _columns(hidden)
    return jax.lax.fori_loop(0, hidden // width, lambda piece, carry: body(pl.Slice(piece * width, width), carry), start)


def multiply(one: Rows, other: Rows) -> Rows:
    """In the other's numbers, summed in float32."""
    return jnp.dot(one.astype(other.dtype), other, preferred_element_type=jnp.float32)


def _affine(weights: dict, name: str, values: Rows, columns: pl.Slice | slice = slice(None)) -> Rows:
    """Columns of the affine map `name`."""
    return multiply(values, weights[f"{name}_kernel"][:, columns]) + weights[f"{name}_bias"][columns][None]


def normalising(values: Rows, epsilon: float) -> Rows:
    """What `step.normalise` multiplies values with, but for the scale: [row, 1]."""
    return jax.lax.rsqrt(jnp.mean(jnp.square(values), -1, keepdims=True) + epsilon)


def _normalised(values: Rows, scale: Array, *, epsilon: float) -> Rows:
    """`step.normalise`."""
    return values * normalising(values, epsilon) * scale[None]


def _normalised_halves(one: Rows, other: Rows, scale: Array, other_scale: Array, *, epsilon: float) -> tuple[Rows, Rows]:
    """`_normalised` of two fields that lie one after the other, for Triton can't part what it has computed."""
    squares = jnp.sum(jnp.square(one), -1, keepdims=True) + jnp.sum(jnp.square(other), -1, keepdims=True)
    factor = jax.lax.rsqrt(squares / (one.shape[-1] + other.shape[-1]) + epsilon)
    return one * factor * scale[None], other * factor * other_scale[None]


def _gated(hidden: Rows, gathered: Rows, bias: Array) -> Rows:
    """The content, times the gate that the gathered messages set."""
    return jax.nn.gelu(hidden) * (1 + gathered + bias[None])


def _memory_logits(weights: dict, proposed: Rows, memory: Rows) -> Rows:
    """What to forget; half of the kernel acts on what is proposed, half on the memory."""
    kernel, width = weights["memory_kernel"], proposed.shape[-1]
    return multiply(proposed, kernel[:width, :]) + multiply(memory, kernel[width:, :]) + weights["memory_bias"][...][None]


def _updated(
    proposed: Rows,
    forget: Rows,
    perceived: Rows,
    visible: Rows,
    memory: Rows,
    size: Array,
    *,
    fires: tuple[Rows, Rows],
    config: UpdateConfig,
) -> tuple[Rows, Rows, Rows]:
    """`step.update`, from the logits of what to forget; and the square of how far the visible channels moved.

    `fires`: how far visible channels and memory move.
    """
    goal = proposed + perceived
    change = goal - visible if config.residual else goal
    if config.bound == "tanh":
        change = jnp.tanh(change)
    base = visible if config.residual else (1 - fires[0]) * visible
    moved = base + fires[0] * size[None] * change
    kept = memory + fires[1] * jax.nn.sigmoid(forget) * (proposed - memory)
    return moved, kept, jnp.sum(jnp.square(moved - visible), -1, keepdims=True)


def speak(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """A cell's normalised message from its state, and the factor that normalised it."""
    del around, to_weights
    epsilon = plan.config.cell.normalisation_epsilon
    own = _normalised(fields["state"][...], weights["message_scale"][...], epsilon=epsilon)
    message = jax.nn.gelu(_affine(weights, "message", own))
    factor = normalising(message, epsilon)
    results["factor"][...] = factor
    results["message"][...] = (message * factor * weights["gate_scale"][...][None]).astype(results["message"].dtype)


def hear(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """What a cell makes of its neighbours: visible channels perceived, followed by its own memory, and messages gathered."""
    del to_weights
    rows, visible = results["around"].shape[0], plan.config.cell.visible
    results["around"][:, :visible] = around.sum("perception", weights, rows, pl.Slice(0, visible))
    results["around"][:, visible:] = fields["state"][:, visible:]
    for columns in pieces(results["gathered"].shape[1]):
        results["gathered"][:, columns] = around.sum("gate", weights, rows, columns).astype(results["gathered"].dtype)


def move(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """A cell's next state from what it heard; with what it proposed, and how far it moved."""
    del around, to_weights
    visible, hidden = plan.config.cell.visible, weights["gate_bias"].shape[0]
    low = _content(fields, weights, plan)

    def add(columns, proposed):
        gated = _gated(*_gate(fields, weights, low, columns))
        return proposed + multiply(gated, weights["candidate_kernel"][columns, :])

    nothing = jnp.zeros((low.shape[0], visible))
    proposed = _over_columns(hidden, add, nothing) + weights["candidate_bias"][...][None]
    update, operands = _update(fields, weights, proposed, plan)
    results["proposed"][...] = proposed
    results["state"][:, :visible], results["state"][:, visible:], results["moved"][...] = update(*operands)


def _content(fields: dict, weights: dict, plan: Plan) -> Rows:
    """What a cell heard, normalised, in the numbers of the product that comes next."""
    epsilon = plan.config.cell.normalisation_epsilon
    heard = _normalised(fields["around"][...], weights["content_scale"][...], epsilon=epsilon)
    return heard.astype(weights["content_kernel"].dtype)


def _gate(fields: dict, weights: dict, low: Rows, columns: pl.Slice) -> tuple[Rows, Rows, Array]:
    """Columns of what `_gated` is applied to."""
    gathered = fields["gathered"][:, columns].astype(jnp.float32)
    return _affine(weights, "content", low, columns), gathered, weights["gate_bias"][columns]


def _update(fields: dict, weights: dict, proposed: Rows, plan: Plan) -> tuple[Callable, tuple]:
    """The update, and what it is to be applied to."""
    visible = plan.config.cell.visible
    memory = fields["state"][:, visible:]
    fires = fields["fires"][:, :1], fields["fires"][:, 1:]
    own = (fields["around"][:, :visible], fields["state"][:, :visible], memory, weights["step_size"][...])
    forget = _memory_logits(weights, proposed, memory)
    return functools.partial(_updated, fires=fires, config=plan.config.update), (proposed, forget, *own)


def update_backward(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """Gradients of `move` from the update back to the own state, to what the cell perceived, and to what it proposed."""
    del around
    visible, kernel = plan.config.cell.visible, weights["memory_kernel"]
    update, operands = _update(fields, weights, fields["proposed"][...], plan)
    to_next = (fields["to_state"][:, :visible], fields["to_state"][:, visible:], fields["to_moved"][...])
    to_proposed, to_forget, to_perceived, to_visible, to_memory, to_size = jax.vjp(update, *operands)[1](to_next)
    results["to_perceived"][...], results["to_own"][:, :visible] = to_perceived, to_visible
    to_weights["step_size"][...] = to_size
    low = results["to_forget"][...] = to_forget.astype(kernel.dtype)
    through = to_proposed + multiply(low, kernel[:visible, :].T)
    results["to_proposed"][...] = through.astype(kernel.dtype)
    results["to_own"][:, visible:] = to_memory + multiply(low, kernel[visible:, :].T)


def content_backward(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """Gradients of `move` from what was proposed back to what the cell heard, added to those of `update_backward`; with the
    gated content, for `weigh_moves`."""
    del around, to_weights
    visible, hidden, kernel = plan.config.cell.visible, weights["gate_bias"].shape[0], weights["candidate_kernel"]
    content, low = _content(fields, weights, plan), fields["to_proposed"][...]

    def differentiate(columns, to_halves):
        gated, pull = jax.vjp(_gated, *_gate(fields, weights, content, columns))
        results["gated"][:, columns] = gated.astype(kernel.dtype)
        to_hidden, to_gathered, _ = pull(multiply(low, kernel[columns, :].T))
        results["to_gathered"][:, columns] = to_gathered.astype(kernel.dtype)
        owed = results["to_content"][:, columns] = to_hidden.astype(kernel.dtype)
        halves = (weights["content_kernel"][half, columns] for half in (slice(visible), slice(visible, None)))
        return tuple(total + multiply(owed, half.T) for total, half in zip(to_halves, halves, strict=True))

    nothing = jnp.zeros((low.shape[0], visible))
    to_halves = _over_columns(hidden, differentiate, (nothing, nothing))
    scales = {"scale": weights["content_scale"][:visible], "other_scale": weights["content_scale"][visible:]}
    normalise = functools.partial(_normalised_halves, **scales, epsilon=plan.config.cell.normalisation_epsilon)
    heard = (fields["around"][:, :visible], fields["around"][:, visible:])
    through, again = jax.vjp(normalise, *heard)[1](to_halves)
    results["perceived"][...] = fields["to_perceived"][...] + through
    results["state"][:, :visible] = fields["to_own"][:, :visible]
    results["state"][:, visible:] = fields["to_own"][:, visible:] + again


def collect(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """What a cell's neighbours owe it: gradients to its visible channels, added to those it had, and to its message, with their
    product with that."""
    del to_weights
    rows, visible = results["state"].shape[0], plan.config.cell.visible
    owed = around.sum("perception", weights, rows, pl.Slice(0, visible))
    results["state"][:, :visible] = fields["to_state"][:, :visible] + owed
    results["state"][:, visible:] = fields["to_state"][:, visible:]
    product = jnp.zeros((rows, 1))
    for columns in pieces(results["message"].shape[1]):
        to_message = around.sum("gate", weights, rows, columns)
        product += jnp.sum(to_message * fields["message"][:, columns].astype(jnp.float32), -1, keepdims=True)
        results["message"][:, columns] = to_message.astype(results["message"].dtype)
    results["product"][...] = product


def speak_backward(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """Gradients to the state before a step and to what the message is made of, from what was collected.

    With a = gelu(h), r = (mean a^2 + epsilon)^-1/2 and y = a r s, the gradient to a is r s dy - a r^2 mean(dy y).
    """
    del around
    scale, hidden = weights["gate_scale"], weights["gate_scale"].shape[0]
    epsilon = plan.config.cell.normalisation_epsilon
    normalise = functools.partial(_normalised, scale=weights["message_scale"][...], epsilon=epsilon)
    low, factor = normalise(fields["state"][...]).astype(weights["message_kernel"].dtype), fields["factor"][...]
    common = factor * factor * fields["to_product"][...] / hidden

    def differentiate(columns, to_normalised):
        to_message = fields["to_message"][:, columns].astype(jnp.float32)
        message, pull = jax.vjp(jax.nn.gelu, _affine(weights, "message", low, columns))
        to_weights["gate_scale"][columns] = jnp.sum(to_message * message * factor, 0)
        [to_hidden] = pull(factor * scale[columns][None] * to_message - message * common)
        owed = results["to_message"][:, columns] = to_hidden.astype(low.dtype)
        return to_normalised + multiply(owed, weights["message_kernel"][:, columns].T)

    to_normalised = _over_columns(hidden, differentiate, jnp.zeros(low.shape))
    [to_own] = jax.vjp(normalise, fields["state"][...])[1](to_normalised)
    results["state"][...] = fields["to_state"][...] + to_own
