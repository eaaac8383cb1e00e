"""Cases timed in turns, each in a fresh process, and what is made of their seconds.

Contract: `measure` starts a process a case, one after the other, lets each warm up, and then lets all of them measure in turns,
forth and back, so that whatever else the machine does falls on all alike. Figures are medians; quartiles tell the spread.
"""

import os
import pickle
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lattice_jax.errors import InputError

from .cases import ROOT, Case, small
from .worker import START, Job, Ready, Refused, Turn
from .workload import load_text

Tell = Callable[[str], None]
"""Takes a line about what is going on."""


def environment(case: Case) -> dict[str, str]:
    """This one's, without the glibc settings that the case does without, and memory on accelerators as it is needed."""
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    if case.without_tunables:
        tunables = [setting for setting in tunables if not setting.startswith(case.without_tunables)]
    return {**os.environ, "GLIBC_TUNABLES": ":".join(tunables), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Worker:
    """One case in its process; a context manager, because the process must not outlive it."""

    def __init__(self, name: str, case: Case):
        self.name, self.case = name, case
        text, small_text = load_text(case.config), load_text(small(case.config)) if case.check else None
        self._process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment(case),
        )
        self._send(case.cores)
        self.ready: Ready = self._ask(Job(case, text, small_text))
        self.seconds: list[float] = []
        self.turns = 0
        self.peak_memory_bytes = 0

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _send(self, request: object) -> None:
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()

    def _ask(self, request: object):
        try:
            self._send(request)
            reply = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            self._process.wait()
            if self._process.returncode == -9:
                raise InputError(
                    f"the process of {self.name!r} was killed, probably for want of memory",
                    expected="memory for its batch and steps",
                    fix="lower --config.training.batch-size",
                ) from None
            raise RuntimeError(f"the process of {self.name!r} ended with code {self._process.returncode}") from None
        except BaseException:
            self.__exit__()
            raise
        if isinstance(reply, Refused):
            self.__exit__()
            raise InputError(reply.found, expected=reply.expected, fix=reply.fix)
        return reply

    def turn(self) -> None:
        """Measures for one turn."""
        turn: Turn = self._ask(None)
        self.seconds += turn.seconds
        self.turns += 1
        self.peak_memory_bytes = turn.peak_memory_bytes

    def trace(self, folder: Path) -> None:
        """Runs once under the profiler, which writes into `folder`; the time is not counted."""
        self._ask(str(folder.resolve()))


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    quartiles: tuple[float, float]
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value or more."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
        return cls(statistics.median(values), (low, high), tuple(values))


def in_turns(workers: Sequence[Worker], turns: int) -> None:
    """Every worker measures `turns` times, in an order that is reversed from one round to the next."""
    for number in range(turns):
        for worker in workers if number % 2 == 0 else reversed(workers):
            worker.turn()


def row(worker: Worker) -> dict:
    """All that is known of a measured case, ready for JSON."""
    seconds, batch, figures = Spread.of(worker.seconds), worker.case.batch, worker.ready.figures
    found = {
        "batch": batch,
        "steps": worker.case.config.lattice.steps,
        "turns": worker.turns,
        "seconds": seconds.median,
        "seconds_quartiles": list(seconds.quartiles),
        "seconds_of_repeats": [round(value, 6) for value in seconds.values],
        "samples_per_second": batch / seconds.median,
        "samples_per_second_quartiles": [batch / seconds.quartiles[1], batch / seconds.quartiles[0]],
        "compile_seconds": worker.ready.compile_seconds,
        "peak_memory_bytes": worker.peak_memory_bytes,
    }
    rates = {
        name.replace("operations", "gflops"): figures[name] / seconds.median / 1e9
        for name in ("counted_operations", "executed_operations")
        if name in figures
    }
    return found | figures | rates


def measure(
    cases: Mapping[str, Case], *, turns: int, tell: Tell, beside: Sequence[Worker] = (), trace: Mapping[str, Path] | None = None
) -> dict[str, dict]:
    """The row of every case; workers `beside` them take turns too.

    `trace`: folders for a profile of one repeat, by case, taken after all turns.
    """
    started: list[Worker] = []
    try:
        for name, case in cases.items():
            tell(f"building {name}")
            started.append(Worker(name, case))
        tell("measuring " + ", ".join(cases))
        in_turns([*beside, *started], turns)
        for worker in started:
            if trace and worker.name in trace:
                worker.trace(trace[worker.name])
        return {worker.name: row(worker) for worker in started}
    finally:
        for worker in started:
            worker.__exit__()
