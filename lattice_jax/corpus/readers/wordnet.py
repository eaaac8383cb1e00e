"""WordNet 3.0 as Debian's wordnet-base holds it: every word of every sense, and its definition.

Contract: one entry for each of the 206,978 words of the files data.{noun,verb,adj,adv}. The question names word and part of
speech ('What does the noun "bank" mean?'); the answer is the definition alone, because the example sentences contain the word
and would give the answer away. A word with several senses has as many entries with one and the same question. They come
ordered by the sense's rank in index.*, the most frequent first, then by part of speech and file order: whoever keeps the first
entry of a question keeps its most frequent sense.
'wordnet:20000' has 20,000 questions with all their senses, those whose hash is smallest: a sample that stays the same on every
machine, and of which a smaller one is a part.
Format: man 5 wndb of the same package.
"""

import hashlib
import re
from pathlib import Path

from lattice_jax.corpus.readers.catalogue import CORPORA
from lattice_jax.corpus.readers.entries import Entry, Reading, clean
from lattice_jax.corpus.readers.packages import debian_files, read_text
from lattice_jax.errors import InputError

PARTS_OF_SPEECH = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}

_SOURCE = CORPORA["wordnet"]
_FIRST_EXAMPLE = re.compile(r'\s*[;:]\s*"')
_SYNTACTIC_MARKER = re.compile(r"\((a|p|ip)\)$")


def read_wordnet(choice: str) -> Reading:
    """All entries, or those of as many questions as `choice` says."""
    limit = _limit(choice)
    ranked: list[tuple[int, Entry]] = []
    for suffix, part_of_speech in PARTS_OF_SPEECH.items():
        data, index = (
            debian_files(_SOURCE, "wordnet-base", f"usr/share/wordnet/{kind}.{suffix}")[0] for kind in ("data", "index")
        )
        ranked += _entries(data, part_of_speech, _sense_ranks(index))
    ranked.sort(key=lambda pair: pair[0])
    entries = [entry for _, entry in ranked]
    return Reading(entries if limit is None else _sample(entries, limit))


def _limit(choice: str) -> int | None:
    if not choice:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", choice):
        raise InputError(
            f"a corpus is 'wordnet:{choice}'",
            expected="'wordnet', or 'wordnet:NUMBER' for a sample of that many questions",
            fix="name it wordnet:20000, say",
        )
    return int(choice)


def _sample(entries: list[Entry], count: int) -> list[Entry]:
    questions = {entry.question for entry in entries}
    chosen = set(sorted(questions, key=lambda question: hashlib.sha256(question.encode()).digest())[:count])
    return [entry for entry in entries if entry.question in chosen]


def _sense_ranks(index: Path) -> dict[tuple[str, str], int]:
    """(word in lower case, offset of the sense) -> 0 for the most frequent sense, 1 for the next."""
    ranks = {}
    for number, line in enumerate(read_text(index).split("\n"), start=1):
        if not line or line.startswith("  "):  # the licence
            continue
        fields = line.split()
        try:
            senses = int(fields[2])
            pointers = int(fields[3])
            offsets = fields[6 + pointers :]
        except (IndexError, ValueError):
            raise _damaged(index, number) from None
        if len(offsets) != senses:
            raise _damaged(index, number)
        ranks |= {(fields[0], offset): rank for rank, offset in enumerate(offsets)}
    return ranks


def _entries(data: Path, part_of_speech: str, ranks: dict[tuple[str, str], int]) -> list[tuple[int, Entry]]:
    """Every word of a data file with its sense's rank, in file order."""
    ranked = []
    for number, line in enumerate(read_text(data).split("\n"), start=1):
        if not line or line.startswith("  "):
            continue
        head, bar, gloss = line.partition("|")
        fields = head.split()
        try:
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            offset = fields[0]
        except (IndexError, ValueError):
            raise _damaged(data, number) from None
        answer = definition(gloss)
        if not bar or not words or not answer:
            raise _damaged(data, number)
        for marked in words:
            word = _SYNTACTIC_MARKER.sub("", marked)
            rank = ranks.get((word.lower(), offset))
            if rank is None:
                raise _damaged(data, number)
            question = f'What does the {part_of_speech} "{word.replace("_", " ")}" mean?'
            ranked.append((rank, Entry(question, answer, f"line {number} of '{data}'")))
    return ranked


def definition(gloss: str) -> str:
    """The definition in a gloss, without the quoted examples that follow it."""
    return clean(_FIRST_EXAMPLE.split(gloss, maxsplit=1)[0]).rstrip(" ;:")


def _damaged(path: Path, number: int) -> InputError:
    return InputError(
        f"line {number} of '{path}' is no entry of WordNet 3.0",
        expected="the format of man 5 wndb, data and index files of one version",
        fix="apt-get install --reinstall wordnet-base",
    )
