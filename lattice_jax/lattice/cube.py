"""The cube from vector to vector: injection at one face, propagation, read-out at another.

Contract: `initialise` gives the parameters, `answer` the output vectors; both are pure. Only the input face has injection
weights and only the output face read-out weights, so nothing but the cells between them can carry information from one to the
other.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice import cell, draw, surface
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.firing import Horizon, Read
from lattice_jax.lattice.propagate import Propagation, propagate
from lattice_jax.lattice.step import State

FORWARD_OPERATIONS, BACKWARD_OPERATIONS = 2, 4
"""A weight, for each value that it is multiplied with."""
_INJECTION_SCALE = 0.5
"""Root mean square of a face cell's visible channels, for numbers of root mean square 1: within what one step may change."""


class Answer(NamedTuple):
    """What the cube says, and how it came to it."""

    vectors: Float[Array, "batch size"]
    propagation: Propagation


def initialise(config: LatticeConfig, *, key: Key[Array, ""]) -> Parameters:
    """Parameters of cells and faces; untrained, the cube hands the input vector on to the output face.

    All face cells start with one injection pattern of orthogonal channels and its transpose as read-out, because the wave guide
    between them keeps channels apart.
    """
    cell_key, face_key = jax.random.split(key)
    channels, visible = config.surface_channels, config.cell.visible
    orthogonal, _ = jnp.linalg.qr(draw.normal(face_key, (visible, channels)))
    scale = _INJECTION_SCALE * np.sqrt(visible / channels)
    leading = {face: surface.face_shape(face, config.grid) for face in (config.input_face, config.output_face)}
    return cell.initialise(config, key=cell_key) | {
        "injection": jnp.broadcast_to(scale * orthogonal.T, (*leading[config.input_face], channels, visible)),
        "read_out": jnp.broadcast_to(orthogonal / scale, (*leading[config.output_face], visible, channels)),
    }


def answer(
    parameters: Parameters,
    vectors: Float[Array, "batch size"],
    *,
    key: Key[Array, ""],
    config: LatticeConfig,
    sampled: bool,
    mesh: Mesh | None = None,
    read: Read = "cube",
    start: State | None = None,
    horizon: Horizon | None = None,
    trajectory: bool = False,
) -> Answer:
    """The vectors read at the output face after `config.steps` steps with `vectors` at the input face.

    `read` "output" where nothing but the vectors is wanted: they are the same, and cells that can't change them rest. `start`:
    the state in which the question finds the cube, quiescent where None. `horizon`: fewer steps than `config.steps`.
    """
    cells = {name: value for name, value in parameters.items() if name not in ("injection", "read_out")}
    injection = parameters["injection"][:, : surface.face_shape(config.input_face, config.grid)[1]]
    read_out = parameters["read_out"][:, : surface.face_shape(config.output_face, config.grid)[1]]
    injected = jnp.matmul(surface.vector_to_face(vectors, config.input_face, config.grid), injection)
    passed = propagate(
        cells,
        injected,
        key=key,
        config=config,
        sampled=sampled,
        mesh=mesh,
        read=read,
        start=start,
        horizon=horizon,
        trajectory=trajectory,
    )
    seen = surface.take_face(passed.state.visible, config.output_face, config.grid)
    return Answer(surface.face_to_vector(jnp.matmul(seen, read_out)), passed)


def parameter_counts(config: LatticeConfig) -> dict[str, int]:
    """All parameters by part: cells, injection, read-out, total."""
    cells = int(np.prod(cell.sharing_shape(config))) * cell.parameters_per_cell(config.cell)
    injection = config.surface_size(config.input_face) * config.cell.visible
    read_out = config.surface_size(config.output_face) * config.cell.visible
    return {"cells": cells, "injection": injection, "read_out": read_out, "total": cells + injection + read_out}


def operations(config: LatticeConfig, samples: int, *, training: bool) -> int:
    """Floating-point operations as the definition counts them: 2 a weight of each cell, lattice step and sample, 6 in training.

    Cells that share their weights compute with them all the same.
    """
    each = FORWARD_OPERATIONS + (BACKWARD_OPERATIONS if training else 0)
    return each * cell.parameters_per_cell(config.cell) * config.grid.cells * config.steps * samples


def gradient_figures(gradients: Parameters, config: LatticeConfig) -> dict[str, Float[Array, ""]]:
    """How much arrives at the weights of the cells, and at how many of them nothing does.

    `gradient_norm/layer_<n>`: Euclidean norm over all cells n away from the input face, along that face's axis; absent where
    cells of all these layers share their weights. `dead_cells`: share of the cells whose gradient is zero; absent where cells
    share weights. Injection and read-out weights, which only one layer has, are left out.
    """
    by_cells = [value for name, value in gradients.items() if name not in ("injection", "read_out")]
    squares = functools.reduce(jnp.add, (jnp.sum(jnp.square(value), tuple(range(3, value.ndim))) for value in by_cells))
    squares = squares[:, : config.grid.height]  # without the rows that only fill up the devices
    layers = surface.from_face(squares, config.input_face)
    figures = {}
    if len(layers) > 1:
        norms = jnp.sqrt(jnp.sum(layers, (1, 2)))
        figures |= {f"gradient_norm/layer_{number:02}": norm for number, norm in enumerate(norms)}
    if config.sharing == "cell":
        figures["dead_cells"] = jnp.mean(squares == 0, dtype=jnp.float32)
    return figures


def coverage(config: LatticeConfig) -> float:
    """Share of the input face that an output cell can hear of within the steps, averaged over the output face.

    Perception moves by the Chebyshev metric with 26 neighbours and by the city-block metric with 6; the gate's neighbourhood
    counts too when it is the larger one. Periodic walls shorten every axis to its way round.
    """
    sizes = (config.grid.depth, config.grid.height, config.grid.width)
    moore = "moore" in (config.cell.perception, config.cell.gate)
    pairs = np.ones(1)
    for axis, size in enumerate(sizes):
        read, fed = (_places(face, axis, size) for face in (config.output_face, config.input_face))
        apart = np.abs(read[:, None] - fed[None])
        if config.walls == "periodic":
            apart = np.minimum(apart, size - apart)
        # A face is the product of its axes, so pairs of cells are counted by distance, axis by axis: never all pairs at once.
        counts = np.bincount(apart.reshape(-1), minlength=size).astype(float)
        pairs = _of_larger(pairs, counts) if moore else np.convolve(pairs, counts)
    return float(pairs[: config.steps + 1].sum() / pairs.sum())


def _places(face: surface.Face, axis: int, size: int) -> np.ndarray:
    """The coordinates of a face's cells along one axis."""
    places = np.arange(size)
    return places[surface.face_slice(face, size)] if axis == surface.AXIS[face] else places


def _of_larger(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many pairs have each maximum, of independent distances that so many pairs have each."""
    length = max(len(one), len(other))
    upto = [np.cumsum(np.pad(counts, (0, length - len(counts)))) for counts in (one, other)]
    return np.diff(upto[0] * upto[1], prepend=0.0)
