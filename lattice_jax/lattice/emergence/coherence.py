"""Spatial coherence: whether cells that lie near each other do alike.

Contract: a field is [depth, height, width, question, channel]; z is the field less its mean over all cells, so a constant
offset counts for nothing; products of cells are over channels. Functions of a field return one number a question, and 0 for a
field without any variance. Pairs across a wall count where walls are periodic, and only there.
"""

import numpy as np
from jaxtyping import Float

from lattice_jax.config import Neighbourhood
from lattice_jax.lattice.emergence import nulls
from lattice_jax.lattice.grid import SELF, Offset, offsets

DIRECTIONS: tuple[Offset, ...] = tuple(offset for offset in offsets("moore") if offset > SELF)
"""The 13 directions in a cubic grid, each the opposite of one that is left out: 3 axes, 6 diagonals of faces, 4 of the cube."""


def along(axis: int) -> Offset:
    """The direction of one axis."""
    depth, height, width = (int(a == axis) for a in range(3))
    return depth, height, width


def across(axis: int) -> tuple[Offset, ...]:
    """The 4 directions within a layer, at right angles to an axis."""
    return tuple(direction for direction in DIRECTIONS if direction[axis] == 0)


def pairs(field: np.ndarray, offset: Offset, *, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """All cells that have a neighbour at `offset`, and these neighbours, in the same order."""
    if periodic:
        return field, np.roll(field, [-step for step in offset], (0, 1, 2))
    here = tuple(slice(max(0, -step), size - max(0, step)) for step, size in zip(offset, field.shape, strict=False))
    there = tuple(slice(max(0, step), size - max(0, -step)) for step, size in zip(offset, field.shape, strict=False))
    return field[here], field[there]


def centred(field: np.ndarray) -> np.ndarray:
    """The field less its mean over cells, in double precision."""
    field = np.asarray(field, np.float64)
    return field - field.mean((0, 1, 2), keepdims=True)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def morans_i(
    field: Float[np.ndarray, "depth height width question channel"], neighbourhood: Neighbourhood, *, periodic: bool
) -> Float[np.ndarray, " question"]:
    """Spatial autocorrelation over the 6 or 26 nearest neighbours.

    I = (n / W) sum_ij w_ij z_i z_j / sum_i z_i^2 with w_ij = 1 for neighbours and W their number (Moran 1950, Notes on
    continuous stochastic phenomena, Biometrika 37). No unit; -1/(n-1) is expected of cells without order, 1 approached by a
    smooth field, and -1 reached by a checkerboard over 6 neighbours.
    """
    z = centred(field)
    products, weight = np.zeros(z.shape[3]), 0
    for offset in offsets(neighbourhood)[1:]:
        here, there = pairs(z, offset, periodic=periodic)
        products += np.einsum("dhwqc,dhwqc->q", here, there)
        weight += int(np.prod(here.shape[:3]))
    cells = int(np.prod(z.shape[:3]))
    return _ratio(products / weight, np.einsum("dhwqc,dhwqc->q", z, z) / cells)


def directional_correlation(
    field: Float[np.ndarray, "depth height width question channel"], offset: Offset, *, periodic: bool
) -> Float[np.ndarray, " question"]:
    """Correlation of cells that lie `offset` apart.

    r = sum z_i z_j / sqrt(sum z_i^2 sum z_j^2) over the pairs of one direction and distance: the field's autocorrelation
    function (Cressie 1993, Statistics for Spatial Data, section 2.3). No unit; in [-1, 1].
    """
    return _correlation(centred(field), offset, periodic=periodic)


def _correlation(z: np.ndarray, offset: Offset, *, periodic: bool) -> Float[np.ndarray, " question"]:
    here, there = pairs(z, offset, periodic=periodic)
    squares = np.einsum("dhwqc,dhwqc->q", here, here) * np.einsum("dhwqc,dhwqc->q", there, there)
    return _ratio(np.einsum("dhwqc,dhwqc->q", here, there), np.sqrt(squares))


def correlogram(
    field: Float[np.ndarray, "depth height width question channel"], *, periodic: bool
) -> Float[np.ndarray, "direction distance"]:
    """Correlation by direction and distance, the mean over questions; NaN where the grid is too short for a distance.

    Distances are counted in moves along the direction, from 1 to the longest axis less one.
    """
    z, sizes = centred(field), field.shape[:3]
    table = np.full((len(DIRECTIONS), max(sizes) - 1), np.nan)
    for row, direction in enumerate(DIRECTIONS):
        reach = min(size for size, step in zip(sizes, direction, strict=True) if step) - 1
        for distance in range(1, reach + 1):
            depth, height, width = (distance * step for step in direction)
            table[row, distance - 1] = _correlation(z, (depth, height, width), periodic=periodic).mean()
    return table


def correlogram_null(
    field: Float[np.ndarray, "depth height width question channel"],
    *,
    periodic: bool,
    shuffles: int,
    generator: np.random.Generator,
) -> nulls.Band:
    """The `correlogram` of shuffled cells: what each direction and distance says of cells without order.

    Its deviation rises with the distance, because fewer and fewer pairs are left.
    """
    return nulls.band([correlogram(nulls.shuffled_cells(field, generator), periodic=periodic) for _ in range(shuffles)])


def lateral_coherence(
    field: Float[np.ndarray, "depth height width question channel"], *, axis: int, periodic: bool
) -> Float[np.ndarray, " question"]:
    """Mean correlation with the 8 neighbours in a cell's own layer, at right angles to the signal; in [-1, 1]."""
    z = centred(field)
    return np.mean([_correlation(z, offset, periodic=periodic) for offset in across(axis)], axis=0)
