"""The study of the historical claim: its arithmetic, and one small run of each kind of arm."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.historical import page, plots  # noqa: E402
from benchmarks.historical.arms import Arm, Settings, make_trainer, train_arm  # noqa: E402
from benchmarks.historical.levels import (  # noqa: E402
    best_constant,
    constant_level,
    pairwise_similarity,
    similarity_of_constant,
    similarity_to_others,
    stack_levels,
)
from benchmarks.historical.spaces import historical_space, random_layers, teacher_space  # noqa: E402
from lattice_jax.config import CellConfig, GridConfig, LatticeConfig  # noqa: E402
from lattice_jax.evaluation.baselines import Pairs  # noqa: E402
from lattice_jax.evaluation.similarity import cosine_similarity, unit_rows  # noqa: E402

TEACHER, CODE, PAIRS = 48, 20, 6
TINY = Settings(
    lattice=LatticeConfig(
        grid=GridConfig(depth=3, height=4, width=5),
        cell=CellConfig(visible=4, memory=4, hidden=5, perception="moore"),
        steps=5,
        minimum_arrival=0.0,
        devices=1,
    ),
    steps=3,
    look_every=2,
)


def alike(seed: int, common: float, count: int = PAIRS) -> np.ndarray:
    """Unit rows that share a direction, the more of it the larger `common`."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, TEACHER)) + common * generator.normal(size=TEACHER)
    return unit_rows(rows, "the rows").astype(np.float32)


def some_pairs(seed: int, count: int = PAIRS) -> Pairs:
    return Pairs(alike(seed, 0.5, count), alike(seed + 100, 0.5, count))


@pytest.mark.parametrize("count", [2, 10, 40])
@pytest.mark.parametrize("common", [0.0, 0.7, 5.0])
def test_the_closed_form_is_what_the_best_constant_scores(count, common):
    targets = alike(3, common, count) * 7
    measured = similarity_of_constant(best_constant(targets), targets)
    assert constant_level(pairwise_similarity(targets), count) == pytest.approx(measured, abs=1e-12)


def test_the_level_at_its_ends():
    assert constant_level(0.0, 25) == pytest.approx(0.2)
    assert constant_level(1.0, 25) == 1
    assert constant_level(-1 / 24, 25) == pytest.approx(0, abs=1e-7)


def test_no_direction_beats_the_best_constant():
    targets = alike(5, 0.7)
    best = similarity_of_constant(best_constant(targets), targets)
    steps = np.random.default_rng(0).normal(size=(200, TEACHER))
    assert all(similarity_of_constant(best_constant(targets) + step, targets) < best for step in steps)


def test_similarity_to_others_leaves_the_own_answer_out():
    targets = np.eye(4)
    assert similarity_to_others(targets, targets) == 0
    predicted = np.roll(targets, 1, axis=0)
    every = [cosine_similarity(predicted, np.roll(targets, shift, axis=0)).mean() for shift in (1, 2, 3)]
    assert similarity_to_others(predicted, targets) == pytest.approx(np.mean(every))


@pytest.mark.parametrize("layers", [1, 2])
def test_random_layers_make_answers_more_alike(layers):
    answers = alike(2, 0.3)
    found = stack_levels(random_layers(TEACHER, CODE, layers), answers, range(3))
    assert min(found["pairwise"]) > pairwise_similarity(answers) + 0.2
    np.testing.assert_allclose(constant_level(np.array(found["pairwise"]), PAIRS), found["constant"], atol=1e-12)


def test_the_teachers_space_keeps_what_its_components_hold():
    text = alike(1, 0.5, 15)
    space = teacher_space(text, CODE)
    codes = space.encode({}, jnp.asarray(text))
    assert float(jnp.mean(jnp.square(codes))) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(space.decode({}, codes), text, atol=1e-5)


@pytest.mark.parametrize(("target", "learns"), [("shared", False), ("own", True)])
def test_a_historical_arm_learns_and_its_targets_move_only_where_they_learn(target, learns):
    arm = Arm("arm", historical_space(TEACHER, CODE, target=target, learns=learns), shuffled=True)
    run = train_arm(arm, make_trainer(arm, TINY), some_pairs(0), some_pairs(1, 5), TINY, seed=0)
    assert [row["step"] for row in run.curve] == [0, 2, 3]
    assert all(np.isfinite(value) for value in run.final.values())
    assert run.final["similarity"] > run.curve[0]["similarity"]
    assert (run.curve[-1]["pairwise"] != run.curve[0]["pairwise"]) == learns
    assert "similarity_to_right_answers" in run.final


def test_the_honest_arm_is_measured_in_the_teachers_space():
    train, held_out = some_pairs(0), some_pairs(1, 5)
    arm = Arm("teacher", teacher_space(np.concatenate(train), CODE))
    run = train_arm(arm, make_trainer(arm, TINY), train, held_out, TINY, seed=0)
    assert run.final["similarity"] == run.final["teacher_similarity"]
    assert run.final["constant"] == pytest.approx(similarity_of_constant(best_constant(train.answers), train.answers))
    assert run.final["held_out_constant"] == pytest.approx(
        similarity_of_constant(best_constant(train.answers), held_out.answers)
    )
    assert run.final["held_out_question"] == pytest.approx(cosine_similarity(held_out.questions, held_out.answers).mean())
    assert "similarity_to_right_answers" not in run.final


def test_a_layer_of_its_own_is_another_than_that_of_the_questions():
    values = jnp.asarray(alike(0, 0.5))
    shared = historical_space(TEACHER, CODE, target="shared", learns=False)
    own = historical_space(TEACHER, CODE, target="own", learns=False)
    same = []
    for space in (shared, own):
        parameters = space.initialise(jax.random.key(0))
        same.append(np.array_equal(space.encode(parameters, values), space.target(parameters, values)))
    assert same == [True, False]


def test_the_page_and_its_plots_come_from_the_figures_alone(tmp_path):
    results = ROOT / "benchmarks" / "results"
    report, *runs = (json.loads((results / f"{name}.json").read_text()) for name in ("historical_claim", "phase3", "ten_pairs"))
    runs[0]["held_out"]["similarity"] = 0.12345
    text = page.markdown(report, dict(zip(("phase3", "ten_pairs"), runs, strict=True)))
    assert text.count("0.123 [") == 2
    assert report["command"] in text
    pictures = plots.draw(report, tmp_path)
    assert all(f"results/{picture.name}" in text and picture.stat().st_size > 10_000 for picture in pictures)
