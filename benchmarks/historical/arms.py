"""The same cube trained on the same ten pairs, measured either way.

Contract: an arm is a space, and whether the answers that it learns are another pair's. All arms have the same cube, optimiser,
weights of losses (0.3 surface reconstruction, 0.3 internal consistency, 0.4 dialogue similarity) and number of steps, whole
batches of all pairs, and are measured with the expected-value update. `train_arm` returns plain figures of one seed; nothing is
chosen by them, the last parameters are taken. The held-out pairs decide nothing, and are judged after the last step alone.
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
    steps: int = 60
    learning_rate: float = 2e-3
    look_every: int = 4
    """Steps between two looks at the training pairs."""


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
    answer: Callable[[dict, Array, Array], tuple[Array, Array, Array, Array]]
    """(parameters, questions, answers) -> predicted codes, target codes, codes of the questions, decoded predictions."""


def make_trainer(arm: Arm, settings: Settings) -> Trainer:
    """Compile lazily: nothing runs before the first step."""
    space, lattice = arm.space, settings.lattice
    schedule = OptimizerConfig(settings.learning_rate, settings.learning_rate / 10, warmup_steps=10, weight_decay=0.0)
    optimizer = make_optimizer(schedule, settings.steps)

    def objective(params: dict, batch: dict, *, key: Array) -> tuple[Array, dict]:
        layers = params["space"] if space.learns else jax.lax.stop_gradient(params["space"])
        target = space.target(layers, batch["answer"])
        said = cube.answer(
            params["cube"], space.encode(layers, batch["question"]), key=key, config=lattice, sampled=True, read="cube"
        )
        sides = (said.vectors, target)
        if space.compared == "embeddings":
            sides = (space.decode(layers, said.vectors), batch["answer"])
        loss = (
            settings.loss.surface_reconstruction * losses.surface_reconstruction(said.vectors, target)
            + settings.loss.internal_consistency
            * losses.internal_consistency(said.propagation.activity, settings.loss.consistency_steps)
            + settings.loss.dialogue_similarity * losses.dialogue_similarity(*sides)
        )
        return jnp.mean(loss), {}

    @jax.jit
    def answer(parameters: dict, questions: Array, answers: Array) -> tuple[Array, Array, Array, Array]:
        layers = parameters["space"]
        codes = space.encode(layers, questions)
        said = cube.answer(
            parameters["cube"], codes, key=jax.random.key(0), config=lattice, sampled=False, read="output"
        ).vectors
        return said, space.target(layers, answers), codes, space.decode(layers, said)

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
    batch = {"question": jnp.asarray(learned.questions), "answer": jnp.asarray(learned.answers)}
    curve = []
    for step in range(settings.steps + 1):
        if step % settings.look_every == 0 or step == settings.steps:
            curve.append({"step": step} | training_figures(compared(arm.space, trainer, state.params, learned)))
        if step < settings.steps:
            state, _ = trainer.step(state, batch, step_key)
    # The constant depends on the answers, and a shuffle has the same.
    right, others = (compared(arm.space, trainer, state.params, pairs) for pairs in (train, held_out))
    final = curve[-1] | held_out_figures(best_constant(right.target), others)
    if arm.shuffled:
        final["similarity_to_right_answers"] = float(cosine_similarity(right.predicted, right.target).mean())
    return Run(curve, final)


class Compared(NamedTuple):
    """What a trained or untrained arm says, where its own similarity compares it, a row for each pair."""

    predicted: np.ndarray
    target: np.ndarray
    question: np.ndarray
    """The question itself in place of a prediction."""
    decoded: np.ndarray
    """What the cube says in the teacher's space."""
    answers: np.ndarray
    """The answers in the teacher's space."""


def compared(space: Space, trainer: Trainer, parameters: dict, pairs: Pairs) -> Compared:
    """Ask the cube all questions of `pairs`."""
    said = [np.asarray(values) for values in trainer.answer(parameters, *map(jnp.asarray, pairs))]
    predicted, target, question, decoded = said
    if space.compared == "embeddings":
        predicted, target, question = decoded, pairs.answers, pairs.questions
    return Compared(predicted, target, question, decoded, pairs.answers)


def training_figures(said: Compared) -> dict[str, float]:
    """Similarity on the pairs learned, and what predictors that know nothing score in the same space at the same moment."""
    scores = score_pairs(said.predicted, said.target).mean(axis=0)
    return {
        "similarity": float(scores[0]),
        "recall_at_1": float(scores[1]),
        "mrr": float(scores[3]),
        "constant": similarity_of_constant(best_constant(said.target), said.target),
        "question": float(cosine_similarity(said.question, said.target).mean()),
        "others": similarity_to_others(said.predicted, said.target),
        "pairwise": pairwise_similarity(said.target),
        "teacher_similarity": float(cosine_similarity(said.decoded, said.answers).mean()),
    }


def held_out_figures(constant: np.ndarray, said: Compared) -> dict[str, float]:
    """The same on the held-out pairs, with the best constant of the training answers."""
    scores = score_pairs(said.predicted, said.target).mean(axis=0)
    return {
        "held_out_similarity": float(scores[0]),
        "held_out_recall_at_1": float(scores[1]),
        "held_out_mrr": float(scores[3]),
        "held_out_constant": similarity_of_constant(constant, said.target),
        "held_out_question": float(cosine_similarity(said.question, said.target).mean()),
        "held_out_others": similarity_to_others(said.predicted, said.target),
        "held_out_teacher_similarity": float(cosine_similarity(said.decoded, said.answers).mean()),
    }
