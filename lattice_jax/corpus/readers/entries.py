"""What a reader gives: entries in the order of the source, and a count of what it had to leave out.

Contract: a reader of someone else's corpus, which nobody here can mend, leaves out what is no question with an answer and
counts it by reason; a reader of a file that a user wrote refuses it, naming the line.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

# Chinese and Japanese write no spaces, so that the end of a source line is none; a blank line still parts two texts.
_UNSPACED = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60"
_LINE_END_BETWEEN_UNSPACED = re.compile(rf"(?<=[{_UNSPACED}])[ \t]*\n[ \t]*(?=[{_UNSPACED}])")


class Columns(NamedTuple):
    """Names of the two columns or keys in a file of pairs."""

    question: str = "question"
    answer: str = "answer"


class Entry(NamedTuple):
    """A question, its answer, and where they stand."""

    question: str
    answer: str
    place: str
    """File and line, as an error message names them."""


@dataclass
class Reading:
    """What was read from one source."""

    entries: list[Entry] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> how many."""

    def add(self, question: str, answer: str, place: str) -> None:
        """One more entry, left out and counted where a text has no visible character, or half of a surrogate pair."""
        if broken(question) or broken(answer):
            self.left_out["entries with half of a surrogate pair"] += 1
        elif not visible(question) or not visible(answer):
            self.left_out["entries without question or answer"] += 1
        else:
            self.entries.append(Entry(question, answer, place))


def clean(text: str) -> str:
    """The text on one line: white space of any kind as single spaces, controls and zero-width marks at the ends removed."""
    joined = _LINE_END_BETWEEN_UNSPACED.sub("", text)
    spaced = "".join(" " if unicodedata.category(character) == "Cc" else character for character in joined)
    return " ".join(spaced.split()).strip("\ufeff\u200b ")


def visible(text: str) -> bool:
    """Whether any character leaves a mark: no text of spaces, controls and joiners does."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def broken(text: str) -> bool:
    """Whether it holds half of a surrogate pair, which no encoding can write."""
    return any("\ud800" <= character <= "\udfff" for character in text)
