#!/usr/bin/env python3
"""How a cell gathers from its neighbours, form beside form: python benchmarks/gathering.py [--write]

Times the two neighbour sums of a lattice step, of the states and of the messages, at the full cube: forwards, and with the
gradients to weights and field. All forms are first checked to equal the definition, then timed in turns on the devices that JAX
has. The scan sums by the form that `step.mix` chooses; the compiled engines of CPU and GPU read neighbours where they lie,
inside their own step, and have no such form to exchange. `--write` renews benchmarks/results/gathering.json and .md.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bin")]

import launcher  # noqa: E402

launcher.prepare()

import datetime  # noqa: E402
import functools  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from typing import Annotated, NamedTuple  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402

from benchmarks.measure import machine  # noqa: E402
from benchmarks.measure.cases import REFERENCE  # noqa: E402
from benchmarks.measure.report import duration, markdown_table  # noqa: E402
from lattice_jax.config import LatticeConfig, Walls  # noqa: E402
from lattice_jax.lattice import cell, draw, grid  # noqa: E402
from lattice_jax.lattice.grid import Offset, offsets  # noqa: E402
from lattice_jax.lattice.step import World, neighbour_sum, plain_neighbour_sum  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "gathering.json"
CHOSEN = "slices, adjoint by hand"
"""What `step.mix` takes under these walls."""
WALLS: Walls = "zero"

Sum = Callable[[jax.Array, jax.Array, tuple[Offset, ...]], jax.Array]
"""(weights [d, h, w, offset, channel], field [d, h, w, batch, channel], offsets) -> sums like the field."""


def rolled(weights: jax.Array, field: jax.Array, around: tuple[Offset, ...]) -> jax.Array:
    """The definition: `grid.shift`, which rolls the field and mends its border."""
    terms = (weights[..., k, None, :] * grid.shift(field, offset, WALLS) for k, offset in enumerate(around))
    return functools.reduce(jnp.add, terms)


def indexed(weights: jax.Array, field: jax.Array, around: tuple[Offset, ...]) -> jax.Array:
    """Rows of cells by a table of numbers that is known before; beyond a wall lies a last row of zeros."""
    size = field.shape[:3]
    cells = int(np.prod(size))
    numbers = np.pad(np.arange(cells).reshape(size), 1, constant_values=cells)
    table = np.stack([np.asarray(grid.seen(numbers, offset)).reshape(-1) for offset in around], 1)
    rows = jnp.concatenate([field.reshape(cells, *field.shape[3:]), jnp.zeros((1, *field.shape[3:]), field.dtype)])
    own = weights.reshape(cells, *weights.shape[3:])
    return jnp.einsum("nkbc,nkc->nbc", rows[table], own).reshape(field.shape)


def _sliced(form: Callable[..., jax.Array]) -> Sum:
    world = World(WALLS, functools.partial(grid.extend, walls=WALLS))
    return lambda weights, field, around: form(weights, field, around, world)


FORMS: Mapping[str, Sum] = {
    CHOSEN: _sliced(neighbour_sum),
    "slices, autodiff": _sliced(plain_neighbour_sum),
    "roll (the definition), autodiff": rolled,
    "static index gather, autodiff": indexed,
}


class Work(NamedTuple):
    """One neighbour sum of the lattice, and what it is asked for."""

    name: str
    """Of the weights, as in `cell.shapes`: 'perception' sums states, 'gate' messages."""
    batch: int
    gradient: bool

    def title(self) -> str:
        """For people."""
        what = {"perception": "states", "gate": "messages"}[self.name]
        return f"{what}, batch {self.batch}, " + ("with gradients" if self.gradient else "forwards")


def compiled(work: Work, form: Sum, config: LatticeConfig) -> Callable[[], list[jax.Array]]:
    """The sum on arrays that are the same for every form, ready to run."""
    count, channels = cell.shapes(config.cell)[work.name]
    around = offsets(config.cell.perception if work.name == "perception" else config.cell.gate)
    size = config.grid.depth, config.grid.height, config.grid.width
    keys = jax.random.split(jax.random.key(0), 3)
    weights = draw.normal(keys[0], (*size, count, channels))
    field, cotangent = (draw.normal(key, (*size, work.batch, channels)) for key in keys[1:])

    def forwards(weights: jax.Array, field: jax.Array, _: jax.Array) -> list[jax.Array]:
        return [form(weights, field, around)]

    def with_gradients(weights: jax.Array, field: jax.Array, cotangent: jax.Array) -> list[jax.Array]:
        summed, back = jax.vjp(lambda *arguments: form(*arguments, around), weights, field)
        return [summed, *back(cotangent)]

    run = jax.jit(with_gradients if work.gradient else forwards).lower(weights, field, cotangent).compile()
    return lambda: jax.block_until_ready(run(weights, field, cotangent))


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(work: Work, config: LatticeConfig, turns: int) -> dict[str, dict]:
    """Every form's seconds in turns, after a check that all are equal."""
    runs = {name: compiled(work, form, config) for name, form in FORMS.items()}
    defined = runs["roll (the definition), autodiff"]()
    difference = {}
    for name, run in runs.items():
        pairs = zip(run(), defined, strict=True)
        difference[name] = max(float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(other))) for one, other in pairs)
        if difference[name] > 1e-5:
            raise AssertionError(f"{name} differs from the definition by {difference[name]:.1e} for {work.title()}")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns):
        for name in runs if turn % 2 == 0 else reversed(runs):
            seconds[name].append(seconds_of(runs[name]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {
            "seconds": medians[name],
            "seconds_of_turns": [round(value, 6) for value in values],
            "ratio": medians[name] / medians[CHOSEN],
            "difference": difference[name],
        }
        for name, values in seconds.items()
    }


def page(found: Mapping) -> str:
    """The measurement as Markdown."""
    about, rows = found["measured"], found["rows"]
    lines = [
        (title, *(f"{duration(row['seconds'])} ({row['ratio']:.2f})" for row in forms.values()))
        for title, forms in rows.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in about["machine"]["versions"].items())
    return (
        "# How a cell gathers from its neighbours\n\n"
        f"`{about['command']}`: one neighbour sum of the full cube, {about['turns']} turns in alternation, medians, and in "
        f"brackets the time by that of *{CHOSEN}*, which the scan takes. All forms give the same numbers, checked before "
        "timing.\n\n"
        + markdown_table(("", *FORMS), lines)
        + "\n\nThe compiled engines of CPU and GPU read neighbours where they lie, inside their own step: for them there is no "
        "form to exchange. A depthwise convolution is left out: its weights can't differ from cell to cell.\n\n"
        f"{about['machine']['processor']}, {', '.join(about['machine']['devices'])}, {about['machine']['cores']} cores; "
        f"{versions}; {about['date']}, load average before {about['load_average_before']:.2f}.\n"
    )


def main(
    turns: int = 15,
    batch_sizes: tuple[int, ...] = (1, 32),
    write: Annotated[bool, tyro.conf.arg(help="Renew benchmarks/results/gathering.json and .md.")] = False,
) -> None:
    """Measure, print, and write where it is asked for."""
    before, config = machine.load(), REFERENCE.lattice
    works = itertools.starmap(Work, itertools.product(("perception", "gate"), batch_sizes, (False, True)))
    found = {
        "measured": {
            "date": datetime.date.today().isoformat(),
            "command": "python benchmarks/gathering.py --write",
            "turns": turns,
            "load_average_before": before,
            "machine": machine.description(),
        },
        "rows": {work.title(): measure(work, config, turns) for work in works},
    }
    print(page(found))
    if write:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
        RESULT.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
