"""The corpora that are read where they are installed: what each is, under which licence, and how to get it.

Contract: `CORPORA` is the one place that says so. Error messages quote it, `corpora_table` prints it, and the readers' tests
compare its counts with the installed packages. Nothing in it is shipped: the licences of most forbid it, and all are read in
place. Counts are those of the named versions, measured; another version may hold others.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CorpusSource:
    """One corpus, and the package that brings it."""

    name: str
    """Before the colon in `--config.corpus.pairs`."""
    forms: tuple[str, ...]
    """What may be given, the whole corpus first."""
    contents: str
    licence: str
    version: str
    """Of the package in which the pairs were counted."""
    install: str
    """The command that brings it."""
    entries: int
    """Question-answer entries of the whole corpus; questions may repeat."""
    questions: int
    """Distinct questions among them."""
    languages: tuple[str, ...]


FAQ_LANGUAGES = ("en", "de", "fr", "it", "ja", "ko", "nl", "pt", "ru", "zh-cn")

_CHATTERBOT_LANGUAGES = (
    "bengali chinese dutch english french german hebrew hindi hinglish indonesian italian japanese korean marathi oriya "
    "persian portuguese russian spanish swedish tamil telugu thai traditionalchinese turkish ukrainian urdu yoruba"
)

CORPORA: Mapping[str, CorpusSource] = {
    source.name: source
    for source in (
        CorpusSource(
            name="wordnet",
            forms=("wordnet", "wordnet:20000"),
            contents="words and their definitions",
            licence="WordNet 3.0 (permissive, with its notice)",
            version="wordnet-base 3.0",
            install="apt-get install wordnet-base",
            entries=206_978,
            questions=156_584,
            languages=("en",),
        ),
        CorpusSource(
            name="chatterbot",
            forms=("chatterbot", "chatterbot:english"),
            contents="conversations, by their consecutive turns",
            licence="BSD-3-Clause",
            version="chatterbot-corpus 1.3.3",
            install="pip install chatterbot-corpus",
            entries=11_953,
            questions=8_033,
            languages=tuple(_CHATTERBOT_LANGUAGES.split()),
        ),
        CorpusSource(
            name="debian-faq",
            forms=("debian-faq", "debian-faq:de", "debian-faq:en:de"),
            contents="frequently asked questions about Debian, aligned across languages",
            licence="the FAQ's own copyleft notice",
            version="debian-faq 11.1",
            install="apt-get install debian-faq",
            entries=147,
            questions=146,
            languages=FAQ_LANGUAGES,
        ),
        CorpusSource(
            name="perlfaq",
            forms=("perlfaq",),
            contents="frequently asked questions about Perl",
            licence="Artistic or GPL-1+",
            version="perl-doc 5.36",
            install="apt-get install perl-doc",
            entries=306,
            questions=306,
            languages=("en",),
        ),
        CorpusSource(
            name="python-faq",
            forms=("python-faq",),
            contents="frequently asked questions about Python",
            licence="PSF-2.0",
            version="python3.11-doc 3.11.2",
            install="apt-get install python3-doc",
            entries=179,
            questions=178,
            languages=("en",),
        ),
    )
}


def corpora_table() -> str:
    """The catalogue as a Markdown table."""
    rows = [
        "| `corpus.pairs` | what it holds | entries (distinct questions) | languages | install | licence |",
        "|" + "---|" * 6,
    ]
    for source in CORPORA.values():
        forms = ", ".join(f"`{form}`" for form in source.forms)
        languages = ", ".join(source.languages) if len(source.languages) <= 10 else str(len(source.languages))
        counts = f"{source.entries:,} ({source.questions:,})"
        rows.append(f"| {forms} | {source.contents} | {counts} | {languages} | `{source.install}` | {source.licence} |")
    return "\n".join(rows)
