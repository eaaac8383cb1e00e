#!/usr/bin/env python3
"""The historical claim, 38.5 % -> 89.81 % on ten pairs, repeated as it was computed and measured as it should have been.

    python benchmarks/historical_claim.py --write

Trains one small cube on the ten pairs in five spaces, with the right answers and with shuffled ones, once a seed, and prints
the page. With --write it renews benchmarks/historical_claim.md, benchmarks/results/historical_claim.json and the plots beside
it; --redraw does so from the figures of the last run.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bin")]

import launcher  # noqa: E402

launcher.prepare()

import dataclasses  # noqa: E402
import json  # noqa: E402
import shlex  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import numpy as np  # noqa: E402
import tyro  # noqa: E402

from benchmarks.historical import page, plots  # noqa: E402
from benchmarks.historical.arms import Arm, Settings, make_trainer, train_arm  # noqa: E402
from benchmarks.historical.levels import raw_levels, stack_levels  # noqa: E402
from benchmarks.historical.spaces import historical_space, random_layers, teacher_space  # noqa: E402
from benchmarks.measure import machine  # noqa: E402
from lattice_jax.commandline import clear_errors, load_config  # noqa: E402
from lattice_jax.config import TeacherConfig  # noqa: E402
from lattice_jax.errors import InputError  # noqa: E402
from lattice_jax.material import Material, gather  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
FIGURES = RESULTS / "historical_claim.json"
CODE = 225
STACK_SEEDS = 20


@dataclass(frozen=True)
class HistoricalClaim:
    """Arguments of benchmarks/historical_claim.py."""

    config: Path = ROOT / "configs" / "ten_pairs.py"
    """Where the pairs and the teacher are taken from."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """At least two."""
    steps: int = Settings.steps
    """Training steps of every arm."""
    write: bool = False
    """Write the page, its plots and its figures."""
    redraw: bool = False
    """Train nothing; write the page and its plots again from the figures of the last run, and the project's own of today."""


def all_arms(material: Material) -> list[Arm]:
    """Every space with the right answers and with shuffled ones."""
    teacher = material.questions.shape[1]
    text = np.concatenate([*material.pairs("train"), material.sentences])
    spaces = {
        f"{kind}_{state}": historical_space(teacher, CODE, target=kind, learns=state == "trained")
        for kind in ("shared", "own")
        for state in ("trained", "random")
    } | {"teacher": teacher_space(text, CODE)}
    return [Arm(name, space, wrong) for name, space in spaces.items() for wrong in (False, True)]


def train(arm: Arm, material: Material, settings: Settings, seeds: tuple[int, ...]) -> dict:
    """All seeds of one arm, as plain values."""
    begun, trainer = time.perf_counter(), make_trainer(arm, settings)
    sides = material.pairs("train"), material.pairs("held_out")
    runs = [train_arm(arm, trainer, *sides, settings, seed=seed)._asdict() for seed in seeds]
    seconds = time.perf_counter() - begun
    similarity = np.mean([run["final"]["similarity"] for run in runs])
    print(f"{arm.name}{', shuffled answers' * arm.shuffled}: {similarity:.3f} after {seconds:.0f} s", flush=True)
    return {"space": arm.name, "shuffled": arm.shuffled, "seconds": seconds, "runs": runs}


def levels(arguments: HistoricalClaim, material: Material) -> dict:
    """What needs no training: raw similarities in two teachers' spaces, and the constant's level behind random layers."""
    config = load_config(arguments.config)
    small = dataclasses.replace(
        config,
        teacher=TeacherConfig(name="minilm", cache_directory=config.teacher.cache_directory),
        corpus=dataclasses.replace(config.corpus, sentences="none"),
    )
    train, teacher = material.pairs("train"), material.questions.shape[1]
    return {
        "raw": {"mpnet": raw_levels(train), "minilm": raw_levels(gather(small).pairs("train"))},
        "stacks": [stack_levels(random_layers(teacher, CODE, count), train.answers, range(STACK_SEEDS)) for count in (1, 2, 3)],
    }


def study(arguments: HistoricalClaim) -> dict:
    """Everything that the page is made of, as plain values."""
    begun, settings = time.perf_counter(), Settings(steps=arguments.steps)
    material = gather(load_config(arguments.config))
    return {
        "command": shlex.join(["python", "benchmarks/historical_claim.py", *sys.argv[1:]]),
        "settings": dataclasses.asdict(settings),
        "seeds": arguments.seeds,
        "pairs": {side: len(material.pairs(side).questions) for side in ("train", "held_out")},
        "levels": levels(arguments, material),
        "arms": [train(arm, material, settings, arguments.seeds) for arm in all_arms(material)],
        "machine": machine.description(),
        "seconds": time.perf_counter() - begun,
    }


with clear_errors():
    arguments = tyro.cli(HistoricalClaim, args=sys.argv[1:], description=__doc__)
    if len(arguments.seeds) < 2:
        raise InputError(f"{len(arguments.seeds)} seed", expected="at least 2, for a deviation", fix="give --seeds more")
    report = json.loads(FIGURES.read_text()) if arguments.redraw else study(arguments)
    measured = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("phase3", "ten_pairs")}
    text = page.markdown(report, measured)
    print(text)
    if arguments.write or arguments.redraw:
        FIGURES.write_text(json.dumps(report, indent=1) + "\n")
        (ROOT / "benchmarks" / "historical_claim.md").write_text(text)
        plots.draw(report, RESULTS)
