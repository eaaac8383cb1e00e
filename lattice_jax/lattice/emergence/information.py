"""Information flow: what a linear probe reads of the question, or of the answer, in each layer after each step.

Contract: probes see states through their Gram matrices [question, question] alone (`dynamics.respond`), fit on some questions
and are judged on others. Layers follow each other from the input face on (`orientation`). A probe that reads a code proves that
it is there, in a form that the next linear map can use; one that does not proves nothing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

PENALTIES = np.logspace(-6, 2, 17)
"""Of the ridge, relative to the mean square of the states that it is fitted on; two a decade."""


class Division(NamedTuple):
    """Rows of the questions that probes are fitted on, and of those that they are judged on."""

    fit: Int[np.ndarray, " fit"]
    judge: Int[np.ndarray, " judge"]


def _about_mean(likeness: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """The Gram matrices of states less the mean state of the rows `fit`."""
    mean = likeness[..., fit].mean(-1, keepdims=True)
    return likeness - mean - np.swapaxes(mean, -1, -2) + likeness[..., fit, :][..., fit].mean((-1, -2), keepdims=True)


def probe(
    likeness: Float[np.ndarray, "*layers question question"], targets: Float[np.ndarray, "question size"], division: Division
) -> Float[np.ndarray, " *layers"]:
    """R^2 of a ridge regression from a layer's state to a code, on questions that it has not seen.

    R^2 = 1 - sum |y - predicted|^2 / sum |y - mean|^2, the mean that of the fitted questions. No unit; at most 1; 0 for a probe
    that says the mean, below 0 for one that misleads. The regression is solved in its dual form (Hastie, Tibshirani and
    Friedman 2009, section 18.3.5), its penalty chosen by generalised cross-validation on the fitted questions (Golub, Heath
    and Wahba 1979). Linear probes after Alain and Bengio 2016 (Understanding intermediate layers using linear classifier
    probes). 0 for layers in which all fitted questions leave the same state.
    """
    fit, judge = division
    wanted = np.asarray(targets, np.float64) - np.asarray(targets, np.float64)[fit].mean(0)
    spread = float(np.square(wanted[judge]).sum())
    centred = _about_mean(np.asarray(likeness, np.float64), fit)

    def one(gram: np.ndarray) -> float:
        values, vectors = np.linalg.eigh(gram[np.ix_(fit, fit)])
        scale = values.sum() / len(fit)
        if scale <= 0:
            return 0.0
        projected = vectors.T @ wanted[fit]
        shrunk = 1 / (1 + np.maximum(values, 0)[:, None] / (PENALTIES * scale))
        # The intercept, the mean, is fitted without penalty and takes one degree of freedom.
        freedom = shrunk.sum(0) / len(fit) - 1 / len(fit)
        error = np.square(projected).sum(1) @ np.square(shrunk) / np.square(np.maximum(freedom, 1e-9))
        best = PENALTIES[error.argmin()] * scale
        weights = vectors @ (projected / (np.maximum(values, 0) + best)[:, None])
        predicted = gram[np.ix_(judge, fit)] @ weights
        return 1 - float(np.square(wanted[judge] - predicted).sum()) / spread

    flat = centred.reshape(-1, *centred.shape[-2:])
    return np.array([one(gram) for gram in flat]).reshape(likeness.shape[:-2])


def layer_similarity(likeness: Float[np.ndarray, "layer question question"]) -> Float[np.ndarray, "layer layer"]:
    """How alike two layers tell questions apart: linear centred kernel alignment.

    CKA = <K, L> / (|K| |L|) of the centred Gram matrices (Kornblith et al. 2019, Similarity of Neural Network Representations
    Revisited). No unit; in [0, 1]; 1 for layers whose states differ by a rotation and a scale. 0 for a layer without variance.
    """
    layers, questions = likeness.shape[:2]
    flat = _about_mean(np.asarray(likeness, np.float64), np.arange(questions)).reshape(layers, -1)
    sizes = np.linalg.norm(flat, axis=1, keepdims=True)
    units = np.divide(flat, sizes, out=np.zeros_like(flat), where=sizes > 0)
    return units @ units.T


def layer_signal(
    trajectory: Float[np.ndarray, "time layer row column question channel"],
) -> Float[np.ndarray, "time layer"]:
    """How much each layer's state depends on the question: root mean square over questions about their mean.

    A figure of this project: the standard deviation over questions (divisor n), its square averaged over cells and channels. In
    the state's unit; 0 or more; 0 where all questions leave the same.
    """
    z = trajectory - trajectory.mean(4, keepdims=True)
    return np.sqrt(np.square(z).mean((2, 3, 4, 5), dtype=np.float64))


def arrival(signal: Float[np.ndarray, "time layer"], share: float) -> Float[np.ndarray, " layer"]:
    """When each layer first has `share` of the most signal that it ever has, in steps, by linear interpolation between two of
    them; the number of times where it never has any.

    In [0, times]. The first passage of a level, by which a moving front is located; this form is of this project.
    """
    wanted = share * signal.max(0)
    reached = (signal >= wanted) & (wanted > 0)
    after, layers = reached.argmax(0), np.arange(signal.shape[1])
    before = np.maximum(after - 1, 0)
    low, high = signal[before, layers], signal[after, layers]
    part = np.divide(wanted - low, high - low, out=np.ones_like(wanted), where=high > low)
    return np.where(reached.any(0), np.where(after > 0, before + part, 0.0), float(len(signal)))


def front_speed(signal: Float[np.ndarray, "time layer"], share: float) -> float:
    """Speed of the signal's front: distance from the input by time of `arrival`, the mean over all layers but the input's.

    In layers a step; above 0. Light travels one layer a step, in whole steps: a signal that comes with it and at once whole is
    at layer z half way between steps z - 1 and z for a share of one half. Fronts and their speeds: Cross and Hohenberg 1993,
    Pattern formation outside of equilibrium, Reviews of Modern Physics 65; the mean over layers is of this project.
    """
    distance = np.arange(1, signal.shape[1])
    return float(np.mean(distance / np.maximum(arrival(signal, share)[1:], 0.5)))
