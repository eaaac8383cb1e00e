"""A small real task for the tests of the training wing: from the letters of a text's first half, those of its second half.

The texts are the language reference that ships with Python. As a program it trains once, so that tests can kill it:
`python training_task.py WORKDIR [--resume]` prints the outcome as JSON.
"""

import argparse
import json
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np

from lattice_jax.config import OptimizerConfig, TrainingConfig
from lattice_jax.training.checkpoint import Best, Checkpoints, abstract
from lattice_jax.training.loop import FitResult, Interrupted, fit, initial_state
from lattice_jax.training.monitor import Monitor
from lattice_jax.training.schedule import make_optimizer

WIDTH = 48
TRAINING = TrainingConfig(steps=160, batch_size=12, evaluate_every=20, patience=0, checkpoint_every=15)
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, final_learning_rate=1e-3, warmup_steps=10)


def letter_pairs(text: str) -> np.ndarray:
    """Unit vector of how often each hashed pair of neighbouring bytes occurs."""
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    counts = np.bincount((codes[:-1] * 31 + codes[1:]) % WIDTH, minlength=WIDTH).astype(np.float32)
    return counts / np.linalg.norm(counts)


def load() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The first and second halves of the 50 texts to learn from, and of the others."""
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for _, text in sorted(topics.items()) if len(text) > 400]
    pairs = np.array([[letter_pairs(first), letter_pairs(second)] for first, second in halves])
    data = {"question": pairs[:, 0], "answer": pairs[:, 1]}
    return {name: values[:50] for name, values in data.items()}, {name: values[50:] for name, values in data.items()}


def initial_params(hidden: int = 32) -> dict:
    """A network of one hidden layer."""
    first, second = jax.random.split(jax.random.key(7))
    return {
        "hidden": {"kernel": jax.random.normal(first, (WIDTH, hidden)) / WIDTH**0.5, "bias": jnp.zeros((hidden,))},
        "output": {"kernel": jax.random.normal(second, (hidden, WIDTH)) / hidden**0.5},
    }


def similarity(params, batch):
    hidden = jax.nn.tanh(batch["question"] @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    answer = hidden @ params["output"]["kernel"]
    return jnp.mean(jnp.sum(answer * batch["answer"], -1) / jnp.linalg.norm(answer, axis=-1))


def objective(params, batch, *, key):
    """One minus the cosine similarity, from questions with noise, so that the random key matters."""
    noise = 0.02 * jax.random.normal(key, batch["question"].shape)
    value = similarity(params, {**batch, "question": batch["question"] + noise})
    return 1 - value, {"similarity": value}


def decay_matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def run(workdir: str | Path, *, resume: bool = False, config: TrainingConfig = TRAINING) -> FitResult:
    """One training run with checkpoints and metrics in `workdir`."""
    train, held_out = load()
    optimizer = make_optimizer(OPTIMIZER, config.steps, decay_matrices)
    state, key, best = initial_state(initial_params(), optimizer), jax.random.key(0), Best()
    checkpoints = Checkpoints(Path(workdir) / "checkpoints")
    resume_step = None
    if resume:
        state, key, best, _ = checkpoints.restore(abstract(state))
        resume_step = int(state.step)
    measure = jax.jit(similarity)
    monitor = Monitor(
        workdir, steps=config.steps, batch_size=config.batch_size, print_every=config.evaluate_every, resume_step=resume_step
    )
    with monitor:
        return fit(
            state,
            objective=objective,
            optimizer=optimizer,
            data=train,
            config=config,
            key=key,
            validate=lambda params: {"validation_similarity": measure(params, held_out)},
            selection="validation_similarity",
            best=best,
            checkpoints=checkpoints,
            monitor=monitor,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    try:
        result = run(arguments.workdir, resume=arguments.resume)
        print(json.dumps({"step": result.step, "best": result.best._asdict()}))
    except Interrupted as stopped:
        print(json.dumps({"step": stopped.step, "interrupted": str(stopped)}))
