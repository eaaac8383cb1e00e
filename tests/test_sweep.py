"""The search: its notation, that it can't see held-out pairs, that it resumes, and what it leaves."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from program import ROOT, SMOKE, run_here
from rich.console import Console

from lattice_jax import experiment, sweep, trial
from lattice_jax.commandline import load_config, record_config
from lattice_jax.config.overrides import with_settings
from lattice_jax.config.search import Choice, Range, parse_dimension
from lattice_jax.corpus.pairs import load_pairs
from lattice_jax.errors import InputError
from lattice_jax.evaluation import sweep_page
from lattice_jax.evaluation.report.record import read_run
from lattice_jax.material import gather

optuna = pytest.importorskip("optuna")

SHORT = (
    "--config.training.steps=4",
    "--config.training.evaluate_every=2",
    "--config.training.checkpoint_every=4",
    "--config.adapter.steps=4",
)
FEW = ("--config.corpus.held_out_pairs=8", "--config.corpus.validation_pairs=4")
SEARCH = ("--search", "optimizer.learning_rate=log(1e-3,1e-2)", "--search", "loss.dialogue_similarity=uniform(0.2,1)")


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("optimizer.learning_rate=log(1e-4,1e-2)", Range("optimizer.learning_rate", 1e-4, 1e-2, None, True, False)),
        ("lattice.steps = uniform(16, 32, 4)", Range("lattice.steps", 16, 32, 4, False, True)),
        ("lattice.sharing=choice(cell,layer)", Choice("lattice.sharing", ("cell", "layer"))),
        ("lattice.sharing=any", Choice("lattice.sharing", ("cell", "layer", "lattice"))),
        ("lattice.update.quiescent=any", Choice("lattice.update.quiescent", (True, False))),
        ("training.batch_size=choice(8,16)", Choice("training.batch_size", (8, 16))),
    ],
)
def test_a_search_takes_the_type_of_the_setting(text, dimension):
    assert parse_dimension(text) == dimension


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optimizer.learningrate=log(1e-4,1e-2)", "perhaps optimizer.learning_rate"),
        ("optimizer.learning_rate", "NAME=log"),
        ("optimizer.learning_rate=log(0,1)", "above 0"),
        ("optimizer.learning_rate=log(1e-2,1e-4)", "low < high"),
        ("optimizer.learning_rate=any", "too many"),
        ("lattice.steps=uniform(16,17.5)", "type int"),
        ("lattice.sharing=uniform(0,1)", "no number"),
        ("lattice.sharing=choice(cell,column)", "cell, layer, lattice"),
    ],
)
def test_a_search_that_cannot_be_read_is_refused(text, told):
    with pytest.raises(InputError, match=re.escape(told)):
        parse_dimension(text)


def test_blinded_material_has_no_held_out_numbers_and_all_others():
    found = gather(_smoke())
    blind, rows = trial.blinded(found), list(found.corpus.split.held_out)
    assert np.isnan(blind.questions[rows]).all()
    assert np.isnan(blind.answers[rows]).all()
    for side in ("train", "validation"):
        for ours, theirs in zip(blind.pairs(side), found.pairs(side), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(found.answers).all(), "the original is left as it is"


def _aligned(**grid: int):
    """A cube with 225 numbers on its faces, aligned."""
    faces = {f"lattice.grid.{name}": size for name, size in grid.items()}
    channels = 225 // (grid["height"] * grid["width"])
    cells = {"lattice.surface_channels": channels, "lattice.cell.visible": 32, "lattice.cell.memory": 32, "lattice.steps": 16}
    return with_settings(_smoke(), {"adapter.layout": "aligned", **faces, **cells})


def test_an_adapter_is_lent_to_cubes_of_the_same_faces_alone(tmp_path):
    first, same = (_aligned(depth=depth, height=15, width=15) for depth in (3, 5))
    other = _aligned(depth=3, height=5, width=5)
    shared = trial.Shared(tmp_path / "adapters", Console(quiet=True))
    (tmp_path / "first" / "adapter").mkdir(parents=True)
    shared.keep_adapter(first, tmp_path / "first")
    for name, config in {"same": same, "other": other}.items():
        (tmp_path / name).mkdir()
        shared.lend_adapter(config, tmp_path / name)
        assert (tmp_path / name / "adapter").exists() == (name == "same")


def test_an_adapter_that_is_aligned_for_other_faces_is_refused(tmp_path):
    record_config(_aligned(depth=3, height=15, width=15), tmp_path / "stage", resume=False)
    shared = trial.Shared(tmp_path / "adapters", Console(quiet=True))
    with pytest.raises(InputError, match="aligned for front-back-1x15x15x1-1x15x15x1"):
        trial.train(_aligned(depth=3, height=5, width=5), tmp_path / "run", shared, resume=False, adapter=tmp_path / "stage")


def _smoke():
    return load_config(Path(SMOKE))


def run_sweep(patch, folder: Path, *arguments: object) -> int:
    patch.chdir(ROOT)
    return run_here(patch, "sweep", "--config", SMOKE, *SHORT, *SEARCH, "--workdir", folder, *arguments)


def write_pairs(file: Path, skipped: int) -> None:
    """Forty real pairs, from the one numbered `skipped` on."""
    pairs = load_pairs("hundred")[skipped : skipped + 40]
    file.write_text("".join(json.dumps({"question": pair.question, "answer": pair.answer}) + "\n" for pair in pairs))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three trials, cut off in the second, resumed; with what every training and every judgement was given."""
    folder, seen = tmp_path_factory.mktemp("sweep") / "run", []
    fit, judge, calls = experiment.fit_cube, experiment.judge_run, iter(range(100))

    def watched(config, material, *rest):
        rows = list(material.corpus.split.held_out)
        seen.append(("fit", bool(np.isnan(material.questions[rows]).all() and np.isnan(material.answers[rows]).all())))
        if next(calls) == 1:
            raise KeyboardInterrupt
        return fit(config, material, *rest)

    def watched_judge(config, *rest):
        seen.append(("judge", config.optimizer.learning_rate))
        return judge(config, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "fit_cube", watched)
        patch.setattr(experiment, "judge_run", watched_judge)
        assert run_sweep(patch, folder, "--trials", 3) == 130
        assert run_sweep(patch, folder, "--trials", 3, "--resume") == 0
    return folder, seen, json.loads((folder / "sweep.json").read_text())


def test_held_out_pairs_are_judged_once_after_all_trials_and_for_the_best_on_validation(whole):
    _, seen, found = whole
    complete = [one for one in found["trials"] if one["state"] == "complete"]
    best = max(complete, key=lambda one: one["value"])
    assert [blind for kind, blind in seen[:4] if kind == "fit"] == [True] * 4, "no trial had held-out numbers"
    # The judged run finds nothing left to train: its fit is the only one with eyes.
    assert seen[4:] == [("fit", False), ("judge", best["settings"]["optimizer.learning_rate"])]
    assert found["best"] == best["number"]
    assert found["verdict"]["held_out"]["pairs"] == 40


def test_a_sweep_that_was_cut_off_asks_what_it_would_have_asked(whole):
    _, _, found = whole
    assert [one["state"] for one in found["trials"]] == ["complete", "fail", "complete", "complete"]
    assert found["trials"][1]["settings"] == found["trials"][2]["settings"]
    assert len({one["settings"]["optimizer.learning_rate"] for one in found["trials"]}) == 3


def test_a_trial_is_worth_its_figure_at_the_look_that_chose_its_parameters(whole):
    folder, _, found = whole
    for one in found["trials"]:
        if one["state"] == "complete":
            assert one["value"] == pytest.approx(max(one["looks"].values()))
            assert set(one["looks"]) == {"0", "2", "4"}
            rows = (folder / f"trial-{one['number']:04d}" / "metrics.jsonl").read_text().splitlines()
            assert json.loads(rows[2])["validation_similarity"] == pytest.approx(one["looks"]["2"])


def test_the_adapter_is_trained_once_and_only_the_best_trial_keeps_parameters(whole):
    folder, _, found = whole
    assert len(list((folder / "adapters").iterdir())) == 1
    assert [path.parent.name for path in folder.glob("trial-*/checkpoints")] == [found["folder"]]


def test_every_trial_says_that_and_how_it_ended(whole):
    folder, _, found = whole
    runs = [read_run(folder / f"trial-{one['number']:04d}") for one in found["trials"]]
    assert all(one.ended for one in runs)
    outcomes = ["cut off and given up" if one["state"] == "fail" else "trained and not judged" for one in found["trials"]]
    outcomes[found["best"]] = None  # judged, it has a summary
    assert [one.unjudged for one in runs] == outcomes


def test_every_trial_that_recorded_anything_has_its_report_and_the_page_leads_there(whole):
    folder, _, found = whole
    page = (folder / "sweep.html").read_text()
    for one in found["trials"]:
        recorded, link = one["state"] == "complete", f"<a href='{one['folder']}/report.html'>{one['number']}</a>"
        assert (folder / one["folder"] / "report.html").is_file() == (link in page) == recorded
        if recorded:
            told = "trained and not judged" in (folder / one["folder"] / "report.html").read_text()
            assert told == (one["number"] != found["best"])


def test_the_page_needs_no_network(whole):
    page = (whole[0] / "sweep.html").read_text()
    assert len(page) > 1_000_000, "plotly's script is inside"
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)


def test_the_lines_of_the_page_go_through_figure_and_settings_of_each_trial(whole):
    _, _, found = whole
    complete = [one for one in found["trials"] if one["state"] == "complete"]
    (drawn,) = sweep_page._parallel_coordinates(found, complete).data
    figure, rate, weight = drawn.dimensions
    assert (drawn.type, figure.label, rate.label, weight.label) == (
        "parcoords",
        "validation similarity",
        "learning_rate",
        "dialogue_similarity",
    )
    assert figure["values"] == pytest.approx([one["value"] for one in complete])
    rates = [one["settings"]["optimizer.learning_rate"] for one in complete]
    assert 10 ** np.array(rate["values"]) == pytest.approx(rates)
    assert weight["values"] == pytest.approx([one["settings"]["loss.dialogue_similarity"] for one in complete])
    assert [float(text) for text in (rate.ticktext[0], rate.ticktext[-1])] == pytest.approx([min(rates), max(rates)], rel=0.05)


def test_choices_stand_on_their_axis_in_their_order():
    axis = sweep_page._axis({"name": "a.b", "values": ["cell", "layer", "lattice"]}, ["lattice", "cell"])
    assert axis == {"values": [2, 0], "tickvals": [0, 1, 2], "ticktext": ["cell", "layer", "lattice"]}


def test_no_trial_is_added_once_the_held_out_pairs_have_spoken(whole, monkeypatch, capsys):
    assert run_sweep(monkeypatch, whole[0], "--trials", 5, "--resume") == 2
    assert "was judged on the held-out pairs" in capsys.readouterr().err


def test_damaged_figures_of_a_sweep_are_one_clear_message(whole, tmp_path, monkeypatch, capsys):
    (tmp_path / "search.json").write_bytes((whole[0] / "search.json").read_bytes())
    (tmp_path / "sweep.json").write_text("{}")
    assert run_sweep(monkeypatch, tmp_path, "--trials", 3, "--resume") == 2
    assert "sweep.json can't be read: it has no verdict" in capsys.readouterr().err


def test_a_damaged_study_is_one_clear_message(whole, tmp_path, monkeypatch, capsys):
    (tmp_path / "search.json").write_bytes((whole[0] / "search.json").read_bytes())
    (tmp_path / "sweep.db").write_bytes(b"not a database, but of some length" * 200)
    assert run_sweep(monkeypatch, tmp_path, "--trials", 3, "--resume") == 2
    assert "sweep.db can't be read" in capsys.readouterr().err


def test_another_search_is_not_mixed_in(whole, monkeypatch, capsys):
    assert run_sweep(monkeypatch, whole[0], "--trials", 3, "--resume", "--figure", "mrr") == 2
    assert "don't compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [(b'{"config": ', "Expecting value"), (b"[]", "it holds a list"), (b"{}", "it has no config"), (b"\xff", "'utf-8' codec")],
)
def test_a_damaged_record_of_a_sweep_is_one_clear_message(tmp_path, monkeypatch, capsys, content, told):
    (tmp_path / "search.json").write_bytes(content)
    assert run_sweep(monkeypatch, tmp_path, "--trials", 3, "--resume") == 2
    message = capsys.readouterr().err
    assert "search.json can't be read" in message
    assert told in message


def test_settings_that_contradict_each_other_are_a_failed_trial_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    search = ("--search", "optimizer.final_learning_rate=choice(0.5)")
    assert run_here(monkeypatch, "sweep", "--config", SMOKE, *search, "--trials", 1, "--workdir", tmp_path / "run") == 2
    (one,) = json.loads((tmp_path / "run" / "sweep.json").read_text())["trials"]
    assert one["state"] == "fail"
    assert "optimizer.final_learning_rate is 0.5; expected: " in one["reason"]


def test_a_trial_that_is_pruned_has_ended(tmp_path, monkeypatch):
    """As the search meets it: the end of its training comes at once, since pruning for real takes many trials."""

    def train(config, folder, shared, *, resume, on_look):
        record_config(config, folder, resume=resume)
        raise optuna.TrialPruned

    monkeypatch.setattr(trial, "train", train)
    wanted, shared = (
        sweep.Search((parse_dimension("seed=uniform(0,9)"),)),
        trial.Shared(tmp_path / "adapters", Console(quiet=True)),
    )
    sweep._try(optuna.create_study(direction="maximize"), _smoke(), wanted, tmp_path, shared, Console(quiet=True))
    assert read_run(tmp_path / "trial-0000").unjudged == "pruned"


@pytest.mark.parametrize("trials", [0, -1])
def test_a_sweep_of_no_trials_is_refused(tmp_path, monkeypatch, capsys, trials):
    assert run_sweep(monkeypatch, tmp_path / "run", "--trials", trials) == 2
    assert f"--trials is {trials}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_missing_ends_the_sweep_which_goes_on_once_it_is_there(tmp_path, monkeypatch, capsys):
    folder, pairs = tmp_path / "run", tmp_path / "pairs.jsonl"
    asked = ("--trials", 1, "--no-judge", f"--config.corpus.pairs={pairs}", *FEW)
    assert run_sweep(monkeypatch, folder, *asked) == 2
    assert "pairs.jsonl" in capsys.readouterr().err
    assert not (folder / "sweep.json").exists(), "no trial has ended"
    write_pairs(pairs, 0)
    assert run_sweep(monkeypatch, folder, *asked, "--resume") == 0
    assert [one["state"] for one in json.loads((folder / "sweep.json").read_text())["trials"]] == ["fail", "complete"]
    write_pairs(pairs, 1)
    assert run_sweep(monkeypatch, folder, "--trials", 2, *asked[2:], "--resume") == 2
    assert "texts and the division" in capsys.readouterr().err, "trials on other texts don't compare"


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        ("corpus.held_out_pairs=choice(1000)", "too few to divide"),
        ("optimizer.learning_rate=choice(1e30)", "is nan at step"),
        ("lattice.cell.parameter_budget=choice(3)", "lattice.cell.parameter_budget is 3"),
    ],
)
def test_what_a_trials_own_settings_make_impossible_is_recorded(tmp_path, monkeypatch, search, reason):
    monkeypatch.chdir(ROOT)
    # With a look after every step one that diverges is seen by its answers, not by its loss.
    asked = ("--search", search, "--trials", 1, *SHORT, "--config.training.evaluate_every=1", "--workdir", tmp_path / "run")
    assert run_here(monkeypatch, "sweep", "--config", SMOKE, *asked) == 2
    (one,) = json.loads((tmp_path / "run" / "sweep.json").read_text())["trials"]
    assert one["state"] == "fail"
    assert reason in one["reason"]
    if "is nan" in reason:
        assert read_run(tmp_path / "run" / "trial-0000").unjudged == f"given up: {one['reason']}"
        assert "is nan at step" in (tmp_path / "run" / "trial-0000" / "report.html").read_text()


def test_a_trial_behind_the_others_is_pruned_by_its_looks():
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    config, wanted = _smoke(), sweep.Search((parse_dimension("seed=uniform(0,9)"),), "mean")
    for similarity in (0.6, 0.7):
        looks = sweep._Looks(asked := study.ask(), wanted, config)
        looks({"validation_similarity": similarity, "validation_mrr": 0.1})
        assert looks.value == pytest.approx((similarity + 0.1) / 2)
        study.tell(asked, looks.value)
    behind = sweep._Looks(study.ask(), wanted, config)
    with pytest.raises(optuna.TrialPruned):
        behind({"validation_similarity": 0.2, "validation_mrr": 0.1})
