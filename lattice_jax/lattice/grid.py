"""The grid: which cells are neighbours, and what lies beyond a wall.

Contract: a field is an array whose first three axes are depth, height and width. `shift` defines what a cell sees of its
neighbour at an offset; every faster way of reading neighbours (`extend` and slices) equals it exactly, for every wall and any
grid.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from lattice_jax.config import Neighbourhood, Walls

Offset = tuple[int, int, int]
"""Where a neighbour lies: (depth, height, width), each -1, 0 or 1."""

Extend = Callable[[Array], Array]
"""Adds one cell on both sides of depth, height and width: what lies beyond the walls (or on the next device)."""

SELF: Offset = (0, 0, 0)

Cells = TypeVar("Cells", np.ndarray, jax.Array)
"""Arrays of one value a cell or more, of NumPy or of JAX."""


def offsets(neighbourhood: Neighbourhood) -> tuple[Offset, ...]:
    """The cell itself first, then its 6 (von Neumann) or 26 (Moore) neighbours at radius 1 in lexicographic order."""
    along = (-1, 0, 1)
    around = [(d, h, w) for d in along for h in along for w in along if (d, h, w) != SELF]
    if neighbourhood == "von_neumann":
        around = [offset for offset in around if sum(map(abs, offset)) == 1]
    return (SELF, *around)


def shift(
    field: Shaped[Cells, "depth height width ..."], offset: Offset, walls: Walls
) -> Shaped[Cells, "depth height width ..."]:
    """What every cell sees at `offset`: result[cell] = field[cell + offset], and beyond a wall what `walls` says.

    zero: nothing; periodic: the opposite side; reflect: mirrored about the border cell; edge: the border cell again. A field
    of NumPy is shifted by NumPy, which compiles nothing.
    """
    numpy = field.__array_namespace__()
    for axis, step in enumerate(offset):
        if step == 0:
            continue
        size = field.shape[axis]
        border, mirrored = (size - 1, size - 2) if step > 0 else (0, 1)
        at_border = (numpy.arange(size) == border).reshape([-1 if a == axis else 1 for a in range(field.ndim)])
        rolled = numpy.roll(field, -step, axis=axis)
        if walls == "zero":
            beyond = numpy.zeros_like(field)
        elif walls == "periodic":
            beyond = rolled
        else:
            beyond = numpy.take(field, numpy.asarray([mirrored if walls == "reflect" else border]), axis=axis)
        field = numpy.where(at_border, beyond, rolled)
    return field


def extend_axis(field: Shaped[Array, "..."], axis: int, walls: Walls) -> Shaped[Array, "..."]:
    """`field` with one more entry on both sides of one axis, filled as `walls` says."""
    mode = {"zero": "constant", "periodic": "wrap", "reflect": "reflect", "edge": "edge"}[walls]
    return jnp.pad(field, [(int(a == axis),) * 2 for a in range(field.ndim)], mode=mode)


def extend(field: Shaped[Array, "depth height width ..."], walls: Walls) -> Shaped[Array, "depth+2 height+2 width+2 ..."]:
    """`field` with one layer beyond every wall, so that a slice of it is a shift of `field`."""
    for axis in range(3):
        field = extend_axis(field, axis, walls)
    return field


def seen(extended: Shaped[Array, "depth height width ..."], offset: Offset) -> Shaped[Array, "depth-2 height-2 width-2 ..."]:
    """The slice of an extended field that equals `shift` of the field by `offset`."""
    return extended[tuple(slice(1 + step, size - 1 + step) for step, size in zip(offset, extended.shape[:3], strict=True))]
