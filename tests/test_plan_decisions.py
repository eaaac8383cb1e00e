"""What a plan decides after a stage, what follows from decisions, and one that is carried out although a stage diverges."""

import json
from pathlib import Path

import pytest
from plan_parts import SHORT, stage
from program import ROOT, SMOKE, run_here

from lattice_jax import plan as plans
from lattice_jax.config.plan import Criterion, GoBack, GoOn, Plan
from lattice_jax.errors import InputError


def attempt(name: str, action: str, *, met: int = 1, similarity: float = 0.5, folder: str = "", **decision) -> dict:
    return {
        "stage": name,
        "folder": folder or name,
        "decision": {"action": action, **decision},
        "criteria": [{"met": place < met} for place in range(2)],
        "figures": {"validation.similarity": similarity},
    }


def test_what_comes_next_follows_from_plan_and_record():
    plan = Plan("smoke.py", (stage("a"), stage("b"), stage("c")))
    done = [attempt("a", "go on"), attempt("b", "go on"), attempt("c", "go back", stage="b", settings={"seed": 1})]
    assert plans.next_attempt(plan, []) == plans.Next(plan.stages[0], 1, {})
    assert plans.next_attempt(plan, done) == plans.Next(plan.stages[1], 2, {"seed": 1})
    # The change of b holds in c too, and a second one is added to it.
    assert plans.next_attempt(plan, [*done, attempt("b", "go on")]) == plans.Next(plan.stages[2], 2, {"seed": 1})
    again = [*done, attempt("b", "go back", stage="a", settings={"training.steps": 2})]
    assert plans.next_attempt(plan, again) == plans.Next(plan.stages[0], 2, {"training.steps": 2})
    assert plans.next_attempt(plan, [*again, attempt("a", "go on")]).changes == {"seed": 1, "training.steps": 2}
    assert plans.next_attempt(plan, [attempt("a", "stop")]) is None
    assert plans.next_attempt(plan, [attempt(name, "go on") for name in "abc"]) is None


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ({"met": 1, "similarity": 0.6}, {"met": 1, "similarity": 0.4}, "b"),
        ({"met": 1, "similarity": 0.4}, {"met": 1, "similarity": 0.6}, "b-2"),
        ({"met": 2, "similarity": 0.4}, {"met": 1, "similarity": 0.6}, "b"),
        ({"met": 1, "similarity": 0.6}, {"met": 2, "similarity": 0.4}, "b-2"),
    ],
)
def test_of_several_attempts_the_best_is_taken_forward_with_what_it_was_made_with(first, second, taken):
    plan = Plan("smoke.py", (stage("a"), stage("b"), stage("c")))
    done = [attempt("a", "go on"), attempt("b", "go back", stage="b", settings={"seed": 1}, **first)]
    done.append(attempt("b", "go on", folder="b-2", **second))
    assert plans.standing(plan, done).taken["b"]["folder"] == taken
    assert plans.next_attempt(plan, done).changes == ({"seed": 1} if taken == "b-2" else {})


def test_going_back_to_an_earlier_stage_makes_it_anew_and_an_attempt_keeps_what_it_was_built_on():
    """b missed twice, and sent back to a: the second a is worse, but b's second attempt must be built on it."""
    plan = Plan("smoke.py", (stage("a"), stage("b"), stage("c")))
    done = [
        attempt("a", "go on", similarity=0.9),
        attempt("b", "go back", similarity=0.6, stage="a", settings={"seed": 1}),
        attempt("a", "go on", similarity=0.1, folder="a-2"),
    ]
    assert plans.standing(plan, done).taken["a"]["folder"] == "a-2"
    for similarity, ending in ((0.7, "-2"), (0.5, "")):
        ended = plans.standing(plan, [*done, attempt("b", "go on", similarity=similarity, folder="b-2")])
        assert {name: one["folder"] for name, one in ended.taken.items()} == {"a": f"a{ending}", "b": f"b{ending}"}


def test_decisions_are_taken_in_turn_and_the_last_is_to_stop():
    missed = [{"criterion": "x > 1", "met": False}]
    answers = stage("a", if_missed=(GoBack("a", {"seed": 1}, "luck"), GoOn("enough")))
    assert plans.decide(answers, [{"criterion": "x", "met": True}], 1)["action"] == "go on"
    assert plans.decide(answers, missed, 0)["settings"] == {"seed": 1}
    assert "enough" in plans.decide(answers, missed, 1)["reason"]
    assert plans.decide(answers, missed, 2) == {"action": "stop", "reason": "missed: x > 1"}


@pytest.mark.parametrize(("comparison", "met"), [(">", False), (">=", True), ("<", False), ("<=", True)])
def test_a_criterion_compares_with_a_number_or_another_figure(comparison, met):
    figures = {"a": 0.5, "b": 0.75}
    assert plans.weigh(Criterion("a", comparison, 0.5, "why"), figures)["met"] is met
    weighed = plans.weigh(Criterion("a", comparison, "b", "why", margin=-0.25), figures)
    assert (weighed["met"], weighed["threshold"]) == (met, 0.5)
    with pytest.raises(InputError, match="speaks of c"):
        plans.weigh(Criterion("c", ">", 0.5, "why"), figures)


def test_an_attempt_that_diverged_is_missed_by_its_name():
    answers = stage("a", if_missed=(GoOn("enough"),))
    assert plans.decide(answers, [], 0, diverged="loss is nan at step 3")["action"] == "go on"
    stopped = plans.decide(answers, [], 1, diverged="loss is nan at step 3")
    assert stopped == {"action": "stop", "reason": "diverged: loss is nan at step 3"}


PLAN = f"""
from lattice_jax.config.plan import Criterion, GoBack, GoOn, Plan, Stage

SHORT = {SHORT!r}
EASY = Criterion("validation.similarity", ">", -1.0, "always so")
WILD = {{**SHORT, "optimizer.learning_rate": 1e30, "training.evaluate_every": 1}}
PLAN = Plan("smoke.py", (Stage("a", "first", (EASY,), settings=WILD, if_missed=(ANSWER,)), NEXT))
"""


def carried_out(folder: Path, patch: pytest.MonkeyPatch, answer: str, after: str) -> tuple[dict, str]:
    """The record and the page of a plan whose first stage diverges."""
    (folder / "plan.py").write_text(PLAN.replace("ANSWER", answer).replace("NEXT", after))
    (folder / "smoke.py").write_text(Path(SMOKE).read_text())
    patch.chdir(ROOT)
    assert run_here(patch, "train", "--plan", folder / "plan.py", "--workdir", folder / "run") == 0
    return json.loads((folder / "run" / "plan.json").read_text()), (folder / "run" / "plan.md").read_text()


def test_a_stage_that_diverges_is_decided_on_by_what_it_says_of_a_miss(tmp_path, monkeypatch):
    back = 'GoBack("a", {"optimizer.learning_rate": 1e-3}, "calmer")'
    record, page = carried_out(tmp_path, monkeypatch, back, "")
    wild, calm = record["attempts"]
    assert [one["decision"]["action"] for one in (wild, calm)] == ["go back", "go on"]
    assert (wild["met"], wild["figures"], wild["criteria"]) == (False, {}, [])
    assert "is nan at step" in wild["diverged"]
    assert f"**Diverged: {wild['diverged']}.**" in page
    assert "diverged: " in wild["decision"]["reason"]
    assert "calmer" in wild["decision"]["reason"]
    assert calm["decision"]["taken"] == "a-2"
    assert record["outcome"] == "every stage reached what was asked of it"
    assert "running" not in record
    assert "is nan at step" in (tmp_path / "run" / "a" / "report.html").read_text()


@pytest.mark.parametrize(("start", "action"), [("a", "stop"), ("", "go on")])
def test_nothing_is_built_on_a_stage_that_diverged(tmp_path, monkeypatch, start, action):
    after = f'Stage("b", "second", (EASY,), settings=SHORT, start={start!r})'
    record, page = carried_out(tmp_path, monkeypatch, 'GoOn("a trial")', after)
    assert record["attempts"][0]["decision"]["action"] == action
    assert len(record["attempts"]) == (1 if action == "stop" else 2)
    if action == "stop":
        assert record["outcome"].startswith("stopped after a: diverged: ")
        assert "later stages build on" in page
    else:
        assert record["outcome"] == "ended; some criteria were missed"
