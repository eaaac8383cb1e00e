"""Unlabelled sentences, from which the adapter learns the teacher's space beyond the few pairs.

Contract: sentences come source by source, each in its own order. Of a file come its lines without the white space around
them; a blank one is refused with its number rather than skipped, so that line i is text i for whoever embeds a file. Of an
installed corpus come all questions and then all answers, each different text once. Before use they pass through
`without_near_duplicates`, all sources alike, so that none of them repeats what is held out.
The shipped data/scikit_learn_guide.txt holds sentences of the scikit-learn 1.2 user guide, tutorials and developers' guide
(BSD-3-Clause, notice beside it), made by benchmarks/extract_scikit_learn.py.
"""

import os
from collections.abc import Sequence

from lattice_jax.corpus.overlap import contained, word_set
from lattice_jax.corpus.pairs import is_installed_corpus, list_pairs
from lattice_jax.corpus.readers.catalogue import CORPORA
from lattice_jax.corpus.readers.entries import visible
from lattice_jax.corpus.textfile import whole_lines
from lattice_jax.errors import InputError

_SHIPPED = {"scikit_learn_guide": "scikit_learn_guide.txt"}
_FILE = "a text file with one sentence a line ('none' for no sentences)"


def load_sentences(name: str) -> tuple[str, ...]:
    """Sentences of one source, or of several that '+' joins: 'scikit_learn_guide+wordnet:20000'.

    A source is 'scikit_learn_guide', an installed corpus in any form of the catalogue, or a UTF-8 text file with one sentence a
    line; 'none', alone, is no text at all. A file whose own name holds '+' is taken whole.
    Raises InputError for a source that is none of these and for one that is named twice; for a file as `load_lines` does; and
    with the install line for a corpus that is absent.
    """
    if name == "none":
        return ()
    sources = [name] if os.path.isfile(name) else name.split("+")
    _require_known(sources, name)
    return tuple(text for source in sources for text in _texts(source))


def _texts(source: str) -> tuple[str, ...]:
    if is_installed_corpus(source):
        entries = list_pairs(source).entries
        return tuple(dict.fromkeys([pair.question for pair in entries] + [pair.answer for pair in entries]))
    return load_lines(source, _FILE)


def load_lines(name: str, content: str = "a text file with one text a line") -> tuple[str, ...]:
    """The lines of 'scikit_learn_guide' or of a UTF-8 text file; `content` words the errors.

    Raises InputError when the file is missing, unreadable, empty, or, with the line's number, when one is not UTF-8 or blank.
    """
    lines = whole_lines(name, shipped=_SHIPPED, setting="corpus.sentences", content=content)
    if lines[-1] == "\n":
        lines.pop()  # what follows the last line end is no line
    for number, line in enumerate(lines, start=1):
        if not visible(line):
            raise InputError(
                f"line {number} of {name!r} is blank: an empty text",
                expected=content,
                fix="remove the line; sed -i '/^[[:space:]]*$/d' FILE removes all that are blank",
            )
    return tuple(line.strip() for line in lines)


def _require_known(sources: Sequence[str], name: str) -> None:
    """Refuse what can't be joined before any source is read, since a corpus takes seconds."""
    unknown = [
        source for source in sources if not (source in _SHIPPED or is_installed_corpus(source) or os.path.exists(source))
    ]
    twice = sorted({source for source in sources if sources.count(source) > 1})
    if not unknown and not twice:
        return
    corpora = ", ".join(repr(form) for source in CORPORA.values() for form in source.forms)
    known = f"{', '.join(map(repr, _SHIPPED))}, an installed corpus ({corpora}) or the path of {_FILE}"
    found = f"{unknown[0]!r} names none, and there is no such file" if unknown else f"{twice[0]!r} is named twice"
    raise InputError(
        f"corpus.sentences is {name!r}: {found}",
        expected=f"{known}; several are joined by '+', each of them once",
        fix="set --config.corpus.sentences=scikit_learn_guide+wordnet:20000, say",
    )


def without_near_duplicates(sentences: Sequence[str], texts: Sequence[str], threshold: float) -> tuple[str, ...]:
    """Sentences, in order, of whose distinct words no text holds the share `threshold` (0..1] or more.

    Containment rather than Jaccard, because an answer is longer than the sentence that it may hold.
    """
    repeated = contained([word_set(sentence) for sentence in sentences], [word_set(text) for text in texts], threshold)
    return tuple(sentence for sentence, repeats in zip(sentences, repeated, strict=True) if not repeats)
