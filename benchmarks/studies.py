#!/usr/bin/env python3
"""What each part of the design is worth: python benchmarks/studies.py [--only NAME ...] [--seeds 0 1 2] [--workdir DIR]

Every arm is the main job with a few settings changed, trained once a seed. Run again, it goes on where it was. Arms are
compared by the validation pairs; figures on held-out pairs are shown when every arm has ended, and decide nothing.
Writes benchmarks/results/studies.json and studies.md with --write; --render writes the page anew from the former.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bin")]

import launcher  # noqa: E402

launcher.prepare()

import json  # noqa: E402
import shlex  # noqa: E402
import shutil  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402

import tyro  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.study.arms import ARMS, REFERENCE, Arm, arm_config  # noqa: E402
from benchmarks.study.table import gather, markdown  # noqa: E402
from lattice_jax import ensemble  # noqa: E402
from lattice_jax.commandline import OF_THE_MACHINE, clear_errors, load_config, require_recorded  # noqa: E402
from lattice_jax.config import Config  # noqa: E402
from lattice_jax.config.overrides import with_settings  # noqa: E402
from lattice_jax.errors import InputError  # noqa: E402
from lattice_jax.records import read_record  # noqa: E402
from lattice_jax.run import SUMMARY  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Studies:
    """Arguments of benchmarks/studies.py."""

    config: Path = ROOT / "configs" / "phase3.py"
    """What every arm changes."""
    only: tuple[str, ...] = ()
    """Names of studies or arms; by default all of them. The reference is always among them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """At least two."""
    steps: int = 0
    """Training steps of every arm instead of the configuration's own, for a quick look."""
    workdir: Path = Path("runs/studies")
    """Where the runs lie; what has ended there is not repeated."""
    keep_parameters: bool = False
    """Keep every run's parameters (a gigabyte each at full size), not only its figures."""
    write: bool = False
    """Write benchmarks/results/studies.json and studies.md."""
    render: bool = False
    """Write studies.md anew from studies.json; nothing is trained."""


def chosen(only: tuple[str, ...]) -> list[Arm]:
    """The arms that are asked for, the reference first."""
    known = {REFERENCE.name} | {arm.name for arm in ARMS} | {arm.study for arm in ARMS}
    if unknown := set(only) - known:
        raise InputError(
            f"no study or arm is called {sorted(unknown)}", expected=", ".join(sorted(known)), fix="correct --only"
        )
    return [REFERENCE, *(arm for arm in ARMS if not only or {arm.name, arm.study} & set(only))]


def train(arm: Arm, config: Config, arguments: Studies, console: Console) -> dict:
    """All seeds of one arm; those that ended stay as they are."""
    folder = arguments.workdir / arm.name
    if not (folder / ensemble.FILE).exists():
        found = ensemble.train_seeds(config, folder, seeds=arguments.seeds, resume=True, console=Console(quiet=True))
    else:
        found = json.loads((folder / ensemble.FILE).read_text())
        require_same(folder, config, arguments.seeds, found)
    if not arguments.keep_parameters:
        for parameters in folder.glob("seed-*/checkpoints"):
            shutil.rmtree(parameters)
    validation = found["spread"]["validation"]
    console.print(
        f"{arm.study}, {arm.name}: validation similarity {validation['similarity']['mean']:.4f} "
        f"± {validation['similarity']['deviation']:.4f}, MRR {validation['mrr']['mean']:.3f}",
        highlight=False,
    )
    return found


def render() -> None:
    """The page of the figures that were written."""
    stored = read_record(RESULTS / "studies.json", {"command": str, "arms": list}, expected="figures of the studies")
    (RESULTS / "studies.md").write_text(markdown(stored["arms"], stored["command"]))


def require_same(folder: Path, config: Config, seeds: tuple[int, ...], found: dict) -> None:
    """Refuse an arm that was trained otherwise than it is now described."""
    then = [member["seed"] for member in found["members"]]
    if then != list(seeds):
        raise InputError(f"{folder} has seeds {then}", expected=f"{list(seeds)}", fix="take another --workdir")
    for seed in seeds:
        require_recorded(replace(config, seed=seed), folder / f"seed-{seed}", but=OF_THE_MACHINE)


with clear_errors():
    arguments = tyro.cli(Studies, args=sys.argv[1:], description=__doc__)
    if arguments.render:
        render()
        sys.exit()
    console, base = Console(), load_config(arguments.config)
    if arguments.steps:
        base = with_settings(base, {"training.steps": arguments.steps})
    arms = chosen(arguments.only)
    configs = {arm.name: arm_config(base, arm) for arm in arms}
    found = {arm.name: train(arm, configs[arm.name], arguments, console) for arm in arms}
    summaries = {
        arm.name: [json.loads(file.read_text()) for file in sorted((arguments.workdir / arm.name).glob(f"seed-*/{SUMMARY}"))]
        for arm in arms
    }
    rows = gather(arms, found, summaries)
    command = shlex.join(["python", "benchmarks/studies.py", *sys.argv[1:]])
    page = markdown(rows, command)
    console.print(page, highlight=False, markup=False, soft_wrap=True)
    if arguments.write:
        (RESULTS / "studies.json").write_text(json.dumps({"command": command, "arms": rows}, indent=2) + "\n")
        (RESULTS / "studies.md").write_text(page)
