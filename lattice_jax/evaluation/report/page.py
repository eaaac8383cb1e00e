"""One HTML file that needs nothing else: styles, figures, data and scripts stand in it.

Contract: `write_report` and `write_comparison` read folders of runs and write their page whole or not at all. Text of the run
is escaped by the template engine; no address is loaded. `refresh` lets the page load itself anew every so many seconds.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib  # noqa: F401  (both are the extra 'evaluation': absent, `run` says how to install them)
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tensorboardX import SummaryWriter

from lattice_jax.errors import InputError
from lattice_jax.evaluation.report.comparison import comparison_sections
from lattice_jax.evaluation.report.drawing import Panel, pixels, png, svg
from lattice_jax.evaluation.report.record import Run, read_run, told_apart
from lattice_jax.evaluation.report.sections import Section, headline, repeat, sections
from lattice_jax.evaluation.report.viewer import payload

COMPARISON = "comparison.html"
_NONE: Mapping[str, str] = MappingProxyType({})


def write_report(run: Run, out: Path, *, refresh: int | None = None, definitions: Mapping[str, str] = _NONE) -> list[Panel]:
    """The page of one run; returns its figures."""
    parts = sections(run, definitions)
    summary = run.summary or {}
    _write(
        out,
        parts,
        title=run.name,
        subtitle=f"{run.settings['corpus']['pairs']} · {run.settings['teacher']['name']} · " + _progress(run),
        cards=headline(run),
        samples=summary.get("samples", []),
        alerts=run.alerts,
        source=repeat(run),
        cube=payload(run.emergence) if run.emergence and "activity" in run.emergence else None,
        refresh=None if run.ended else refresh,
    )
    return _panels(parts)


def write_comparison(runs: Sequence[Run], out: Path, *, refresh: int | None = None) -> list[Panel]:
    """The page that holds several runs against each other; returns its figures."""
    parts = comparison_sections(runs)
    _write(
        out,
        parts,
        title=f"{len(runs)} runs",
        subtitle=" · ".join(run.name for run in runs),
        cards=[],
        samples=[],
        alerts=[],
        source="",
        cube=None,
        refresh=None if all(run.ended for run in runs) else refresh,
    )
    return _panels(parts)


def write_page(
    folders: Sequence[Path], out: Path, *, refresh: int | None = None, definitions: Mapping[str, str] = _NONE
) -> tuple[list[Panel], bool]:
    """The report of one folder or the comparison of several: its figures, and whether all runs have ended.

    `definitions` say what metrics of emergence are, by name, for a run whose summary does not do so yet.
    """
    runs = told_apart([read_run(folder) for folder in folders])
    if len(runs) == 1:
        panels = write_report(runs[0], out, refresh=refresh, definitions=definitions)
    else:
        panels = write_comparison(runs, out, refresh=refresh)
    return panels, all(run.ended for run in runs)


def export_png(panels: Sequence[Panel], folder: Path) -> list[Path]:
    """Every figure as a PNG of its own name in a folder, which is made."""
    paths = [folder / f"{panel.name}.png" for panel in panels]
    with _writing(folder, "a folder, new or not", "--png"):
        folder.mkdir(parents=True, exist_ok=True)
        for panel, path in zip(panels, paths, strict=True):
            png(panel, path)
    return paths


def show_in_tensorboard(panels: Sequence[Panel], workdir: Path, step: int) -> None:
    """The same figures as images in an event file of the run's folder."""
    with SummaryWriter(str(workdir)) as events:
        for panel in panels:
            events.add_image(f"report/{panel.name}", pixels(panel), step, dataformats="HWC")


def _progress(run: Run) -> str:
    if run.summary:
        return f"ended after {run.summary['steps']} steps"
    at = f"step {run.step} of {run.steps}"
    if run.stopped:
        return f"{at}, stopped: {run.stopped.message}"
    return f"{at}, {run.unjudged}" if run.unjudged else at


def _panels(parts: Sequence[Section]) -> list[Panel]:
    return [panel for part in parts for panel in part.panels]


def _write(out: Path, parts: Sequence[Section], **values: Any) -> None:
    environment = Environment(
        loader=PackageLoader("lattice_jax.evaluation.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = lambda panel: Markup(svg(panel))
    # A script ends at the first "</script", wherever it stands.
    environment.filters["data"] = lambda data: Markup(json.dumps(data).replace("<", "\\u003c"))
    environment.globals["file"] = lambda name: Markup(environment.get_template(name).render())
    page = environment.get_template("report.html").render(parts=parts, **values)
    with _writing(out, "a file, new or not, in a folder that can be made", "--out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        # A run that ends and a program that watches it may write the same page at once: each has a file of its own.
        temporary = out.with_name(f"{out.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_text(page, encoding="utf-8")
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path, expected: str, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} can't be written: {error.strerror}", expected=expected, fix=f"give another {option}"
        ) from error
