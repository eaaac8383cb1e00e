"""Baselines on real embeddings: closed forms, what each fit may see, and the MLP's budget."""

import itertools
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice_jax.errors import InputError
from lattice_jax.evaluation import baselines as module
from lattice_jax.evaluation.baselines import Baseline, Pairs, fit_baselines, fit_ridge, ridge_solver, shuffled
from lattice_jax.evaluation.similarity import cosine_similarity

SIZE = 200_000
"""Parameters of the lattice that the MLP of equal size is made for."""


@pytest.fixture(scope="module")
def divided() -> tuple[Pairs, Pairs, Pairs]:
    """Train, validation and held-out: 60, 12 and 28 glossary entries under MiniLM."""
    with np.load(Path(__file__).parent / "data" / "question_answer_embeddings.npz") as file:
        pairs = [file[name].astype(np.float64) for name in ("questions", "answers")]
    pairs = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in pairs]
    train, validation, held_out = (Pairs(*(rows[part] for rows in pairs)) for part in np.split(np.arange(100), [60, 72]))
    return train, validation, held_out


@pytest.fixture(scope="module")
def fitted(divided) -> dict[str, Baseline]:
    return fit_baselines(divided[0], divided[1], parameters=SIZE, operation_budget=1e12)


def similarity(baseline: Baseline, pairs: Pairs) -> float:
    return float(cosine_similarity(baseline.predict(pairs.questions), pairs.answers).mean())


def test_every_baseline_is_there_in_order_and_answers_any_questions(divided, fitted):
    ridges = ["ridge", "residual_ridge", "shared_ridge", "kernel_ridge"]
    assert list(fitted) == ["question", "mean_answer", *ridges, "mlp", "mlp_equal"]
    for name, baseline in fitted.items():
        assert baseline.name == name
        for pairs in divided:
            assert baseline.predict(pairs.questions).shape == pairs.answers.shape
        assert baseline.validation_similarity == pytest.approx(similarity(baseline, divided[1]))


def test_question_and_mean_answer_are_what_they_say(divided, fitted):
    train, _, held_out = divided
    np.testing.assert_array_equal(fitted["question"].predict(held_out.questions), held_out.questions)
    predicted = fitted["mean_answer"].predict(held_out.questions)
    np.testing.assert_allclose(predicted, np.broadcast_to(train.answers.mean(axis=0), predicted.shape))


@pytest.mark.parametrize("penalty", [0.01, 0.7, 30.0])
def test_ridge_equals_the_normal_equations(divided, penalty):
    train, _, held_out = divided
    centre, mean = train.questions.mean(axis=0), train.answers.mean(axis=0)
    x, y = train.questions - centre, train.answers - mean
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    expected = (held_out.questions - centre) @ weights + mean
    np.testing.assert_allclose(ridge_solver(train)(penalty, 0.0)(held_out.questions), expected, atol=1e-9)


def test_ridge_with_a_huge_penalty_is_the_mean_answer(divided):
    train, _, held_out = divided
    predicted = ridge_solver(train)(1e12, 0.0)(held_out.questions)
    np.testing.assert_allclose(predicted, np.broadcast_to(train.answers.mean(axis=0), predicted.shape), atol=1e-9)


def test_ridge_with_a_tiny_penalty_reproduces_the_training_answers(divided):
    train, _, _ = divided
    np.testing.assert_allclose(ridge_solver(train)(1e-9, 0.0)(train.questions), train.answers, atol=1e-5)


def test_the_penalty_is_the_best_on_validation(divided, fitted):
    train, validation, _ = divided
    solve = ridge_solver(train)
    by_penalty = [cosine_similarity(solve(p, 0.0)(validation.questions), validation.answers).mean() for p in module.PENALTIES]
    assert 0 < np.argmax(by_penalty) < len(module.PENALTIES) - 1
    assert fitted["ridge"].choices["penalty"] == module.PENALTIES[np.argmax(by_penalty)]


def test_residual_ridge_adds_the_predicted_difference_to_the_question(divided, fitted):
    train, _, held_out = divided
    difference = ridge_solver(Pairs(train.questions, train.answers - train.questions))
    expected = held_out.questions + difference(fitted["residual_ridge"].choices["penalty"], 0.0)(held_out.questions)
    np.testing.assert_allclose(fitted["residual_ridge"].predict(held_out.questions), expected, atol=1e-9)


def test_shared_ridge_adds_to_the_share_that_validation_chooses(divided, fitted):
    train, validation, held_out = divided
    share, penalty = (fitted["shared_ridge"].choices[name] for name in ("share", "penalty"))
    added = ridge_solver(Pairs(train.questions, train.answers - share * train.questions))
    expected = share * held_out.questions + added(penalty, 0.0)(held_out.questions)
    np.testing.assert_allclose(fitted["shared_ridge"].predict(held_out.questions), expected, atol=1e-9)
    for other in module.SHARES:
        predicted = fit_ridge(train, penalty, share=other)(validation.questions)
        assert cosine_similarity(predicted, validation.answers).mean() <= fitted["shared_ridge"].validation_similarity + 1e-9


def test_kernel_ridge_equals_the_dual_equations_with_an_intercept(divided):
    """[K + penalty I, 1; 1', 0] [a; b] = [Y; 0], and the answer k(q)'a + b (Suykens and Vandewalle 1999)."""
    train, _, held_out = divided
    count, share, penalty, sharpness = len(train.questions), 0.3, 0.2, 3.0
    kernel = np.exp(sharpness * (train.questions @ train.questions.T - 1)) + penalty * np.eye(count)
    system = np.block([[kernel, np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
    target = np.concatenate([train.answers - share * train.questions, np.zeros((1, train.answers.shape[1]))])
    solved = np.linalg.solve(system, target)
    seen = np.exp(sharpness * (held_out.questions @ train.questions.T - 1))
    expected = share * held_out.questions + seen @ solved[:-1] + solved[-1]
    predicted = module.fit_kernel_ridge(train, penalty, share=share, sharpness=sharpness)(held_out.questions)
    np.testing.assert_allclose(predicted, expected, atol=1e-4)


def test_of_many_training_questions_a_sample_is_enough(divided, monkeypatch):
    train, _, held_out = divided
    choices = {"penalty": 0.3, "share": 0.3, "sharpness": 4.0}
    whole = module.fit_kernel_ridge(train, **choices)(held_out.questions)
    found = []
    for count in (20, 50):
        monkeypatch.setattr(module, "LANDMARKS", count)
        found.append(cosine_similarity(module.fit_kernel_ridge(train, **choices)(held_out.questions), whole).mean())
    assert 0.97 < found[0] < found[1] < 1


def test_kernel_ridge_in_blocks_is_that_of_all_questions_at_once(divided, monkeypatch):
    train, validation, held_out = divided
    whole = module.kernel_ridge(train, validation)
    monkeypatch.setattr(module, "KERNEL_ROWS", 7)  # divides neither side
    in_blocks = module.kernel_ridge(train, validation)
    assert in_blocks.choices == whole.choices
    np.testing.assert_allclose(in_blocks.predict(held_out.questions), whole.predict(held_out.questions), atol=1e-9)


def test_kernel_ridge_takes_what_validation_chooses(divided, fitted):
    train, validation, _ = divided
    chosen = fitted["kernel_ridge"]
    for share, penalty, sharpness in itertools.product((0.0, 0.3, 0.6), module.KERNEL_PENALTIES[::5], module.SHARPNESSES):
        other = module.fit_kernel_ridge(train, penalty, share=share, sharpness=sharpness)(validation.questions)
        assert cosine_similarity(other, validation.answers).mean() <= chosen.validation_similarity + 1e-9


def test_validation_pairs_choose_and_are_never_fitted(divided, monkeypatch):
    train, validation, held_out = divided
    others = Pairs(validation.questions[::-1], -validation.answers)
    # With one penalty and no epochs there is nothing left to choose but the MLP's form.
    monkeypatch.setattr(module, "PENALTIES", np.array([1.0]))
    monkeypatch.setattr(module, "SHARES", (0.5,))
    monkeypatch.setattr(module, "SHARPNESSES", (4.0,))
    monkeypatch.setattr(module, "KERNEL_PENALTIES", np.array([0.3]))
    one, two = (fit_baselines(train, chosen_on, parameters=SIZE, operation_budget=0) for chosen_on in (validation, others))
    for name in ("question", "mean_answer", "ridge", "residual_ridge", "shared_ridge"):
        np.testing.assert_array_equal(one[name].predict(held_out.questions), two[name].predict(held_out.questions))
    assert one["ridge"].validation_similarity > 0 > two["ridge"].validation_similarity


def test_a_prediction_depends_on_its_own_question_alone(divided, fitted):
    questions = divided[2].questions
    for baseline in fitted.values():
        alone = np.concatenate([baseline.predict(questions[i : i + 1]) for i in range(3)])
        np.testing.assert_allclose(alone, baseline.predict(questions)[:3], atol=1e-5)


def test_the_linear_and_learned_baselines_beat_the_trivial_ones_on_held_out_pairs(divided, fitted):
    held_out = {name: similarity(baseline, divided[2]) for name, baseline in fitted.items()}
    trivial = max(held_out["question"], held_out["mean_answer"])
    assert min(held_out["ridge"], held_out["residual_ridge"], held_out["kernel_ridge"], held_out["mlp"]) > trivial + 0.01


def test_the_mlp_fits_its_training_pairs(divided):
    train, _, _ = divided
    mlp = fit_baselines(train, train, parameters=SIZE, operation_budget=1e12)["mlp"]
    assert similarity(mlp, train) > 0.9


def test_the_mlp_stops_early_and_keeps_its_best_epoch(divided, fitted):
    choices = fitted["mlp"].choices
    assert choices["form"] in ("plain", "residual")
    assert 0 < choices["best_epoch"] == choices["epochs"] - module.PATIENCE
    assert choices["parameters"] == 2 * 384 * 512 + 512 * 512 + 2 * 512 + 384


@pytest.mark.parametrize("parameters", [1, 5_000, 200_000, 61_800_000])
def test_the_mlp_of_equal_size_has_as_many_parameters(parameters):
    width = module.width_for(parameters, 384, 384)

    def count(hidden: int) -> int:
        return 2 * 384 * hidden + hidden**2 + 2 * hidden + 384

    assert width == 1 or abs(count(width) - parameters) <= min(abs(count(w) - parameters) for w in (width - 1, width + 1))


def test_the_mlp_of_equal_size_has_the_form_that_the_smaller_one_chose(fitted):
    assert fitted["mlp_equal"].choices["form"] == fitted["mlp"].choices["form"]
    assert fitted["mlp_equal"].choices["parameters"] == pytest.approx(SIZE, rel=0.01)


def test_patience_is_in_epochs_for_small_sets_and_in_samples_for_large_ones():
    assert [module.patience(pairs) for pairs in (60, 600, 2_000, 16_000)] == [30, 30, 10, 3]


@pytest.mark.parametrize("epochs", [0.9, 1, 2.5])
def test_the_mlp_spends_no_more_operations_than_it_may(divided, epochs):
    train, validation, _ = divided
    # 60 pairs in batches of 32: one batch an epoch; each of two forms has half the budget.
    epoch = 6 * (2 * 384 * 512 + 512 * 512 + 2 * 512 + 384) * 32
    choices = fit_baselines(train, validation, parameters=SIZE, operation_budget=2 * epochs * epoch)["mlp"].choices
    assert choices["epochs"] == int(epochs)
    assert choices["operations"] == 2 * int(epochs) * epoch <= 2 * epochs * epoch


def test_the_mlp_stops_at_the_last_epoch_allowed(divided):
    choices = fit_baselines(divided[0], divided[1], parameters=SIZE, operation_budget=1e15, maximum_epochs=3)["mlp"].choices
    assert choices["epochs"] == 3


def test_an_untrained_mlp_predicts_the_mean_of_what_its_base_lacks(divided):
    train, validation, held_out = divided
    mlp = fit_baselines(train, validation, parameters=SIZE, operation_budget=0)["mlp"]
    assert mlp.choices["form"] == "residual"
    expected = held_out.questions + (train.answers - train.questions).mean(axis=0)
    np.testing.assert_allclose(mlp.predict(held_out.questions), expected, atol=1e-6)


def test_one_seed_gives_one_mlp(divided, fitted):
    train, validation, held_out = divided
    again = fit_baselines(train, validation, parameters=SIZE, operation_budget=1e12)["mlp"]
    np.testing.assert_array_equal(again.predict(held_out.questions), fitted["mlp"].predict(held_out.questions))
    other = fit_baselines(train, validation, parameters=SIZE, operation_budget=1e12, seed=1)["mlp"]
    assert np.abs(other.predict(held_out.questions) - fitted["mlp"].predict(held_out.questions)).max() > 1e-3


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_training_embeddings_without_direction_are_refused(divided, bad):
    train, validation, _ = divided
    answers = train.answers.copy()
    answers[7] = bad
    with pytest.raises(InputError, match="the training answers are zero or not finite"):
        fit_baselines(Pairs(train.questions, answers), validation, parameters=SIZE, operation_budget=0)


@pytest.mark.parametrize("pairs", [2, 3, 5, 40])
def test_shuffling_leaves_no_prediction_in_its_place(pairs):
    predicted = np.arange(pairs, dtype=float)[:, None]
    for seed in range(30):
        moved = shuffled(predicted, seed=seed)
        assert sorted(moved[:, 0]) == list(range(pairs))
        assert not np.any(moved == predicted)


def test_every_derangement_is_as_likely():
    drawn = Counter(tuple(shuffled(np.arange(4.0)[:, None], seed=seed)[:, 0]) for seed in range(1800))
    assert len(drawn) == 9
    # 200 expected each; four standard deviations are 53.
    assert all(147 < count < 253 for count in drawn.values())


def test_one_pair_cannot_be_shuffled():
    with pytest.raises(InputError, match="at least 2"):
        shuffled(np.ones((1, 3)), seed=0)


def test_a_wider_network_learns_in_smaller_steps():
    gradient = module._start(4, 8, jnp.ones(4), key=jax.random.key(0))

    def moved(hidden: int) -> float:
        optimizer = module._optimizer(hidden)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(gradient, optimizer.init(gradient), jax.tree.map(jnp.zeros_like, gradient))
        return float(jnp.abs(updates.kernels[0]).max())

    assert moved(module.HIDDEN_WIDTH) == pytest.approx(module.LEARNING_RATE, rel=1e-3)
    assert moved(64) == moved(module.HIDDEN_WIDTH)
    assert moved(8 * module.HIDDEN_WIDTH) == pytest.approx(module.LEARNING_RATE / 8, rel=1e-3)
