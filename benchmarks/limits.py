#!/usr/bin/env python3
"""What limits the cube: python benchmarks/limits.py [--only NAME ...] [--write]

Data, curriculum, capacity, bottleneck, reach, optimisation, what stands in the cube's place, noise, objective and what is added
once the cube has learned, each with an experiment of its own, on 'hundred' with MPNet, on English chatterbot and on 20,000
words of WordNet with MiniLM. Held-out pairs play no part. With --write the tables of the experiments that ran are renewed in
benchmarks/results/limits.json and limits.md, each as soon as it is complete. About four hours on two cores, each experiment 1
to 60 minutes; WordNet needs Debian's wordnet-base, chatterbot the extra 'corpora'.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bin")]

import launcher  # noqa: E402

launcher.prepare()

import json  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import cache, partial  # noqa: E402
from itertools import product  # noqa: E402

import tyro  # noqa: E402

from benchmarks.limit.corpus import Corpus  # noqa: E402
from benchmarks.limit.experiments import (  # noqa: E402
    Cube,
    Row,
    Several,
    Shares,
    after_learning,
    beside,
    bottleneck,
    capacity,
    curriculum,
    data,
    noise,
    objective,
    optimisation,
    place,
    reach,
)
from benchmarks.limit.learners import train_mapped_cube  # noqa: E402
from benchmarks.measure import machine  # noqa: E402
from benchmarks.measure.report import markdown_table  # noqa: E402
from lattice_jax import adaptation  # noqa: E402
from lattice_jax.commandline import clear_errors, load_config, use_devices  # noqa: E402
from lattice_jax.config.learning import ADDED_AFTERWARDS  # noqa: E402
from lattice_jax.config.overrides import with_settings  # noqa: E402
from lattice_jax.errors import InputError  # noqa: E402
from lattice_jax.evaluation.names import spelled  # noqa: E402
from lattice_jax.material import gather  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Limits:
    """Arguments of benchmarks/limits.py."""

    only: tuple[str, ...] = ()
    """Names of experiments; all of them by default."""
    write: bool = False
    """Renew benchmarks/results/limits.json and limits.md."""


@cache
def corpus(name: str, steps: int, look: int) -> Corpus:
    """The texts, embedded, with a fresh adapter; trained for so many steps unless an experiment says otherwise."""
    configs = {
        "main job": "phase3.py",
        "hundred": "around_ridge.py",
        "hundred around a kernel": "around_kernel.py",
        "chatterbot": "chatterbot.py",
        "wordnet": "wordnet.py",
        "large cells": "large_cells.py",
        "large cells of chatterbot": "large_cells_chatterbot.py",
    }
    whole = use_devices(load_config(ROOT / "configs" / configs[name]))
    # What is added to a cube's answers would hide how the cube itself does.
    bare = {f"answer.{name}": 0.0 for name in ADDED_AFTERWARDS}
    config = with_settings(whole, {"training.steps": steps, "training.evaluate_every": look, **bare})
    material = gather(config)
    with tempfile.TemporaryDirectory() as workdir:
        # Every experiment lays out the faces itself, by the pairs that it learns from.
        plain = with_settings(config, {"adapter.layout": "principal"})
        return Corpus(name, config, material, adaptation.fit_adapter(plain, material, Path(workdir)))


main_job = partial(corpus, "main job", 120, 20)
hundred_kernel = partial(corpus, "hundred around a kernel", 20, 5)
hundred, wordnet = partial(corpus, "hundred", 20, 5), partial(corpus, "wordnet", 1200, 200)
chatterbot, large_cells = partial(corpus, "chatterbot", 120, 20), partial(corpus, "large cells", 1200, 200)
chatterbot_cells = partial(corpus, "large cells of chatterbot", 160, 20)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
SMALL_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
CUBE = {"cube": Cube()}
MAPPED = CUBE | {"cube, maps learned at its faces": Cube(learn=train_mapped_cube)}
FEWER_CELLS = CUBE | {
    "cube, face of 5 x 5 cells": Cube(
        {
            "lattice.grid.height": 5,
            "lattice.grid.width": 5,
            "lattice.surface_channels": 9,
            "lattice.cell.visible": 32,
            "lattice.cell.memory": 32,
            "lattice.cell.parameter_budget": 22_680,
        }
    ),
    "cube, face of 3 x 3 cells": Cube(
        {
            "lattice.grid.height": 3,
            "lattice.grid.width": 3,
            "lattice.surface_channels": 25,
            "lattice.cell.visible": 64,
            "lattice.cell.memory": 64,
            "lattice.cell.parameter_budget": 63_000,
        }
    ),
}
"""The face's 225 numbers on fewer and larger cells, with about as many parameters in all as WordNet's cube."""
NETWORKS = {"one network": Several(1), "one network a row": Several(15), "one network a number": Several(225)}
WIDE = {"one network a row, each as large as the one": Several(15, size=15)}
NOISY_QUESTION = {"answer.around": "question", "training.question_noise": 0.5}


def place_chatterbot() -> Iterator[Row]:
    """Around the regression, as configured, and around the question itself, where the whole map is learned."""
    divisions = chatterbot().divided(3, 100, 100)
    for settings in ({}, NOISY_QUESTION):
        yield from place(chatterbot(), settings, divisions, CUBE, NETWORKS)
    yield from beside(chatterbot(), divisions)


def place_wordnet() -> Iterator[Row]:
    """Beside networks, cubes of which every cell makes more numbers, and networks that are none the narrower for being many."""
    divisions = wordnet().divided(1, 400, 400)
    yield from place(wordnet(), {}, divisions, FEWER_CELLS, NETWORKS | WIDE)
    yield from beside(wordnet(), divisions)


def place_large_cells() -> Iterator[Row]:
    """Beside networks with the same settings; pairs are divided as for `place_wordnet`, whose baselines these are, too."""
    networks = {"one network": Several(1), "one network for the 25 numbers of a cell": Several(9)}
    cosine_alone = {"loss.contrastive": 0.0}
    yield from place(large_cells(), cosine_alone, large_cells().divided(1, 400, 400), CUBE, networks, rates=(1e-3, 3e-3))


def maps_chatterbot() -> Iterator[Row]:
    """Around the question, where cells of principal faces lack reach, too; at one learning rate."""
    divisions = chatterbot().divided(3, 100, 100)
    yield from place(chatterbot(), NOISY_QUESTION, divisions, MAPPED, {}, rates=(1e-3,))
    yield from beside(chatterbot(), divisions)


def maps_wordnet() -> Iterator[Row]:
    """As configured."""
    divisions = wordnet().divided(1, 400, 400)
    yield from place(wordnet(), {}, divisions, MAPPED, {}, rates=(1e-3, 3e-3))
    yield from beside(wordnet(), divisions)


def shares(questions: tuple[float, ...], regressions: tuple[float, ...], means: tuple[float, ...]) -> list[Shares]:
    """All combinations."""
    return [Shares(question, regression, mean) for regression, mean, question in product(regressions, means, questions)]


def shares_around(pairs: Corpus) -> Iterator[Row]:
    """Around a regression, which therefore isn't added once more."""
    yield from after_learning(pairs, pairs.sides(), shares((0.0, 0.06, 0.1, 0.2), (0.0,), (0.0, 0.1, 0.2)))


def shares_chatterbot() -> Iterator[Row]:
    """Large cells around the question."""
    grid = shares((0.0, 0.4, 0.8, 1.2), (0.0, 4.0, 6.0, 8.0), (0.0, 0.4))
    yield from after_learning(chatterbot_cells(), chatterbot_cells().divided(3, 100, 100), grid)


def shares_wordnet() -> Iterator[Row]:
    """Large cells."""
    grid = shares((0.0, 0.2, 0.4, 0.8), (0.0, 2.0, 4.0, 6.0), (0.0, 0.4))
    yield from after_learning(large_cells(), large_cells().divided(1, 400, 400), grid)


EXPERIMENTS: dict[str, tuple[str, Callable[[], Iterator[Row]]]] = {
    "bottleneck-hundred": ("Regressions and MLPs through the code, 'hundred'", lambda: bottleneck(hundred())),
    "bottleneck-chatterbot": ("Regressions and MLPs through the code, chatterbot", lambda: bottleneck(chatterbot())),
    "bottleneck-wordnet": ("Regressions and MLPs through the code, WordNet", lambda: bottleneck(wordnet())),
    "reach-hundred": ("A linear map with a window, 'hundred'", lambda: reach(hundred(), (0, 1, 2, 4, 7, 14))),
    "reach-wordnet": ("A linear map with a window, WordNet", lambda: reach(wordnet(), (0, 1, 2, 4, 7, 14))),
    "data-hundred": ("Number of pairs, 'hundred'", lambda: data(hundred(), (17, 34, 68))),
    "data-chatterbot": ("Number of pairs, chatterbot", lambda: data(chatterbot(), (180, 360, 715))),
    "data-wordnet": ("Number of pairs, WordNet", lambda: data(wordnet(), (300, 3000, 20_000))),
    "curriculum-chatterbot": (
        "Pairs of WordNet lent to the regression, chatterbot",
        lambda: curriculum(chatterbot(), wordnet(), (0.0, 0.001, 0.01, 0.03, 0.1)),
    ),
    "optimisation-hundred": ("A map that the cube can be, 'hundred'", lambda: optimisation(main_job())),
    "optimisation-chatterbot": ("A map that the cube can be, chatterbot", lambda: optimisation(chatterbot_cells())),
    "optimisation-wordnet": ("A map that the cube can be, WordNet", lambda: optimisation(corpus("wordnet", 300, 50))),
    "place-chatterbot": ("Networks in the cube's place, chatterbot", place_chatterbot),
    "place-wordnet": ("Networks in the cube's place, WordNet", place_wordnet),
    "place-large-cells": ("Networks in the place of a cube of few, large cells, WordNet", place_large_cells),
    "maps-chatterbot": ("Maps learned at the cube's faces, chatterbot", maps_chatterbot),
    "maps-wordnet": ("Maps learned at the cube's faces, WordNet", maps_wordnet),
    "capacity-hundred": ("Hidden width, 'hundred'", lambda: capacity(hundred(), (16, 64, 128))),
    "capacity-chatterbot": ("Hidden width, chatterbot", lambda: capacity(chatterbot(), (8, 32, 128))),
    "capacity-wordnet": ("Hidden width, WordNet", lambda: capacity(wordnet(), (8, 16, 64))),
    "noise-chatterbot": ("Noise on the questions, chatterbot", lambda: noise(chatterbot(), (0.0, 0.25, 0.5))),
    "noise-wordnet": ("Noise on the questions, WordNet", lambda: noise(wordnet(), (0.0, 0.25, 0.5, 1.0))),
    "objective-hundred": ("Similarity and rank, 'hundred'", lambda: objective(hundred(), SHARES, (0.03, 0.1, 0.3))),
    "objective-chatterbot": ("Similarity and rank, chatterbot", lambda: objective(chatterbot(), SHARES, (0.03, 0.1))),
    "objective-wordnet": ("Similarity and rank, WordNet", lambda: objective(wordnet(), SMALL_SHARES, (0.01, 0.03))),
    "shares-hundred": ("Shares added once the cube has learned, 'hundred'", lambda: shares_around(hundred())),
    "shares-hundred-kernel": (
        "Shares added once a cube around a kernel regression has learned, 'hundred'",
        lambda: shares_around(hundred_kernel()),
    ),
    "shares-chatterbot": ("Shares added once the cube has learned, chatterbot", shares_chatterbot),
    "shares-wordnet": ("Shares added once the cube has learned, WordNet", shares_wordnet),
}


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown; numbers of one kind alike."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def told(value: float | str | None) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        return f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if value == 0 or abs(value) > 1 else f"{value:.4f}"

    return markdown_table([spelled(name) for name in names], [[told(row.get(name)) for name in names] for row in rows])


def page(found: dict[str, dict]) -> str:
    """The page `limits.md`."""
    lines = [
        "# What limits the cube",
        "",
        "`python benchmarks/limits.py --write`. Similarity to answers that neither cube nor baseline learned from or was",
        "chosen by on 'hundred' (means of three divisions of the 104 pairs that are not held out: 68 to learn from, 12 to",
        "choose by, 24 to judge on); on chatterbot and WordNet the 100 and 400 validation pairs both choose and judge, but",
        "for what stands in the cube's place, maps at its faces and shares: there the known pairs are divided anew, on",
        "chatterbot three times (615, 100 and 100), on WordNet once (18,200, 400 and 400). Shares added once the cube has",
        "learned are judged on all pairs of a division that nothing learned from, those that chose its best look among them.",
        "",
        "*cube*: at its best look. It is that of `configs/around_ridge.py` for 20 steps on 'hundred', of",
        "`configs/chatterbot.py` for 120 on chatterbot and of `configs/wordnet.py` for 1,200 on WordNet, with nothing added",
        "to its answers. Others are that around a kernel regression (`around_kernel.py`), those of large cells",
        "(`large_cells.py`, `large_cells_chatterbot.py`), and where a map is learned that the cube can be the main job's on",
        "'hundred' and large cells on chatterbot.",
    ]
    for one in found.values():
        lines += ["", f"## {one['title']}", "", table(one["rows"])]
    return "\n".join([*lines, ""])


def main(arguments: Limits) -> None:
    """Run, show and save one experiment after the other."""
    if unknown := set(arguments.only) - set(EXPERIMENTS):
        raise InputError(f"no experiment is called {sorted(unknown)}", expected=", ".join(EXPERIMENTS), fix="correct --only")
    saved = RESULTS / "limits.json"
    known = json.loads(saved.read_text())["experiments"] if saved.exists() else {}
    for name, (title, run) in EXPERIMENTS.items():
        if arguments.only and name not in arguments.only:
            continue
        began, rows = time.perf_counter(), []
        for row in run():
            rows.append(row)
            print(name, row, flush=True)
        seconds = time.perf_counter() - began
        known[name] = {"title": title, "rows": rows, "seconds": seconds, "machine": machine.description()}
        ordered = {one: known[one] for one in EXPERIMENTS if one in known}
        if arguments.write:
            saved.write_text(json.dumps({"experiments": ordered}, indent=1) + "\n")
            (RESULTS / "limits.md").write_text(page(ordered))
        print(page({name: known[name]}))


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Limits, description=__doc__))
