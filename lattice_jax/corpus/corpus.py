"""Everything that a run learns from and is judged on, by one call.

Contract: `pairs` are on exactly one side of `split`, and no sentence repeats held-out or validation text. The shipped sets
'ten' and 'hundred' share their held-out and validation pairs at equal settings, whatever these are, so that their figures
compare: the ten are always training pairs, and 'ten' is 'hundred' without its other training pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lattice_jax.config import CorpusConfig
from lattice_jax.corpus.pairs import TEN_QUESTIONS, Listing, Pair, data_hash, list_pairs
from lattice_jax.corpus.readers.entries import Columns
from lattice_jax.corpus.sentences import load_sentences, without_near_duplicates
from lattice_jax.corpus.splits import Split, split_pairs


@dataclass(frozen=True)
class Corpus:
    """Texts and their division."""

    pairs: tuple[Pair, ...]
    split: Split
    sentences: tuple[str, ...]
    """Unlabelled text, near-duplicates of held-out and validation text removed."""
    sentences_removed: int
    """How many were removed for that."""
    hash: str
    """SHA-256 of pairs and sentences."""
    left_out: Mapping[str, int]
    """Reason -> entries of the source of the pairs that are not among them."""


def load_corpus(config: CorpusConfig) -> Corpus:
    """Load, divide and decontaminate what `config` names.

    Raises InputError for files that can't be used and for too few pairs.
    """
    listing = list_pairs(
        "hundred" if config.pairs == "ten" else config.pairs, Columns(config.question_column, config.answer_column)
    )
    pairs, split = _divided_pairs(listing, config)
    judged = [text for index in split.validation + split.held_out for text in (pairs[index].question, pairs[index].answer)]
    loaded = load_sentences(config.sentences)
    sentences = without_near_duplicates(loaded, judged, config.near_duplicate_similarity)
    return Corpus(pairs, split, sentences, len(loaded) - len(sentences), data_hash(pairs, sentences), listing.left_out)


def _divided_pairs(listing: Listing, config: CorpusConfig) -> tuple[tuple[Pair, ...], Split]:
    shipped = config.pairs in ("ten", "hundred")
    split = split_pairs(listing.pairs, config, always_train=TEN_QUESTIONS if shipped else ())
    return _only_ten(listing.pairs, split) if config.pairs == "ten" else (listing.pairs, split)


def _only_ten(pairs: tuple[Pair, ...], split: Split) -> tuple[tuple[Pair, ...], Split]:
    """The pairs and their division without the training pairs beyond the ten."""
    judged = split.validation + split.held_out
    kept = [index for index, pair in enumerate(pairs) if index in judged or pair.question in TEN_QUESTIONS]
    place = {index: position for position, index in enumerate(kept)}
    train = tuple(place[index] for index in split.train if index in place)
    validation, held_out = (tuple(place[index] for index in side) for side in (split.validation, split.held_out))
    return tuple(pairs[index] for index in kept), Split(train, validation, held_out)
