"""perlfaq, the frequently asked questions of Perl, in POD.

Contract: one entry a =head2 with prose below it, in the order of perlfaq1 to perlfaq9. Formatting codes give way to their text.
Verbatim text is code: one line stays, because the sentence before it leads up to it, more is left out.
Format: perldoc perlpodspec.
"""

import html
import re
from pathlib import Path

from lattice_jax.corpus.readers.catalogue import CORPORA
from lattice_jax.corpus.readers.entries import Reading, clean
from lattice_jax.corpus.readers.packages import debian_files, newest, read_text, refuse_choice

_SOURCE = CORPORA["perlfaq"]
_ESCAPES = {"sol": "/", "verbar": "|", "lchevron": "\u00ab", "rchevron": "\u00bb"}
_OPENING = re.compile(r"([A-Z])(<(?:<+(?=\s))?)")
_BULLET = re.compile(r"(\*|[0-9]+\.?)$")


def read_perlfaq(choice: str) -> Reading:
    """All entries; there is nothing to choose."""
    refuse_choice(_SOURCE, choice)
    reading = Reading()
    for path in newest(debian_files(_SOURCE, "perl-doc", "usr/share/perl/5*/pod/perlfaq[1-9].pod")):
        _read_pod(path, reading)
    return reading


def _read_pod(path: Path, reading: Reading) -> None:
    """Add the entries of one file."""
    question, place = "", ""
    answer: list[str] = []
    code: list[str] = []

    def finish_code() -> None:
        if len(code) == 1 and "\n" not in code[0]:
            answer.append(code[0])
        code.clear()

    def finish() -> None:
        finish_code()
        if question:
            reading.add(question, clean("\n".join(answer)), place)
        answer.clear()

    skipping = False
    for number, paragraph in _paragraphs(read_text(path)):
        if paragraph[0].isspace():
            if not skipping:
                code.append(paragraph)
            continue
        finish_code()
        command, _, text = paragraph.partition(" ") if paragraph.startswith("=") else ("", "", paragraph)
        command = command.rstrip("\n")
        if command == "=begin":
            skipping = True
        elif command == "=end":
            skipping = False
        elif skipping:
            continue
        elif command in ("=head1", "=head2"):
            finish()
            question = clean(plain_text(text)) if command == "=head2" else ""
            place = f"line {number} of '{path}'"
        elif not command or (command == "=item" and not _BULLET.match(text)):
            answer.append(plain_text(text))
    finish()


def _paragraphs(pod: str) -> list[tuple[int, str]]:
    """Paragraphs, which blank lines part, with the numbers of their first lines."""
    found, start = [], None
    lines = pod.split("\n")
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            start = start or number
        elif start:
            found.append((start, "\n".join(lines[start - 1 : number - 1])))
            start = None
    return found


def plain_text(pod: str) -> str:
    """Text without formatting codes: C<f> and C<< f >> give f, L<text|target> text, E<lt> its character, X<word> nothing."""
    text, position = _until(pod, 0, "")
    return text + pod[position:]


def _until(pod: str, position: int, closing: str) -> tuple[str, int]:
    """Plain text from `position` to `closing`, and the position after it; '' is the end of the text."""
    pieces = []
    while position < len(pod):
        if closing and pod.startswith(closing, position):
            return "".join(pieces), position + len(closing)
        code = _OPENING.match(pod, position)
        if code is None:
            pieces.append(pod[position])
            position += 1
            continue
        brackets = len(code[2])
        content, position = _until(pod, code.end(), ">" if brackets == 1 else " " + ">" * brackets)
        pieces.append(_rendered(code[1], content.strip() if brackets > 1 else content))
    return "".join(pieces), position


def _rendered(code: str, content: str) -> str:
    if code in "XZ":
        return ""
    if code == "E":
        return _character(content)
    return _link_text(content) if code == "L" else content


def _character(name: str) -> str:
    if name in _ESCAPES:
        return _ESCAPES[name]
    if re.fullmatch(r"0x[0-9a-fA-F]+|[0-9]+", name):
        return chr(int(name, 0 if name.startswith("0x") else 8 if name.startswith("0") else 10))
    return html.unescape(f"&{name};")


def _link_text(content: str) -> str:
    text, bar, _ = content.partition("|")
    if bar or "://" in content:
        return text
    page, _, section = content.partition("/")
    section = section.strip('"')
    return f"{section} in {page}" if page and section else page or section
