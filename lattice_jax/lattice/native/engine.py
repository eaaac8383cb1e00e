"""The compiled pass as a differentiable JAX function.

Contract: `advance` equals the scan over `step`, values and gradients, for any walls, neighbourhoods and sharing of weights, on
one device, in float32. A cell whose firing is 0 for all samples in a step costs nothing in it, and that 0 has no gradient.
"""

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import psutil
from jaxtyping import Array, Float

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice import cell, grid
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.step import Field, State
from lattice_jax.lattice.surface import face_mask
from lattice_jax.native import build

_LARGEST_DEFERRED = 8
"""Batch size up to which matrix gradients are deferred by themselves. What that saves does not depend on the batch, what it
stores does. It is 4 % faster at 8, 3 % slower at 16 (as fast where the pass has 16 steps instead of 11), 4 and 7 % slower at 32
and 64. `benchmarks/throughput.py --what deferral`."""

_SHARE_OF_MEMORY = 8
"""Stored values may take one part in so many of the machine's memory."""


def library() -> ctypes.CDLL:
    """The compiled pass; raises InputError where there is no compiler."""
    handlers = ("lattice_answer", "lattice_forward", "lattice_backward")
    return build.load(Path(__file__).parent, handlers, purpose="the native engine", instead="set --config.lattice.engine scan")


def threads(config: LatticeConfig) -> int:
    """How many compute: `lattice.devices`, or as many as the process may have cores."""
    return config.devices or joblib.cpu_count()


class Pass(NamedTuple):
    """What a pass depends on beside its arrays; hashable, for `custom_vjp`."""

    config: LatticeConfig
    steps: int
    batch: int
    fires_batch: int
    firings: int
    keeps: bool
    """Whether what each firing computed is stored for the backward pass."""
    started: bool = False
    """Whether a start state is given, instead of the quiescent one."""

    @property
    def defers(self) -> bool:
        """Whether the matrices' gradients wait for a cell's last firing; only where there is something stored."""
        wanted = self.config.weight_gradients
        return self.keeps and (self.batch <= _LARGEST_DEFERRED if wanted == "automatic" else wanted == "deferred")

    @property
    def cells(self) -> int:
        return self.config.grid.cells

    def versions_size(self) -> int:
        """Floats of all states that a pass goes through, with what was computed from them where it is kept."""
        return (self.cells + self.firings) * self.sizes()[3]

    def settings(self) -> np.ndarray:
        """In the order of `enum Setting` in handlers.c."""
        config = self.config
        values = [self.cells, self.batch, config.cell.visible, cell.hidden_width(config.cell)]
        values += [self.steps, threads(config), config.injection == "held", config.update.residual]
        values += [config.update.bound == "tanh", self.keeps, self.defers]
        values += [len(grid.offsets(config.cell.perception)), len(grid.offsets(config.cell.gate)), self.fires_batch]
        values += [self.started, self.cells // int(np.prod(cell.sharing_shape(self.config)))]
        return np.array(values, np.int32)

    def sizes(self) -> tuple[int, int, int, int]:
        """Floats of the forward workspace without and with versions, of the backward workspace, and of one version."""
        settings, sizes = self.settings(), (ctypes.c_int64 * 4)()
        library().native_sizes(settings.ctypes.data_as(ctypes.c_void_p), sizes)
        return tuple(sizes)

    def state(self) -> list[jax.ShapeDtypeStruct]:
        """Visible, memory and the squares of every step."""
        size = self.config.grid
        block = (size.depth, size.height, size.width, self.batch, self.config.cell.visible)
        return [_floats(*block), _floats(*block), _floats(self.steps, 2, self.batch)]


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


@functools.lru_cache
def _tables(config: LatticeConfig) -> list[np.ndarray]:
    """For perception and gate: the neighbours of every cell, and its receivers, as plan.h and lattice.h describe them.

    The numbers of the cells are shifted as fields are, so that all walls come out as `grid.shift` defines them.
    """
    size = config.grid
    numbers = np.arange(1, size.cells + 1, dtype=np.int32).reshape(size.depth, size.height, size.width)
    tables = []
    for around in (grid.offsets(config.cell.perception), grid.offsets(config.cell.gate)):
        shifted = [grid.shift(numbers, offset, config.walls).reshape(-1) for offset in around]
        tables += _with_receivers(np.stack(shifted, -1) - 1)
    return tables


def _with_receivers(table: np.ndarray) -> list[np.ndarray]:
    """The table [cells, offsets], and its inverse: where each cell's receivers begin, and (receiver, offset) of all."""
    receiver, offset = np.nonzero(table >= 0)
    seen = table[receiver, offset]
    order = np.argsort(seen, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(seen, minlength=len(table)))])
    receivers = np.stack([receiver, offset], -1)[order]
    return [np.ascontiguousarray(part, np.int32) for part in (table, first, receivers)]


def _arguments(of: Pass, parameters: Parameters, injected: Array, fires: Array, start: State | None) -> list:
    """In the order of `enum Argument` in handlers.c."""
    with jax.ensure_compile_time_eval():
        on_face = np.asarray(face_mask(of.config.input_face, of.config.grid)).reshape(-1)
    face_index = np.where(on_face, np.cumsum(on_face) - 1, -1).astype(np.int32)
    epsilon = np.array([of.config.cell.normalisation_epsilon], np.float32)
    weights = [parameters[name] for name in cell.shapes(of.config.cell)]
    begins = [np.zeros(1, np.float32)] * 2 if start is None else [*start]  # where there is no start state, nothing reads it
    return [of.settings(), epsilon, *_tables(of.config), face_index, fires, injected, *begins, *weights]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _advance(
    of: Pass, parameters: Parameters, injected: Array, fires: Array, start: State | None
) -> tuple[Array, Array, Array]:
    of = of._replace(keeps=False)  # no backward pass will read it
    call = jax.ffi.ffi_call("lattice_answer", [*of.state(), _floats(of.sizes()[0])])
    visible, memory, squares, _ = call(*_arguments(of, parameters, injected, fires, start))
    return visible, memory, squares


def _advance_forward(of: Pass, parameters: Parameters, injected: Array, fires: Array, start: State | None):
    call = jax.ffi.ffi_call("lattice_forward", [*of.state(), _floats(of.sizes()[1]), _floats(of.versions_size())])
    visible, memory, squares, _, kept = call(*_arguments(of, parameters, injected, fires, start))
    return (visible, memory, squares), (parameters, injected, fires, start, kept)


def _advance_backward(of: Pass, residuals, gradients):
    parameters, injected, fires, start, kept = residuals
    names = list(cell.shapes(of.config.cell))
    size = of.config.grid
    results = [_floats(size.depth, size.height, size.width, *parameters[name].shape[3:]) for name in names]
    arguments = _arguments(of, parameters, injected, fires, start)
    call = jax.ffi.ffi_call(
        "lattice_backward",
        [*results, _floats(*injected.shape), _floats(*fires.shape), _floats(*kept.shape), _floats(of.sizes()[2])],
        input_output_aliases={len(arguments): len(results) + 2},
    )
    found = cast(list[Array], call(*arguments, kept, *gradients))
    none_to_start = jax.tree.map(jnp.zeros_like, start)
    shared = tuple(axis for axis, copies in enumerate(cell.sharing_shape(of.config)) if copies == 1)
    to_weights = dict(zip(names, found, strict=False))
    if shared:
        to_weights = {name: jnp.sum(each, shared, keepdims=True) for name, each in to_weights.items()}
    to_injected, to_fires = found[len(names) : len(names) + 2]
    return to_weights, to_injected, to_fires, none_to_start


_advance.defvjp(_advance_forward, _advance_backward)


@functools.cache
def recomputes(config: LatticeConfig, batch: int, firings: int) -> bool:
    """Whether the backward pass computes each step again, as `lattice.remat` says; `firings` as for `advance`."""
    if config.remat == "automatic" and config.weight_gradients != "deferred":
        stored = Pass(config, config.steps, batch, fires_batch=1, firings=firings, keeps=True).versions_size()
        return 4 * stored * _SHARE_OF_MEMORY > psutil.virtual_memory().total
    return config.remat == "always"


def advance(
    parameters: Parameters,
    injected: Field,
    fires: Float[Array, "steps #d #h #w #batch 1"],
    *,
    config: LatticeConfig,
    firings: int,
    start: State | None = None,
) -> tuple[State, Float[Array, "steps 2 batch"]]:
    """The last state, and each step's sums of squares of the change of the visible channels and of these themselves.

    There are as many steps as `fires` has.
    `firings`: how many firings, summed over cells and steps, there can be at most; the memory of the backward pass is laid out
    for them, and touched as far as they happen. `start`: what the cells hold before the injection, quiescent where there is
    none; it gets no gradient.
    """
    size, batch = config.grid, injected.shape[3]
    steps = fires.shape[0]
    fires = jnp.broadcast_to(fires, (steps, size.depth, size.height, size.width, *fires.shape[4:]))
    of = Pass(config, steps, batch, fires.shape[4], firings, keeps=not recomputes(config, batch, firings))
    of = of._replace(started=start is not None)
    visible, memory, squares = cast(list[Array], _advance(of, parameters, injected, fires, start))
    return State(visible, memory), squares
