"""The experiments on what limits the cube: windows and the regression within them, networks in its place, and divisions."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import principal_codec

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.limit.corpus import Corpus  # noqa: E402
from benchmarks.limit.experiments import (  # noqa: E402
    RATES,
    Cube,
    Several,
    Shares,
    after_learning,
    beside,
    optimisation,
    place,
)
from benchmarks.limit.learners import (  # noqa: E402
    answer_code,
    hidden_width,
    start_networks,
    train_cube,
    train_mapped_cube,
    train_networks,
)
from benchmarks.limit.linear import window, windowed_ridge, with_borrowed  # noqa: E402
from lattice_jax.config import (  # noqa: E402
    AnswerConfig,
    CellConfig,
    Config,
    GridConfig,
    LatticeConfig,
    LossConfig,
    TrainingConfig,
    UpdateConfig,
)
from lattice_jax.config.overrides import with_settings  # noqa: E402
from lattice_jax.evaluation.baselines import SHARES, Pairs, fit_ridge, kernel_ridge, ridge, width_for  # noqa: E402
from lattice_jax.evaluation.similarity import MEASURES, cosine_similarity, score_pairs, unit_rows  # noqa: E402
from lattice_jax.lattice import cube  # noqa: E402
from lattice_jax.lattice.adapter import Codec  # noqa: E402
from lattice_jax.stacking import fit_base  # noqa: E402


@pytest.fixture(scope="module")
def pairs() -> tuple[Pairs, Pairs]:
    with np.load(Path(__file__).parent / "data" / "question_answer_embeddings.npz") as file:
        rows = [unit_rows(file[name].astype(np.float32), name) for name in ("questions", "answers")]
    return Pairs(*(values[:50] for values in rows)), Pairs(*(values[50:62] for values in rows))


def sixteen_numbers(train: Pairs) -> Codec:
    """A codec for faces of 4 x 4 cells."""
    return principal_codec(np.concatenate(train), 16)


SMALL = Config(
    lattice=LatticeConfig(
        grid=GridConfig(depth=2, height=4, width=4),
        cell=CellConfig(visible=4, memory=4, hidden=4, perception_noise=0.0, candidate_scale=0.0),
        steps=5,
        update=UpdateConfig(rate=1.0),
    ),
    answer=AnswerConfig(around="question"),
    loss=LossConfig(surface_reconstruction=0.0, internal_consistency=0.0),
    training=TrainingConfig(steps=40, batch_size=16, evaluate_every=20, patience=0),
)


def test_a_window_holds_the_cells_within_its_radius():
    sees = window(4, 1)
    assert sees.sum(1).tolist() == [4, 6, 6, 4, 6, 9, 9, 6, 6, 9, 9, 6, 4, 6, 6, 4]
    assert window(4, 0).sum() == 16
    assert window(4, 3).all()


def test_a_window_as_large_as_the_face_is_the_regression_of_the_whole_code(pairs):
    train, validation = pairs
    codec = sixteen_numbers(train)
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


@pytest.mark.parametrize("count", [1, 4, 16])
def test_networks_begin_with_the_question_and_each_adds_to_its_own_numbers(count):
    hidden = hidden_width(20_000, count, 16)
    made, codes = start_networks(count, hidden, 16, key=jax.random.key(0)), jax.random.normal(jax.random.key(1), (3, 16))
    assert sum(array.size for array in jax.tree.leaves(made)) == pytest.approx(20_000, rel=0.05)
    np.testing.assert_array_equal(answer_code(made, codes), codes)
    for network in range(count):
        told = made._replace(kernels=(*made.kernels[:2], made.kernels[2].at[network].set(1.0)))
        changed = np.flatnonzero(np.any(answer_code(told, codes) != codes, axis=0))
        assert changed.tolist() == [number for number in range(16) if number // (16 // count) == network]


def test_one_network_is_the_mlp_of_equal_size():
    for parameters in (1_000, 50_000, 2_000_000):
        assert hidden_width(parameters, 1, 225) == width_for(parameters, 225, 225)


def test_networks_begin_at_the_base_and_learn(pairs):
    train, validation = pairs
    fast = with_settings(SMALL, {"optimizer.learning_rate": 3e-3})
    trained = train_networks(fast, sixteen_numbers(train), train, validation, networks=4, parameters=20_000)
    assert trained.looks[0]["validation"] == pytest.approx(cosine_similarity(*validation).mean(), abs=1e-5)
    assert trained.looks[-1]["train"] > trained.looks[0]["train"] + 0.02
    best = cosine_similarity(trained.predict(validation.questions), validation.answers).mean()
    assert best == pytest.approx(trained.looks[trained.best]["validation"], abs=1e-6)


def test_maps_at_the_faces_begin_as_the_plain_cube_and_learn_more_of_the_pairs(pairs):
    codec = sixteen_numbers(pairs[0])
    mapped, plain = (learn(SMALL, codec, *pairs).looks for learn in (train_mapped_cube, train_cube))
    assert mapped[0]["validation"] == pytest.approx(plain[0]["validation"], abs=1e-5)
    assert mapped[-1]["train"] > plain[-1]["train"] > plain[0]["train"]


@pytest.fixture(scope="module")
def corpus(pairs) -> Corpus:
    train, validation = pairs
    material = SimpleNamespace(pairs={"train": train, "validation": validation}.__getitem__)
    return Corpus("any", SMALL, material, sixteen_numbers(train))  # pyright: ignore[reportArgumentType]


def test_what_stands_in_the_cubes_place_is_held_against_the_cube_with_the_best_rate_of_each(corpus):
    divisions = corpus.divided(2, 10, 20)
    several = {"one network": Several(1), "four networks": Several(4), "four larger ones": Several(4, size=3)}
    rows = list(place(corpus, {"training.question_noise": 0.1}, divisions, {"cube": Cube()}, several))
    assert [row["in the cube's place"] for row in rows] == ["cube", *several]
    assert rows[0]["ahead"] == rows[0]["standard error"] == 0
    for row in rows[1:]:
        assert row["ahead"] == pytest.approx(float(row["similarity"]) - float(rows[0]["similarity"]), abs=1e-6)
        assert float(row["standard error"]) > 0
    baselines = list(beside(corpus, divisions))
    assert [row["in the cube's place"] for row in baselines] == [
        f"baseline: {name}" for name in ("question", "shared ridge", "kernel ridge", "mlp", "mlp equal")
    ]
    asked = [cosine_similarity(*sides.judged_on).mean() for sides in divisions]
    assert baselines[0]["similarity"] == pytest.approx(np.mean(asked), abs=1e-6)
    noisy = with_settings(SMALL, {"training.question_noise": 0.1})
    expected = []
    for sides in divisions:
        tried = [
            train_networks(
                with_settings(noisy, {"optimizer.learning_rate": rate}),
                corpus.codec,
                sides.train,
                sides.chosen_on,
                networks=4,
                parameters=cube.parameter_counts(SMALL.lattice)["total"],
            )
            for rate in RATES
        ]
        best = max(tried, key=lambda one: max(look["validation"] for look in one.looks))
        expected.append(cosine_similarity(best.predict(sides.judged_on.questions), sides.judged_on.answers).mean())
    assert rows[2]["similarity"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_shares_are_added_to_the_answers_of_cube_and_mlp_as_a_run_adds_them(corpus):
    shares, by_kernel = (
        Shares(added_question=0.5, added_regression=1.5, removed_mean=0.2),
        {"answer.regression": "kernel_ridge"},
    )
    corpus = corpus._replace(config=with_settings(corpus.config, by_kernel))
    divisions = corpus.divided(2, 10, 20)
    rows = {
        (row["answer"], row.get("added_question", 0.0)): row for row in after_learning(corpus, divisions, [Shares(), shares])
    }
    plain = [(name, 0.0) for name in ("question", "shared ridge", "kernel ridge", "mlp", "cube", "mlp equal")]
    assert sorted(rows) == sorted([*plain, ("cube", 0.5), ("mlp equal", 0.5)])
    assert {name: rows["cube", 0.5][name] for name in Shares._fields} == shares._asdict()
    added = {f"answer.{name}": share for name, share in shares._asdict().items()}
    settings = with_settings(SMALL, added | by_kernel).answer

    def of_the_cube(sides, asked):
        return train_cube(SMALL, corpus.codec, *sides[:2]).predict(asked)

    for row, answer in (
        (rows["question", 0.0], lambda sides, asked: asked),
        (rows["shared ridge", 0.0], lambda sides, asked: ridge(*sides[:2], "any", shares=SHARES).predict(asked)),
        (rows["kernel ridge", 0.0], lambda sides, asked: kernel_ridge(*sides[:2]).predict(asked)),
        (rows["cube", 0.0], of_the_cube),
        (
            rows["cube", 0.5],
            lambda sides, asked: of_the_cube(sides, asked) + fit_base(*sides[:2], settings, seed=0).afterwards(asked),
        ),
    ):
        expected = []
        for sides in divisions:
            judged_on = Pairs(*map(np.concatenate, zip(*sides[1:], strict=True)))
            scores = score_pairs(answer(sides, judged_on.questions), judged_on.answers).mean(axis=0)
            expected.append([scores[MEASURES.index(measure)] for measure in ("similarity", "mrr")])
        np.testing.assert_allclose([row[measure] for measure in ("similarity", "mrr")], np.mean(expected, axis=0), atol=1e-6)
    assert rows["mlp equal", 0.5]["similarity"] != rows["mlp equal", 0.0]["similarity"]


def test_a_map_that_the_cube_can_be_is_the_regressions_as_the_code_holds_it(corpus):
    noisy = {"answer.around": "question", "training.question_noise": 0.5, "optimizer.learning_rate": 3e-3}
    corpus = corpus._replace(config=with_settings(SMALL, noisy))
    rows = {row["learner"]: row for row in optimisation(corpus)}
    assert list(rows) == ["cube, principal faces", "cube, aligned faces", "mlp", "mlp equal"]
    plain = with_settings(SMALL, {"answer.around": "nothing", "optimizer.learning_rate": 3e-3})
    expected = []
    for sides in corpus.sides():
        regression = ridge(*sides[:2], "any", shares=(0.0,))
        told = [corpus.codec.reproduce(regression.predict(pairs.questions)) for pairs in sides]
        taught = [Pairs(pairs.questions, unit_rows(answers, "any")) for pairs, answers in zip(sides, told, strict=True)]
        cube_taught = train_cube(plain, corpus.codec, *taught[:2])
        for pairs in (taught[2], taught[0]):
            start = cosine_similarity(*pairs).mean()
            reached = cosine_similarity(cube_taught.predict(pairs.questions), pairs.answers).mean()
            expected += [reached, (reached - start) / (1 - start)]
    names = ("similarity", "gap closed", "training", "gap closed, training")
    found = [rows["cube, principal faces"][name] for name in names]
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 4)).mean(0), atol=1e-5)
    assert all(float(row["gap closed, training"]) > 0 for row in rows.values())


def test_divisions_are_of_known_pairs_and_apart():
    rows = {"train": np.arange(1, 81), "validation": np.arange(81, 93)}
    circle = {side: np.stack([np.cos(at / 50), np.sin(at / 50)], 1).astype(np.float32) for side, at in rows.items()}
    material = SimpleNamespace(pairs=lambda side: Pairs(circle[side], circle[side]))
    for sides in Corpus("any", None, material, None).sides():  # pyright: ignore[reportArgumentType]
        angles = [np.round(50 * np.arctan2(side.questions[:, 1], side.questions[:, 0])) % 314 for side in sides]
        assert [len(side) for side in angles] == [56, 12, 24]
        assert len(np.unique(np.concatenate(angles))) == 92
