"""What stands in the comparison of several runs.

Contract: `comparison_sections` takes runs in the order in which they were named; their colours follow it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lattice_jax.evaluation.names import spelled
from lattice_jax.evaluation.plots import FAINT, INK, curve, name_endings, series
from lattice_jax.evaluation.report.drawing import CURVES, Panel, grid_lines, new_axes
from lattice_jax.evaluation.report.record import Run, differing_settings
from lattice_jax.evaluation.report.sections import Section, Table, rounded, with_interval
from lattice_jax.training.monitor import median_samples_per_second

OVERLAID = {
    "validation_similarity": ("Validation similarity", "cosine to the right answer"),
    "validation_mrr": ("Validation retrieval", "mean reciprocal rank"),
    "similarity": ("Training similarity", "cosine to the right answer"),
    "loss": ("Loss", "weighted loss"),
    "gradient_norm": ("Gradient norm", "norm, before clipping"),
    "validation_spread": ("Spread of the predictions", "share of the answers' variance"),
}
LARGEST_LEGEND = 8


def comparison_sections(runs: Sequence[Run]) -> list[Section]:
    """Held-out figures, curves, what was measured of the cubes, and the settings that differ."""
    ended = [run for run in runs if run.summary]
    at_end = _emergence(ended)
    emergence = sorted({name for run in runs for row in run.rows for name in row if name.startswith("emergence/")})
    return [
        Section(
            "figures",
            "Held-out figures",
            lead=_why_incomparable(ended),
            table=_figures(runs),
            panels=[
                Panel(
                    f"forest_{measure}",
                    title,
                    "With bootstrap intervals. Faint marks: the best baseline of each run, by the same figure.",
                    partial(_forest, ended, measure, title, unit),
                )
                for measure, title, unit in (
                    ("similarity", "Similarity to the right answer", "cosine"),
                    ("mrr", "Telling answers apart", "mean reciprocal rank"),
                )
                if ended
            ],
        ),
        Section("curves", "Learning", panels=_overlaid(runs, OVERLAID)),
        Section(
            "emergence",
            "Emergence",
            lead="At each run's end, with the standard deviations (z) that it lies from its null model." if at_end else "",
            table=at_end,
            panels=_overlaid(runs, {name: (spelled(name.removeprefix("emergence/")), "value") for name in emergence}),
            absent=""
            if at_end or emergence
            else "None of these runs has measured it: at the end, or every N training steps with --config.emergence.every=N.",
        ),
        Section(
            "settings",
            "Settings that differ",
            table=_settings(runs),
            absent="" if differing_settings(list(runs)) else "None: these runs differ in nothing that is set.",
        ),
    ]


def _why_incomparable(runs: Sequence[Run]) -> str:
    hashes = {run.summary["data_hash"] for run in runs if run.summary}
    if len(hashes) > 1:
        return "These runs did not read the same text (data hashes differ): compare figures only where the pairs are the same."
    return ""


def _best_baseline(run: Run, measure: str) -> float:
    return max(row[measure] for name, row in run.summary["baselines"].items() if name != "shuffled") if run.summary else 0.0


def _figures(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        summary = run.summary
        rate = median_samples_per_second([row for row in run.rows if "timing" in row])
        speed = f"{rate:.3g}" if rate else ""
        if summary is None:
            rows.append((run.name, *[""] * 7, f"{run.step} of {run.steps}", speed, ""))
            continue
        rows.append(
            (
                run.name,
                with_interval(summary["held_out"], "similarity"),
                f"{_best_baseline(run, 'similarity'):.3f}",
                with_interval(summary["held_out"], "mrr"),
                f"{_best_baseline(run, 'mrr'):.3f}",
                f"{summary['held_out']['recall_at_1']:.3f}",
                f"{summary['train']['similarity']:.3f}",
                f"{summary['parameters']:,}",
                f"{summary['best_step']} of {summary['steps']}",
                speed,
                f"{summary['seconds'] / 60:.1f}",
            )
        )
    head = (
        *("run", "similarity", "best baseline", "MRR", "best baseline", "recall@1", "training"),
        *("parameters", "best step", "samples/s", "minutes"),
    )
    ranked = [run.summary["held_out"]["similarity"] if run.summary else -1.0 for run in runs]
    # On different pairs the highest similarity tells which text is easier, not which run is better.
    has_best = max(ranked) > -1 and not _why_incomparable(runs)
    return Table(head, rows, strong=[ranked.index(max(ranked))] if has_best else ())


def _emergence(runs: Sequence[Run]) -> Table | None:
    measured = {run.name: run.summary["emergence"] for run in runs if run.summary and run.summary.get("emergence")}
    names = dict.fromkeys(name for figures in measured.values() for name in figures)

    def told(figures: Mapping[str, Any]) -> str:
        z = figures.get("z")
        return rounded(figures.get("value")) + ("" if z is None else f" (z {z:+.1f})")

    rows = [(spelled(name), *(told(figures.get(name, {})) for figures in measured.values())) for name in names]
    return Table(("metric", *measured), rows) if rows else None


def _settings(runs: Sequence[Run]) -> Table | None:
    differing = differing_settings(list(runs))
    rows = [(name, *("" if value is None else str(value) for value in values)) for name, values in differing.items()]
    return Table(("setting", *(run.name for run in runs)), rows) if rows else None


def _overlaid(runs: Sequence[Run], names: dict[str, tuple[str, str]]) -> list[Panel]:
    return [
        Panel(
            f"overlaid_{name.replace('/', '_')}",
            title[0].upper() + title[1:],
            "One curve a run. Strong: moving mean; faint: as recorded.",
            partial(_curves, runs, name, title[0].upper() + title[1:], unit),
        )
        for name, (title, unit) in names.items()
        if any(name in row for run in runs for row in run.rows)
    ]


def _curves(runs: Sequence[Run], name: str, title: str, unit: str):
    figure, axes = new_axes(title, "training step", unit, height=3.2)
    endings = []
    for number, run in enumerate(runs):
        colour = CURVES[number % len(CURVES)]
        endings += curve(axes, *series(run.rows, name), run.name, colour, strong=False)
    # All of every run: what is measured seldom would fill the figure otherwise.
    axes.set_xlim(0, max(1, *(run.rows[-1]["step"] for run in runs if run.rows)))
    grid_lines(axes)
    name_endings(axes, endings if len(endings) <= LARGEST_LEGEND else [])
    return figure


def _forest(runs: Sequence[Run], measure: str, title: str, unit: str):
    figure, axes = new_axes(title, unit, "", height=1.1 + 0.3 * len(runs))
    for place, run in enumerate(runs):
        row, colour = run.summary["held_out"], CURVES[place % len(CURVES)]  # pyright: ignore[reportOptionalSubscript]
        axes.plot(row[f"{measure}_interval"], [place, place], color=colour, linewidth=2.4, solid_capstyle="round", zorder=2)
        axes.plot(row[measure], place, "o", color=colour, markersize=6, zorder=3)
        axes.plot(_best_baseline(run, measure), place, "|", color=INK, markersize=11, alpha=0.5, zorder=2)
        axes.text(
            1.02, place, f"{row[measure]:.3f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK
        )
    axes.set_yticks(range(len(runs)), [run.name for run in runs])
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    return figure
