"""Where a code's numbers lie on the two faces, so that what belongs together lies in the same place.

Contract: a codec in, the same with other turns out; codes keep their lengths and angles, so what an adapter holds stays.
The best regression from codes of questions to codes of answers is a matrix. By its singular vectors it becomes one number a
place (in the spirit of Hotelling 1936, "Relations between two sets of variates"), ordered by size from the middle of the faces
outwards. Cells that hear of their surroundings alone can then learn all of that map, and what depends on several of the
strongest directions is near, too. The turns follow from codes and pairs alone, but for the signs of singular vectors.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lattice_jax.config import LatticeConfig
from lattice_jax.evaluation.baselines import SHARES, Pairs, ridge
from lattice_jax.evaluation.similarity import unit_rows
from lattice_jax.lattice.adapter import Codec, Turns
from lattice_jax.lattice.surface import from_centre

_ALIKE = 1e-9
"""Difference, by the largest, below which singular values are one value: rounding leaves some 1e-15."""


def align(codec: Codec, train: Pairs, validation: Pairs, lattice: LatticeConfig) -> Codec:
    """The codec with the faces aligned by the training pairs; validation pairs choose the regression's penalty and share.

    Embeddings come in the teacher's space. Raises InputError for a code of zeros, which has no direction.
    """
    plain = codec._replace(turns=None)

    def coded(pairs: Pairs) -> Pairs:
        sides = (plain.encode_questions(jnp.asarray(rows, jnp.float32)) for rows in pairs)
        return Pairs(*(unit_rows(np.asarray(side), "codes") for side in sides))

    learned_from = coded(train)
    regression = ridge(learned_from, coded(validation), "aligned", shares=SHARES).predict
    width = learned_from.questions.shape[1]
    matrix = regression(np.eye(width)) - regression(np.zeros((1, width)))
    from_question, to_answer = _singular_vectors(matrix)
    places = {
        face: from_centre(face, lattice.grid, lattice.surface_channels) for face in (lattice.input_face, lattice.output_face)
    }
    question, answer = np.empty_like(matrix), np.empty_like(matrix)
    question[:, places[lattice.input_face]] = from_question
    answer[:, places[lattice.output_face]] = to_answer
    return codec._replace(turns=Turns(*(jnp.asarray(turn, jnp.float32) for turn in (question, answer))))


def _singular_vectors(
    matrix: Float[np.ndarray, "n n"],
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Left and right ones as columns, those of the largest value first.

    A regression from few pairs treats all that they leave open alike: of the 225 values that 68 pairs of 'hundred' give, 91 are
    one, and any basis of what belongs to it would do. Which one a library returns depends on its version and on the processor.
    """
    left, sizes, right = np.linalg.svd(matrix)
    right = right.T
    for group in np.split(np.arange(len(sizes)), np.flatnonzero(-np.diff(sizes) > _ALIKE * sizes[0]) + 1):
        if len(group) == 1:
            continue
        right[:, group] = _settled(right[:, group])
        none_at_all = sizes[group[0]] <= _ALIKE * sizes[0]
        left[:, group] = _settled(left[:, group]) if none_at_all else matrix @ right[:, group] / sizes[group]
    return left, right


def _settled(basis: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """The one basis of the same space whose vectors differ most in where they lie, from the first places to the last."""
    place = np.arange(len(basis))
    _, turn = np.linalg.eigh(basis.T * place @ basis)
    turned = basis @ turn
    largest = np.abs(turned).argmax(axis=0)
    return turned * np.sign(turned[largest, np.arange(turned.shape[1])])
