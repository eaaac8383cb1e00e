"""Ensembles: known answers of the mean, refused mixtures, and two real seeds judged together."""

import io
import json
import shutil

import numpy as np
import pytest
from program import ROOT, SMOKE, run_here
from rich.console import Console

from lattice_jax import ensemble
from lattice_jax.errors import InputError

SHORT = (
    "--config.training.steps=4",
    "--config.training.evaluate_every=2",
    "--config.training.checkpoint_every=4",
    "--config.adapter.steps=4",
    "--config.emergence.every=0",
    "--config.emergence.no-at-end",
    "--config.pool.questions=0",
    "--config.evaluation.edge-questions=0",
)


def test_the_table_of_a_real_ensemble_fits_a_terminal():
    found = json.loads((ROOT / "benchmarks" / "results" / "wordnet_lattice.json").read_text())
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(ensemble.render(found))
    text = console.export_text()
    assert "…" not in text
    held_out, row = found["ensemble"], next(line for line in text.splitlines() if line.startswith("ensemble"))
    assert row.split()[1] == f"{held_out['similarity']:.3f}"
    assert row.split()[-3] == f"{held_out['mrr']:.3f}"


def test_the_mean_is_over_directions_whatever_the_lengths():
    a, b = np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([[0.0, 0.1], [0.0, 9.0]])
    np.testing.assert_allclose(ensemble.average([a, b]), [[0.5, 0.5], [0.0, 1.0]])


def test_spread_is_that_of_a_sample():
    found = ensemble.spread([np.array([0.5, 0, 0, 0.2]), np.array([0.7, 0, 0, 0.2])])
    assert found["similarity"] == pytest.approx({"mean": 0.6, "deviation": 0.02**0.5, "lowest": 0.5, "highest": 0.7})
    assert found["mrr"]["deviation"] == 0


@pytest.mark.parametrize("seeds", [(0,), (0, 0)])
def test_seeds_must_be_several_and_different(seeds):
    with pytest.raises(InputError, match="two or more, each once"):
        ensemble.train_seeds(None, None, seeds=seeds, resume=False, console=None)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert run_here(patch, "train", "--config", SMOKE, *SHORT, "--seeds", 0, 1, "--workdir", folder) == 0
    return folder, json.loads((folder / "ensemble.json").read_text())


def test_members_are_the_runs_and_their_figures_those_of_their_own_summaries(seeds):
    folder, found = seeds
    for seed, member in enumerate(found["members"]):
        own = json.loads((folder / f"seed-{seed}" / "summary.json").read_text())
        assert own["seed"] == member["seed"] == seed
        for name in ("similarity", "mrr"):
            assert member[name] == pytest.approx(own["held_out"][name], abs=1e-6)
            assert member["train"][name] == pytest.approx(own["train"][name], abs=1e-6)


def test_the_mean_member_is_the_mean_of_the_members(seeds):
    _, found = seeds
    for name in ("similarity", "mrr"):
        mean = np.mean([member[name] for member in found["members"]])
        assert found["spread"]["held_out"][name]["mean"] == pytest.approx(mean)
        assert found["mean_member"][name] == pytest.approx(mean)
        assert np.mean(found["mean_member_pairs"][name]) == pytest.approx(mean)
        gain = found["baselines"]["mean_answer"]["mean_member_gain"][name]
        assert gain["value"] == pytest.approx(mean - found["baselines"]["mean_answer"][name])
        assert gain["interval"][0] <= gain["value"] <= gain["interval"][1]


def test_the_ensemble_is_no_less_similar_than_its_mean_member(seeds):
    """The cosine to a mean of unit vectors is at least the mean of the cosines, where that is positive: the mean is shorter."""
    _, found = seeds
    assert found["ensemble"]["similarity"] >= found["mean_member"]["similarity"]
    gain = found["ensemble"]["gain_over_mean_member"]["similarity"]["value"]
    assert gain == pytest.approx(found["ensemble"]["similarity"] - found["mean_member"]["similarity"])


def test_evaluate_judges_several_runs_and_refuses_mixtures(seeds, tmp_path, monkeypatch, capsys):
    folder, found = seeds
    monkeypatch.chdir(ROOT)
    workdirs = ["--workdir", folder / "seed-0", "--workdir", folder / "seed-1"]
    assert run_here(monkeypatch, "evaluate", *workdirs, "--out", tmp_path / "again.json") == 0
    assert json.loads((tmp_path / "again.json").read_text())["ensemble"] == found["ensemble"]
    other = ("--config.corpus.split_seed=1", "--config.seed=2", "--workdir", tmp_path / "other")
    assert run_here(monkeypatch, "train", "--config", SMOKE, *SHORT, *other) == 0
    capsys.readouterr()
    assert run_here(monkeypatch, "evaluate", *workdirs, "--workdir", folder / "other" / ".." / "seed-0") == 2
    assert "seed-0 is named twice" in " ".join(capsys.readouterr().err.split())
    assert run_here(monkeypatch, "evaluate", *workdirs[:2], "--workdir", tmp_path / "other") == 2
    assert "differ in: division of the pairs" in " ".join(capsys.readouterr().err.split())


def test_seeds_that_ended_with_other_settings_are_refused(seeds, tmp_path, monkeypatch, capsys):
    folder, _ = seeds
    monkeypatch.chdir(ROOT)
    again = ("train", "--config", SMOKE, *SHORT, "--seeds", 0, 1, "--workdir", folder, "--resume")
    before = (folder / "ensemble.json").read_bytes()
    assert run_here(monkeypatch, *again, "--config.optimizer.learning_rate=1e-2") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "optimizer.learning_rate = 0.01" in message
    assert "seed-0" in message
    assert (folder / "ensemble.json").read_bytes() == before


@pytest.mark.parametrize(
    ("out", "told"), [("", "is a folder"), ("n" * 300, "can't be written"), ("summary.json/figures.json", "can't be created")]
)
def test_figures_that_cannot_be_written_are_refused_before_judging(seeds, monkeypatch, capsys, out, told):
    folder, _ = seeds
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(ensemble.run, "load_trained", None)  # nothing is loaded any more
    workdirs = ("--workdir", folder / "seed-0", "--workdir", folder / "seed-1")
    assert run_here(monkeypatch, "evaluate", *workdirs, "--out", folder / "seed-0" / out) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert told in message
    assert "--out" in message


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("summary.json", '{"steps": 4}', "summary.json can't be read: it has no training_operations"),
        ("summary.json", '{"steps": 4, "training_operations": "many"}', "training_operations is a text"),
        ("summary.json", None, "has no summary.json"),
        ("metrics.jsonl", None, "has no metrics.jsonl"),
    ],
)
def test_what_judging_a_run_again_reads_is_looked_at_first(seeds, tmp_path, monkeypatch, capsys, name, content, told):
    shutil.copytree(seeds[0] / "seed-0", tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    if content is not None:
        (tmp_path / "run" / name).write_text(content)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(ensemble.run, "_load", None)  # nothing is loaded any more
    assert run_here(monkeypatch, "evaluate", "--workdir", tmp_path / "run") == 2
    assert told in " ".join(capsys.readouterr().err.split())
