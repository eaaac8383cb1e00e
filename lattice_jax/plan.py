"""Carries out a training plan and writes down what came of it.

Contract: `<workdir>/plan.json` records every attempt at a stage (settings, dates, figures, criteria, decision) and `plan.md`
says the same to a reader; both are written anew, whole, whenever something changes. What is done next follows from plan and
record alone (`next_attempt`), so a resumed plan repeats no finished stage and goes on with the one that was cut off. Stages
that train are trials (`trial.py`): the held-out pairs are first used by the last stage.
"""

import dataclasses
import datetime
import json
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lattice_jax import run, trial
from lattice_jax.commandline import CONFIG_RECORD, read_config_record
from lattice_jax.config import Config
from lattice_jax.config.overrides import with_settings
from lattice_jax.config.plan import Criterion, GoBack, GoOn, Plan, Stage
from lattice_jax.errors import InputError

RECORD, PAGE = "plan.json", "plan.md"
_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


class Next(NamedTuple):
    """The attempt that is to be made."""

    stage: Stage
    number: int
    """1 for the first attempt at this stage."""
    changes: dict[str, object]
    """What going back has changed so far, in this stage."""

    @property
    def folder(self) -> str:
        return self.stage.name if self.number == 1 else f"{self.stage.name}-{self.number}"


def next_attempt(plan: Plan, attempts: Sequence[Mapping[str, Any]]) -> Next | None:
    """What follows from the attempts that are finished; None at the end of the plan, reached or not."""
    place = 0
    changes: dict[str, dict[str, object]] = {}
    for attempt in attempts:
        decision = attempt["decision"]
        if decision["action"] == "stop":
            return None
        if decision["action"] == "go back":
            place = plan.index(decision["stage"])
            for stage in plan.stages[place:]:
                changes[stage.name] = changes.get(stage.name, {}) | decision["settings"]
        else:
            place = plan.index(attempt["stage"]) + 1
    if place == len(plan.stages):
        return None
    stage = plan.stages[place]
    return Next(stage, sum(attempt["stage"] == stage.name for attempt in attempts) + 1, changes.get(stage.name, {}))


def stage_config(base: Config, stage: Stage, changes: Mapping[str, object]) -> Config:
    """The configuration of one attempt."""
    return with_settings(base, {**stage.settings, **changes})


def weigh(criterion: Criterion, figures: Mapping[str, float]) -> dict[str, Any]:
    """The criterion beside its figures: `value`, `threshold` and whether it is `met`."""
    for name in criterion.figures():
        if not isinstance(figures.get(name), int | float):
            raise InputError(
                f"the criterion {criterion.describe()!r} speaks of {name}, which this stage does not have",
                expected=", ".join(sorted(figures)),
                fix="correct the plan file, and start it in another --workdir",
            )
    value, threshold = (figures[name] if isinstance(name, str) else name for name in (criterion.figure, criterion.threshold))
    return {
        "criterion": criterion.describe(),
        "value": value,
        "threshold": threshold + criterion.margin,
        "met": bool(_COMPARE[criterion.comparison](value, threshold + criterion.margin)),
        "reason": criterion.reason,
    }


def decide(stage: Stage, results: Sequence[Mapping[str, Any]], missed_before: int) -> dict[str, Any]:
    """What is done after a stage; `missed_before` earlier attempts at it have missed a criterion too."""
    missed = [result["criterion"] for result in results if not result["met"]]
    if not missed:
        return {"action": "go on", "reason": "every criterion is met"}
    told = f"missed: {'; '.join(missed)}"
    if missed_before >= len(stage.if_missed):
        return {"action": "stop", "reason": told}
    answer = stage.if_missed[missed_before]
    reason = f"{told}; {answer.reason}"
    if isinstance(answer, GoOn):
        return {"action": "go on", "reason": reason}
    return {"action": "go back", "stage": answer.stage, "settings": dict(answer.settings), "reason": reason}


def check(plan: Plan, base: Config) -> None:
    """Refuse a plan in which a stage's settings, or those after going back, are none that can be used."""
    for place, stage in enumerate(plan.stages):
        stage_config(base, stage, {})
        for answer in stage.if_missed:
            if isinstance(answer, GoBack):
                for later in plan.stages[plan.index(answer.stage) : place + 1]:
                    stage_config(base, later, answer.settings)


def carry_out(plan: Plan, base: Config, workdir: Path, *, resume: bool, console: Console) -> dict[str, Any]:
    """Run the stages, decide after each, and record all of it; returns the record, whose `outcome` says what was reached."""
    check(plan, base)
    record = _open_record(plan, base, workdir, resume=resume)
    shared = trial.Shared(workdir / "adapters", console)
    while (attempt := next_attempt(plan, record["attempts"])) is not None:
        record["running"] = record.get("running") or {"stage": attempt.stage.name, "since": _now()}
        _write(record, workdir)
        console.rule(f"[bold]{attempt.folder}[/]: {attempt.stage.purpose}", align="left")
        began = datetime.datetime.now().astimezone()
        figures, folder = _make(plan, base, attempt, record, workdir, shared, console)
        results = [weigh(criterion, figures) for criterion in attempt.stage.criteria]
        missed_before = sum(not earlier["met"] for earlier in record["attempts"] if earlier["stage"] == attempt.stage.name)
        decision = decide(attempt.stage, results, missed_before)
        record["attempts"].append(
            {
                "stage": attempt.stage.name,
                "purpose": attempt.stage.purpose,
                "folder": folder,
                "settings": {**attempt.stage.settings, **attempt.changes},
                "started": record.pop("running")["since"],
                "ended": _now(),
                "seconds": (datetime.datetime.now().astimezone() - began).total_seconds(),
                "met": all(result["met"] for result in results),
                "criteria": results,
                "decision": decision,
                "figures": figures,
            }
        )
        record["outcome"] = _outcome(plan, record["attempts"])
        _write(record, workdir)
        _tell(record["attempts"][-1], console)
    console.print(f"\n[bold]{record['outcome']}[/]  {workdir / PAGE}", highlight=False)
    return record


def _make(
    plan: Plan, base: Config, attempt: Next, record: dict, workdir: Path, shared: trial.Shared, console: Console
) -> tuple[dict[str, float], str]:
    """Train or judge; the figures of it, and the folder of the run."""
    stage, made = attempt.stage, {earlier["stage"]: earlier["folder"] for earlier in record["attempts"]}
    if stage.judges:
        folder = workdir / made[stage.judges]
        summary = run.train(read_config_record(folder), folder, resume=True, console=console)
        return flatten(summary), made[stage.judges]
    folder = workdir / attempt.folder
    trained = trial.train(
        stage_config(base, stage, attempt.changes),
        folder,
        shared,
        resume=(folder / CONFIG_RECORD).exists(),
        start=workdir / made[stage.start] if stage.start else None,
        adapter=workdir / made[stage.adapter] if stage.adapter else None,
    )
    return trial.figures(trained, folder), attempt.folder


def flatten(values: Any, prefix: str = "") -> dict[str, float]:
    """The numbers in nested values by dotted name; places in a list count from 0 (`gain_interval.0`)."""
    if isinstance(values, bool) or not isinstance(values, dict | list | int | float):
        return {}
    if isinstance(values, int | float):
        return {prefix: values}
    entries = values.items() if isinstance(values, dict) else enumerate(values)
    found = {}
    for name, value in entries:
        found |= flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return found


def _open_record(plan: Plan, base: Config, workdir: Path, *, resume: bool) -> dict[str, Any]:
    path = workdir / RECORD
    asked = json.loads(json.dumps({"plan": dataclasses.asdict(plan), "config": base.as_dict()}))
    if not resume:
        if path.exists():
            raise InputError(
                f"{workdir} already holds a plan", expected="a new folder", fix="give --resume, or another --workdir"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        return {"asked": asked, "attempts": [], "outcome": "under way"}
    if not path.is_file():
        raise InputError(f"{workdir} holds no plan", expected=f"a folder with {RECORD}", fix="start it without --resume")
    record = json.loads(path.read_text())
    if record["asked"] != asked:
        raise InputError(
            f"the plan or its configuration is not that of {path}",
            expected="the files as they were when it was started",
            fix="undo the changes, or start anew in another --workdir",
        )
    return record


def _write(record: dict[str, Any], workdir: Path) -> None:
    for name, text in ((RECORD, json.dumps(record, indent=2)), (PAGE, render(record))):
        temporary = workdir / f"{name}.tmp"
        with temporary.open("w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(workdir / name)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


def _outcome(plan: Plan, attempts: Sequence[Mapping[str, Any]]) -> str:
    if next_attempt(plan, attempts) is not None:
        return "under way"
    last = attempts[-1]
    missed = [result["criterion"] for result in last["criteria"] if not result["met"]]
    if last["decision"]["action"] == "stop":
        if last["stage"] == plan.stages[-1].name:
            return f"carried out; {last['stage']} missed {'; '.join(missed)}"
        return f"stopped after {last['stage']}: missed {'; '.join(missed)}"
    return "every stage reached what was asked of it" if all(_last_of_each(attempts)) else "ended; some criteria were missed"


def _last_of_each(attempts: Sequence[Mapping[str, Any]]) -> list[bool]:
    return list({attempt["stage"]: attempt["met"] for attempt in attempts}.values())


def _tell(attempt: Mapping[str, Any], console: Console) -> None:
    for result in attempt["criteria"]:
        mark = "[green]met[/]   " if result["met"] else "[red]missed[/]"
        console.print(f"{mark} {result['criterion']}: {_figure(result['value'])} against {_figure(result['threshold'])}")
    console.print(f"[bold]{attempt['decision']['action']}[/]: {attempt['decision']['reason']}")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def render(record: Mapping[str, Any]) -> str:
    """The page `plan.md`: what was reached, then every attempt with its figures beside its criteria."""
    attempts, asked = record["attempts"], record["asked"]["plan"]
    lines = [f"# Training plan on {asked['config']}: {record['outcome']}", ""]
    lines += ["| stage | started | minutes | criteria met | decision | run |", "|---|---|---|---|---|---|"]
    for attempt in attempts:
        met = sum(result["met"] for result in attempt["criteria"])
        decision, folder = attempt["decision"]["action"], attempt["folder"]
        lines.append(
            f"| {attempt['stage']} | {attempt['started'][:16]} | {attempt['seconds'] / 60:.1f} "
            f"| {met} of {len(attempt['criteria'])} | {decision} | [{folder}]({folder}) |"
        )
    running = record.get("running")
    if running:
        lines.append(f"| {running['stage']} | {running['since'][:16]} | running | | | |")
    done = {attempt["stage"] for attempt in attempts} | ({running["stage"]} if running else set())
    lines += [f"| {stage['name']} | not started | | | | |" for stage in asked["stages"] if stage["name"] not in done]
    lines += ["", "Stages before the judgement are measured without the held-out pairs.", ""]
    for attempt in attempts:
        lines += _section(attempt)
    return "\n".join(lines).rstrip()


def _section(attempt: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## {attempt['folder'] if attempt['stage'] in attempt['folder'] else attempt['stage']}",
        "",
        attempt["purpose"],
        "",
    ]
    if attempt["settings"]:
        lines += ["Settings changed: " + ", ".join(f"`{name}` = {value!r}" for name, value in attempt["settings"].items()), ""]
    lines += ["| | criterion | figure | threshold | why |", "|---|---|---|---|---|"]
    for result in attempt["criteria"]:
        lines.append(
            f"| {'met' if result['met'] else '**missed**'} | `{result['criterion']}` | {_figure(result['value'])} "
            f"| {_figure(result['threshold'])} | {result['reason']} |"
        )
    decision = attempt["decision"]
    lines += ["", f"**Decision: {decision['action']}.** {decision['reason']}."]
    if decision["action"] == "go back":
        changed = ", ".join(f"`{name}` = {value!r}" for name, value in decision["settings"].items())
        lines += [f"Back to {decision['stage']} with {changed}."]
    ended = f"{attempt['started']} to {attempt['ended']}, {attempt['seconds'] / 60:.1f} minutes in its last start"
    return [*lines, "", f"{ended}; run: [{attempt['folder']}]({attempt['folder']}).", ""]
