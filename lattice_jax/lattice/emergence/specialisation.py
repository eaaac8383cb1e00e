"""Cell specialisation: whether cells differ in what they respond to, and by topic.

Contract: responses are [depth, height, width, question, channel], the visible channels that each question leaves in each cell;
labels are a whole number, the topic, for every question. Topics are given: nothing here knows what a question says.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_samples

from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.emergence import nulls
from lattice_jax.lattice.emergence.coherence import pairs
from lattice_jax.lattice.grid import offsets

Responses = Float[np.ndarray, "depth height width question channel"]
Labels = Int[np.ndarray, " question"]
Cells = Float[np.ndarray, "depth height width"]

_COMPONENTS = 8
COMPARABLE = ("perception", "content_scale", "message_scale", "candidate_bias", "memory_bias", "step_size")
"""Parameters that mean the same in every cell: they belong to visible and memory channels, which the wave guide keeps apart.
What belongs to hidden units starts in a random order of its own in every cell, so distances between cells say nothing there."""


def _memberships(labels: Labels) -> Float[np.ndarray, "topic question"]:
    """1 where a question is of a topic; topics without questions are left out."""
    return np.asarray(labels[None] == np.unique(labels)[:, None], np.float64)


def selectivity(responses: Responses, labels: Labels) -> Cells:
    """Share of a cell's variance over questions that their topics explain.

    eta^2 = sum_k n_k |mean_k - mean|^2 / sum_i |x_i - mean|^2 over topics k and questions i (Cohen 1973, Eta-squared and
    partial eta-squared). No unit; in [0, 1]; (topics - 1) / (questions - 1) is expected where topics mean nothing. 0 for a
    cell that does not vary.
    """
    members = _memberships(labels)
    z = responses - responses.mean(3, keepdims=True)
    sums = np.einsum("kq,dhwqc->dhwkc", members, z, optimize=True)
    between = np.einsum("dhwkc,k->dhw", np.square(sums), 1 / members.sum(1))
    total = np.einsum("dhwqc,dhwqc->dhw", z, z, dtype=np.float64)
    return np.divide(between, total, out=np.zeros_like(between), where=total > 0)


def layer_means(cells: Cells) -> Float[np.ndarray, " layer"]:
    """The mean of every layer, layers along the first axis."""
    return cells.mean((1, 2))


def layer_selectivity_null(
    responses: Responses, labels: Labels, *, shuffles: int, generator: np.random.Generator
) -> nulls.Band:
    """Mean `selectivity` of every layer with shuffled topics: what each layer explains by chance."""
    shuffled = (nulls.shuffled_labels(labels, generator) for _ in range(shuffles))
    return nulls.band([layer_means(selectivity(responses, drawn)) for drawn in shuffled])


def sensitivity(responses: Responses, labels: Labels) -> Float[np.ndarray, "depth height width topic"]:
    """How far a cell's responses to a topic lie from its responses to all others, in standard deviations.

    d' = |mean_k - mean_rest| / sqrt((v_k + v_rest) / 2), v the variances summed over channels (Green and Swets 1966, Signal
    Detection Theory and Psychophysics). 0 or more; 0 where a cell does not vary.
    """
    members = _memberships(labels)
    shares = np.stack([members, 1 - members])
    shares = shares / shares.sum(-1, keepdims=True)
    z = responses - responses.mean(3, keepdims=True)
    means = np.einsum("skq,dhwqc->sdhwkc", shares, z, optimize=True)
    squares = np.einsum("skq,dhwq->sdhwk", shares, np.square(z).sum(-1), optimize=True)
    variances = np.maximum(squares - np.square(means).sum(-1), 0).mean(0)
    apart = np.sqrt(np.square(means[0] - means[1]).sum(-1))
    return np.divide(apart, np.sqrt(variances), out=np.zeros_like(apart), where=variances > 0)


def preferred_topic(responses: Responses, labels: Labels) -> Int[np.ndarray, "depth height width"]:
    """The topic that each cell tells best from the others, by `sensitivity`."""
    return np.unique(labels)[np.argmax(sensitivity(responses, labels), axis=-1)]


def map_coherence(topic: Int[np.ndarray, "depth height width"], *, periodic: bool) -> float:
    """Share of all pairs among 26 neighbours that prefer the same topic: the join count of a map (Cliff and Ord 1981, Spatial
    Processes). No unit; in [0, 1]."""
    joined = [np.equal(*pairs(topic, offset, periodic=periodic)) for offset in offsets("moore")[1:]]
    return float(sum(same.sum() for same in joined) / sum(same.size for same in joined))


def groups_of(points: Float[np.ndarray, "point feature"], *, clusters: int, seed: int) -> Int[np.ndarray, " point"]:
    """The group of every point by k-means (Lloyd 1982), the best of four starts."""
    # The declared type of n_init is that of its default.
    fitted = KMeans(clusters, n_init=4, random_state=seed)  # pyright: ignore[reportArgumentType]
    return fitted.fit_predict(points)


class Groups(NamedTuple):
    """Cells by what they are like."""

    labels: Int[np.ndarray, "depth height width"]
    """The group of every cell, from 0; numbered by their mean place along the first axis: k-means has no order of its own."""
    silhouettes: Cells
    """How much nearer every cell lies to its own group than to the next one."""


def grouped(features: Float[np.ndarray, "depth height width feature"], *, clusters: int, seed: int) -> Groups:
    """Cells in groups by k-means on the leading principal components, and how well each one fits its own.

    s = (b - a) / max(a, b), a the mean distance to the cell's own group and b to the nearest other one (Rousseeuw 1987,
    Silhouettes). No unit; in [-1, 1]; the mean is near 1 for groups far apart and near 0.1 for one cloud. One group, and
    silhouettes of 0, where all cells are alike.
    """
    shape = features.shape[:3]
    varying = features.reshape(int(np.prod(shape)), -1)
    varying = varying - varying.mean(0)
    if not np.any(np.ptp(varying, axis=0) > 0):
        return Groups(np.zeros(shape, np.int32), np.zeros(shape))
    components = min(_COMPONENTS, *varying.shape)
    reduced = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(varying)
    found = groups_of(reduced, clusters=clusters, seed=seed)
    labels = _in_order(found, np.indices(shape)[0].ravel())
    return Groups(labels.reshape(shape), silhouette_samples(reduced, found).astype(np.float64).reshape(shape))


def _in_order(found: Int[np.ndarray, " cell"], place: Int[np.ndarray, " cell"]) -> Int[np.ndarray, " cell"]:
    """The same groups, numbered by the mean place of their cells."""
    kinds, labels = np.unique(found, return_inverse=True)
    means = np.bincount(labels, place) / np.bincount(labels)
    numbers = np.empty(len(kinds), np.int32)
    numbers[np.argsort(means, kind="stable")] = np.arange(len(kinds), dtype=np.int32)
    return numbers[labels]


def response_features(responses: Responses) -> Float[np.ndarray, "depth height width feature"]:
    """A cell's responses, each cell scaled to unit size: cells are alike that respond alike, weakly or strongly."""
    flat = np.asarray(responses, np.float32).reshape(*responses.shape[:3], -1)
    sizes = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.divide(flat, sizes, out=np.zeros_like(flat), where=sizes > 0)


def weight_features(parameters: Parameters) -> Float[np.ndarray, "depth height width feature"]:
    """The `COMPARABLE` parameters of cells that have weights of their own."""
    leaves = [np.asarray(parameters[name]) for name in COMPARABLE]
    return np.concatenate([leaf.reshape(*leaf.shape[:3], -1) for leaf in leaves], axis=-1)
