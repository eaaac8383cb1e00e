"""Plain predictors of an answer's embedding from a question's, which a lattice must beat to have shown anything.

Contract: `fit_baselines` fits on the training pairs alone, takes every choice (regularisation, form, when to stop) by
similarity on the validation pairs alone, and returns predictors that can be asked about any questions; held-out answers never
come near it. The embeddings are rows of unit length in the teacher's space. In this order:

    question        the question's own embedding: what a teacher gives for nothing
    mean_answer     the mean training answer, whatever is asked: good similarity, no use
    ridge           answer = mean + (question - mean question) W, squared error + penalty * |W|^2
    residual_ridge  the same for answer - question, added to the question
    shared_ridge    the same for answer - share * question, added to that share, which the validation pairs choose
    kernel_ridge    the same of how similar a question is to each training question, share 0 among those to choose from
    mlp             two hidden layers of 512, loss 1 - cosine, at most the operations that the lattice's training took
    mlp_equal       the same with as many parameters as the lattice, in the form that the smaller one chose

`shuffled` makes the control: a predictor's own outputs, each held against another pair's answer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from jaxtyping import Array, Float, PRNGKeyArray

from lattice_jax.errors import InputError
from lattice_jax.evaluation.similarity import cosine_similarity, unit_rows

Predict = Callable[[np.ndarray], np.ndarray]
PENALTIES = np.logspace(-4, 4, 49)
"""Six a decade: from no visible penalty for unit-length rows to the mean answer for up to some thousand pairs."""
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the question, that a ridge regression may be fitted around."""
SHARPNESSES = (2.0, 4.0)
"""Of the kernel exp(sharpness * (cosine - 1)). On pairs that are not held out 1 and 8 were worse than the better of these."""
KERNEL_PENALTIES = np.logspace(-3, 2, 21)
LANDMARKS = 4096
"""Training questions that a kernel regression compares with, at most."""
KERNEL_ROWS = 8192
"""Questions that are compared with all landmarks at a time: 268 MB, where all of 156,584 are 5.1 GB, several times over."""
_JITTER = 1e-6
"""Added to the kernel's diagonal, whose smallest eigenvalues are below rounding."""
HIDDEN_WIDTH = 512
LEARNING_RATE = 3e-4
"""At 1e-3 the best epoch on 60 pairs is the second, too coarse to stop at: held-out similarity 0.609 against 0.620."""
WEIGHT_DECAY = 1e-2
BATCH_SIZE = 32
PATIENCE = 30
"""Epochs without a better validation similarity before the MLP stops, for some hundred pairs; see `patience`."""
PATIENCE_SAMPLES = 20_000


class Budget(NamedTuple):
    """How long an MLP may learn."""

    operations: float
    epochs: int


class Pairs(NamedTuple):
    """Questions and their answers, row by row."""

    questions: Float[np.ndarray, "n d"]
    answers: Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class Baseline:
    """A fitted predictor: questions [n, d] in, predicted answers [n, d] out."""

    name: str
    predict: Predict
    validation_similarity: float
    choices: dict[str, float | str]
    """What the validation pairs chose, and what the fit took."""


def fit_baselines(
    train: Pairs, validation: Pairs, *, parameters: int, operation_budget: float, maximum_epochs: int = 1000, seed: int = 0
) -> dict[str, Baseline]:
    """Every baseline by name, in the order of the module's table.

    `parameters`: those of the lattice, for the MLP of equal size. `operation_budget` bounds the floating-point operations of
    training each MLP, all its forms together, counted as for the lattice: 6 a parameter and sample. One too small for an epoch
    leaves the network at its start: the base plus a mean.
    """
    budget, key = Budget(operation_budget, maximum_epochs), jax.random.key(seed)
    train, validation = (
        Pairs(unit_rows(pairs.questions, f"the {name} questions"), unit_rows(pairs.answers, f"the {name} answers"))
        for name, pairs in (("training", train), ("validation", validation))
    )
    mean_answer, regression = train.answers.mean(axis=0), ridge_solver(train)
    fitted = (
        _judged("question", lambda questions: questions, {}, validation),
        _judged("mean_answer", lambda questions: np.tile(mean_answer, (len(questions), 1)), {}, validation),
        _best_ridge(regression, validation, "ridge", (0.0,)),
        _best_ridge(regression, validation, "residual_ridge", (1.0,)),
        _best_ridge(regression, validation, "shared_ridge", SHARES),
        kernel_ridge(train, validation),
        mlp := _perceptron(train, validation, HIDDEN_WIDTH, budget, forms=("plain", "residual"), key=key),
    )
    dimension = train.questions.shape[1]
    equal = _perceptron(
        train, validation, width_for(parameters, dimension, dimension), budget, forms=(str(mlp.choices["form"]),), key=key
    )
    return {baseline.name: baseline for baseline in (*fitted, dataclasses.replace(equal, name="mlp_equal"))}


def width_for(parameters: float, inputs: int, outputs: int) -> int:
    """The hidden width at which an MLP of two hidden layers has about `parameters` weights, at least 1.

    With biases it has h^2 + (inputs + outputs + 2) h + outputs of them at hidden width h.
    """
    half = (inputs + outputs) / 2 + 1
    return max(1, round(np.sqrt(half**2 + max(0, parameters - outputs)) - half))


def shuffled(predicted: Float[np.ndarray, "n d"], *, seed: int) -> Float[np.ndarray, "n d"]:
    """The same predictions, each moved to another pair: a uniformly drawn permutation that leaves none in its place."""
    if len(predicted) < 2:
        raise InputError(
            f"{len(predicted)} pair to shuffle",
            expected="at least 2, so that each prediction can go to another pair",
            fix="raise --config.corpus.held_out_pairs",
        )
    generator = np.random.default_rng(seed)
    in_place = np.arange(len(predicted))
    order = in_place
    # One permutation in e has no fixed point, so this ends after about three draws and leaves all of those equally likely.
    while np.any(order == in_place):
        order = generator.permutation(len(predicted))
    return predicted[order]


Solve = Callable[[float, float], Predict]
"""(penalty, share of the question that the regression is fitted around) -> predictor."""


def ridge_solver(train: Pairs) -> Solve:
    """The ridge predictor of every penalty and share from one factorisation; the intercept is not penalised.

    With centred questions X = U S V' and centred answers Y, W = V S/(S^2 + penalty) U'Y (Hastie, Tibshirani and Friedman 2009,
    section 3.4.1, for many outputs). Around a share of the question Y is what the answers have more than that.
    """
    mean_question, mean_answer = train.questions.mean(axis=0), train.answers.mean(axis=0)
    left, singular, right = np.linalg.svd(train.questions - mean_question, full_matrices=False)
    projected_answers, projected_questions = left.T @ (train.answers - mean_answer), singular[:, None] * right

    def solve(penalty: float, share: float) -> Predict:
        weights = (singular / (singular**2 + penalty))[:, None] * (projected_answers - share * projected_questions)
        start = mean_answer - share * mean_question
        return lambda questions: share * questions + start + (questions - mean_question) @ right.T @ weights

    return solve


def fit_ridge(train: Pairs, penalty: float, *, share: float) -> Predict:
    """Ridge regression at one penalty, of what is to be added to a share of the question: 0 is the answer itself."""
    return ridge_solver(train)(penalty, share)


def ridge(train: Pairs, validation: Pairs, name: str, *, shares: Sequence[float]) -> Baseline:
    """Ridge regression at the penalty of `PENALTIES` and the share that do best on validation; rows of unit length.

    A large penalty shrinks the answer towards the mean answer at share 0, towards the question plus a constant at 1.
    """
    return _best_ridge(ridge_solver(train), validation, name, shares)


def _best_ridge(solve: Solve, validation: Pairs, name: str, shares: Sequence[float]) -> Baseline:
    fitted = (
        _judged(name, solve(penalty, share), {"penalty": float(penalty), "share": share}, validation)
        for share in shares
        for penalty in PENALTIES
    )
    return max(fitted, key=lambda baseline: baseline.validation_similarity)


class _Kernel:
    """Kernel ridge regression of every penalty and share from one factorisation; the intercept is not penalised.

    The predictor is a sum over landmarks of how similar a question is to each, penalised by the norm of the kernel's function
    space: all training questions while there are few, which is the whole solution, else a sample of them (subset of regressors;
    Rasmussen and Williams 2006, section 8.3.1).
    """

    def __init__(self, train: Pairs, sharpness: float):
        self.sharpness = sharpness
        self.mean_question, self.mean_answer = train.questions.mean(axis=0), train.answers.mean(axis=0)
        chosen = np.random.default_rng(0).permutation(len(train.questions))[:LANDMARKS]
        self.landmarks = train.questions[chosen]
        blocks = [slice(start, start + KERNEL_ROWS) for start in range(0, len(train.questions), KERNEL_ROWS)]
        self.mean_seen = sum(self._compare(train.questions[rows]).sum(axis=0) for rows in blocks) / len(train.questions)
        squares, with_answers, with_questions = (
            np.zeros((len(chosen), columns)) for columns in (len(chosen), train.answers.shape[1], train.questions.shape[1])
        )
        for rows in blocks:
            seen = self._compare(train.questions[rows]) - self.mean_seen
            squares += seen.T @ seen
            with_answers += seen.T @ (train.answers[rows] - self.mean_answer)
            with_questions += seen.T @ (train.questions[rows] - self.mean_question)
        own = self._compare(self.landmarks) + _JITTER * np.eye(len(chosen))
        self.eigenvalues, self.basis = scipy.linalg.eigh(squares, own)
        self.to_answers, self.to_questions = self.basis.T @ with_answers, self.basis.T @ with_questions

    def _compare(self, questions: np.ndarray) -> np.ndarray:
        return np.exp(self.sharpness * (questions @ self.landmarks.T - 1))

    def project(self, questions: np.ndarray) -> np.ndarray:
        """Questions in the basis in which penalties act number by number."""
        return (self._compare(questions) - self.mean_seen) @ self.basis

    def answer(self, questions: np.ndarray, projected: np.ndarray, penalty: float, share: float) -> np.ndarray:
        """Answers to questions, of which `project` gave the second array."""
        weights = (self.to_answers - share * self.to_questions) / (self.eigenvalues + penalty)[:, None]
        return self.mean_answer + share * (questions - self.mean_question) + projected @ weights

    def predictor(self, penalty: float, share: float) -> Predict:
        """Questions to answers, with these choices."""

        def predict(questions: np.ndarray) -> np.ndarray:
            starts = range(0, len(questions), KERNEL_ROWS)
            blocks = [questions[start : start + KERNEL_ROWS] for start in starts] or [questions]
            return np.concatenate([self.answer(block, self.project(block), penalty, share) for block in blocks])

        return predict


def fit_kernel_ridge(train: Pairs, penalty: float, *, share: float, sharpness: float) -> Predict:
    """Kernel ridge regression with these choices; rows of unit length."""
    return _Kernel(train, sharpness).predictor(penalty, share)


def kernel_ridge(train: Pairs, validation: Pairs) -> Baseline:
    """Kernel ridge regression with the sharpness, the penalty and the share that do best on validation; rows of unit length."""

    def best(sharpness: float) -> Baseline:
        kernel = _Kernel(train, sharpness)
        projected = kernel.project(validation.questions)

        def similarity(choice: tuple[float, float]) -> float:
            answered = kernel.answer(validation.questions, projected, *choice)
            return float(cosine_similarity(answered, validation.answers).mean())

        shares, penalties = (0.0, *SHARES), [float(penalty) for penalty in KERNEL_PENALTIES]
        penalty, share = max(((penalty, share) for share in shares for penalty in penalties), key=similarity)
        choices: dict[str, float | str] = {"penalty": penalty, "share": share, "sharpness": sharpness}
        return Baseline("kernel_ridge", kernel.predictor(penalty, share), similarity((penalty, share)), choices)

    return max(map(best, SHARPNESSES), key=lambda baseline: baseline.validation_similarity)


def _judged(name: str, predict: Predict, choices: dict[str, float | str], validation: Pairs) -> Baseline:
    similarity = cosine_similarity(predict(validation.questions), validation.answers)
    return Baseline(name, predict, float(similarity.mean()), choices)


class _Layers(NamedTuple):
    """Kernels [in, out] and biases [out] of the two hidden layers and the last one."""

    kernels: tuple[Array, Array, Array]
    biases: tuple[Array, Array, Array]


class _Samples(NamedTuple):
    """What the network reads, what its output is added to, and what the sum should point at."""

    inputs: Float[Array, "n d"]
    base: Float[Array, "n d"]
    answers: Float[Array, "n d"]


@jax.jit
def _network(layers: _Layers, inputs: Float[Array, "n d"], base: Float[Array, "n d"]) -> Float[Array, "n d"]:
    hidden = inputs
    for kernel, bias in zip(layers.kernels[:2], layers.biases[:2], strict=True):
        hidden = jax.nn.gelu(hidden @ kernel + bias[None, :])
    return base + hidden @ layers.kernels[2] + layers.biases[2][None, :]


@jax.jit
def _cosine_loss(layers: _Layers, samples: _Samples) -> Float[Array, ""]:
    return jnp.mean(optax.losses.cosine_distance(_network(layers, samples.inputs, samples.base), samples.answers, epsilon=1e-6))


def _optimizer(hidden: int) -> optax.GradientTransformation:
    # Adam moves every weight by as much, so a sum over more of them moves further: beyond the width that the rate was found at
    # it shrinks with the width (Yang et al. 2021, "Tensor Programs V"), else a large network's best epoch is its start.
    rate = LEARNING_RATE * min(1.0, HIDDEN_WIDTH / hidden)
    # A decayed bias would pull the last layer away from the mean answer that it starts from.
    return optax.adamw(rate, weight_decay=WEIGHT_DECAY, mask=lambda layers: jax.tree.map(lambda a: a.ndim == 2, layers))


@partial(jax.jit, static_argnames=("width", "hidden"))
def _start(width: int, hidden: int, mean_target: Float[Array, " d"], *, key: PRNGKeyArray) -> _Layers:
    """A network that predicts the base plus the mean of what it lacks: no worse than the mean answer before its first step."""
    first, second = jax.random.split(key)
    draw = jax.nn.initializers.lecun_normal()
    kernels = (draw(first, (width, hidden)), draw(second, (hidden, hidden)), jnp.zeros((hidden, width)))
    return _Layers(kernels, (jnp.zeros(hidden), jnp.zeros(hidden), mean_target))


@partial(jax.jit, static_argnames="batch_size", donate_argnames=("layers", "state"))
def _train_epoch(
    layers: _Layers, state: optax.OptState, train: _Samples, validation: _Samples, *, batch_size: int, key: PRNGKeyArray
) -> tuple[_Layers, optax.OptState, Float[Array, ""]]:
    """One pass in random order, without the rest that fills no batch; and the loss on validation afterwards.

    Both `layers` and `state` are donated: new copies took a sixth of the time of an MLP as large as the cube.
    """
    pairs = len(train.inputs)
    batches = jax.random.permutation(key, pairs)[: pairs // batch_size * batch_size].reshape(-1, batch_size)

    def step(carry: tuple[_Layers, optax.OptState], rows: Array):
        layers, state = carry
        gradient = jax.grad(_cosine_loss)(layers, jax.tree.map(lambda array: array[rows], train))
        # Adam's bias correction raises a float to an integer step count, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = _optimizer(len(layers.kernels[1])).update(gradient, state, layers)
        return (jax.tree.map(jnp.add, layers, updates), state), None

    (layers, state), _ = jax.lax.scan(step, (layers, state), batches)
    return layers, state, _cosine_loss(layers, validation)


def _kept(layers: _Layers) -> _Layers:
    """A copy that the next epoch, to which `layers` are donated, leaves alone."""
    return jax.tree.map(jnp.copy, layers)


def patience(pairs: int) -> int:
    """Epochs without a better validation similarity before an MLP stops: `PATIENCE_SAMPLES` in all, 3 to `PATIENCE` epochs."""
    return min(PATIENCE, max(3, round(PATIENCE_SAMPLES / pairs)))


def _perceptron(
    train: Pairs, validation: Pairs, width: int, budget: Budget, *, forms: tuple[str, ...], key: PRNGKeyArray
) -> Baseline:
    """The best of `forms` on validation: "plain", the answer itself, or "residual", what is to be added to the question."""
    share = budget._replace(operations=budget.operations / len(forms))
    fitted = [_fit_perceptron(train, validation, width, form, share, key=key) for form in forms]
    best = max(fitted, key=lambda baseline: baseline.validation_similarity)
    operations = sum(float(baseline.choices["operations"]) for baseline in fitted)
    return dataclasses.replace(best, choices=best.choices | {"operations": operations})


def _fit_perceptron(train: Pairs, validation: Pairs, width: int, form: str, budget: Budget, *, key: PRNGKeyArray) -> Baseline:
    centre, scale = train.questions.mean(axis=0), np.std(train.questions - train.questions.mean(axis=0))

    def prepared(questions: np.ndarray) -> tuple[Array, Array]:
        base = questions if form == "residual" else np.zeros_like(questions)
        # Unit-length rows have entries of about 1/sqrt(d), where gelu is all but linear: standardise by one scale for all.
        return jnp.asarray((questions - centre) / scale, jnp.float32), jnp.asarray(base, jnp.float32)

    train_samples, validation_samples = (
        _Samples(*prepared(pairs.questions), jnp.asarray(pairs.answers, jnp.float32)) for pairs in (train, validation)
    )
    start_key, epoch_key = jax.random.split(key)
    layers = _start(
        train.questions.shape[1], width, jnp.mean(train_samples.answers - train_samples.base, axis=0), key=start_key
    )
    parameters = sum(array.size for array in jax.tree.leaves(layers))
    batch_size = min(BATCH_SIZE, len(train.questions))
    epoch_operations = 6 * parameters * (len(train.questions) // batch_size * batch_size)

    state = _optimizer(width).init(layers)
    best, best_loss, best_epoch, epoch = _kept(layers), float(_cosine_loss(layers, validation_samples)), 0, 0
    epochs = min(budget.epochs, int(budget.operations // epoch_operations))
    while epoch < min(epochs, best_epoch + patience(len(train.questions))):
        key = jax.random.fold_in(epoch_key, epoch)
        layers, state, loss = _train_epoch(layers, state, train_samples, validation_samples, batch_size=batch_size, key=key)
        epoch += 1
        if float(loss) < best_loss:
            best, best_loss, best_epoch = _kept(layers), float(loss), epoch

    choices: dict[str, float | str] = {
        "form": form,
        "parameters": parameters,
        "epochs": epoch,
        "best_epoch": best_epoch,
        "operations": float(epoch * epoch_operations),
    }
    return _judged("mlp", lambda questions: np.asarray(_network(best, *prepared(questions))), choices, validation)
