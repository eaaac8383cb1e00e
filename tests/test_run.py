"""Whole runs on real weights and real text, as processes: what they leave, that they repeat, and that a kill costs nothing."""

import io
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from program import SMOKE, finish, run_here, start

from lattice_jax import adaptation
from lattice_jax.corpus.pairs import load_pairs
from lattice_jax.lattice.emergence.metrics import METRICS
from lattice_jax.teachers import cache

SHORT = (
    "--config.training.steps=12",
    "--config.training.evaluate_every=4",
    "--config.training.checkpoint_every=4",
    "--config.emergence.costly_every=12",
)

LEARNING_ALONE = ("--config.emergence.no-at-end", "--config.pool.questions=0", "--config.evaluation.edge-questions=0")
"""Without what else is measured when a run has ended, which takes half of it."""


def metrics(workdir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "timing"} for row in rows]


def summary(workdir: Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


def train(workdir: Path, *arguments: str):
    return start("train", "--config", SMOKE, "--workdir", workdir, *SHORT, *arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    printed = finish(train(workdir))
    assert "held-out" in printed
    assert "shuffled pairs" in printed
    return workdir


def test_a_run_leaves_what_it_promises(whole):
    assert {"config.json", "corpus.json", "metrics.jsonl", "summary.json", "checkpoints", "report.html"} <= {
        entry.name for entry in whole.iterdir()
    }
    assert list(whole.glob("events*"))
    found = summary(whole)
    for name in ("question", "mean_answer", "ridge", "residual_ridge", "mlp", "shuffled"):
        assert {"similarity", "recall_at_1", "recall_at_5", "mrr", "train"} <= found["baselines"][name].keys()
    for side in ("train", "held_out"):
        assert {"similarity", "similarity_interval", "recall_at_1", "mrr"} <= found[side].keys()
    for name in (
        "parameters",
        "parameters_per_cell",
        "steps",
        "samples_per_second",
        "seconds",
        "peak_memory_bytes",
        "adapter_reconstruction",
        "pca_reconstruction",
        "versions",
        "seed",
        "data_hash",
    ):
        assert found[name] is not None
    assert len(found["samples"]) == 10
    assert [row["step"] for row in metrics(whole)] == list(range(13))


def test_a_run_that_diverges_leaves_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    broken = ("--config.optimizer.learning_rate=1e30", "--workdir", tmp_path / "run")
    assert run_here(monkeypatch, "train", "--config", SMOKE, *SHORT, *broken) == 2
    assert "stopped: loss is nan" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(("setting", "other"), [("adapter.learning_rate", "optimizer"), ("optimizer.learning_rate", "adapter")])
def test_what_diverges_names_its_own_setting(tmp_path, monkeypatch, capsys, setting, other):
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    assert run_here(monkeypatch, "train", "--config", SMOKE, *SHORT, f"--config.{setting}=1e30", "--workdir", tmp_path) == 2
    message = capsys.readouterr().err
    assert f"lower --config.{setting}" in message
    assert f"--config.{other}" not in message


def test_ctrl_c_while_the_adapter_learns_says_how_to_go_on(tmp_path, monkeypatch, capfd):
    def interrupted(*arguments, validate, **settings):
        def at_a_look(parameters):
            os.kill(os.getpid(), signal.SIGINT)
            return validate(parameters)

        return fit(*arguments, validate=at_a_look, **settings)

    fit = adaptation.fit
    monkeypatch.setattr(adaptation, "fit", interrupted)
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    assert run_here(monkeypatch, "train", "--config", SMOKE, *SHORT, "--workdir", tmp_path) == 130
    assert f"The adapter is saved at step 0; go on with --resume --workdir {tmp_path}" in capfd.readouterr().out


def test_the_run_learned(whole):
    found, rows = summary(whole), metrics(whole)
    assert np.mean([row["loss"] for row in rows[-3:]]) < np.mean([row["loss"] for row in rows[1:4]])
    assert found["held_out"]["similarity"] > found["baselines"]["shuffled"]["similarity"] + 0.1


def test_held_out_questions_are_asked_in_other_wordings_too(whole):
    found = summary(whole)
    wordings = found["edge_cases"]["wordings"]
    assert found["edge_cases"]["questions"] == found["pairs"]["held_out"]
    as_written, question = wordings["as_written"], wordings["as_written"]["baselines"]["question"]
    for name in ("similarity", "mrr", "recall_at_1"):
        assert as_written[name] == pytest.approx(found["held_out"][name], abs=1e-6)
    for name in ("similarity", "mrr"):
        assert question[name] == pytest.approx(found["baselines"]["question"][name], abs=1e-6)
    assert wordings["upper_case"]["heard"] == pytest.approx(1, abs=1e-6), "this teacher reads no capitals"
    assert wordings["without_punctuation"]["agreement"] > 0.9 > wordings["typos"]["agreement"]
    assert "Asked otherwise" in (whole / "report.html").read_text()


def test_losses_are_logged_raw_and_weighted(whole):
    row = metrics(whole)[-1]
    weighted = [row[f"weighted_{name}"] for name in ("surface_reconstruction", "internal_consistency", "dialogue_similarity")]
    assert row["weighted_dialogue_similarity"] == pytest.approx(0.4 * row["dialogue_similarity"], rel=1e-6)
    assert row["loss"] == pytest.approx(sum(weighted), rel=1e-6)


def test_what_emerged_is_held_against_its_null_models(whole):
    found = summary(whole)["emergence"]
    assert {"morans_i", "topic_selectivity", "answer_read", "front_speed", "lyapunov_exponent"} <= found.keys()
    for row in found.values():
        assert {"value", "null", "null_deviation", "z", "null_model", "definition", "range"} <= row.keys()
    assert 0 < found["front_speed"]["value"] <= 1
    stored = np.load(whole / "emergence.npz")
    passes = stored["activity"]
    assert passes.shape == stored["change"].shape == (8, 7, 4, 15, 15)
    assert np.all(passes[:, 0, 0] > 0), "the input is on the front face from the start"
    assert not passes[:, 0, 1:].any(), "and nowhere else"
    assert passes[:, -1].min() > 0
    assert len(stored["questions"]) == 8
    assert stored["topic"].max() < len(stored["topics"])
    for name in ("selectivity", "topic", "influence_gradient", "influence_ablation"):
        assert stored[name].shape == (4, 15, 15)
    for name in ("question_read", "answer_read", "question_read_null", "answer_read_null"):
        assert stored[name].shape == (7, 4)
    assert stored["perturbation"].shape == (7,)
    assert stored["layer_similarity"].shape == (4, 4)
    assert stored["question_read"][0, 0] > 0.2, "the code lies in the open on the front face"
    assert not stored["question_read"][0, 1:].any(), "and nowhere else"


def test_emergence_is_followed_while_the_cube_learns(whole):
    assert {name for name in metrics(whole)[-1] if name.startswith("emergence/")} == {f"emergence/{name}" for name in METRICS}
    for name in ("front_speed", "topic_selectivity", "perturbation_growth", "answer_read"):
        followed = {row["step"]: row[f"emergence/{name}"] for row in metrics(whole) if f"emergence/{name}" in row}
        assert list(followed) == [0, 12]
        assert followed[0] != followed[12], name


def test_one_seed_gives_identical_metrics(whole, tmp_path):
    finish(train(tmp_path / "again", *LEARNING_ALONE))
    assert metrics(tmp_path / "again") == metrics(whole)
    assert summary(tmp_path / "again")["held_out"] == summary(whole)["held_out"]


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(whole, tmp_path):
    """SIGKILL after a step drawn anew every time."""
    workdir, after = tmp_path / "killed", random.SystemRandom().randrange(1, 12)
    process = train(workdir, *LEARNING_ALONE)
    while process.poll() is None:
        if (workdir / "metrics.jsonl").exists() and len((workdir / "metrics.jsonl").read_text().splitlines()) > after:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    assert process.returncode == -signal.SIGKILL, f"ended before step {after} was seen: {process.communicate()[0]}"
    finish(train(workdir, *LEARNING_ALONE, "--resume"))
    assert metrics(workdir) == metrics(whole)
    assert summary(workdir)["held_out"] == summary(whole)["held_out"]


def test_evaluate_repeats_the_verdict(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    assert run_here(monkeypatch, "evaluate", "--workdir", tmp_path / "copy") == 0
    again, first = summary(tmp_path / "copy"), summary(whole)
    assert again["held_out"]["similarity"] == pytest.approx(first["held_out"]["similarity"], abs=1e-5)
    for name, row in first["emergence"].items():
        assert again["emergence"][name]["value"] == pytest.approx(row["value"], abs=1e-4), name


def test_ask_shows_known_answers(whole, monkeypatch, capsys):
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    assert run_here(monkeypatch, "ask", "--workdir", whole, "What is a pipeline?", "--count", 3) == 0
    printed = capsys.readouterr().out
    similarities = [float(line.split()[0]) for line in printed.splitlines() if line[:2] in ("0.", "-0", "1.")]
    assert len(similarities) == 3
    assert similarities == sorted(similarities, reverse=True)


class Typed(io.StringIO):
    """Standard input at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("source", "shown"), [(io.StringIO, "? What is a pipeline?\n"), (Typed, "press Enter alone to end\n")])
def test_questions_are_read_one_after_the_other_and_the_teacher_once(whole, monkeypatch, capsys, source, shown):
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    loaded, load = [], cache.load_teacher
    monkeypatch.setattr(cache, "load_teacher", lambda config: loaded.append(config) or load(config))
    asked = ["What is a pipeline?", "Why would one scale features?"]
    told = []
    for question in asked:
        assert run_here(monkeypatch, "ask", "--workdir", whole, question, "--count", 1) == 0
        told.append(capsys.readouterr().out.splitlines()[-2])
    loaded.clear()
    monkeypatch.setattr(sys, "stdin", source("\n".join([*asked, "", ""])))
    assert run_here(monkeypatch, "ask", "--workdir", whole, "--count", 1) == 0
    printed = capsys.readouterr().out
    assert shown in printed
    assert [line for line in printed.splitlines() if line in told] == told
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("given", "refusal"),
    [(b"", "there is no question"), (b"What is a caf\xe9?\n", "the questions are not UTF-8: invalid continuation byte")],
)
def test_questions_that_are_none_are_refused(whole, monkeypatch, capsys, given, refusal):
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    assert run_here(monkeypatch, "ask", "--workdir", whole) == 2
    assert f"error: {refusal}" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    copy = tmp_path / "damaged"
    shutil.copytree(whole, copy)
    largest = max((copy / "checkpoints" / "12").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:100])
    before = (copy / "metrics.jsonl").read_bytes()
    assert run_here(monkeypatch, "train", "--config", SMOKE, "--workdir", copy, *SHORT, "--resume") == 2
    message = capsys.readouterr().err
    assert largest.name in message
    assert "expected:" in message
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_answers_are_shown_as_they_are_written(whole, monkeypatch, capsys):
    """Brackets in a text are not the console's markup."""
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    bracketed = [pair.answer for pair in load_pairs("hundred") if "[scikit-learn]" in pair.answer]
    assert bracketed
    assert run_here(monkeypatch, "ask", "--workdir", whole, "What does [/b] mean?", "--count", 144) == 0
    printed = "".join(capsys.readouterr().out.split())
    for answer in bracketed:
        assert "".join(answer.split()) in printed


def test_a_run_of_another_kind_of_machine_is_asked_with_an_engine_of_this_one(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(SMOKE).parent.parent)
    told = []
    shutil.copytree(whole, tmp_path / "moved")
    settings = json.loads((whole / "config.json").read_text())
    assert settings["lattice"]["engine"] == "native"
    settings["lattice"] |= {"engine": "fused", "devices": 1}
    (tmp_path / "moved" / "config.json").write_text(json.dumps(settings))
    for folder in (whole, tmp_path / "moved"):
        assert run_here(monkeypatch, "ask", "--workdir", folder, "What is a pipeline?", "--count", 1) == 0
        told.append(capsys.readouterr().out.splitlines()[-2])
    assert told[0] == told[1]
