"""Unlabelled sentences, from which the adapter learns the teacher's space beyond the few pairs.

Contract: sentences come in file order, without the white space around a line. A blank line is refused with its number rather
than skipped, so that line i is text i for whoever embeds a file. Before use sentences pass through
`without_near_duplicates`, so that none of them repeats what is held out.
The shipped data/scikit_learn_guide.txt holds sentences of the scikit-learn 1.2 user guide, tutorials and developers' guide
(BSD-3-Clause, notice beside it), made by benchmarks/extract_scikit_learn.py.
"""

from collections.abc import Sequence

from lattice_jax.corpus.overlap import contained, word_set
from lattice_jax.corpus.readers.entries import visible
from lattice_jax.corpus.textfile import whole_lines
from lattice_jax.errors import InputError

_SHIPPED = {"scikit_learn_guide": "scikit_learn_guide.txt"}


def load_sentences(name: str) -> tuple[str, ...]:
    """Sentences of 'scikit_learn_guide', of no text at all ('none'), or of a UTF-8 text file with one sentence a line.

    Raises InputError as `load_lines` does.
    """
    if name == "none":
        return ()
    return load_lines(name, "a text file with one sentence a line ('none' for no sentences)")


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


def without_near_duplicates(sentences: Sequence[str], texts: Sequence[str], threshold: float) -> tuple[str, ...]:
    """Sentences, in order, of whose distinct words no text holds the share `threshold` (0..1] or more.

    Containment rather than Jaccard, because an answer is longer than the sentence that it may hold.
    """
    repeated = contained([word_set(sentence) for sentence in sentences], [word_set(text) for text in texts], threshold)
    return tuple(sentence for sentence, repeats in zip(sentences, repeated, strict=True) if not repeats)
