"""The training plan: what it refuses, what follows from what, and a whole one on a small cube."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from plan_parts import FALLS, SHORT, smoke, stage
from program import ROOT, SMOKE, finish, run_here, start

from lattice_jax import figures, plan_record
from lattice_jax import plan as plans
from lattice_jax.commandline import load_config, load_plan, read_config_record, use_devices
from lattice_jax.config.overrides import setting_kinds, with_settings
from lattice_jax.config.plan import Criterion, GoBack, GoOn, Plan, Stage
from lattice_jax.errors import InputError
from lattice_jax.evaluation.report.record import read_run


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


def test_the_plan_of_the_main_job_can_be_carried_out():
    plan, base = load_plan(ROOT / "configs" / "plan.py")
    plans.check(plan, base)
    assert [stage.name for stage in plan.stages] == ["validation", "convergence", "production", "evaluation"]
    assert plan.stages[-1].judges == "production"


@pytest.mark.parametrize(
    ("figure", "settings", "told"),
    [
        ("last.losss", {}, "perhaps last.loss"),
        ("last.gradient_norm/layer_09", {}, "perhaps last.gradient_norm/layer_0"),
        ("first.training_mrr", {}, "first.dead_cells"),
        ("last.contrastive", {}, "last.dead_cells"),
        ("last.pool/distance", {}, "last.dead_cells"),
        ("last.emergence/morans_i", {"emergence.every": 0}, "last.dead_cells"),
        ("best.loss", {}, "best.validation_mrr"),
        ("best.emergence/morans_i", {"training.steps": 40, "training.evaluate_every": 2}, "best.validation_mrr"),
        ("baselines.rigde.validation_similarity", {}, "perhaps baselines.ridge.validation_similarity"),
    ],
)
def test_a_criterion_on_a_figure_that_is_not_recorded_is_refused_before_training(figure, settings, told):
    for criterion in (Criterion(figure, "<", 0.5, "why"), Criterion("last.loss", "<", figure, "why")):
        plan = Plan("smoke.py", (stage("a", criterion, settings=settings),))
        with pytest.raises(InputError, match=re.escape(told)) as refused:
            plans.check(plan, smoke())
        assert f"stage 'a' is measured by {figure}" in refused.value.found


@pytest.mark.parametrize(
    ("figure", "told"),
    [
        ("held_out.simlarity", "perhaps held_out.similarity"),
        ("baselines.rigde.gain", "perhaps baselines.ridge.gain"),
        ("baselines.ridge.choices.penlty", "perhaps baselines.ridge.choices.penalty"),
        ("emergence.morans_j.z", "perhaps emergence.morans_i.z"),
        ("evaluation_modes.expect.mrr", "perhaps evaluation_modes.expected.mrr"),
        ("pool.rounds.7.similarity", "perhaps pool.rounds."),
        ("recovery.cleared_share.cube", "perhaps recovery.cleared_share.half_cube"),
        ("edge_cases.wordings.typo.mrr", "perhaps edge_cases.wordings.typos.mrr"),
        ("seconds_by_phase.waiting", "perhaps seconds_by_phase.training"),
        ("verdict", "adapter_reconstruction"),
        ("last.loss", "adapter_reconstruction"),
    ],
)
def test_a_judgement_by_a_figure_that_is_not_in_the_summary_is_refused_before_training(figure, told):
    plan = Plan("smoke.py", (stage("a"), stage("b", Criterion(figure, ">", 0.5, "why"), judges="a")))
    with pytest.raises(InputError, match=re.escape(told)) as refused:
        plans.check(plan, smoke(emergence__at_end=True, pool__questions=8))
    assert f"stage 'b' is measured by {figure}" in refused.value.found


def test_a_figure_that_is_lost_by_going_back_is_refused_before_training():
    observed = Criterion("last.emergence/morans_i", ">", 0.0, "why")
    back = (GoBack("a", {"seed": 1}, "luck"), GoBack("a", {"emergence.every": 0}, "seconds"))
    plans.check(Plan("smoke.py", (stage("a", observed, settings={"emergence.every": 2}, if_missed=back[:1]),)), smoke())
    with pytest.raises(InputError, match="morans_i, which it will not record"):
        plans.check(Plan("smoke.py", (stage("a", observed, settings={"emergence.every": 2}, if_missed=back),)), smoke())


@pytest.mark.parametrize("sides", [{}, {"training.select_by": "training"}])
def test_figures_that_are_there_can_decide(sides):
    names = ["first.loss", "last.gradient_norm", "last.weighted_dialogue_similarity", "best.validation_spread", "steps"]
    names += [f"best.{side}_similarity" for side in ("validation", "training") if side == "validation" or sides]
    plans.check(Plan("smoke.py", (stage("a", *(Criterion(n, "<", 1.0, "why") for n in names), settings=sides),)), smoke())
    pooled = {"pool.size": 32, "loss.contrastive": 0.1}
    told = (Criterion("last.pool/effective_rank", ">", 1.5, "why"), Criterion("last.contrastive", "<", 1.0, "why"))
    plans.check(Plan("smoke.py", (stage("a", *told, settings=pooled),)), smoke())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Criterion("last.loss", "<", None, "why"), "the threshold None of the criterion on last.loss"),
        (lambda: Criterion("last.loss", "<", True, "why"), "the threshold True"),
        (lambda: Criterion("last.loss", "<", float("nan"), "why"), "the threshold nan"),
        (lambda: Criterion("last.loss", "<", 1.0, "why", margin="x"), "the margin 'x'"),
        (lambda: Criterion("last.loss", "<", 1.0, None), "the reason of the criterion on last.loss is None"),
        (lambda: Criterion(3, "<", 1.0, "why"), "the figure of a criterion is 3"),
        (lambda: stage("a", if_missed=("again",)), "if_missed of stage 'a': 'again'"),
        (lambda: stage("a", if_missed=GoOn("why")), "a comma behind a single one"),
        (lambda: Stage("a", "why", FALLS), "a tuple of Criterion, with a comma behind a single one"),
        (lambda: Stage("a", "why", ("last.loss < 1",)), "the criteria of stage 'a'"),
        (lambda: Stage("a", None, (FALLS,)), "the purpose of stage 'a' is None"),
        (lambda: stage(3), "the stage name 3"),
        (lambda: stage("a", settings=[("seed", 1)]), "stage 'a' with the settings"),
        (lambda: stage("a", settings={1: 1}), "stage 'a' with the settings"),
        (lambda: stage("a", start=None), "start None of stage 'a'"),
        (lambda: GoBack("a", None, "why"), "a GoBack to 'a' with the settings None"),
        (lambda: GoBack(None, {}, "why"), "the stage of a GoBack is None"),
        (lambda: GoOn(""), "the reason of a GoOn"),
        (lambda: Plan(3, (stage("a"),)), "the config of a plan is 3"),
        (lambda: Plan("smoke.py", stage("a")), "a tuple of Stage"),
        (lambda: Plan("smoke.py", ("a",)), "the stages of a plan: 'a' among them"),
    ],
)
def test_what_is_of_another_type_than_its_field_is_refused(make, told):
    with pytest.raises(InputError, match=re.escape(told)):
        make()


@pytest.mark.parametrize(("names", "told"), [(["adapters"], "adapters"), (["x", "x-2"], "attempt 2"), (["x-12", "x"], "12")])
def test_stages_whose_folders_would_be_anothers_are_refused(names, told):
    with pytest.raises(InputError, match=told):
        plans.check(Plan("smoke.py", tuple(map(stage, names))), smoke())


def test_cells_that_share_their_weights_have_no_groups_of_weights():
    judged = stage("b", Criterion("emergence.weight_clustering.value", ">", 0.0, "why"), judges="a")
    plan = Plan("smoke.py", (stage("a"), judged))
    plans.check(plan, smoke(emergence__at_end=True))
    with pytest.raises(InputError, match=r"weight_clustering\.value, which it will not record"):
        plans.check(plan, smoke(emergence__at_end=True, lattice__sharing="layer"))


def test_stages_with_numbers_of_their_own_are_not_refused():
    plans.check(Plan("smoke.py", tuple(map(stage, ["x", "x-1", "y-2", "adapters-2"]))), smoke())


PLAN = f"""
from lattice_jax.config.plan import Criterion, GoBack, Plan, Stage

SHORT = {SHORT!r}
EASY = Criterion("validation.similarity", ">", -1.0, "always so")
HARD = Criterion("train.similarity", ">", 2.0, "never so")
PLAN = Plan("smoke.py", (
    Stage("a", "first", (EASY, Criterion("last.loss", ">", 0.0, "a distance")), settings=SHORT),
    Stage("b", "second", (HARD,), settings=SHORT, start="a", adapter="a", if_missed=(GoBack("b", {{"seed": 1}}, "luck"), ALSO)),
    Stage("c", "third", (Criterion("held_out.similarity", ">", "baselines.shuffled.similarity", "CHANGED"),), judges="b"),
))
""".replace("GoBack, Plan", "GoBack, GoOn, Plan").replace("ALSO", 'GoOn("it is a test")')


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole plan, cut off before its last stage and resumed with another reason there; b's second attempt was made worse."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "plan.py").write_text(PLAN)
    (folder / "smoke.py").write_text(Path(SMOKE).read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        measured = plans.trial.figures

        def cut(*arguments, **options):
            raise KeyboardInterrupt

        def worse(trial, place):
            found = measured(trial, place)
            return found | {"validation.similarity": found["validation.similarity"] - 0.1 * (place.name == "b-2")}

        patch.setattr(plans.run, "train", cut)
        patch.setattr(plans.trial, "figures", worse)
        assert run_here(patch, "train", "--plan", folder / "plan.py", "--workdir", folder / "run") == 130
        before = json.loads((folder / "run" / "plan.json").read_text())
        page = (folder / "run" / "plan.md").read_text()
    (folder / "plan.py").write_text(PLAN.replace("CHANGED", "a better reason"))
    # As a process of its own: JAX keeps the devices with which it begins, and here it has begun before the plan is checked.
    finish(start("train", "--plan", folder / "plan.py", "--workdir", folder / "run", "--resume"))
    return folder, before, page


def test_more_devices_than_a_program_has_begun_with_are_one_clear_message():
    few = len(jax.devices("cpu"))
    with pytest.raises(InputError, match=f"lattice.devices is {few + 1}, and this program has begun with {few}"):
        use_devices(smoke(lattice__devices=few + 1))
    assert use_devices(smoke(lattice__devices=1)).lattice.devices == 1


def test_a_whole_plan_decides_goes_back_and_judges_the_best_attempt(whole):
    folder, before, page = whole
    record = json.loads((folder / "run" / "plan.json").read_text())
    assert [one["folder"] for one in record["attempts"]] == ["a", "b", "b-2", "b"]
    assert [one["decision"]["action"] for one in record["attempts"]] == ["go on", "go back", "go on", "go on"]
    assert json.loads((folder / "run" / "b-2" / "config.json").read_text())["seed"] == 1
    assert record["attempts"][:3] == before["attempts"], "finished stages are not repeated"
    assert "| c |" in page
    assert "running" in page
    assert "go on with b |" in page
    assert "Taken forward of 2 attempts: [b](b)" in page
    assert "ended; some criteria were missed" in (folder / "run" / "plan.md").read_text()


def test_a_changed_plan_goes_on_where_nothing_was_decided_and_says_so(whole):
    folder, before, _ = whole
    record, page = (folder / "run" / "plan.json").read_text(), (folder / "run" / "plan.md").read_text()
    assert before["asked"]["plan"]["stages"][2]["criteria"][0]["reason"] == "CHANGED"
    assert json.loads(record)["attempts"][3]["criteria"][0]["reason"] == "a better reason"
    assert [change["stages"] for change in json.loads(record)["changed"]] == [["c"]]
    assert "before they were decided on: c." in page


def test_figures_are_known_by_the_names_that_a_run_records(whole):
    folder, _, _ = whole
    *trials, judged = json.loads((folder / "run" / "plan.json").read_text())["attempts"]
    for one in (*trials, judged):
        config = read_config_record(folder / "run" / one["folder"])
        recorded = set(one["figures"])
        known = {name: figures.known_figures(config, name, judged=one is judged) for name in recorded}
        # The look that chose the parameters may have recorded more, a step's figures, than every look is sure to.
        assert all(name.startswith("best.") for name in recorded if name not in known[name])
        promised = set().union(*known.values())
        assert {name for name in promised - recorded if not re.fullmatch(r"emergence\..+\.z", name)} == set()


def test_only_the_run_that_was_judged_has_held_out_figures(whole):
    folder, _, _ = whole
    record = json.loads((folder / "run" / "plan.json").read_text())
    for one in record["attempts"][:-1]:
        assert not any(name.startswith("held_out") or name.endswith("_ceiling") for name in one["figures"])
    assert record["attempts"][-1]["figures"]["held_out.pairs"] == 40
    assert [path.parent.name for path in (folder / "run").glob("*/summary.json")] == ["b"]
    runs = {name: read_run(folder / "run" / name) for name in ("a", "b", "b-2")}
    assert all(one.ended for one in runs.values())
    assert [name for name, one in runs.items() if one.unjudged is None] == ["b"]


def test_every_stage_leaves_the_report_of_its_run(whole):
    folder, _, _ = whole
    for name in ("a", "b-2"):
        assert "trained and not judged" in (folder / "run" / name / "report.html").read_text()
    assert "trained and not judged" not in (folder / "run" / "b" / "report.html").read_text()


def test_a_stage_starts_from_the_parameters_and_the_adapter_of_another(whole):
    """The first look of b, before its first step, finds what the best look of a found, by the same adapter."""
    folder, _, _ = whole
    a, b = (json.loads((folder / "run" / "plan.json").read_text())["attempts"][place]["figures"] for place in (0, 1))
    first = json.loads((folder / "run" / "b" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    assert first["validation_similarity"] == pytest.approx(a["validation.similarity"], abs=1e-6)
    assert np.isclose(a["adapter.validation_reconstruction"], b["adapter.validation_reconstruction"])


def test_a_plan_is_not_started_over_nor_resumed_with_what_has_run_changed(whole):
    folder, _, _ = whole
    plan, base = load_plan(folder / "plan.py")

    def resumed(*stages: Stage, seed: int = 0):
        changed = Plan("smoke.py", stages or plan.stages)
        plans.carry_out(changed, dataclasses.replace(base, seed=seed), folder / "run", resume=True, console=None)

    with pytest.raises(InputError, match="already holds a plan"):
        plans.carry_out(plan, base, folder / "run", resume=False, console=None)
    with pytest.raises(InputError, match="stage a was decided on with other settings: seed = 0, now 9"):
        resumed(seed=9)
    a, b, c = plan.stages
    for field, other in (("if_missed", ()), ("criteria", a.criteria), ("start", "")):
        with pytest.raises(InputError, match=f"stage b was decided on with other .*{field}"):
            resumed(a, dataclasses.replace(b, **{field: other}), c)
    longer = {**b.settings, "training.steps": 6}
    with pytest.raises(InputError, match=r"stage b was decided on with other settings: training\.steps = 4, now 6"):
        resumed(a, dataclasses.replace(b, settings=longer), c)
    with pytest.raises(InputError, match="new stands in place 2 of the plan, where stage b has begun"):
        resumed(a, dataclasses.replace(a, name="new"), b, c)
    with pytest.raises(InputError, match="no stage stands in place 3 of the plan, where stage c has begun"):
        resumed(a, b)


def test_what_trains_a_stage_that_has_begun_stays_and_its_criteria_may_change(tmp_path):
    plan, base = Plan("smoke.py", (stage("a"), stage("b"))), smoke()
    record = plan_record.open_record(plan, base, tmp_path, resume=False)
    (tmp_path / "plan.json").write_text(json.dumps(record | {"running": {"stage": "a", "since": "now"}}))
    easier = stage("a", Criterion("last.loss", "<", 9.0, "easy"), if_missed=(GoOn("enough"),))
    other = stage("b", settings={"training.steps": 3})
    opened = plan_record.open_record(Plan("smoke.py", (easier, other, stage("c"))), base, tmp_path, resume=True)
    assert [one["stages"] for one in opened["changed"]] == [["a", "b", "c"]]
    assert [one["name"] for one in opened["asked"]["plan"]["stages"]] == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"stage a has begun with other settings: training\.steps"):
        plan_record.open_record(Plan("smoke.py", (stage("a", settings={"training.steps": 3}),)), base, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"asked": ', "plan.json can't be read: Expecting value"),
        ("[]", "it holds a list"),
        ("{}", "it has no asked.plan.config"),
        ({"attempts": {}}, "attempts is an object"),
        ({"attempts": [{}]}, "attempt 1 of"),
        ({"running": {"stage": "a"}}, "what is running of"),
        ({"running": {"stage": "elsewhere", "since": "now"}}, "it tells of elsewhere, no stage of its plan"),
    ],
)
def test_a_damaged_record_of_a_plan_is_one_clear_message(tmp_path, monkeypatch, capsys, content, told):
    (tmp_path / "plan.py").write_text(PLAN)
    (tmp_path / "smoke.py").write_text(Path(SMOKE).read_text())
    plan, base = load_plan(tmp_path / "plan.py")
    if isinstance(content, dict):
        content = json.dumps(plan_record.open_record(plan, base, tmp_path / "run", resume=False) | content)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "plan.json").write_text(content)
    monkeypatch.chdir(ROOT)
    assert run_here(monkeypatch, "train", "--plan", tmp_path / "plan.py", "--workdir", tmp_path / "run", "--resume") == 2
    assert told in capsys.readouterr().err
