"""Float32 products on a processor's matrix unit, in the place of `jax.lax.dot_general`.

Contract: `choose` says what multiplies in an encoder, or that XLA does. `split_product` is the product of states with a matrix
[depth, columns] that `flax.linen.Dense` asks for. It takes every number as the sum of two bfloat16 (split_product.c): of random
values, 768 deep, its error is 4e-6 of their size, where that of float32's own is 4e-7. It can't be differentiated, as teachers
are frozen. XLA uses such a unit for bfloat16 alone: the three products of this, each by XLA, take longer than its float32 one.
"""

import ctypes
import platform
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

import jax
import joblib
import numpy as np
from jaxtyping import Array, Float32

from lattice_jax.errors import InputError
from lattice_jax.native import build

Product = Callable[..., Array]
"""With the arguments of `jax.lax.dot_general`."""

_WIDTH = 32
"""Edge of the unit's blocks, which depth and columns are multiples of."""
_STATES_AT_ONCE = 64
"""So many a thread has split at a time: with more, some threads run out of work before the others."""


def _library() -> ctypes.CDLL:
    return build.load(
        Path(__file__).parent,
        ("split_product",),
        purpose="the teacher's product",
        instead="set --config.teacher.products xla",
    )


def has_matrix_unit() -> bool:
    """Whether this process may use a matrix unit of bfloat16; raises InputError where there is one, and no compiler."""
    described = platform.machine() in ("x86_64", "AMD64") and "amx_bf16" in build.processor().split()
    return described and bool(_library().has_matrix_unit())


def choose(asked: Literal["auto", "xla", "split"], *, numbers: str, widths: Collection[int]) -> Product | None:
    """What multiplies in an encoder of these numbers and widths, none of them where it has no `Dense`; None for XLA.

    Raises InputError where the matrix unit is asked for and can't do it.
    """
    if asked == "xla":
        return None
    obstacle = _obstacle(numbers, widths)
    if obstacle is None:
        return split_product
    if asked == "auto":
        return None
    raise InputError(
        f"teacher.products is 'split', and {obstacle}",
        expected=f"an encoder of the BERT family in float32, widths that {_WIDTH} divides, and a CPU with Intel AMX",
        fix="set --config.teacher.products auto",
    )


def _obstacle(numbers: str, widths: Collection[int]) -> str | None:
    if jax.default_backend() != "cpu":
        return f"the device is a {jax.default_backend()}"
    if numbers != "float32":
        return f"the numbers are {numbers}"
    if not widths:
        return "the encoder is of another family"
    if any(width % _WIDTH for width in widths):
        return f"the encoder is {' and '.join(map(str, widths))} numbers wide"
    return None if has_matrix_unit() else "this processor has no matrix unit that the process may use"


def split_product(
    states: Float32[Array, "*batch depth"],
    matrix: Float32[Array, "depth columns"],
    dimension_numbers: tuple,
    precision: object = None,
    preferred_element_type: object = None,
) -> Float32[Array, "*batch columns"]:
    """The product. The last three arguments are the same for every `Dense`.

    What splitting the matrix takes does not depend on how many states there are: on two cores of a Xeon 1,024 of them, a batch,
    take 0.6 of the time that XLA takes, 96 to 192 as long, and 8 twice as long. All go this way nevertheless, so that what a
    text becomes does not depend on the size of batches.
    """
    del dimension_numbers, precision, preferred_element_type
    _library()
    depth, columns = matrix.shape
    threads = joblib.cpu_count()
    shapes = (*states.shape[:-1], columns), (depth, columns), (threads, _STATES_AT_ONCE, depth)
    call = jax.ffi.ffi_call("split_product", [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes])
    return call(states, matrix, np.array([threads], np.int32))[0]
