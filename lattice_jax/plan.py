"""Carries out a training plan and writes down what came of it.

Contract: `<workdir>/plan.json` records every attempt at a stage (settings, dates, figures, criteria, decision) and `plan.md`
says the same to a reader; both are written anew, whole, whenever something changes. What is done next follows from plan and
record alone (`standing`), so a resumed plan repeats no finished stage and goes on with the one that was cut off; until a stage
is decided on, its criteria may be changed (`plan_record.py`). Of several attempts at a stage the best is taken forward; one
that diverged is missed and without figures, and nothing is built on it. Stages that train are trials (`trial.py`), each with a
report in its folder: the held-out pairs are first used by the last stage.
"""

import datetime
import json
import math
import operator
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from lattice_jax import plan_record, run, trial
from lattice_jax.commandline import CONFIG_RECORD, read_config_record, use_devices
from lattice_jax.config import Config
from lattice_jax.config.overrides import with_settings
from lattice_jax.config.plan import Criterion, GoBack, GoOn, Plan, Stage
from lattice_jax.errors import InputError
from lattice_jax.evaluation.plan_page import figure, render
from lattice_jax.figures import flatten, require_known
from lattice_jax.plan_record import RECORD
from lattice_jax.training.alerts import NonFinite
from lattice_jax.training.loop import Interrupted

PAGE, ADAPTERS = "plan.md", "adapters"
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


class Standing(NamedTuple):
    """Where a plan stands after the attempts that are finished."""

    place: int | None = 0
    """Of the stage that comes next; None where the plan has stopped."""
    changes: Mapping[str, Mapping[str, object]] = MappingProxyType({})
    """What going back has changed so far, by stage."""
    taken: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """The attempt at each earlier stage that is built on."""


def standing(plan: Plan, attempts: Sequence[Mapping[str, Any]]) -> Standing:
    """What follows from the attempts.

    Of a stage that was repeated, the best attempt is taken forward, with the earlier attempts that it was built on and the
    changes that it was made with. Going back makes the stages before the missed one anew: their earlier attempts, which have
    led to the miss, no longer compete, else nothing would come of what was changed.
    """
    now, made = Standing(), {}
    for attempt in attempts:
        name, decision = attempt["stage"], attempt["decision"]
        made.setdefault(name, []).append((attempt, now))
        if decision["action"] == "go back":
            place = plan.index(decision["stage"])
            for stage in plan.stages[place : plan.index(name)]:
                made.pop(stage.name, None)
            changes = dict(now.changes)
            for stage in plan.stages[place:]:
                changes[stage.name] = {**changes.get(stage.name, {}), **decision["settings"]}
            now = Standing(place, changes, {one: taken for one, taken in now.taken.items() if plan.index(one) < place})
        else:
            best, before = max(made[name], key=lambda pair: _worth(pair[0]))
            place = None if decision["action"] == "stop" else plan.index(name) + 1
            now = Standing(place, before.changes, {**before.taken, name: best})
    return now


def _worth(attempt: Mapping[str, Any]) -> tuple[int, float]:
    """By which attempts at one stage are compared; a judgement, made but once, has no validation figures."""
    return sum(result["met"] for result in attempt["criteria"]), attempt["figures"].get("validation.similarity", -math.inf)


def next_attempt(plan: Plan, attempts: Sequence[Mapping[str, Any]]) -> Next | None:
    """What follows from the attempts that are finished; None at the end of the plan, reached or not."""
    place, changes, _ = standing(plan, attempts)
    if place is None or place == len(plan.stages):
        return None
    stage = plan.stages[place]
    return Next(stage, _attempts_at(stage.name, attempts) + 1, dict(changes.get(stage.name, {})))


def _attempts_at(stage: str, attempts: Sequence[Mapping[str, Any]]) -> int:
    return sum(attempt["stage"] == stage for attempt in attempts)


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
                fix="correct the plan file, and go on with --resume",
            )
    value, threshold = (figures[name] if isinstance(name, str) else name for name in (criterion.figure, criterion.threshold))
    return {
        "criterion": criterion.describe(),
        "value": value,
        "threshold": threshold + criterion.margin,
        "met": bool(_COMPARE[criterion.comparison](value, threshold + criterion.margin)),
        "reason": criterion.reason,
    }


def decide(stage: Stage, results: Sequence[Mapping[str, Any]], missed_before: int, *, diverged: str = "") -> dict[str, Any]:
    """What is done after a stage; `missed_before` earlier attempts at it have missed a criterion, or diverged, too."""
    told = _shortfall(results, diverged)
    if not told:
        return {"action": "go on", "reason": "every criterion is met"}
    if missed_before >= len(stage.if_missed):
        return {"action": "stop", "reason": told}
    answer = stage.if_missed[missed_before]
    reason = f"{told}; {answer.reason}"
    if isinstance(answer, GoOn):
        return {"action": "go on", "reason": reason}
    return {"action": "go back", "stage": answer.stage, "settings": dict(answer.settings), "reason": reason}


def _shortfall(results: Sequence[Mapping[str, Any]], diverged: str) -> str:
    """What an attempt did not reach, '' where it reached all; `diverged`: what it was told with that stopped being a number."""
    missed = [result["criterion"] for result in results if not result["met"]]
    return f"diverged: {diverged}" if diverged else f"missed: {'; '.join(missed)}" if missed else ""


def _require_something_to_build_on(plan: Plan, attempts: Sequence[dict[str, Any]]) -> None:
    """Stop after all where the last attempt diverged, and a later stage builds on its stage, at which no attempt did better."""
    last = attempts[-1]
    later = plan.stages[plan.index(last["stage"]) + 1 :]
    built_on = any(last["stage"] in (stage.start, stage.adapter, stage.judges) for stage in later)
    if last["decision"]["action"] == "go on" and built_on and "diverged" in standing(plan, attempts).taken[last["stage"]]:
        last["decision"] = {
            "action": "stop",
            "reason": f"{last['decision']['reason']}; nothing is there that later stages build on",
        }


def check(plan: Plan, base: Config) -> None:
    """Refuse a plan that can't be carried out: settings that are none, at the start or after going back, criteria on figures
    that a stage will not have, and stages whose folders would be each other's or another's."""
    _check_folders(plan)
    for stage in plan.stages:
        changes: dict[str, dict[str, object]] = {}
        _check_stage(plan, base, stage, changes)
        for answer in stage.if_missed:
            if isinstance(answer, GoBack):
                for later in plan.stages[plan.index(answer.stage) :]:
                    changes[later.name] = changes.get(later.name, {}) | dict(answer.settings)
                    _check_stage(plan, base, later, changes)


def _check_stage(plan: Plan, base: Config, stage: Stage, changes: Mapping[str, Mapping[str, object]]) -> None:
    trained = plan.stages[plan.index(stage.judges)] if stage.judges else stage
    require_known(stage, stage_config(base, trained, changes.get(trained.name, {})))


def _check_folders(plan: Plan) -> None:
    names = [stage.name for stage in plan.stages]
    for name in names:
        repeated = re.fullmatch(r"(.+)-([2-9]|[1-9][0-9]+)", name)
        taken = "what stages share of adapters" if name == ADAPTERS else ""
        if repeated and repeated[1] in names:
            taken = f"attempt {repeated[2]} at stage {repeated[1]!r}"
        if taken:
            raise InputError(
                f"the stage name {name!r}",
                expected=f"one whose folder isn't that of {taken}",
                fix="give the stage another name",
            )


def carry_out(plan: Plan, base: Config, workdir: Path, *, resume: bool, console: Console) -> dict[str, Any]:
    """Run the stages, decide after each, and record all of it; returns the record, whose `outcome` says what was reached."""
    use_devices(base)  # what checks a plan lets JAX trace, and from then on it keeps its devices
    check(plan, base)
    record = plan_record.open_record(plan, base, workdir, resume=resume)
    record["outcome"] = _outcome(plan, record["attempts"])
    _write(record, workdir)
    shared = trial.Shared(workdir / ADAPTERS, console)
    while (attempt := next_attempt(plan, record["attempts"])) is not None:
        record["running"] = record.get("running") or {"stage": attempt.stage.name, "since": _now()}
        _write(record, workdir)
        console.rule(f"[bold]{attempt.folder}[/]: {escape(attempt.stage.purpose)}", align="left")
        began = datetime.datetime.now().astimezone()
        figures, folder, diverged = _make(plan, base, attempt, record, workdir, shared, console)
        results = [] if diverged else [weigh(criterion, figures) for criterion in attempt.stage.criteria]
        missed_before = sum(not earlier["met"] for earlier in record["attempts"] if earlier["stage"] == attempt.stage.name)
        decision = decide(attempt.stage, results, missed_before, diverged=diverged)
        record["attempts"].append(
            {
                "stage": attempt.stage.name,
                "purpose": attempt.stage.purpose,
                "folder": folder,
                "settings": {**attempt.stage.settings, **attempt.changes},
                "started": record.pop("running")["since"],
                "ended": _now(),
                "seconds": (datetime.datetime.now().astimezone() - began).total_seconds(),
                "met": not _shortfall(results, diverged),
                "criteria": results,
                "decision": decision,
                "figures": figures,
                **({"diverged": diverged} if diverged else {}),
            }
        )
        _require_something_to_build_on(plan, record["attempts"])
        _tell_what_is_taken(plan, record["attempts"])
        record["outcome"] = _outcome(plan, record["attempts"])
        _write(record, workdir)
        _tell(record["attempts"][-1], console)
    console.print(f"\n[bold]{escape(record['outcome'])}[/]  {escape(str(workdir / PAGE))}", highlight=False)
    return record


def _make(
    plan: Plan, base: Config, attempt: Next, record: dict, workdir: Path, shared: trial.Shared, console: Console
) -> tuple[dict[str, float], str, str]:
    """Train or judge; the figures of it, the folder of the run, and, where it diverged, what stopped being a number."""
    stage, taken = attempt.stage, standing(plan, record["attempts"]).taken
    made = {name: earlier["folder"] for name, earlier in taken.items()}
    name = made[stage.judges] if stage.judges else attempt.folder
    folder = workdir / name
    try:
        if stage.judges:
            summary = run.train(read_config_record(folder), folder, resume=True, console=console)
            return flatten(summary), name, ""
        trained = trial.train(
            stage_config(base, stage, attempt.changes),
            folder,
            shared,
            resume=(folder / CONFIG_RECORD).exists(),
            start=workdir / made[stage.start] if stage.start else None,
            adapter=workdir / made[stage.adapter] if stage.adapter else None,
        )
    except (NonFinite, Interrupted) as stopped:
        run.leave_report(folder, stopped.step, console)
        if isinstance(stopped, Interrupted):
            raise
        return {}, name, stopped.found
    run.leave_report(folder, trained.result.step, console)
    return trial.figures(trained, folder), name, ""


def _tell_what_is_taken(plan: Plan, attempts: Sequence[dict[str, Any]]) -> None:
    """Add to the last decision, where it is to go on, which of several attempts is built on."""
    name, decision = attempts[-1]["stage"], attempts[-1]["decision"]
    if decision["action"] == "go on" and _attempts_at(name, attempts) > 1:
        taken = standing(plan, attempts).taken[name]["folder"]
        attempts[-1]["decision"] = {**decision, "taken": taken, "of": _attempts_at(name, attempts)}


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
    if last["decision"]["action"] == "stop":
        told = _shortfall(last["criteria"], last.get("diverged", "")).replace("missed: ", "missed ", 1)
        return (
            f"carried out; {last['stage']} {told}"
            if last["stage"] == plan.stages[-1].name
            else f"stopped after {last['stage']}: {told}"
        )
    reached = all(attempt["met"] for attempt in standing(plan, attempts).taken.values())
    return "every stage reached what was asked of it" if reached else "ended; some criteria were missed"


def _tell(attempt: Mapping[str, Any], console: Console) -> None:
    if "diverged" in attempt:
        console.print(f"[red]diverged[/]: {escape(attempt['diverged'])}")
    for result in attempt["criteria"]:
        mark = "[green]met[/]   " if result["met"] else "[red]missed[/]"
        console.print(f"{mark} {result['criterion']}: {figure(result['value'])} against {figure(result['threshold'])}")
    decision = attempt["decision"]
    taken = f" with {decision['taken']}" if "taken" in decision else ""
    console.print(f"[bold]{decision['action']}[/]{taken}: {escape(decision['reason'])}")
