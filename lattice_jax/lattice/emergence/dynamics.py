"""The cube as a dynamical system: a state, a rule that advances it, and what is recorded of a pass.

Contract: pure functions of parameters and codes, on one device, step by step as `lattice/step.py` defines the cube: by that
function itself, or by the compiled engine where `lattice.engine` is "native".
Updates are the expected ones, scaled by the rate, or given as `fires`, so nothing here is random. `record` passes exactly the
states of `propagate(..., sampled=False, trajectory=True)`, the start state before them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice import grid, surface
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.emergence import orientation
from lattice_jax.lattice.firing import firing, most_firings
from lattice_jax.lattice.native import engine as native
from lattice_jax.lattice.step import Field, Firing, State, World, in_precision, step, with_transposed

Codes = Float[Array, "question size"]
Injected = Float[Array, "#depth #height #width batch channel"]
"""Visible channels of the input face, a grid that is 1 cell thick."""
_FACES = ("injection", "read_out")


class Record(NamedTuple):
    """A pass, step by step."""

    trajectory: Float[Array, "time depth height width question channel"]
    """Visible channels at the start, the input on its face and zeros elsewhere, and after every step: steps + 1 states."""
    answers: Codes


class Responses(NamedTuple):
    """What many questions leave in the cube, without their whole passes."""

    final: Field
    """Visible channels after the last step."""
    likeness: Float[Array, "time place question question"]
    """Gram matrices of every place: products, over cells and channels, of the states that every two questions make, each state
    less the mean over questions, which is taken off first because it would drown small differences in float32. Places are the
    layers from the input face on, and after them the output face where it is not the last layer: the last place is the output.
    """
    answers: Codes


def plain(config: LatticeConfig) -> LatticeConfig:
    """The same cube, computed by the plain scan on one device."""
    return dataclasses.replace(config, engine="scan", devices=1, weight_gradients="automatic")


def prepare(parameters: Parameters, config: LatticeConfig) -> Parameters:
    """The cells' parameters as `advance` takes them."""
    cells = {name: value for name, value in parameters.items() if name not in _FACES}
    if config.engine == "native":
        return cells
    return with_transposed(in_precision(cells, config), config)


def inject(parameters: Parameters, codes: Codes, config: LatticeConfig) -> Injected:
    """What the input face shows."""
    return jnp.matmul(surface.vector_to_face(codes, config.input_face, config.grid), parameters["injection"])


def read_out(parameters: Parameters, visible: Field, config: LatticeConfig) -> Codes:
    """The vectors at the output face."""
    seen = surface.take_face(visible, config.output_face, config.grid)
    return surface.face_to_vector(jnp.matmul(seen, parameters["read_out"]))


def _clamp(visible: Field, injected: Injected, config: LatticeConfig) -> Field:
    return jnp.where(surface.face_mask(config.input_face, config.grid)[..., None, None], injected, visible)


def start(injected: Injected, config: LatticeConfig, found: State | None = None) -> State:
    """The input on its face, and everywhere else what is `found` there: zeros where None."""
    if found is None:
        shape = (config.grid.depth, config.grid.height, config.grid.width, injected.shape[3])
        channels = (config.cell.visible, config.cell.memory)
        found = State(*(jnp.zeros((*shape, count), injected.dtype) for count in channels))
    return found._replace(visible=_clamp(found.visible, injected, config))


def advance(prepared: Parameters, state: State, injected: Injected, fires: Firing, *, config: LatticeConfig) -> State:
    """The state one step later."""
    if config.engine == "native":
        moved = _advance_compiled(prepared, state, fires, config)
    else:
        world = World(config.walls, functools.partial(grid.extend, walls=config.walls))
        moved = step(prepared, state, fires, world=world, config=config)
    return moved._replace(visible=_clamp(moved.visible, injected, config)) if config.injection == "held" else moved


def _advance_compiled(cells: Parameters, state: State, fires: Firing, config: LatticeConfig) -> State:
    """`step` as a pass of one step, into which the input face is injected as it is."""
    as_it_is = surface.take_face(state.visible, config.input_face, config.grid)
    everywhere = config.grid.cells
    one_step = dataclasses.replace(config, injection="pulse")
    moved, _ = native.advance(cells, as_it_is, fires[None], config=one_step, firings=everywhere, start=state)
    return moved


def whole_pass(
    prepared: Parameters, injected: Injected, fires: Float[Array, "steps #d #h #w #batch 1"], *, config: LatticeConfig
) -> State:
    """The last state of a pass in which cells move as far as `fires` says.

    Differentiable by what is injected and by how far cells move; the scan stores states alone and computes steps again.
    """
    if config.engine == "native":
        firings = most_firings(config, sampled=False)
        return native.advance(prepared, injected, fires, config=config, firings=firings)[0]
    move = jax.checkpoint(functools.partial(advance, config=config))

    def one_step(state: State, fires: Firing):
        return move(prepared, state, injected, fires), None

    return jax.lax.scan(one_step, start(injected, config), fires)[0]


def updates(config: LatticeConfig) -> Float[Array, "steps #d h #w 1 1"]:
    """How far each cell moves in each step of a pass: the rate, and 0 before light has reached the cell."""
    return firing(config, 1, sampled=False, key=jax.random.key(0))


def _watched(
    prepared: Parameters,
    injected: Injected,
    first: State,
    fires: Float[Array, "steps #d #h #w #batch 1"],
    seen: Callable[[Field], Array],
    *,
    config: LatticeConfig,
) -> tuple[State, Float[Array, "time ..."]]:
    """The last state of a pass, and what is `seen` of the visible channels at its start and after every step."""

    def one_step(state: State, fires: Firing):
        moved = advance(prepared, state, injected, fires, config=config)
        return moved, seen(moved.visible)

    last, after = jax.lax.scan(one_step, first, fires)
    return last, jnp.concatenate([seen(first.visible)[None], after])


@functools.partial(jax.jit, static_argnames="config")
def record(parameters: Parameters, codes: Codes, *, config: LatticeConfig) -> Record:
    """Whole passes; memory is steps x cells x channels numbers a question (5.4 MB for the full cube and 17 states)."""
    prepared, injected = prepare(parameters, config), inject(parameters, codes, config)
    first = start(injected, config)
    last, trajectory = _watched(prepared, injected, first, updates(config), lambda visible: visible, config=config)
    return Record(trajectory, read_out(parameters, last.visible, config))


@functools.partial(jax.jit, static_argnames="config")
def recall(
    parameters: Parameters,
    codes: Codes,
    found: State,
    fires: Float[Array, "steps #d #h #w #batch 1"],
    *,
    config: LatticeConfig,
) -> tuple[Float[Array, "time question size"], State]:
    """What is read of a cube that is `found` in any state, at once and after every step, and the state that it ends in."""
    prepared, injected = prepare(parameters, config), inject(parameters, codes, config)

    def answer(visible: Field) -> Codes:
        return read_out(parameters, visible, config)

    last, answers = _watched(prepared, injected, start(injected, config, found), fires, answer, config=config)
    return answers, last


def _products(layers: Float[Array, "layer *cells question channel"]) -> Float[Array, "layer question question"]:
    flat = jnp.moveaxis(layers, -2, 1).reshape(layers.shape[0], layers.shape[-2], -1)
    return jnp.matmul(flat, jnp.swapaxes(flat, 1, 2))


@functools.partial(jax.jit, static_argnames="config")
def respond(parameters: Parameters, codes: Codes, *, config: LatticeConfig) -> Responses:
    """The last states of many questions and the Gram matrices of every place and step; no pass is stored."""
    prepared, injected = prepare(parameters, config), inject(parameters, codes, config)

    def products(visible: Field) -> Array:
        differing = visible - visible.mean(3, keepdims=True)
        places = [orientation.turned(differing, config)]
        if not orientation.output_is_a_layer(config):
            seen = surface.take_face(differing, config.output_face, config.grid)
            places.append(seen.reshape(1, 1, -1, *seen.shape[3:]))
        return jnp.concatenate([_products(cells) for cells in places])

    first = start(injected, config)
    last, likeness = _watched(prepared, injected, first, updates(config), products, config=config)
    return Responses(last.visible, likeness, read_out(parameters, last.visible, config))
