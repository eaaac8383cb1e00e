#!/usr/bin/env python3
"""How fast the cube trains and answers on this machine: python benchmarks/throughput.py [--what WHAT] [--quick] [--json FILE]

main: the whole training step, a forward pass and one answer, at the reference workload and at the main job's own, beside the
dense product. batch: over batch sizes and cores. peers: beside other implementations of the same mathematics (needs
benchmarks/requirements.txt). ablation: what every setting alone gains. deferral: weight gradients once a cell or at every
firing, over batch sizes. growth: cost against batch, steps, side, width, cores.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bin")]

import launcher  # noqa: E402

launcher.prepare()

import os  # noqa: E402

# Of an accelerator's memory this process needs little; by default JAX would keep three quarters of it from those that measure.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import datetime  # noqa: E402
import json  # noqa: E402
import shlex  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Literal  # noqa: E402

import tyro  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.measure import compare, growth, headline, machine, plots, report, versus  # noqa: E402
from benchmarks.measure.cases import REFERENCE, with_batch  # noqa: E402
from lattice_jax.commandline import clear_errors, load_config  # noqa: E402
from lattice_jax.config import Config  # noqa: E402
from lattice_jax.errors import InputError  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SECTIONS = ("main", "batch", "peers", "ablation", "deferral", "growth")


@dataclass(frozen=True)
class Throughput:
    """Arguments of benchmarks/throughput.py."""

    config: Config = REFERENCE
    """The workload; any setting of it by name."""
    what: Literal["main", "batch", "peers", "ablation", "deferral", "growth", "all", "none"] = "main"
    """What to measure; 'none' only reads what --json holds, for --write and --compare."""
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """For --what batch."""
    cores: tuple[int, ...] = headline.core_counts()
    """For --what batch."""
    repeats: int = 5
    """Turns of each case, alternating; a turn lasts half a second or one step."""
    quick: bool = False
    """Batch 8, 2 turns, without the main job's own configuration: whether it all works, and about how fast."""
    json: Path | None = None
    """Where to save the figures; sections that the file holds and that aren't measured now are kept."""
    compare: Path | None = None
    """A saved run to set this one against; exits with 1 below the minimum ratio."""
    minimum_ratio: float = 0.9
    """How much slower than the saved run, or larger, this one may be."""
    profile: Path | None = None
    """Folder for a trace of one training step, for --what main."""
    write: bool = False
    """Renew the tables and plots of benchmarks/README.md from the file of --json."""


def workload(arguments: Throughput) -> Config:
    """The configuration that is measured."""
    return with_batch(arguments.config, 8) if arguments.quick else arguments.config


def require_main(arguments: Throughput, wanted: tuple[str, ...]) -> None:
    """Raises InputError for options that need the section 'main' where it isn't measured; --compare may read a saved one."""
    given = {"--compare": arguments.compare if wanted else None, "--profile": arguments.profile}
    for option, path in given.items():
        if path is not None and "main" not in wanted:
            raise InputError(
                f"{option} with --what {arguments.what}",
                expected="--what main or all" + (", or none to compare what --json holds" if option == "--compare" else ""),
                fix=f"measure 'main', or leave {option} out",
            )


def measure(arguments: Throughput, section: str, console: Console) -> dict:
    """One section, with what it was measured on."""
    config, turns = workload(arguments), 2 if arguments.quick else arguments.repeats

    def tell(line: str) -> None:
        console.print(f"[dim]{line}[/]", highlight=False)

    before = machine.load()
    if section == "main":
        phase_3 = None if arguments.quick else load_config(ROOT / "configs" / "phase3.py")
        found = headline.main(config, phase_3, turns=turns, tell=tell, profile=arguments.profile)
    elif section == "batch":
        found = {"rows": headline.batches(config, arguments.batch_sizes, arguments.cores, turns=turns, tell=tell)}
    else:
        measures = {"peers": versus.peers, "ablation": versus.ablation, "deferral": versus.deferral, "growth": growth.growth}
        found = {"rows": measures[section](config, turns=turns, tell=tell)}
    measured = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "benchmarks/throughput.py", *sys.argv[1:]]),
        "turns": turns,
        "load_average_before": before,
        "load_average_after": machine.load(),
        "machine": machine.description(),
        "config": config.as_dict(),
    }
    top = {name: found.pop(name) for name in compare.HEADLINE if name in found}
    return {**top, section: {**found, "measured": measured}}


def main(arguments: Throughput, console: Console) -> None:
    """Measure, save after every section, show, compare."""
    wanted = SECTIONS if arguments.what == "all" else () if arguments.what == "none" else (arguments.what,)
    require_main(arguments, wanted)
    if "peers" in wanted:
        versus.require_torch()
    saved = arguments.json
    found = compare.read(saved) if saved and (saved.exists() or not wanted) else {}
    old = compare.read(arguments.compare) if arguments.compare else None
    if old is not None:
        compare.require_comparable(workload(arguments).as_dict() if wanted else compare.workload(found), old)
    for section in wanted:
        found |= measure(arguments, section, console)
        if saved:
            saved.parent.mkdir(parents=True, exist_ok=True)
            saved.write_text(json.dumps(found, indent=1) + "\n")
        console.print(report.sections(found)[section], markup=False, highlight=False, soft_wrap=True)
    if arguments.write:
        write(found, console)
    if old is not None:
        console.print(compare.table(found, old, arguments.minimum_ratio))
        if below := compare.too_slow(compare.ratios(found, old), arguments.minimum_ratio):
            console.print(f"below {arguments.minimum_ratio:g}: {', '.join(below)}", highlight=False)
            sys.exit(1)


def write(found: dict, console: Console) -> None:
    """Plots into benchmarks/results, tables into benchmarks/README.md."""
    if not found:
        raise InputError("there is nothing to write", expected="measurements", fix="give --json FILE, or measure with --what")
    page = RESULTS.parent / "README.md"
    page.write_text(report.renew(page.read_text(), found))
    for path in [page, *plots.draw(found, RESULTS)]:
        console.print(f"wrote {path.relative_to(ROOT)}", highlight=False)


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Throughput, description=__doc__), Console())
