"""Criticality: whether small differences die out, stay, or grow.

Contract: differences are those of two trajectories that obey one rule. Distances are Euclidean over all that a state holds,
sample by sample, along `sample_axis` of every leaf.

    lambda = lim 1/n ln |d_n| / |d_0|       largest Lyapunov exponent, in nats a step (Benettin et al. 1980, Lyapunov
                                            characteristic exponents, Meccanica 15)

is taken as the mean of `separation_rates` once a first difference has turned to the direction that grows most. Below 0
differences die out, at 0 they stay (the edge of chaos), above 0 they grow. No number of steps is enough for every rule: `drift`
says how far the mean still moves.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice import draw
from lattice_jax.lattice.cell import Parameters
from lattice_jax.lattice.emergence import dynamics
from lattice_jax.lattice.emergence.dynamics import Codes
from lattice_jax.lattice.step import State

_FLOOR = 1e-30


def size(state: Any, sample_axis: int) -> Float[Array, " sample"]:
    """Euclidean size of a state, a tree of arrays, for each sample."""
    leaves = jax.tree.leaves(state)
    squares = [jnp.sum(jnp.square(leaf), [a for a in range(leaf.ndim) if a != sample_axis]) for leaf in leaves]
    return jnp.sqrt(functools.reduce(jnp.add, squares))


def _scaled(tree: Any, factors: Float[Array, " sample"], sample_axis: int) -> Any:
    def scale(leaf: Array) -> Array:
        return leaf * factors.reshape([-1 if a == sample_axis else 1 for a in range(leaf.ndim)])

    return jax.tree.map(scale, tree)


def _halves(both: Any, sample_axis: int) -> tuple[Any, Any]:
    def half(number: int) -> Any:
        return jax.tree.map(lambda leaf: jnp.split(leaf, 2, sample_axis)[number], both)

    return half(0), half(1)


def separation_rates(
    advance: Callable[[Any], Any], state: Any, direction: Any, *, steps: int, relative: float, sample_axis: int
) -> Float[Array, "step sample"]:
    """The rate at which two trajectories that lie close together part, step by step: ln(|d_t+1| / |d_t|), in nats.

    The difference d is set back to `relative` of the first state's size after every step; `direction` is the first one, of any
    size. A difference of zero counts as 1e-30. `advance` is given both trajectories at once, all samples of the one and then
    all samples of the other: of a cube with weights in every cell, reading these costs more than a few samples do.
    """
    distance = relative * size(state, sample_axis)

    def beside(state: Any, difference: Any) -> Any:
        unit = _scaled(difference, distance / jnp.maximum(size(difference, sample_axis), _FLOOR), sample_axis)
        return jax.tree.map(jnp.add, state, unit)

    def one_step(carry: tuple[Any, Any], _: None):
        both = jax.tree.map(lambda here, there: jnp.concatenate([here, there], sample_axis), *carry)
        here, there = _halves(advance(both), sample_axis)
        apart = jax.tree.map(jnp.subtract, there, here)
        growth = jnp.log(jnp.maximum(size(apart, sample_axis) / distance, _FLOOR))
        return (here, beside(here, apart)), growth

    _, growth = jax.lax.scan(one_step, (state, beside(state, direction)), None, length=steps)
    return growth


def drift(rates: Float[np.ndarray, "step sample"]) -> float:
    """How far a mean over steps still moves: that of the second half less that of the first, mean over samples.

    In nats a step; near 0 where more steps would not change the exponent, unless two directions grow almost equally fast.
    """
    middle = len(rates) // 2
    return float(rates[middle:].mean() - rates[:middle].mean())


@functools.partial(jax.jit, static_argnames=("steps", "relative", "config"))
def cube_separation_rates(
    parameters: Parameters,
    codes: Codes,
    *,
    steps: int,
    relative: float,
    config: LatticeConfig,
    key: Key[Array, ""],
) -> Float[Array, "step question"]:
    """`separation_rates` of the cube with a question at its input, from where a pass has left it and on.

    Every cell moves by the update rate in every step, so the rule is the same at all times.
    """
    prepared, injected = dynamics.prepare(parameters, config), dynamics.inject(parameters, codes, config)
    passed = dynamics.whole_pass(prepared, injected, dynamics.updates(config), config=config)
    rate = jnp.full((1, 1, 1, 1, 1), config.update.rate, codes.dtype)
    keys = jax.random.split(key, 2)
    direction = State(*(draw.normal(k, leaf.shape) for k, leaf in zip(keys, passed, strict=True)))
    twice = jnp.concatenate([injected, injected], 3)
    return separation_rates(
        lambda state: dynamics.advance(prepared, state, twice, rate, config=config),
        passed,
        direction,
        steps=steps,
        relative=relative,
        sample_axis=3,
    )


def perturbation_growth(
    one: Float[np.ndarray, "time depth height width question channel"],
    other: Float[np.ndarray, "time depth height width question channel"],
) -> Float[np.ndarray, "time question"]:
    """Distance of two trajectories by their distance at the start.

    |x'_t - x_t| / |x'_0 - x_0|. No unit; 0 or more; 1 at the start. Damage spreading (Derrida and Pomeau 1986, Random networks
    of automata) with small differences instead of flipped cells. A wave guide that holds its input and copies it without loss
    to L layers ends at sqrt(L).
    """
    distance = np.sqrt(np.square(other - one).sum((1, 2, 3, 5), dtype=np.float64))
    return distance / distance[:1]
