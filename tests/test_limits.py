"""The experiments on what limits the cube: windows, the regression within them, and divisions without held-out pairs."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.limit.experiments import Corpus  # noqa: E402
from benchmarks.limit.linear import window, windowed_ridge, with_borrowed  # noqa: E402
from lattice_jax.evaluation.baselines import Pairs, fit_ridge  # noqa: E402
from lattice_jax.evaluation.similarity import unit_rows  # noqa: E402
from lattice_jax.lattice.adapter import Adapter, freeze, principal_start  # noqa: E402


@pytest.fixture(scope="module")
def pairs() -> tuple[Pairs, Pairs]:
    with np.load(Path(__file__).parent / "data" / "question_answer_embeddings.npz") as file:
        rows = [unit_rows(file[name].astype(np.float32), name) for name in ("questions", "answers")]
    return Pairs(*(values[:50] for values in rows)), Pairs(*(values[50:62] for values in rows))


def test_a_window_holds_the_cells_within_its_radius():
    sees = window(4, 1)
    assert sees.sum(1).tolist() == [4, 6, 6, 4, 6, 9, 9, 6, 6, 9, 9, 6, 4, 6, 6, 4]
    assert window(4, 0).sum() == 16
    assert window(4, 3).all()


def test_a_window_as_large_as_the_face_is_the_regression_of_the_whole_code(pairs):
    train, validation = pairs
    adapter, text = Adapter(384, 16, "linear"), np.concatenate(train)
    codec = freeze(adapter, principal_start(adapter, text), jnp.asarray(text))
    coded = [np.asarray(codec.encode_questions(jnp.asarray(rows))) for rows in (*train, validation.questions)]
    expected = codec.decode(jnp.asarray(fit_ridge(Pairs(*coded[:2]), 50 / 100, share=0.0)(coded[2])))
    found = windowed_ridge(train, validation, codec, 3, penalties=np.array([1.0]))(validation.questions)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_lent_pairs_count_as_much_as_their_weight_and_about_their_own_means(pairs):
    own, lent = pairs
    moved = Pairs(lent.questions + 3.0, lent.answers - 2.0)
    alone, twice = (fit_ridge(of, 0.3, share=0.2)(lent.questions) for of in (own, with_borrowed(own, moved, 2.0)))
    np.testing.assert_allclose(fit_ridge(with_borrowed(own, moved, 0.0), 0.3, share=0.2)(lent.questions), alone, atol=1e-5)
    apart = [(side - side.mean(0)).astype(np.float64) for side in (*own, *lent)]
    questions, answers = (np.concatenate([apart[n], *[apart[n + 2]] * 2]) for n in range(2))
    solved = np.linalg.solve(questions.T @ questions + 0.3 * np.eye(384), questions.T @ (answers - 0.2 * questions))
    expected = own.answers.mean(0) + 0.2 * (lent.questions - own.questions.mean(0))
    expected = expected + (lent.questions - own.questions.mean(0)) @ solved
    np.testing.assert_allclose(twice, expected, atol=1e-4)


def test_divisions_are_of_known_pairs_and_apart():
    rows = {"train": np.arange(1, 81), "validation": np.arange(81, 93)}
    circle = {side: np.stack([np.cos(at / 50), np.sin(at / 50)], 1).astype(np.float32) for side, at in rows.items()}
    material = SimpleNamespace(pairs=lambda side: Pairs(circle[side], circle[side]))
    for sides in Corpus("any", None, material, None).sides():  # pyright: ignore[reportArgumentType]
        angles = [np.round(50 * np.arctan2(side.questions[:, 1], side.questions[:, 0])) % 314 for side in sides]
        assert [len(side) for side in angles] == [56, 12, 24]
        assert len(np.unique(np.concatenate(angles))) == 92
