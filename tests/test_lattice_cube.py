"""From vector to vector: the wave guide, the count of parameters, coverage, and any two faces."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import (
    FACES,
    METRICS,
    OPPOSITE,
    SMALL,
    cells_of,
    lively_parameters,
    noise_like,
    quick_jit,
    real_embeddings,
    with_cell,
)

from lattice_jax.config import CellConfig, GridConfig, LatticeConfig, UpdateConfig
from lattice_jax.lattice import cube
from lattice_jax.lattice.cell import parameters_per_cell
from lattice_jax.lattice.propagate import propagate
from lattice_jax.lattice.surface import face_mask

KEY = jax.random.key(0)


def expected_answer(config: LatticeConfig, parameters: dict, vectors: jax.Array) -> jax.Array:
    """What the cube reads out when every update is scaled by the rate."""
    return cube.answer(parameters, vectors, key=KEY, config=config, sampled=False).vectors


def dependence(config: LatticeConfig, seed: int = 1) -> np.ndarray:
    """Whether each input number [input, output] changes each output number, tried one by one."""
    size = config.surface_size(config.input_face)
    base = noise_like(jnp.zeros((1, size)), seed)
    tries = jnp.concatenate([base, base + jnp.eye(size)])
    answered = np.asarray(quick_jit(functools.partial(expected_answer, config, lively_parameters(config)))(tries))
    return answered[1:] != answered[:1]


@pytest.mark.parametrize(
    ("surface_channels", "faces", "sizes"),
    [
        (1, ("front", "back"), (4, 8, 8)),
        (2, ("front", "back"), (4, 8, 8)),
        (1, ("back", "front"), (4, 8, 8)),
        (1, ("bottom", "top"), (8, 4, 8)),
        (1, ("left", "right"), (8, 8, 4)),
    ],
)
def test_an_untrained_cube_hands_its_input_on(surface_channels, faces, sizes):
    config = LatticeConfig(
        grid=GridConfig(*sizes),
        input_face=faces[0],
        output_face=faces[1],
        cell=CellConfig(visible=16, memory=16, hidden=16),
        steps=8,
        surface_channels=surface_channels,
    )
    vectors = np.ascontiguousarray(real_embeddings()[0][:16, : 64 * surface_channels])
    vectors /= np.sqrt(np.mean(np.square(vectors)))
    parameters = quick_jit(functools.partial(cube.initialise, config))(key=KEY)
    answered = np.asarray(quick_jit(functools.partial(expected_answer, config))(parameters, vectors))
    assert answered.shape == vectors.shape
    cosine = np.sum(answered * vectors, -1) / np.linalg.norm(answered, axis=-1) / np.linalg.norm(vectors, axis=-1)
    assert cosine.min() > 0.9


def test_cells_that_take_many_numbers_hand_them_on_as_well_as_cells_that_take_one():
    """A step moves a channel by 1 at most: what is injected must not grow with the numbers that share the channels."""
    config = LatticeConfig(
        grid=GridConfig(4, 3, 3),
        cell=CellConfig(visible=32, memory=32, hidden=8, perception_noise=0.0, candidate_scale=0.0),
        steps=5,
        update=UpdateConfig(rate=1.0),
        surface_channels=25,
    )
    vectors = np.ascontiguousarray(real_embeddings()[0][:16, :225])
    vectors /= np.sqrt(np.mean(np.square(vectors)))
    answered = np.asarray(expected_answer(config, cube.initialise(config, key=KEY), jnp.asarray(vectors)))
    assert np.abs(answered - vectors).mean() < 0.02 * np.abs(vectors).mean()


@pytest.mark.parametrize(("sharing", "surface_channels"), [("cell", 1), ("layer", 2), ("lattice", 3)])
def test_the_counts_are_those_of_the_arrays(sharing, surface_channels):
    config = dataclasses.replace(
        SMALL, sharing=sharing, surface_channels=surface_channels, input_face="left", output_face="right", steps=5
    )
    arrays = jax.eval_shape(functools.partial(cube.initialise, config), key=KEY)
    counts = cube.parameter_counts(config)
    sizes = {name: array.size for name, array in arrays.items()}
    assert counts["injection"] == sizes.pop("injection") == 3 * 4 * surface_channels * 3
    assert counts["read_out"] == sizes.pop("read_out") == 3 * 4 * surface_channels * 3
    assert counts["cells"] == sum(sizes.values())
    assert counts["total"] == counts["cells"] + counts["injection"] + counts["read_out"]


def test_the_default_cube_has_2475_cells_of_25_thousand_parameters():
    counts = cube.parameter_counts(LatticeConfig())
    assert counts["cells"] == 2_475 * parameters_per_cell(CellConfig())
    assert counts["total"] == counts["cells"] + 2 * 225 * 32
    arrays = jax.eval_shape(functools.partial(cube.initialise, LatticeConfig()), key=KEY)
    assert sum(array.size for array in arrays.values()) == counts["total"]


@pytest.mark.parametrize("sharing", ["cell", "layer", "lattice"])
def test_training_counts_six_operations_a_weight_cell_step_and_sample_and_forward_two(sharing):
    """Cells of one rule count as much as cells with rules of their own."""
    config = dataclasses.replace(SMALL, sharing=sharing)
    updates = config.grid.cells * config.steps * 4 * parameters_per_cell(config.cell)
    assert cube.operations(config, 4, training=True) == 6 * updates
    assert cube.operations(config, 4, training=False) == 2 * updates


@pytest.mark.parametrize(
    ("perception", "gate", "walls", "steps"),
    [
        ("von_neumann", "von_neumann", "zero", 4),
        ("moore", "von_neumann", "zero", 3),
        ("von_neumann", "moore", "zero", 3),
        ("von_neumann", "von_neumann", "periodic", 4),
        ("moore", "von_neumann", "periodic", 2),
    ],
)
def test_coverage_is_the_share_of_input_cells_that_the_output_really_depends_on(perception, gate, walls, steps):
    config = dataclasses.replace(
        with_cell(SMALL, perception=perception, gate=gate), grid=GridConfig(3, 5, 6), walls=walls, steps=steps
    )
    depends = dependence(config)
    assert depends.mean() == pytest.approx(cube.coverage(config))
    assert 0 < depends.mean() < 1


@pytest.mark.parametrize("walls", ["zero", "periodic"])
@pytest.mark.parametrize("perception", ["von_neumann", "moore"])
@pytest.mark.parametrize(("face", "output"), [("front", "back"), ("back", "top"), ("left", "right"), ("bottom", "left")])
def test_coverage_is_that_of_all_pairs_of_cells(face, output, perception, walls):
    for sizes in ((3, 4, 7), (2, 6, 5), (5, 2, 3)):
        config = dataclasses.replace(
            with_cell(SMALL, perception=perception, gate=perception), grid=GridConfig(*sizes), walls=walls
        )
        config = dataclasses.replace(config, steps=20, input_face=face, output_face=output)
        fed, read = (cells_of(config)[np.asarray(face_mask(one, config.grid)).reshape(-1)] for one in (face, output))
        apart = np.abs(read[:, None] - fed[None])
        if walls == "periodic":
            apart = np.minimum(apart, np.array(sizes) - apart)
        distance = METRICS[perception](apart)
        for steps in range(config.face_distance(), 20):
            assert cube.coverage(dataclasses.replace(config, steps=steps)) == np.mean(distance <= steps)


def test_coverage_of_large_faces_takes_no_memory_for_all_their_pairs():
    config = dataclasses.replace(SMALL, grid=GridConfig(2, 512, 512), steps=511)
    assert 0.5 < cube.coverage(config) < 1  # 10 TB, were each pair of cells held


def test_coverage_of_the_default_cube_is_whole_and_six_neighbours_see_less():
    assert cube.coverage(LatticeConfig()) == 1.0
    assert cube.coverage(with_cell(dataclasses.replace(LatticeConfig(), steps=18), perception="von_neumann")) < 0.6


@pytest.mark.parametrize("face", FACES)
def test_any_face_may_be_the_input_and_its_opposite_the_output(face):
    """What each output cell depends on is its light cone on the face that was named, no other."""
    config = dataclasses.replace(SMALL, input_face=face, output_face=OPPOSITE[face], steps=5)
    inputs, outputs = (
        cells_of(config)[np.asarray(face_mask(side, config.grid)).reshape(-1)] for side in (face, OPPOSITE[face])
    )
    near = METRICS["von_neumann"](inputs[:, None] - outputs[None]) <= config.steps
    assert 0 < near.mean() < 1
    np.testing.assert_array_equal(dependence(config), near)


def test_every_face_cell_injects_and_reads_by_weights_of_its_own():
    """Between two faces that share an edge, with two numbers a cell: the cube's answer from its parts, cell by cell."""
    config = dataclasses.replace(
        SMALL, grid=GridConfig(4, 4, 3), input_face="front", output_face="top", surface_channels=2, injection="pulse"
    )
    parameters = lively_parameters(config)
    vectors = noise_like(jnp.zeros((2, 24)), 3)
    injected = np.zeros((1, 4, 3, 2, 3), np.float32)
    for number, (y, x) in enumerate(np.ndindex(4, 3)):
        injected[0, y, x] = np.asarray(vectors)[:, 2 * number : 2 * number + 2] @ np.asarray(parameters["injection"])[0, y, x]
    cells = {name: value for name, value in parameters.items() if name not in ("injection", "read_out")}
    passed = quick_jit(functools.partial(propagate, config=config, sampled=False))(cells, injected, key=KEY)
    visible = np.asarray(passed.state.visible)
    read = [visible[z, 0, x] @ np.asarray(parameters["read_out"])[z, 0, x] for z, x in np.ndindex(4, 3)]
    answered = quick_jit(functools.partial(expected_answer, config))(parameters, vectors)
    np.testing.assert_allclose(answered, np.concatenate(read, -1), atol=1e-5)


def test_only_the_faces_touch_the_vector():
    """Without read-out weights nothing comes out, without injection weights the input goes unheard."""
    parameters = lively_parameters(SMALL)
    run = quick_jit(functools.partial(expected_answer, SMALL))
    one, other = (noise_like(jnp.zeros((2, 20)), seed) for seed in (1, 2))
    silent = parameters | {"read_out": jnp.zeros_like(parameters["read_out"])}
    deaf = parameters | {"injection": jnp.zeros_like(parameters["injection"])}
    assert not np.any(run(silent, one))
    np.testing.assert_array_equal(run(deaf, one), run(deaf, other))
    assert not np.array_equal(run(parameters, one), run(parameters, other))
