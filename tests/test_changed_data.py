"""A run is judged on pairs that were held out when it was trained: texts that have changed since are refused."""

import json
import shutil
from pathlib import Path

import pytest
from program import ROOT, SMOKE, run_here
from rich.console import Console

from lattice_jax import trial
from lattice_jax.commandline import load_config, read_config_record
from lattice_jax.config.overrides import with_settings
from lattice_jax.corpus.pairs import load_pairs
from lattice_jax.errors import InputError
from lattice_jax.material import gather, record_corpus, require_same_corpus

SETTINGS = {
    "training.steps": 2,
    "training.evaluate_every": 2,
    "training.checkpoint_every": 2,
    "adapter.steps": 2,
    "emergence.every": 0,
    "corpus.held_out_pairs": 8,
    "corpus.validation_pairs": 4,
}
QUICK = tuple(f"--config.{name}={value}" for name, value in SETTINGS.items())


def write(file: Path, skipped: int) -> None:
    """Forty real pairs, from the one numbered `skipped` on."""
    pairs = load_pairs("hundred")[skipped : skipped + 40]
    file.write_text("".join(json.dumps({"question": pair.question, "answer": pair.answer}) + "\n" for pair in pairs))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """The folder of a run that was trained, and its file of pairs. Its summary holds what is compared: judging takes long."""
    folder = tmp_path_factory.mktemp("changed")
    write(folder / "pairs.jsonl", 0)
    config = with_settings(load_config(Path(SMOKE)), SETTINGS | {"corpus.pairs": str(folder / "pairs.jsonl")})
    shared = trial.Shared(folder / "adapters", Console(quiet=True))
    found = trial.train(config, folder / "run", shared, resume=False).material.corpus
    (folder / "run" / "summary.json").write_text(json.dumps({"data_hash": found.hash, "training_operations": 1.0, "steps": 2}))
    return folder / "run", folder / "pairs.jsonl"


@pytest.fixture(params=["recorded", "of before the record"])
def changed(request, trained, tmp_path):
    """A copy of the run, whose pairs have been edited since; once with the record of an earlier version alone."""
    workdir, pairs = trained
    shutil.copytree(workdir, tmp_path / "run")
    if request.param != "recorded":
        (tmp_path / "run" / "corpus.json").unlink()
    before = pairs.read_text()
    write(pairs, 1)
    yield tmp_path / "run", pairs
    pairs.write_text(before)


@pytest.mark.parametrize("program", ["train", "evaluate", "ask", "ensemble"])
def test_texts_that_have_changed_since_are_refused(changed, trained, monkeypatch, capsys, program):
    workdir, pairs = changed
    before = {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()}
    arguments = {
        "train": ("train", "--config", SMOKE, *QUICK, f"--config.corpus.pairs={pairs}", "--resume"),
        "evaluate": ("evaluate",),
        "ask": ("ask", "What is a pipeline?"),
        "ensemble": ("evaluate", "--workdir", trained[0]),
    }
    monkeypatch.chdir(ROOT)
    assert run_here(monkeypatch, *arguments[program], "--workdir", workdir) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "are not those of the run in" in message
    assert "data_hash" in message
    assert "--config.corpus.pairs" in message
    assert {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()} == before


def test_a_run_of_before_the_record_is_asked_on_the_texts_of_its_summary(trained, tmp_path, monkeypatch):
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "corpus.json").unlink()
    monkeypatch.chdir(ROOT)
    assert run_here(monkeypatch, "ask", "What is a pipeline?", "--workdir", tmp_path / "run") == 0


@pytest.mark.parametrize("role", ["resumed", "start", "adapter"])
def test_a_trial_goes_on_from_what_was_trained_on_the_same_texts_alone(changed, tmp_path, role):
    workdir, _ = changed
    config = read_config_record(workdir)
    shared = trial.Shared(tmp_path / "adapters", Console(quiet=True))
    options = {"resume": True} if role == "resumed" else {"resume": False, role: workdir}
    folder = workdir if role == "resumed" else tmp_path / "next"
    with pytest.raises(InputError, match="are not those of the run in"):
        trial.train(config, folder, shared, **options)


def test_another_division_of_the_same_texts_is_refused(trained, tmp_path):
    found = gather(read_config_record(trained[0])).corpus
    record_corpus(found, tmp_path, resume=False)
    require_same_corpus(found, tmp_path)
    written = json.loads((tmp_path / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps(written | {"division_hash": "other"}))
    with pytest.raises(InputError, match=r"the division into .* are not those of the run"):
        require_same_corpus(found, tmp_path)
