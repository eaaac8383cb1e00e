"""Files of pairs that a user wrote: JSONL, CSV and TSV.

Contract: UTF-8, blank lines skipped, white space at the ends of texts removed. The settings corpus.question_column and
corpus.answer_column name the two keys or columns; others are ignored. CSV has a header line and quotes fields as RFC 4180 says;
TSV has a header line and knows no quoting (IANA text/tab-separated-values). What can't be used is refused with the number of
its line: an empty text, half of a surrogate pair, a question that occurs twice.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lattice_jax.corpus.readers.entries import Columns, Entry, Reading, broken, visible
from lattice_jax.errors import InputError


@dataclass
class _Rows:
    """Entries of one file, checked one by one."""

    name: str
    columns: Columns
    expected: str
    entries: list[Entry] = field(default_factory=list)
    first_line: dict[str, int] = field(default_factory=dict)

    def add(self, number: int, question: str, answer: str) -> None:
        for key, text in zip(self.columns, (question, answer), strict=True):
            if broken(text):
                raise self.bad(f"line {number} of {self.name!r} has half of a surrogate pair in its {key!r}")
            if not visible(text):
                raise self.bad(f"line {number} of {self.name!r} has an empty {key!r}")
        question = question.strip()
        if question in self.first_line:
            raise InputError(
                f"lines {self.first_line[question]} and {number} of {self.name!r} have the same question: {question!r}",
                expected="every question once",
                fix="remove one of the two lines",
            )
        self.first_line[question] = number
        self.entries.append(Entry(question, answer.strip(), f"line {number} of {self.name!r}"))

    def bad(self, found: str) -> InputError:
        return InputError(
            found, expected=self.expected, fix="mend or remove the line, or set --config.corpus.pairs to another file"
        )


def read_jsonl(lines: Sequence[tuple[int, str]], name: str, columns: Columns) -> Reading:
    """Entries of numbered lines, each a JSON object."""
    example = f'{{"{columns.question}": "...", "{columns.answer}": "..."}}'
    rows = _Rows(name, columns, f"{example}, both with text, on every line")
    for number, line in lines:
        question, answer = _json_texts(line, f"line {number} of {name!r}", rows)
        rows.add(number, question, answer)
    return Reading(rows.entries)


def _json_texts(line: str, place: str, rows: _Rows) -> list[str]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        # ValueError also covers numbers too long to convert; RecursionError comes from thousands of nested brackets.
        raise rows.bad(f"{place} is not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise rows.bad(f"{place} is not a JSON object but {type(entry).__name__}")
    for key in rows.columns:
        if key not in entry:
            raise rows.bad(f"{place} has no {key!r}")
        if not isinstance(entry[key], str):
            raise rows.bad(f"{place} has a {key!r} that is {type(entry[key]).__name__}, not text")
    return [entry[key] for key in rows.columns]


def read_csv(lines: Sequence[str], name: str, columns: Columns) -> Reading:
    """Entries of comma-separated lines with their line ends, the first of them the header."""
    return _read_table(csv.reader(lines, strict=True), name, columns)


def read_tsv(lines: Sequence[str], name: str, columns: Columns) -> Reading:
    """Entries of tab-separated lines, the first of them the header."""
    return _read_table(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True), name, columns)


def _read_table(reader, name: str, columns: Columns) -> Reading:
    rows = _Rows(name, columns, f"a header line with {columns.question!r} and {columns.answer!r}, then as many fields a line")
    header: list[str] = []
    for number, cells in _numbered(reader, rows):
        if not header:
            header = [cell.strip() for cell in cells]
            for column in columns:
                if header.count(column) != 1:
                    found = f"line {number} of {name!r} names the columns {', '.join(map(repr, header))}"
                    raise InputError(
                        f"{found}: {column!r} is there {header.count(column)} times",
                        expected=rows.expected,
                        fix="set --config.corpus.question_column and --config.corpus.answer_column to names of the header",
                    )
        elif len(cells) != len(header):
            raise rows.bad(f"line {number} of {name!r} has {len(cells)} fields, and the header {len(header)}")
        else:
            rows.add(number, *(cells[header.index(column)] for column in columns))
    return Reading(rows.entries)


def _numbered(reader, rows: _Rows) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, with the numbers of the lines on which they begin."""
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise rows.bad(f"line {number} of {rows.name!r} can't be parsed: {error}") from None
        if any(cell.strip() for cell in cells):
            yield number, cells
