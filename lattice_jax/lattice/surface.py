"""The six faces: where a vector goes in, and where one is read.

Contract: a face's cells lie in the row-major order of the two axes that remain (depth before height before width), channels
last, so `vector_to_face` and `face_to_vector` are each other's inverse. No cell off the face sees the vector.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lattice_jax.config import AXIS, Face, GridConfig
from lattice_jax.lattice.grid import Cells, Offset

_FIRST: frozenset[Face] = frozenset({"front", "top", "left"})


def towards(face: Face) -> Offset:
    """Where the neighbour lies that is one cell nearer to the face."""
    step = -1 if face in _FIRST else 1
    depth, height, width = (step if axis == AXIS[face] else 0 for axis in range(3))
    return depth, height, width


def face_slice(face: Face, size: int) -> slice:
    """Where the face lies along its axis, in a grid with `size` cells there."""
    return slice(0, 1) if face in _FIRST else slice(size - 1, size)


def face_shape(face: Face, grid: GridConfig) -> tuple[int, int, int]:
    """The face as a grid: 1 along its own axis."""
    shape = [grid.depth, grid.height, grid.width]
    shape[AXIS[face]] = 1
    return shape[0], shape[1], shape[2]


def vector_to_face(vectors: Float[Array, "batch size"], face: Face, grid: GridConfig) -> Float[Array, "d h w batch channel"]:
    """Vectors laid out on a face, one group of channels a cell: (225,) on a 15 x 15 face is one channel a cell."""
    shape = face_shape(face, grid)
    return jnp.moveaxis(vectors.reshape(vectors.shape[0], *shape, -1), 0, 3)


def face_to_vector(values: Float[Array, "d h w batch channel"]) -> Float[Array, "batch size"]:
    """The inverse of `vector_to_face`."""
    return jnp.moveaxis(values, 3, 0).reshape(values.shape[3], -1)


def from_centre(face: Face, grid: GridConfig, channels: int) -> Int[np.ndarray, " size"]:
    """The places of a face's vector in the order of their cells' distance from its centre, ring by ring."""
    extent = [size for axis, size in enumerate(face_shape(face, grid)) if axis != AXIS[face]]
    away = np.indices(extent).reshape(2, -1) - (np.array(extent)[:, None] - 1) / 2
    cells = np.lexsort((np.arctan2(*away), np.abs(away).max(0)))
    return (cells[:, None] * channels + np.arange(channels)).ravel()


def take_face(field: Float[Array, "depth height width *rest"], face: Face, grid: GridConfig) -> Float[Array, "d h w *rest"]:
    """The cells of one face."""
    axis, size = AXIS[face], (grid.depth, grid.height, grid.width)[AXIS[face]]
    index = [slice(None)] * field.ndim
    index[axis] = face_slice(face, size)
    return field[tuple(index)]


def axes_from_face(face: Face) -> list[int]:
    """The grid's axes in the order that `from_face` puts them in: the face's own, then the other two as they were."""
    return sorted(range(3), key=lambda axis: (axis != AXIS[face], axis))


def from_face(field: Cells, face: Face, *, first: int = 0) -> Cells:
    """The field as layers, the face itself the first; depth, height and width are axes `first` to `first + 2`.

    The two other axes keep their order and direction. A view, no copy, of an array in NumPy.
    """
    order = [*range(first), *(first + axis for axis in axes_from_face(face)), *range(first + 3, field.ndim)]
    along = slice(None, None, 1 if face in _FIRST else -1)
    return field.transpose(order)[(*([slice(None)] * first), along)]


def face_mask(face: Face, grid: GridConfig) -> Bool[Array, "depth height width"]:
    """True on the cells of one face."""
    mask = jnp.zeros((grid.depth, grid.height, grid.width), bool)
    index = [slice(None)] * 3
    index[AXIS[face]] = face_slice(face, mask.shape[AXIS[face]])
    return mask.at[tuple(index)].set(True)
