"""Null models: what a metric would say if what it claims to measure were not there.

Contract: a shuffled null keeps every number and breaks one order; drawn again and again it gives the mean and the deviation
that a value is held against. The null of what has no order to break is the untrained cube, with start values of several seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

_ROUNDING = 1e-4
"""Deviation, by the size of the figures, up to which draws count as equal: some thousand times float32's last bit, since probes
and their differences make more of it. Untrained cubes that only hand the question on came to 8e-5 in the gain of a probe."""


class Comparison(NamedTuple):
    """A value beside its null model."""

    value: float
    null: float
    """Mean over the draws of the null model."""
    null_deviation: float
    """Their standard deviation (divisor n - 1)."""
    z: float | None
    """(value - null) / null_deviation; None where the draws do not vary, so that there is no scale to measure by."""
    draws: int


def compare(value: float, draws: Sequence[float]) -> Comparison:
    """A value held against at least two draws of its null model; z is the standard score (no unit, any number)."""
    null, deviation = float(np.mean(draws)), float(np.std(draws, ddof=1))
    return Comparison(value, null, deviation, standard_score(value, null, deviation), len(draws))


def standard_score(value: float, null: float, deviation: float) -> float | None:
    """(value - null) / deviation; None where the null model's draws do not vary.

    Equal draws may differ by rounding: metrics come from states in float32, and untrained cubes without noise are all alike.
    """
    varies = deviation > _ROUNDING * max(abs(null), abs(value), 1e-30)
    return (value - null) / deviation if varies else None


class Band(NamedTuple):
    """What a null model says of many numbers at once."""

    mean: Float[np.ndarray, "..."]
    deviation: Float[np.ndarray, "..."]
    """Standard deviation over the draws (divisor n - 1)."""


def band(draws: Sequence[Float[np.ndarray, "..."]]) -> Band:
    """Mean and deviation, place by place, of at least two draws; NaN where they are."""
    return Band(np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1))


def shuffled_cells(
    field: Shaped[np.ndarray, "depth height width ..."], generator: np.random.Generator
) -> Shaped[np.ndarray, "depth height width ..."]:
    """Every cell's values moved to another place: breaks all order in space."""
    flat = field.reshape(-1, *field.shape[3:])
    return flat[generator.permutation(len(flat))].reshape(field.shape)


def shuffled_blocks(
    field: Shaped[np.ndarray, "layer row column"], generator: np.random.Generator, *, block: int
) -> Shaped[np.ndarray, "layer row column"]:
    """Whole blocks of `block` x `block` cells of a layer moved to the place of another block, of a field that is constant
    within each: cells of a block never were apart, so moving them one by one would pretend to more draws than there are."""
    moved = shuffled_cells(field[:, ::block, ::block], generator)
    rows, columns = field.shape[1:]
    return moved.repeat(block, 1).repeat(block, 2)[:, :rows, :columns]


def shuffled_within_layers(
    field: Shaped[np.ndarray, "depth height width ..."], generator: np.random.Generator, *, axis: int
) -> Shaped[np.ndarray, "depth height width ..."]:
    """Cells moved within their layer, at right angles to `axis`: breaks their order and keeps what sets layers apart."""
    layers = np.moveaxis(field, axis, 0)
    moved = np.empty_like(layers)
    for index, layer in enumerate(layers):
        flat = layer.reshape(-1, *layer.shape[2:])
        moved[index] = flat[generator.permutation(len(flat))].reshape(layer.shape)
    return np.moveaxis(moved, 0, axis)


def shuffled_times(
    trajectory: Shaped[np.ndarray, "time ..."], generator: np.random.Generator
) -> Shaped[np.ndarray, "time ..."]:
    """The states after the start in random order: breaks all order in time."""
    return trajectory[np.concatenate([[0], 1 + generator.permutation(len(trajectory) - 1)])]


def shuffled_changes(
    trajectory: Float[np.ndarray, "time ..."], generator: np.random.Generator
) -> Float[np.ndarray, "time ..."]:
    """The same changes from state to state in random order: the start and, up to rounding, the end stay, and that changes die
    out is broken.

    One order for all questions: their passes share the cube's course, so an order each would pretend to more draws than there
    are. States in random order are no null model of coming to rest, since they end with a large change nearly always: of 60
    draws of an untrained cube of the main job's size 59 had one and the same settling time, where its changes gave 14.1 to 17.
    """
    changes = np.diff(trajectory, axis=0)[generator.permutation(len(trajectory) - 1)]
    return np.cumsum(np.concatenate([trajectory[:1], changes]), axis=0)


def shuffled_labels(labels: Int[np.ndarray, " question"], generator: np.random.Generator) -> Int[np.ndarray, " question"]:
    """Every question with the topic of another one; topics keep their sizes."""
    return generator.permutation(labels)
