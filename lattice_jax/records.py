"""Records that a program wrote as JSON and reads again: plans, searches, settings, summaries.

Contract: `read_record` returns the object in a file, or raises `InputError` that names the file and what is wrong with it, so
that a damaged one never ends in a traceback. It reads and judges the form alone; what the values mean is for the reader.
`write_record` leaves the whole of a record or what was there before, `make_folder` a folder that takes some.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any

from lattice_jax.errors import InputError

Fields = Mapping[str, type | UnionType]
"""Dotted name of a field that must be there -> what it must be; `object` takes anything, null too."""

_NONE: Fields = MappingProxyType({})
_WRITTEN, _RESTORE = "what was written there", "restore it"


def read_record(path: Path, fields: Fields = _NONE, *, expected: str = _WRITTEN, fix: str = _RESTORE) -> dict[str, Any]:
    """The JSON object in a file, with at least these fields; refuses a file that is missing, not UTF-8, not JSON, no object."""
    require_file(path, f"there is no file {path}", expected=expected, fix=fix)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    # ValueError: not UTF-8, not JSON, or a number of more digits than Python takes; RecursionError: nested thousands deep.
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {error}", expected=f"{expected}, as JSON", fix=fix) from error
    require_fields(record, fields, str(path), expected=expected, fix=fix)
    return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all, whatever happens meanwhile."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def require_file(path: Path, missing: str, *, expected: str, fix: str) -> None:
    """Refuse a path with no file there, with the message `missing`, and why where none can be looked for: a name that is too
    long, a folder that may not be entered."""
    try:
        there, reason = path.is_file(), ""
    except OSError as error:
        there, reason = False, f": {error.strerror}"
    if not there:
        raise InputError(f"{missing}{reason}", expected=expected, fix=fix)


def make_folder(path: Path, *, expected: str, fix: str) -> Path:
    """A folder, made with those above it where there is none yet; refuses one that can't be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} can't be created: {error.strerror}", expected=expected, fix=fix) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path} can't be written to", expected=expected, fix=fix)
    return path


def require_writable(path: Path, option: str) -> None:
    """Refuse a file that can't be written later on, before the work is done that is to be written there; makes its folder.

    `option` is that of the command line which named it.
    """
    expected, fix = "a file, new or not, in a folder that can be made", f"give another {option}"
    make_folder(path.parent, expected=expected, fix=fix)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long
        raise InputError(f"{path} can't be written: {error.strerror}", expected=expected, fix=fix) from error
    if is_folder:
        raise InputError(f"{path} is a folder", expected=expected, fix=fix)


def require_fields(record: Any, fields: Fields, where: str, *, expected: str = _WRITTEN, fix: str = _RESTORE) -> None:
    """Refuse what is no JSON object, or one without these fields; `where` is what the message calls it."""
    if not isinstance(record, dict):
        raise InputError(f"{where} can't be read: it holds {_told(record)}, no object", expected=expected, fix=fix)
    for name, kind in fields.items():
        found: Any = record
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                raise InputError(f"{where} can't be read: it has no {name}", expected=expected, fix=fix)
            found = found[part]
        if not isinstance(found, kind):
            raise InputError(f"{where} can't be read: {name} is {_told(found)}", expected=expected, fix=fix)


def flat(values: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names."""
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _told(value: Any) -> str:
    """A JSON value by its kind: the whole may be long."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
