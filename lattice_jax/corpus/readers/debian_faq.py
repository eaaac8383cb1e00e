"""The Debian FAQ in ten languages, whose sections are aligned by their anchors.

Contract: one entry a section with prose of its own, in the order of the English pages; the heading without its number is the
question, the prose (readers/html.py) the answer. 'debian-faq:de' has both in German, 'debian-faq:en:de' the question in
English and the answer in German. Languages agree in their anchors; a section that one of the two lacks, has no prose for, or
has in the other's words, because nobody has translated it yet, is left out and counted.
"""

import re

from lattice_jax.corpus.readers.catalogue import CORPORA, FAQ_LANGUAGES
from lattice_jax.corpus.readers.entries import Reading
from lattice_jax.corpus.readers.html import Section, read_sections
from lattice_jax.corpus.readers.packages import debian_files
from lattice_jax.errors import InputError

_SOURCE = CORPORA["debian-faq"]
_NUMBER = re.compile(r"^[0-9]+(\.[0-9]+)*\.?\s+")


def read_debian_faq(choice: str) -> Reading:
    """Entries in one language, or with the questions in one and the answers in another."""
    asked, answered = _languages(choice)
    questions = _sections(asked)
    answers = questions if answered == asked else _sections(answered)
    reading = Reading()
    for anchor, (section, place) in questions.items():
        if anchor not in answers:
            reading.left_out[f"sections that {answered} lacks"] += 1
            continue
        if section.prose and asked != answered and answers[anchor][0].prose == section.prose:
            reading.left_out["sections that are not translated"] += 1
            continue
        reading.add(_NUMBER.sub("", section.title), answers[anchor][0].prose, place)
    return reading


def _languages(choice: str) -> tuple[str, str]:
    """Languages of questions and of answers."""
    chosen = choice.split(":") if choice else ["en"]
    if len(chosen) > 2 or not set(chosen) <= set(FAQ_LANGUAGES):
        raise InputError(
            f"a corpus is 'debian-faq:{choice}'",
            expected=f"'debian-faq:LANGUAGE' or 'debian-faq:QUESTIONS:ANSWERS' with {', '.join(FAQ_LANGUAGES)}",
            fix="name it debian-faq:en:de, say",
        )
    return chosen[0], chosen[-1]


def _sections(language: str) -> dict[str, tuple[Section, str]]:
    """Anchor -> section and its place."""
    package = "debian-faq" if language == "en" else f"debian-faq-{language}"
    directory = "usr/share/doc/debian/FAQ" + ("" if language == "en" else f"/{language}")
    sections = {}
    for path in debian_files(_SOURCE, package, f"{directory}/*.{language}.html"):
        for section in read_sections(
            path, corpus=_SOURCE.name, section="div.section", title=".titlepage", without=".navfooter, .navheader"
        ):
            sections[section.anchor] = section, f"line {section.line} of '{path}'"
    return sections
