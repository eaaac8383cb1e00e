"""Answers in turn and recovery, on cubes whose behaviour is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import (
    SMALL,
    assert_close,
    lively_parameters,
    lively_state,
    principal_codec,
    quick_jit,
    real_embeddings,
    with_update,
)

from lattice_jax.config import Config, PoolConfig
from lattice_jax.endurance import answer_in_turn, make_recall, make_respond, recover
from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.lattice import cube
from lattice_jax.lattice.pool import KINDS
from lattice_jax.lattice.step import State
from lattice_jax.stacking import Base

CONFIG = Config(lattice=dataclasses.replace(SMALL, steps=4), pool=PoolConfig(rounds=3, recovery_questions=3))
ASKED = Pairs(*(embeddings[:5] for embeddings in real_embeddings()))


def first_cell(state: State) -> np.ndarray:
    return np.asarray(state.visible[0, 0, 0, :, 0])


def numbered(questions: np.ndarray) -> State:
    """States all of whose cells hold the question's number, from 1."""
    number = jnp.arange(1.0, len(questions) + 1).reshape(1, 1, 1, -1, 1)
    return State(jnp.broadcast_to(number, (3, 4, 5, len(questions), 3)), jnp.zeros((3, 4, 5, len(questions), 3)))


def test_a_cube_that_does_not_mind_how_it_is_found_answers_alike_in_every_round():
    found = []

    def respond(questions, start):
        found.append(first_cell(start).tolist())
        return ASKED.answers, numbered(questions)

    figures = answer_in_turn(CONFIG, respond, ASKED)
    assert found == [[0, 0, 0, 0, 0], [5, 1, 2, 3, 4], [5, 1, 2, 3, 4]], "quiescent, then each as another question left it"
    assert [row["questions_before"] for row in figures["rounds"]] == [0, 1, 2]
    for row in figures["rounds"]:
        assert row["similarity"] == pytest.approx(1, abs=1e-6)
        assert row["agreement"] == pytest.approx(1, abs=1e-6)
        assert row["effective_rank"] == pytest.approx(1, abs=0.05), "the states are multiples of each other"
        assert row["collapsed"]


def test_a_cube_that_answers_the_question_before_last_is_seen():
    def respond(questions, start):
        asked_before = first_cell(start).astype(int) - 1
        answers = ASKED.answers if asked_before.min() < 0 else ASKED.answers[asked_before]
        return answers, numbered(questions)

    rounds = answer_in_turn(CONFIG, respond, ASKED)["rounds"]
    assert rounds[0]["mrr"] == 1
    assert rounds[1]["mrr"] < 0.6
    assert rounds[1]["agreement"] < 0.8


def test_recovery_is_read_after_every_step_against_the_answer_before_the_damage():
    """A cube whose answer is right by as much as its cells hold something, and in which a quarter of what is missing comes back
    at a step."""

    def recall(questions, start):
        held = np.asarray(jnp.mean(start.visible, (0, 1, 2, 4)))
        healthy = not held.any()
        held = np.stack([np.ones_like(held) if healthy else 1 - (1 - held) * 0.75**step for step in range(5)])
        right, wrong = np.eye(2, questions.shape[1])
        answers = held[..., None] * right + (1 - held)[..., None] * wrong
        return answers, State(jnp.ones((3, 4, 5, len(questions), 3)), jnp.ones((3, 4, 5, len(questions), 3)))

    found = recover(CONFIG, recall, ASKED.questions)
    assert found["questions"] == 3
    assert found["steps"] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found["undamaged"], 1.0, atol=1e-6)
    for kind in KINDS:
        assert len(found[kind]) == 5
        assert np.all(np.diff(found[kind]) > 0)
        assert found[kind][0] < 0.9995
        assert 0 < found["cleared_share"][kind] < 0.6


def test_damage_is_the_same_for_every_cube():
    starts = []

    def recall(questions, start):
        starts.append(start)
        full = State(jnp.ones((3, 4, 5, len(questions), 3)), jnp.ones((3, 4, 5, len(questions), 3)))
        return np.resize(ASKED.answers, (5, len(questions), ASKED.answers.shape[1])), full

    recover(CONFIG, recall, ASKED.questions)
    first, starts = starts, []
    recover(CONFIG, recall, ASKED.questions)
    jax.tree.map(np.testing.assert_array_equal, starts, first)


@pytest.mark.parametrize(("evaluation", "injection"), [("expected", "pulse"), ("sampled", "held")])
def test_one_pass_reads_after_every_step_what_a_pass_of_so_many_steps_answers(evaluation, injection):
    """From any state, by the scan and by the compiled engine; the whole pass is that of which answers in turn are made."""
    plain = dataclasses.replace(with_update(CONFIG.lattice, evaluation=evaluation, quiescent=True), injection=injection)
    codec, parameters = principal_codec(np.concatenate(ASKED), 20), lively_parameters(plain)
    start = lively_state(plain, batch=5)
    start = jax.tree.map(lambda field: field.at[:, :, :, 1].set(0), start)  # one of them quiescent

    @quick_jit
    def answered(horizon: jax.Array) -> jax.Array:
        codes, key = codec.encode_questions(jnp.asarray(ASKED.questions)), jax.random.key(3)
        sampled = evaluation == "sampled"
        answer = cube.answer(parameters, codes, key=key, config=plain, sampled=sampled, start=start, horizon=horizon)
        return codec.decode(answer.vectors)

    expected = np.stack([answered(jnp.asarray(steps, jnp.int32)) for steps in range(5)])
    for engine in ("scan", "native"):
        config = dataclasses.replace(CONFIG, lattice=dataclasses.replace(plain, engine=engine), seed=3)
        recalled, left = make_recall(config, codec, Base(), parameters)(ASKED.questions, start)
        assert_close(recalled, expected)
        last, state = make_respond(config, codec, Base(), parameters, None)(ASKED.questions, start)
        assert_close((recalled[-1], left), (last, state))
