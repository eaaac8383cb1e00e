"""A run's folder, read for its report.

Contract: `read_run` takes whatever a run has written so far and returns it as plain values and arrays; what is not there yet is
None or empty, and only a folder without `config.json` is refused. Nothing is computed and nothing is written here.
"""

import dataclasses
import os
import typing
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from lattice_jax.config import Config
from lattice_jax.errors import InputError
from lattice_jax.records import flat, read_record, require_fields, require_file
from lattice_jax.training.alerts import NON_FINITE, Alert
from lattice_jax.training.monitor import ALERTS, METRICS, read_metrics

CONFIG, SUMMARY, EMERGENCE, TRIAL = "config.json", "summary.json", "emergence.npz", "trial.json"
REPORT = "report.html"
"""The page of a run, in its folder."""
_SETTINGS = {"corpus.pairs": str, "teacher.name": str, "training.steps": int, "optimizer.gradient_clip": object, "seed": int}
_FIGURES = {
    **dict.fromkeys(("held_out", "train", "baselines", "adapter_ceiling"), dict),
    **dict.fromkeys(("steps", "best_step", "parameters", "peak_memory_bytes"), int),
    **dict.fromkeys(("seconds", "confidence", "train.similarity"), int | float),
    "held_out.pairs": int,
    **dict.fromkeys(("data_hash", "verdict"), str),
}
"""What a page can't do without."""
_MEASURES = {
    **dict.fromkeys(("similarity", "mrr", "recall_at_1", "recall_at_5"), int | float),
    **dict.fromkeys(("similarity_interval", "mrr_interval"), list),
}
"""The same of whatever was judged on held-out pairs."""
_WHERE_THERE = {
    **dict.fromkeys(("emergence", "pool", "recovery", "edge_cases", "versions", "pairs"), dict),
    "samples": list,
}
"""What a page goes without, and what it is where a run has it."""


class Run(NamedTuple):
    """What a run has left so far."""

    name: str
    folder: Path
    settings: dict
    """Nested, as `Config.as_dict` gives them."""
    rows: list[dict]
    """Lines of `metrics.jsonl`."""
    adapter_rows: list[dict]
    alerts: list[Alert]
    summary: dict | None
    """None until the run has ended."""
    unjudged: str | None
    """How a run ended that stops short of its verdict, a trial of a sweep or a stage of a plan; None for any other."""
    emergence: dict[str, np.ndarray] | None
    """Arrays of `emergence.npz`, which a run writes at its end."""

    @property
    def step(self) -> int:
        """The last step on record."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will come: judged, ended without a verdict, or stopped by a figure that is no number."""
        return self.summary is not None or self.unjudged is not None or self.stopped is not None

    @property
    def stopped(self) -> Alert | None:
        """What stopped a run that diverged."""
        return next((alert for alert in self.alerts if alert.kind == NON_FINITE), None)

    @property
    def steps(self) -> int:
        """Steps that the run is to take at most."""
        return self.settings["training"]["steps"]


def read_run(folder: str | os.PathLike) -> Run:
    """Everything in the folder; InputError where there is no run, or where a file of it is damaged."""
    folder = Path(folder)
    expected, fix = f"a folder with {CONFIG}", "name the --workdir of a run"
    require_file(folder / CONFIG, f"{folder} holds no run", expected=expected, fix=fix)
    emergence = folder / EMERGENCE
    return Run(
        name=folder.resolve().name,
        folder=folder,
        settings=read_record(folder / CONFIG, _SETTINGS),
        rows=_rows(folder / METRICS),
        adapter_rows=_rows(folder / "adapter" / METRICS),
        alerts=[_alert(row, path) for path in (folder / "adapter" / ALERTS, folder / ALERTS) for row in _rows(path)],
        summary=_summary(folder / SUMMARY) if (folder / SUMMARY).is_file() else None,
        unjudged=read_record(folder / TRIAL, {"outcome": str})["outcome"] if (folder / TRIAL).is_file() else None,
        emergence=_arrays(emergence) if emergence.is_file() else None,
    )


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, those of one name called by as much of their folders' paths as tells them apart."""
    named = list(runs)
    for parts in range(2, max(len(run.folder.resolve().parts) for run in runs)):
        names = [run.name for run in named]
        alike = {name for name in names if names.count(name) > 1}
        if not alike:
            break
        tails = ["/".join(run.folder.resolve().parts[-parts:]) for run in runs]
        named = [run._replace(name=tail) if run.name in alike else run for run, tail in zip(named, tails, strict=True)]
    return named


def changed_settings(settings: Mapping) -> dict[str, tuple[Any, Any]]:
    """Settings that are not as they are without a configuration: (value, start value) by dotted name."""
    start = flat(Config().as_dict())
    return {name: (value, start.get(name)) for name, value in flat(settings).items() if start.get(name) != value}


def differing_settings(runs: list[Run]) -> dict[str, list[Any]]:
    """Settings in which runs differ, with each run's value (None where a run knows no such setting)."""
    of_runs = [flat(run.settings) for run in runs]
    names = dict.fromkeys(name for settings in of_runs for name in settings)
    values = {name: [settings.get(name) for settings in of_runs] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def configuration_source(settings: Mapping) -> str:
    """A configuration file that repeats a run: Python whose CONFIG has these settings.

    A setting of another version, which this one does not have, is left out and named in a comment.
    """
    used: set[str] = set()
    known = flat(Config().as_dict())
    foreign = [name for name in flat(settings) if name not in known]
    body = _call(Config, settings, used)
    comment = f"# Unknown to this version of lattice_jax: {', '.join(foreign)}\n" if foreign else ""
    return f"{comment}from lattice_jax.config import {', '.join(sorted(used))}\n\nCONFIG = {body}\n"


def _call(kind: type, settings: Mapping, used: set[str], indent: str = "") -> str:
    used.add(kind.__name__)
    start, kinds, inner = dataclasses.asdict(kind()), typing.get_type_hints(kind), indent + "    "
    arguments = []
    for name, value in settings.items():
        if name not in start or start[name] == value:
            continue
        text = _call(kinds[name], value, used, inner) if isinstance(value, Mapping) else repr(value)
        arguments.append(f"{inner}{name}={text},\n")
    return f"{kind.__name__}(\n{''.join(arguments)}{indent})" if arguments else f"{kind.__name__}()"


def _rows(path: Path) -> list[dict]:
    return read_metrics(path) if path.is_file() else []


def _summary(path: Path) -> dict:
    """The figures of a run that has ended, as far as a page reads them."""
    summary = read_record(path, _FIGURES)
    require_fields(summary, {name: kind for name, kind in _WHERE_THERE.items() if name in summary}, str(path))
    judged = {name: summary[name] for name in ("held_out", "adapter_ceiling")}
    judged |= {f"baselines.{name}": row for name, row in summary["baselines"].items()}
    for name, row in judged.items():
        require_fields(row, _MEASURES, f"{name} in {path}")
    for name, row in summary.get("emergence", {}).items():
        require_fields(row, {}, f"emergence.{name} in {path}")
    return summary


def _alert(row: Mapping, path: Path) -> Alert:
    try:
        return Alert(*(row[name] for name in Alert._fields))
    except KeyError as error:
        raise InputError(f"{path} has an alert without {error}", expected=", ".join(Alert._fields), fix="restore it") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path} can't be read: {error}", expected="arrays as the run wrote them", fix="restore it") from error
