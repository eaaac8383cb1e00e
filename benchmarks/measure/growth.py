"""How the cost of a training step grows: with batch, steps, grid side, hidden width and cores.

Contract: one setting varies at a time, in turns; the exponent is the slope of the least-squares line through the logarithms of
seconds against the setting, and the last one that between the two largest values alone. Those of operations, and why time's
differs from them, are the report's.
"""

from collections.abc import Callable
from typing import NamedTuple

from lattice_jax.config import CellConfig, Config, GridConfig

from .cases import Case, with_batch, with_lattice
from .headline import core_counts
from .report import exponent
from .timing import Tell, measure


class Axis(NamedTuple):
    """One setting to vary."""

    label: str
    values: tuple[int, ...]
    case: Callable[[Config, int], Case]


def _steps(config: Config, steps: int) -> Case:
    return Case("training", with_lattice(config, steps=steps))


def _side(config: Config, side: int) -> Case:
    return Case("training", with_lattice(config, grid=GridConfig(side, side, side)))


def _hidden(config: Config, hidden: int) -> Case:
    cell = config.lattice.cell
    return Case("training", with_lattice(config, cell=CellConfig(cell.visible, cell.memory, hidden)))


def axes() -> dict[str, Axis]:
    """All settings that cost is measured against."""
    return {
        "batch": Axis("batch size", (1, 2, 4, 8, 16, 32, 64), lambda config, size: Case("training", with_batch(config, size))),
        "steps": Axis("lattice steps", (11, 16, 22, 32), _steps),
        "side": Axis("cells a side", (4, 6, 8, 10, 12), _side),
        "hidden": Axis("hidden width", (32, 64, 128, 256), _hidden),
        "cores": Axis("cores", core_counts(), lambda config, count: Case("training", config, cores=count)),
    }


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
            "rows": rows,
        }
    return found
