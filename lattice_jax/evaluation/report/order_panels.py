"""Figures of order and its limits: coherence in every direction, specialisation by layer, how fast close passes part.

Contract: functions of the arrays in `emergence.npz`, as `observation.arrays` describes them; a panel is left out where its
array is.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np

from lattice_jax.evaluation.plots import BAR, BLUE, GREEN, ORANGE, QUIET, name_endings
from lattice_jax.evaluation.report.drawing import Panel, grid_lines, new_axes

LATTICE_STEP, LAYER = "lattice step", "layer"
DASHED = (0, (4, 3))
Arrays = Mapping[str, np.ndarray]


def order_panels(arrays: Arrays) -> list[Panel]:
    """What stands behind single metrics of the table: by direction, by layer, and step by step."""
    panels = []
    if {"coherence", "coherence_null_mean", "coherence_null_deviation", "directions"} <= arrays.keys():
        panels.append(
            Panel(
                "order_coherence",
                "Coherence in all directions",
                "Correlation of a cell's last state with that of the cell so far away, along each of the 13 directions between "
                "neighbours; strong: their mean by kind. Grey: shuffled cells, mean and two standard deviations.",
                partial(_coherence, arrays),
            )
        )
    for name, title, unit, text in (
        (
            "layer_selectivity",
            "Selectivity by layer",
            "variance explained by topics",
            "Mean over a layer's cells. Grey: shuffled topics, mean and two standard deviations; dashed: untrained cubes.",
        ),
        (
            "layer_silhouette",
            "Groups of cells by layer",
            "silhouette",
            "How well a layer's cells fit the groups of like responses that they are in, 1 perfectly, 0 between two; dashed: "
            "untrained cubes. The groups themselves can be chosen in the cube below.",
        ),
    ):
        if name in arrays:
            panels.append(Panel(f"order_{name}", title, text, partial(_by_layer, arrays, name, title, unit)))
    if {"separation", "separation_transient"} <= arrays.keys():
        panels.append(
            Panel(
                "order_separation",
                "How fast close passes part",
                "Logarithm of the growth of a small difference in each step with the question held, set back to its size after "
                "it. Right of the dotted line steps count: their mean is the Lyapunov exponent (dashed). A curve that still "
                "rises or falls there says that it isn't reached.",
                partial(_separation, arrays["separation"], int(arrays["separation_transient"])),
            )
        )
    return panels


def _coherence(arrays: Arrays):
    figure, axes = new_axes("Coherence in all directions", "distance in cells along the direction", "correlation")
    table, directions = arrays["coherence"], arrays["directions"]
    distance = np.arange(1, table.shape[1] + 1)
    middle, width = (np.nanmean(arrays[f"coherence_null_{name}"], axis=0) for name in ("mean", "deviation"))
    axes.fill_between(distance, middle - 2 * width, middle + 2 * width, color=BAR, alpha=0.5, linewidth=0)
    along, across = directions[:, 0] != 0, (directions[:, 1:] != 0).any(axis=1)
    endings = []
    for rows, text, colour in (
        (along & ~across, "along the signal", BLUE),
        (~along, "within layers", ORANGE),
        (along & across, "oblique", GREEN),
    ):
        axes.plot(distance, table[rows].T, color=colour, linewidth=0.8, alpha=0.4)
        mean = np.nanmean(table[rows][:, ~np.isnan(table[rows]).all(axis=0)], axis=0)
        axes.plot(distance[: len(mean)], mean, color=colour, linewidth=2)
        endings.append((float(mean[-1]), text, colour, False))
    axes.margins(x=0)
    grid_lines(axes)
    name_endings(axes, endings)
    return figure


def _by_layer(arrays: Arrays, name: str, title: str, unit: str):
    figure, axes = new_axes(title, LAYER, unit)
    layers = np.arange(len(arrays[name]))
    if f"{name}_null_mean" in arrays:
        middle, width = arrays[f"{name}_null_mean"], arrays[f"{name}_null_deviation"]
        axes.fill_between(layers, middle - 2 * width, middle + 2 * width, color=BAR, alpha=0.5, linewidth=0)
    if f"{name}_untrained_mean" in arrays:
        axes.plot(layers, arrays[f"{name}_untrained_mean"], color=QUIET, linewidth=1.4, linestyle=DASHED)
    axes.plot(layers, arrays[name], color=BLUE, linewidth=2, marker="o", markersize=3)
    axes.locator_params(axis="x", integer=True)
    grid_lines(axes)
    return figure


def _separation(rates: np.ndarray, transient: int):
    figure, axes = new_axes("How fast close passes part", LATTICE_STEP, "nats a step")
    axes.plot(rates, color=BLUE, linewidth=1.6)
    axes.axvline(transient, color=QUIET, linewidth=1, linestyle=":")
    axes.plot([transient, len(rates) - 1], [rates[transient:].mean()] * 2, color=ORANGE, linewidth=1.4, linestyle=DASHED)
    axes.margins(x=0)
    grid_lines(axes)
    return figure
