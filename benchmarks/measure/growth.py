"""How the cost of a training step grows: with batch, steps, grid side, hidden width and cores.

Contract: one setting varies at a time, in turns; the exponent is the slope of the least-squares line through the logarithms of
seconds against the setting, and the last one that between the two largest values alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lattice_jax.config import CellConfig, Config, GridConfig

from .cases import Case, with_batch, with_lattice
from .headline import core_counts
from .timing import Tell, measure


class Axis(NamedTuple):
    """One setting to vary."""

    label: str
    values: tuple[int, ...]
    case: Callable[[Config, int], Case]
    expected: float
    """The exponent where nothing but the counted operations cost."""
    reason: str
    """Why the measured one may differ."""


def _side(config: Config, side: int) -> Case:
    return Case("training", with_lattice(config, grid=GridConfig(side, side, side)))


def _hidden(config: Config, hidden: int) -> Case:
    cell = config.lattice.cell
    return Case("training", with_lattice(config, cell=CellConfig(cell.visible, cell.memory, hidden)))


def axes() -> dict[str, Axis]:
    """All settings that cost is measured against."""
    return {
        "batch": Axis(
            "batch size",
            (1, 2, 4, 8, 16, 32, 64),
            lambda config, size: Case("training", with_batch(config, size)),
            1,
            "every step reads all weights and updates them, whatever the batch: memory sets the time of small batches, "
            "products that of large ones",
        ),
        "steps": Axis(
            "lattice steps",
            (11, 16, 22, 32),
            lambda config, steps: Case("training", with_lattice(config, steps=steps)),
            1,
            "light reaches only part of the cube in the first steps, and all of it later, so a longer pass fires more cells a "
            "step; the update of the weights, which comes once, works the other way",
        ),
        "side": Axis(
            "cells a side",
            (4, 6, 8, 10, 12),
            _side,
            3,
            "cost goes with the cells, side cubed; small cubes fit the caches, but pay as much for each call",
        ),
        "hidden": Axis(
            "hidden width",
            (32, 64, 128, 256),
            _hidden,
            1,
            "the three large matrices grow with it; perception, memory and the state do not",
        ),
        "cores": Axis(
            "cores",
            core_counts(),
            lambda config, count: Case("training", config, cores=count),
            -1,
            "cells are divided over the cores; they share one memory, and wait for each other twice a lattice step",
        ),
    }


def exponent(values: Sequence[float], seconds: Sequence[float]) -> float | None:
    """The slope of log seconds against log values; None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def growth(reference: Config, *, turns: int, tell: Tell) -> dict:
    """Seconds of a training step along every axis, with the exponents."""
    found = {}
    for name, axis in axes().items():
        cases = {f"{axis.label} {value}": axis.case(reference, value) for value in axis.values}
        rows = list(measure(cases, turns=turns, tell=tell).values())
        seconds = [row["seconds"] for row in rows]
        found[name] = {
            "label": axis.label,
            "values": list(axis.values),
            "seconds": seconds,
            "exponent": exponent(axis.values, seconds),
            "last_exponent": exponent(axis.values[-2:], seconds[-2:]),
            "expected": axis.expected,
            "reason": axis.reason,
            "rows": rows,
        }
    return found
