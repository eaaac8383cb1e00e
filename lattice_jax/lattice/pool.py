"""A pool of states for passes to start from (after Mordvintsev et al. 2020, Growing Neural Cellular Automata).

Contract: pure functions of pools and keys. A pool is a pytree, cell-major like every state, with the states where a batch has
its samples; what is drawn from it is a pool too, so that the same functions change it before it is written back. States are
drawn without replacement, so each place is written at most once. For answering, the pool holds what earlier questions left in
the cube: the next question must be answered from there.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key

from lattice_jax.config import Damage, GridConfig, LatticeConfig, PoolConfig
from lattice_jax.lattice.step import State

KINDS: tuple[Damage, ...] = ("sphere", "box", "half_cube")

_SPHERE_RADIUS = (0.25, 0.5)
"""Of the shortest side of the grid."""
_BOX_SIDE = (0.25, 0.75)
"""Of each side of the grid."""
_SMALLEST = 1e-12

Masks = Bool[Array, "depth height width state 1"]


class Pool(NamedTuple):
    """States, and what is known of each."""

    state: State
    age: Int32[Array, " state"]
    """Passes since it was quiescent."""
    loss: Float[Array, " state"]
    """Of the last answer given from it; 0 before the first."""


class Diversity(NamedTuple):
    """How far states differ; both are lowest when they are all the same."""

    distance: Float[Array, ""]
    """Mean Euclidean distance of two states over their root mean square size: 0 when all are equal, sqrt(2) for states of one
    size at right angles, up to 2."""
    effective_rank: Float[Array, ""]
    """The exponential of the entropy of the states' normalised singular values (Roy and Vetterli 2007): 1 when one state is a
    multiple of the other, the number of states when they are orthogonal and of one size."""


def create(config: LatticeConfig, size: int) -> Pool:
    """A pool of `size` quiescent states."""
    shape = (config.grid.depth, config.grid.height, config.grid.width, size)
    state = State(jnp.zeros((*shape, config.cell.visible)), jnp.zeros((*shape, config.cell.memory)))
    return Pool(state, jnp.zeros((size,), jnp.int32), jnp.zeros((size,)))


def draw(pool: Pool, count: int, *, key: Key[Array, ""]) -> tuple[Int32[Array, " count"], Pool]:
    """The places of `count` different states, drawn at random, and these states as a pool."""
    places = jax.random.permutation(key, len(pool.age))[:count].astype(jnp.int32)
    state = jax.tree.map(lambda field: field[:, :, :, places], pool.state)
    return places, Pool(state, pool.age[places], pool.loss[places])


def write_back(pool: Pool, places: Int32[Array, " count"], drawn: Pool) -> Pool:
    """The pool with `drawn` in these places, of which no two are the same."""
    state = jax.tree.map(lambda field, new: field.at[:, :, :, places].set(new, unique_indices=True), pool.state, drawn.state)
    age, loss = (getattr(pool, name).at[places].set(getattr(drawn, name), unique_indices=True) for name in ("age", "loss"))
    return Pool(state, age, loss)


def reseed(pool: Pool, count: int) -> Pool:
    """The `count` states with the largest losses become quiescent again, so that the cube does not forget how to begin."""
    worst = jnp.argsort(-pool.loss)[:count]
    chosen = jnp.zeros_like(pool.age, bool).at[worst].set(True)
    state = jax.tree.map(
        lambda field: jnp.where(chosen[None, None, None, :, None], jnp.zeros((), field.dtype), field), pool.state
    )
    return Pool(state, jnp.where(chosen, 0, pool.age), jnp.where(chosen, jnp.zeros(()), pool.loss))


def damage_best(pool: Pool, count: int, config: PoolConfig, grid: GridConfig, *, key: Key[Array, ""]) -> Pool:
    """A region of each of the `count` states with the smallest losses is cleared, of those that are not quiescent; from them
    the cube learns to heal."""
    never_asked = pool.age == 0
    best = jnp.lexsort((pool.loss, never_asked))[:count]
    masks = damage_masks(config.damage, grid, len(pool.age), key=key)
    chosen = jnp.zeros_like(never_asked).at[best].set(True)
    return pool._replace(state=damage(pool.state, masks & chosen[None, None, None, :, None]))


def damage(state: State, masks: Masks) -> State:
    """The state with zeros where the masks are true."""
    return jax.tree.map(lambda field: jnp.where(masks, jnp.zeros((), field.dtype), field), state)


@functools.partial(jax.jit, static_argnames=("kind", "grid", "count"))
def damage_masks(kind: Damage | str, grid: GridConfig, count: int, *, key: Key[Array, ""]) -> Masks:
    """A region for each of `count` states: of one kind, or each of a kind drawn for it where `kind` is "any".

    sphere     around any cell, radius a quarter to half of the shortest side; walls may cut it
    box        a quarter to three quarters of each side long
    half_cube  the cells of one half along any axis, without the middle one
    """
    place = jnp.stack(jnp.meshgrid(*(jnp.arange(n) for n in (grid.depth, grid.height, grid.width)), indexing="ij"), -1)
    place, sides = place.astype(jnp.float32), jnp.array([grid.depth, grid.height, grid.width], jnp.float32)

    def sphere(key: Array) -> Array:
        centre_key, radius_key = jax.random.split(key)
        centre = jnp.floor(jax.random.uniform(centre_key, (3,)) * sides)
        low, high = (share * min(grid.depth, grid.height, grid.width) for share in _SPHERE_RADIUS)
        radius = jax.random.uniform(radius_key, (), minval=low, maxval=high)
        return jnp.sum(jnp.square(place - centre[None, None, None]), -1) <= jnp.square(radius)

    def box(key: Array) -> Array:
        side_key, corner_key = jax.random.split(key)
        side = jnp.maximum(jnp.round(sides * jax.random.uniform(side_key, (3,), minval=_BOX_SIDE[0], maxval=_BOX_SIDE[1])), 1.0)
        corner = jnp.floor(jax.random.uniform(corner_key, (3,)) * (sides - side + 1))
        return jnp.all((place >= corner[None, None, None]) & (place < (corner + side)[None, None, None]), -1)

    def half_cube(key: Array) -> Array:
        axis_key, end_key = jax.random.split(key)
        axis = jax.random.randint(axis_key, (), 0, 3)
        from_middle = (place - ((sides - 1) / 2)[None, None, None])[..., axis]
        return jnp.where(jax.random.bernoulli(end_key), from_middle > 0, from_middle < 0)

    regions = {"sphere": sphere, "box": box, "half_cube": half_cube}

    def any_kind(key: Array) -> Array:
        kind_key, region_key = jax.random.split(key)
        return jax.lax.switch(jax.random.randint(kind_key, (), 0, len(KINDS)), [regions[name] for name in KINDS], region_key)

    masks = jax.vmap(any_kind if kind == "any" else regions[kind])(jax.random.split(key, count))
    return jnp.moveaxis(masks, 0, -1)[..., None]


def diversity(state: State) -> Diversity:
    """How far the states of a batch differ, visible channels and memory together; of 2 states or more.

    Singular values come from the products of states in float32: those below 1/3000 of the largest drown in rounding, so a rank
    of 1 may show as 1.05 among 16 states.
    """
    products = sum((jnp.einsum("dhwic,dhwjc->ij", field, field) for field in state), start=jnp.zeros(()))
    squares, count = jnp.diagonal(products), len(products)
    apart = jnp.sqrt(jnp.maximum(squares[:, None] + squares[None] - 2 * products, 0.0))
    # The diagonal is zero but for rounding, and is left out.
    mean_distance = jnp.sum(jnp.where(jnp.eye(count, dtype=bool), 0.0, apart)) / (count * (count - 1))
    singular = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(products), 0.0))
    share = singular / jnp.maximum(jnp.sum(singular), _SMALLEST)
    entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, _SMALLEST)))
    return Diversity(mean_distance / jnp.sqrt(jnp.maximum(jnp.mean(squares), _SMALLEST)), jnp.exp(entropy))


def collapsed(found: Diversity, config: PoolConfig) -> Bool[Array, ""]:
    """The alarm: whether the states are as good as one, by distance or by rank; all answers then come from one place."""
    return (found.distance < config.collapse_distance) | (found.effective_rank < config.collapse_rank)
