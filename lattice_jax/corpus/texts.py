"""All texts of a corpus in one order, for whoever embeds it whole.

Contract: of pairs, all questions and then all answers, those of every entry: texts may repeat, and entry i of n has its
question at i and its answer at n + i. Of sentences, every one.
"""

from pathlib import Path

from lattice_jax.corpus.pairs import list_pairs
from lattice_jax.corpus.readers.entries import Columns
from lattice_jax.corpus.sentences import load_lines


def corpus_texts(name: str, columns: Columns = Columns()) -> list[str]:  # noqa: B008 (immutable)
    """Texts of whatever `list_pairs` takes, of the sentences 'scikit_learn_guide', or of a .txt file with one text a line.

    WordNet has 2 * 206,978. Raises InputError as `list_pairs` and `load_lines` do.
    """
    if name == "scikit_learn_guide" or Path(name).suffix.lower() == ".txt":
        return list(load_lines(name))
    entries = list_pairs(name, columns).entries
    return [pair.question for pair in entries] + [pair.answer for pair in entries]
