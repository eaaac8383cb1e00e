"""What a search tries of one setting, as it is written on the command line.

    optimizer.learning_rate=log(1e-4,1e-2)          a number, its logarithm drawn evenly
    loss.dialogue_similarity=uniform(0,1)           a number, drawn evenly
    lattice.steps=uniform(16,32,4)                  16, 20, 24, ... 32
    lattice.sharing=choice(cell,layer)              one of these
    lattice.update.quiescent=any                    all that the setting may be, where that can be listed

Contract: whether numbers are whole, and which words there are, is taken from the setting's own type. What can't be read, or
names no setting, raises `InputError` with what was perhaps meant.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args, get_origin

from lattice_jax.config.overrides import setting_kind
from lattice_jax.errors import InputError

_NOTATION = "NAME=log(low,high), uniform(low,high), uniform(low,high,step), choice(a,b,...) or any"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both possible."""

    name: str
    low: float
    high: float
    step: float | None
    logarithmic: bool
    whole: bool


@dataclass(frozen=True)
class Choice:
    """Some values."""

    name: str
    values: tuple[bool | int | float | str, ...]


Dimension = Range | Choice


def parse_dimension(text: str) -> Dimension:
    """The dimension that `text` writes."""
    name, equals, notation = (part.strip() for part in text.partition("="))
    if not equals:
        _refuse(text, _NOTATION)
    kind = setting_kind(name)
    if notation == "any":
        return Choice(name, _all_of(text, kind))
    found = re.fullmatch(r"(log|uniform|choice)\((.*)\)", notation)
    if not found:
        _refuse(text, _NOTATION)
    words = [word.strip() for word in found[2].split(",")]
    if found[1] == "choice":
        return Choice(name, tuple(_value(text, kind, word) for word in words))
    return _range(text, name, kind, found[1] == "log", words)


def _range(text: str, name: str, kind: Any, logarithmic: bool, words: list[str]) -> Range:
    if kind not in (int, float):
        _refuse(text, f"choice(...) or any: {name} is no number")
    if len(words) not in ((2,) if logarithmic else (2, 3)):
        _refuse(text, "log(low,high)" if logarithmic else "uniform(low,high) or uniform(low,high,step)")
    low, high, *rest = (_value(text, kind, word) for word in words)
    if not low < high or (logarithmic and low <= 0) or (rest and rest[0] <= 0):
        _refuse(text, "low < high, both above 0 for log, and a step above 0")
    return Range(name, low, high, rest[0] if rest else None, logarithmic, kind is int)


def _value(text: str, kind: Any, word: str) -> Any:
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            _refuse(text, "words of " + ", ".join(get_args(kind)))
        return word
    if kind is bool:
        if word.lower() not in ("true", "false"):
            _refuse(text, "true or false")
        return word.lower() == "true"
    try:
        value = kind(word)
    except ValueError:
        _refuse(text, f"values of type {kind.__name__}, where {word!r} stands")
    if kind is float and not math.isfinite(value):
        _refuse(text, "finite numbers")
    return value


def _all_of(text: str, kind: Any) -> tuple:
    if kind is bool:
        return (True, False)
    if get_origin(kind) is not Literal:
        _refuse(text, f"a range or choice(...): there are too many values of type {kind.__name__} to try all")
    return get_args(kind)


def _refuse(text: str, expected: str) -> NoReturn:
    raise InputError(f"the search {text!r} can't be read", expected=expected, fix="correct --search, in quotation marks")
