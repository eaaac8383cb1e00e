#!/usr/bin/env python3
"""What the historical claim, 38.5 % -> 89.81 %, measured: python benchmarks/historical_claim.py [--seeds 0 1 2] [--steps 100]

Trains the same cube on the same ten pairs with targets behind a trained projection, behind a random one, and in the teacher's
space, each with the right answers and with others', beside constant predictions. Writes benchmarks/historical_claim.md, its
plots and benchmarks/results/historical_claim.json.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bin")]

import launcher  # noqa: E402

launcher.prepare()

import json  # noqa: E402
import shlex  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402

import numpy as np  # noqa: E402
import tyro  # noqa: E402

from benchmarks.historical import page  # noqa: E402
from benchmarks.historical.arms import Arm, Settings, make_trainer, train_arm  # noqa: E402
from benchmarks.historical.spaces import historical_space, teacher_space  # noqa: E402
from lattice_jax import experiment  # noqa: E402
from lattice_jax.commandline import clear_errors, load_config  # noqa: E402
from lattice_jax.evaluation.similarity import cosine_similarity  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Claim:
    """Arguments of benchmarks/historical_claim.py."""

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 100
    """Training steps of every arm, whole batches of the ten pairs."""


def study(arguments: Claim) -> dict[str, dict]:
    """Arm's name to its seeds' curves and last figures."""
    material = experiment.gather(load_config(ROOT / "configs" / "ten_pairs.py"))
    train, held_out, text = material.pairs("train"), material.pairs("held_out"), np.asarray(material.sentences)
    settings = replace(Settings(), steps=arguments.steps)
    dimension, code = text.shape[1], settings.lattice.grid.height * settings.lattice.grid.width
    spaces = {
        "trained projection": historical_space(dimension, code, learns=True),
        "random projection": historical_space(dimension, code, learns=False),
        "teacher's space": teacher_space(text, code),
    }
    found = {}
    for name, space in spaces.items():
        trainer = make_trainer(Arm(name, space), settings)
        for arm in (Arm(name, space), Arm(f"{name}, others' answers", space, shuffled=True)):
            runs = [train_arm(arm, trainer, train, held_out, settings, seed=seed)._asdict() for seed in arguments.seeds]
            found[arm.name] = {"shuffled": arm.shuffled, "seeds": runs}
            print(
                f"{arm.name}: {page.start(found[arm.name]):.3f} -> {page.mean(found[arm.name], 'similarity'):.3f}", flush=True
            )
    return found


def raw_similarity() -> float:
    """Mean cosine of the ten questions' and answers' own embeddings, which needs no network."""
    train = experiment.gather(load_config(ROOT / "configs" / "ten_pairs.py")).pairs("train")
    return float(np.mean(cosine_similarity(*train)))


def main(arguments: Claim) -> None:
    found, command = study(arguments), shlex.join(["python", "benchmarks/historical_claim.py", *sys.argv[1:]])
    (RESULTS / "historical_claim.json").write_text(json.dumps({"command": command, "arms": found}, indent=1) + "\n")
    plots = ("results/historical_curves.png", "results/historical_arms.png")
    page.plot_curves(found, RESULTS.parent / plots[0])
    page.plot_arms(found, RESULTS.parent / plots[1])
    honest, ten = (json.loads((RESULTS / name).read_text()) for name in ("phase3.json", "ten_pairs.json"))
    (RESULTS.parent / "historical_claim.md").write_text(page.markdown(found, raw_similarity(), honest, ten, plots, command))


with clear_errors():
    main(tyro.cli(Claim, description=__doc__))
