"""What a program of a GPU kernel computes for one cell and a block of samples: its message, its next state, their gradients.

Contract: the bodies of the kernels that `fused` launches. Each gets five dicts of references, in which the program's cell is
all there is: `fields` [row, channel] and `weights` to read, fields `around` (with every cell) to read anywhere, `results` and
`to_weights` to write. The mathematics is that of `step`, in float32 but for the operands of products.

Triton wants powers of two in every array and no concatenation, so weights that act on two fields are taken in halves. Registers
are scarce, so a hidden layer is computed and differentiated some columns at a time, and computed again where its gradient needs
it: whole, the gradient of a move spilled kilobytes a thread. Loops stay loops: 27 copies of a neighbour's reading took Triton
minutes to compile.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from lattice_jax.config import LatticeConfig, UpdateConfig
from lattice_jax.lattice.step import World

Rows = Float[Array, "row channel"]

_COLUMNS = 32


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the kernels are compiled for."""

    world: World
    config: LatticeConfig
    grid: tuple[int, int, int]
    """Cells that this program holds."""
    interpret: bool


def _columns(hidden: int) -> int:
    """Columns of a hidden layer that are computed at a time."""
    return hidden if hidden % _COLUMNS else _COLUMNS


def _multiply(one: Rows, other: Rows) -> Rows:
    """In the other's numbers, summed in float32."""
    return jnp.dot(one.astype(other.dtype), other, preferred_element_type=jnp.float32)


def _hidden(weights: dict, name: str, parts: tuple[Rows, Rows], columns) -> Rows:
    """Columns of the affine map `name` of two equally wide fields, of which each has its half of the kernel's rows."""
    kernel, width = weights[f"{name}_kernel"], parts[0].shape[-1]
    products = _multiply(parts[0], kernel[:width, columns]) + _multiply(parts[1], kernel[width:, columns])
    return products + weights[f"{name}_bias"][columns][None]


def _hidden_backward(
    weights: dict, to_weights: dict, name: str, parts: tuple[Rows, Rows], columns, gradient: Rows
) -> tuple[Rows, Rows]:
    """Gradients of `_hidden` to the parts; those to the weights are written at once."""
    kernel, to_kernel, width = weights[f"{name}_kernel"], to_weights[f"{name}_kernel"], parts[0].shape[-1]
    to_weights[f"{name}_bias"][columns] = jnp.sum(gradient, 0)
    low = gradient.astype(kernel.dtype)
    to_kernel[:width, columns] = _multiply(parts[0].T, low).astype(kernel.dtype)
    to_kernel[width:, columns] = _multiply(parts[1].T, low).astype(kernel.dtype)
    return _multiply(low, kernel[:width, columns].T), _multiply(low, kernel[width:, columns].T)


def _normalised_pair(one: Rows, other: Rows, scale: Array, other_scale: Array, *, epsilon: float) -> tuple[Rows, Rows]:
    """`step.normalise` of two fields that lie one after the other."""
    squares = jnp.sum(jnp.square(one), -1, keepdims=True) + jnp.sum(jnp.square(other), -1, keepdims=True)
    factor = jax.lax.rsqrt(squares / (one.shape[-1] + other.shape[-1]) + epsilon)
    return one * factor * scale[None], other * factor * other_scale[None]


def _normalisation(weights: dict, name: str, one: Rows, memory: Rows, plan: Plan) -> tuple[Callable, tuple]:
    """The normalisation before the affine map `name`, and what it is to be applied to."""
    scale, visible = weights[f"{name}_scale"], plan.config.cell.visible
    normalise = functools.partial(_normalised_pair, epsilon=plan.config.cell.normalisation_epsilon)
    return normalise, (one, memory, scale[:visible], scale[visible:])


def _gated(hidden: Rows, gathered: Rows, bias: Array) -> Rows:
    """The content, times the gate that the gathered messages set."""
    return jax.nn.gelu(hidden) * (1 + gathered + bias[None])


def _updated(
    proposed: Rows,
    forget: Rows,
    perceived: Rows,
    visible: Rows,
    memory: Rows,
    size: Array,
    *,
    fires: Rows,
    config: UpdateConfig,
) -> tuple[Rows, Rows]:
    """`step.update`, from the logits of what to forget."""
    goal = proposed + perceived
    change = goal - visible if config.residual else goal
    if config.bound == "tanh":
        change = jnp.tanh(change)
    base = visible if config.residual else (1 - fires) * visible
    return base + fires * size[None] * change, memory + fires * jax.nn.sigmoid(forget) * (proposed - memory)


class _Surroundings:
    """The neighbours of this program's cell, in whole fields or in fields extended beyond the walls."""

    def __init__(self, plan: Plan, rows: int):
        self.plan, self.rows = plan, rows
        cell = (pl.program_id(0), jax.lax.div(pl.program_id(1), plan.grid[2]), jax.lax.rem(pl.program_id(1), plan.grid[2]))
        self.cell, self.samples = cell, pl.Slice(pl.program_id(2) * rows, rows)

    def see(self, field, around, k, columns) -> Rows:
        """This block's samples of the neighbour at offset `k`."""
        beyond = [index + around[k, axis] for axis, index in enumerate(self.cell)]
        if not self.plan.world.whole:
            depth, height, width = (index + 1 for index in beyond)
            return field[depth, height, width, self.samples, columns].astype(jnp.float32)
        depth, height, width = (jax.lax.rem(index + size, size) for index, size in zip(beyond, self.plan.grid, strict=True))
        seen = field[depth, height, width, self.samples, columns].astype(jnp.float32)
        if self.plan.world.walls == "periodic":
            return seen
        inside = (depth == beyond[0]) & (height == beyond[1]) & (width == beyond[2])
        return jnp.where(inside, seen, 0.0)

    def gather(self, weights, field, around, columns: pl.Slice) -> Rows:
        """`step.plain_neighbour_sum` for this cell; `around` holds the offsets, one a row."""

        def add(k, total: Rows) -> Rows:
            return total + weights[k, columns][None] * self.see(field, around, k, columns)

        return jax.lax.fori_loop(0, around.shape[0], add, jnp.zeros((self.rows, columns.size)))

    def correlate(self, to_sum: Rows, field, around, columns, to_weights) -> None:
        """The gradient of `gather` to the weights, written row by row."""

        def write(k, carry):
            to_weights[k, columns] = jnp.sum(to_sum * self.see(field, around, k, columns), 0)
            return carry

        jax.lax.fori_loop(0, around.shape[0], write, None)


def speak(fields: dict, weights: dict, around: dict, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """A cell's normalised message, from its state."""
    del around, to_weights
    normalise, own = _normalisation(weights, "message", fields["visible"][...], fields["memory"][...], plan)
    hidden = weights["gate_scale"].shape[0]
    message = jax.nn.gelu(_hidden(weights, "message", normalise(*own), pl.Slice(0, hidden)))
    squares = jnp.sum(jnp.square(message), -1, keepdims=True)
    message *= jax.lax.rsqrt(squares / hidden + plan.config.cell.normalisation_epsilon) * weights["gate_scale"][...][None]
    results["message"][...] = message.astype(results["message"].dtype)


def speak_backward(fields: dict, weights: dict, around: dict, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """Gradients to the state before a step and to the message's weights, from what the neighbours owe to this cell.

    With a = gelu(h), r = (mean a^2 + epsilon)^-1/2 and y = a r s, the gradient to a is r s dy - a r^3 mean(dy s a).
    """
    rows, visible = fields["visible"].shape[0], plan.config.cell.visible
    surroundings, scale, hidden = _Surroundings(plan, rows), weights["gate_scale"], weights["gate_scale"].shape[0]
    normalise, own = _normalisation(weights, "message", fields["visible"][...], fields["memory"][...], plan)
    parts = normalise(*own)

    def at(chunk):
        columns = pl.Slice(chunk * _columns(hidden), _columns(hidden))
        to_message = surroundings.gather(weights["gate_adjoint"], around["gathered"], around["gate"], columns)
        return columns, to_message, _hidden(weights, "message", parts, columns)

    def add_means(chunk, means):
        columns, to_message, before = at(chunk)
        message = jax.nn.gelu(before)
        square = jnp.sum(jnp.square(message), -1, keepdims=True) / hidden
        return means[0] + square, means[1] + jnp.sum(to_message * scale[columns][None] * message, -1, keepdims=True) / hidden

    nothing = jnp.zeros((rows, 1))
    square, product = jax.lax.fori_loop(0, hidden // _columns(hidden), add_means, (nothing, nothing))
    factor = jax.lax.rsqrt(square + plan.config.cell.normalisation_epsilon)

    def differentiate(chunk, to_parts):
        columns, to_message, before = at(chunk)
        message, pull = jax.vjp(jax.nn.gelu, before)
        to_weights["gate_scale"][columns] = jnp.sum(to_message * message * factor, 0)
        [to_hidden] = pull(factor * (scale[columns][None] * to_message - message * (factor * factor * product)))
        added = _hidden_backward(weights, to_weights, "message", parts, columns, to_hidden)
        return to_parts[0] + added[0], to_parts[1] + added[1]

    empty = jnp.zeros((rows, visible))
    to_parts = jax.lax.fori_loop(0, hidden // _columns(hidden), differentiate, (empty, empty))
    to_visible, to_memory, to_first, to_second = jax.vjp(normalise, *own)[1](to_parts)
    to_weights["message_scale"][:visible], to_weights["message_scale"][visible:] = to_first, to_second
    everything = pl.Slice(0, visible)
    perceived = surroundings.gather(weights["perception_adjoint"], around["perceived"], around["perception"], everything)
    results["visible"][...] = fields["to_visible"][...] + to_visible + perceived
    results["memory"][...] = fields["to_memory"][...] + to_memory


class _Cell:
    """What both directions of a move compute of one cell."""

    def __init__(self, fields: dict, weights: dict, around: dict, plan: Plan):
        self.weights, self.around, self.plan = weights, around, plan
        self.rows, self.hidden = fields["visible"].shape[0], weights["gate_bias"].shape[0]
        self.surroundings, self.memory = _Surroundings(plan, self.rows), fields["memory"][...]
        everything = pl.Slice(0, plan.config.cell.visible)
        self.perceived = self.surroundings.gather(weights["perception"], around["visible"], around["perception"], everything)
        self.normalise, self.seen = _normalisation(weights, "content", self.perceived, self.memory, plan)
        self.parts = self.normalise(*self.seen)

    def columns(self, chunk) -> tuple:
        """Some columns: which, the hidden layer, the messages gathered for its gate, and the gate's bias."""
        columns = pl.Slice(chunk * _columns(self.hidden), _columns(self.hidden))
        gathered = self.surroundings.gather(self.weights["gate"], self.around["message"], self.around["gate"], columns)
        return columns, (_hidden(self.weights, "content", self.parts, columns), gathered, self.weights["gate_bias"][columns])

    def over_columns(self, body: Callable, start):
        """A loop over all columns of the hidden layer, some at a time."""
        return jax.lax.fori_loop(0, self.hidden // _columns(self.hidden), body, start)

    def update(self, fields: dict) -> tuple[Callable, tuple]:
        """The update, and what it is to be applied to."""

        def add(chunk, proposed):
            columns, content = self.columns(chunk)
            return proposed + _multiply(_gated(*content), self.weights["candidate_kernel"][columns, :])

        proposed = self.over_columns(add, jnp.zeros(self.perceived.shape)) + self.weights["candidate_bias"][...][None]
        forget = _hidden(self.weights, "memory", (proposed, self.memory), slice(None))
        update = functools.partial(_updated, fires=fields["fires"][...], config=self.plan.config.update)
        return update, (proposed, forget, self.perceived, fields["visible"][...], self.memory, self.weights["step_size"][...])


def move(fields: dict, weights: dict, around: dict, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """A cell's next state, from its neighbours' visible channels and messages."""
    del to_weights
    update, operands = _Cell(fields, weights, around, plan).update(fields)
    results["visible"][...], results["memory"][...] = update(*operands)


def move_backward(fields: dict, weights: dict, around: dict, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """Gradients to the weights, to the own state, and to what the cell perceived and gathered, which it owes its neighbours."""
    cell, visible, kernel = _Cell(fields, weights, around, plan), plan.config.cell.visible, weights["candidate_kernel"]
    update, operands = cell.update(fields)
    to_next = (fields["to_visible"][...], fields["to_memory"][...])
    to_proposed, to_forget, to_perceived, to_visible, to_memory, to_size = jax.vjp(update, *operands)[1](to_next)
    results["visible"][...], to_weights["step_size"][...] = to_visible, to_size
    own = (operands[0], cell.memory)
    proposed_too, memory_too = _hidden_backward(weights, to_weights, "memory", own, slice(None), to_forget)
    to_proposed, to_memory = to_proposed + proposed_too, to_memory + memory_too
    to_weights["candidate_bias"][...], low = jnp.sum(to_proposed, 0), to_proposed.astype(kernel.dtype)

    def differentiate(chunk, to_parts):
        columns, content = cell.columns(chunk)
        gated, pull = jax.vjp(_gated, *content)
        to_weights["candidate_kernel"][columns, :] = _multiply(gated.T, low).astype(kernel.dtype)
        to_hidden, to_gathered, to_weights["gate_bias"][columns] = pull(_multiply(low, kernel[columns, :].T))
        results["gathered"][:, columns] = to_gathered.astype(results["gathered"].dtype)
        cell.surroundings.correlate(to_gathered, around["message"], around["gate"], columns, to_weights["gate"])
        added = _hidden_backward(weights, to_weights, "content", cell.parts, columns, to_hidden)
        return to_parts[0] + added[0], to_parts[1] + added[1]

    empty = jnp.zeros(cell.perceived.shape)
    to_parts = cell.over_columns(differentiate, (empty, empty))
    perceived_too, memory_too, to_first, to_second = jax.vjp(cell.normalise, *cell.seen)[1](to_parts)
    to_weights["content_scale"][:visible], to_weights["content_scale"][visible:] = to_first, to_second
    to_perceived = to_perceived + perceived_too
    results["perceived"][...], results["memory"][...] = to_perceived, to_memory + memory_too
    everything = pl.Slice(0, visible)
    cell.surroundings.correlate(to_perceived, around["visible"], around["perception"], everything, to_weights["perception"])
