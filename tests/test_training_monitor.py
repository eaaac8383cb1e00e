"""The record of a run and what is shown of it."""

import io
import itertools
import json
import math
import subprocess
import sys
import time

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog

from lattice_jax.errors import InputError
from lattice_jax.training.alerts import DETECTORS
from lattice_jax.training.loop import NonFiniteLoss
from lattice_jax.training.monitor import (
    ALERTS,
    METRICS,
    Monitor,
    cut_metrics,
    median_samples_per_second,
    peak_memory_bytes,
    read_metrics,
)


def monitor(workdir, **keywords):
    settings = {"steps": 40, "batch_size": 8, "print_every": 20, "console": Console(file=io.StringIO(), width=120)}
    return Monitor(workdir, **{**settings, **keywords})


def fill(recorder, first, last):
    for step in range(first, last + 1):
        recorder.record(
            step, {"loss": 1 / step, "similarity": 0.5, **({"validation_similarity": 0.4} if step % 20 == 0 else {})}
        )


def without_timing(path):
    return [{name: value for name, value in row.items() if name != "timing"} for row in read_metrics(path)]


def test_rows_hold_the_figures_and_timing_apart(tmp_path):
    with monitor(tmp_path) as recorder:
        recorder.record(0, {"validation_similarity": 0.1})
        recorder.record(1, {"loss": 0.7, "gradient_norm": 2.0})
        # Flushed at every write: readable while the run goes on.
        assert without_timing(tmp_path / METRICS) == [
            {"step": 0, "validation_similarity": 0.1},
            {"step": 1, "loss": 0.7, "gradient_norm": 2.0},
        ]
    first, second = read_metrics(tmp_path / METRICS)
    assert set(first["timing"]) == {"seconds", "memory_bytes"}
    # The kernel counts pages a thread at a time, so the present figure may run ahead of the peak by a few.
    assert 10**7 < first["timing"]["memory_bytes"] <= 1.01 * peak_memory_bytes()
    assert second["timing"]["samples_per_second"] == pytest.approx(8 / second["timing"]["seconds"])


def test_resumed_record_equals_an_uninterrupted_one(tmp_path):
    with monitor(tmp_path / "whole") as recorder:
        fill(recorder, 1, 40)
    with monitor(tmp_path / "parts") as recorder:
        fill(recorder, 1, 27)
    with (tmp_path / "parts" / METRICS).open("a") as file:
        file.write('{"step": 28, "loss": 0.0')  # torn by a kill
    with monitor(tmp_path / "parts", resume_step=20) as recorder:
        fill(recorder, 21, 40)
    assert without_timing(tmp_path / "parts" / METRICS) == without_timing(tmp_path / "whole" / METRICS)


def test_cut_keeps_the_rows_as_they_were(tmp_path):
    path = tmp_path / METRICS
    rows = [json.dumps({"step": step, "loss": 0.1 + step, "timing": {"seconds": 0.3}}) for step in range(6)]
    path.write_text("\n".join(rows) + "\n")
    cut_metrics(path, 3)
    assert path.read_text() == "\n".join(rows[:4]) + "\n"
    cut_metrics(tmp_path / "absent.jsonl", 3)
    assert [entry.name for entry in tmp_path.iterdir()] == [METRICS]


def test_damaged_row_is_named(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 0}\nnot json\n{"step": 2}\n')
    with pytest.raises(InputError, match="line 2, is not JSON"):
        monitor(tmp_path, resume_step=2).__enter__()


def test_record_of_another_run_is_left_alone(tmp_path):
    with monitor(tmp_path) as recorder:
        fill(recorder, 1, 3)
    before = (tmp_path / METRICS).read_bytes()
    with pytest.raises(InputError, match="already records a run"):
        monitor(tmp_path).__enter__()
    assert (tmp_path / METRICS).read_bytes() == before


def test_tensorboard_holds_the_same_figures(tmp_path):
    with monitor(tmp_path) as recorder:
        fill(recorder, 1, 3)
    (path,) = tmp_path.glob("events*")
    expected = recorded_scalars(tmp_path)
    assert [tag for step, tag, _ in expected if step == 3] == [
        "loss",
        "similarity",
        "timing/seconds",
        "timing/memory_bytes",
        "timing/samples_per_second",
    ]
    assert_same_scalars(shown_scalars([path]), expected)


def test_tensorboard_of_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    with monitor(tmp_path) as recorder:
        fill(recorder, 1, 27)
    (path,) = tmp_path.glob("events*")
    # Event files are named by the second in which they begin; a run that goes on begins later.
    before = path.rename(tmp_path / "before")
    with monitor(tmp_path, resume_step=20) as recorder:
        fill(recorder, 21, 40)
    (after,) = tmp_path.glob("events*")
    assert_same_scalars(shown_scalars([before, after]), recorded_scalars(tmp_path))


def recorded_scalars(workdir):
    """(step, tag, value) of every figure in the metrics file."""
    return [
        (row["step"], tag, value)
        for row in read_metrics(workdir / METRICS)
        for tag, value in {
            **{name: value for name, value in row.items() if name not in ("step", "timing")},
            **{f"timing/{name}": value for name, value in row["timing"].items()},
        }.items()
    ]


def shown_scalars(paths):
    """(step, tag, value) of what TensorBoard shows: a session that starts at a step purges what was there from it on."""
    scalars = []
    for path in paths:
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                scalars = [scalar for scalar in scalars if scalar[0] < event.step]
            scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return scalars


def assert_same_scalars(found, expected):
    assert [scalar[:2] for scalar in found] == [scalar[:2] for scalar in expected]
    assert [scalar[2] for scalar in found] == pytest.approx([scalar[2] for scalar in expected])


def events(path):
    """The records of an event file: length (8 bytes), its checksum (4), content, its checksum (4)."""
    content = path.read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_without_a_terminal_one_line_a_look(tmp_path):
    output = io.StringIO()
    with monitor(tmp_path, console=Console(file=output, width=120)) as recorder:
        fill(recorder, 1, 40)
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 20/40  loss 0.0500  similarity 0.5000  validation 0.4000")
    assert lines[0].endswith("samples/s")


def test_the_rate_shown_at_a_look_is_not_that_of_the_step_which_waited_for_it(tmp_path, monkeypatch):
    output, seconds = io.StringIO(), itertools.chain(range(20), [100, 101])
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    with monitor(tmp_path, console=Console(file=output, width=120)) as recorder:
        fill(recorder, 1, 20)
    assert output.getvalue().splitlines()[0].endswith("  8.0 samples/s")


def test_terminal_shows_progress_and_is_restored_after_an_error(tmp_path):
    output = io.StringIO()
    console = Console(file=output, width=140, force_terminal=True)
    recorder = monitor(tmp_path, console=console)

    def fail_at_step_20():
        with recorder:
            fill(recorder, 1, 20)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_at_step_20()
    shown = output.getvalue()
    assert "20/40" in shown
    assert "validation 0.4000" in shown
    assert "left" in shown
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l") == 1, "the cursor is hidden once and shown again"
    with pytest.raises(ValueError, match="closed"):
        recorder.record(21, {"loss": 0.1})


def test_median_leaves_the_compiled_step_out():
    def row(rate):
        return {"timing": {"seconds": 1.0} if rate is None else {"seconds": 1.0, "samples_per_second": rate}}

    assert median_samples_per_second([row(None), row(1000.0), row(5.0), row(7.0), row(6.0)]) == 6.0
    assert median_samples_per_second([row(None), row(3.0)]) == 3.0
    assert median_samples_per_second([row(None)]) is None


def test_peak_memory_counts_what_was_held():
    """In a process of its own: to be above the peak of one that ran hundreds of tests takes gigabytes."""
    program = """
from lattice_jax.training.monitor import peak_memory_bytes, reset_peak_memory
before = peak_memory_bytes()
held = b"x" * (before + 50_000_000)
print(before, peak_memory_bytes() - before, len(held))
del held
reset_peak_memory()
print(peak_memory_bytes())
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    before, risen, held, after = map(int, printed.split())
    assert before > 10_000_000
    assert 40_000_000 < risen < held + 200_000_000
    assert after < before + 20_000_000 or sys.platform != "linux"


BY_FIGURES = {kind: detector for kind, detector in DETECTORS.items() if kind != "throughput"}
"""Those that don't read the clock."""


def fill_overfitted(recorder, first, last):
    """Training similarity rises throughout; validation falls after step 30."""
    for step in range(first, last + 1):
        look = {"validation_similarity": 0.6 - 0.001 * max(0, step - 30)} if step % 10 == 0 else {}
        recorder.record(step, {"loss": 1.0, "similarity": 0.5 + 0.005 * step, **look})


def test_an_alert_is_told_once_and_kept(tmp_path):
    output = io.StringIO()
    with monitor(tmp_path, detectors=BY_FIGURES, console=Console(file=output, width=100)) as recorder:
        fill_overfitted(recorder, 1, 90)
    (alert,) = read_metrics(tmp_path / ALERTS)
    assert (alert["kind"], alert["step"]) == ("overfitting", 60)
    assert output.getvalue().count("overfitting: ") == 1
    assert "fix: " in output.getvalue()
    (path,) = tmp_path.glob("events*")
    texts = {
        value.tag: (event.step, value.tensor) for event in events(path) for value in event.summary.value if "alert" in value.tag
    }
    ((tag, (step, tensor)),) = texts.items()
    assert tag.startswith("alerts/overfitting")
    assert step == 60
    assert alert["message"].encode() in tensor.SerializeToString()


@pytest.mark.parametrize("stop", [45, 60, 75])
def test_resumed_alerts_equal_those_of_an_uninterrupted_run(tmp_path, stop):
    with monitor(tmp_path / "whole", detectors=BY_FIGURES) as recorder:
        fill_overfitted(recorder, 1, 90)
    with monitor(tmp_path / "parts", detectors=BY_FIGURES) as recorder:
        fill_overfitted(recorder, 1, stop)
    with monitor(tmp_path / "parts", detectors=BY_FIGURES, resume_step=stop - 7) as recorder:
        fill_overfitted(recorder, stop - 6, 90)
    assert (tmp_path / "parts" / ALERTS).read_text() == (tmp_path / "whole" / ALERTS).read_text()


def test_a_figure_that_is_no_number_is_the_last_alert(tmp_path):
    error = NonFiniteLoss("loss", math.nan, 5, None)
    recorder = monitor(tmp_path)

    def diverge():
        with recorder:
            fill(recorder, 1, 4)
            raise error

    with pytest.raises(NonFiniteLoss):
        diverge()
    (alert,) = read_metrics(tmp_path / ALERTS)
    assert (alert["kind"], alert["step"], alert["message"]) == ("non_finite", 5, "loss is nan at step 5")
    assert "learning_rate" in alert["fix"]


def test_a_run_that_is_not_watched_raises_no_alert(tmp_path):
    with monitor(tmp_path) as recorder:
        fill_overfitted(recorder, 1, 90)
    assert not (tmp_path / ALERTS).exists()
