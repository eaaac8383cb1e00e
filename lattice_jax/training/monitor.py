"""What a person sees of a run while it learns, and what stays of it afterwards.

Contract: `<workdir>/metrics.jsonl` is the source of truth, one JSON object a step, flushed at every write: `{"step": s,
<metrics>, "timing": {"seconds": …, "samples_per_second": …}}`. Everything outside "timing" is a pure function of the
configuration, so a resumed run, which cuts the rows after its checkpoint, ends with the rows of an uninterrupted one.
TensorBoard events beside it hold the same numbers, those of "timing" as `timing/<name>`. On a terminal a progress line shows
the last values; elsewhere one plain line is printed at every look at the validation pairs. What detectors find wrong
(`alerts.py`) is printed once when it begins, and stays in `<workdir>/alerts.jsonl` and in TensorBoard, as text.
"""

import contextlib
import json
import os
import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from tensorboardX import SummaryWriter

from lattice_jax.errors import InputError
from lattice_jax.training.alerts import Alert, Detector, NonFinite, Watch

METRICS = "metrics.jsonl"
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ALERTS = "alerts.jsonl"
_SHOWN = {"loss": "loss", "similarity": "similarity", "validation_similarity": "validation"}
_STEPS_OF_RATE = 20
"""Steps whose median rate is shown: the last one alone, at a look, waited for the validation pairs."""


class Monitor:
    """Records and shows the metrics of one run; a context manager, closed in order whatever happens inside."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        steps: int,
        batch_size: int,
        print_every: int,
        resume_step: int | None = None,
        console: Console | None = None,
        detectors: Mapping[str, Detector] | None = None,
    ):
        """`resume_step` None starts a new record and refuses to touch an old one; else the rows after that step are cut.

        `detectors` are what the run is watched for, by the kind of their alerts; none by default.
        """
        self._path, self._alerts_path = Path(workdir) / METRICS, Path(workdir) / ALERTS
        self._steps, self._batch_size, self._print_every, self._resume_step = steps, batch_size, print_every, resume_step
        self._console = console or Console()
        self._shown: dict[str, float] = {}
        self._rates: deque[float] = deque(maxlen=_STEPS_OF_RATE)
        self._watch = Watch(detectors or {})
        self._process = psutil.Process()

    def __enter__(self) -> "Monitor":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._resume_step is not None:
            cut_metrics(self._path, self._resume_step)
            cut_metrics(self._alerts_path, self._resume_step)
            for row in read_metrics(self._path) if self._path.exists() else []:
                self._watch.see(row)  # what they tell is in the alerts that were kept
        elif self._path.exists() and self._path.stat().st_size:
            raise InputError(
                f"{self._path} already records a run",
                expected="a folder without metrics",
                fix="continue that run with --resume, or take another --workdir",
            )
        self._rows = self._path.open("a", buffering=1)
        purge_step = None if self._resume_step is None else self._resume_step + 1
        self._events = SummaryWriter(str(self._path.parent), purge_step=purge_step)
        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("compiling", total=self._steps, completed=self._resume_step or 0)
        self._progress.start()
        self._last_time = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, NonFinite):
            self._alert(error.alert())
        self._progress.stop()
        self._events.close()
        self._rows.close()

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the row of `step` and moves the display on."""
        now = time.perf_counter()
        timing = {"seconds": now - self._last_time, "memory_bytes": self._process.memory_info().rss}
        if "loss" in metrics:
            timing["samples_per_second"] = self._batch_size / timing["seconds"]
            self._rates.append(timing["samples_per_second"])
        self._last_time = now
        row = {"step": step, **metrics, "timing": timing}
        self._rows.write(json.dumps(row, allow_nan=False) + "\n")
        for name, value in {**metrics, **{f"timing/{name}": value for name, value in timing.items()}}.items():
            self._events.add_scalar(name, value, step)
        self._show(step, metrics)
        for alert in self._watch.see(row):
            self._alert(alert)

    def _alert(self, alert: Alert) -> None:
        with self._alerts_path.open("a") as file:
            file.write(json.dumps(alert._asdict()) + "\n")
        self._events.add_text(f"alerts/{alert.kind}", f"{alert.message}\n\nfix: {alert.fix}", alert.step)
        told = Text(f"step {alert.step}, {alert.kind.replace('_', ' ')}: ", style="bold yellow")
        self._console.print(told.append(f"{alert.message}\n  fix: {alert.fix}", style="not bold"), soft_wrap=True)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        self._shown.update(values)
        parts = [f"{label} {self._shown[name]:.4f}" for name, label in _SHOWN.items() if name in self._shown]
        if self._rates:
            parts.append(f"{statistics.median(self._rates):.1f} samples/s")
        line = "  ".join(parts)
        self._progress.update(self._task, completed=step, description=line)
        if not self._console.is_terminal and (step % self._print_every == 0 or step == self._steps):
            self._console.print(f"step {step}/{self._steps}  {line}", highlight=False, soft_wrap=True)


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The rows of a file of metrics or alerts; a last line torn by a kill is left out."""
    *lines, _torn = Path(path).read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row, found = json.loads(line), "is no object with a step"
        except ValueError as error:
            row, found = None, f"is not JSON ({error})"
        if not isinstance(row, dict) or "step" not in row:
            raise InputError(
                f"{path}, line {number}, {found}",
                expected="one JSON object a line",
                fix=f"delete line {number}, or take another --workdir",
            )
        rows.append(row)
    return rows


def cut_metrics(path: str | os.PathLike, step: int) -> None:
    """Removes the rows after `step` from a file of metrics or alerts, atomically; a missing file stays missing."""
    path = Path(path)
    if not path.exists():
        return
    rows = [row for row in read_metrics(path) if row["step"] <= step]
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def median_samples_per_second(rows: Sequence[Mapping]) -> float | None:
    """Median over the steps but the first, which waits for compilation; None when no step was measured."""
    rates = [row["timing"]["samples_per_second"] for row in rows if "samples_per_second" in row["timing"]]
    return statistics.median(rates[1:] or rates) if rates else None


def reset_peak_memory() -> None:
    """Let `peak_memory_bytes` count from here on, so that a run doesn't report that of one before it in the same process.

    Linux alone can; elsewhere it counts from the start of the process.
    """
    if _FORGET.exists():
        with contextlib.suppress(PermissionError):  # a container may forbid it, and no run should end for that
            _FORGET.write_text("5")


def peak_memory_bytes() -> int:
    """The most memory that this process has held, in bytes, since `reset_peak_memory` if it was called."""
    if not _STATUS.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # Linux counts the memory of whoever started a process into its `ru_maxrss`, but not into this.
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
