"""One step of the cellular automaton: perceive, then update.

Contract: pure functions of parameters, state and mask; a cell's next state depends on cells at most one away. Every reading of
neighbours goes through the `World`, which knows what lies beyond, so the same step runs on the whole cube or on one device's
part. Parameters broadcast against the state over shared axes.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lattice_jax.config import CellConfig, LatticeConfig, UpdateConfig, Walls
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.grid import Extend, Offset, offsets, seen

Field = Float[Array, "depth height width batch channel"]
Firing = Float[Array, "#depth #height #width #batch 1"]


class World(NamedTuple):
    """What lies around the cells that this program holds."""

    walls: Walls
    extend: Extend
    """How to see one cell beyond the walls, or on the next device."""
    real: Callable[[Array], Array] = lambda field: field
    """A field with zeros in the rows that only pad the grid; the identity where there are none."""
    whole: bool = False
    """Whether this program holds every cell, so that a kernel may find neighbours in the field itself instead of a copy that
    `extend` made."""


class State(NamedTuple):
    """What the cells hold between two steps."""

    visible: Field
    memory: Field


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def neighbour_sum(
    weights: Float[Array, "d h w offset channel"], field: Field, around: tuple[Offset, ...], world: World
) -> Field:
    """sum_k weights_k * shift_k(field), channel by channel; for walls under which a shift's adjoint is the opposite shift.

    The adjoint is then a neighbour sum too, with weights read at the receiver. Autodiff of the slices would pad and add once an
    offset instead, which took more than half of a training step's time on XLA:CPU. Holds for zero and periodic walls;
    `plain_neighbour_sum` serves all.
    """
    return plain_neighbour_sum(weights, field, around, world)


def plain_neighbour_sum(
    weights: Float[Array, "#d #h #w offset channel"], field: Field, around: tuple[Offset, ...], world: World
) -> Field:
    """The definition of `neighbour_sum`, differentiated by autodiff."""
    extended = world.extend(field)
    terms = (weights[..., k, None, :] * seen(extended, offset).astype(jnp.float32) for k, offset in enumerate(around))
    return functools.reduce(jnp.add, terms)


def adjoint_weights(
    weights: Float[Array, "d h w offset channel"], around: tuple[Offset, ...], world: World
) -> Float[Array, "d h w offset channel"]:
    """Weights whose neighbour sum is the adjoint of that with `weights`: what each neighbour made of this cell."""
    extended = world.extend(weights)
    index = {offset: k for k, offset in enumerate(around)}
    opposite = [index[-offset[0], -offset[1], -offset[2]] for offset in around]
    return jnp.stack([seen(extended[..., k, :], offset) for k, offset in zip(opposite, around, strict=True)], -2)


def _neighbour_sum_forward(weights, field, around, world):
    return plain_neighbour_sum(weights, field, around, world), (weights, field)


def _neighbour_sum_backward(around, world, residuals, gradient):
    weights, field = residuals
    extended, adjoint = world.extend(field), adjoint_weights(weights, around, world)
    to_weights = jnp.stack([jnp.sum(gradient * seen(extended, offset).astype(jnp.float32), -2) for offset in around], -2)
    to_field = world.real(plain_neighbour_sum(adjoint, gradient, around, world))
    return to_weights, to_field.astype(field.dtype)


neighbour_sum.defvjp(_neighbour_sum_forward, _neighbour_sum_backward)


def mix(weights: Float[Array, "#d #h #w offset channel"], field: Field, around: tuple[Offset, ...], world: World) -> Field:
    """What every cell gathers from its neighbours: `neighbour_sum` by the fastest way that is exact under these walls."""
    if world.walls not in ("zero", "periodic"):
        return plain_neighbour_sum(weights, field, around, world)
    own = jnp.broadcast_to(weights, (*field.shape[:3], *weights.shape[3:]))
    return neighbour_sum(own, field, around, world)


def normalise(values: Field, scale: Float[Array, "#d #h #w channel"], epsilon: float) -> Field:
    """Root-mean-square normalisation (Zhang and Sennrich 2019) with a learned scale."""
    return values * jax.lax.rsqrt(jnp.mean(jnp.square(values), -1, keepdims=True) + epsilon) * scale[..., None, :]


@jax.custom_vjp
def product(
    values: Float[Array, "d h w batch inner"],
    kernel: Float[Array, "d h w inner outer"],
    transposed: Float[Array, "d h w outer inner"],
) -> Float[Array, "d h w batch outer"]:
    """Every cell's values times its own kernel.

    `transposed` is the same kernel with its last axes swapped, made once a pass: XLA:CPU multiplies more slowly by a kernel
    that lies the wrong way round, and the gradient to the values needs it that way in every step. It gets no gradient.
    """
    del transposed
    return _multiply(values, kernel)


def _multiply(one: Array, other: Array) -> Float[Array, "d h w row column"]:
    """A product of numbers as they come, summed in float32."""
    return jnp.matmul(one, other, preferred_element_type=jnp.float32)


def _product_forward(values, kernel, transposed):
    return _multiply(values, kernel), (values, transposed)


def _product_backward(residuals, gradient):
    values, transposed = residuals
    gradient = gradient.astype(transposed.dtype)
    to_values = _multiply(gradient, transposed).astype(values.dtype)
    to_kernel = _multiply(jnp.swapaxes(values, -1, -2), gradient).astype(transposed.dtype)
    return to_values, to_kernel, jnp.zeros_like(transposed)


product.defvjp(_product_forward, _product_backward)


def affine(parameters: Parameters, name: str, values: Float[Array, "d h w batch inner"]) -> Float[Array, "d h w batch outer"]:
    """values * kernel + bias, for the affine map `name`; one shared kernel serves all its cells in one product."""
    kernel, bias = parameters[f"{name}_kernel"], parameters[f"{name}_bias"][..., None, :]
    values = values.astype(kernel.dtype)
    if kernel.shape[:3] != values.shape[:3]:
        return _multiply(values, kernel) + bias
    return product(values, kernel, jax.lax.stop_gradient(parameters[f"{name}_transposed"])) + bias


def in_precision(parameters: Parameters, config: LatticeConfig) -> Parameters:
    """The parameters as the steps of a pass compute with them, cast once a pass; their gradients are added up over the steps in
    the same numbers and come back in float32.

    bfloat16 is for the matrices, nine tenths of all weights, for what they multiply, and for messages. Products sum in float32,
    and the rest is float32: the state, which every step adds to, and the neighbour weights, which signals pass once a step.
    After 16 steps of full cells at their start values, answers are 0.04 % of their size from those of float32 and gradients
    0.6 %; in a small cube of random weights 0.7 % and 2.3 % (tests/test_lattice_precision.py). Casting the
    neighbour weights too makes the gradients' error larger, rounding the state once a step the answers'.
    """
    if config.precision == "float32":
        return parameters
    return {name: value.astype(jnp.bfloat16) if name.endswith("_kernel") else value for name, value in parameters.items()}


def with_transposed(parameters: Parameters, config: LatticeConfig) -> Parameters:
    """The parameters with the transposed kernels that `product` wants, made once for all steps of a pass."""
    if config.sharing != "cell":
        return parameters
    kernels = [name for name in parameters if name.endswith("_kernel")]
    swapped = {name.replace("_kernel", "_transposed"): jnp.swapaxes(parameters[name], -1, -2) for name in kernels}
    return parameters | jax.lax.stop_gradient(swapped)


def perceive(parameters: Parameters, visible: Field, world: World, config: CellConfig) -> Field:
    """What a cell makes of its neighbours' visible channels, one weight a channel and neighbour."""
    return mix(parameters["perception"], visible, offsets(config.perception), world)


def candidate(parameters: Parameters, perceived: Field, state: State, world: World, config: CellConfig) -> Field:
    """The gMLP: content from what is perceived, gated by the messages of the neighbours."""
    epsilon = config.normalisation_epsilon
    own = normalise(jnp.concatenate(state, -1), parameters["message_scale"], epsilon)
    around = normalise(jnp.concatenate([perceived, state.memory], -1), parameters["content_scale"], epsilon)
    content = jax.nn.gelu(affine(parameters, "content", around))
    message = jax.nn.gelu(affine(parameters, "message", own))
    message = normalise(message, parameters["gate_scale"], epsilon).astype(parameters["message_kernel"].dtype)
    gate = 1 + mix(parameters["gate"], message, offsets(config.gate), world) + parameters["gate_bias"][..., None, :]
    return affine(parameters, "candidate", content * gate)


def update(
    parameters: Parameters, state: State, perceived: Field, proposed: Field, fires: Firing, config: UpdateConfig
) -> State:
    """Move the cells that fire towards what they propose; `fires` is 0 or 1, or the update rate for the expected value."""
    forget = jax.nn.sigmoid(affine(parameters, "memory", jnp.concatenate([proposed, state.memory], -1)))
    memory = state.memory + fires * forget * (proposed - state.memory)
    goal = proposed + perceived
    change = goal - state.visible if config.residual else goal
    if config.bound == "tanh":
        change = jnp.tanh(change)
    change = parameters["step_size"][..., None, :] * change
    base = state.visible if config.residual else (1 - fires) * state.visible
    return State(base + fires * change, memory)


def step(parameters: Parameters, state: State, fires: Firing, *, world: World, config: LatticeConfig) -> State:
    """The next state of every cell: perceive, propose, update."""
    perceived = perceive(parameters, state.visible, world, config.cell)
    proposed = candidate(parameters, perceived, state, world, config.cell)
    return update(parameters, state, perceived, proposed, fires, config.update)
