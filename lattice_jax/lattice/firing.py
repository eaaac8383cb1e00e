"""Who fires in which step: random masks, the quiescent state, and the light cone of what is read.

Contract: pure functions of settings and key. A cell whose firing is 0 keeps its state, so an engine may skip it: masked cells,
cells that the light has not reached yet, cells that can no longer reach the output and all cells from the horizon on are
skipped by this one rule, and one compiled pass of `lattice.steps` steps serves every shorter horizon.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Key

from lattice_jax.config import Face, LatticeConfig
from lattice_jax.lattice import draw
from lattice_jax.lattice.surface import AXIS, face_slice

Read = Literal["cube", "output"]
"""What is read after the last step: all cells and the activity of all steps, or the output face alone."""


def distance_to_face(config: LatticeConfig, face: Face) -> np.ndarray:
    """Steps that light needs between a cell and the nearest cell of a face; of size 1 along the other two axes.

    The nearest one lies straight ahead, so 6 and 26 neighbours give the same distance.
    """
    axis = AXIS[face]
    size = (config.grid.depth, config.grid.height, config.grid.width)[axis]
    distance = np.abs(np.arange(size) - np.arange(size)[face_slice(face, size)])
    if config.walls == "periodic":
        distance = np.minimum(distance, size - distance)
    return distance.reshape([-1 if a == axis else 1 for a in range(3)])


Horizon = Int32[Array, ""]
"""Steps after which no cell fires any more, 0 to `lattice.steps`."""


def light_cone(
    config: LatticeConfig, read: Read, *, quiescent: bool = True, horizon: Horizon | None = None
) -> Bool[np.ndarray | Array, "steps #d #h #w"]:
    """The cells that may fire in each step: not before light has reached them, where the start state is `quiescent` and they
    are to stay so (`lattice.update.quiescent`), and not once it can no longer reach what is read at the horizon."""
    step = np.arange(config.steps).reshape(-1, 1, 1, 1)
    cone = np.ones((config.steps, 1, 1, 1), bool)
    if config.update.quiescent and quiescent:
        cone = cone & (distance_to_face(config, config.input_face)[None] <= step + 1)
    if horizon is not None or read == "output":
        steps_left = (config.steps if horizon is None else horizon) - 1 - step
        distance = distance_to_face(config, config.output_face)[None] if read == "output" else np.zeros((1, 1, 1, 1), int)
        cone = cone & (distance <= steps_left)
    return cone


def exact_count(config: LatticeConfig) -> int:
    """Cells that one mask for the whole batch lets fire."""
    return round(config.update.rate * config.grid.cells)


def firing(
    config: LatticeConfig,
    batch: int,
    *,
    sampled: bool,
    key: Key[Array, ""],
    read: Read = "cube",
    started: Bool[Array, " batch"] | None = None,
    horizon: Horizon | None = None,
) -> Float[Array, "steps #d h #w #batch 1"]:
    """How far each cell moves in each step: 0 or 1 as drawn at the update rate, or the rate itself as the expected value.

    Masks of "batch" are drawn once for all samples and let exactly `exact_count` cells fire, in the light cone or not. There is
    one key a step, so a shorter pass fires as the start of a longer one. `started` says which samples do not begin quiescent:
    all their cells may fire from the first step on.
    """
    depth, height, width = config.grid.depth, config.grid.height, config.grid.width
    cone = light_cone(config, read, horizon=horizon)[..., None, None]
    if started is not None:
        everywhere = light_cone(config, read, quiescent=False, horizon=horizon)[..., None, None]
        cone = jnp.where(started.reshape(1, 1, 1, 1, batch, 1), everywhere, cone)
    cone = jnp.asarray(cone, jnp.float32)
    if not sampled or config.update.rate == 1:
        return jnp.full((config.steps, 1, height, 1, 1, 1), float(config.update.rate)) * cone
    keys = jax.random.split(key, config.steps)
    if config.update.mask == "batch":
        count = exact_count(config)
        ranks = jax.vmap(lambda drawn: draw.permutation(drawn, depth * height * width))(keys)
        return (ranks < count).astype(jnp.float32).reshape(-1, depth, height, width, 1, 1) * cone
    each = functools.partial(jax.random.bernoulli, p=config.update.rate, shape=(depth, height, width, batch, 1))
    return jax.vmap(each)(keys).astype(jnp.float32) * cone


def most_firings(config: LatticeConfig, *, sampled: bool, read: Read = "cube", quiescent: bool = True) -> int:
    """Cells that fire for some sample, summed over the steps, at most; `quiescent` where all samples start so."""
    grid = (config.grid.depth, config.grid.height, config.grid.width)
    in_cone = np.broadcast_to(light_cone(config, read, quiescent=quiescent), (config.steps, *grid)).sum((1, 2, 3))
    if sampled and config.update.mask == "batch":
        in_cone = np.minimum(in_cone, exact_count(config))
    return int(in_cone.sum())
