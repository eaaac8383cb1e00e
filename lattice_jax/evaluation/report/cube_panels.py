"""Figures of what the cube does: activity, specialisation, influence, and what can be read where.

Contract: functions of the arrays in `emergence.npz` (state [question, step, depth, height, width], fields [depth, height,
width], what probes read [step, depth]); a panel is left out where its array is. Step 0 is the state after injection, layer 0
the input face.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np

from lattice_jax.evaluation.plots import BLUE, INK, QUIET, dress, name_endings, new_figure
from lattice_jax.evaluation.report.drawing import (
    HEIGHT,
    SEQUENTIAL,
    WIDTH,
    Panel,
    grid_lines,
    heatmap,
    logarithmic,
    name_axes,
    name_colours,
    new_axes,
)

LATTICE_STEP, LAYER = "lattice step", "layer"
Arrays = Mapping[str, np.ndarray]


def slice_panels(arrays: Arrays) -> list[Panel]:
    """The cube cut into its layers: state at the end, and what its cells are for."""
    panels = []
    if "activity" in arrays:
        last = arrays["activity"][:, -1].astype(np.float32)
        panels.append(
            Panel(
                "slices_activity",
                "Activity after the last step",
                f"Root mean square of each cell's visible channels, mean over {len(last)} held-out questions. What looks "
                "like a pattern is one only if the table above says so: there it stands beside its null model.",
                partial(_slices, last.mean(axis=0), "Activity after the last step", "root mean square"),
            )
        )
        panels.append(
            Panel(
                "slices_questions",
                "How far questions differ",
                "Standard deviation of each cell's activity over the questions: where it is 0, the cell does the same "
                "whatever is asked.",
                partial(_slices, last.std(axis=0), "How far questions differ", "standard deviation"),
            )
        )
    for name, title, unit, text in (
        (
            "selectivity",
            "Selectivity",
            "0 to 1",
            "Share of a cell's variance over questions that their topics explain: 0 where topics mean nothing to it, 1 where "
            "they are all that it responds to. Shuffled topics give the null in the table of metrics.",
        ),
        (
            "influence_gradient",
            "Influence by gradient",
            "gradient",
            "How much the answer changes with a gain on each cell's updates, by gradient. Even colours would be a cube in "
            "which no cell matters more than another.",
        ),
        (
            "influence_ablation",
            "Influence by ablation",
            "change of the answer",
            "How much the answer changes when a block of cells is silenced; 0 would be a block that the answer does not need.",
        ),
    ):
        if name in arrays:
            panels.append(Panel(f"slices_{name}", title, text, partial(_slices, arrays[name], title, unit)))
    if "topic" in arrays:
        panels.append(
            Panel(
                "slices_topic",
                "Preferred topic",
                "The topic to which each cell responds most. Patches of one colour are regions that specialise; without "
                "specialisation colours are mixed like noise. Topics by number are listed in the interactive view.",
                partial(_slices, arrays["topic"], "Preferred topic", "topic", categories=int(arrays["topic"].max()) + 1),
            )
        )
    return panels


def flow_panels(arrays: Arrays) -> list[Panel]:
    """How signals travel: activity and change, what probes read, growth of small differences, likeness of layers."""
    panels = []
    for name, what in (("question_read", "the question"), ("answer_read", "the answer")):
        if name in arrays:
            null = arrays.get(f"{name}_null")
            title = f"How much of {what} can be read"
            panels.append(
                Panel(
                    f"flow_{name}",
                    title,
                    f"R² of a linear probe for {what} on test questions, 1 all of it, 0 no more than the mean; negative values "
                    "are drawn as 0." + (" Below: the same in the null model." if null is not None else ""),
                    partial(_read, arrays[name], null, title),
                )
            )
    if "layer_similarity" in arrays:
        panels.append(
            Panel(
                "flow_layers",
                "Likeness of layers",
                "How alike two layers represent the questions (1 the same up to rotation). A block structure is a division of "
                "labour; 1 everywhere is a cube that only hands on.",
                partial(_likeness, arrays["layer_similarity"]),
            )
        )
    for name, title, text in (
        (
            "activity",
            "Activity by layer and step",
            "Mean over cells and questions. A diagonal front is the signal crossing the cube one layer a step.",
        ),
        (
            "change",
            "Change by layer and step",
            "Root mean square change of the visible channels in each step: a cube that has come to rest is dark on the right.",
        ),
    ):
        if name in arrays:
            by_layer = arrays[name].astype(np.float32).mean(axis=(0, 3, 4))
            panels.append(Panel(f"flow_{name}", title, text, partial(_layer_step, by_layer, title, "root mean square")))
    if {"question_read", "answer_read"} <= arrays.keys():
        panels.append(
            Panel(
                "flow_front",
                "At the output face, step by step",
                "What a linear probe reads at the output face, R² on test questions; dashed: the null model, in "
                "which nothing was learned.",
                partial(_front, arrays),
            )
        )
    if "perturbation" in arrays:
        panels.append(
            Panel(
                "flow_perturbation",
                "Growth of a small difference",
                "Mean distance between two passes whose questions differ a little, over the whole cube, against that distance "
                "at first, on the input face alone, where it stays. A cube that hands it on without loss ends at the root of "
                "its number of layers (dashed); above it differences grow on their way, below they fade.",
                partial(_perturbation, arrays["perturbation"], arrays["activity"].shape[2] if "activity" in arrays else None),
            )
        )
    return panels


def _slices(field: np.ndarray, title: str, unit: str, categories: int | None = None):
    """All layers as small maps with one scale."""
    from matplotlib.colors import ListedColormap, Normalize

    depth, columns = len(field), 4
    rows = -(-depth // columns)
    figure = new_figure(width=WIDTH, height=0.75 + 1.02 * rows)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK)
    grid = figure.subplots(rows, columns, squeeze=False)
    colours = SEQUENTIAL if categories is None else ListedColormap(topic_colours(categories))
    bounds = (float(np.min(field)), float(np.max(field))) if categories is None else (-0.5, categories - 0.5)
    normalise = Normalize(*bounds)
    for layer, axes in enumerate(grid.flat):
        if layer >= depth:
            axes.set_axis_off()
            continue
        image = axes.imshow(field[layer], cmap=colours, norm=normalise, interpolation="none")
        axes.set_title(f"layer {layer}", fontsize=8, color=QUIET, pad=3)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, ax=grid, pad=0.02, aspect=32, ticks=range(categories) if categories and categories < 13 else None
    )
    name_colours(bar, unit)
    return figure


def topic_colours(count: int) -> list[tuple[float, float, float]]:
    """Hues a golden angle apart, told apart by lightness too; the interactive view has the same."""
    import colorsys

    return [colorsys.hls_to_rgb((0.58 + 0.381966 * n) % 1, (0.42, 0.6, 0.5)[n % 3], 0.6) for n in range(count)]


def _layer_step(by_layer: np.ndarray, title: str, unit: str):
    figure, axes = new_axes(title, LATTICE_STEP, LAYER)
    heatmap(axes, by_layer.T, label=unit)
    return figure


def _read(read: np.ndarray, null: np.ndarray | None, title: str):
    figure = new_figure(width=WIDTH, height=HEIGHT if null is None else 4.4)
    grids = [("trained", read)] if null is None else [("trained", read), ("null model", null)]
    for number, (axes, (name, values)) in enumerate(zip(np.ravel(figure.subplots(len(grids), 1)), grids, strict=True)):
        dress(axes, f"{title}: {name}" if number == 0 else name.capitalize())
        name_axes(axes, LATTICE_STEP, LAYER)
        heatmap(axes, np.maximum(values, 0).T, label="R²", low=0, high=max(float(np.max(read)), 0.01))
    return figure


def _front(arrays: Arrays):
    figure, axes = new_axes("At the output face, step by step", LATTICE_STEP, "R² on test questions")
    endings = []
    for name, text, colour in (("question_read", "question", QUIET), ("answer_read", "answer", BLUE)):
        values = _at_output(arrays, name)
        axes.plot(values, color=colour, linewidth=2)
        endings.append((float(values[-1]), text, colour, name == "answer_read"))
        if f"{name}_null" in arrays:
            axes.plot(_at_output(arrays, name, "_null"), color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.margins(x=0)
    grid_lines(axes)
    name_endings(axes, endings)
    return figure


def _at_output(arrays: Arrays, name: str, kind: str = "") -> np.ndarray:
    """What is read at the output face in every step: in the last layer, where nothing else was recorded."""
    at_output = arrays.get(f"{name}_output{kind}")
    return np.maximum(arrays[f"{name}{kind}"][:, -1] if at_output is None else at_output, -0.1)


def _perturbation(growth: np.ndarray, layers: int | None):
    figure, axes = new_axes("Growth of a small difference", LATTICE_STEP, "distance / distance at first")
    axes.plot(growth, color=BLUE, linewidth=2)
    if layers:
        axes.axhline(np.sqrt(layers), color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    if np.all(growth > 0):
        logarithmic(axes)
    axes.margins(x=0)
    grid_lines(axes)
    return figure


def _likeness(similarity: np.ndarray):
    figure, axes = new_axes("Likeness of layers", LAYER, LAYER, height=3.4)
    heatmap(axes, similarity, label="similarity", low=0, high=1)
    return figure
