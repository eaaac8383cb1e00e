"""The training plan: what it refuses, what follows from what, and a whole one on a small cube."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from program import ROOT, SMOKE, run_here

from lattice_jax import plan as plans
from lattice_jax.commandline import load_config, load_plan
from lattice_jax.config.overrides import setting_kinds, with_settings
from lattice_jax.config.plan import Criterion, GoBack, GoOn, Plan, Stage
from lattice_jax.errors import InputError

SHORT = {"training.steps": 4, "training.evaluate_every": 2, "training.checkpoint_every": 2, "adapter.steps": 4}
FALLS = Criterion("last.loss", "<", "first.loss", "it learns")


def stage(name: str, *criteria: Criterion, **fields) -> Stage:
    return Stage(name, "for the test", criteria or (FALLS,), **fields)


def attempt(name: str, action: str, **decision) -> dict:
    return {"stage": name, "decision": {"action": action, **decision}}


def test_overrides_change_several_settings_together_and_leave_the_rest():
    base = load_config(Path(SMOKE))
    # Either alone is refused: the final rate must not be above the peak.
    changed = with_settings(base, {"optimizer.final_learning_rate": 5e-3, "optimizer.learning_rate": 1e-2, "seed": 4})
    assert (changed.optimizer.learning_rate, changed.optimizer.final_learning_rate, changed.seed) == (1e-2, 5e-3, 4)
    assert changed.lattice == base.lattice


def test_overrides_know_every_setting_and_tell_what_was_meant():
    assert {"seed", "lattice.grid.depth", "loss.dialogue_similarity"} <= setting_kinds().keys()
    assert "optimizer" not in setting_kinds()
    for wrong, meant in (("optimizer.learning_rat", "optimizer.learning_rate"), ("lattice.depth", "lattice.grid.depth")):
        with pytest.raises(InputError, match=meant):
            with_settings(load_config(Path(SMOKE)), {wrong: 1})


@pytest.mark.parametrize("figure", ["held_out.similarity", "baselines.ridge.similarity", "baselines.ridge.gain", "verdict.mrr"])
def test_held_out_figures_decide_in_the_last_stage_alone(figure):
    bad = Criterion(figure, ">", 0.5, "why")
    with pytest.raises(InputError, match="held-out figures decide in the last stage alone"):
        Plan("smoke.py", (stage("early", bad), stage("last", bad, judges="early")))
    with pytest.raises(InputError, match="held-out"):
        Plan("smoke.py", (stage("early", Criterion("validation.mrr", ">", figure, "why")),))
    Plan("smoke.py", (stage("early"), stage("last", bad, judges="early")))


def test_a_judgement_must_be_last_and_has_no_way_back():
    with pytest.raises(InputError, match="last stage alone"):
        Plan("smoke.py", (stage("a"), stage("b", judges="a"), stage("c")))
    back = GoBack("a", {"seed": 1}, "luck")
    with pytest.raises(InputError, match="no way back from a judgement"):
        Plan("smoke.py", (stage("a"), stage("b", judges="a", if_missed=(back,))))


def test_stages_speak_of_earlier_ones_only():
    with pytest.raises(InputError, match="an earlier stage"):
        Plan("smoke.py", (stage("a", start="b"), stage("b")))


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


def test_the_plan_of_the_main_job_can_be_carried_out():
    plan, base = load_plan(ROOT / "configs" / "plan.py")
    plans.check(plan, base)
    assert [stage.name for stage in plan.stages] == ["validation", "convergence", "production", "evaluation"]
    assert plan.stages[-1].judges == "production"


PLAN = f"""
from lattice_jax.config.plan import Criterion, GoBack, Plan, Stage

SHORT = {SHORT!r}
EASY = Criterion("validation.similarity", ">", -1.0, "always so")
HARD = Criterion("train.similarity", ">", 2.0, "never so")
PLAN = Plan("smoke.py", (
    Stage("a", "first", (EASY,), settings=SHORT),
    Stage("b", "second", (HARD,), settings=SHORT, start="a", adapter="a", if_missed=(GoBack("b", {{"seed": 1}}, "luck"), ALSO)),
    Stage("c", "third", (Criterion("held_out.similarity", ">", "baselines.shuffled.similarity", "why"),), judges="b"),
))
""".replace("GoBack, Plan", "GoBack, GoOn, Plan").replace("ALSO", 'GoOn("it is a test")')


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole plan, cut off before its last stage and resumed."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "plan.py").write_text(PLAN)
    (folder / "smoke.py").write_text(Path(SMOKE).read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)

        def cut(*arguments, **options):
            raise KeyboardInterrupt

        patch.setattr(plans.run, "train", cut)
        assert run_here(patch, "train", "--plan", folder / "plan.py", "--workdir", folder / "run") == 130
        before = json.loads((folder / "run" / "plan.json").read_text())
        page = (folder / "run" / "plan.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert run_here(patch, "train", "--plan", folder / "plan.py", "--workdir", folder / "run", "--resume") == 0
    return folder, before, page


def test_a_whole_plan_decides_goes_back_and_judges(whole):
    folder, before, page = whole
    record = json.loads((folder / "run" / "plan.json").read_text())
    assert [one["folder"] for one in record["attempts"]] == ["a", "b", "b-2", "b-2"]
    assert [one["decision"]["action"] for one in record["attempts"]] == ["go on", "go back", "go on", "go on"]
    assert json.loads((folder / "run" / "b-2" / "config.json").read_text())["seed"] == 1
    assert record["attempts"][:3] == before["attempts"], "finished stages are not repeated"
    assert "| c |" in page
    assert "running" in page
    assert "ended; some criteria were missed" in (folder / "run" / "plan.md").read_text()


def test_only_the_run_that_was_judged_has_held_out_figures(whole):
    folder, _, _ = whole
    record = json.loads((folder / "run" / "plan.json").read_text())
    for one in record["attempts"][:-1]:
        assert not any(name.startswith("held_out") or name.endswith("_ceiling") for name in one["figures"])
    assert record["attempts"][-1]["figures"]["held_out.pairs"] == 40
    assert [path.parent.name for path in (folder / "run").glob("*/summary.json")] == ["b-2"]


def test_a_stage_starts_from_the_parameters_and_the_adapter_of_another(whole):
    """The first look of b, before its first step, finds what the best look of a found, by the same adapter."""
    folder, _, _ = whole
    a, b = (json.loads((folder / "run" / "plan.json").read_text())["attempts"][place]["figures"] for place in (0, 1))
    first = json.loads((folder / "run" / "b" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    assert first["validation_similarity"] == pytest.approx(a["validation.similarity"], abs=1e-6)
    assert np.isclose(a["adapter.validation_reconstruction"], b["adapter.validation_reconstruction"])


def test_a_plan_is_not_started_over_nor_resumed_when_changed(whole):
    folder, _, _ = whole
    plan, base = load_plan(folder / "plan.py")
    with pytest.raises(InputError, match="already holds a plan"):
        plans.carry_out(plan, base, folder / "run", resume=False, console=None)
    with pytest.raises(InputError, match="not that of"):
        plans.carry_out(plan, dataclasses.replace(base, seed=9), folder / "run", resume=True, console=None)
