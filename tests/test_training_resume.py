"""A run that was killed or interrupted, and resumed, equals one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import training_task as task

from lattice_jax.training.checkpoint import Checkpoints
from lattice_jax.training.monitor import METRICS, read_metrics

REPOSITORY = Path(__file__).parents[1]


def launch(workdir, *flags):
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as in this process, since results have to agree to the last bit
    }
    command = [sys.executable, str(REPOSITORY / "tests" / "training_task.py"), str(workdir), *flags]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process) -> dict:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def signal_at(process, workdir, row, number):
    """Sends the signal once `row` rows are recorded."""
    path = workdir / METRICS
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < row:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)


def outcome(workdir):
    """Every figure that does not depend on the clock, the last step, and the bytes of what was learned."""
    rows = [{name: value for name, value in row.items() if name != "timing"} for row in read_metrics(workdir / METRICS)]
    checkpoints = Checkpoints(workdir / "checkpoints")
    learned = checkpoints.restore_best(task.initial_params())
    return rows, checkpoints.latest, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(learned)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    result = task.run(workdir)
    assert result.step == task.TRAINING.steps
    assert [row["step"] for row in read_metrics(workdir / METRICS)] == list(range(task.TRAINING.steps + 1))
    return outcome(workdir)


def test_two_runs_of_one_seed_are_identical(uninterrupted, tmp_path):
    task.run(tmp_path)
    assert outcome(tmp_path) == uninterrupted


def test_finished_run_resumes_to_the_same_result(uninterrupted, tmp_path):
    task.run(tmp_path)
    result = task.run(tmp_path, resume=True)
    assert (result.step, result.checkpoint) == (task.TRAINING.steps, None)
    assert outcome(tmp_path) == uninterrupted


def test_killed_at_random_and_resumed_equals_uninterrupted(uninterrupted, tmp_path):
    kills = sorted(random.sample(range(task.TRAINING.checkpoint_every + 2, task.TRAINING.steps - 1), 2))
    process = launch(tmp_path)
    for row in kills:
        signal_at(process, tmp_path, row, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert Checkpoints(tmp_path / "checkpoints").latest < task.TRAINING.steps
        process = launch(tmp_path, "--resume")
    finish(process)
    assert outcome(tmp_path) == uninterrupted, f"killed after {kills} rows"


def test_interrupted_run_saves_and_resumes(uninterrupted, tmp_path):
    flags = ()
    for row, number in ((23, signal.SIGINT), (90, signal.SIGTERM)):
        process = launch(tmp_path, *flags)
        signal_at(process, tmp_path, row, number)
        result = finish(process)
        assert "interrupted" in result
        assert row - 1 <= result["step"] < task.TRAINING.steps
        assert Checkpoints(tmp_path / "checkpoints").latest == result["step"]
        assert read_metrics(tmp_path / METRICS)[-1]["step"] == result["step"]
        flags = ("--resume",)
    assert "interrupted" not in finish(launch(tmp_path, *flags))
    assert outcome(tmp_path) == uninterrupted
