"""Influence: what each cell contributes to the answer, by gradient and by ablation.

Contract: a gain multiplies all updates of a cell; 1 is the cube as it is, 0 a cell that never moves. Both figures are what an
answer changes by when gains do, so the gradient is the small change of which ablation is the whole one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import spearmanr

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.emergence import dynamics, orientation
from lattice_jax.lattice.emergence.dynamics import Codes

Cells = Float[np.ndarray, "depth height width"]


def _answer(
    parameters: Parameters, prepared: Parameters, codes: Codes, gains: Float[Array, "d h w question"], config: LatticeConfig
) -> Float[Array, "question answer"]:
    injected = dynamics.inject(parameters, codes, config)
    last = dynamics.whole_pass(prepared, injected, dynamics.updates(config) * gains[None, ..., None], config=config)
    return dynamics.read_out(parameters, last.visible, config)


@functools.partial(jax.jit, static_argnames="config")
def by_gradient(
    parameters: Parameters, codes: Codes, probes: Float[Array, "probe question answer"], *, config: LatticeConfig
) -> Float[Array, "depth height width"]:
    """Relative change of the answer by relative change of a cell's updates, to first order.

    sqrt(E |dy/dg|^2 / E |y|^2) over questions, y the answer's code and g the cell's gain. The norm of the Jacobian's column is
    the mean of (v . dy/dg)^2 over random directions v of unit covariance (Hutchinson 1990), which `probes` are; n of them leave
    a relative error of sqrt(1/(2n)) in it. No unit; 0 or more. After Simonyan et al. 2013 (Deep Inside Convolutional Networks).
    """
    prepared = dynamics.prepare(parameters, config)
    shape = (config.grid.depth, config.grid.height, config.grid.width, codes.shape[0])
    answers, pull = jax.vjp(lambda gains: _answer(parameters, prepared, codes, gains, config), jnp.ones(shape))
    squares = jax.lax.map(lambda direction: jnp.square(pull(direction)[0]).mean(-1), probes)
    return jnp.sqrt(squares.mean(0) / jnp.square(answers).sum(-1).mean())


def block_edges(block: int, config: LatticeConfig) -> tuple[int, int, int]:
    """Cells of a block along depth, height and width: one layer thick, by distance from the input face."""
    depth, height, width = (1 if axis == orientation.layer_axis(config) else block for axis in range(3))
    return depth, height, width


@functools.partial(jax.jit, static_argnames=("block", "together", "config"))
def _ablate(parameters: Parameters, codes: Codes, *, block: int, together: int, config: LatticeConfig) -> Array:
    depth, height, width = sizes = config.grid.depth, config.grid.height, config.grid.width
    edges = block_edges(block, config)
    starts = [np.arange(0, size, edge) for size, edge in zip(sizes, edges, strict=True)]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)
    count = len(corners)
    # A corner beyond the grid ablates nothing: it fills the last group.
    padded = np.concatenate([corners, np.full((-count % together, 3), max(sizes))])
    prepared = dynamics.prepare(parameters, config)
    questions = codes.shape[0]
    whole = _answer(parameters, prepared, codes, jnp.ones((1, 1, 1, questions)), config)
    cells = np.stack(np.meshgrid(np.arange(depth), np.arange(height), np.arange(width), indexing="ij"), -1)

    def group(corner: Array) -> Array:
        apart = jnp.asarray(cells)[..., None, :] - corner[None, None, None]
        inside = jnp.all((apart >= 0) & (apart < jnp.array(edges).reshape(1, 1, 1, 1, 3)), -1)
        gains = jnp.repeat(1 - inside.astype(codes.dtype), questions, axis=-1)
        answers = _answer(parameters, prepared, jnp.tile(codes, (together, 1)), gains, config)
        change = jnp.linalg.norm(answers.reshape(together, *whole.shape) - whole[None], axis=-1)
        return jnp.mean(change / jnp.linalg.norm(whole, axis=-1)[None], axis=-1)

    changes = jax.lax.map(group, jnp.asarray(padded.reshape(-1, together, 3))).reshape(-1)[:count]
    return changes.reshape([len(along) for along in starts])


def by_ablation(parameters: Parameters, codes: Codes, *, block: int, config: LatticeConfig, together: int = 16) -> Cells:
    """Relative change of the answer when a block of cells never moves, given to every cell of the block.

    |y' - y| / |y|, the mean over questions. Blocks are `block` x `block` cells equally far from the input face, smaller at the
    far border; 1 ablates every cell by itself. No unit; 0 or more. `together` blocks are computed at once. After Meyes et al.
    2019 (Ablation Studies in Artificial Neural Networks).
    """
    coarse = np.asarray(_ablate(parameters, codes, block=block, together=together, config=config))
    for axis, edge in enumerate(block_edges(block, config)):
        coarse = np.repeat(coarse, edge, axis)
    return coarse[: config.grid.depth, : config.grid.height, : config.grid.width]


def concentration(influence: Cells) -> float:
    """How unequally influence is divided among cells: the Gini coefficient.

    G = sum_i (2 i - n - 1) x_i / (n sum x) of the values in rising order (Gini 1912). No unit; in [0, 1): 0 where all cells
    count alike, 1 - 1/n where one alone does. 0 where none has any.
    """
    values = np.sort(np.asarray(influence, np.float64).ravel())
    count, total = len(values), values.sum()
    return float((2 * np.arange(1, count + 1) - count - 1) @ values / (count * total)) if total > 0 else 0.0


def agreement(one: Cells, other: Cells) -> float:
    """Rank correlation of two maps of cells (Spearman 1904). No unit; in [-1, 1]; 0 where a map is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one.ravel(), other.ravel()).statistic)  # pyright: ignore[reportAttributeAccessIssue] (no stubs)
