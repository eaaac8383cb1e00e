"""Small cubes and real embeddings for the tests of the lattice wing."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lattice_jax.config import CellConfig, GridConfig, LatticeConfig, UpdateConfig, Walls
from lattice_jax.lattice import cube, grid
from lattice_jax.lattice.adapter import Adapter, Codec, freeze, principal_start
from lattice_jax.lattice.step import State, World

SMALL = LatticeConfig(
    grid=GridConfig(depth=3, height=4, width=5),
    cell=CellConfig(visible=3, memory=3, hidden=5, perception="von_neumann"),
    update=UpdateConfig(mask="sample", quiescent=False),
    steps=4,
    minimum_arrival=0.0,
    engine="scan",
    remat="never",
)
"""No two axes of the grid are equally long, so that swapped axes can't go unnoticed."""

# XLA is about to give up its older way to emit loops (openxla/xla 48001), and refuses options that it doesn't know.
_OLDER_LOOPS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ <= (0, 10, 2) else {}
quick_jit = functools.partial(jax.jit, compiler_options=_OLDER_LOOPS)
"""Steps through a cube take long to compile; by XLA's older way to emit loops, where it still has one, a third as long."""

FACES = ("front", "back", "top", "bottom", "left", "right")
OPPOSITE = {"front": "back", "back": "front", "top": "bottom", "bottom": "top", "left": "right", "right": "left"}
WALLS = ("zero", "periodic", "reflect", "edge")


def with_cell(config: LatticeConfig, **fields) -> LatticeConfig:
    """`config` with other settings of its cell."""
    return dataclasses.replace(config, cell=dataclasses.replace(config.cell, **fields))


def with_update(config: LatticeConfig, **fields) -> LatticeConfig:
    """`config` with other settings of its update."""
    return dataclasses.replace(config, update=dataclasses.replace(config.update, **fields))


def noise_like(tree, seed: int):
    """Standard normal arrays of the shapes in `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    drawn = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [jnp.asarray(drawn.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


def assert_close(found, expected, tolerance: float = 2e-5):
    """Equal up to the order of additions, relative to the largest entry of each array."""
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(np.abs(wanted).max(), 1e-6))


def lively_parameters(config: LatticeConfig, seed: int = 0) -> dict:
    """Parameters in which nothing is zero or one, so that every path through a cell carries something."""
    shapes = jax.eval_shape(functools.partial(cube.initialise, config), key=jax.random.key(0))

    drawn = np.random.default_rng(seed)

    def lively(name: str, shape: tuple[int, ...]) -> jax.Array:
        middle = 1.0 if name.endswith("scale") or name == "step_size" else 0.0
        width = shape[-2] ** -0.5 if name.endswith("kernel") else 0.3
        return jnp.asarray(drawn.normal(middle, width, shape), jnp.float32)

    return {name: lively(name, array.shape) for name, array in shapes.items()}


def cell_parameters(config: LatticeConfig, seed: int = 0) -> dict:
    """`lively_parameters` of the cells alone."""
    faces = ("injection", "read_out")
    return {name: value for name, value in lively_parameters(config, seed).items() if name not in faces}


def lively_state(config: LatticeConfig, batch: int = 2, seed: int = 1) -> State:
    """A random state of all cells."""
    shape = (config.grid.depth, config.grid.height, config.grid.width, batch)
    empty = State(jnp.zeros((*shape, config.cell.visible)), jnp.zeros((*shape, config.cell.memory)))
    return noise_like(empty, seed)


def world(walls: Walls) -> World:
    """The surroundings of a whole cube."""
    return World(walls, functools.partial(grid.extend, walls=walls))


def cells_of(config: LatticeConfig) -> np.ndarray:
    """Coordinates [cell, 3] of all cells, in row-major order."""
    shape = (config.grid.depth, config.grid.height, config.grid.width)
    return np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), -1)


def city_block(apart: np.ndarray) -> np.ndarray:
    """Steps between cells that see 6 neighbours."""
    return np.abs(apart).sum(-1)


def chebyshev(apart: np.ndarray) -> np.ndarray:
    """Steps between cells that see 26 neighbours."""
    return np.abs(apart).max(-1)


METRICS = {"von_neumann": city_block, "moore": chebyshev}


def principal_codec(text: np.ndarray, numbers: int) -> Codec:
    """A frozen linear adapter: so many principal components of embeddings [text, teacher]."""
    adapter = Adapter(text.shape[1], numbers, "linear")
    return freeze(adapter, principal_start(adapter, text), jnp.asarray(text))


def real_embeddings() -> tuple[np.ndarray, np.ndarray]:
    """Questions and answers [100, 384] of the scikit-learn glossary, by MiniLM."""
    data = np.load(Path(__file__).parent / "data" / "question_answer_embeddings.npz")
    return data["questions"].astype(np.float32), data["answers"].astype(np.float32)
