"""What a linear map can do: of the code, as much as a window of the face lets it see; of embeddings, with pairs lent by others.

Contract: embeddings of unit length in the teacher's space in, predictors in the teacher's space out. The penalty is chosen on
the validation pairs, as for the baselines.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from lattice_jax.evaluation.baselines import PENALTIES, Pairs
from lattice_jax.evaluation.similarity import cosine_similarity
from lattice_jax.lattice.adapter import Codec


def window(side: int, radius: int) -> Bool[np.ndarray, "code code"]:
    """Which input cells [from, to] lie within `radius` of an output cell on a square face, diagonals counting as one."""
    places = np.stack(np.divmod(np.arange(side * side), side), -1)
    return np.abs(places[:, None] - places[None]).max(-1) <= radius


def with_borrowed(train: Pairs, lent: Pairs, weight: float) -> Pairs:
    """Pairs of which a ridge regression is that of both corpora, a lent pair counting `weight` and each about its own means."""

    def joined(own: np.ndarray, other: np.ndarray) -> np.ndarray:
        # Moved to the same mean, both stay centred together; the square root is squared by least squares.
        return np.concatenate([own, own.mean(0) + np.sqrt(weight) * (other - other.mean(0))])

    return Pairs(*(joined(own, other) for own, other in zip(train, lent, strict=True)))


def windowed_ridge(
    train: Pairs, chosen_on: Pairs, codec: Codec, radius: int, penalties: np.ndarray = PENALTIES[::4]
) -> Callable[[np.ndarray], np.ndarray]:
    """Questions to answers by the regression in which a number of the answer's code sees the question's within `radius` alone.

    Codes come and go by the adapter; what the code can't hold of an answer is missing.
    """

    def asked_of(rows: np.ndarray) -> np.ndarray:
        return np.asarray(codec.encode_questions(jnp.asarray(rows, jnp.float32)))

    questions, answers = asked_of(train.questions), np.asarray(codec.encode_answers(jnp.asarray(train.answers, jnp.float32)))
    sees = window(round(np.sqrt(answers.shape[1])), radius)
    centre, mean = questions.mean(0), answers.mean(0)
    centred = questions - centre
    square, product = centred.T @ centred, centred.T @ (answers - mean)

    def fitted(penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        weights = np.zeros_like(square)
        for to in range(answers.shape[1]):
            seen = np.flatnonzero(sees[:, to])
            kernel = square[np.ix_(seen, seen)] + penalty * np.eye(len(seen))
            weights[seen, to] = np.linalg.solve(kernel, product[seen, to])
        return lambda asked: np.asarray(codec.decode(jnp.asarray(mean + (asked_of(asked) - centre) @ weights, jnp.float32)))

    # A code's numbers have a mean square of 1 where an embedding's have one over its dimension.
    predictors = [fitted(penalty * len(questions) / 100) for penalty in penalties]
    return max(predictors, key=lambda predict: cosine_similarity(predict(chosen_on.questions), chosen_on.answers).mean())
