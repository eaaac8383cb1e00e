"""Unlabelled sentences, from which the adapter learns the teacher's space beyond the few pairs.

Contract: sentences come in file order, without blank lines and the white space around a line. Before use they pass through
`without_near_duplicates`, so that none of them repeats what is held out.
The shipped data/scikit_learn_guide.txt holds sentences of the scikit-learn 1.2 user guide, tutorials and developers' guide
(BSD-3-Clause, notice beside it), made by benchmarks/extract_scikit_learn.py.
"""

from collections.abc import Sequence

from lattice_jax.corpus.overlap import contained, word_set
from lattice_jax.corpus.textfile import numbered_lines

_SHIPPED = {"scikit_learn_guide": "scikit_learn_guide.txt"}


def load_sentences(name: str) -> tuple[str, ...]:
    """Sentences of 'scikit_learn_guide', of no text at all ('none'), or of a UTF-8 text file with one sentence a line.

    Raises InputError when the file is missing, unreadable, empty, or not UTF-8 (with the line's number).
    """
    if name == "none":
        return ()
    content = "a text file with one sentence a line ('none' for no sentences)"
    lines = numbered_lines(name, shipped=_SHIPPED, setting="corpus.sentences", content=content)
    return tuple(line for _, line in lines)


def without_near_duplicates(sentences: Sequence[str], texts: Sequence[str], threshold: float) -> tuple[str, ...]:
    """Sentences, in order, of whose distinct words no text holds the share `threshold` (0..1] or more.

    Containment rather than Jaccard, because an answer is longer than the sentence that it may hold.
    """
    repeated = contained([word_set(sentence) for sentence in sentences], [word_set(text) for text in texts], threshold)
    return tuple(sentence for sentence, repeats in zip(sentences, repeated, strict=True) if not repeats)
