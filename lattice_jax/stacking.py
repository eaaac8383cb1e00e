"""What the cube's answer is a change of: nothing, the question itself, the mean answer and a share of it, or a regression's.

Contract: a base maps questions to answers, in the teacher's space, by what was fitted on the training pairs alone. The cube
works in the adapter's code, so a base becomes two offsets: `shift`, added to the cube's output, and `remainder`, added to what
is decoded from the sum, the part of the base that the code can't hold. An untrained cube hands its input on and so answers the
base, exactly; one around 'beyond_code' has the second offset alone.

A regression knows the training answers better than any others, so while the cube learns each training pair is answered by a
regression of the other folds (stacked generalisation, Wolpert 1992): it then lacks there what it lacks on new questions.

Once the cube has learned, shares of the question, of the best regression's answer and of the mean answer may be added to what
it says. It doesn't learn against them: two learners that err apart are right together, and a share of the question trades
similarity to the right answer for being told apart from the others.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lattice_jax.config import AnswerConfig
from lattice_jax.config.learning import ADDED_AFTERWARDS
from lattice_jax.evaluation.baselines import SHARES, Baseline, Pairs, Predict, fit_kernel_ridge, fit_ridge, kernel_ridge, ridge
from lattice_jax.evaluation.similarity import unit_rows
from lattice_jax.lattice.adapter import Codec


class Offsets(NamedTuple):
    """What is added to the cube's output, and to the decoded sum."""

    shift: Float[np.ndarray, "n code"]
    remainder: Float[np.ndarray, "n teacher"]

    def answers(self, codec: Codec, vectors: Float[Array, "n code"]) -> Float[Array, "n teacher"]:
        """What the cube's output means."""
        return codec.decode(vectors + self.shift) + self.remainder


class Base(NamedTuple):
    """What the cube's answers are changes of."""

    predict: Predict | None = None
    """Questions to answers; None where the cube's output is decoded as it is."""
    cross_fitted: Callable[[], Float[np.ndarray, "n teacher"]] | None = None
    """Answers to the training questions, none of them fitted on its own pair; computed when a cube is to learn."""
    shifts: bool = True
    """Whether the base is added to the cube's output, too, or only what of it the code can't hold."""
    afterwards: Predict | None = None
    """Questions to what is added to the answers of a cube that has learned."""

    def offsets(self, codec: Codec, questions: Float[np.ndarray, "n teacher"]) -> Offsets:
        """What turns the cube's output for any questions into a change of this base, and what is added afterwards."""
        shift, remainder = self._offsets(codec, questions, None if self.predict is None else self.predict(questions))
        if self.afterwards is not None:
            remainder += self.afterwards(questions).astype(np.float32)
        return Offsets(shift, remainder)

    def training_offsets(self, codec: Codec, questions: Float[np.ndarray, "n teacher"]) -> Offsets:
        """The same for the training questions, by what was not fitted on them."""
        return self._offsets(codec, questions, None if self.cross_fitted is None else self.cross_fitted())

    def _offsets(self, codec: Codec, questions: np.ndarray, wanted: np.ndarray | None) -> Offsets:
        shift, remainder = offsets(codec, questions, wanted)
        return Offsets(shift if self.shifts else np.zeros_like(shift), remainder)


class _Regressions:
    """Ridge regressions between the pairs at unit length, whose answers get back the length of embeddings, which codes have."""

    def __init__(self, train: Pairs, validation: Pairs) -> None:
        self.length = float(np.mean(np.linalg.norm(train.answers, axis=1)))
        self.train, self._validation = (
            Pairs(unit_rows(pairs.questions, "questions"), unit_rows(pairs.answers, "answers")) for pairs in (train, validation)
        )

    def around(self, *shares: float) -> Baseline:
        """Around that share of the question, and with that penalty, which the validation pairs choose."""
        return ridge(self.train, self._validation, "ridge", shares=shares)

    @cached_property
    def shared(self) -> Baseline:
        """Around any share."""
        return self.around(*SHARES)

    @cached_property
    def kernel(self) -> Baseline:
        """Around any share, of a kernel."""
        return kernel_ridge(self.train, self._validation)

    def best(self, name: str) -> Baseline:
        """The kernel one by its name, else the linear one."""
        return self.kernel if name == "kernel_ridge" else self.shared


def fit_base(train: Pairs, validation: Pairs, config: AnswerConfig, *, seed: int) -> Base:
    """The base that `config` names; validation pairs choose a regression's penalty, and the share of a shared one."""
    regressions = _Regressions(train, validation)
    added = _added(regressions, config) if any(getattr(config, name) for name in ADDED_AFTERWARDS) else None
    return _fit_around(train, regressions, config, seed=seed)._replace(afterwards=added)


def _fit_around(train: Pairs, regressions: _Regressions, config: AnswerConfig, *, seed: int) -> Base:
    if config.around == "nothing":
        return Base()
    if config.around == "question":
        return Base(lambda questions: questions, lambda: train.questions)
    units, length = regressions.train, regressions.length
    if config.around == "shrunken_question":
        mean_question, mean_answer = units.questions.mean(axis=0), units.answers.mean(axis=0)

        def shrunken(questions: np.ndarray) -> np.ndarray:
            return mean_answer + config.share * (questions - mean_question)

        return _of_length(length, shrunken, lambda: shrunken(units.questions))
    chosen = regressions.around(config.share) if config.around == "ridge" else regressions.best(config.around)
    found = _of_length(length, chosen.predict, lambda: _cross_fitted(units, chosen, config.folds, seed=seed))
    return found._replace(shifts=config.around != "beyond_code")


def _added(regressions: _Regressions, config: AnswerConfig) -> Predict:
    """What is added to the answers of a cube that has learned, at the length of embeddings."""
    mean = config.removed_mean * regressions.train.answers.mean(axis=0)

    def added(questions: np.ndarray) -> np.ndarray:
        asked = unit_rows(questions, "questions")
        shares = config.added_question * asked - mean
        if config.added_regression:
            shares += config.added_regression * regressions.best(config.regression).predict(asked)
        return regressions.length * shares

    return added


def _of_length(length: float, predict: Predict, cross_fitted: Callable[[], np.ndarray]) -> Base:
    return Base(lambda questions: length * predict(unit_rows(questions, "questions")), lambda: length * cross_fitted())


def _cross_fitted(train: Pairs, chosen: Baseline, folds: int, *, seed: int) -> np.ndarray:
    choices = {name: float(value) for name, value in chosen.choices.items()}
    fit = fit_kernel_ridge if chosen.name == "kernel_ridge" else fit_ridge
    fold_of = np.random.default_rng(seed).permutation(len(train.questions)) % folds
    answers = np.empty_like(train.answers)
    for fold in range(min(folds, len(train.questions))):
        out = fold_of == fold
        others = Pairs(train.questions[~out], train.answers[~out])
        answers[out] = fit(others, **choices)(train.questions[out])
    return answers


def offsets(codec: Codec, questions: Float[np.ndarray, "n teacher"], base: np.ndarray | None) -> Offsets:
    """The offsets by which a cube that hands on the codes of `questions` answers `base`.

    At the length that `base` has: stretched to that of an embedding, a regression's answer, which is shorter the less it knows,
    would lie far from the right code, and the surface loss would pull the cube's output out of its direction.
    """
    if base is None:
        return Offsets(np.zeros((len(questions), codec.adapter.code), np.float32), np.zeros_like(questions, np.float32))
    wanted = base.astype(np.float32)
    code = np.asarray(codec.encode_answers(jnp.asarray(wanted)))
    shift = code - np.asarray(codec.encode_questions(jnp.asarray(questions)))
    return Offsets(shift, wanted - np.asarray(codec.decode(jnp.asarray(code))))
