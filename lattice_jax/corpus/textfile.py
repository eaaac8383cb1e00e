"""Lines of a text file from outside, with their numbers.

Contract: UTF-8 (a byte order mark is allowed), lines end in LF or CRLF, blank lines are skipped but counted. A file that can't
be read, a line that is not UTF-8 and a file without text raise InputError, which names the file, the line and the setting.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from lattice_jax.errors import InputError


def numbered_lines(name: str, *, shipped: Mapping[str, str], setting: str, content: str) -> list[tuple[int, str]]:
    """Line numbers from 1 and stripped lines of the shipped set `name`, or of the file at that path.

    `shipped` maps the names of shipped sets to files of lattice_jax/corpus/data; `setting` and `content` word the errors.
    """
    lines = whole_lines(name, shipped=shipped, setting=setting, content=content)
    return [(number, stripped) for number, line in enumerate(lines, start=1) if (stripped := line.strip())]


def whole_lines(name: str, *, shipped: Mapping[str, str], setting: str, content: str) -> list[str]:
    """As `numbered_lines`, but every line as it stands, blank ones too, each with its line end."""
    choices = f"{', '.join(map(repr, shipped))} or the path of {content}"
    try:
        raw = _shipped_bytes(shipped[name]) if name in shipped else Path(name).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{setting} is {name!r}, and there is no such file", expected=choices, fix=_fix(setting)) from None
    except (OSError, ValueError) as error:
        # ValueError: a path with a null character.
        raise InputError(f"{name!r} can't be read: {error}", expected=choices, fix=_fix(setting)) from error
    lines = [_decode(line, name, number) + "\n" for number, line in enumerate(raw.split(b"\n"), start=1)]
    if not any(line.strip() for line in lines):
        raise InputError(
            f"{name!r} holds no text", expected=content, fix=f"fill the file, or set --config.{setting} to another"
        )
    return lines


def _shipped_bytes(filename: str) -> bytes:
    return resources.files("lattice_jax.corpus").joinpath("data", filename).read_bytes()


def _decode(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"line {number} of {name!r} is not UTF-8: {error.reason} at byte {error.start}",
            expected="text encoded as UTF-8",
            fix=f"save the file as UTF-8 (iconv -f latin1 -t utf-8 {name} converts Latin-1)",
        ) from None


def _fix(setting: str) -> str:
    return f"set --config.{setting} accordingly"
