"""The page of a training plan: what was reached, and every attempt with its figures beside its criteria.

Contract: `render` makes the text of `plan.md` from the record of `plan.json` alone; it decides nothing.
"""

from collections.abc import Mapping
from typing import Any


def figure(value: float) -> str:
    """A figure as people read it: whole from a thousand on, else four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def render(record: Mapping[str, Any]) -> str:
    """The page `plan.md`: what was reached, then every attempt with its figures beside its criteria."""
    attempts, asked = record["attempts"], record["asked"]["plan"]
    lines = [f"# Training plan on {asked['config']}: {record['outcome']}", ""]
    lines += ["| stage | started | minutes | criteria met | decision | run |", "|---|---|---|---|---|---|"]
    for attempt in attempts:
        met = f"{sum(result['met'] for result in attempt['criteria'])} of {len(attempt['criteria'])}"
        decision, folder = attempt["decision"]["action"], attempt["folder"]
        if "taken" in attempt["decision"]:
            decision += f" with {attempt['decision']['taken']}"
        lines.append(
            f"| {attempt['stage']} | {attempt['started'][:16]} | {attempt['seconds'] / 60:.1f} "
            f"| {'diverged' if 'diverged' in attempt else met} | {decision} | [{folder}]({folder}) |"
        )
    running = record.get("running")
    if running:
        lines.append(f"| {running['stage']} | {running['since'][:16]} | running | | | |")
    done = {attempt["stage"] for attempt in attempts} | ({running["stage"]} if running else set())
    lines += [f"| {stage['name']} | not started | | | | |" for stage in asked["stages"] if stage["name"] not in done]
    lines += ["", "Stages before the judgement are measured without the held-out pairs.", ""]
    for change in record.get("changed", ()):
        stages = ", ".join(change["stages"])
        lines += [f"Changed on {change['when'][:16]}, before they were decided on: {stages}.", ""]
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
    if "diverged" in attempt:
        lines += [f"**Diverged: {attempt['diverged']}.** There are no figures to hold against its criteria."]
    else:
        lines += ["| | criterion | figure | threshold | why |", "|---|---|---|---|---|"]
    for result in attempt["criteria"]:
        lines.append(
            f"| {'met' if result['met'] else '**missed**'} | `{result['criterion']}` | {figure(result['value'])} "
            f"| {figure(result['threshold'])} | {result['reason']} |"
        )
    decision = attempt["decision"]
    lines += ["", f"**Decision: {decision['action']}.** {decision['reason']}."]
    if decision["action"] == "go back":
        changed = ", ".join(f"`{name}` = {value!r}" for name, value in decision["settings"].items())
        lines += [f"Back to {decision['stage']} with {changed}."]
    if "taken" in decision:
        lines += [
            f"Taken forward of {decision['of']} attempts: [{decision['taken']}]({decision['taken']}), the one that meets most "
            "criteria, or among equals that with the best validation similarity."
        ]
    ended = f"{attempt['started']} to {attempt['ended']}, {attempt['seconds'] / 60:.1f} minutes in its last start"
    return [*lines, "", f"{ended}; run: [{attempt['folder']}]({attempt['folder']}).", ""]
