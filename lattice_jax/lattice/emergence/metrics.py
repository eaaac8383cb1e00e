"""The table of all metrics: what each is, what it is computed from, and the null model that it is held against.

Contract: `METRICS` is the whole list, in the order in which people read it. A metric is one number of an `Observation`; the
sources are named where the functions are defined. All are also taken while the cube learns, the `COSTLY` ones less often.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import joblib
import numpy as np

from lattice_jax.config import EmergenceConfig, LatticeConfig
from lattice_jax.lattice.emergence import coherence, criticality, information, nulls, specialisation, stability
from lattice_jax.lattice.emergence.influence import agreement, concentration
from lattice_jax.lattice.emergence.observe import Observation

SETTLED = 0.1
"""Change of the state in one step, by its size, below which the cube counts as settled; the full cube of 16 steps changes by
0.06 of its size in the last one."""
ARRIVED = 0.5
"""Share of a layer's strongest signal at which the front has reached it."""
LAYERS = 0
"""The axis of cells along which the signal enters: all that is observed is turned so."""


class Setting(NamedTuple):
    """What metrics must know of the cube and of the run."""

    periodic: bool
    block: int
    """Edge of the blocks of cells that are ablated."""
    seed: int


def setting(config: LatticeConfig, settings: EmergenceConfig, seed: int) -> Setting:
    """The setting of a run."""
    return Setting(config.walls == "periodic", settings.ablation_block, seed)


class Null(NamedTuple):
    """A null model: a shuffle of one of the metric's arrays, or the untrained cube where there is none."""

    name: str
    shuffle: Callable[[np.ndarray, np.random.Generator, Setting], np.ndarray] | None = None


UNTRAINED = Null("untrained cube")
SHUFFLED_CELLS = Null("shuffled cells", lambda field, generator, _: nulls.shuffled_cells(field, generator))
SHUFFLED_IN_LAYERS = Null(
    "cells shuffled within layers",
    lambda field, generator, _: nulls.shuffled_within_layers(field, generator, axis=LAYERS),
)
SHUFFLED_BLOCKS = Null(
    "shuffled blocks of cells",
    lambda field, generator, where: nulls.shuffled_blocks(field, generator, block=where.block),
)
SHUFFLED_TIME = Null("shuffled time", lambda states, generator, _: nulls.shuffled_times(states, generator))
SHUFFLED_CHANGES = Null("shuffled changes", lambda states, generator, _: nulls.shuffled_changes(states, generator))
SHUFFLED_TOPICS = Null("shuffled topics", lambda labels, generator, _: nulls.shuffled_labels(labels, generator))


class Metric(NamedTuple):
    """One row of the table."""

    measure: Callable[..., float]
    """(arrays named in `reads`, Setting) -> the value."""
    reads: tuple[str, ...]
    """Fields of an `Observation`; the null model shuffles the first."""
    null: Null
    definition: str
    range: str
    """With the unit, where there is one."""
    drift: Callable[..., float] | None = None
    """What `measure` takes -> how far the value still moves, where it is the limit of a series."""


def _mean(per_question: Callable[..., np.ndarray]) -> Callable[..., float]:
    """The mean over questions."""

    @functools.wraps(per_question)
    def measure(*arguments: Any) -> float:
        return float(np.mean(per_question(*arguments)))

    return measure


@_mean
def _morans_i(final: np.ndarray, where: Setting) -> np.ndarray:
    return coherence.morans_i(final, "moore", periodic=where.periodic)


@_mean
def _morans_i_6(final: np.ndarray, where: Setting) -> np.ndarray:
    return coherence.morans_i(final, "von_neumann", periodic=where.periodic)


@_mean
def _lateral_coherence(final: np.ndarray, where: Setting) -> np.ndarray:
    return coherence.lateral_coherence(final, axis=LAYERS, periodic=where.periodic)


@_mean
def _axial_coherence(final: np.ndarray, where: Setting) -> np.ndarray:
    return coherence.directional_correlation(final, coherence.along(LAYERS), periodic=where.periodic)


def _front_speed(trajectory: np.ndarray, _: Setting) -> float:
    return information.front_speed(information.layer_signal(trajectory), ARRIVED)


def _layer_similarity(similarity: np.ndarray, _: Setting) -> float:
    return float(similarity[~np.eye(len(similarity), dtype=bool)].mean())


def _read_gain(at_output: np.ndarray, read: np.ndarray, _: Setting) -> float:
    """A figure of this project: the difference of two linear probes (`information.probe`), that of the output face after the
    last step and the best of any layer at the start, where the question alone is there."""
    return float(at_output[-1] - read[0].max())


METRICS: Mapping[str, Metric] = {
    "morans_i": Metric(
        _morans_i,
        ("final",),
        SHUFFLED_CELLS,
        "spatial autocorrelation of the last state over 26 neighbours (Moran's I)",
        "-1 to 1; -1/(cells - 1) without order",
    ),
    "morans_i_6": Metric(
        _morans_i_6,
        ("final",),
        SHUFFLED_CELLS,
        "spatial autocorrelation of the last state over 6 neighbours (Moran's I)",
        "-1 to 1; -1/(cells - 1) without order",
    ),
    "axial_coherence": Metric(
        _axial_coherence,
        ("final",),
        SHUFFLED_CELLS,
        "correlation of a cell's last state with that of the cell ahead, along the signal",
        "-1 to 1",
    ),
    "lateral_coherence": Metric(
        _lateral_coherence,
        ("final",),
        SHUFFLED_IN_LAYERS,
        "correlation of a cell's last state with those of its 8 neighbours in the same layer",
        "-1 to 1",
    ),
    "temporal_consistency": Metric(
        _mean(lambda trajectory, _: stability.temporal_consistency(trajectory)),
        ("trajectory",),
        SHUFFLED_TIME,
        "cosine of the cube's state and its state one step later, mean over the pass",
        "-1 to 1",
    ),
    "temporal_autocorrelation": Metric(
        _mean(lambda trajectory, _: stability.temporal_autocorrelation(trajectory[1:])),
        ("trajectory",),
        SHUFFLED_TIME,
        "autocorrelation of cells over time at a lag of one step, about each cell's mean",
        "-1 to 1; -1/steps without order",
    ),
    "settling_time": Metric(
        _mean(lambda trajectory, _: stability.settling_time(trajectory, SETTLED)),
        ("trajectory",),
        SHUFFLED_CHANGES,
        f"first step from which on every step changes the state by less than {SETTLED:.0%} of its size",
        "1 to steps + 1 (not settled), in steps",
    ),
    "front_speed": Metric(
        _front_speed,
        ("trajectory",),
        UNTRAINED,
        f"distance of a layer by the time at which it has {ARRIVED:.0%} of its signal, mean over layers",
        "above 0, in layers a step; light travels 1",
    ),
    "topic_selectivity": Metric(
        lambda labels, responses, _: float(specialisation.selectivity(responses, labels).mean()),
        ("labels", "responses"),
        SHUFFLED_TOPICS,
        "share of a cell's variance over questions that their topics explain (eta squared), mean over cells",
        "0 to 1; (topics - 1)/(questions - 1) by chance",
    ),
    "topic_map_coherence": Metric(
        lambda topic, where: specialisation.map_coherence(topic, periodic=where.periodic),
        ("topic",),
        SHUFFLED_CELLS,
        "share of pairs among 26 neighbours that prefer the same topic",
        "0 to 1",
    ),
    "response_clustering": Metric(
        lambda groups, _: float(groups.silhouettes.mean()),
        ("response_groups",),
        UNTRAINED,
        "silhouette of cells grouped by their responses to all questions",
        "-1 to 1; about 0.1 for one cloud",
    ),
    "weight_clustering": Metric(
        lambda groups, _: float(groups.silhouettes.mean()),
        ("weight_groups",),
        UNTRAINED,
        "silhouette of cells grouped by their weights, those that mean the same in every cell",
        "-1 to 1; about 0.1 for one cloud",
    ),
    "question_read": Metric(
        lambda at_output, _: float(at_output[-1]),
        ("question_at_output",),
        UNTRAINED,
        "R^2 of a linear probe that reads the question's code at the output face after the last step, on new questions",
        "at most 1; 0 for the mean code",
    ),
    "answer_read": Metric(
        lambda at_output, _: float(at_output[-1]),
        ("answer_at_output",),
        UNTRAINED,
        "R^2 of a linear probe that reads the answer's code at the output face after the last step, on new questions",
        "at most 1; 0 for the mean code",
    ),
    "answer_read_gain": Metric(
        _read_gain,
        ("answer_at_output", "answer_read"),
        UNTRAINED,
        "answer read less the R^2 of a probe that sees the question at the start: what the cube adds",
        "any number below 1; 0 for a cube that hands the question on",
    ),
    "layer_similarity": Metric(
        _layer_similarity,
        ("layer_similarity",),
        UNTRAINED,
        "how alike layers tell questions apart (linear CKA), mean over pairs of layers",
        "0 to 1",
    ),
    "influence_concentration": Metric(
        lambda influence, _: concentration(influence),
        ("influence_gradient",),
        UNTRAINED,
        "how unequally influence on the answer, by gradient, is divided among cells (Gini coefficient)",
        "0 (all alike) to 1 (one cell)",
    ),
    "influence_agreement": Metric(
        lambda ablation, gradient, _: agreement(ablation, gradient),
        ("influence_ablation", "influence_gradient"),
        SHUFFLED_BLOCKS,
        "rank correlation of cells' influence by ablation, which is one number a block, and by gradient",
        "-1 to 1",
    ),
    "perturbation_growth": Metric(
        lambda growth, _: float(np.log(np.maximum(growth[-1], np.finfo(np.float32).tiny)).mean()),
        ("growth",),
        UNTRAINED,
        "logarithm of a small difference between two questions after the last step, by that at the start",
        "any number; 0 if it stays, ln sqrt(layers) if every layer copies it",
    ),
    "lyapunov_exponent": Metric(
        lambda separation, _: float(np.mean(separation)),
        ("separation",),
        UNTRAINED,
        "rate at which close trajectories part with the question held (largest Lyapunov exponent); its drift is that of the "
        "second half of the steps less that of the first",
        "any number, in nats a step; below 0 the cube comes to rest, above 0 chaos",
        drift=lambda separation, _: criticality.drift(separation),
    ),
}

_OF_COSTLY_PARTS = {"influence_gradient", "influence_ablation", "separation"}
COSTLY = tuple(name for name, metric in METRICS.items() if not _OF_COSTLY_PARTS.isdisjoint(metric.reads))
"""Metrics that take many passes, by the parts of an observation that may be left out."""


def values(observation: Observation, where: Setting) -> dict[str, float]:
    """Every metric whose arrays were observed."""
    found = {}
    for name, metric in METRICS.items():
        arrays = [getattr(observation, field) for field in metric.reads]
        if all(array is not None for array in arrays):
            found[name] = metric.measure(*arrays, where)
    return found


def compared(
    observation: Observation, untrained: Sequence[Mapping[str, float]], where: Setting, *, shuffles: int
) -> dict[str, dict]:
    """Every metric beside its null model, as plain values: `untrained` holds the `values` of several untrained cubes.

    `untrained` in a row is their mean, beside whatever null model the row has; absent where they were not measured. `drift` is
    there where the value is the limit of a series. A metric's draws are its own, so all are taken side by side.
    """

    def row(name: str, value: float) -> dict:
        metric = METRICS[name]
        at_start = [cube[name] for cube in untrained if name in cube]
        first, *others = (getattr(observation, field) for field in metric.reads)
        if metric.null.shuffle is None:
            draws = at_start
        else:
            generator = np.random.default_rng((where.seed, list(METRICS).index(name)))
            draws = [metric.measure(metric.null.shuffle(first, generator, where), *others, where) for _ in range(shuffles)]
        return {
            **nulls.compare(value, draws)._asdict(),
            **({"untrained": float(np.mean(at_start))} if at_start else {}),
            **({"drift": metric.drift(first, *others, where)} if metric.drift else {}),
            "null_model": metric.null.name,
            "definition": metric.definition,
            "range": metric.range,
        }

    found = values(observation, where)
    with ThreadPoolExecutor(joblib.cpu_count()) as threads:
        return dict(zip(found, threads.map(row, found.keys(), found.values()), strict=True))
