"""What a person should be told of a run while it learns: that it diverges, collapses, starves, overfits or slows down.

Contract: a detector is a pure function of a run's `History`, what its last rows of metrics hold, and returns what is wrong
with how to mend it, or None. `Watch` lets rows pass one by one and gives an `Alert` where a condition begins; while it lasts,
and for `REARM` rows after it, the same kind is not given again. All but `throughput`, which reads the clock, depend on nothing
but the configuration, so a resumed run that lets its kept rows pass first ends with the alerts of an uninterrupted one.
"""

import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lattice_jax.errors import InputError

LAYER_GRADIENT = "gradient_norm/layer_"
"""What the names of the gradient norms by layer, counted from the input face, begin with."""
NON_FINITE = "non_finite"
"""The kind of the alert that ends a run."""
RECENT = 10
"""Training rows that a detector may look back on."""
FIRST = 20
"""Measured steps, after the one that compiles, whose rate is what a run is held against."""
LOOKS = 3
"""Looks at the validation pairs in a row that must agree before a run is called overfitted."""
REARM = 50
"""Rows without the condition before an alert of the same kind is given again."""
COLLAPSED_SPREAD = 0.05
"""Variance of the predictions, as a share of that of the answers, below which all questions get one answer.

The mean answer has 0, the right answers 1; the main job's cube falls from 1.0 to 0.5 and comes back to 0.76.
"""
DEAD_SHARE = 0.1
"""Share of the cells without any gradient in a step that is more than the cells that a mask lets rest throughout."""
VANISHED_SHARE = 1e-4
"""Gradient norm of a layer, as a share of the largest layer's, below which it hardly learns."""
SLOWED_SHARE = 0.6
TRAINING_RISE, VALIDATION_FALL = 0.01, 0.005
"""Differences in similarity that are no noise of a batch or of a dozen validation pairs."""

Row = Mapping


class Alert(NamedTuple):
    """One condition, at the step at which it began."""

    kind: str
    step: int
    message: str
    fix: str


class Finding(NamedTuple):
    """What a detector says of the present step."""

    message: str
    fix: str


class Look(NamedTuple):
    """One look at the validation pairs, beside the training batches since the look before."""

    step: int
    validation: float | None
    """Mean similarity on the validation pairs."""
    training: float | None
    """Mean similarity of the batches; None before the first step."""
    spread: float | None
    """Variance of the validation predictions relative to that of the answers."""


class History(NamedTuple):
    """The part of a run that detectors read."""

    rows: Sequence[Row]
    """The last `RECENT` rows of training steps."""
    looks: Sequence[Look]
    first_rates: Sequence[float]
    """Samples a second of the first `FIRST` measured steps."""


Detector = Callable[[History], Finding | None]


class NonFinite(InputError):
    """A figure stopped being a number, which ends the run."""

    def __init__(self, found: str, *, step: int, expected: str, fix: str):
        super().__init__(found, expected=expected, fix=fix)
        self.step = step

    def alert(self) -> Alert:
        """The same as an alert, for the record."""
        return Alert(NON_FINITE, self.step, self.found, self.fix)


def collapse(history: History) -> Finding | None:
    """All questions get one answer: the mean answer has a good similarity and no use."""
    spread = history.looks[-1].spread if history.looks else None
    if spread is None or spread >= COLLAPSED_SPREAD:
        return None
    return Finding(
        f"predictions on the validation pairs vary by {spread:.1%} of what the answers do: every question gets the same",
        "lower --config.optimizer.learning_rate, or raise --config.lattice.steps so that the question reaches the output face",
    )


def dead_cells(history: History) -> Finding | None:
    """Layers that no gradient reaches at all, in every recent step, or in each of these steps a large share of all cells."""
    norms = _layer_norms(history.rows)
    dead = [layer for layer, values in norms.items() if max(values) == 0]
    shares = [row["dead_cells"] for row in history.rows if "dead_cells" in row]
    if dead:
        found = f"no gradient reaches {_layers(dead)}: the cells there learn nothing"
    elif len(shares) == RECENT and min(shares) >= DEAD_SHARE:
        found = f"no gradient reaches {min(shares):.0%} of the cells or more in any of {RECENT} steps: they learn nothing then"
    else:
        return None
    return Finding(
        found,
        "raise --config.lattice.steps so that signals cross the whole cube, or --config.lattice.update.rate",
    )


def vanishing_gradient(history: History) -> Finding | None:
    """Layers whose gradient is next to nothing beside the largest layer's."""
    norms = {layer: statistics.median(values) for layer, values in _layer_norms(history.rows).items()}
    largest = max(norms.values(), default=0.0)
    vanished = [layer for layer, norm in norms.items() if 0 < norm < VANISHED_SHARE * largest]
    if not vanished:
        return None
    smallest = min(norms[layer] for layer in vanished)
    return Finding(
        f"the gradient vanishes in {_layers(vanished)}: {smallest:.1e} where the largest layer has {largest:.1e}",
        "raise --config.lattice.update.step_size, or lower --config.lattice.steps towards those that are needed (--describe); "
        "from a start at which cells add nothing (lattice.cell.candidate_scale 0) it passes once they do",
    )


def overfitting(history: History) -> Finding | None:
    """Training similarity rises while validation similarity stays below its best."""
    looks = [
        (look.validation, look.training, look.step)
        for look in history.looks
        if look.validation is not None and look.training is not None
    ]
    if len(looks) <= LOOKS:
        return None
    best, best_training, best_step = max(looks, key=lambda look: look[0])
    validation, training, _ = looks[-1]
    below = all(step > best_step and similarity < best - VALIDATION_FALL for similarity, _, step in looks[-LOOKS:])
    if not below or training < best_training + TRAINING_RISE:
        return None
    return Finding(
        f"since step {best_step} training similarity rose from {best_training:.3f} to {training:.3f} while validation fell "
        f"from {best:.3f} to {validation:.3f}: the pairs are learned by heart",
        f"nothing is lost, the parameters of step {best_step} are kept unless training.select_by says otherwise; stop sooner "
        "with --config.training.patience, or take more pairs, fewer parameters (--config.lattice.sharing=layer) or more "
        "--config.optimizer.weight_decay",
    )


def throughput(history: History) -> Finding | None:
    """The run is much slower than it was at its start."""
    recent = [rate for row in history.rows if (rate := _rate(row)) is not None]
    if len(recent) < RECENT or len(history.first_rates) < FIRST:
        return None
    before, now = statistics.median(history.first_rates), statistics.median(recent)
    if now >= SLOWED_SHARE * before:
        return None
    return Finding(
        f"{now:.1f} samples/s, where the first steps had {before:.1f}",
        "see what else runs on this machine, whether memory is swapped, and whether the processor is throttled by heat",
    )


def pool_collapse(history: History) -> Finding | None:
    """The states of the pool have become alike in every recent step."""
    collapsed = [row["pool/collapsed"] for row in history.rows if "pool/collapsed" in row]
    if len(collapsed) < RECENT or not all(collapsed):
        return None
    return Finding(
        "the states in the pool have become alike: a state says nothing any more of where it comes from",
        "raise --config.pool.damage_share or --config.pool.reseed_share",
    )


DETECTORS: Mapping[str, Detector] = {
    "collapse": collapse,
    "dead_cells": dead_cells,
    "vanishing_gradient": vanishing_gradient,
    "overfitting": overfitting,
    "pool_collapse": pool_collapse,
    "throughput": throughput,
}
"""Every detector by the kind of its alerts."""


class Watch:
    """Lets the rows of a run pass and tells what begins in each; rows come in the order of their steps."""

    def __init__(self, detectors: Mapping[str, Detector] = DETECTORS):
        self._detectors = detectors
        self._rows: deque[Row] = deque(maxlen=RECENT)
        self._since_look: list[float] = []
        self._looks: list[Look] = []
        self._rates: list[float] = []
        self._seen = 0
        self._held_at: dict[str, int] = {}

    def see(self, row: Row) -> list[Alert]:
        """What begins in this row of metrics, of the form of a line of `metrics.jsonl`."""
        self._take(row)
        history = History(tuple(self._rows), self._looks, self._rates[1:])
        alerts = []
        for kind, detector in self._detectors.items():
            finding = detector(history)
            if finding:
                if self._seen - self._held_at.get(kind, -REARM - 1) > REARM:
                    alerts.append(Alert(kind, row["step"], *finding))
                self._held_at[kind] = self._seen
        return alerts

    def _take(self, row: Row) -> None:
        self._seen += 1
        if "loss" in row:
            self._rows.append(row)
        if "similarity" in row:
            self._since_look.append(row["similarity"])
        rate = _rate(row)
        if rate is not None and len(self._rates) <= FIRST:  # one more: the first one waits for compilation
            self._rates.append(rate)
        if "validation_similarity" in row or "validation_spread" in row:
            training = statistics.fmean(self._since_look) if self._since_look else None
            self._looks.append(Look(row["step"], row.get("validation_similarity"), training, row.get("validation_spread")))
            self._since_look = []


def _layer_norms(rows: Sequence[Row]) -> dict[int, list[float]]:
    """Recent gradient norms of every layer; empty until there are `RECENT` rows that have them."""
    with_norms = [row for row in rows if any(name.startswith(LAYER_GRADIENT) for name in row)]
    if len(with_norms) < RECENT:
        return {}
    names = sorted(name for name in with_norms[-1] if name.startswith(LAYER_GRADIENT))
    return {int(name.removeprefix(LAYER_GRADIENT)): [row[name] for row in with_norms] for name in names}


def _layers(layers: Sequence[int]) -> str:
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(map(str, layers))


def _rate(row: Row) -> float | None:
    return row.get("timing", {}).get("samples_per_second")
