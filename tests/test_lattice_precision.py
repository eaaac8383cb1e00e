"""bfloat16 passes beside float32 ones: answers, gradients, and what training makes of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import SMALL, cell_parameters, lively_parameters, lively_state, noise_like, quick_jit, world

from lattice_jax.config import GridConfig, LatticeConfig
from lattice_jax.lattice import cube
from lattice_jax.lattice.step import in_precision, step

CUBE = dataclasses.replace(SMALL, engine="scan")
KEY = jax.random.key(3)
BATCH = 4


def low(config: LatticeConfig) -> LatticeConfig:
    return dataclasses.replace(config, precision="bfloat16")


def directions(vectors: jax.Array) -> jax.Array:
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


@functools.cache
def learner(config: LatticeConfig):
    """Loss, answers and gradients of one batch, compiled once for a configuration."""

    def loss(parameters, vectors, targets):
        answers = cube.answer(parameters, vectors, key=KEY, config=config, sampled=True).vectors
        return jnp.mean(jnp.sum(jnp.square(directions(answers) - directions(targets)), -1)), answers

    return quick_jit(jax.value_and_grad(loss, has_aux=True))


def batch_of(config: LatticeConfig, size: int) -> tuple[jax.Array, jax.Array]:
    faces = (config.surface_size(face) for face in (config.input_face, config.output_face))
    return tuple(noise_like(jnp.zeros((size, length)), seed) for seed, length in enumerate(faces))


def error(one, other) -> float:
    """Distance of two trees, relative to the second's size."""
    square = jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), one, other))
    return float(jnp.sqrt(square / jax.tree.reduce(jnp.add, jax.tree.map(lambda b: jnp.sum(jnp.square(b)), other))))


def errors(config: LatticeConfig, parameters: dict, size: int) -> tuple[float, float, float]:
    """How far bfloat16 is from float32: in the loss, the answers and the gradients, each relative to its size."""
    batch = batch_of(config, size)
    (loss, answers), gradients = learner(config)(parameters, *batch)
    (low_loss, low_answers), low_gradients = learner(low(config))(parameters, *batch)
    assert {gradient.dtype for gradient in low_gradients.values()} == {jnp.dtype("float32")}
    return abs(float(low_loss / loss - 1)), error(low_answers, answers), error(low_gradients, gradients)


def test_only_matrices_are_cast_and_nothing_in_float32():
    parameters = lively_parameters(CUBE)
    assert in_precision(parameters, CUBE) is parameters
    for name, value in in_precision(parameters, low(CUBE)).items():
        assert value.dtype == (jnp.bfloat16 if name.endswith("_kernel") else jnp.float32)


def test_a_lively_small_cube_in_bfloat16_is_within_hundredths_of_float32():
    loss, answers, gradients = errors(CUBE, lively_parameters(CUBE), BATCH)
    assert loss < 5e-3
    assert 1e-4 < answers < 1e-2
    assert 1e-4 < gradients < 3e-2


@pytest.mark.parametrize("sharing", ["layer", "lattice"])
def test_shared_matrices_have_the_gradients_of_float32_but_for_rounding(sharing):
    config = dataclasses.replace(CUBE, sharing=sharing)
    parameters, state = cell_parameters(config), lively_state(config)

    def pulled(config):
        def move(parameters):
            fires = jnp.ones((1, 1, 1, 1, 1))
            return step(in_precision(parameters, config), state, fires, world=world("zero"), config=config)

        def both(parameters):
            moved, pull = jax.vjp(move, parameters)
            return moved, pull(noise_like(moved, 9))

        return quick_jit(both)(parameters)

    (values, gradients), (low_values, low_gradients) = pulled(config), pulled(low(config))
    assert 1e-4 < error(low_values, values) < 5e-3
    assert 1e-4 < error(low_gradients, gradients) < 2e-2


def test_sixteen_steps_of_full_cells_in_bfloat16_are_within_thousandths_of_float32():
    config = LatticeConfig(GridConfig(11, 2, 2), steps=16, remat="never", engine="scan")
    loss, answers, gradients = errors(config, cube.initialise(config, key=jax.random.key(0)), BATCH)
    assert loss < 1e-4
    assert 1e-5 < answers < 1e-3
    assert 1e-4 < gradients < 1e-2


def test_the_state_between_steps_stays_in_float32():
    config = low(CUBE)
    vectors, _ = batch_of(config, 2)
    passed = jax.eval_shape(
        functools.partial(cube.answer, key=KEY, config=config, sampled=True, trajectory=True),
        lively_parameters(config),
        vectors,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(passed)} == {jnp.dtype("float32")}


def test_training_in_bfloat16_lowers_the_loss_as_float32_does():
    batch, curves = batch_of(CUBE, BATCH), []
    for config in (CUBE, low(CUBE)):
        parameters, losses = lively_parameters(config), []
        for _ in range(20):
            (loss, _), gradients = learner(config)(parameters, *batch)
            parameters = jax.tree.map(lambda value, gradient: value - 0.03 * gradient, parameters, gradients)
            losses.append(float(loss))
        curves.append(np.array(losses))
    assert curves[1][-1] < 0.9 * curves[1][0]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-2)
