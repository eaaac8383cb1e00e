"""The arithmetic behind the study of the historical claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import real_embeddings

from benchmarks.historical.levels import (
    best_constant,
    constant_level,
    pairwise_similarity,
    similarity_of_constant,
    similarity_to_others,
)
from benchmarks.historical.spaces import historical_space, teacher_space


@pytest.fixture(scope="module")
def answers() -> np.ndarray:
    return np.asarray(real_embeddings()[1][:10], np.float64)


def test_the_best_constant_scores_what_pairwise_similarity_says(answers):
    measured = similarity_of_constant(best_constant(answers), answers)
    assert measured == pytest.approx(float(constant_level(pairwise_similarity(answers), 10)), abs=1e-9)
    for other in np.random.default_rng(0).normal(size=(50, answers.shape[1])) * 0.02 + best_constant(answers):
        assert similarity_of_constant(other, answers) < measured


def test_targets_that_are_alike_give_a_constant_everything():
    assert constant_level(1.0, 10) == 1
    assert constant_level(0.0, 10) == pytest.approx(10**-0.5)


def test_similarity_to_others_leaves_out_the_own_target(answers):
    assert similarity_to_others(answers, answers) == pytest.approx(pairwise_similarity(answers), abs=1e-9)


def test_a_random_projection_makes_targets_alike_and_the_teachers_space_does_not(answers):
    dimension = answers.shape[1]
    projected = historical_space(dimension, 20, learns=False)
    made = np.asarray(projected.encode(projected.initialise(jax.random.key(0)), jnp.asarray(answers, jnp.float32)), np.float64)
    assert pairwise_similarity(made) > pairwise_similarity(answers) + 0.2
    frozen = teacher_space(answers, 9)
    back = frozen.decode({}, frozen.encode({}, jnp.asarray(answers, jnp.float32)))
    np.testing.assert_allclose(back, answers, atol=1e-4)
