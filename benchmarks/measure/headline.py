"""What the cube's speed is: training, forward and one answer, beside the machine's dense product, and over batch sizes.

Contract: returns plain values for JSON. All rates of one section were measured in turns with each other.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from lattice_jax.config import Config

from .cases import Case, Kind, with_batch
from .timing import Tell, measure

WORK: tuple[Kind, ...] = ("training", "forward", "latency")
"""What is measured of a configuration."""

REFERENCE, PHASE_3 = "reference", "phase-3"


def cases_of(name: str, config: Config) -> dict[str, Case]:
    """All that is measured of one configuration, by 'name kind'."""
    return {f"{name} {kind}": Case(kind, config) for kind in WORK}


def main(reference: Config, phase_3: Config | None, *, turns: int, tell: Tell, profile: Path | None = None) -> dict:
    """The figures that a release is judged by, and the rows that they come from.

    `phase_3`: the main job's own configuration, at its own batch size; None leaves it out. `profile` gets a trace of one
    training step.
    """
    cases = (
        cases_of(REFERENCE, reference) | (cases_of(PHASE_3, phase_3) if phase_3 else {}) | {"dense": Case("dense", reference)}
    )
    trace = {f"{REFERENCE} training": profile} if profile else None
    rows = measure(cases, turns=turns, tell=tell, trace=trace)
    return headline(rows) | {"rows": rows}


def headline(rows: dict[str, dict]) -> dict:
    """The figures by their names in every report, from the rows of `main`."""
    training, forward, latency = (rows[f"{REFERENCE} {kind}"] for kind in WORK)
    dense = rows["dense"]["counted_gflops"]
    return {
        "train_samples_per_second": training["samples_per_second"],
        "forward_samples_per_second": forward["samples_per_second"],
        "latency_ms": 1000 * latency["seconds"],
        "dense_gflops": dense,
        "train_gflops": training["counted_gflops"],
        "roofline_fraction": training["counted_gflops"] / dense,
        "executed_roofline_fraction": training["executed_gflops"] / dense,
        "peak_memory_bytes": training["peak_memory_bytes"],
    }


def core_counts() -> tuple[int, ...]:
    """1, 2, 4, ... and all cores that there are."""
    most = len(os.sched_getaffinity(0))
    return tuple(sorted({2**power for power in range(most.bit_length()) if 2**power < most} | {most}))


def batches(reference: Config, sizes: Sequence[int], cores: Sequence[int], *, turns: int, tell: Tell) -> dict:
    """Training and forward over batch sizes and cores: a list of rows for each."""
    found: dict[str, list] = {}
    for kind, count in itertools.product(WORK[:2], cores):
        cases = {f"{kind}, batch {size}, {count} cores": Case(kind, with_batch(reference, size), cores=count) for size in sizes}
        rows = measure(cases, turns=turns, tell=tell)
        found.setdefault(kind, []).extend({"cores": count, **row} for row in rows.values())
    return found
