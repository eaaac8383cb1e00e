"""The record of a training plan, opened: a new one, or that of a plan that goes on, perhaps changed.

Contract: what has run stays what was asked for. A plan that goes on may change whatever stages have not begun, and of the one
that has begun but is not decided on all that doesn't train it: criteria, what is done when they are missed, wording. Anything
else raises `InputError` that names the stage and what differs; so does a record that is damaged. Nothing is written here.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lattice_jax.commandline import make_workdir
from lattice_jax.config import Config
from lattice_jax.config.plan import Plan
from lattice_jax.errors import InputError
from lattice_jax.records import flat, read_record, require_fields

RECORD = "plan.json"
_WHOLE = {"asked.plan.config": str, "asked.plan.stages": list, "asked.config": dict, "attempts": list, "outcome": str}
_STAGE = {"name": str, "criteria": list, "settings": dict}
_ATTEMPT = {
    **dict.fromkeys(("stage", "purpose", "folder", "started", "ended", "decision.action", "decision.reason"), str),
    "settings": dict,
    "seconds": int | float,
    "met": bool,
    "criteria": list,
    "figures": dict,
}
_BACK = {"decision.stage": str, "decision.settings": dict}
_DIVERGED = {"diverged": str}
_RESULT = {"criterion": str, "value": int | float, "threshold": int | float, "met": bool, "reason": str}
_RUNNING = {"stage": str, "since": str}
_TRAINS = ("settings", "start", "adapter", "judges")
"""Of a stage, what its run depends on."""
_EXPECTED, _FIX = "the record of a plan", "restore it, or start anew in another --workdir"


def open_record(plan: Plan, base: Config, workdir: Path, *, resume: bool) -> dict[str, Any]:
    """The record that a plan begins or goes on with; a new one gets its folder."""
    path = workdir / RECORD
    asked = json.loads(json.dumps({"plan": dataclasses.asdict(plan), "config": base.as_dict()}))
    if not resume:
        if path.exists():
            raise InputError(
                f"{workdir} already holds a plan", expected="a new folder", fix="give --resume, or another --workdir"
            )
        make_workdir(workdir)
        return {"asked": asked, "attempts": [], "outcome": "under way"}
    if not path.is_file():
        raise InputError(f"{workdir} holds no plan", expected=f"a folder with {RECORD}", fix="start it without --resume")
    record = read_plan_record(path)
    before, now = _stages(record["asked"]), _stages(asked)
    _require_same(record, before, now, path)
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    if changed:
        when = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        record["changed"] = [*record.get("changed", ()), {"when": when, "stages": changed}]
    return record | {"asked": asked}


def read_plan_record(path: Path) -> dict[str, Any]:
    """`plan.json`, whole; refuses one without what a plan goes on from, or with attempts at stages that it doesn't have."""
    record = read_record(path, _WHOLE, expected=_EXPECTED, fix=_FIX)

    def require(part: Any, fields: Mapping, where: str) -> None:
        require_fields(part, fields, f"{where} of {path}", expected=_EXPECTED, fix=_FIX)

    for number, stage in enumerate(record["asked"]["plan"]["stages"], start=1):
        require(stage, _STAGE, f"stage {number}")
    for number, attempt in enumerate(record["attempts"], start=1):
        where = f"attempt {number}"
        require(attempt, _ATTEMPT | (_DIVERGED if "diverged" in attempt else {}), where)
        for result in attempt["criteria"]:
            require(result, _RESULT, f"a criterion of {where}")
        if attempt["decision"]["action"] == "go back":
            require(attempt, _BACK, where)
    if record.get("running") is not None:
        require(record["running"], _RUNNING, "what is running")
    names = {stage["name"] for stage in record["asked"]["plan"]["stages"]}
    back = {attempt["decision"]["stage"] for attempt in record["attempts"] if attempt["decision"]["action"] == "go back"}
    foreign = (_decided(record) | _begun(record) | back) - names
    if foreign:
        raise InputError(
            f"{path} can't be read: it tells of {', '.join(sorted(foreign))}, no stage of its plan",
            expected=_EXPECTED,
            fix=_FIX,
        )
    return record


def _decided(record: Mapping[str, Any]) -> set[str]:
    """Stages that were decided on once or more."""
    return {attempt["stage"] for attempt in record["attempts"]}


def _begun(record: Mapping[str, Any]) -> set[str]:
    return _decided(record) | ({record["running"]["stage"]} if record.get("running") else set())


def _stages(asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Stages by name, each with all settings of what it trains, its own over those of the base configuration."""
    settings = flat(asked["config"])
    return {
        stage["name"]: {**stage, "settings": {} if stage.get("judges") else settings | stage["settings"]}
        for stage in asked["plan"]["stages"]
    }


def _require_same(record: Mapping[str, Any], before: Mapping[str, dict], now: Mapping[str, dict], path: Path) -> None:
    """Refuse changes of what was decided on, of what trains a stage that has begun, and of the order of both."""
    decided, begun = _decided(record), _begun(record)
    for place, name in enumerate(before):
        if name not in begun:
            continue
        found = list(now)[place] if place < len(now) else "no stage"
        if found != name:
            _refuse(f"{found} stands in place {place + 1} of the plan, where stage {name} has begun", path)
        fields = before[name] if name in decided else _TRAINS
        different = [field for field in fields if before[name].get(field) != now[name].get(field)]
        if different:
            told = [_told(field, before[name].get(field), now[name].get(field)) for field in different]
            _refuse(f"stage {name} {'was decided on' if name in decided else 'has begun'} with other {'; '.join(told)}", path)


def _told(field: str, before: Any, now: Any) -> str:
    """What differs: settings one by one, all else by its name."""
    if field != "settings":
        return field
    names = [name for name in before | now if before.get(name) != now.get(name)]
    return "settings: " + ", ".join(f"{name} = {before.get(name)!r}, now {now.get(name)!r}" for name in names)


def _refuse(found: str, path: Path) -> None:
    raise InputError(
        f"{found} ({path})",
        expected="what has run as it was; criteria may change until their stage is decided on",
        fix="undo the change, or start anew in another --workdir",
    )
