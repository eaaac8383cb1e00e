"""Vectors on faces: exact places, and back."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import FACES

from lattice_jax.config import GridConfig, LatticeConfig
from lattice_jax.lattice.surface import face_mask, face_shape, face_to_vector, take_face, vector_to_face

GRID = GridConfig(depth=3, height=4, width=5)
PLACES = {
    "front": lambda z, y, x: z == 0,
    "back": lambda z, y, x: z == 2,
    "top": lambda z, y, x: y == 0,
    "bottom": lambda z, y, x: y == 3,
    "left": lambda z, y, x: x == 0,
    "right": lambda z, y, x: x == 4,
}


def face_cells(face: str) -> list[tuple[int, int, int]]:
    """Cells of a face by loop, depth before height before width."""
    return [(z, y, x) for z in range(3) for y in range(4) for x in range(5) if PLACES[face](z, y, x)]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("face", FACES)
def test_vector_goes_cell_by_cell_onto_the_face_and_back(face, channels):
    size = len(face_cells(face)) * channels
    vectors = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    placed = np.asarray(vector_to_face(jnp.asarray(vectors), face, GRID))
    assert placed.shape == (*face_shape(face, GRID), 2, channels)
    np.testing.assert_array_equal(face_to_vector(jnp.asarray(placed)), vectors)
    cube = np.zeros((3, 4, 5, 2, channels), np.float32)
    for number, cell in enumerate(face_cells(face)):
        cube[cell] = vectors[:, number * channels : (number + 1) * channels]
    np.testing.assert_array_equal(take_face(jnp.asarray(cube), face, GRID), placed)


@pytest.mark.parametrize("face", FACES)
def test_mask_marks_the_cells_of_the_face_alone(face):
    assert {tuple(cell) for cell in np.argwhere(face_mask(face, GRID)).tolist()} == set(face_cells(face))


@pytest.mark.parametrize("face", FACES)
def test_settings_and_face_agree_on_the_size(face):
    config = LatticeConfig(grid=GRID, surface_channels=3)
    assert config.surface_size(face) == 3 * np.prod(face_shape(face, GRID)) == 3 * len(face_cells(face))


def test_default_face_takes_225_numbers():
    assert LatticeConfig().surface_size("front") == LatticeConfig().surface_size("back") == 225
