"""What the cube's answers are changes of, on real embeddings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import principal_codec

from lattice_jax import experiment
from lattice_jax.config import AnswerConfig, CellConfig, Config, GridConfig, LatticeConfig, TrainingConfig
from lattice_jax.errors import InputError
from lattice_jax.evaluation.baselines import SHARES, Pairs, fit_kernel_ridge, fit_ridge, kernel_ridge, ridge
from lattice_jax.evaluation.similarity import cosine_similarity
from lattice_jax.lattice import cube
from lattice_jax.lattice.adapter import Codec
from lattice_jax.stacking import Base, fit_base, offsets


@pytest.fixture(scope="module")
def pairs() -> tuple[Pairs, Pairs]:
    """50 training and 12 validation pairs of the glossary under MiniLM, of unit length."""
    with np.load(Path(__file__).parent / "data" / "question_answer_embeddings.npz") as file:
        rows = [file[name].astype(np.float32) for name in ("questions", "answers")]
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in rows]
    return Pairs(*(values[:50] for values in units)), Pairs(*(values[50:62] for values in units))


@pytest.fixture(scope="module")
def codec(pairs) -> Codec:
    """20 principal components: a code that holds no text entirely."""
    return principal_codec(np.concatenate(pairs[0]), 20)


def base(pairs, around: str, folds: int = 5, share: float = 0.7) -> Base:
    return fit_base(*pairs, AnswerConfig(around, share, folds), seed=0)


def test_around_nothing_there_is_nothing_to_add(pairs, codec):
    assert base(pairs, "nothing") == Base(None, None)
    added = offsets(codec, pairs[0].questions, None)
    assert added.shift.shape == (50, 20)
    assert added.remainder.shape == (50, 384)
    assert not added.shift.any()
    assert not added.remainder.any()


@pytest.mark.parametrize("around", ["question", "shrunken_question", "ridge", "shared_ridge", "kernel_ridge"])
def test_an_untrained_cube_answers_the_base(pairs, codec, around):
    # Without what its cells add, the wave guide hands its input on; it then takes only time to settle.
    cell = CellConfig(visible=8, memory=8, hidden=16, perception_noise=0.0, candidate_scale=0.0)
    lattice = LatticeConfig(GridConfig(2, 4, 5), cell, steps=24, minimum_arrival=0)
    config = Config(lattice=lattice, answer=AnswerConfig(around, folds=5), training=TrainingConfig(batch_size=8))
    chosen = base(pairs, around)
    parameters = cube.initialise(lattice, key=jax.random.key(0))
    predicted = experiment.make_predictor(config, codec, None, base=chosen)(parameters, pairs[1].questions)
    expected = chosen.predict(pairs[1].questions)
    assert np.min(cosine_similarity(predicted, expected)) > 0.999


def test_beyond_the_code_the_cube_gets_what_no_code_can_hold_and_nothing_else(pairs, codec):
    around, whole = base(pairs, "beyond_code"), base(pairs, "shared_ridge")
    for ask in (Base.offsets, Base.training_offsets):
        added, of_whole = (ask(one, codec, pairs[0].questions) for one in (around, whole))
        assert not added.shift.any()
        assert of_whole.shift.any()
        np.testing.assert_array_equal(added.remainder, of_whole.remainder)
    said = np.asarray(codec.decode(codec.encode_answers(jnp.asarray(whole.predict(pairs[1].questions), jnp.float32))))
    beyond = around.offsets(codec, pairs[1].questions).remainder
    np.testing.assert_allclose(said + beyond, whole.predict(pairs[1].questions), atol=1e-5)


def test_offsets_turn_the_handed_on_question_into_the_base(pairs, codec):
    questions, wanted = pairs[1].questions, 3 * pairs[1].answers
    added = offsets(codec, questions, wanted)
    answered = codec.decode(codec.encode_questions(jnp.asarray(questions)) + added.shift) + added.remainder
    np.testing.assert_allclose(answered, wanted, atol=1e-5)


@pytest.mark.parametrize("around", ["shrunken_question", "ridge", "shared_ridge", "kernel_ridge"])
def test_regressions_answer_at_the_length_of_embeddings_whatever_it_is(pairs, around):
    longer = [Pairs(*(3 * values for values in side)) for side in pairs]
    plain, scaled = base(pairs, around), base(longer, around)
    np.testing.assert_allclose(scaled.predict(longer[1].questions), 3 * plain.predict(pairs[1].questions), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scaled.cross_fitted(), 3 * plain.cross_fitted(), rtol=1e-4, atol=1e-6)


def test_a_shared_ridge_is_the_baseline_of_that_name(pairs):
    expected = ridge(*pairs, "shared_ridge", shares=SHARES).predict(pairs[1].questions)
    np.testing.assert_allclose(base(pairs, "shared_ridge").predict(pairs[1].questions), expected, atol=1e-6)


def test_a_kernel_ridge_is_the_baseline_of_that_name_and_cross_fitted(pairs):
    train, validation = pairs
    found, baseline = base(pairs, "kernel_ridge", folds=50), kernel_ridge(*pairs)
    np.testing.assert_allclose(found.predict(validation.questions), baseline.predict(validation.questions), atol=1e-6)
    others = Pairs(*(np.delete(values, 17, 0) for values in train))
    expected = fit_kernel_ridge(others, **baseline.choices)(train.questions[17:18])[0]
    np.testing.assert_allclose(found.cross_fitted()[17], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fit"), [("shared_ridge", lambda *sides: ridge(*sides, "any", shares=SHARES)), ("kernel_ridge", kernel_ridge)]
)
def test_the_regression_that_is_added_is_the_one_that_is_named(pairs, codec, name, fit):
    added = fit_base(*pairs, AnswerConfig(added_regression=2.0, regression=name), seed=0)
    remainder = added.offsets(codec, pairs[1].questions).remainder
    np.testing.assert_allclose(remainder, 2 * fit(*pairs).predict(pairs[1].questions), atol=1e-5)


def test_the_surface_loss_of_a_regression_is_at_rest_where_its_answers_are(pairs, codec):
    """Squared error and cosine agree on a base at its own length; at unit length they part, and the one spoils the other."""
    validation, chosen = pairs[1], base(pairs, "ridge", share=0.0)
    target = np.asarray(codec.encode_answers(jnp.asarray(validation.answers)))

    def error(stretch: float) -> float:
        predicted = chosen.predict(validation.questions)
        stretched = predicted * (1 - stretch + stretch / np.linalg.norm(predicted, axis=1, keepdims=True))
        added = offsets(codec, validation.questions, stretched)
        answered = np.asarray(codec.encode_questions(jnp.asarray(validation.questions))) + added.shift
        return float(np.mean(np.square(answered - target)))

    assert error(0.0) < error(1.0)


def test_the_shrunken_question_keeps_a_share_of_how_the_question_differs_from_the_mean(pairs):
    train, validation = pairs
    found = fit_base(train, validation, AnswerConfig("shrunken_question", share=0.25), seed=0)
    expected = train.answers.mean(0) + 0.25 * (validation.questions - train.questions.mean(0))
    np.testing.assert_allclose(found.predict(validation.questions), expected, atol=1e-6)
    np.testing.assert_allclose(found.cross_fitted(), found.predict(train.questions), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_training_pairs_are_answered_by_the_regression_of_the_other_folds(pairs, share):
    train, validation = pairs
    found = base(pairs, "ridge", folds=50, share=share)
    penalty = float(ridge(train, validation, "ridge", shares=(share,)).choices["penalty"])
    for row in (0, 17, 49):
        others = Pairs(*(np.delete(values, row, 0) for values in train))
        expected = fit_ridge(others, penalty, share=share)(train.questions[row : row + 1])[0]
        np.testing.assert_allclose(found.cross_fitted()[row], expected, atol=1e-5)
    in_sample = cosine_similarity(found.predict(train.questions), train.answers).mean()
    assert cosine_similarity(found.cross_fitted(), train.answers).mean() < in_sample - 0.01


SHARES_ADDED = {"added_question": 0.5, "added_regression": 2.0, "removed_mean": 0.2}


@pytest.mark.parametrize("around", ["nothing", "ridge", "shared_ridge", "beyond_code"])
def test_shares_are_added_once_the_cube_has_learned(pairs, codec, around):
    """At the length of answers, whatever the questions' own is, and none of them while the cube learns."""
    train, questions = Pairs(pairs[0].questions, 3 * pairs[0].answers), 5 * pairs[1].questions
    plain, changed = (fit_base(train, pairs[1], AnswerConfig(around, **shares), seed=0) for shares in ({}, SHARES_ADDED))
    before, after = (one.offsets(codec, questions) for one in (plain, changed))
    np.testing.assert_array_equal(after.shift, before.shift)
    regression = ridge(*pairs, "shared_ridge", shares=SHARES).predict(pairs[1].questions)
    expected = 0.5 * pairs[1].questions + 2 * regression - 0.2 * pairs[0].answers.mean(axis=0)
    np.testing.assert_allclose(after.remainder - before.remainder, 3 * expected, atol=1e-5)
    for learned_from in zip(*(one.training_offsets(codec, train.questions) for one in (plain, changed)), strict=True):
        np.testing.assert_array_equal(*learned_from)


@pytest.mark.parametrize("name", SHARES_ADDED)
def test_every_share_changes_a_run_s_answers_by_itself(pairs, codec, name):
    lattice = LatticeConfig(GridConfig(2, 4, 5), CellConfig(visible=8, memory=8, hidden=16), steps=6, minimum_arrival=0)
    parameters = cube.initialise(lattice, key=jax.random.key(0))

    def answered(**shares: float) -> np.ndarray:
        config = Config(lattice=lattice, answer=AnswerConfig(**shares), training=TrainingConfig(batch_size=8))
        added = fit_base(*pairs, config.answer, seed=0)
        return experiment.make_predictor(config, codec, None, base=added)(parameters, pairs[1].questions)

    one, two = (answered(**{name: share}) - answered() for share in (0.3, 0.6))
    assert np.linalg.norm(one, axis=1).min() > 0.01
    np.testing.assert_allclose(two, 2 * one, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("folds", 1), ("share", 1.5), ("added_question", -0.1), ("added_regression", -1.0), ("removed_mean", -0.1)],
)
def test_settings_that_can_t_be_are_named(setting, value):
    with pytest.raises(InputError, match=rf"answer\.{setting} is {value}"):
        AnswerConfig(**{setting: value})


def test_validation_pairs_choose_the_penalty_alone(pairs):
    train, validation = pairs
    shuffled = Pairs(validation.questions[::-1], validation.answers)
    one, other = (fit_base(train, chosen_on, AnswerConfig("ridge", folds=5), seed=0) for chosen_on in (validation, shuffled))
    assert np.abs(one.cross_fitted() - other.cross_fitted()).max() > 1e-3
