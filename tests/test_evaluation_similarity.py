"""Ranks and intervals against plain loops, ties, and what is refused."""

import itertools

import numpy as np
import pytest

from lattice_jax.errors import InputError
from lattice_jax.evaluation import similarity as module
from lattice_jax.evaluation.similarity import (
    cosine_similarity,
    measure,
    nearest_answers,
    paired_difference,
    ranks,
    relative_spread,
    score_pairs,
)


def drawn(rows: int, seed: int = 0, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def rank_by_loop(predicted: np.ndarray, candidates: np.ndarray, own: int) -> int:
    return 1 + sum(
        cosine(predicted, candidate) >= cosine(predicted, candidates[own])
        for other, candidate in enumerate(candidates)
        if other != own
    )


def test_cosine_similarity_is_that_of_every_row_whatever_the_lengths():
    predicted, target = drawn(7), 100 * drawn(7, seed=1)
    assert cosine_similarity(predicted, target) == pytest.approx([cosine(a, b) for a, b in zip(predicted, target, strict=True)])


@pytest.mark.parametrize("block_numbers", [1, 30, 2**22])
def test_ranks_equal_a_loop_over_all_candidates(monkeypatch, block_numbers):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", block_numbers)
    predicted, candidates = drawn(8), drawn(13, seed=1)
    own = np.array([12, 0, 3, 3, 7, 1, 9, 5])
    expected = [rank_by_loop(p, candidates, o) for p, o in zip(predicted, own, strict=True)]
    assert len(set(expected)) > 3
    assert ranks(predicted, candidates, own).tolist() == expected


def test_a_candidate_equal_to_the_own_answer_is_ranked_before_it():
    answers = drawn(5)
    answers[4] = 3 * answers[1]
    assert ranks(answers, answers, np.arange(5)).tolist() == [1, 2, 1, 1, 2]


def test_rounding_breaks_no_tie():
    answers = drawn(200, width=384)
    twice = np.concatenate([answers, 1.1 * answers])
    assert ranks(0.7 * answers, twice, np.arange(200)).tolist() == [2] * 200


def test_collapsed_answers_give_everybody_the_last_rank():
    collapsed = np.tile(drawn(1), (9, 1)).astype(np.float32)
    assert ranks(drawn(9), collapsed, np.arange(9)).tolist() == [9] * 9
    measures = measure(collapsed, collapsed, bootstrap_samples=100)
    assert measures.similarity.value == pytest.approx(1)
    assert (measures.recall_at_1.value, measures.mrr.value) == (0, pytest.approx(1 / 9))


def test_a_constant_prediction_meets_every_rank_once():
    answers = drawn(40)
    constant = np.tile(drawn(1, seed=3), (40, 1))
    assert sorted(ranks(constant, answers, np.arange(40))) == list(range(1, 41))
    chance = sum(1 / rank for rank in range(1, 41)) / 40
    assert measure(constant, answers, bootstrap_samples=100).mrr.value == pytest.approx(chance)


def test_measures_are_the_means_of_similarity_hits_and_reciprocal_ranks():
    answers = drawn(30)
    predicted = answers + 0.9 * drawn(30, seed=1)
    rank = [rank_by_loop(p, answers, row) for row, p in enumerate(predicted)]
    assert max(rank) > 5
    measures = measure(predicted, answers, bootstrap_samples=100)
    assert measures.similarity.value == pytest.approx(np.mean([cosine(p, a) for p, a in zip(predicted, answers, strict=True)]))
    assert measures.recall_at_1.value == pytest.approx(sum(r == 1 for r in rank) / 30)
    assert measures.recall_at_5.value == pytest.approx(sum(r <= 5 for r in rank) / 30)
    assert measures.mrr.value == pytest.approx(sum(1 / r for r in rank) / 30)


def test_measures_as_plain_values():
    answers = drawn(6)
    row = measure(answers, answers, bootstrap_samples=100).as_dict()
    names = ("similarity", "recall_at_1", "recall_at_5", "mrr")
    assert list(row) == [*itertools.chain.from_iterable((name, f"{name}_interval") for name in names), "pairs"]
    assert row["pairs"] == 6
    for name in names:
        assert row[name] == pytest.approx(1)
        assert row[f"{name}_interval"] == pytest.approx([1, 1])


@pytest.mark.parametrize("block_numbers", [17, 2**22])
def test_the_interval_is_that_of_resampled_means(monkeypatch, block_numbers):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", block_numbers)
    values = drawn(25, width=1)[:, 0]
    generator = np.random.default_rng(5)
    means = sorted(np.mean([values[i] for i in generator.integers(25, size=25)]) for _ in range(4000))
    estimate = paired_difference(values, np.zeros(25), bootstrap_samples=4000, confidence=0.9, seed=1)
    assert estimate.value == pytest.approx(values.mean())
    assert [estimate.low, estimate.high] == pytest.approx([means[200], means[3800]], abs=0.02)
    assert estimate.low < estimate.value < estimate.high


def test_intervals_hold_the_true_mean_about_as_often_as_they_claim():
    generator = np.random.default_rng(0)
    samples = generator.normal(loc=0.3, size=(400, 40))
    intervals = [
        paired_difference(s, np.zeros(40), bootstrap_samples=300, confidence=0.8, seed=i) for i, s in enumerate(samples)
    ]
    # The percentile interval is a little narrow at 40 pairs; four standard errors of 400 trials are 0.08.
    assert 0.70 < np.mean([e.low <= 0.3 <= e.high for e in intervals]) < 0.88


def test_a_paired_difference_has_the_sign_of_the_better_and_hides_what_is_hard_for_both():
    hardness = drawn(40, width=1)[:, 0]
    better, worse = hardness + 0.05 + 0.01 * drawn(40, seed=1, width=1)[:, 0], hardness
    gain, loss = paired_difference(better, worse), paired_difference(worse, better)
    assert gain.low > 0 > loss.high
    assert gain.value == pytest.approx(0.05, abs=0.01)
    assert (loss.value, loss.low, loss.high) == pytest.approx((-gain.value, -gain.high, -gain.low), abs=1e-12)
    alone = paired_difference(better, np.zeros(40))
    assert gain.high - gain.low < (alone.high - alone.low) / 10


def test_one_seed_gives_one_interval_and_another_seed_another():
    predicted, answers = drawn(20), drawn(20, seed=1)
    assert measure(predicted, answers, seed=3) == measure(predicted, answers, seed=3)
    assert measure(predicted, answers, seed=3).similarity.low != measure(predicted, answers, seed=4).similarity.low


def test_nearest_answers_come_in_order():
    predicted, answers = drawn(4), drawn(11, seed=1)
    indices, similarities = nearest_answers(predicted, answers, 3)
    for row, p in enumerate(predicted):
        by_cosine = sorted(range(11), key=lambda i: -cosine(p, answers[i]))[:3]
        assert indices[row].tolist() == by_cosine
        assert similarities[row] == pytest.approx([cosine(p, answers[i]) for i in by_cosine])


@pytest.mark.parametrize("count", [0, 12])
def test_more_nearest_answers_than_there_are_is_refused(count):
    with pytest.raises(InputError, match="between 1 and 11"):
        nearest_answers(drawn(4), drawn(11), count)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("function", [cosine_similarity, score_pairs, measure, lambda p, a: nearest_answers(p, a, 1)])
def test_a_row_without_direction_is_refused_by_name(function, which, bad):
    arrays = [drawn(4), drawn(4, seed=1)]
    arrays[which][2] = bad
    with pytest.raises(
        InputError, match=r"1 of 4 rows of the (predictions|answers) are zero or not finite \(the first is row 2\)"
    ):
        function(*arrays)


def test_spread_is_the_variance_of_directions_beside_that_of_the_answers():
    answers = drawn(50)
    units = answers / np.linalg.norm(answers, axis=1, keepdims=True)
    assert relative_spread(3 * answers, answers) == pytest.approx(1)
    assert relative_spread(np.tile(units.mean(axis=0), (50, 1)), answers) == pytest.approx(0, abs=1e-12)
    halves = relative_spread(np.concatenate([units, -units]), np.concatenate([units, units]))
    assert halves == pytest.approx(1 / (1 - np.sum(units.mean(axis=0) ** 2)))
    with pytest.raises(InputError, match="all the answers are alike"):
        relative_spread(answers, np.ones((50, 6)))
