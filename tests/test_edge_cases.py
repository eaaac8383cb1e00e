"""The comparison of wordings, on answers whose figures are known."""

import io

import numpy as np
import pytest
from rich.console import Console
from small_cube import real_embeddings

from lattice_jax.config import EvaluationConfig
from lattice_jax.corpus.wordings import WORDINGS
from lattice_jax.edge_cases import ANOTHER_QUESTION, AS_WRITTEN, compare_wordings, render, reworded

SETTINGS = EvaluationConfig(bootstrap_samples=200)
QUESTIONS, ANSWERS = (side[:5].astype(np.float64) for side in real_embeddings())


def compared(said: dict[str, np.ndarray], candidates: np.ndarray = ANSWERS) -> dict:
    heard = {name: QUESTIONS if name == AS_WRITTEN else -QUESTIONS for name in said}
    return compare_wordings(heard, said, {"question": heard}, candidates, SETTINGS, seed=0)


def test_a_perfect_answerer_that_hears_the_wrong_question():
    found = compared({AS_WRITTEN: ANSWERS, "deaf": np.roll(ANSWERS, 1, 0)})
    perfect, deaf = found[AS_WRITTEN], found["deaf"]
    assert perfect["similarity"] == pytest.approx(1)
    assert perfect["agreement"] == pytest.approx(1)
    assert (perfect["mrr"], perfect["recall_at_1"], perfect["change"]) == (1, 1, 0)
    units = ANSWERS / np.linalg.norm(ANSWERS, axis=1, keepdims=True)
    expected = np.mean(np.sum(units * np.roll(units, 1, 0), 1))
    assert deaf["similarity"] == pytest.approx(expected)
    assert deaf["agreement"] == pytest.approx(expected)
    assert deaf["change"] == pytest.approx(expected - 1)
    low, high = deaf["change_interval"]
    assert low < deaf["change"] < high < 0
    assert deaf["recall_at_1"] == 0
    assert deaf["heard"] == pytest.approx(-1)


def test_answers_are_ranked_among_all_held_out_ones_and_not_only_those_of_the_questions_asked():
    others = np.concatenate([ANSWERS, ANSWERS + 1e-3])
    found = compared({AS_WRITTEN: ANSWERS + 1e-3}, others)[AS_WRITTEN]
    assert found["mrr"] == pytest.approx(1 / 2), "the copy beside it is nearer"


def test_baselines_are_scored_in_the_same_wording():
    found = compared({AS_WRITTEN: ANSWERS, "turned_round": ANSWERS})
    as_written, turned = (found[name]["baselines"]["question"] for name in (AS_WRITTEN, "turned_round"))
    assert as_written["similarity"] == pytest.approx(-turned["similarity"])
    assert as_written["mrr"] > turned["mrr"]


def test_wordings_are_the_same_in_every_run_of_a_corpus():
    texts = ["What is overfitting, and why?", "How do I install scikit-learn?"]
    first, again, other = (reworded(texts, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first.keys() == WORDINGS.keys()
    assert all(len(wording) == 2 for wording in first.values())


def test_the_table_names_every_wording():
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(
        render({"questions": 5, "wordings": compared({AS_WRITTEN: ANSWERS, ANOTHER_QUESTION: np.roll(ANSWERS, 1, 0)})})
    )
    text = console.export_text()
    assert "5 questions asked" in text
    assert "as written" in text
    assert "another question" in text
