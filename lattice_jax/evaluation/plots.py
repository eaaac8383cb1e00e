"""Pictures of a run: the verdict and the way there.

Contract: each function takes the plain values that a run's files hold (`summary.json`, the lines of `metrics.jsonl`) and writes
one PNG, readable at the width of a README. matplotlib is needed for this alone, so it is imported here on use, and figures are
made without pyplot: no window, no global state. Colours are those of Okabe and Ito (2008), told apart by colour-blind eyes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lattice_jax.errors import InputError
from lattice_jax.evaluation.verdict import CONTROLS, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, FAINT = "#24292f", "#6e7781", "#d0d7de"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
BAR, CONTROL_BAR = "#b4bcc6", "#e3e7eb"
LOSSES = {
    "loss": ("weighted sum", INK),
    "surface_reconstruction": ("surface reconstruction", ORANGE),
    "internal_consistency": ("internal consistency", GREEN),
    "dialogue_similarity": ("dialogue similarity", PURPLE),
}
SMOOTHING = 0.05
"""Share of all the logged values that the mean around one of them takes in."""


def plot_verdict(verdict: Mapping, path: Path | str) -> None:
    """Held-out similarity and MRR of the lattice and every baseline as bars with intervals; takes `Verdict.as_dict()`.

    The dashed line is what the adapter alone makes of the right answer.
    """
    rows = {"lattice": verdict["held_out"], **verdict["baselines"]}
    figure = new_figure(width=8.4, height=1.15 + 0.3 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.06})
    for axes, measure, title in (
        (left, "similarity", "Similarity to the right answer"),
        (right, "mrr", "Mean reciprocal rank"),
    ):
        _bars(axes, rows, measure)
        dress(axes, title)
        axes.spines["bottom"].set_visible(False)
        ceiling = verdict["adapter_ceiling"][measure]
        axes.axvline(ceiling, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.set_xticks([ceiling], ["adapter ceiling"])
    left.set_yticks(range(len(rows)), [label(name) for name in rows])
    left.invert_yaxis()
    for text, name in zip(left.get_yticklabels(), rows, strict=True):
        text.set(color=QUIET if name in CONTROLS else INK, fontweight="bold" if name == "lattice" else "normal")
    pairs, confidence = verdict["held_out"]["pairs"], verdict["confidence"]
    figure.supxlabel(f"{pairs} held-out pairs, {confidence:.0%} bootstrap intervals", fontsize=8, color=QUIET)
    figure.savefig(path)


def plot_learning(metrics: Sequence[Mapping], path: Path | str, *, baselines: Mapping[str, float] | None = None) -> None:
    """Losses, and training and validation similarity, against the step.

    Rows are lines of `metrics.jsonl`; a row may hold the losses, a look at validation, or both. `baselines` are similarities of
    other predictors on the same validation pairs (`Baseline.validation_similarity`).
    """
    figure = new_figure(width=8.4, height=3.5)
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.04})
    endings = []
    for name, (text, colour) in LOSSES.items():
        steps, values = series(metrics, name)
        endings += curve(left, steps, values, text, colour, strong=name == "loss")
    left.set_ylim(bottom=0)
    name_endings(left, endings)
    dress(left, "Losses")

    endings = curve(right, *series(metrics, "similarity"), "training batches", ORANGE, strong=False)
    steps, values = series(metrics, "validation_similarity")
    if len(values):
        right.plot(steps, values, color=BLUE, linewidth=2.2, marker="o", markersize=3.5, zorder=4, clip_on=False)
        endings.append((values[-1], "validation", BLUE, True))
    for name, similarity in (baselines or {}).items():
        right.axhline(similarity, color=BAR, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        endings.append((similarity, label(name), QUIET, False))
    name_endings(right, endings)
    dress(right, "Similarity to the right answer")
    left.grid(axis="y", color=FAINT, linewidth=0.6)
    for axes in (left, right):
        axes.margins(x=0)
        axes.set_xlabel("step", color=QUIET, fontsize=8.5)
    figure.savefig(path)


def new_figure(*, width: float, height: float) -> "Figure":
    """An empty figure of that size in inches; InputError where matplotlib isn't installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "matplotlib isn't installed", expected="matplotlib for the plots", fix="pip install -e '.[evaluation]'"
        ) from error
    return Figure(figsize=(width, height), dpi=200, layout="constrained", facecolor="white")


def dress(axes: "Axes", title: str) -> None:
    """The look that all plots of this project share."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=QUIET, labelsize=8.5, length=0)
    axes.set_axisbelow(True)


def _bars(axes: "Axes", rows: Mapping[str, Mapping], measure: str) -> None:
    values = np.array([row[measure] for row in rows.values()])
    bounds = np.array([row[f"{measure}_interval"] for row in rows.values()])
    places = np.arange(len(rows))
    colours = [BLUE if name == "lattice" else CONTROL_BAR if name in CONTROLS else BAR for name in rows]
    axes.barh(places, values, height=0.66, color=colours, zorder=2)
    # Percentile intervals aren't symmetric, and a share near 1 or 0 can lie on its own bound.
    whiskers = np.abs(bounds - values[:, None]).T
    axes.errorbar(values, places, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1, capsize=2, zorder=3)
    for name, place, value in zip(rows, places, values, strict=True):
        text = axes.text(1.17, float(place), f"{value:.3f}", ha="right", va="center_baseline", fontsize=8.5, color=INK)
        text.set_fontweight("bold" if name == "lattice" else "normal")
    axes.set_xlim(min(0, bounds.min()), 1.17)


def series(metrics: Sequence[Mapping], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one figure, from the rows that hold it."""
    rows = [(row["step"], row[name]) for row in metrics if name in row]
    steps, values = zip(*rows, strict=True) if rows else ((), ())
    return np.array(steps), np.array(values, float)


def curve(
    axes: "Axes", steps: np.ndarray, values: np.ndarray, text: str, colour: str, *, strong: bool
) -> list[tuple[float, str, str, bool]]:
    """Draws the logged values faintly and their moving mean over them; returns what to write at its end."""
    if not len(values):
        return []
    window = np.ones(2 * int(SMOOTHING * len(values) / 2) + 1)
    # Near the ends fewer values are there to average: divide by how many took part.
    smooth = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3, zorder=2)
    dot = "o" if len(values) == 1 else None  # a line through one point is none
    axes.plot(steps, smooth, color=colour, linewidth=2.2 if strong else 1.6, marker=dot, markersize=4, zorder=3)
    return [(float(smooth[-1]), text, colour, strong)]


def name_endings(axes: "Axes", endings: Sequence[tuple[float, str, str, bool]]) -> None:
    """Writes each curve's name beside its end (value, name, colour, bold), moved by as little as keeps the names apart."""
    low, high = axes.get_ylim()
    ordered = sorted(endings)
    heights = spread([value for value, *_ in ordered], gap=0.065 * (high - low))
    for height, (value, text, colour, strong) in zip(heights, ordered, strict=True):
        axes.annotate(
            text,
            xy=(1, value),
            xytext=(1.045, height),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            va="center",
            color=colour,
            fontsize=8.5,
            fontweight="bold" if strong else "normal",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart, at the least squared distance from the ascending values (pool adjacent violators)."""
    pools: list[list[float]] = []
    for place, value in enumerate(values):
        pools.append([value - place * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    return [height + place * gap for place, height in enumerate(level)]
