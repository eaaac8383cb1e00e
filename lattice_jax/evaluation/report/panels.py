"""Figures of a run's record: verdict, learning, gradients, speed, what is measured over time.

Contract: each function takes a `Run` and returns the panels that its record allows, an empty list where nothing of that kind
was recorded. Figures are drawn later, by whoever asks (`Panel.draw`).
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from lattice_jax.config.learning import ADDED_AFTERWARDS
from lattice_jax.evaluation.names import spelled, titled
from lattice_jax.evaluation.plots import BAR, BLUE, FAINT, INK, LOSSES, ORANGE, QUIET, curve, name_endings, series
from lattice_jax.evaluation.report.drawing import (
    CURVES,
    HEIGHT,
    Panel,
    grid_lines,
    heatmap,
    logarithmic,
    new_axes,
)
from lattice_jax.evaluation.report.record import Run
from lattice_jax.evaluation.verdict import CONTROLS, label
from lattice_jax.training.alerts import LAYER_GRADIENT

STEP = "training step"
SMALLEST_GRADIENT = 1e-12
"""Drawn in place of 0 on logarithmic colours."""


def verdict_panels(run: Run) -> list[Panel]:
    """Forest plots: similarity, MRR, and what the lattice gains over each baseline."""
    if run.summary is None:
        return []
    summary = run.summary
    rows = {"lattice": summary["held_out"], **summary["baselines"]}
    interval = f"lines are {summary['confidence']:.0%} bootstrap intervals over {summary['held_out']['pairs']} held-out pairs"
    ceiling = summary["adapter_ceiling"]
    gains = {name: row for name, row in summary["baselines"].items() if name != "shuffled"}
    return [
        Panel(
            "verdict_similarity",
            "Similarity to the right answer",
            f"Mean cosine in the teacher's space; {interval}. The mean answer is the level of knowing nothing of the question; "
            f"the dashed line, {ceiling['similarity']:.3f}, is what the adapter alone makes of the right answer.",
            partial(_forest, rows, "similarity", "Similarity to the right answer", "cosine", ceiling["similarity"]),
        ),
        Panel(
            "verdict_mrr",
            "Telling answers apart",
            f"Mean reciprocal rank of the right answer among all {summary['held_out']['pairs']}; {interval}. The mean answer "
            "shows what chance gives.",
            partial(_forest, rows, "mrr", "Telling answers apart", "mean reciprocal rank", None),
        ),
        Panel(
            "verdict_gain",
            "The lattice less each baseline",
            "Difference in held-out similarity, pair by pair, with its interval: right of zero the lattice is better, and "
            "level where the line crosses zero.",
            partial(_gains, gains),
        ),
    ]


def _apart(settings: dict) -> str:
    """How what the cube says to training batches is unlike its answers to the validation pairs."""
    ways = [
        (settings["lattice"]["update"]["rate"] < 1, "with cells at rest by the mask"),
        (any(settings.get("answer", {}).get(name) for name in ADDED_AFTERWARDS), "before anything is added"),
    ]
    told = ", ".join(way for holds, way in ways if holds)
    return f" ({told})" if told else ""


def learning_panels(run: Run) -> list[Panel]:
    """Similarity, retrieval and spread at the looks, the losses and their parts, and the adapter's learning."""
    rows, panels = run.rows, []
    baselines = (run.summary or {}).get("baselines", {})
    known = {name: row["validation_similarity"] for name, row in baselines.items() if "validation_similarity" in row}
    if _has(rows, "similarity"):
        panels.append(
            Panel(
                "learning_similarity",
                "Similarity while learning",
                f"Training batches{_apart(run.settings)} and validation pairs (all cells, expected update)."
                + (" Dashed: baselines on the same validation pairs." if known else "")
                + (f" Dotted: step {run.summary['best_step']}, whose parameters are kept." if run.summary else ""),
                partial(_similarity, run, known),
            )
        )
    panels += [
        _curves(run, name, title, text, {metric: metric_label}, unit)
        for name, metric, metric_label, title, unit, text in (
            (
                "learning_mrr",
                "validation_mrr",
                "validation",
                "Telling validation answers apart",
                "mean reciprocal rank",
                "Rises when answers become distinct, falls when they lean towards their mean, which similarity hides.",
            ),
            (
                "learning_spread",
                "validation_spread",
                "validation",
                "Spread of the predictions",
                "share of the answers' variance",
                "How much predictions differ from question to question: 1 as much as the right answers, 0 one answer to all "
                "questions, which is what the mean answer has.",
            ),
        )
        if _has(rows, metric)
    ]
    if _has(rows, "loss"):
        losses = {name: text for name, (text, _) in LOSSES.items() if _has(rows, name)}
        panels.append(
            _curves(
                run,
                "losses",
                "Losses, unweighted",
                "Each component as it is, and the weighted sum that is minimised. Faint: every step; strong: moving mean.",
                losses,
                "loss",
            )
        )
    weighted = {name: spelled(name.removeprefix("weighted_")) for name in _names(rows, "weighted_")}
    if weighted:
        panels.append(
            Panel(
                "loss_parts",
                "What the loss is made of",
                "The weighted components on top of each other, so the upper edge is the loss that is minimised.",
                partial(_stacked, rows, weighted),
            )
        )
    if _has(run.adapter_rows, "similarity"):
        panels.append(
            Panel(
                "adapter",
                "The adapter",
                "Cosine between embeddings and what the adapter reproduces of them, before the cube learns; step 0 is the "
                "principal components it starts from.",
                partial(_adapter, run.adapter_rows),
            )
        )
    return panels


def gradient_panels(run: Run) -> list[Panel]:
    """The global gradient norm, and by layer, and the cells that none reaches."""
    panels = []
    if _has(run.rows, "gradient_norm"):
        clip = run.settings["optimizer"]["gradient_clip"]
        panels.append(
            Panel(
                "gradient_norm",
                "Gradient norm",
                f"Of all parameters, before clipping; dashed: the norm that it is clipped to, {clip:g}.",
                partial(_gradient, run.rows, clip),
            )
        )
    names = _names(run.rows, LAYER_GRADIENT)
    if names:
        panels.append(
            Panel(
                "gradient_layers",
                "Gradient norm by layer",
                "Layer 0 is the input face. An even column is a cube that learns throughout; a dark row is a layer that learns "
                "next to nothing.",
                partial(_by_layer, run.rows, names),
            )
        )
    if _has(run.rows, "dead_cells"):
        title = "Cells without gradient"
        text = (
            "Share of the cells that no gradient reaches in a step: by chance of the mask, or because nothing they do counts."
        )
        panels.append(Panel("dead_cells", title, text, partial(_one, run.rows, "dead_cells", title, "share of the cells")))
    return panels


def resource_panels(run: Run) -> list[Panel]:
    """Speed and memory as the run went on."""
    measured = [
        {
            "step": row["step"],
            "rate": row["timing"].get("samples_per_second"),
            "memory": row["timing"].get("memory_bytes", 0) / 1e9 or None,
        }
        for row in run.rows
        if "timing" in row
    ]
    rows = [{name: value for name, value in row.items() if value is not None} for row in measured]
    panels = []
    for name, title, unit, text in (
        (
            "rate",
            "Speed",
            "samples per second",
            "Trained samples a second, step by step. The first step compiles; looks at the validation pairs and checkpoints "
            "are the dips.",
        ),
        (
            "memory",
            "Memory",
            "10⁹ bytes",
            "What the process holds after each step. A line that goes on rising would be a leak.",
        ),
    ):
        if _has(rows, name):
            panels.append(Panel(name, title, text, partial(_one, rows, name, title, unit)))
    return panels


_BY_FEWER_QUESTIONS = (
    *("answer_read", "answer_read_gain", "layer_similarity", "question_read"),
    *("response_clustering", "topic_map_coherence", "topic_selectivity"),
)
"""Metrics whose values, and null models, depend on how many questions they are taken by: fewer while the cube learns."""


def measured_panels(run: Run, prefix: str, explained: Mapping[str, str]) -> list[Panel]:
    """One figure for every recorded name that begins with `prefix`, with the summary's null model where it has one."""
    nulls = (run.summary or {}).get(prefix.rstrip("/")) or {}
    panels = []
    for name in _names(run.rows, prefix):
        metric = name.removeprefix(prefix)
        null = nulls.get(metric) if isinstance(nulls.get(metric), Mapping) else None
        text = explained.get(metric) or (null or {}).get("definition") or "As recorded."
        text = text[0].upper() + text[1:].rstrip(".") + "."
        unit = (null or {}).get("range", "")
        if metric in _BY_FEWER_QUESTIONS:
            text += " By fewer questions than at the end, so the null model there is no measure; step 0 is untrained."
            null = None
        elif null and "null" in null:
            text += f" Band: the null model ({null['null_model']}), mean and one standard deviation at the end of the run."
        draw = partial(_against_null, run.rows, name, titled(metric), null, unit)
        panels.append(Panel(name.replace("/", "_"), titled(metric), text, draw))
    return panels


def _names(rows: Sequence[Mapping], prefix: str) -> list[str]:
    return sorted({name for row in rows for name in row if name.startswith(prefix)})


def _has(rows: Sequence[Mapping], name: str) -> bool:
    return any(name in row for row in rows)


def _forest(rows: Mapping[str, Mapping], measure: str, title: str, unit: str, ceiling: float | None):
    figure, axes = new_axes(title, unit, "", height=1.1 + 0.27 * len(rows))
    for place, (name, row) in enumerate(rows.items()):
        colour = BLUE if name == "lattice" else BAR if name in CONTROLS else QUIET
        axes.plot(row[f"{measure}_interval"], [place, place], color=colour, linewidth=2.4, solid_capstyle="round", zorder=2)
        axes.plot(row[measure], place, "o", color=colour, markersize=6, zorder=3)
        text = axes.text(1.02, place, f"{row[measure]:.3f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        text.set(color=INK, fontweight="bold" if name == "lattice" else "normal")
    if ceiling is not None:
        axes.axvline(ceiling, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    _name_rows(axes, list(rows))
    return figure


def _gains(baselines: Mapping[str, Mapping]):
    figure, axes = new_axes("The lattice less each baseline", "difference in cosine", "", height=1.1 + 0.27 * len(baselines))
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    for place, row in enumerate(baselines.values()):
        low, high = row["gain_interval"]
        colour = BLUE if low > 0 else ORANGE if high < 0 else QUIET
        axes.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="round", zorder=2)
        axes.plot(row["gain"], place, "o", color=colour, markersize=6, zorder=3)
        axes.text(
            1.02, place, f"{row['gain']:+.3f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK
        )
    _name_rows(axes, list(baselines))
    axes.locator_params(axis="x", nbins=5)
    return figure


def _name_rows(axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    for text, name in zip(axes.get_yticklabels(), names, strict=True):
        text.set(color=QUIET if name in CONTROLS else INK, fontweight="bold" if name == "lattice" else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)


def _similarity(run: Run, baselines: Mapping[str, float]):
    figure, axes = new_axes("Similarity while learning", STEP, "cosine to the right answer", height=3.2)
    endings = curve(axes, *series(run.rows, "similarity"), "training", ORANGE, strong=False)
    steps, values = series(run.rows, "validation_similarity")
    if len(values):
        axes.plot(steps, values, color=BLUE, linewidth=2.2, marker="o", markersize=3, zorder=4)
        endings.append((float(values[-1]), "validation", BLUE, True))
    for name, similarity in baselines.items():
        axes.axhline(similarity, color=BAR, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        endings.append((similarity, label(name), QUIET, False))
    if run.summary:
        axes.axvline(run.summary["best_step"], color=BLUE, linewidth=1, linestyle=":", zorder=1)
    axes.margins(x=0)
    name_endings(axes, endings)
    return figure


def _curves(run: Run, name: str, title: str, text: str, metrics: Mapping[str, str], unit: str) -> Panel:
    def draw():
        figure, axes = new_axes(title, STEP, unit)
        endings = []
        for metric, metric_label in metrics.items():
            colour = LOSSES[metric][1] if metric in LOSSES else BLUE
            endings += curve(axes, *series(run.rows, metric), metric_label, colour, strong=metric == "loss")
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        grid_lines(axes)
        name_endings(axes, endings)
        return figure

    return Panel(name, title, text, draw)


def _stacked(rows: Sequence[Mapping], names: Mapping[str, str]):
    figure, axes = new_axes("What the loss is made of", STEP, "weighted loss")
    steps = series(rows, next(iter(names)))[0]
    parts = np.array([series(rows, name)[1] for name in names])
    spare = iter(CURVES)
    colours = [LOSSES[text][1] if (text := name.removeprefix("weighted_")) in LOSSES else next(spare) for name in names]
    axes.stackplot(steps, parts, colors=colours, alpha=0.75, linewidth=0)
    edges = np.cumsum(parts[:, -1])
    axes.margins(x=0)
    axes.set_ylim(bottom=0)
    middles = edges - parts[:, -1] / 2
    name_endings(
        axes,
        [
            (float(middle), text, colours[n], False)
            for n, (middle, text) in enumerate(zip(middles, names.values(), strict=True))
        ],
    )
    return figure


def _adapter(rows: Sequence[Mapping]):
    figure, axes = new_axes("The adapter", "adapter step", "cosine of reconstruction")
    endings = curve(axes, *series(rows, "similarity"), "training", ORANGE, strong=False)
    endings += curve(axes, *series(rows, "validation_similarity"), "validation", BLUE, strong=True)
    axes.margins(x=0)
    grid_lines(axes)
    name_endings(axes, endings)
    return figure


def _gradient(rows: Sequence[Mapping], clip: float):
    figure, axes = new_axes("Gradient norm", STEP, "norm, before clipping")
    curve(axes, *series(rows, "gradient_norm"), "", INK, strong=True)
    axes.axhline(clip, color=ORANGE, linewidth=1, linestyle=(0, (4, 3)))
    logarithmic(axes)
    axes.margins(x=0)
    grid_lines(axes)
    return figure


def _by_layer(rows: Sequence[Mapping], names: Sequence[str]):
    steps = series(rows, names[0])[0]
    norms = np.array([series(rows, name)[1] for name in names])
    figure, axes = new_axes("Gradient norm by layer", STEP, "layer")
    heatmap(
        axes,
        np.log10(np.maximum(norms, SMALLEST_GRADIENT)),
        label="log₁₀ of the norm",
        extent=(steps[0] - 0.5, steps[-1] + 0.5, -0.5, len(names) - 0.5),
    )
    axes.set_yticks(range(0, len(names), 2))
    return figure


def _one(rows: Sequence[Mapping], name: str, title: str, unit: str):
    figure, axes = new_axes(title, STEP, unit)
    steps, values = series(rows, name)
    curve(axes, steps, values, "", BLUE, strong=True)
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    grid_lines(axes)
    return figure


def _against_null(rows: Sequence[Mapping], name: str, title: str, null: Mapping | None, unit: str):
    unit = f"value ({unit})" if unit and len(unit) < 24 else "value"
    figure, axes = new_axes(title, STEP, unit, height=HEIGHT - 0.4)
    steps, values = series(rows, name)
    axes.plot(steps, values, color=BLUE, linewidth=2, marker="o" if len(values) < 30 else None, markersize=3)
    last = max(rows[-1]["step"], 1)
    axes.set_xlim(-0.03 * last, 1.03 * last)  # of the whole run: what is measured seldom would fill the figure otherwise
    if null and "null" in null:
        middle, deviation = null["null"], null.get("null_deviation") or 0.0
        axes.axhspan(middle - deviation, middle + deviation, color=BAR, alpha=0.35, linewidth=0)
        axes.axhline(middle, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    grid_lines(axes)
    return figure
