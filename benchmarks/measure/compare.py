"""One run against a saved one.

Contract: a ratio above 1 is better, whatever the figure. Only runs of one workload compare.
"""

import functools
import json
import operator
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from lattice_jax.errors import InputError

HEADLINE = (
    "train_samples_per_second",
    "forward_samples_per_second",
    "latency_ms",
    "dense_gflops",
    "train_gflops",
    "roofline_fraction",
    "peak_memory_bytes",
)
"""Figures that every report has at its top."""

_SMALLER_IS_BETTER = frozenset({"latency_ms", "peak_memory_bytes"})
_OF_THE_MACHINE = frozenset({"dense_gflops"})
_WORKLOAD = (
    "lattice.grid",
    "lattice.cell",
    "lattice.steps",
    "lattice.sharing",
    "lattice.update.rate",
    "loss",
    "training.batch_size",
)
"""What runs must have in common; how it is computed may differ."""


def read(path: Path) -> dict:
    """A saved report. Raises InputError for a file that is none."""
    if not path.is_file():
        raise InputError(f"there is no {path}", expected="a report", fix=f"save one with --json {path}")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error})", expected="a report", fix=f"save one with --json {path}") from error


def ratios(new: Mapping, old: Mapping) -> dict[str, float]:
    """How much better the new run is in each figure of the headline; 1 is equal."""
    require_comparable(workload(new), old)
    pairs = {name: (new[name], old[name]) for name in HEADLINE}
    return {name: (old / new if name in _SMALLER_IS_BETTER else new / old) for name, (new, old) in pairs.items()}


def workload(report: Mapping) -> dict:
    """The configuration that a report's headline was measured with. Raises InputError for a report without a headline."""
    missing = [name for name in (*HEADLINE, "main") if name not in report]
    if missing:
        raise InputError(
            f"a report has no {missing[0]}", expected="one of --what main or all", fix="measure it with --what main"
        )
    return report["main"]["measured"]["config"]


def require_comparable(config: Mapping, old: Mapping) -> None:
    """Raises InputError where a run with this configuration can't be set against the saved report; needs no figures of it."""
    if (different := _different(config, workload(old))) is not None:
        raise InputError(f"the runs differ in {different}", expected="one workload", fix="measure both with the same settings")


def _different(one: Mapping, other: Mapping) -> str | None:
    """The first setting of the workload that is not the same in both configurations."""
    for name in _WORKLOAD:
        values = [functools.reduce(operator.getitem, name.split("."), config) for config in (one, other)]
        if values[0] != values[1]:
            return f"{name}: {values[0]} and {values[1]}"
    return None


def too_slow(found: Mapping[str, float], minimum: float) -> list[str]:
    """The figures below `minimum`; those of the machine itself don't count."""
    return [name for name, ratio in found.items() if ratio < minimum and name not in _OF_THE_MACHINE]


def table(new: Mapping, old: Mapping, minimum: float) -> Table:
    """Both runs and their ratios, those below `minimum` marked."""
    shown = Table(title="Against the saved run (above 1 is better)", title_justify="left", box=None, pad_edge=False)
    for column in ("", "now", "saved", "ratio"):
        shown.add_column(column, justify="right" if column else "left")
    found = ratios(new, old)
    below = too_slow(found, minimum)
    for name, ratio in found.items():
        style = "bold red" if name in below else None
        shown.add_row(name, f"{new[name]:,.4g}", f"{old[name]:,.4g}", f"{ratio:.3f}", style=style)
    return shown
