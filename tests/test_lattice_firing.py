"""Who fires: exact counts, the quiescent start and the light cone, against what really changes and really matters."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import FACES, OPPOSITE, SMALL, WALLS, lively_parameters, noise_like, with_update

from lattice_jax.config import GridConfig
from lattice_jax.lattice import cube, surface
from lattice_jax.lattice.firing import distance_to_face, exact_count, firing, light_cone, most_firings

LONG = dataclasses.replace(SMALL, grid=GridConfig(5, 4, 3), steps=6)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("walls", WALLS)
def test_light_from_a_face_goes_one_cell_a_step(walls, face):
    config = dataclasses.replace(SMALL, grid=GridConfig(5, 6, 7), walls=walls)
    grid = (5, 6, 7)
    on_face = np.argwhere(np.asarray(surface.face_mask(face, config.grid)))
    apart = np.abs(np.argwhere(np.ones(grid))[:, None] - on_face[None])
    if walls == "periodic":
        apart = np.minimum(apart, np.array(grid) - apart)
    expected = apart.sum(-1).min(-1).reshape(grid)
    np.testing.assert_array_equal(np.broadcast_to(distance_to_face(config, face), grid), expected)


@pytest.mark.parametrize("walls", ["zero", "periodic"])
def test_the_quiescent_start_holds_back_exactly_the_cells_that_the_input_has_not_reached(walls):
    config = dataclasses.replace(LONG, walls=walls)
    parameters, size = lively_parameters(config), config.surface_size(config.input_face)
    vectors = jnp.stack([jnp.ones(size), jnp.zeros(size)])
    answer = cube.answer(parameters, vectors, key=jax.random.key(0), config=config, sampled=False, trajectory=True)
    states = np.asarray(answer.propagation.trajectory)
    reached = np.any(states[..., 0, :] != states[..., 1, :], -1)
    cone = light_cone(with_update(config, quiescent=True), "cube")
    np.testing.assert_array_equal(np.broadcast_to(cone, reached.shape), reached)


@pytest.mark.parametrize("face", ["back", "right", "top"])
def test_the_cone_of_the_output_is_exactly_the_cells_whose_firing_has_a_gradient(face):
    config = dataclasses.replace(LONG, input_face=OPPOSITE[face], output_face=face, steps=5)
    parameters = lively_parameters(config)
    vectors = noise_like(jnp.zeros((1, config.surface_size(config.input_face))), 4)
    cone = light_cone(config, "output")
    assert cone[0].all() or config.steps < max(distance_to_face(config, face).flat) + 1
    last = np.broadcast_to(cone[-1], (5, 4, 3))
    np.testing.assert_array_equal(last, np.asarray(surface.face_mask(face, config.grid)))

    def loss(parameters):
        answer = cube.answer(parameters, vectors, key=jax.random.key(0), config=config, sampled=False)
        return jnp.sum(jnp.square(answer.vectors))

    moves = np.asarray(jnp.any(jax.grad(loss)(parameters)["step_size"] != 0, -1))
    ever = np.broadcast_to(cone.any(0), (5, 4, 3)) & ~np.asarray(surface.face_mask(config.input_face, config.grid))
    np.testing.assert_array_equal(moves, ever)


@pytest.mark.parametrize("rate", [0.1, 0.7, 0.95])
def test_one_mask_for_the_batch_lets_exactly_the_share_fire(rate):
    config = with_update(LONG, rate=rate, mask="batch")
    fires = firing(config, 8, sampled=True, key=jax.random.key(1))
    assert fires.shape == (6, 5, 4, 3, 1, 1)
    assert exact_count(config) == round(rate * 60)
    np.testing.assert_array_equal(jnp.sum(fires, (1, 2, 3, 4, 5)), [exact_count(config)] * 6)
    assert len({np.asarray(step).tobytes() for step in fires}) == 6


def test_every_cell_fires_at_the_rate_over_many_masks_of_exact_count():
    config = with_update(dataclasses.replace(LONG, steps=2000), rate=0.7, mask="batch")
    share = jnp.mean(firing(config, 1, sampled=True, key=jax.random.key(2)), 0)
    np.testing.assert_allclose(share, 0.7, atol=0.06)


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("read", ["cube", "output"])
@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_there_are_never_more_firings_than_foretold(mask, read, sampled):
    config = with_update(LONG, mask=mask, quiescent=True, rate=0.7)
    fires = firing(config, 32, sampled=sampled, key=jax.random.key(3), read=read)
    happened = int(jnp.sum(jnp.any(jnp.broadcast_to(fires != 0, (6, 5, 4, 3, *fires.shape[4:])), (4, 5))))
    foretold = most_firings(config, sampled=sampled, read=read)
    assert happened <= foretold
    if mask == "sample":
        assert happened == foretold


@pytest.mark.parametrize("walls", WALLS)
@pytest.mark.parametrize(("face", "output"), [*itertools.permutations(FACES, 2)])
def test_the_distance_that_settings_are_checked_by_is_that_of_the_light(face, output, walls):
    config = dataclasses.replace(SMALL, walls=walls, input_face=face, output_face=output)
    sizes = (config.grid.depth, config.grid.height, config.grid.width)
    away = np.broadcast_to(distance_to_face(config, face), sizes)
    nearest = np.take(away, [0 if output in ("front", "top", "left") else -1], surface.AXIS[output]).min()
    assert config.face_distance() == max(1, nearest)  # a shared edge is there at once, and no pass has fewer steps than one
