"""The pairs of an experiment, divided into some to learn from, some to choose by and some to judge on; none is held out.

Contract: on 'hundred', where few pairs are not held out, these are divided anew, three times; elsewhere the validation pairs
both choose and judge, unless an experiment asks for new divisions. Embeddings are of unit length.
"""

from typing import NamedTuple

import numpy as np

from lattice_jax.config import Config
from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.evaluation.similarity import unit_rows
from lattice_jax.lattice.adapter import Codec
from lattice_jax.material import Material

DIVISIONS = 3
CHOSEN_ON, JUDGED_ON = 12, 24


class Sides(NamedTuple):
    """Pairs of unit length, none of them held out."""

    train: Pairs
    chosen_on: Pairs
    judged_on: Pairs


class Corpus(NamedTuple):
    """What an experiment works on."""

    name: str
    config: Config
    material: Material
    codec: Codec
    """With principal faces."""

    def sides(self) -> list[Sides]:
        """One division of a large corpus, several of a small one."""
        train, validation = self._known()
        if len(validation.questions) > CHOSEN_ON + JUDGED_ON:
            return [Sides(train, validation, validation)]
        return self.divided(DIVISIONS, CHOSEN_ON, JUDGED_ON)

    def divided(self, divisions: int, chosen_on: int, judged_on: int) -> list[Sides]:
        """The pairs that are not held out, divided anew so many times, with so many to choose by and to judge on."""
        together = Pairs(*(np.concatenate(both) for both in zip(*self._known(), strict=True)))
        return [_divided(together, seed, chosen_on, judged_on) for seed in range(divisions)]

    def _known(self) -> tuple[Pairs, Pairs]:
        known = (self.material.pairs(side) for side in ("train", "validation"))
        train, validation = (Pairs(*(unit_rows(rows, "embeddings") for rows in pairs)) for pairs in known)
        return train, validation


def _divided(pairs: Pairs, seed: int, chosen_on: int, judged_on: int) -> Sides:
    order = np.random.default_rng(seed).permutation(len(pairs.questions))
    parts = np.split(order, [chosen_on, chosen_on + judged_on])
    chosen, judged, train = (Pairs(*(rows[part] for rows in pairs)) for part in parts)
    return Sides(train, chosen, judged)
