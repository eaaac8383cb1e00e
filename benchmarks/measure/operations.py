"""Floating-point operations and parameter traffic, counted from the settings.

Contract: pure. Counted operations are those of the definition, `cube.operations`; whatever skips or repeats work leaves them as
they are. Executed ones are those that the engine can't avoid computing: it may skip cells that rest, and repeats the forward
pass where it rematerialises.
"""

import jax
import numpy as np
from jaxtyping import Array, Key

from lattice_jax.config import Config, Engine, LatticeConfig
from lattice_jax.lattice import cube
from lattice_jax.lattice.cell import parameters_per_cell
from lattice_jax.lattice.cube import BACKWARD_OPERATIONS, FORWARD_OPERATIONS
from lattice_jax.lattice.firing import Read, firing
from lattice_jax.training.objectives import read_by_losses

_NUMBER_BYTES = 4
_OPTIMISER_VISITS = 9
"""Gradient written, read for the norm and read again; two moments and the weights read and written."""


def firings(config: LatticeConfig, batch: int, *, sampled: bool, key: Key[Array, ""], read: Read) -> int:
    """Cells that move for some sample, summed over the steps, with the masks that `key` draws."""
    moves = np.asarray(firing(config, batch, sampled=sampled, key=key, read=read)) > 0
    grid = (config.grid.depth, config.grid.height, config.grid.width)
    return int(np.broadcast_to(moves.any((4, 5)), (config.steps, *grid)).sum())


def computed_firings(
    config: LatticeConfig, batch: int, *, engine: Engine, sampled: bool, key: Key[Array, ""], read: Read, devices: int = 1
) -> int:
    """Cell updates that the engine computes for the whole batch: those that move, or all, with the rows that pad the grid.

    Messages count with the cell that makes them, though the engines that skip cells make one only when it is heard.
    """
    if engine in ("native", "fused"):
        return firings(config, batch, sampled=sampled, key=key, read=read)
    height = -(-config.grid.height // devices) * devices
    return config.steps * config.grid.cells // config.grid.height * height


def executed(config: LatticeConfig, batch: int, computed: int, *, training: bool, recomputes: bool) -> int:
    """Operations of `computed` cell updates for `batch` samples each; `recomputes`: forward once more in the backward pass."""
    each = FORWARD_OPERATIONS + ((BACKWARD_OPERATIONS + FORWARD_OPERATIONS * recomputes) if training else 0)
    return each * parameters_per_cell(config.cell) * batch * computed


def parameter_bytes(config: LatticeConfig, computed: int, *, training: bool) -> int:
    """Bytes of weights, gradients and moments that a step moves at least, when none of them fits a cache.

    A cell's weights are read once an update forward and once backward; the optimiser visits everything once.
    """
    weights = _NUMBER_BYTES * parameters_per_cell(config.cell)
    passes = computed * (2 if training else 1)
    return weights * (passes + (_OPTIMISER_VISITS * config.grid.cells if training else 0))


def count(
    config: Config,
    batch: int,
    *,
    engine: Engine,
    training: bool,
    sampled: bool,
    read: Read,
    devices: int,
    recomputes: bool,
) -> dict:
    """All of the above for one repeat, by name; a batch that is divided computes each part's cell updates."""
    lattice = config.lattice
    read = read_by_losses(config.loss) if training else read
    part = (config.training.micro_batch if training else 0) or batch
    key = jax.random.key(config.seed)
    computed = computed_firings(lattice, part, engine=engine, sampled=sampled, key=key, read=read, devices=devices)
    computed *= batch // part
    return {
        "counted_operations": cube.operations(lattice, batch, training=training),
        "executed_operations": executed(lattice, part, computed, training=training, recomputes=recomputes),
        "cell_updates": computed,
        "cell_updates_at_most": lattice.steps * lattice.grid.cells,
        "parameter_bytes_moved": parameter_bytes(lattice, computed, training=training),
    }
