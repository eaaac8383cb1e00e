"""Plots of a report, in the colours of the package's own.

Contract: each function takes a section's plain rows and writes one PNG, readable at the width of a README.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lattice_jax.evaluation.plots import BAR, BLUE, FAINT, GREEN, INK, ORANGE, QUIET, dress, new_figure

from .report import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _dress(axes: "Axes", title: str, label: str) -> None:
    dress(axes, title)
    axes.set_xlabel(label, color=QUIET, fontsize=8.5)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(which="minor", colors=QUIET, labelsize=8.5, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)


def plot_batches(rows: Mapping[str, list], path: Path) -> None:
    """Training and forward samples/s over batch sizes, a line for each number of cores."""
    figure = new_figure(width=8.4, height=3.4)
    titles = {"training": "Trained samples a second", "forward": "Forward samples a second"}
    for axes, (kind, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        counts = sorted({row["cores"] for row in rows[kind]})
        for count, colour in zip(reversed(counts), (BLUE, ORANGE, GREEN, *[QUIET] * len(counts)), strict=False):
            line = [row for row in rows[kind] if row["cores"] == count]
            sizes, rates = [row["batch"] for row in line], [row["samples_per_second"] for row in line]
            low, high = np.transpose([row["samples_per_second_quartiles"] for row in line])
            axes.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(sizes, rates, color=colour, marker="o", markersize=3.5, label=f"{count} core{'s' * (count > 1)}")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(bottom=0)
        _dress(axes, title, "batch size")
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    figure.savefig(path)


def plot_peers(rows: Mapping[str, Mapping], path: Path) -> None:
    """Trained samples/s of this lattice and of its peers as bars; the figures say how many times slower a peer is."""
    figure = new_figure(width=8.4, height=0.9 + 0.34 * len(rows))
    axes = figure.subplots()
    ordered = sorted(rows.items(), key=lambda item: item[1]["samples_per_second"])
    rates = [row["samples_per_second"] for _, row in ordered]
    axes.barh(range(len(rates)), rates, height=0.66, color=[BLUE if row["ratio"] == 1 else BAR for _, row in ordered])
    for place, (_, row) in enumerate(ordered):
        slower = "" if row["ratio"] == 1 else f"   {number(1 / row['ratio'])} times slower"
        text = f"{number(row['samples_per_second'])}{slower}"
        axes.annotate(text, (row["samples_per_second"], place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(rates)), [name for name, _ in ordered])
    batch = max(row["batch"] for row in rows.values())
    _dress(axes, "Trained samples a second, same mathematics", f"batch {batch}")
    axes.grid(visible=False)
    axes.margins(x=0.3)
    axes.set_xticks([])
    figure.savefig(path)


def plot_growth(rows: Mapping[str, Mapping], path: Path) -> None:
    """Seconds of a training step along every axis, both logarithmic, with the fitted line and its exponent."""
    drawn = {name: axis for name, axis in rows.items() if axis["exponent"] is not None}
    figure = new_figure(width=8.4, height=2.5 * -(-len(drawn) // 3))
    panels = np.ravel(figure.subplots(-(-len(drawn) // 3), 3))
    for panel in panels[len(drawn) :]:
        panel.set_visible(False)
    for panel, axis in zip(panels, drawn.values(), strict=False):
        values, seconds = np.array(axis["values"], float), np.array(axis["seconds"])
        middle = np.exp(np.mean(np.log(seconds)) + axis["exponent"] * (np.log(values) - np.mean(np.log(values))))
        panel.plot(values, middle, color=ORANGE, linewidth=1.2)
        panel.plot(values, seconds, color=BLUE, linewidth=0, marker="o", markersize=4)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.minorticks_off()
        panel.set_xticks(values, [f"{value:g}" for value in values])
        low, high = panel.get_ylim()
        ticks = [tick * 10.0**power for power in range(-4, 4) for tick in (1, 2, 5) if low <= tick * 10.0**power <= high]
        panel.set_yticks(ticks, [f"{tick:g} s" for tick in ticks])
        _dress(panel, f"exponent {axis['exponent']:.2f}", axis["label"])
    figure.savefig(path)


def draw(report: Mapping, folder: Path) -> list[Path]:
    """All plots that the report has the figures for."""
    plots = {"batch": (plot_batches, None), "peers": (plot_peers, "own weights"), "growth": (plot_growth, None)}
    written = []
    for name, (plot, part) in plots.items():
        if name in report:
            rows = report[name]["rows"]
            written.append(folder / f"throughput_{name}.png")
            plot(rows[part] if part else rows, written[-1])
    return written
