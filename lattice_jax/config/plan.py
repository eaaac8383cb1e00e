"""A training plan: stages, what each must reach, and what is done when it does not.

Contract: a plan file is plain Python with one `PLAN = Plan(config=FILE, stages=(...))`. A stage trains the base configuration
with some settings changed, and never touches held-out pairs; the last one may instead judge what an earlier one trained, on the
held-out pairs. Only there may criteria speak of held-out figures. Whatever breaks this, or is of another type than its field,
raises `InputError` when the plan is made, before anything is trained.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, get_args

from lattice_jax.errors import InputError

Comparison = Literal[">", ">=", "<", "<="]
_MEASURE = "(similarity|recall_at_1|recall_at_5|mrr)"
OPEN_FIGURES = re.compile(
    rf"(first|last|best)\..+|(validation|train)\.{_MEASURE}|baselines\.\w+\.(validation|train)_{_MEASURE}"
    rf"|best_baseline\.validation_{_MEASURE}|adapter\.validation_reconstruction"
    r"|steps|best_step|seconds|samples_per_second|peak_memory_bytes"
)
"""Figures that are taken without held-out pairs: all that a stage but the last may be measured by."""


@dataclass(frozen=True)
class Criterion:
    """One comparison that decides on a stage: figure, comparison, threshold, and why it is asked for."""

    figure: str
    """Dotted name of a figure of the stage: `validation.similarity`, `last.loss`, in the last stage any of `summary.json`.

    `best.*` are those that every look at the validation pairs records, for a run may be best before its first step."""
    comparison: Comparison
    threshold: float | str
    """A number, or the name of another figure of the same stage, such as `best_baseline.validation_similarity`."""
    reason: str
    """What would be wrong if it were missed."""
    margin: float = 0.0
    """Added to the threshold."""

    def __post_init__(self):
        _require_text(self.figure, "the figure of a criterion")
        told = f"of the criterion on {self.figure}"
        _require(
            _is_number(self.threshold) or (isinstance(self.threshold, str) and self.threshold.strip() != ""),
            f"the threshold {self.threshold!r} {told}",
            "a finite number or the name of another figure",
        )
        _require(_is_number(self.margin), f"the margin {self.margin!r} {told}", "a finite number")
        _require_text(self.reason, f"the reason {told}")
        _require(self.comparison in (">", ">=", "<", "<="), f"the comparison {self.comparison!r}", "one of >, >=, <, <=")

    def figures(self) -> tuple[str, ...]:
        """All figures that it reads."""
        return (self.figure, self.threshold) if isinstance(self.threshold, str) else (self.figure,)

    def describe(self) -> str:
        """The criterion as it is written in the plan's record."""
        margin = f" {'+' if self.margin > 0 else '-'} {abs(self.margin):g}" if self.margin else ""
        threshold = self.threshold if isinstance(self.threshold, str) else f"{self.threshold:g}"
        return f"{self.figure} {self.comparison} {threshold}{margin}"


@dataclass(frozen=True)
class GoBack:
    """Repeat from an earlier stage, or from the missed one itself, with some settings changed."""

    stage: str
    settings: Mapping[str, object]
    """By dotted name; they hold in that stage and in all after it, over what those set themselves. When a stage has been
    repeated and an attempt from before the change is taken forward, it holds no more."""
    reason: str
    """Why this change should help."""

    def __post_init__(self):
        _require_text(self.stage, "the stage of a GoBack")
        _require_settings(self.settings, f"a GoBack to {self.stage!r}")
        _require_text(self.reason, f"the reason of a GoBack to {self.stage!r}")


@dataclass(frozen=True)
class GoOn:
    """Go on although a criterion was missed."""

    reason: str

    def __post_init__(self):
        _require_text(self.reason, "the reason of a GoOn")


@dataclass(frozen=True)
class Stage:
    """One run of the plan, with what it must reach."""

    name: str
    purpose: str
    criteria: tuple[Criterion, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    """Changes of the base configuration, by dotted name."""
    start: str = ""
    """An earlier stage whose best parameters this one starts from; '' starts afresh."""
    adapter: str = ""
    """An earlier stage whose adapter is taken; '' trains one."""
    judges: str = ""
    """An earlier stage whose run is judged on the held-out pairs, instead of training; the last stage alone may."""
    if_missed: tuple[GoBack | GoOn, ...] = ()
    """What is done the first, the second, ... time that a criterion is missed; after the last of them the plan stops."""

    def __post_init__(self):
        _require(
            isinstance(self.name, str) and re.fullmatch(r"[\w-]+", self.name) is not None,
            f"the stage name {self.name!r}",
            "letters, digits, '-' and '_': it names a folder",
        )
        told = f"of stage {self.name!r}"
        _require_text(self.purpose, f"the purpose {told}")
        _require_all(self.criteria, Criterion, f"the criteria {told}")
        _require_all(self.if_missed, GoBack | GoOn, f"if_missed {told}")
        _require_settings(self.settings, f"stage {self.name!r}")
        for role in ("start", "adapter", "judges"):
            other = getattr(self, role)
            _require(isinstance(other, str), f"{role} {other!r} {told}", "the name of an earlier stage, or ''")
        _require(
            len(self.criteria) > 0, f"stage {self.name!r} without criteria", "at least one: a stage is there to be decided on"
        )
        trained = {"settings": self.settings, "start": self.start, "adapter": self.adapter}
        _require(
            not self.judges or not any(trained.values()),
            f"stage {self.name!r} judges {self.judges!r} and sets {[name for name, value in trained.items() if value]}",
            "judges alone: it trains nothing",
        )


@dataclass(frozen=True)
class Plan:
    """Stages in order, over one base configuration."""

    config: str
    """Configuration file that all stages change, beside the plan file."""
    stages: tuple[Stage, ...]

    def __post_init__(self):
        _require_text(self.config, "the config of a plan")
        _require_all(self.stages, Stage, "the stages of a plan")
        names = [stage.name for stage in self.stages]
        _require(len(names) > 0, "a plan without stages", "at least one")
        _require(len(set(names)) == len(names), f"stages named {names}", "a name of its own for each")
        for number, stage in enumerate(self.stages):
            earlier, last = names[:number], number == len(names) - 1
            _require(not stage.judges or last, f"stage {stage.name!r} judges on held-out pairs", "that in the last stage alone")
            for role, other in (("start", stage.start), ("adapter", stage.adapter), ("judges", stage.judges)):
                _require(
                    not other or other in earlier, f"{role} {other!r} of stage {stage.name!r}", f"an earlier stage: {earlier}"
                )
            for decision in stage.if_missed:
                if not isinstance(decision, GoBack):
                    continue
                # What held-out pairs have told must not change what is trained, or they are held out no more.
                _require(
                    not stage.judges, f"stage {stage.name!r} goes back by held-out figures", "no way back from a judgement"
                )
                _require(
                    decision.stage in [*earlier, stage.name],
                    f"stage {stage.name!r} goes back to {decision.stage!r}",
                    f"itself or an earlier stage: {earlier}",
                )
            if not stage.judges:
                _require_open(stage)

    def index(self, name: str) -> int:
        """Place of the stage of that name."""
        return [stage.name for stage in self.stages].index(name)


def _require_open(stage: Stage) -> None:
    for criterion in stage.criteria:
        for figure in criterion.figures():
            _require(
                OPEN_FIGURES.fullmatch(figure) is not None,
                f"stage {stage.name!r} is measured by {figure}",
                "figures taken without held-out pairs (validation.*, train.*, first.*, last.*, best.*, "
                "baselines.NAME.validation_*, best_baseline.validation_*): held-out figures decide in the last stage alone, "
                "one that judges",
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require_text(value: object, called: str) -> None:
    _require(isinstance(value, str) and value.strip() != "", f"{called} is {value!r}", "some text")


def _require_settings(value: object, called: str) -> None:
    _require(
        isinstance(value, Mapping) and all(isinstance(name, str) for name in value),
        f"{called} with the settings {value!r}",
        "a dictionary from dotted names to values",
    )


def _require_all(values: Any, kind: type | UnionType, called: str) -> None:
    names = " or ".join(one.__name__ for one in get_args(kind)) or getattr(kind, "__name__", "")
    one = f"a tuple of {names}, with a comma behind a single one"
    _require(isinstance(values, tuple | list), f"{called}: {values!r}", one)
    for value in values:
        _require(isinstance(value, kind), f"{called}: {value!r} among them", f"a tuple of {names}")


def _require(condition: bool, found: str, expected: str) -> None:
    if not condition:
        raise InputError(found, expected=expected, fix="correct the plan file")
