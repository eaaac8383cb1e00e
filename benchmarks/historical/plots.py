"""Plots of the study, in the colours of the package's own.

Contract: the plain values of benchmarks/historical_claim.py in, PNG files out, readable at the width of a README.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.historical.levels import constant_level
from benchmarks.historical.page import CLAIM_AFTER, values
from lattice_jax.evaluation.plots import BAR, BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, QUIET, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "shared_trained": "question's layers,\ntrained",
    "shared_random": "question's layers,\nas drawn",
    "own_trained": "own Linear,\ntrained",
    "own_random": "own Linear,\nas drawn",
    "teacher": "teacher's space,\nfrozen",
}
DASHES = (0, (4, 3))


def draw(report: Mapping, folder: Path) -> list[Path]:
    """All plots, into `folder`."""
    plots = {"learning": plot_learning, "arms": plot_arms, "levels": plot_levels}
    written = []
    for name, plot in plots.items():
        written.append(folder / f"historical_{name}.png")
        plot(report, written[-1])
    return written


def plot_learning(report: Mapping, path: Path) -> None:
    """Training similarity of every space over the steps, with the constant predictor's level: means and ranges of the seeds."""
    figure = new_figure(width=10.4, height=3.3)
    panels = figure.subplots(1, len(TITLES), sharey=True, gridspec_kw={"wspace": 0.06})
    lines = (
        ("similarity", False, BLUE, "-", 2.4, "right answers"),
        ("similarity", True, ORANGE, (0, (3, 1)), 1.5, "shuffled answers, against themselves"),
        ("constant", False, INK, DASHES, 1.2, "best constant"),
    )
    handles = []
    for axes, (space, title) in zip(panels, TITLES.items(), strict=True):
        for name, shuffled, colour, style, width, text in lines:
            steps, curves = _curves(report, space, name, shuffled)
            axes.fill_between(steps, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0)
            (line,) = axes.plot(steps, curves.mean(0), color=colour, linestyle=style, linewidth=width, label=text)
            if axes is panels[0]:
                handles.append(line)
        dress(axes, title)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.margins(x=0)
        last = report["settings"]["steps"]
        axes.set_xticks([0, last // 3, 2 * last // 3])
        axes.set_xlabel("training step", color=QUIET, fontsize=8.5)
    panels[0].set_ylabel("similarity on the ten pairs", color=QUIET, fontsize=8.5)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    figure.savefig(path)


def _curves(report: Mapping, space: str, name: str, shuffled: bool) -> tuple[np.ndarray, np.ndarray]:
    arm = next(one for one in report["arms"] if one["space"] == space and one["shuffled"] == shuffled)
    curves = np.array([[row[name] for row in run["curve"]] for run in arm["runs"]])
    return np.array([row["step"] for row in arm["runs"][0]["curve"]]), curves


def plot_arms(report: Mapping, path: Path) -> None:
    """Every space: the trained cube, one that learned wrong answers, both against the right ones, and the constant."""
    figure = new_figure(width=10.4, height=3.8)
    axes = figure.subplots()
    bars = (
        ("similarity", False, BLUE, "learned the right answers"),
        ("similarity_to_right_answers", True, ORANGE, "learned shuffled answers, against the right ones"),
        ("constant", False, BAR, "best constant"),
    )
    places, width = np.arange(len(TITLES)), 0.27
    for offset, (name, shuffled, colour, text) in enumerate(bars):
        found = np.array([values(report, space, name, shuffled=shuffled) for space in TITLES])
        means, at = found.mean(1), places + (offset - 1) * width
        axes.bar(at, means, width=width * 0.94, color=colour, label=text, zorder=2)
        axes.errorbar(at, means, yerr=found.std(1, ddof=1), fmt="none", ecolor=INK, elinewidth=1, zorder=3)
        for place, mean, deviation in zip(at, means, found.std(1, ddof=1), strict=True):
            axes.annotate(
                f"{mean:.3f}",
                (place, max(mean, 0) + deviation),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                zorder=5,
            )
    axes.set_xlim(-0.55, len(TITLES) - 0.05)
    _claim(axes, right=True)
    dress(axes, "Similarity to the right answers on the ten training pairs, by what the answers go through")
    axes.set_xticks(places, list(TITLES.values()))
    axes.set_ylim(0, 1.08)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    figure.savefig(path)


def plot_levels(report: Mapping, path: Path) -> None:
    """The constant's level over the mean cosine of two answers: the closed form, and what was measured."""
    figure = new_figure(width=8.4, height=4.0)
    axes = figure.subplots()
    cosines = np.linspace(0, 1, 201)
    axes.plot(cosines, constant_level(cosines, report["pairs"]["train"]), color=QUIET, linewidth=1.2, zorder=1)
    raw, stacks = report["levels"]["raw"], report["levels"]["stacks"]
    groups = [
        ("MiniLM's own space", [raw["minilm"]["pairwise"]], [raw["minilm"]["constant"]], INK, "^"),
        ("MPNet's own space", [raw["mpnet"]["pairwise"]], [raw["mpnet"]["constant"]], INK, "o"),
        *(
            (f"{count} random layer{'s' * (count > 1)}", found["pairwise"], found["constant"], colour, "o")
            for count, (found, colour) in enumerate(zip(stacks, (GREEN, BLUE, PURPLE), strict=True), 1)
        ),
        *(
            (text, values(report, space, "pairwise"), values(report, space, "constant"), ORANGE, marker)
            for space, text, marker in (
                ("own_trained", "one Linear, trained with the cube", "s"),
                ("shared_trained", "three layers, trained with the cube", "D"),
            )
        ),
    ]
    for text, across, up, colour, marker in groups:
        axes.scatter(across, up, color=colour, marker=marker, s=26, alpha=0.75, linewidth=0, label=text, zorder=3)
    _claim(axes)
    dress(axes, f"What one constant answer scores over {report['pairs']['train']} answers")
    axes.set_xlabel("mean cosine of two different answers", color=QUIET, fontsize=8.5)
    axes.set_ylabel("similarity of the best constant", color=QUIET, fontsize=8.5)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0.27, 1.03)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.legend(edgecolor="none", facecolor="white", framealpha=1, fontsize=8.5, labelcolor=INK, loc="lower right")
    figure.savefig(path)


def _claim(axes: "Axes", *, right: bool = False) -> None:
    """The reported figure as a line across, named at its left or right end."""
    axes.axhline(CLAIM_AFTER, color=INK, linewidth=1, linestyle=DASHES, zorder=4)
    axes.annotate(
        "claimed:\n89.81 %" if right else "claimed: 89.81 %",
        (0.998 if right else 0.004, CLAIM_AFTER),
        (0, -4 if right else 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if right else "bottom",
        fontsize=8.5,
        color=INK,
    )
