"""The losses against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import real_embeddings

from lattice_jax.training.losses import contrastive, dialogue_similarity, internal_consistency, surface_reconstruction

QUESTIONS, ANSWERS = real_embeddings()


def test_surface_reconstruction_is_the_mean_squared_error_of_each_sample():
    read, target = QUESTIONS[:6] * 20, ANSWERS[:6] * 20
    found = surface_reconstruction(jnp.asarray(read), jnp.asarray(target))
    np.testing.assert_allclose(found, ((read - target) ** 2).mean(1), rtol=1e-5)
    np.testing.assert_array_equal(surface_reconstruction(jnp.asarray(read), jnp.asarray(read)), np.zeros(6))


def test_zeros_score_one_against_a_code_of_unit_mean_square():
    code = ANSWERS[:6] / np.sqrt(np.mean(ANSWERS[:6] ** 2, 1, keepdims=True))
    np.testing.assert_allclose(surface_reconstruction(jnp.zeros_like(code), jnp.asarray(code)), 1.0, rtol=1e-5)


@pytest.mark.parametrize("last", [1, 3, 5])
def test_internal_consistency_is_the_mean_activity_of_the_last_steps(last):
    activity = np.random.default_rng(0).uniform(size=(5, 4)).astype(np.float32)
    found = internal_consistency(jnp.asarray(activity), last)
    assert found.shape == (4,)
    np.testing.assert_allclose(found, activity[5 - last :].mean(0), rtol=1e-6)


def test_dialogue_similarity_is_one_minus_the_cosine():
    found = dialogue_similarity(jnp.asarray(3 * QUESTIONS), jnp.asarray(ANSWERS))
    cosine = np.sum(QUESTIONS * ANSWERS, 1) / np.linalg.norm(QUESTIONS, axis=1) / np.linalg.norm(ANSWERS, axis=1)
    np.testing.assert_allclose(found, 1 - cosine, atol=1e-5)
    assert 0.3 < float(jnp.mean(found)) < 0.8


def test_dialogue_similarity_runs_from_right_to_opposite_and_survives_zero():
    answer = jnp.asarray(ANSWERS[:2])
    np.testing.assert_allclose(dialogue_similarity(answer, answer), 0.0, atol=1e-5)
    np.testing.assert_allclose(dialogue_similarity(-answer, answer), 2.0, atol=1e-5)
    np.testing.assert_allclose(dialogue_similarity(jnp.zeros_like(answer), answer), 1.0, atol=1e-5)


def test_contrastive_is_the_cross_entropy_of_the_right_answer():
    decoded, answers = jnp.asarray(3 * QUESTIONS[:5]), jnp.asarray(ANSWERS[:5])
    found = contrastive(decoded, answers, jnp.asarray(2 * ANSWERS[:12]), 0.1)
    logits = (
        QUESTIONS[:5] @ ANSWERS[:12].T / np.outer(np.linalg.norm(QUESTIONS[:5], axis=1), np.linalg.norm(ANSWERS[:12], axis=1))
    )
    chances = np.exp(logits / 0.1) / np.exp(logits / 0.1).sum(1, keepdims=True)
    # The candidates hold every right answer once; it counts as the right one alone.
    np.testing.assert_allclose(found, -np.log(chances[np.arange(5), np.arange(5)]), rtol=1e-3)


def test_contrastive_is_zero_when_nothing_else_can_be_answered_and_falls_towards_the_right_answer():
    answers = jnp.asarray(ANSWERS[:2])
    np.testing.assert_allclose(contrastive(answers, answers, answers[:1], 0.05)[0], 0.0, atol=1e-6)
    towards = [
        contrastive(jnp.asarray(QUESTIONS[:2] + w * ANSWERS[:2]), answers, jnp.asarray(ANSWERS), 0.05) for w in (0, 1, 4)
    ]
    assert np.all(np.diff(np.stack(towards), axis=0) < 0)
