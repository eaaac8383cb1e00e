"""One page about a search: which trial was best, how trials went, and which settings mattered.

Contract: `draw` writes a self-contained HTML file (plotly's own script inside, nothing fetched), in the sweep's folder, where
trials have folders with reports that it links to. Only trials that came to their end are in the parallel coordinates and the
importances; pruned ones have their curves. Importances are those of PED-ANOVA (Watanabe et al., arXiv:2304.10255), which needs
no random forest; with few trials they are hints.
"""

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lattice_jax.evaluation.report.record import REPORT
from lattice_jax.evaluation.verdict import label

_FEWEST_FOR_IMPORTANCES = 4
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #24292f; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #d0d7de; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
th { color: #6e7781; font-weight: 600; white-space: normal; vertical-align: bottom; }
.trials :is(td, th):nth-child(2) { text-align: left; white-space: normal; min-width: 12rem; }
.wide { min-width: 640px; } tr.best { background: #e6f4ea; font-weight: 600; } tr.rest { color: #6e7781; }
p.note { color: #6e7781; } a { color: #0969da; }
@media (max-width: 600px) { th, td { padding: .25rem .45rem; } body { font-size: 14px; } }
"""


def draw(study: Any, found: Mapping[str, Any], path: Path) -> None:
    """Write the page of an Optuna study and of the figures that `sweep.json` holds."""
    import optuna.visualization as plots
    from optuna.importance import PedAnovaImportanceEvaluator

    names = [dimension["name"] for dimension in found["search"]]
    complete = [one for one in found["trials"] if one["state"] == "complete"]
    figure = found["figure"]
    parts = [
        (
            "Every complete trial, a line",
            "Drag along an axis to keep the lines through it.",
            _parallel_coordinates(found, complete),
        ),
        ("How the best grew", "", plots.plot_optimization_history(study, target_name=figure)),
        (
            "Each trial at its looks",
            "Pruned trials end early.",
            plots.plot_intermediate_values(study).update_layout(yaxis_title=figure, xaxis_title="training step"),
        ),
    ]
    if len(complete) >= _FEWEST_FOR_IMPORTANCES and len(names) > 1:
        importances = plots.plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target_name=figure)
        note = (
            f"Share of each setting in reaching the best tenth, by PED-ANOVA over {len(complete)} trials: a hint, not a proof."
        )
        parts.append(("Which settings mattered", note, importances))
    body = [f"<h1>Search over {html.escape(', '.join(names))}</h1>", _summary(found), _table(found, names, path.parent)]
    for number, (title, note, plot) in enumerate(parts):
        plot.update_layout(
            title=None,
            template="plotly_white",
            margin={"l": 70, "r": 50, "t": 50, "b": 60},
            height=420,
            legend={"orientation": "h", "yanchor": "bottom", "y": 1},  # beside the plot a narrow page cuts it
        )
        body.append(f"<h2>{title}</h2><p class=note>{note}</p>")
        drawn = plot.to_html(full_html=False, include_plotlyjs=number == 0, config={"displaylogo": False, "responsive": True})
        body.append(f"<div class=scroll><div class='{'wide' if number == 0 else ''}'>{drawn}</div></div>")
    page = (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Search</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(page)
    temporary.replace(path)


def _parallel_coordinates(found: Mapping[str, Any], complete: list[dict[str, Any]]) -> Any:
    """A line for each complete trial through its figure and its settings; that of Optuna 5 lets nobody pick lines."""
    import plotly.graph_objects as graphs

    values = [one["value"] for one in complete]
    axes = [{"label": found["figure"], "values": values}]
    names = [dimension["name"] for dimension in found["search"]]
    endings = [name.rpartition(".")[2] for name in names]
    for dimension, name, ending in zip(found["search"], names, endings, strict=True):
        label = ending if endings.count(ending) == 1 else name
        axes.append({"label": label, **_axis(dimension, [one["settings"][name] for one in complete])})
    line = {"color": values, "colorscale": "Viridis", "showscale": True, "colorbar": {"title": {"text": found["figure"]}}}
    return graphs.Figure(graphs.Parcoords(dimensions=axes, line=line))


def _axis(dimension: Mapping[str, Any], chosen: list[Any]) -> dict[str, Any]:
    """Choices at equal distances, in their order; logarithmic ranges as exponents, ticked at what they stand for."""
    if "values" in dimension:
        choices = list(dimension["values"])
        places = list(range(len(choices)))
        return {"values": [choices.index(one) for one in chosen], "tickvals": places, "ticktext": [str(one) for one in choices]}
    if not dimension["logarithmic"]:
        return {"values": chosen}
    exponents = [math.log10(one) for one in chosen]
    low, high = min(exponents), max(exponents)
    ticks = [low + (high - low) * part / 4 for part in range(5)]
    return {"values": exponents, "tickvals": ticks, "ticktext": [f"{10**tick:.2g}" for tick in ticks]}


def _summary(found: Mapping[str, Any]) -> str:
    best = next(one for one in found["trials"] if one["number"] == found["best"])
    told = f"<p>Trial {best['number']} is the best on the {html.escape(found['figure'])}: <b>{best['value']:.4f}</b>.</p>"
    if not found["verdict"]:
        return told + "<p class=note>Not judged on the held-out pairs yet.</p>"
    rows = {"lattice": found["verdict"]["held_out"], **found["verdict"]["baselines"]}
    lines = "".join(
        f"<tr{' class=best' if name == 'lattice' else ''}><td>{html.escape(label(name))}</td><td>{row['similarity']:.3f}</td>"
        f"<td>{row['similarity_interval'][0]:.3f} to {row['similarity_interval'][1]:.3f}</td><td>{row['mrr']:.3f}</td></tr>"
        for name, row in rows.items()
    )
    return (
        f"{told}<p>{html.escape(found['verdict']['verdict'])}</p><div class=scroll><table><tr><th>held-out pairs</th>"
        f"<th>similarity</th><th>interval</th><th>MRR</th></tr>{lines}</table></div>"
    )


def _table(found: Mapping[str, Any], names: list[str], workdir: Path) -> str:
    heads = "".join(
        f"<th>{html.escape(name).replace('.', '.<wbr>').replace('_', '_<wbr>')}</th>"
        for name in ("trial", "state", found["figure"], *names, "seconds")
    )
    lines = []
    for one in found["trials"]:
        kind = "best" if one["number"] == found["best"] else "" if one["state"] == "complete" else "rest"
        value = one["value"] if one["value"] is not None else one["last_value"]
        cells = [
            one["number"],
            one.get("reason") or one["state"],
            "" if value is None else f"{value:.4f}",
            *(one["settings"].get(name, "") for name in names),
            "" if one["seconds"] is None else f"{one['seconds']:.0f}",
        ]
        texts = [f"{cell:.4g}" if isinstance(cell, float) else html.escape(str(cell)) for cell in cells]
        report = Path(one["folder"]) / REPORT
        if (workdir / report).is_file():
            texts[0] = f"<a href='{report.as_posix()}'>{texts[0]}</a>"
        lines.append(f"<tr class='{kind}'>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return f"<h2>Trials</h2><div class=scroll><table class=trials><tr>{heads}</tr>{''.join(lines)}</table></div>"
