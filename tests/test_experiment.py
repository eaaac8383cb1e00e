"""Parts of a run that need no training: which pairs are measured on, and baselines that several seeds share."""

import dataclasses

import numpy as np
import pytest

from lattice_jax import experiment
from lattice_jax.config import Config
from lattice_jax.corpus.corpus import load_corpus
from lattice_jax.evaluation.baselines import Baseline
from lattice_jax.experiment import FittedOnce
from lattice_jax.lattice.cube import parameter_counts
from lattice_jax.material import Material


@pytest.fixture(scope="module")
def material() -> Material:
    """The pairs of 'hundred', and numbers that tell which row they are in place of embeddings."""
    corpus = load_corpus(Config().corpus)
    rows = np.arange(len(corpus.pairs), dtype=np.float32)[:, None]
    return Material(corpus, rows, rows + 0.5, rows[:0], 0)


def test_the_training_side_is_measured_on_pairs_spread_over_all_of_it(material):
    known = material.pairs("train").questions
    few = material.judged_pairs("train", 5)
    assert len(few.questions) == 5
    assert few.questions[0] == known[0]
    assert few.questions[-1] == known[-1]
    np.testing.assert_array_equal(few.answers, few.questions + 0.5)
    np.testing.assert_array_equal(material.judged_pairs("train", len(known)).questions, known)
    for side in ("validation", "held_out"):
        np.testing.assert_array_equal(material.judged_pairs(side, 2).questions, material.pairs(side).questions)


def test_seeds_share_baselines_as_long_as_nothing_else_differs(material, monkeypatch):
    asked = []

    def fitted(config, _material, operations) -> dict[str, Baseline]:
        asked.append((config.seed, operations))
        return {}

    monkeypatch.setattr(experiment, "answer_baselines", fitted)
    fit, config = FittedOnce(), Config()
    for seed in (3, 4):
        fit(dataclasses.replace(config, seed=seed), material, 1e9)
    assert asked == [(3, 1e9)]
    fit(config, material, 2e9)
    other = dataclasses.replace(material.corpus.split, train=material.corpus.split.train[1:])
    fit(config, material._replace(corpus=dataclasses.replace(material.corpus, split=other)), 2e9)
    smaller = dataclasses.replace(config.lattice, cell=dataclasses.replace(config.lattice.cell, hidden=16))
    fit(dataclasses.replace(config, lattice=smaller), material, 2e9)
    assert len(asked) == 4


def test_the_operations_of_a_training_are_those_of_all_its_samples():
    config = Config()
    assert (
        experiment.training_operations(config, 10) == 6 * parameter_counts(config.lattice)["cells"] * config.lattice.steps * 160
    )
