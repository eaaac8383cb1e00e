"""Faces on which what belongs together lies in the same place, on real embeddings."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from small_cube import principal_codec

from lattice_jax import adaptation
from lattice_jax.alignment import align
from lattice_jax.config import AdapterConfig, CellConfig, Config, CorpusConfig, GridConfig, LatticeConfig
from lattice_jax.corpus.corpus import load_corpus
from lattice_jax.errors import InputError
from lattice_jax.evaluation.baselines import SHARES, Pairs, ridge
from lattice_jax.evaluation.similarity import unit_rows
from lattice_jax.lattice.adapter import Codec
from lattice_jax.lattice.surface import from_centre
from lattice_jax.material import Material

LATTICE = LatticeConfig(GridConfig(3, 5, 5), CellConfig(visible=8, memory=8, hidden=16))


@pytest.fixture(scope="module")
def embeddings() -> tuple[np.ndarray, np.ndarray]:
    """Questions and answers of the glossary under MiniLM."""
    with np.load(Path(__file__).parent / "data" / "question_answer_embeddings.npz") as file:
        return file["questions"].astype(np.float32), file["answers"].astype(np.float32)


@pytest.fixture(scope="module")
def pairs(embeddings) -> tuple[Pairs, Pairs]:
    return Pairs(*(rows[:50] for rows in embeddings)), Pairs(*(rows[50:62] for rows in embeddings))


@pytest.fixture(scope="module")
def codec(pairs) -> Codec:
    return principal_codec(np.concatenate(pairs[0]), 25)


def regression_matrix(codec: Codec, train: Pairs, validation: Pairs, shares: tuple[float, ...] = SHARES) -> np.ndarray:
    """Of the best regression from the numbers on the one face to those on the other."""
    sides = [
        Pairs(*(unit_rows(np.asarray(rows), "codes") for rows in (codec.encode_questions(q), codec.encode_answers(a))))
        for q, a in (train, validation)
    ]
    predict = ridge(*sides, "any", shares=shares).predict
    return predict(np.eye(25)) - predict(np.zeros((1, 25)))


def test_the_best_regression_joins_each_place_to_the_same_place_the_strongest_in_the_middle(pairs, codec):
    aligned = align(codec, *pairs, LATTICE)
    plain, turns = regression_matrix(codec, *pairs), aligned.turns
    assert np.abs(plain - np.diag(np.diag(plain))).max() > 0.01
    turned = np.asarray(turns.question).T @ plain @ np.asarray(turns.answer)
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-5)
    strength = np.diag(turned)[from_centre("front", LATTICE.grid, 1)]
    assert (np.diff(strength) <= 1e-6).all()
    assert strength[-1] >= -1e-6


def test_nothing_that_the_code_holds_is_lost(pairs, codec):
    aligned, (questions, answers) = align(codec, *pairs, LATTICE), pairs[1]
    for turn in aligned.turns:
        np.testing.assert_allclose(turn.T @ turn, np.eye(25), atol=1e-5)
    np.testing.assert_allclose(aligned.reproduce(answers), codec.reproduce(answers), atol=1e-5)
    lengths = [np.linalg.norm(np.asarray(one.encode_questions(questions)), axis=1) for one in (codec, aligned)]
    np.testing.assert_allclose(*lengths, rtol=1e-4)
    assert np.abs(np.asarray(aligned.encode_questions(questions) - aligned.encode_answers(questions))).max() > 0.1


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_the_pairs_leave_open_is_turned_the_same_whatever_basis_a_library_returns(pairs, codec, share, monkeypatch):
    """Of 9 pairs a regression knows 8 directions of 25, the others are all alike: any basis of them is one of an SVD."""
    few = Pairs(*(rows[:9] for rows in pairs[0]))
    monkeypatch.setattr("lattice_jax.alignment.SHARES", (share,))
    plain = align(codec, few, pairs[1], LATTICE)
    svd, generator, turned = np.linalg.svd, np.random.default_rng(3), []

    def other_basis(matrix, **options):
        left, sizes, right = svd(matrix, **options)
        if matrix.shape == (25, 25):
            alike = slice(*np.searchsorted(-sizes, (-share - 1e-9, -share + 1e-9)))
            turns = [np.linalg.qr(generator.normal(size=(len(sizes[alike]),) * 2))[0] for _ in range(2)]
            right[alike] = turns[0] @ right[alike]
            left[:, alike] = left[:, alike] @ (turns[0].T if share else turns[1])
            np.testing.assert_allclose(left * sizes @ right, matrix, atol=1e-9)
            turned.append(len(sizes[alike]))
        return left, sizes, right

    monkeypatch.setattr(np.linalg, "svd", other_basis)
    again = align(codec, few, pairs[1], LATTICE)
    assert turned
    assert turned[0] > 5
    for one, other in zip(plain.turns, again.turns, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    question, answer = (np.asarray(turn) for turn in again.turns)
    joined = question.T @ regression_matrix(codec, few, pairs[1], (share,)) @ answer
    np.testing.assert_allclose(joined, np.diag(np.diag(joined)), atol=1e-5)


def test_aligning_twice_changes_nothing(pairs, codec):
    once = align(codec, *pairs, LATTICE)
    for one, other in zip(once.turns, align(once, *pairs, LATTICE).turns, strict=True):
        np.testing.assert_array_equal(one, other)


def test_places_are_ordered_ring_by_ring_with_the_channels_of_a_cell_together():
    order = from_centre("front", GridConfig(2, 3, 5), 2)
    assert sorted(order.tolist()) == list(range(30))
    assert order[:2].tolist() == [14, 15]
    cells = order[::2] // 2
    away = np.maximum(np.abs(cells // 5 - 1), np.abs(cells % 5 - 2))
    assert (np.diff(away) >= 0).all()
    assert order[1::2].tolist() == (order[::2] + 1).tolist()
    assert sorted(from_centre("left", GridConfig(2, 3, 5), 1).tolist()) == list(range(6))


@pytest.fixture(scope="module")
def run(embeddings, tmp_path_factory):
    """A configuration, its texts with real embeddings, and a folder with the adapter that was trained for them."""
    corpus = load_corpus(CorpusConfig(pairs="hundred", sentences="none"))
    count = len(corpus.pairs)
    questions, answers = (np.resize(rows, (count, 384)) for rows in embeddings)
    material = Material(corpus, questions, answers, questions[:0], 0)
    config = Config(lattice=LATTICE, adapter=AdapterConfig("linear", steps=3, layout="aligned"))
    workdir = tmp_path_factory.mktemp("run")
    return config, material, workdir, adaptation.fit_adapter(config, material, workdir)


def test_a_saved_layout_comes_back_as_it_was(run):
    config, material, workdir, fitted = run
    for again in (adaptation.load_adapter(config, material, workdir), adaptation.fit_adapter(config, material, workdir)):
        for one, other in zip(jax.tree.leaves(fitted), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_damaged_layout_is_refused(run, tmp_path):
    config, material, workdir, _ = run
    copied = tmp_path / "adapter"
    shutil.copytree(workdir / "adapter", copied)
    largest = max((copied / "turns").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(InputError, match="bytes"):
        adaptation.load_adapter(config, material, tmp_path)
    shutil.rmtree(copied / "turns")
    with pytest.raises(InputError, match="no complete checkpoint"):
        adaptation.load_adapter(config, material, tmp_path)
