"""One cube observed: everything that the metrics are computed from, as arrays.

Contract: `observe` is a pure function of parameters, codes and settings. Parameters lie whole on one device (`on_one_device`),
whatever the engine that trained them. Nothing here knows text: topics and divisions come as numbers.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lattice_jax.config import EmergenceConfig, LatticeConfig
from lattice_jax.lattice import devices
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.emergence import criticality, dynamics, influence, information, specialisation
from lattice_jax.lattice.emergence.information import Division

PERTURBATION = 1e-3
"""Size of a small difference by the size of what it is added to: far above rounding, small enough to stay linear."""
_PROBES = 2
_EXPONENT_QUESTIONS = 2
_ABLATION_QUESTIONS = 2


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
    """What was seen of one cube."""

    trajectory: Float[np.ndarray, "time depth height width question channel"]
    responses: Float[np.ndarray, "depth height width probed channel"]
    labels: Int[np.ndarray, " probed"]
    topic: Int[np.ndarray, "depth height width"]
    """The topic that each cell tells best from the others."""
    question_read: Float[np.ndarray, "time depth"]
    answer_read: Float[np.ndarray, "time depth"]
    layer_similarity: Float[np.ndarray, "depth depth"]
    growth: Float[np.ndarray, "time question"]
    exponent: Float[np.ndarray, " question"]
    influence_gradient: Float[np.ndarray, "depth height width"]
    influence_ablation: Float[np.ndarray, "depth height width"] | None
    """None where ablation, which costs most, was left out."""
    weights: Float[np.ndarray, "cell feature"] | None
    """None where cells share their weights."""

    @property
    def final(self) -> Float[np.ndarray, "depth height width question channel"]:
        """The last state."""
        return self.trajectory[-1]


def plain(config: LatticeConfig) -> LatticeConfig:
    """The same cube, computed by the plain scan on one device."""
    return dataclasses.replace(config, engine="scan", devices=1, weight_gradients="automatic")


def on_one_device(parameters: Parameters, config: LatticeConfig) -> Parameters:
    """Parameters as they come from `devices.place`, without padding and whole on the first device.

    Start values may be weakly typed where trained ones are not, for which all would be compiled twice.
    """
    whole = jax.device_put(devices.collect(parameters, config.grid), jax.devices()[0])
    return {name: jnp.asarray(leaf, leaf.dtype) for name, leaf in whole.items()}


def trajectory(parameters: Parameters, codes: Float[np.ndarray, "question size"], config: LatticeConfig) -> np.ndarray:
    """The passes of a few questions: all that the cheap metrics need."""
    return np.asarray(dynamics.record(parameters, jnp.asarray(codes), config=config).trajectory)


def observe(
    parameters: Parameters,
    inputs: Inputs,
    *,
    config: LatticeConfig,
    settings: EmergenceConfig,
    ablate: bool,
    key: Key[Array, ""],
) -> Observation:
    """Everything that the metrics read, of one cube. `config` is a `plain` one."""
    perturb_key, probe_key, exponent_key = jax.random.split(key, 3)
    shown = jnp.asarray(inputs.shown)
    passes = trajectory(parameters, inputs.shown, config)
    noise = jax.random.normal(perturb_key, shown.shape)
    noise *= PERTURBATION * jnp.linalg.norm(shown, axis=1, keepdims=True) / jnp.linalg.norm(noise, axis=1, keepdims=True)
    disturbed = trajectory(parameters, np.asarray(shown + noise), config)

    responded = dynamics.respond(parameters, jnp.asarray(inputs.probed), config=config)
    responses, likeness = np.asarray(responded.final), np.asarray(responded.likeness)
    probes = jax.random.normal(probe_key, (_PROBES, *shown.shape))
    exponent = criticality.cube_exponent(
        parameters,
        shown[:_EXPONENT_QUESTIONS],
        steps=settings.exponent_steps,
        transient=settings.exponent_steps // 3,
        relative=PERTURBATION,
        config=config,
        key=exponent_key,
    )
    ablated = None
    if ablate:
        asked = shown[:_ABLATION_QUESTIONS]
        ablated = influence.by_ablation(parameters, asked, block=settings.ablation_block, config=config)
    return Observation(
        trajectory=passes,
        responses=responses,
        labels=inputs.labels,
        topic=specialisation.preferred_topic(responses, inputs.labels),
        question_read=information.probe(likeness, inputs.probed, inputs.division),
        answer_read=information.probe(likeness, inputs.answers, inputs.division),
        layer_similarity=information.layer_similarity(likeness[-1]),
        growth=criticality.perturbation_growth(passes, disturbed),
        exponent=np.asarray(exponent),
        influence_gradient=np.asarray(influence.by_gradient(parameters, shown, probes, config=config)),
        influence_ablation=ablated,
        weights=specialisation.weight_features(parameters) if config.sharing == "cell" else None,
    )
