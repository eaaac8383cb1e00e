"""What every setting is checked with.

Contract: a value that can't be used raises `SettingsError` with the setting's dotted name, what was expected and the fix.
"""

import dataclasses
import math
from typing import Any, Literal, cast, get_args, get_origin

from lattice_jax.errors import SettingsError


def require(condition: bool, setting: str, value: object, expected: str) -> None:
    """Refuse a setting's value unless the condition holds."""
    if not condition:
        raise SettingsError(f"{setting} is {value!r}", expected=expected, fix=f"set --config.{setting} accordingly")


def require_kinds(settings: Any, room: str) -> None:
    """Refuse values that are not of their field's type, which a configuration file, being plain Python, may hold."""
    for entry in dataclasses.fields(settings):
        value, kind = getattr(settings, entry.name), cast(Any, entry.type)
        if get_origin(kind) is Literal:
            valid, expected = value in get_args(kind), "one of " + ", ".join(map(repr, get_args(kind)))
        elif kind is float:
            valid, expected = type(value) in (float, int) and math.isfinite(value), "a finite number"
        else:
            valid, expected = type(value) is kind, f"a value of type {kind.__name__}"
        require(valid, f"{room}{entry.name}", value, expected)
