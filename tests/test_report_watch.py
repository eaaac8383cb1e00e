"""A run that is watched: its page is renewed until it ends, whichever way that is."""

import json
import threading
import time
from pathlib import Path

import pytest
from program import run_here
from run_folder import summary, write_run
from test_evaluation_report import Page

from lattice_jax.evaluation.report.page import write_page
from lattice_jax.evaluation.report.record import read_run


def going_on(folder: Path) -> Path:
    """A run that has not ended, with few figures, since each costs time to draw."""
    write_run(folder, whole=False)
    (folder / "metrics.jsonl").write_text('{"step": 19, "loss": 0.5}\n{"step": 20, "loss": 0.25}\n')
    return folder


def test_the_program_watches_until_the_run_has_ended(tmp_path, monkeypatch, capsys):
    folder = going_on(tmp_path / "run")
    (folder / "summary.json").write_text(json.dumps(summary(0.64)))
    assert run_here(monkeypatch, "report", folder, "--out", tmp_path / "a" / "page.html", "--watch", "--interval", "1") == 0
    assert "http-equiv" not in (tmp_path / "a" / "page.html").read_text(), "the page of an ended run stays as it is"
    assert "page.html" in capsys.readouterr().out


def test_a_run_is_watched_until_it_ends(tmp_path, monkeypatch):
    folder, page, seen = going_on(tmp_path / "run"), tmp_path / "page.html", []

    def end_once_watched():
        while not page.exists():
            time.sleep(0.05)
        seen.append(page.read_text())
        (folder / "summary.tmp").write_text(json.dumps(summary(0.64)))
        (folder / "summary.tmp").rename(folder / "summary.json")

    (run := threading.Thread(target=end_once_watched, daemon=True)).start()
    assert run_here(monkeypatch, "report", folder, "--out", page, "--watch", "--interval", "1") == 0
    run.join()
    assert '<meta http-equiv="refresh" content="1">' in seen[0]
    assert "ended after 20 steps" in page.read_text()
    assert "http-equiv" not in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "page.html"}


@pytest.mark.parametrize("outcome", ["trained and not judged", "pruned"])
def test_a_run_that_stops_short_of_its_verdict_has_ended(outcome, tmp_path, monkeypatch):
    folder = going_on(tmp_path / "trial-0001")
    assert not read_run(folder).ended
    (folder / "trial.json").write_text(json.dumps({"outcome": outcome}))
    assert run_here(monkeypatch, "report", folder, "--watch", "--interval", "1") == 0
    text = " ".join("".join(Page((folder / "report.html").read_text()).text).split())
    assert f"step 20 of 200, {outcome}" in text
    assert f"None: the run ended at step 20 of 200, {outcome}." in text


def test_two_programs_may_write_one_page_at_once(tmp_path, monkeypatch):
    """A run that ends and one that watches it: the other writes just before this one puts its page in place."""
    folder, page, replace = going_on(tmp_path / "run"), tmp_path / "page.html", Path.replace

    def replace_after_another(temporary, target):
        monkeypatch.setattr(Path, "replace", replace)
        write_page([folder], page, refresh=7)
        assert 'content="7"' in page.read_text()
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", replace_after_another)
    write_page([folder], page, refresh=5)
    assert 'content="5"' in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "page.html"}


def test_a_run_that_diverged_has_ended(tmp_path, monkeypatch):
    folder = going_on(tmp_path / "run")
    stopped = {"kind": "non_finite", "step": 21, "message": "loss is nan at step 21", "fix": "learn more slowly"}
    (folder / "alerts.jsonl").write_text(json.dumps(stopped) + "\n")
    assert run_here(monkeypatch, "report", folder, "--watch", "--interval", "1") == 0
    text = " ".join("".join(Page((folder / "report.html").read_text()).text).split())
    assert "step 20 of 200, stopped: loss is nan at step 21" in text
    assert "learn more slowly" in text


def test_what_is_followed_is_defined_before_the_run_has_ended(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", whole=False)
    assert run_here(monkeypatch, "report", folder) == 0
    text = " ".join("".join(Page((folder / "report.html").read_text()).text).split())
    assert "Spatial autocorrelation of the last state over 26 neighbours (Moran's I)." in text
