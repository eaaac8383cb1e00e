"""The same cube trained on the same ten pairs, measured either way.

Contract: an arm is a space, and whether the answers that it learns are another pair's. All arms have the same cube, optimiser,
weights of losses (0.3 surface reconstruction, 0.3 internal consistency, 0.4 dialogue similarity) and number of steps, whole
batches of all pairs, and are measured with the expected-value update. `train_arm` returns plain figures of one seed; nothing is
chosen by them, the last parameters are taken. The held-out pairs are looked at after the last step alone.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.historical.levels import best_constant, pairwise_similarity, similarity_of_constant, similarity_to_others
from benchmarks.historical.spaces import Space
from lattice_jax.config import CellConfig, GridConfig, LatticeConfig, LossConfig, OptimizerConfig
from lattice_jax.evaluation.baselines import Pairs, shuffled
from lattice_jax.evaluation.similarity import cosine_similarity, score_pairs
from lattice_jax.lattice import cube
from lattice_jax.training import losses
from lattice_jax.training.loop import TrainState, initial_state, make_train_step
from lattice_jax.training.schedule import make_optimizer

CUBE = LatticeConfig(
    grid=GridConfig(depth=4), cell=CellConfig(visible=8, memory=8, hidden=16, perception="moore"), steps=6, devices=1
)
"""4 x 15 x 15 narrow cells instead of 11 x 15 x 15 of 25,024 parameters: a claim about the measure needs no larger model."""


@dataclass(frozen=True)
class Arm:
    """One way to train and to measure."""

    name: str
    space: Space
    shuffled: bool = False
    """Whether every question learns the answer of another pair."""


@dataclass(frozen=True)
class Settings:
    """What all arms share."""

    lattice: LatticeConfig = CUBE
    loss: LossConfig = LossConfig()  # noqa: RUF009 (frozen)
    steps: int = 300
    learning_rate: float = 2e-3
    look_every: int = 10


class Run(NamedTuple):
    """What one seed of an arm gave."""

    curve: list[dict[str, float]]
    """Figures on the training pairs after every few steps, the first before training."""
    final: dict[str, float]
    """Those of the last step, and of the held-out pairs."""


class Trainer(NamedTuple):
    """The compiled parts of an arm, which its seeds share."""

    initialise: Callable[[jax.Array], dict]
    step: Callable
    start: Callable[[dict], TrainState]
    answer: Callable[[dict, Array, Array], tuple[Array, Array, Array]]
    """(parameters, questions, answers) -> predicted codes, target codes, decoded predictions."""


def make_trainer(arm: Arm, settings: Settings) -> Trainer:
    """Compile lazily: nothing runs before the first step."""
    space, lattice = arm.space, settings.lattice
    schedule = OptimizerConfig(settings.learning_rate, settings.learning_rate / 10, warmup_steps=10, weight_decay=0.0)
    optimizer = make_optimizer(schedule, settings.steps)

    def objective(parameters: dict, batch: dict, *, key: Array) -> tuple[Array, dict]:
        layers = parameters["space"] if space.learns else jax.lax.stop_gradient(parameters["space"])
        target = space.encode(layers, batch["answer"])
        said = cube.answer(
            parameters["cube"], space.encode(layers, batch["question"]), key=key, config=lattice, sampled=True, read="cube"
        )
        compared = (said.vectors, target)
        if space.compared == "embeddings":
            compared = (space.decode(layers, said.vectors), batch["answer"])
        loss = (
            settings.loss.surface_reconstruction * losses.surface_reconstruction(said.vectors, target)
            + settings.loss.internal_consistency
            * losses.internal_consistency(said.propagation.activity, settings.loss.consistency_steps)
            + settings.loss.dialogue_similarity * losses.dialogue_similarity(*compared)
        )
        return jnp.mean(loss), {}

    @jax.jit
    def answer(parameters: dict, questions: Array, answers: Array) -> tuple[Array, Array, Array]:
        layers = parameters["space"]
        codes = space.encode(layers, questions)
        said = cube.answer(
            parameters["cube"], codes, key=jax.random.key(0), config=lattice, sampled=False, read="output"
        ).vectors
        return said, space.encode(layers, answers), space.decode(layers, said)

    def initialise(key: jax.Array) -> dict:
        cube_key, space_key = jax.random.split(key)
        return {"cube": cube.initialise(lattice, key=cube_key), "space": space.initialise(space_key)}

    start = functools.partial(initial_state, optimizer=optimizer)
    like = start(initialise(jax.random.key(0)))
    return Trainer(initialise, make_train_step(objective, optimizer, like), start, answer)


def train_arm(arm: Arm, trainer: Trainer, train: Pairs, held_out: Pairs, settings: Settings, *, seed: int) -> Run:
    """One seed of an arm: start values, masks, and the permutation of shuffled answers depend on it."""
    initial_key, step_key = jax.random.split(jax.random.key(seed))
    state = trainer.start(trainer.initialise(initial_key))
    learned = Pairs(train.questions, shuffled(train.answers, seed=seed)) if arm.shuffled else train
    both = Pairs(*map(np.concatenate, zip(learned, held_out, strict=True)))
    batch = {"question": jnp.asarray(learned.questions), "answer": jnp.asarray(learned.answers)}
    curve = []
    for step in range(settings.steps + 1):
        if step % settings.look_every == 0 or step == settings.steps:
            sides = _answer(trainer, state.params, both, len(train.questions))
            curve.append({"step": step} | training_figures(arm.space, sides[0], learned))
        if step < settings.steps:
            state, _ = trainer.step(state, batch, step_key)
    final = curve[-1] | held_out_figures(arm.space, *sides, held_out)
    if arm.shuffled:
        final["similarity_to_right_answers"] = _right_answers(trainer, state.params, train, held_out, arm.space)
    return Run(curve, final)


class _Answered(NamedTuple):
    predicted: np.ndarray
    """Codes that the cube says."""
    target: np.ndarray
    """Codes of the answers."""
    decoded: np.ndarray
    """What the cube says as embeddings."""


def _answer(trainer: Trainer, parameters: dict, pairs: Pairs, count: int) -> tuple[_Answered, _Answered]:
    """The first `count` pairs and the others, answered in one call."""
    answered = [np.asarray(values) for values in trainer.answer(parameters, *map(jnp.asarray, pairs))]
    return _Answered(*(values[:count] for values in answered)), _Answered(*(values[count:] for values in answered))


def _compared(space: Space, answered: _Answered, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets where the arm's own similarity compares them."""
    return (answered.predicted, answered.target) if space.compared == "codes" else (answered.decoded, answers)


def training_figures(space: Space, answered: _Answered, pairs: Pairs) -> dict[str, float]:
    """Similarity on the pairs learned, and what predictors that know nothing score in the same space at the same moment."""
    predicted, target = _compared(space, answered, pairs.answers)
    scores = score_pairs(predicted, target).mean(axis=0)
    return {
        "similarity": float(scores[0]),
        "recall_at_1": float(scores[1]),
        "mrr": float(scores[3]),
        "constant": similarity_of_constant(best_constant(target), target),
        "others": similarity_to_others(predicted, target),
        "pairwise": pairwise_similarity(target),
        "teacher_similarity": float(cosine_similarity(answered.decoded, pairs.answers).mean()),
    }


def held_out_figures(space: Space, learned: _Answered, answered: _Answered, held_out: Pairs) -> dict[str, float]:
    """The same on the held-out pairs; the constant is that of the training targets."""
    predicted, target = _compared(space, answered, held_out.answers)
    constant = best_constant(learned.target if space.compared == "codes" else learned.decoded)
    scores = score_pairs(predicted, target).mean(axis=0)
    return {
        "held_out_similarity": float(scores[0]),
        "held_out_recall_at_1": float(scores[1]),
        "held_out_mrr": float(scores[3]),
        "held_out_constant": similarity_of_constant(constant, target),
        "held_out_others": similarity_to_others(predicted, target),
        "held_out_teacher_similarity": float(cosine_similarity(answered.decoded, held_out.answers).mean()),
    }


def _right_answers(trainer: Trainer, parameters: dict, train: Pairs, held_out: Pairs, space: Space) -> float:
    """Similarity of a cube that learned others' answers to the right ones."""
    both = Pairs(*map(np.concatenate, zip(train, held_out, strict=True)))
    answered, _ = _answer(trainer, parameters, both, len(train.questions))
    return float(cosine_similarity(*_compared(space, answered, train.answers)).mean())
