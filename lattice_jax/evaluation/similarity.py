"""How close predicted answers are to the true ones, and how certain that is.

Contract: arrays in, plain numbers out, all in float64 and in the space the embeddings came in (the teacher's). A row that is
zero or not finite has no direction and is refused, never scored. Two kinds of measure stand side by side, since the mean answer
has a good similarity and no use: the cosine to the own answer, and the rank of the own answer among all the answers given.

Ties count against the predictor: a candidate as similar as the own answer (within `TIE_TOLERANCE`) is ranked before it. So a
predictor that tells nothing apart gains nothing: a constant prediction over distinct answers meets every rank once, and over
collapsed answers (all alike) every rank is the last.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lattice_jax.errors import InputError

MEASURES = ("similarity", "recall_at_1", "recall_at_5", "mrr")
TIE_TOLERANCE = 1e-9
"""Cosines nearer than this are equal: above the rounding of a float64 product, below what tells float32 embeddings apart."""
SMALLEST_NORM = 1e-12
BLOCK_NUMBERS = 2**22
"""Numbers held at once where a full table (predictions x candidates, resamples x pairs) could outgrow memory."""


@dataclass(frozen=True)
class Estimate:
    """A mean over pairs with its percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Measures:
    """How well one predictor does on one set of pairs."""

    similarity: Estimate
    """Mean cosine between prediction and own answer, -1..1."""
    recall_at_1: Estimate
    """Share of the pairs whose own answer is the nearest of all."""
    recall_at_5: Estimate
    """Share of the pairs whose own answer is among the five nearest."""
    mrr: Estimate
    """Mean reciprocal rank of the own answer."""
    pairs: int

    def as_dict(self) -> dict[str, float | int | list[float]]:
        """Plain values for JSON: each measure by name, its bounds under `<name>_interval`, and the number of pairs."""
        row: dict[str, float | int | list[float]] = {}
        for name in MEASURES:
            estimate: Estimate = getattr(self, name)
            row[name] = estimate.value
            row[f"{name}_interval"] = [estimate.low, estimate.high]
        return row | {"pairs": self.pairs}


def unit_rows(embeddings: Float[np.ndarray, "n d"], name: str) -> Float[np.ndarray, "n d"]:
    """The rows in float64, scaled to length 1.

    Raises `InputError` that names the array and its first bad row where a row is zero or not finite.
    """
    rows = embeddings.astype(np.float64)
    # A NaN or infinite entry makes the norm so too, and every comparison with NaN is false.
    norms = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~((norms > SMALLEST_NORM) & (norms < np.inf)))
    if bad.size:
        raise InputError(
            f"{bad.size} of {len(rows)} rows of {name} are zero or not finite (the first is row {bad[0]})",
            expected="embeddings with a direction: finite and not zero",
            fix="look at the text or the weights they came from; a diverged run needs a lower --config.optimizer.learning_rate",
        )
    return rows / norms[:, None]


def cosine_similarity(predicted: Float[np.ndarray, "n d"], target: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Cosine between each prediction and its target, -1..1; zero or non-finite rows are refused."""
    return np.sum(unit_rows(predicted, "the predictions") * unit_rows(target, "the answers"), axis=1)


def ranks(
    predicted: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "m d"], own: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Rank of each prediction's own answer among all candidates by cosine, 1 the best, m the worst.

    `own` holds the row of the own answer in `candidates`. Ties count against (see the module), equal candidates included: a set
    with one answer twice can't be told apart and isn't ranked first.
    """
    counted = [
        np.sum(block >= block[np.arange(len(block)), own[rows], None] - TIE_TOLERANCE, axis=1)
        for rows, block in _similarity_blocks(predicted, candidates)
    ]
    return np.concatenate(counted)


def nearest_answers(
    predicted: Float[np.ndarray, "n d"], answers: Float[np.ndarray, "m d"], count: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Rows of the `count` answers nearest to each prediction, nearest first, and their cosines."""
    if not 1 <= count <= len(answers):
        raise InputError(
            f"{count} nearest answers asked for among {len(answers)}",
            expected=f"between 1 and {len(answers)}",
            fix="ask for fewer answers, or give more of them",
        )
    indices, similarities = [], []
    for _, block in _similarity_blocks(predicted, answers):
        nearest = np.argsort(-block, axis=1, kind="stable")[:, :count]
        indices.append(nearest)
        similarities.append(np.take_along_axis(block, nearest, axis=1))
    return np.concatenate(indices), np.concatenate(similarities)


def score_pairs(predicted: Float[np.ndarray, "n d"], answers: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 4"]:
    """What each pair contributes to each of `MEASURES`; the candidates are all the answers given."""
    rank = ranks(predicted, answers, np.arange(len(answers)))
    return np.stack([cosine_similarity(predicted, answers), rank <= 1, rank <= 5, 1 / rank], axis=1)


def summarise(
    scores: Float[np.ndarray, "n 4"], *, bootstrap_samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Measures:
    """Means of `score_pairs` over the pairs, with intervals."""
    estimates = _bootstrap(scores, bootstrap_samples, confidence, seed)
    return Measures(**dict(zip(MEASURES, estimates, strict=True)), pairs=len(scores))


def measure(
    predicted: Float[np.ndarray, "n d"],
    answers: Float[np.ndarray, "n d"],
    *,
    bootstrap_samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Measures:
    """Similarity and retrieval of predictions against their answers, each with its bootstrap interval.

    The bootstrap draws pairs with replacement and keeps the candidates: it says how the figure varies with the questions asked,
    not with the size of the set searched (percentile interval; Efron and Tibshirani 1993, chapter 13).
    """
    scores = score_pairs(predicted, answers)
    return summarise(scores, bootstrap_samples=bootstrap_samples, confidence=confidence, seed=seed)


def paired_difference(
    a_values: Float[np.ndarray, " n"],
    b_values: Float[np.ndarray, " n"],
    *,
    bootstrap_samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean of a - b over the same pairs, with its interval.

    Drawing the pairs once for both removes what makes a pair hard for either, so the interval is that of the comparison and is
    mostly far narrower than the two intervals side by side suggest.
    """
    return _bootstrap((a_values - b_values)[:, None], bootstrap_samples, confidence, seed)[0]


def relative_spread(predicted: Float[np.ndarray, "n d"], answers: Float[np.ndarray, "n d"]) -> float:
    """Variance of the predictions' directions as a share of that of the answers', 0 for one constant prediction.

    The variance of unit vectors around their mean is one minus its squared length.
    """
    predicted_mean, answer_mean = (
        np.mean(unit_rows(rows, name), axis=0) for rows, name in ((predicted, "the predictions"), (answers, "the answers"))
    )
    of_answers = 1 - float(answer_mean @ answer_mean)
    if of_answers <= TIE_TOLERANCE:
        raise InputError("all the answers are alike", expected="answers that differ", fix="give more than one answer")
    return (1 - float(predicted_mean @ predicted_mean)) / of_answers


def _similarity_blocks(
    predicted: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "m d"]
) -> Iterator[tuple[slice, np.ndarray]]:
    predicted_units, candidate_units = unit_rows(predicted, "the predictions"), unit_rows(candidates, "the answers")
    height = max(1, BLOCK_NUMBERS // len(candidates))
    for start in range(0, len(predicted), height):
        rows = slice(start, start + height)
        yield rows, predicted_units[rows] @ candidate_units.T


def _bootstrap(values: Float[np.ndarray, "n k"], samples: int, confidence: float, seed: int) -> list[Estimate]:
    """Percentile interval of every column's mean; one draw of pairs serves all columns."""
    pairs = len(values)
    generator = np.random.default_rng(seed)
    means = []
    height = max(1, BLOCK_NUMBERS // pairs)
    for start in range(0, samples, height):
        drawn = generator.integers(pairs, size=(min(height, samples - start), pairs))
        # How often each pair was drawn: a table of counts times the values needs no gather of every resample.
        resample = np.arange(len(drawn))[:, None] * pairs
        counts = np.bincount((drawn + resample).ravel(), minlength=drawn.size).reshape(drawn.shape)
        means.append(counts @ values / pairs)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return [Estimate(float(m), float(a), float(b)) for m, a, b in zip(values.mean(axis=0), low, high, strict=True)]
