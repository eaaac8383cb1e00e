"""The learning rate over a run, and what the optimizer does to gradients and weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lattice_jax.config import OptimizerConfig
from lattice_jax.training.schedule import clip_by_global_norm, learning_rate_schedule, make_optimizer

CONFIG = OptimizerConfig(learning_rate=3e-4, final_learning_rate=1e-4, warmup_steps=20)


def rates(config: OptimizerConfig, steps: int, counts: list[int]) -> np.ndarray:
    schedule = learning_rate_schedule(config, steps)
    return np.array([float(schedule(jnp.int32(count))) for count in counts])


def test_rate_rises_linearly_then_falls_by_half_a_cosine():
    np.testing.assert_allclose(rates(CONFIG, 200, [0, 5, 10, 20]), [0, 0.75e-4, 1.5e-4, 3e-4], rtol=1e-6)
    # Half way down the cosine is the mean of peak and final rate; a quarter of the way is (1 + cos 45 degrees) / 2.
    quarter = 1e-4 + 2e-4 * (1 + 0.5**0.5) / 2
    np.testing.assert_allclose(rates(CONFIG, 200, [65, 110, 200, 300]), [quarter, 2e-4, 1e-4, 1e-4], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 10, 20])
def test_run_within_its_warmup_stays_on_the_line(steps):
    np.testing.assert_allclose(rates(CONFIG, steps, [0, steps]), [0, 3e-4 * steps / 20], rtol=1e-6)


def test_no_warmup_starts_at_the_peak():
    config = OptimizerConfig(learning_rate=3e-4, final_learning_rate=0, warmup_steps=0)
    np.testing.assert_allclose(rates(config, 100, [0, 50, 100]), [3e-4, 1.5e-4, 0], atol=1e-10)


def test_weight_decay_shrinks_only_what_the_mask_names():
    config = OptimizerConfig(learning_rate=0.1, final_learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    params = {"kernel": jnp.full((2, 2), 4.0), "bias": jnp.full((2,), 4.0)}
    zeros = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros((2,))}

    def after_one_update(mask):
        optimizer = make_optimizer(config, 10, mask)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        updated = optax.apply_updates(params, updates)
        return float(updated["kernel"][0, 0]), float(updated["bias"][0])

    shrunk = 4.0 * (1 - 0.1 * 0.5)
    assert after_one_update(lambda tree: {name: leaf.ndim > 1 for name, leaf in tree.items()}) == pytest.approx((shrunk, 4.0))
    assert after_one_update(None) == pytest.approx((shrunk, shrunk))


def test_moments_see_the_clipped_gradient():
    config = OptimizerConfig(gradient_clip=0.5, first_moment_decay=0.9)
    params = {"kernel": jnp.zeros((3, 4))}
    optimizer = make_optimizer(config, 10)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update({"kernel": jnp.full((3, 4), 100.0)}, optimizer.init(params), params)
    moment = optax.tree.get(state, "mu")
    assert float(optax.tree.norm(moment)) / (1 - 0.9) == pytest.approx(0.5)


@pytest.mark.parametrize("size", [0.0, 0.01, 3.0, np.inf, np.nan])
def test_clipping_is_that_of_optax(size):
    gradients = {"kernel": jnp.full((3, 4), size), "bias": jnp.linspace(-size, size, 5)}
    clipped, plain = (
        of.update(gradients, of.init(gradients))[0] for of in (clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0))
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), clipped, plain)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("decay_mask", [None, lambda tree: {name: leaf.ndim > 1 for name, leaf in tree.items()}])
def test_compiled_update_is_that_of_optax(threads, decay_mask):
    """Over steps with and without clipping, with more chunks than threads, and ends of chunks and vectors."""
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=2, weight_decay=0.1, gradient_clip=30.0)
    params = {"bias": jnp.linspace(-1, 1, 5), "kernel": jax.random.normal(jax.random.key(0), (3, 70_001))}
    plain, compiled = (make_optimizer(config, 9, decay_mask, native_threads=each) for each in (0, threads))
    states = {each: (params, each.init(params)) for each in (plain, compiled)}
    for step in range(4):
        gradients = {
            name: jax.random.normal(jax.random.key(step + 1), leaf.shape) * 10.0 ** (step - 3) for name, leaf in params.items()
        }
        norms = []
        for each, (values, state) in states.items():
            *states[each], norm = jax.jit(each.apply)(gradients, state, values)
            norms.append(float(norm))
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        assert (norms[0] > config.gradient_clip) == (step > 1)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), states[plain], states[compiled])


@pytest.mark.parametrize("size", [0.0, np.inf, np.nan])
def test_compiled_update_meets_zeros_and_non_finite_gradients_as_optax(size):
    params = {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4)}
    gradients = {"kernel": jnp.zeros((3, 4)).at[1, 2].set(size)}
    plain, compiled = (
        each.apply(gradients, each.init(params), params)
        for each in (make_optimizer(CONFIG, 9, native_threads=n) for n in (0, 2))
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), plain, compiled)


def test_compiled_update_does_not_depend_on_the_threads():
    params = {"kernel": jax.random.normal(jax.random.key(0), (7, 70_001))}
    one, several = (
        each.apply(params, each.init(params), params) for each in (make_optimizer(CONFIG, 9, native_threads=n) for n in (1, 4))
    )
    jax.tree.map(np.testing.assert_array_equal, one, several)
