"""Settings by their dotted names: what there is, of which type, and a configuration with some of them changed.

Contract: a name that is no setting raises `InputError` with the names nearest to it. Changes are made together, so that what is
checked across settings sees all of them; a value out of its range raises as it does in a configuration file.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from lattice_jax.config import Config
from lattice_jax.errors import InputError

Settings = TypeVar("Settings")
_NEAREST_SHOWN = 3


def setting_kinds(settings: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Every single setting by its dotted name, with its type: int, float, bool, str or a `Literal`."""
    kinds: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        name = f"{prefix}{entry.name}"
        kinds |= setting_kinds(entry.type, f"{name}.") if dataclasses.is_dataclass(entry.type) else {name: entry.type}
    return kinds


def setting_kind(name: str) -> Any:
    """The type of one setting."""
    kinds = setting_kinds()
    if name not in kinds:
        raise InputError(f"there is no setting {name!r}", expected=_nearest(name, kinds), fix="bin/train --help lists them all")
    return kinds[name]


def with_settings(config: Config, changes: Mapping[str, object]) -> Config:
    """`config` with other values of the settings that `changes` names."""
    for name in changes:
        setting_kind(name)
    return _replaced(config, changes)


def _replaced(settings: Settings, changes: Mapping[str, object]) -> Settings:
    here: dict[str, object] = {}
    below: dict[str, dict[str, object]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if rest:
            below.setdefault(head, {})[rest] = value
        else:
            here[head] = value
    here |= {head: _replaced(getattr(settings, head), inner) for head, inner in below.items()}
    return dataclasses.replace(settings, **here)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _nearest(name: str, kinds: Mapping[str, Any]) -> str:
    """The names that were perhaps meant: nearly the same as a whole, or with nearly the same last word."""
    whole = difflib.get_close_matches(name, kinds, _NEAREST_SHOWN, 0.6)
    words = {known: known.rpartition(".")[2] for known in kinds}
    alike = difflib.get_close_matches(name.rpartition(".")[2], words.values(), _NEAREST_SHOWN, 0.75)
    found = dict.fromkeys([*whole, *(known for known, word in words.items() if word in alike)])
    return f"perhaps {' or '.join(list(found)[:_NEAREST_SHOWN])}" if found else "a setting such as optimizer.learning_rate"
