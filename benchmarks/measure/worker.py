"""The process that holds one workload and measures it when it is asked to.

Contract: reads the number of cores that it may use and then a `Job` from standard input, pickled, answers with a `Ready`, and
from then on answers every request (`None`: one turn; a folder: one repeat, traced into it) with a `Turn`, until its input ends.
Standard output carries nothing else: what libraries print goes to standard error. Input errors are answered as `Refused`.
"""

import dataclasses
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import jax

from lattice_jax.commandline import use_devices
from lattice_jax.errors import InputError
from lattice_jax.training.monitor import peak_memory_bytes

from . import rivals, workload
from .cases import Case
from .workload import Text, Workload

_TURN_SECONDS = 0.5
_REPEATS_A_TURN = 20

_BUILDERS = {
    "training": workload.training,
    "forward": workload.forward,
    "latency": workload.latency,
    "dense": workload.dense,
    "torch eager": rivals.torch_training,
    "torch adjoint": rivals.torch_training,
    "torch compiled": rivals.torch_training,
    "cell modules": rivals.cell_modules,
    "cax": rivals.cax,
}


@dataclass(frozen=True)
class Job:
    """A case with its embeddings and codec, and those of the small cube that it is checked on.

    They come ready-made, so that the memory that it takes to make them is in no case's peak.
    """

    case: Case
    text: Text
    small_text: Text | None


@dataclass(frozen=True)
class Ready:
    """The workload is built, compiled and has run."""

    compile_seconds: float
    figures: dict


@dataclass(frozen=True)
class Turn:
    """What was measured in one turn, and the most memory held so far."""

    seconds: list[float]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Refused:
    """An `InputError`, in parts."""

    found: str
    expected: str
    fix: str


def peak_memory() -> int:
    """The most memory that this process has held: on its accelerators where it has them, else in all."""
    if jax.default_backend() != "cpu":
        return sum((device.memory_stats() or {})["peak_bytes_in_use"] for device in jax.local_devices())
    return peak_memory_bytes()


def build(job: Job) -> Workload:
    """The case's workload, on the devices that it asks for; the check that it asks for comes first."""
    case = dataclasses.replace(job.case, config=use_devices(job.case.config))
    check = rivals.check(case, job.small_text) if job.small_text else {}
    built = _BUILDERS[case.kind](case, job.text)
    return built._replace(figures=built.figures | check)


def repeats_a_turn(built: Workload) -> int:
    """So many that a turn takes about half a second, found by running it; a case that says so runs once, not warmed up."""
    if built.figures.get("once", False):
        return 1
    warm = min(built.measure() for _ in range(2))
    return max(1, min(_REPEATS_A_TURN, round(_TURN_SECONDS / warm)))


def serve(requests: BinaryIO, answer: Callable[[object], None]) -> None:
    """Builds the job, then measures as asked."""
    try:
        built = build(pickle.load(requests))
    except InputError as error:
        answer(Refused(error.found, error.expected, error.fix))
        return
    repeats = repeats_a_turn(built)
    answer(Ready(built.compile_seconds, built.figures))
    while True:
        try:
            folder = pickle.load(requests)
        except EOFError:
            return
        if folder is None:
            seconds = [built.measure() for _ in range(repeats)]
        else:
            with jax.profiler.trace(folder):
                seconds = [built.measure()]
        answer(Turn(seconds, peak_memory()))


def main() -> None:
    """What `START` runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(reply: object) -> None:
        pickle.dump(reply, replies)
        replies.flush()

    serve(sys.stdin.buffer, answer)


START = """
import os, pickle, sys
cores = pickle.load(sys.stdin.buffer)
if cores: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from benchmarks.measure.worker import main
main()
"""
"""The program of the process: cores are set before anything is imported that counts them."""
