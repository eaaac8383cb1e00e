"""What stands in a run's report, in its order: the verdict first, then the way there, then the cube, then how to repeat it.

Contract: `sections` takes a `Run` and returns plain values for the page's template: text, tables as lists of rows, panels. A
section whose data is not there says what would produce it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lattice_jax.evaluation.names import spelled
from lattice_jax.evaluation.report.cube_panels import flow_panels, slice_panels
from lattice_jax.evaluation.report.drawing import Panel
from lattice_jax.evaluation.report.endurance_panels import endurance_panels
from lattice_jax.evaluation.report.order_panels import order_panels
from lattice_jax.evaluation.report.panels import (
    gradient_panels,
    learning_panels,
    measured_panels,
    resource_panels,
    verdict_panels,
)
from lattice_jax.evaluation.report.record import Run, changed_settings, configuration_source
from lattice_jax.evaluation.verdict import CONTROLS, label
from lattice_jax.records import flat
from lattice_jax.training.monitor import median_samples_per_second

POOL_METRICS = {
    "distance": "Mean distance between the states of a batch, relative to their size. 0 would be one state for all",
    "effective_rank": "Number of directions in which the states of a batch differ. 1 would be a collapsed pool",
    "collapsed": "1 where the states of a batch have become alike, else 0",
    "age": "How often the states that were drawn have been through the cube before",
    "steps": "Lattice steps of the pass, where the horizon is random",
}
_EXAMPLE = 19
"""Letters of a question that fit its column."""
FAR_FROM_NULL = 2.0
"""Standard deviations of the null model beyond which a metric is marked."""


class Table(NamedTuple):
    """Rows of text; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()
    """Rows that stand out."""
    quiet: Sequence[int] = ()
    caption: str = ""


class Section(NamedTuple):
    """One part of the page."""

    anchor: str
    title: str
    lead: str = ""
    table: Table | None = None
    more: Table | None = None
    """A long table, folded away."""
    panels: Sequence[Panel] = ()
    absent: str = ""
    """What would produce the data, where there is none."""
    kind: str = ""
    """A part with a layout of its own: 'cube', 'samples', 'alerts', 'repeat'."""


def sections(run: Run, definitions: Mapping[str, str]) -> list[Section]:
    """The whole report, in order; `definitions` say what metrics of emergence are where no summary does yet."""
    return [*_progress(run), *_cube(run, definitions), *_reading(run), *_repeating(run)]


def _progress(run: Run) -> list[Section]:
    until_end = ""
    if run.summary is None:
        at = f"{run.step} of {run.steps}"
        until_end = f"Written when the run ends; it is at step {at}."
        if run.stopped:
            until_end = f"None: the run stopped at step {at}."
        elif run.unjudged:
            until_end = f"None: the run ended at step {at}, {run.unjudged}."
    return [
        Section(
            "verdict",
            "Verdict",
            lead=run.summary["verdict"] if run.summary else "",
            table=_verdict_table(run.summary) if run.summary else None,
            panels=verdict_panels(run),
            absent=until_end,
        ),
        Section(
            "learning",
            "Learning",
            panels=learning_panels(run),
            absent="" if run.rows else "Appears with the first training step: the adapter is trained first.",
        ),
        _measured("gradients", "Gradients", gradient_panels(run), "Recorded at every training step."),
        _measured("resources", "Speed and memory", resource_panels(run), "Recorded at every training step."),
    ]


def _cube(run: Run, definitions: Mapping[str, str]) -> list[Section]:
    arrays = run.emergence or {}
    at_end = "emergence.npz is written when a run ends, from passes of held-out questions; this run has none."
    emergence = (run.summary or {}).get("emergence")
    return [
        _measured(
            "emergence-over-time",
            "Emergence while learning",
            measured_panels(run, "emergence/", definitions),
            "Not measured in this run: --config.emergence.every=N measures every N training steps.",
        ),
        Section(
            "emergence",
            "Emergence beside null models",
            lead="A metric says something only where it lies far from what a null model gives: z counts the null model's "
            f"standard deviations, and rows within {FAR_FROM_NULL:g} are grey. What an untrained cube has too was not learned."
            if emergence
            else "",
            table=_emergence_table(emergence) if emergence else None,
            panels=order_panels(arrays),
            absent="" if emergence else "Measured when a run ends; its summary.json has no emergence figures.",
        ),
        Section(
            "cube",
            "Inside the cube",
            panels=slice_panels(arrays),
            absent="" if arrays else at_end,
            kind="cube" if "activity" in arrays else "",
        ),
        _measured("flow", "Information flow", flow_panels(arrays), at_end),
        _measured(
            "pool",
            "Pool of states",
            measured_panels(run, "pool/", POOL_METRICS),
            "This run had no pool: --config.pool.size=N trains from N states that other questions left.",
        ),
        _measured(
            "endurance",
            "How answers last",
            endurance_panels(run.summary),
            "Measured when a run ends, on --config.pool.questions held-out questions.",
        ),
    ]


def _reading(run: Run) -> list[Section]:
    samples = (run.summary or {}).get("samples")
    found = "None so far." if run.summary is None else "None: nothing that is watched for went wrong."
    return [
        Section(
            "samples",
            "Sample answers",
            lead="The first held-out questions, each with the known answers nearest to what the cube says." if samples else "",
            kind="samples" if samples else "",
            absent="" if samples else "Written when the run ends.",
        ),
        _edge_cases((run.summary or {}).get("edge_cases")),
        Section("alerts", "Alerts", kind="alerts" if run.alerts else "", absent="" if run.alerts else found),
    ]


def _repeating(run: Run) -> list[Section]:
    changed = changed_settings(run.settings)
    rows = [(name, _text(value), _text(start)) for name, (value, start) in changed.items()]
    others = [(name, _text(value)) for name, value in flat(run.settings).items() if name not in changed]
    return [
        Section(
            "configuration",
            "Configuration",
            lead=f"{len(rows)} settings differ from their start values." if rows else "All settings have their start values.",
            table=Table(("setting", "value", "start value"), rows) if rows else None,
            more=Table(("setting", "value"), others),
        ),
        Section("repeat", "How to repeat it", table=_figures_of_the_run(run), kind="repeat"),
    ]


def _measured(anchor: str, title: str, panels: Sequence[Panel], absent: str) -> Section:
    return Section(anchor, title, panels=panels, absent="" if panels else absent)


def _verdict_table(summary: Mapping) -> Table:
    rows = {"lattice": summary["held_out"], **summary["baselines"], "adapter_ceiling": summary["adapter_ceiling"]}
    training = {"lattice": summary["train"]} | {name: row["train"] for name, row in rows.items() if "train" in row}
    text = [
        (
            label(name),
            with_interval(row, "similarity"),
            with_interval(row, "mrr"),
            f"{row['recall_at_1']:.3f}",
            f"{row['recall_at_5']:.3f}",
            _signed(row["gain"], row["gain_interval"]) if "gain" in row else "",
            f"{training[name]['similarity']:.3f}",
        )
        for name, row in rows.items()
    ]
    return Table(
        ("", "similarity", "MRR", "recall@1", "recall@5", "lattice gains", "training similarity"),
        text,
        strong=[0],
        quiet=[place for place, name in enumerate(rows) if name in CONTROLS],
        caption=f"{summary['held_out']['pairs']} held-out pairs, {summary['confidence']:.0%} bootstrap intervals over pairs, "
        "gains are paired. Shuffled pairs and the adapter ceiling are controls, not rivals.",
    )


def _emergence_table(emergence: Mapping[str, Mapping]) -> Table:
    rows = []
    for name, figures in emergence.items():
        z = figures.get("z")
        rows.append(
            (
                spelled(name),
                rounded(figures.get("value")) + (f" (drift {figures['drift']:+.3f})" if "drift" in figures else ""),
                f"{rounded(figures.get('null'))} ± {rounded(figures.get('null_deviation'))}",
                "" if z is None else f"{z:+.1f}",
                rounded(figures["untrained"]) if "untrained" in figures else "",
                str(figures.get("null_model", "")),
                str(figures.get("definition", "")),
                str(figures.get("range", "")),
            )
        )
    near = [place for place, figures in enumerate(emergence.values()) if abs(figures.get("z") or 0) <= FAR_FROM_NULL]
    columns = ("metric", "value", "null model", "z", "untrained", "which null", "definition", "range")
    return Table(columns, rows, quiet=near)


def _edge_cases(edge_cases: Mapping | None) -> Section:
    """The same questions asked in other wordings."""
    if not edge_cases:
        absent = "Measured when a run ends, on --config.evaluation.edge-questions held-out questions."
        return Section("edge-cases", "Asked otherwise", absent=absent)
    wordings: Mapping[str, Mapping] = edge_cases["wordings"]
    *_, regression = (name for name in wordings["as_written"]["baselines"] if name.endswith("ridge"))
    rows = [
        (
            spelled(name),
            f"{row['heard']:.3f}",
            f"{row['agreement']:.3f}",
            f"{row['similarity']:.3f}",
            "" if name == "as_written" else _signed(row["change"], row["change_interval"]),
            f"{row['mrr']:.3f}",
            f"{row['baselines']['question']['mrr']:.3f}",
            f"{row['baselines'][regression]['similarity']:.3f}",
            row["example"] if len(row["example"]) <= _EXAMPLE else f"{row['example'][:_EXAMPLE]}…",
        )
        for name, row in wordings.items()
    ]
    table = Table(
        (
            "wording",
            "question heard",
            "agreement",
            "similarity",
            "change",
            "MRR",
            f"MRR, {label('question')}",
            f"similarity, {label(regression)}",
            "the first one",
        ),
        rows,
        strong=[0],
        quiet=[place for place, name in enumerate(wordings) if name == "another_question"],
        caption="Question heard: cosine of the teacher's embedding with that of the question as written. Agreement: cosine of "
        "the cube's answers with those to the questions as written. Change: of the similarity, paired. The last row scores "
        "every answer as if it had been given to another question: the similarity left there takes no understanding.",
    )
    lead = f"{edge_cases['questions']} held-out questions in other wordings, and what becomes of the answers."
    return Section("edge-cases", "Asked otherwise", lead=lead, table=table)


def _figures_of_the_run(run: Run) -> Table:
    summary = run.summary or {}
    figures: dict[str, Any] = {
        "seed": run.settings["seed"],
        "data hash": summary.get("data_hash"),
        "versions": ", ".join(f"{name} {version}" for name, version in summary.get("versions", {}).items()) or None,
        "devices": summary.get("devices"),
        "engine": summary.get("engine"),
        "pairs": ", ".join(f"{count} {side.replace('_', '-')}" for side, count in summary.get("pairs", {}).items()) or None,
        "parameters": f"{summary['parameters']:,}" if "parameters" in summary else None,
        "minutes": f"{summary['seconds'] / 60:.1f}" if "seconds" in summary else None,
    }
    return Table(("", ""), [(name, str(value)) for name, value in figures.items() if value is not None])


def headline(run: Run) -> list[tuple[str, str, str]]:
    """The few figures at the top: name, figure, and what it is held against."""
    cards = []
    if run.summary:
        held_out, baselines = run.summary["held_out"], run.summary["baselines"]
        real = {name: row for name, row in baselines.items() if name not in CONTROLS}
        for title, measure in (("held-out similarity", "similarity"), ("mean reciprocal rank", "mrr")):
            best = max(real, key=lambda name: real[name][measure])
            cards.append((title, f"{held_out[measure]:.3f}", f"best baseline: {label(best)} {real[best][measure]:.3f}"))
    else:
        cards.append(("step", f"{run.step}", f"of {run.steps}"))
        for title, name in (("validation similarity", "validation_similarity"), ("loss", "loss")):
            values = [row[name] for row in run.rows if name in row]
            if values:
                cards.append((title, f"{values[-1]:.3f}", f"at first {values[0]:.3f}"))
    rate = median_samples_per_second([row for row in run.rows if "timing" in row])
    if rate:
        cards.append(("samples per second", f"{rate:.3g}", "median of the training steps"))
    if run.summary:
        memory, minutes = run.summary["peak_memory_bytes"] / 1e9, run.summary["seconds"] / 60
        cards.append(("memory at most", f"{memory:.1f} GB", f"{minutes:.1f} minutes in all"))
    kinds = ", ".join(dict.fromkeys(spelled(alert.kind) for alert in run.alerts))
    cards.append(("alerts", str(len(run.alerts)), kinds or "nothing went wrong"))
    return cards


def repeat(run: Run) -> str:
    """A configuration file that repeats the run."""
    return configuration_source(run.settings)


def with_interval(row: Mapping, measure: str) -> str:
    """A figure with its interval, as text."""
    low, high = row[f"{measure}_interval"]
    return f"{row[measure]:.3f} [{low:.3f}, {high:.3f}]"


def _signed(difference: float, interval: Sequence[float]) -> str:
    """A difference with its interval, in one line."""
    return f"{difference:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]".replace(" ", "\N{NO-BREAK SPACE}")


def rounded(value: float | None) -> str:
    """Three digits, or nothing where there is no figure."""
    return "" if value is None else f"{value:.3g}"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
