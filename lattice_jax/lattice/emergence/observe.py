"""One cube observed: everything that the metrics are computed from, as arrays.

Contract: `observe` is a pure function of parameters, codes and settings. Parameters lie whole on one device (`on_one_device`),
whatever the engine that trained them. Nothing here knows text: topics and divisions come as numbers. Whatever has cells for
axes is `turned`: layer, row and column are the grid's axes with the input face as layer 0, whichever face it is.
"""

import dataclasses
import functools
from collections.abc import Collection
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lattice_jax.config import EmergenceConfig, LatticeConfig
from lattice_jax.lattice import devices, draw
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.emergence import criticality, dynamics, influence, information, orientation, specialisation
from lattice_jax.lattice.emergence.information import Division
from lattice_jax.lattice.emergence.specialisation import Groups

PERTURBATION = 1e-3
"""Size of a small difference by the size of what it is added to: far above rounding, small enough to stay linear."""
NEARBY = 1e-4
"""The same for the two trajectories of the exponent, whose difference is set back in every step: with 1e-3 the exponent of a
small cube came out 0.005 nats above the logarithm of its largest eigenvalue, with 1e-4 it is that to 0.0005."""
_PROBES = 2
_EXPONENT_QUESTIONS = 2
_ABLATION_QUESTIONS = 2

Part = Literal["gradient", "ablation", "exponent"]
"""What takes many passes and may be left out."""
PARTS: tuple[Part, ...] = ("gradient", "ablation", "exponent")


class Inputs(NamedTuple):
    """What a cube is asked to be observed by."""

    shown: Float[np.ndarray, "question size"]
    """Codes of the questions whose passes are stored."""
    probed: Float[np.ndarray, "probed size"]
    """Codes of the many questions that probes and topics are about."""
    answers: Float[np.ndarray, "probed size"]
    """The codes of their right answers."""
    labels: Int[np.ndarray, " probed"]
    """Their topics."""
    division: Division
    """Which of them probes are fitted on, and which judge."""


class Observation(NamedTuple):
    """What was seen of one cube; None for what was left out."""

    trajectory: Float[np.ndarray, "time layer row column question channel"]
    responses: Float[np.ndarray, "layer row column probed channel"]
    labels: Int[np.ndarray, " probed"]
    topic: Int[np.ndarray, "layer row column"]
    """The topic that each cell tells best from the others."""
    question_read: Float[np.ndarray, "time layer"]
    answer_read: Float[np.ndarray, "time layer"]
    question_at_output: Float[np.ndarray, " time"]
    """What a probe reads at the output face: the last layer, where it lies opposite the input face."""
    answer_at_output: Float[np.ndarray, " time"]
    layer_similarity: Float[np.ndarray, "layer layer"]
    growth: Float[np.ndarray, "time question"]
    transient: Float[np.ndarray, "step question"] | None
    """Rates at which close trajectories part before they count, while differences turn to the direction that grows most."""
    separation: Float[np.ndarray, "step question"] | None
    """The rates that count: their mean is the exponent."""
    influence_gradient: Float[np.ndarray, "layer row column"] | None
    influence_ablation: Float[np.ndarray, "layer row column"] | None
    response_groups: Groups
    weight_groups: Groups | None
    """None where cells share their weights."""

    @property
    def final(self) -> Float[np.ndarray, "layer row column question channel"]:
        """The last state."""
        return self.trajectory[-1]


def stepped(config: LatticeConfig) -> LatticeConfig:
    """The same cube, as `dynamics` steps it: by the compiled engine where that is in use, else as `dynamics.plain`."""
    return dataclasses.replace(config, engine="native") if devices.engine(config) == "native" else dynamics.plain(config)


def on_one_device(parameters: Parameters, config: LatticeConfig) -> Parameters:
    """Parameters as they come from `devices.place`, without padding and whole on the first device."""
    return jax.device_put(devices.collect(parameters, config.grid), jax.devices()[0])


def trajectory(
    parameters: Parameters, codes: Float[np.ndarray, "question size"], config: LatticeConfig
) -> Float[np.ndarray, "time layer row column question channel"]:
    """The passes of a few questions, layers from the input face on."""
    passes = np.asarray(dynamics.record(parameters, jnp.asarray(codes), config=config).trajectory)
    return orientation.turned(passes, config, first=1)


def disturbed(codes: Float[np.ndarray, "question size"], key: Key[Array, ""]) -> Float[np.ndarray, "question size"]:
    """The codes with a small random difference to each."""
    noise = np.asarray(draw.normal(key, codes.shape))
    sizes = np.linalg.norm(codes, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    return codes + PERTURBATION * sizes * noise


def watched(
    parameters: Parameters, codes: Float[np.ndarray, "question size"], key: Key[Array, ""], config: LatticeConfig
) -> tuple[Float[np.ndarray, "time layer row column question channel"], Float[np.ndarray, "time question"]]:
    """The passes of a few questions, and how a small difference to each grows; both in one batch, which reads weights once."""
    both = trajectory(parameters, np.concatenate([codes, disturbed(codes, key)]), config)
    passes, others = np.split(both, 2, axis=4)
    return passes, criticality.perturbation_growth(passes, others)


def observe(
    parameters: Parameters,
    inputs: Inputs,
    *,
    config: LatticeConfig,
    settings: EmergenceConfig,
    parts: Collection[Part],
    seed: int,
    key: Key[Array, ""],
) -> Observation:
    """What the metrics read, of one cube, with those costly `parts`. `config` is a `stepped` one; `seed` is that of k-means."""
    turned = functools.partial(orientation.turned, config=config)
    perturb_key, probe_key, exponent_key = jax.random.split(key, 3)
    shown = jnp.asarray(inputs.shown)
    passes, growth = watched(parameters, inputs.shown, perturb_key, config)

    responded = dynamics.respond(parameters, jnp.asarray(inputs.probed), config=config)
    responses, likeness = turned(np.asarray(responded.final)), np.asarray(responded.likeness)
    layers = len(responses)
    question_read, answer_read = (
        information.probe(likeness, targets, inputs.division) for targets in (inputs.probed, inputs.answers)
    )

    gradient = ablated = transient = counted = weight_groups = None
    if "gradient" in parts:
        probes = draw.normal(probe_key, (_PROBES, len(shown), config.surface_size(config.output_face)))
        gradient = turned(np.asarray(influence.by_gradient(parameters, shown, probes, config=config)))
    if "ablation" in parts:
        asked = shown[:_ABLATION_QUESTIONS]
        ablated = turned(influence.by_ablation(parameters, asked, block=settings.ablation_block, config=config))
    if "exponent" in parts:
        separation = criticality.cube_separation_rates(
            parameters,
            shown[:_EXPONENT_QUESTIONS],
            steps=settings.exponent_transient + settings.exponent_steps,
            relative=NEARBY,
            config=config,
            key=exponent_key,
        )
        transient, counted = np.split(np.asarray(separation), [settings.exponent_transient])
    if config.sharing == "cell":
        features = turned(specialisation.weight_features(parameters))
        weight_groups = specialisation.grouped(features, clusters=settings.clusters, seed=seed)

    return Observation(
        trajectory=passes,
        responses=responses,
        labels=inputs.labels,
        topic=specialisation.preferred_topic(responses, inputs.labels),
        question_read=question_read[:, :layers],
        answer_read=answer_read[:, :layers],
        question_at_output=question_read[:, -1],
        answer_at_output=answer_read[:, -1],
        layer_similarity=information.layer_similarity(likeness[-1, :layers]),
        growth=growth,
        transient=transient,
        separation=counted,
        influence_gradient=gradient,
        influence_ablation=ablated,
        response_groups=specialisation.grouped(
            specialisation.response_features(responses), clusters=settings.clusters, seed=seed
        ),
        weight_groups=weight_groups,
    )
