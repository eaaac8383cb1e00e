"""Temporal consistency: whether the cube's states follow from one another and come to rest.

Contract: a trajectory is [time, depth, height, width, question, channel], the start state first. Every function returns one
number a question.
"""

import numpy as np
from jaxtyping import Float

Trajectory = Float[np.ndarray, "time depth height width question channel"]


def _inner(one: np.ndarray, other: np.ndarray) -> Float[np.ndarray, "time question"]:
    """Inner products of whole states, one time after the other: all at once would copy whole passes in double precision."""
    times = zip(one, other, strict=True)
    return np.stack([np.einsum("dhwqc,dhwqc->q", here, there, dtype=np.float64) for here, there in times])


def temporal_consistency(trajectory: Trajectory) -> Float[np.ndarray, " question"]:
    """Mean cosine of the cube's state and its state one step later, from the first step on.

    cos_t = <x_t, x_t+1> / (|x_t| |x_t+1|), the cosine similarity of vectors (Salton and McGill 1983, Introduction to Modern
    Information Retrieval); its mean over a pass is a figure of this project. No unit; in [-1, 1]; 1 for a cube at rest, 0 for
    states that have nothing to do with each other. A state of zeros is at right angles to every other.
    """
    states = trajectory[1:]
    sizes = np.sqrt(_inner(states, states))
    products, lengths = _inner(states[:-1], states[1:]), sizes[:-1] * sizes[1:]
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).mean(0)


def temporal_autocorrelation(trajectory: Trajectory, lag: int = 1) -> Float[np.ndarray, " question"]:
    """Autocorrelation of the cells' series about each one's own mean over time, all cells and channels together.

    r = sum_t z_t z_t+lag / sum_t z_t^2 (Box and Jenkins 1970, Time Series Analysis, chapter 2). No unit; in [-1, 1]; about
    -1/(times) for states in random order, since means are taken from the same few states. 0 where nothing varies.
    """
    z = trajectory - trajectory.mean(0, keepdims=True)
    products, squares = _inner(z[:-lag], z[lag:]).sum(0), _inner(z, z).sum(0)
    return np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)


def relative_change(trajectory: Trajectory) -> Float[np.ndarray, "step question"]:
    """Size of each step's change by that of the state that it leads to: |x_t - x_t-1| / |x_t|; 0 between states of zeros."""
    moved = np.diff(trajectory, axis=0)
    change, sizes = np.sqrt(_inner(moved, moved)), np.sqrt(_inner(trajectory[1:], trajectory[1:]))
    return np.divide(change, sizes, out=np.where(change > 0, np.inf, 0.0), where=sizes > 0)


def settling_time(trajectory: Trajectory, threshold: float) -> Float[np.ndarray, " question"]:
    """The first step from which on every step changes the state by less than `threshold` of its size.

    In steps, in 1 .. steps + 1; steps + 1 says that the cube has not settled. After the settling time of control theory (Ogata
    2010, Modern Control Engineering, section 5-3), by the size of changes because the end state is not known.
    """
    moving = relative_change(trajectory) >= threshold
    steps = np.arange(1, len(moving) + 1)[:, None]
    return np.max(np.where(moving, steps, 0), axis=0) + 1.0
