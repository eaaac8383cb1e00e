"""The frequently asked questions in the documentation of Python, as Debian packages it.

Contract: one entry a section with prose of its own, in page order; the heading is the question, the prose (readers/html.py)
the answer. The newest version is read where several are installed.
"""

from lattice_jax.corpus.readers.catalogue import CORPORA
from lattice_jax.corpus.readers.entries import Reading
from lattice_jax.corpus.readers.html import read_sections
from lattice_jax.corpus.readers.packages import debian_files, newest, refuse_choice

_SOURCE = CORPORA["python-faq"]


def read_python_faq(choice: str) -> Reading:
    """All entries; there is nothing to choose."""
    refuse_choice(_SOURCE, choice)
    reading = Reading()
    for path in newest(debian_files(_SOURCE, "python3-doc", "usr/share/doc/python3.*/html/faq/*.html")):
        for section in read_sections(
            path,
            corpus=_SOURCE.name,
            section="section section",  # the outermost holds the page
            title="h2, h3, h4",
            without="a.headerlink, div.topic.contents",
        ):
            reading.add(section.title, section.prose, f"line {section.line} of '{path}'")
    return reading
