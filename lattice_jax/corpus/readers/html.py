"""Sections of HTML pages: a heading, and the prose below it.

Contract: sections come in page order, each with its own prose only, that of the sections within it left out. Displayed code of
one line stays, because the sentence before it leads up to it; longer code is no prose and is left out. Block elements are
parted as by a blank line, inline ones are not.
"""

from pathlib import Path
from typing import NamedTuple

from lattice_jax.corpus.readers.entries import clean
from lattice_jax.corpus.readers.packages import optional_module, read_text

_BLOCKS = ["p", "li", "dt", "dd", "td", "th", "div", "br", "pre", "ul", "ol", "dl", "table", "blockquote"]


class Section(NamedTuple):
    """One section of a page."""

    anchor: str
    title: str
    prose: str
    line: int


def read_sections(path: Path, *, corpus: str, section: str, title: str, without: str) -> list[Section]:
    """The sections of a page; `section`, `title` and what goes (`without`) are CSS selectors.

    The anchor is the `id` of the section, or of the first element in its title that has one.
    """
    bs4 = optional_module("bs4", "beautifulsoup4", f"the corpus {corpus!r}")
    soup = bs4.BeautifulSoup(read_text(path), "html.parser")
    for element in soup.select(without):
        element.decompose()
    for element in soup.find_all("pre"):
        if "\n" in element.get_text().strip():
            element.decompose()
    for element in soup.find_all(_BLOCKS):
        element.insert_before("\n\n")
        element.insert_after("\n\n")
    found = []
    # Backwards, so that a section has lost its inner sections before its own prose is taken.
    for element in reversed(soup.select(section)):
        heading = element.select_one(title)
        element.extract()
        if heading is None:
            continue
        heading.extract()
        named = element if element.get("id") else heading.select_one("[id]")
        anchor = named["id"] if named is not None else ""
        found.append(Section(anchor, clean(heading.get_text()), clean(element.get_text()), element.sourceline))
    return found[::-1]
