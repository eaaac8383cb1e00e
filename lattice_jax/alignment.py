"""Where a code's numbers lie on the two faces, so that what belongs together lies in the same place.

Contract: a codec in, the same with other turns out; codes keep their lengths and angles, so what an adapter holds stays.
The best regression from codes of questions to codes of answers is a matrix. By its singular vectors it becomes one number a
place (in the spirit of Hotelling 1936, "Relations between two sets of variates"), ordered by size from the middle of the faces
outwards. Cells that hear of their surroundings alone can then learn all of that map, and what depends on several of the
strongest directions is near, too.
"""

import jax.numpy as jnp
import numpy as np

from lattice_jax.config import LatticeConfig
from lattice_jax.evaluation.baselines import SHARES, Pairs, ridge
from lattice_jax.evaluation.similarity import unit_rows
from lattice_jax.lattice.adapter import Codec, Turns
from lattice_jax.lattice.surface import from_centre


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
    from_question, _, to_answer = np.linalg.svd(matrix)
    places = {
        face: from_centre(face, lattice.grid, lattice.surface_channels) for face in (lattice.input_face, lattice.output_face)
    }
    question, answer = np.empty_like(matrix), np.empty_like(matrix)
    question[:, places[lattice.input_face]] = from_question
    answer[:, places[lattice.output_face]] = to_answer.T
    return codec._replace(turns=Turns(*(jnp.asarray(turn, jnp.float32) for turn in (question, answer))))
