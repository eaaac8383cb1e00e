"""Cubes trained for a comparison: a base, a number of steps, and what the validation pairs say at every look.

Contract: pure but for the compiler's cache. Held-out pairs are never asked for.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lattice_jax import experiment
from lattice_jax.config import Config
from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.evaluation.similarity import cosine_similarity
from lattice_jax.lattice import devices
from lattice_jax.lattice.adapter import Codec
from lattice_jax.stacking import fit_base
from lattice_jax.training.loop import fit, initial_state
from lattice_jax.training.objectives import answer_questions
from lattice_jax.training.schedule import make_optimizer

SHOWN_OF_TRAINING = 200


class Trained(NamedTuple):
    """A cube at its best look, and what was seen on the way."""

    predict: Callable[[np.ndarray], np.ndarray]
    """With the parameters of the best look: questions to answers."""
    looks: list[dict[str, float]]
    """`validation` and `train` similarity before the first step, and at every look."""

    @property
    def best(self) -> int:
        """Which look has the highest validation similarity."""
        return int(np.argmax([look["validation"] for look in self.looks]))


def train_cube(config: Config, codec: Codec, train: Pairs, validation: Pairs) -> Trained:
    """Train as the main job does, without its folder; at the best look by validation similarity."""
    mesh, base = devices.cell_mesh(config.lattice), fit_base(train, validation, config.answer, seed=config.seed)
    predict = experiment.make_predictor(config, codec, mesh, base=base)
    optimizer = make_optimizer(config.optimizer, config.training.steps, experiment.decayed)
    sides = {"validation": validation, "train": Pairs(*(rows[:SHOWN_OF_TRAINING] for rows in train))}
    looks = []

    def validate(parameters: dict) -> dict[str, float]:
        answered = {side: predict(parameters, pairs.questions) for side, pairs in sides.items()}
        looks.append({side: float(cosine_similarity(answered[side], sides[side].answers).mean()) for side in sides})
        return looks[-1]

    result = fit(
        initial_state(experiment.initial_parameters(config, mesh), optimizer),
        objective=answer_questions(codec, config, mesh, jnp.asarray(train.answers)),
        optimizer=optimizer,
        data=experiment.training_data(codec, train, base),
        config=config.training,
        key=jax.random.key(config.seed),
        validate=validate,
        selection="validation",
    )
    return Trained(lambda questions: predict(result.params, questions), looks)
