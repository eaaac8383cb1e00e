"""The division of pairs into training, validation and held-out.

Contract: every pair is on exactly one side. Pairs with the same question (case and punctuation aside) or with near-duplicate
answers form groups, also through a chain of such pairs, and a group is never divided. Groups are taken in the order of a hash
of their questions and the split seed, so the division depends neither on the order of the file nor on the version of any
library, and a pair added to the file moves at most a few others.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lattice_jax.config import CorpusConfig
from lattice_jax.corpus.overlap import WordSet, similar_pairs, word_list, word_set
from lattice_jax.corpus.pairs import Pair
from lattice_jax.errors import InputError


@dataclass(frozen=True)
class Split:
    """Indices of pairs, ascending on each side; the sides are disjoint and together complete."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of which pair is on which side."""
        return hashlib.sha256(json.dumps([self.train, self.validation, self.held_out]).encode()).hexdigest()


def split_pairs(pairs: Sequence[Pair], config: CorpusConfig, *, always_train: Collection[str] = ()) -> Split:
    """Divide pairs into `config.held_out_pairs`, `config.validation_pairs` and the rest, which is for training.

    Held-out is filled first, then validation; a group goes to the first of the two in which it still fits. With groups of one
    pair the counts are exact; otherwise a side may stay below its count, by less than the size of any group that it passed on.
    Groups with a question of `always_train` are training pairs whatever the seed.
    Raises InputError when fewer than 2 pairs are left for training, or fewer than 2 could be placed on another side.
    """
    _require_enough(len(pairs), config)
    sides: dict[str, list[int]] = {"held_out": [], "validation": [], "train": []}
    room = {"held_out": config.held_out_pairs, "validation": config.validation_pairs, "train": len(pairs)}
    ranks = [_rank(pair.question, config.split_seed) for pair in pairs]
    groups = _groups(pairs, config.near_duplicate_similarity)
    for group in sorted(groups, key=lambda group: min((ranks[index], index) for index in group)):
        fixed = any(pairs[index].question in always_train for index in group)
        side = "train" if fixed else next(name for name, size in room.items() if len(sides[name]) + len(group) <= size)
        sides[side].extend(group)
    _require_sides(sides, len(pairs), len(groups), config)
    return Split(**{name: tuple(sorted(indices)) for name, indices in sides.items()})


def _rank(question: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {_folded(question)}".encode()).digest()


def _folded(question: str) -> str:
    # A question of punctuation alone ('?!') has no words and stands for itself.
    return " ".join(word_list(question)) or question.strip()


def _groups(pairs: Sequence[Pair], threshold: float) -> list[list[int]]:
    """Connected components of 'same question or near-duplicate answer' (union-find)."""
    parents = list(range(len(pairs)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first_with = {}
    for index, pair in enumerate(pairs):
        parents[root(index)] = root(first_with.setdefault(_folded(pair.question), index))
    first_saying: dict[WordSet, int] = {}
    for index, pair in enumerate(pairs):
        if words := word_set(pair.answer):
            parents[root(index)] = root(first_saying.setdefault(words, index))
    # Among different answers only: a corpus may have many questions of one answer, and every two of these are similar.
    answers = list(first_saying.items())
    for earlier, later in similar_pairs([words for words, _ in answers], threshold):
        parents[root(answers[later][1])] = root(answers[earlier][1])
    groups: dict[int, list[int]] = {}
    for index in range(len(pairs)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _require_enough(count: int, config: CorpusConfig) -> None:
    needed = config.held_out_pairs + config.validation_pairs + 2
    if count < needed:
        raise InputError(
            f"corpus.pairs {config.pairs!r} has {count} pairs, too few to divide",
            expected=f"at least {needed}: {config.held_out_pairs} held out, {config.validation_pairs} for validation, "
            "2 or more for training",
            fix="lower --config.corpus.held_out_pairs or --config.corpus.validation_pairs, or give more pairs",
        )


def _require_sides(sides: dict[str, list[int]], pairs: int, groups: int, config: CorpusConfig) -> None:
    for name, indices in sides.items():
        if len(indices) < 2:
            raise InputError(
                f"the division of corpus.pairs {config.pairs!r} leaves {len(indices)} pairs for {name}: its {pairs} pairs "
                f"form only {groups} groups of same questions or near-duplicate answers, which stay together",
                expected="at least 2 pairs on every side",
                fix="raise --config.corpus.near_duplicate_similarity, change --config.corpus.held_out_pairs or "
                "--config.corpus.validation_pairs, or give more varied pairs",
            )
