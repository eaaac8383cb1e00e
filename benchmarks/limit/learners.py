"""What is trained for a comparison: cubes, or networks in their place; at every look the validation pairs are asked.

Networks in the cube's place go from the question's code to the answer's, around the same base and taught by the same batches,
noise and loss (cosine distance alone, as the flat cubes are). One network makes all numbers of the answer's code from features
that they share. Of several, each makes some of them, from features of its own, as cells with weights of their own do; unlike a
cell each of them sees the whole question.

Contract: pure but for the compiler's cache. Held-out pairs are never asked for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lattice_jax import experiment
from lattice_jax.config import Config
from lattice_jax.evaluation.baselines import Pairs, width_for
from lattice_jax.evaluation.similarity import cosine_similarity
from lattice_jax.lattice import cube, devices
from lattice_jax.lattice.adapter import Codec
from lattice_jax.stacking import Offsets, fit_base
from lattice_jax.training import losses
from lattice_jax.training.loop import Objective, fit, initial_state
from lattice_jax.training.objectives import answer_questions, noisy
from lattice_jax.training.schedule import DecayMask, make_optimizer

SHOWN_OF_TRAINING = 200


class Trained(NamedTuple):
    """A learner at its best look, and what was seen on the way."""

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
    return _train(
        config,
        experiment.training_data(codec, train, base),
        (train, validation),
        start=experiment.initial_parameters(config, mesh),
        predict=experiment.make_predictor(config, codec, mesh, base=base),
        objective=answer_questions(codec, config, mesh, jnp.asarray(train.answers)),
        decayed=experiment.decayed,
    )


class Networks(NamedTuple):
    """Kernels [network, in, out] and biases [network, 1, out] of two hidden layers and the last one, for each network."""

    kernels: tuple[Array, Array, Array]
    biases: tuple[Array, Array, Array]


def hidden_width(parameters: int, networks: int, code: int) -> int:
    """The hidden width at which so many networks, each making its share of a code, have about `parameters` weights together."""
    return width_for(parameters / networks, code, code // networks)


def start_networks(networks: int, hidden: int, code: int, *, key: PRNGKeyArray) -> Networks:
    """Networks that add nothing to the question's code, as an untrained cube hands it on."""
    widths = ((code, hidden), (hidden, hidden))
    draw = jax.nn.initializers.lecun_normal(batch_axis=0)
    hidden_kernels = (draw(own, (networks, *shape)) for own, shape in zip(jax.random.split(key), widths, strict=True))
    share = code // networks
    biases = (jnp.zeros((networks, 1, width)) for width in (hidden, hidden, share))
    return Networks((*hidden_kernels, jnp.zeros((networks, hidden, share))), tuple(biases))


def answer_code(networks: Networks, codes: Float[Array, "batch code"]) -> Float[Array, "batch code"]:
    """The question's code and what the networks add to it, each to its own numbers, in their order."""
    hidden = codes[None]
    for kernel, bias in zip(networks.kernels[:2], networks.biases[:2], strict=True):
        hidden = jax.nn.gelu(jnp.matmul(hidden, kernel) + bias)
    added = jnp.matmul(hidden, networks.kernels[2]) + networks.biases[2]
    return codes + jnp.moveaxis(added, 0, 1).reshape(codes.shape)


def train_networks(config: Config, codec: Codec, train: Pairs, validation: Pairs, *, networks: int, parameters: int) -> Trained:
    """So many networks in the cube's place, with about `parameters` weights together."""
    hidden = hidden_width(parameters, networks, codec.adapter.code)
    start = start_networks(networks, hidden, codec.adapter.code, key=jax.random.key(config.seed))
    kernels_only = Networks((True, True, True), (False, False, False))
    return _train_between_codes(config, codec, (train, validation), start, answer_code, lambda _: kernels_only)


def train_mapped_cube(config: Config, codec: Codec, train: Pairs, validation: Pairs) -> Trained:
    """The cube between two linear maps of its faces' numbers that are learned with it, so that all numbers of the answer can
    draw on what any cell of the output face knows. They begin as the identity. No masks: in the flat cubes all cells fire."""
    mesh, size = devices.cell_mesh(config.lattice), codec.adapter.code

    def answer(parameters: dict, codes: Float[Array, "batch code"]) -> Float[Array, "batch code"]:
        read = cube.answer(
            parameters["cube"],
            codes + codes @ parameters["question"],
            key=jax.random.key(0),
            config=config.lattice,
            sampled=False,
            mesh=mesh,
            read="output",
        ).vectors
        return read + read @ parameters["answer"]

    maps = {"question": jnp.zeros((size, size)), "answer": jnp.zeros((size, size))}
    start = {"cube": experiment.initial_parameters(config, mesh), **maps}

    def decayed(parameters: dict) -> dict:
        return {"cube": experiment.decayed(parameters["cube"]), **dict.fromkeys(maps, True)}

    return _train_between_codes(config, codec, (train, validation), start, answer, decayed)


def _train_between_codes(
    config: Config,
    codec: Codec,
    sides: tuple[Pairs, Pairs],
    start: Any,
    answer: Callable[[Any, Array], Array],
    decayed: DecayMask,
) -> Trained:
    """What goes from the question's code to the answer's, taught as the flat cubes are."""
    base = fit_base(*sides, config.answer, seed=config.seed)

    def objective(parameters: Any, batch: dict[str, Array], *, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
        asked = noisy(batch["question"], config.training.question_noise, key=key)
        decoded = codec.decode(answer(parameters, asked) + batch["shift"]) + batch["remainder"]
        distance = jnp.mean(losses.dialogue_similarity(decoded, batch["answer"]))
        return distance, {"similarity": 1 - distance}

    @jax.jit
    def told(parameters: Any, questions: Array, added: Offsets) -> Array:
        return codec.decode(answer(parameters, codec.encode_questions(questions)) + added.shift) + added.remainder

    def predict(parameters: Any, questions: np.ndarray) -> np.ndarray:
        return np.asarray(told(parameters, jnp.asarray(questions), base.offsets(codec, questions)))

    data = experiment.training_data(codec, sides[0], base)
    return _train(config, data, sides, start=start, predict=predict, objective=objective, decayed=decayed)


def _train(
    config: Config,
    data: dict[str, np.ndarray],
    sides: tuple[Pairs, Pairs],
    *,
    start: Any,
    predict: Callable[[Any, np.ndarray], np.ndarray],
    objective: Objective,
    decayed: DecayMask,
) -> Trained:
    train, validation = sides
    asked = {"validation": validation, "train": Pairs(*(rows[:SHOWN_OF_TRAINING] for rows in train))}
    looks = []

    def validate(parameters: Any) -> dict[str, float]:
        answered = {side: predict(parameters, pairs.questions) for side, pairs in asked.items()}
        looks.append({side: float(cosine_similarity(answered[side], asked[side].answers).mean()) for side in asked})
        return looks[-1]

    optimizer = make_optimizer(config.optimizer, config.training.steps, decayed)
    result = fit(
        initial_state(start, optimizer),
        objective=objective,
        optimizer=optimizer,
        data=data,
        config=config.training,
        key=jax.random.key(config.seed),
        validate=validate,
        selection="validation",
    )
    return Trained(lambda questions: predict(result.params, questions), looks)
