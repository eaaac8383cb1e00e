"""A run's folder, read for its report: what is damaged is named, settings are told and repeated."""

import json

import pytest
from run_folder import measures, write_run

from lattice_jax.config import Config, GridConfig, LatticeConfig, TrainingConfig
from lattice_jax.errors import InputError
from lattice_jax.evaluation.report.record import (
    changed_settings,
    configuration_source,
    differing_settings,
    read_run,
    told_apart,
)
from lattice_jax.records import flat

SETTINGS = Config(seed=5, lattice=LatticeConfig(grid=GridConfig(depth=4), steps=9), training=TrainingConfig(steps=7))


def test_the_source_repeats_the_run():
    made = {}
    exec(configuration_source(json.loads(json.dumps(SETTINGS.as_dict()))), made)
    assert made["CONFIG"] == SETTINGS


def test_the_source_names_settings_of_another_version():
    source = configuration_source(SETTINGS.as_dict() | {"later": {"rate": 2}})
    made = {}
    exec(source, made)
    assert made["CONFIG"] == SETTINGS
    assert "later.rate" in source.splitlines()[0]


def test_changed_and_differing_settings_are_named(tmp_path):
    assert changed_settings(SETTINGS.as_dict()) == {
        "seed": (5, 0),
        "lattice.grid.depth": (4, 11),
        "lattice.steps": (9, 16),
        "training.steps": (7, 200),
    }
    runs = [read_run(write_run(tmp_path / name, config=config)) for name, config in (("a", Config()), ("b", SETTINGS))]
    assert differing_settings(runs)["lattice.grid.depth"] == [11, 4]
    assert flat({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [tmp_path / path for path in ("a/one/seed-0", "b/one/seed-0", "b/two/seed-0", "c/seed-1")]
    runs = [read_run(write_run(folder)) for folder in folders]
    assert [run.name for run in told_apart(runs)] == ["a/one/seed-0", "b/one/seed-0", "two/seed-0", "seed-1"]
    assert told_apart(runs[:1]) == runs[:1]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("emergence.npz", b"PK torn", r"emergence\.npz can't be read"),
        ("summary.json", b"{", r"summary\.json can't be read"),
        ("summary.json", b"{}", r"summary\.json can't be read: it has no held_out"),
        ("summary.json", b"\xff\xfe{", r"summary\.json"),
        ("trial.json", b"{}", r"trial\.json can't be read: it has no outcome"),
        ("config.json", b"[]", r"config\.json"),
        ("config.json", b"{}", r"config\.json can't be read: it has no corpus"),
        ("metrics.jsonl", b"5\n", r"metrics\.jsonl, line 1, is no object"),
        ("metrics.jsonl", b"\xff\n", r"metrics\.jsonl, line 1, is not JSON"),
        ("alerts.jsonl", b'{"step": 3}\n', r"alerts\.jsonl has an alert without 'kind'"),
    ],
)
def test_damaged_files_are_named(name, content, told, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"verdict": None}, r"summary\.json can't be read: verdict is null"),
        ({"samples": {}}, r"summary\.json can't be read: samples is an object"),
        ({"held_out": {"similarity": 0.6}}, r"summary\.json can't be read: it has no held_out\.pairs"),
        ({"held_out": {"similarity": 0.6, "pairs": 40}}, r"held_out in .*summary\.json can't be read: it has no mrr"),
        ({"train": {"similarity": "high"}}, r"summary\.json can't be read: train\.similarity is a text"),
        ({"adapter_ceiling": measures(0.9) | {"mrr": None}}, r"adapter_ceiling in .*summary\.json can't be read: mrr is null"),
        ({"baselines": {"ridge": 0.6}}, r"baselines\.ridge in .*summary\.json can't be read: it holds a number, no object"),
        ({"emergence": {"morans_i": 0.3}}, r"emergence\.morans_i in .*summary\.json can't be read"),
    ],
)
def test_figures_of_another_kind_are_named(change, told, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").write_text(json.dumps(json.loads((folder / "summary.json").read_text()) | change))
    with pytest.raises(InputError, match=told):
        read_run(folder)


def test_a_truncated_archive_is_named(tmp_path):
    folder = write_run(tmp_path / "run")
    whole_file = (folder / "emergence.npz").read_bytes()
    for length in (40, len(whole_file) // 2, len(whole_file) - 30):
        (folder / "emergence.npz").write_bytes(whole_file[:length])
        with pytest.raises(InputError, match=r"emergence\.npz can't be read"):
            read_run(folder)
