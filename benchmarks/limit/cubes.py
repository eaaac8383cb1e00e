"""Cubes trained for a comparison: a base, a number of steps, and what the validation pairs say at every look.

Contract: pure but for the compiler's cache. Held-out pairs are never asked for.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lattice_jax import experiment
from lattice_jax.config import Config
from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.evaluation.similarity import measure
from lattice_jax.lattice import devices
from lattice_jax.lattice.adapter import Codec
from lattice_jax.stacking import fit_base, offsets
from lattice_jax.training.loop import fit, initial_state
from lattice_jax.training.objectives import answer_questions
from lattice_jax.training.schedule import make_optimizer


class Trained(NamedTuple):
    """A cube at its best look and at its last."""

    predict: experiment.Predict
    """With the parameters of the best look: questions to answers."""
    looks: list[dict[str, float]]
    """`validation`, `mrr` and `train` similarity before the first step, and at every look."""
    best: int
    seconds: float


def train_cube(config: Config, codec: Codec, train: Pairs, validation: Pairs) -> Trained:
    """Train as the main job does, without its folder; at the best look by validation similarity."""
    began = time.perf_counter()
    mesh, base = devices.cell_mesh(config.lattice), fit_base(train, validation, config.answer, seed=config.seed)
    predict = experiment.make_predictor(config, codec, mesh, base=base)
    optimizer = make_optimizer(config.optimizer, config.training.steps, experiment.decayed)
    shown = min(len(train.questions), 200)
    looks = []

    def validate(parameters: dict) -> dict[str, float]:
        found = measure(predict(parameters, validation.questions), validation.answers, bootstrap_samples=2)
        learned = measure(predict(parameters, train.questions[:shown]), train.answers[:shown], bootstrap_samples=2)
        looks.append({"validation": found.similarity.value, "mrr": found.mrr.value, "train": learned.similarity.value})
        return looks[-1]

    result = fit(
        initial_state(experiment.initial_parameters(config, mesh), optimizer),
        objective=answer_questions(codec, config, mesh, jnp.asarray(train.answers)),
        optimizer=optimizer,
        data={
            "question": np.asarray(codec.encode(jnp.asarray(train.questions))),
            "target": np.asarray(codec.encode(jnp.asarray(train.answers))),
            "answer": train.answers,
            **offsets(codec, train.questions, base.cross_fitted)._asdict(),
        },
        config=config.training,
        key=jax.random.key(config.seed),
        validate=validate,
        selection="validation",
    )
    best = int(np.argmax([look["validation"] for look in looks]))
    return Trained(lambda questions: predict(result.params, questions), looks, best, time.perf_counter() - began)
