#!/usr/bin/env python3
"""What a million embeddings cost: python benchmarks/cache.py [--rows N] [--dimension N] [--write]

Random embeddings go through the store as extraction writes them, into a temporary directory; a process of its own, in which
nothing else runs, then opens them, looks texts up, reads random rows, and says how much memory it held. Files are warm, in the
system's page cache, as they are while a run reads them again and again.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import datetime  # noqa: E402
import json  # noqa: E402
import mmap  # noqa: E402
import multiprocessing  # noqa: E402
import os  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ProcessPoolExecutor  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import tyro  # noqa: E402

from lattice_jax.teachers.shards import NUMBERS, Rows  # noqa: E402
from lattice_jax.teachers.store import Store, addresses_of, check_directory, open_store  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SHARD_ROWS = 16_384
LOOKED_UP = 1000
BATCH = 32
BATCHES = 2000
RELEASED_ROWS = 4096
GOAL_SECONDS = 70e-6
"""For 32 random rows: what reading them from one mapped file was measured to take before there was this store."""
LISTED = {
    "MB on disk": ("size_bytes", 1e-6, ",.0f"),
    "shards": ("shards", 1, "d"),
    "writing, seconds": ("write_seconds", 1, ".1f"),
    "opening, milliseconds": ("open_seconds", 1e3, ".1f"),
    "index at first use, milliseconds": ("index_seconds", 1e3, ".0f"),
    "lookup of 1,000 texts, milliseconds": ("lookup_seconds", 1e3, ".2f"),
    "32 random rows at their first reading, microseconds (median)": ("batch_median_seconds", 1e6, ".0f"),
    "32 random rows at their first reading, microseconds (95 of 100)": ("batch_slow_seconds", 1e6, ".0f"),
    "32 random rows read before, microseconds (median)": ("again_median_seconds", 1e6, ".0f"),
    "32 random rows of a bare memmap for every shard, microseconds": ("mapped_median_seconds", 1e6, ".0f"),
    "their bytes from maps that let go of their pages every 4,096 rows, microseconds": ("released_mean_seconds", 1e6, ".0f"),
    "their bytes by bare pread, microseconds": ("pread_mean_seconds", 1e6, ".0f"),
    "32 rows of one bare memmap, microseconds": ("bare_median_seconds", 1e6, ".0f"),
    "every row once, in random batches of 32, seconds": ("epoch_seconds", 1, ".1f"),
    "checking every byte, seconds": ("check_seconds", 1, ".1f"),
    "MB of memory before opening": ("rss_before", 1e-6, ".0f"),
    "MB after opening": ("rss_open", 1e-6, ".0f"),
    "MB after the index": ("rss_index", 1e-6, ".0f"),
    "MB at most, after every row was read": ("rss_peak", 1e-6, ",.0f"),
    "MB at most, by maps that let go of their pages": ("released_rss_peak", 1e-6, ",.0f"),
}
"""Line of the table -> figure, factor, format."""


@dataclass(frozen=True)
class Cache:
    """Arguments of benchmarks/cache.py."""

    rows: int = 1_000_000
    dimension: int = 384
    write: bool = False
    """Save the figures as benchmarks/results/cache.json and .md."""


def describe(stored_as: str, dimension: int) -> dict:
    """The description of embeddings that no teacher made."""
    return {"teacher": "random numbers", "dimension": dimension, "stored_as": stored_as}


def fill(directory: Path, description: dict, rows: int) -> float:
    """Store random embeddings of length 1; returns the seconds that the store took, without those of drawing them."""
    random, seconds = np.random.default_rng(0), 0.0
    store = open_store(directory, description)
    for start in range(0, rows, SHARD_ROWS):
        texts = [f"text {number}" for number in range(start, min(start + SHARD_ROWS, rows))]
        embeddings = random.standard_normal((len(texts), description["dimension"]), np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        before = time.perf_counter()
        store = store.add(Rows(addresses_of(texts), embeddings, np.zeros(len(texts), np.bool_)))
        seconds += time.perf_counter() - before
    return seconds


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_memory() -> int:
    """Bytes that this process held at most; what getrusage says would include what its parent held when it started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(directory: Path, description: dict) -> dict:
    """Open, look up, read and check a store."""
    process, random = psutil.Process(), np.random.default_rng(1)
    # First, because it reads every byte: right after writing, a virtual machine's host may not hold the pages yet.
    found: dict = {"check_seconds": seconds_of(lambda: [condition.damage for condition in check_directory(directory)])}
    found["rss_before"] = process.memory_info().rss
    start = time.perf_counter()
    store = open_store(directory, description)
    found |= {"open_seconds": time.perf_counter() - start, "rss_open": process.memory_info().rss}
    found["index_seconds"] = seconds_of(lambda: store.find(addresses_of(["text 0"])))
    found["rss_index"] = process.memory_info().rss
    texts = [f"text {number}" for number in random.integers(0, len(store), LOOKED_UP)]
    found["lookup_seconds"] = float(np.median([seconds_of(lambda: store.find(addresses_of(texts))) for _ in range(20)]))
    batches = random.integers(0, len(store), (BATCHES, BATCH))
    first, again = (np.array([seconds_of(lambda rows=rows: store.read(rows)) for rows in batches]) for _ in range(2))
    found |= {"batch_median_seconds": float(np.median(first)), "batch_slow_seconds": float(np.percentile(first, 95))}
    found["again_median_seconds"] = float(np.median(again))
    every = random.permutation(len(store))
    found["epoch_seconds"] = sum(
        seconds_of(lambda at=at: store.read(every[at : at + BATCH])) for at in range(0, len(every), BATCH)
    )
    found["rss_peak"] = peak_memory()
    found |= measure_bounded(store, batches)
    found |= {"released_rss_peak": peak_memory()} | measure_bare(store, batches)
    return found | {"size_bytes": store.size, "shards": len(store.shards)}


def measure_bare(store: Store, batches: np.ndarray) -> dict:
    """The same batches from mapped memory, unchecked and with as many pages held as there are."""
    numbers, _ = NUMBERS[store.description["stored_as"]]
    maps = [
        np.memmap(shard.path, numbers, "r", shard.embeddings_at, (shard.shard.rows, store.dimension)) for shard in store.shards
    ]
    bare, places = np.asarray(maps[0]), batches % len(maps[0])
    views = [np.asarray(mapped) for mapped in maps]

    def gather(rows: np.ndarray) -> np.ndarray:
        shards, rest = np.divmod(rows, SHARD_ROWS)
        return np.stack([views[shard][row] for shard, row in zip(shards.tolist(), rest.tolist(), strict=True)])

    mapped, one = (
        float(np.median([seconds_of(lambda rows=rows, read=read: read(rows)) for rows in chosen]))
        for read, chosen in ((gather, batches), (bare.__getitem__, places))
    )
    return {"mapped_median_seconds": mapped, "bare_median_seconds": one}


def measure_bounded(store: Store, batches: np.ndarray) -> dict:
    """Maps that let go of their pages now and then, and pread; means, because letting go costs the batches after it."""
    files = [shard.path.open("rb") for shard in store.shards]
    maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in files]
    width = store.dimension * NUMBERS[store.description["stored_as"]][0].itemsize
    begins = [shard.embeddings_at for shard in store.shards]

    def places(rows: np.ndarray) -> list[tuple[int, int]]:
        shards, rest = np.divmod(rows, SHARD_ROWS)
        return [(shard, begins[shard] + row * width) for shard, row in zip(shards.tolist(), rest.tolist(), strict=True)]

    def read_maps(number: int, rows: np.ndarray) -> list[bytes]:
        if number % (RELEASED_ROWS // BATCH) == 0:
            for mapped in maps:
                mapped.madvise(mmap.MADV_DONTNEED)
        return [maps[shard][start : start + width] for shard, start in places(rows)]

    def read_files(number: int, rows: np.ndarray) -> list[bytes]:
        del number
        return [os.pread(files[shard].fileno(), width, start) for shard, start in places(rows)]

    return {
        name: float(
            np.mean([seconds_of(lambda at=at, rows=rows, read=read: read(at, rows)) for at, rows in enumerate(batches)])
        )
        for name, read in (("released_mean_seconds", read_maps), ("pread_mean_seconds", read_files))
    }


def table(found: dict) -> str:
    """The figures as a page of Markdown."""
    kinds = found["stored_as"]
    lines = [
        f"{found['rows']:,} random embeddings of {found['dimension']} numbers: `python benchmarks/cache.py`\n",
        "| " + " | ".join(["", *kinds]) + " |",
        "|---|" + "---|" * len(kinds),
        *(
            "| " + " | ".join([line, *(format(values[name] * factor, form) for values in kinds.values())]) + " |"
            for line, (name, factor, form) in LISTED.items()
        ),
    ]
    machine = found["measured"]["machine"]
    lines += ["", f"{machine['processor']}, {machine['cores']} cores, Python {machine['versions']['python']}; files warm.", ""]
    reached = all(values["batch_median_seconds"] <= GOAL_SECONDS for values in kinds.values())
    lines += [
        f"The goal for {BATCH} random rows, {GOAL_SECONDS * 1e6:.0f} microseconds, was {'' if reached else 'not '}reached. "
        "The first reading of a row checks its CRC-32. Rows come by pread from the page cache, so that the memory held "
        "does not grow with what is read; bare memmaps hold every page that was touched."
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Cache) -> None:
    """Measure, show, save."""
    kinds = {}
    for stored_as in ("float32", "float16"):
        with tempfile.TemporaryDirectory() as scratch:
            directory, description = Path(scratch), describe(stored_as, arguments.dimension)
            write_seconds = fill(directory, description, arguments.rows)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                kinds[stored_as] = alone.submit(measure, directory, description).result() | {"write_seconds": write_seconds}
    from benchmarks.measure import machine  # here, because it brings JAX, which the measuring process must not hold

    measured = {
        "date": datetime.date.today().isoformat(),
        "load_average_after": machine.load(),
        "machine": machine.description(),
    }
    found = {"rows": arguments.rows, "dimension": arguments.dimension, "stored_as": kinds, "measured": measured}
    print(table(found))
    if arguments.write:
        (RESULTS / "cache.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "cache.md").write_text(table(found))


if __name__ == "__main__":
    main(tyro.cli(Cache, description=__doc__))
