"""What a run observes: the questions it asks, the topics it finds, the looks at which it measures."""

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lattice_jax.config import EmergenceConfig, OptimizerConfig, TrainingConfig
from lattice_jax.corpus.splits import Split
from lattice_jax.experiment import look_steps
from lattice_jax.inquiry import choose_questions, find_topics, questions_to_follow, spread
from lattice_jax.lattice.emergence import metrics
from lattice_jax.lattice.emergence.observe import Observation
from lattice_jax.lattice.emergence.specialisation import Groups
from lattice_jax.observation import arrays, layer_profiles, reads, render, untrained_arrays, write_arrays
from lattice_jax.training.checkpoint import Best
from lattice_jax.training.loop import fit, initial_state
from lattice_jax.training.schedule import make_optimizer

LOOKING = TrainingConfig(steps=25, batch_size=2, evaluate_every=10, patience=0)


def looks_of_the_loop(start: int, best: Best) -> list[int]:
    """The steps at which the training loop asks for validation figures, starting at `start`."""
    seen = []

    class Rows:
        def record(self, step, metrics):
            if "validation_similarity" in metrics:
                seen.append(step)

    def objective(params, batch, *, key):
        del key
        return jnp.mean(jnp.square(params - batch["wanted"])), {}

    optimizer = make_optimizer(OptimizerConfig(), 1)
    state = initial_state(jnp.zeros((1, 1)), optimizer)
    fit(
        state._replace(step=jnp.int32(start)),
        objective=objective,
        optimizer=optimizer,
        data={"wanted": np.ones((4, 1), np.float32)},
        config=LOOKING,
        key=jax.random.key(0),
        validate=lambda _: {"validation_similarity": float(len(seen))},
        selection="validation_similarity",
        best=best,
        monitor=Rows(),  # pyright: ignore[reportArgumentType]
    )
    return seen


def test_the_steps_of_looks_are_those_of_the_loop():
    fresh = looks_of_the_loop(0, Best())
    assert fresh == list(look_steps(LOOKING, 0, fresh=True)) == [0, 10, 20, 25]
    resumed = looks_of_the_loop(13, Best(step=10, value=-1.0))
    assert resumed == list(look_steps(LOOKING, 13, fresh=False)) == [20, 25]
    assert list(look_steps(LOOKING, 10, fresh=False)) == [20, 25]
    assert list(look_steps(LOOKING, 25, fresh=False)) == []


def test_rows_are_spread_over_the_whole_corpus():
    assert spread(tuple(range(100, 110)), 4) == (100, 103, 106, 109)
    assert spread((5, 7), 9) == (5, 7)


def test_probes_are_fitted_on_training_questions_and_judged_on_held_out_ones():
    split = Split(train=tuple(range(0, 500, 2)), validation=(1, 3, 5), held_out=tuple(range(7, 307, 2)))
    asked = choose_questions(split, EmergenceConfig(questions=8, probe_questions=90))
    assert set(asked.shown) <= set(split.held_out)
    assert set(asked.judge) <= set(split.held_out)
    assert set(asked.fit) <= set(split.train)
    assert (len(asked.shown), len(asked.fit), len(asked.judge)) == (8, 60, 30)
    assert asked.probed == [*asked.fit, *asked.judge]
    few = choose_questions(Split((0, 1, 2), (3, 4), (5, 6)), EmergenceConfig())
    assert few == ((5, 6), (0, 1, 2), (5, 6))


def test_what_is_followed_while_the_cube_learns_is_judged_on_validation_questions():
    split = Split(train=tuple(range(0, 500, 2)), validation=tuple(range(1, 81, 2)), held_out=(301, 303))
    asked = questions_to_follow(split, EmergenceConfig(questions=8, followed_questions=30))
    assert set(asked.shown) | set(asked.judge) <= set(split.validation)
    assert set(asked.fit) <= set(split.train)
    assert (len(asked.shown), len(asked.fit), len(asked.judge)) == (8, 20, 10)


def test_topics_are_the_groups_and_their_most_central_questions():
    drawn = np.random.default_rng(0)
    middles = 10 * drawn.normal(size=(3, 8))
    # The first of every group lies exactly in its middle.
    embeddings = np.repeat(middles, 5, axis=0) + np.tile(np.array([0.0, 1, -1, 2, -2]), 3)[:, None] * drawn.normal(size=8)
    texts = [f"question {number}" for number in range(15)]
    topics = find_topics(embeddings, texts, 3, seed=0)
    assert sorted(topics.names) == ["question 0", "question 10", "question 5"]
    for first in (0, 5, 10):
        assert set(topics.labels[first : first + 5]) == {topics.labels[first]}
        assert topics.names[topics.labels[first]] == texts[first]
    assert len(find_topics(embeddings[:6], texts[:6], 5, seed=0).names) == 3


def test_arrays_are_read_back_as_they_were_written(tmp_path):
    write_arrays({"activity": np.ones((2, 3), np.float16), "questions": np.array(["why?", "wherefore?"])}, tmp_path)
    stored = np.load(tmp_path / "emergence.npz")
    assert stored["questions"][1] == "wherefore?"
    assert stored["activity"].dtype == np.float16
    assert [entry.name for entry in tmp_path.iterdir()] == ["emergence.npz"]


def test_the_table_shows_value_null_and_z():
    row = {"value": 0.5, "null": 0.25, "z": 3.25, "untrained": 0.125, "null_model": "shuffled cells"}
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render({"morans_i": row, "settling_time": row | {"z": None}}))
    lines = capture.get().splitlines()
    assert lines[2].split() == ["Moran's", "I", "0.500", "0.250", "+3.2", "0.125", "shuffled", "cells"]
    assert lines[3].split() == ["settling", "time", "0.500", "0.250", "0.125", "shuffled", "cells"]


def test_the_table_shows_how_far_a_limit_still_moves():
    row = {"value": -0.2, "null": -0.25, "z": 3.25, "untrained": -0.25, "null_model": "untrained cube", "drift": -0.0123}
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render({"lyapunov_exponent": row}))
    assert capture.get().splitlines()[2].endswith("untrained cube; drift -0.012")


SHAPE, TIMES, QUESTIONS, PROBED = (3, 4, 6), 5, 2, 12


def observation_by_hand(**changed) -> Observation:
    drawn = np.random.default_rng(0)
    labels = np.arange(PROBED) % 3
    fields = {
        "trajectory": drawn.normal(size=(TIMES, *SHAPE, QUESTIONS, 2)),
        "responses": drawn.normal(size=(*SHAPE, PROBED, 2)),
        "labels": labels,
        "topic": drawn.integers(3, size=SHAPE),
        "question_read": drawn.random((TIMES, 3)),
        "answer_read": drawn.random((TIMES, 3)),
        "question_at_output": drawn.random(TIMES),
        "answer_at_output": drawn.random(TIMES),
        "layer_similarity": np.eye(3),
        "growth": np.ones((TIMES, QUESTIONS)),
        "transient": np.full((7, QUESTIONS), -1.0),
        "separation": np.full((4, QUESTIONS), -0.5),
        "influence_gradient": np.ones(SHAPE),
        "influence_ablation": None,
        "response_groups": Groups(drawn.integers(4, size=SHAPE), drawn.random(SHAPE)),
        "weight_groups": Groups(drawn.integers(4, size=SHAPE), drawn.random(SHAPE)),
    }
    return Observation(**{**fields, **changed})


WHERE = metrics.Setting(periodic=False, block=2, seed=0)


def test_arrays_hold_groups_of_cells_and_means_of_layers_beside_their_null_models():
    responses = np.random.default_rng(1).normal(size=(*SHAPE, PROBED, 2))
    responses[1] = 10.0 * (np.arange(PROBED) % 3)[:, None]
    observed = observation_by_hand(responses=responses)
    found = arrays(observed, WHERE, shuffles=20)
    for name, groups in (("response", observed.response_groups), ("weight", observed.weight_groups)):
        np.testing.assert_array_equal(found[f"{name}_group"], groups.labels)
        assert found[f"{name}_group"].dtype == np.int32
    np.testing.assert_allclose(found["layer_silhouette"], found["response_silhouette"].mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found["layer_selectivity"], found["selectivity"].mean((1, 2)), rtol=1e-6)
    z = (found["layer_selectivity"] - found["layer_selectivity_null_mean"]) / found["layer_selectivity_null_deviation"]
    assert z.shape == (3,)
    assert z[1] > 3
    assert max(abs(z[0]), abs(z[2])) < 4
    assert "influence_ablation" not in found
    shared = arrays(observation_by_hand(weight_groups=None), WHERE, shuffles=2)
    assert found.keys() - shared.keys() == {"weight_group"}


def test_arrays_hold_the_correlogram_beside_shuffled_cells_and_the_rates_behind_the_exponent():
    found = arrays(observation_by_hand(), WHERE, shuffles=20)
    assert found["directions"].shape == (13, 3)
    for name in ("coherence", "coherence_null_mean", "coherence_null_deviation"):
        assert found[name].shape == (13, 5)
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(found["coherence"]))
    z = (found["coherence"] - found["coherence_null_mean"]) / found["coherence_null_deviation"]
    assert np.nanmean(np.abs(z)) < 2, "random cells lie within the band"
    np.testing.assert_array_equal(found["separation"], np.repeat([-1.0, -0.5], [7, 4]))
    assert found["separation_transient"] == 7


def test_untrained_cubes_give_means_of_what_is_read_and_bands_of_layers():
    def cube(value: float) -> dict[str, np.ndarray]:
        observed = observation_by_hand(
            question_read=np.full((TIMES, 3), value), response_groups=Groups(np.zeros(SHAPE, int), np.full(SHAPE, value))
        )
        return reads(observed) | layer_profiles(observed)

    found = untrained_arrays([cube(0.25), cube(0.75)])
    np.testing.assert_allclose(found["question_read_null"], 0.5)
    assert found["answer_read_output_null"].shape == (TIMES,)
    np.testing.assert_allclose(found["layer_silhouette_untrained_mean"], 0.5)
    np.testing.assert_allclose(found["layer_silhouette_untrained_deviation"], np.sqrt(0.125), rtol=1e-6)
    assert {"layer_selectivity_untrained_mean", "layer_selectivity_untrained_deviation"} <= found.keys()
