"""How much memory LLaMA-3-8B takes when its layers are streamed: measured on random weights of its real shapes.

    python benchmarks/streamed_memory.py

Checkpoints of 2, 4 and 8 layers (4096 wide, 32 heads, 8 key-value heads, 14336 feed-forward, 128,256 words, untied head,
bfloat16, sharded with an index: 3 to 5.6 GB of disk, one at a time, deleted afterwards) are written with safetensors and
embedded, each in a process of its own. Memory that belongs to the process (RssAnon of /proc/self/status) is told apart from
pages of the mapped checkpoint (RssFile), which the kernel takes back when it needs them; both are sampled every 5 ms, and the
peaks of the process while it embeds are reported beside what it holds before it opens the checkpoint. Written to
benchmarks/results/streamed_memory.json and .md, extended to 32 layers.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from lattice_jax.teachers.embed import TOKENS_PER_SWEEP

RESULTS = Path(__file__).parent / "results"
LAYERS = (2, 4, 8)
WHOLE = 32
SHAPES = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
}
TEXTS = {32: 4, 128: 2}
"""Padded length -> texts: two micro-batches, 384 tokens in all: the run is about memory, not about arithmetic."""

LIMIT_BYTES = 8e9


def random_weights(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """bfloat16 numbers of either sign near 1 / sqrt(columns), made from random bits, which is fast."""
    bits = generator.integers(0, 1 << 16, size=shape, dtype=np.uint16)
    # A random sign and mantissa under one exponent: magnitudes from 2^-7 up to 2^-6.
    return ((bits & 0x807F) | ((127 - 7) << 7)).view(ml_dtypes.bfloat16)


def write_checkpoint(directory: Path, layers: int) -> int:
    """Write config.json, one shard a layer, the rest and the index; the bytes of all."""
    generator = np.random.default_rng(0)
    hidden, wide = SHAPES["hidden_size"], SHAPES["intermediate_size"]
    inner = hidden // SHAPES["num_attention_heads"] * SHAPES["num_key_value_heads"]
    (directory / "config.json").write_text(json.dumps(SHAPES | {"num_hidden_layers": layers}))
    index = {}

    def write(shard: str, tensors: dict[str, np.ndarray]) -> None:
        save_file(tensors, directory / shard)
        index.update(dict.fromkeys(tensors, shard))

    rows = {"self_attn.q_proj": hidden, "self_attn.k_proj": inner, "self_attn.v_proj": inner, "self_attn.o_proj": hidden}
    ones = np.ones(hidden, ml_dtypes.bfloat16)
    for layer in range(layers):
        before = f"model.layers.{layer}."
        tensors = {f"{before}{name}.weight": random_weights(generator, count, hidden) for name, count in rows.items()}
        tensors |= {f"{before}mlp.{name}_proj.weight": random_weights(generator, wide, hidden) for name in ("gate", "up")}
        tensors[f"{before}mlp.down_proj.weight"] = random_weights(generator, hidden, wide)
        norms = ("input_layernorm", "post_attention_layernorm")
        write(f"layer-{layer:05}.safetensors", tensors | {f"{before}{name}.weight": ones for name in norms})
    words = random_weights(generator, SHAPES["vocab_size"], hidden)
    write("words.safetensors", {"model.embed_tokens.weight": words, "model.norm.weight": ones})
    write("head.safetensors", {"lm_head.weight": words})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(path.stat().st_size for path in directory.iterdir())


def memory() -> dict[str, int]:
    """Bytes of this process: its own (RssAnon) and of mapped files (RssFile)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {name: int(value.split()[0]) * 1024 for name, value in fields.items()}


class Peak(threading.Thread):
    """The largest memory between `start` and `stop`."""

    def __init__(self):
        super().__init__(daemon=True)
        self.largest: dict[str, int] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.005):
            now = memory()
            now["Rss"] = now["RssAnon"] + now["RssFile"]
            self.largest = {name: max(value, self.largest.get(name, 0)) for name, value in now.items()}

    def stop(self) -> dict[str, int]:
        self._ended.set()
        self.join()
        return self.largest


def drop_from_page_cache(directory: Path) -> None:
    """Let the next reader of these files find them on disk."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(directory: Path, numbers: str, prefetch: bool, answers: multiprocessing.SimpleQueue) -> None:
    """Embed the texts in this process; called in a fresh one."""
    import jax
    import jax.numpy as jnp

    from lattice_jax.teachers import llama
    from lattice_jax.teachers.checkpoint import open_tensors, read_config
    from lattice_jax.teachers.embed import mean_pool
    from lattice_jax.teachers.streamed import Batch, encode_streamed, open_streamed

    jax.block_until_ready(jnp.ones((8, 8)) @ jnp.ones((8, 8)))
    before = memory()
    generator = np.random.default_rng(1)
    texts = [
        Batch(
            generator.integers(SHAPES["vocab_size"], size=(count, length), dtype=np.int32), np.ones((count, length), np.bool_)
        )
        for length, count in TEXTS.items()
    ]
    peak, seconds = Peak(), time.perf_counter()
    peak.start()
    streamed = open_streamed(
        open_tensors(directory)[0], llama.read_config(read_config(directory / "config.json")), numbers=numbers
    )
    vectors = encode_streamed(streamed, texts, pool=mean_pool, prefetch=prefetch)
    seconds = time.perf_counter() - seconds
    largest = peak.stop()
    lengths = np.linalg.norm(np.concatenate(vectors), axis=1)
    if not (np.isfinite(lengths).all() and lengths.min() > 1):
        raise ValueError(f"the embeddings are of lengths {lengths}")
    answers.put({"before": before, "peak": largest, "seconds": seconds})


def measured(directory: Path, layers: int, numbers: str, *, prefetch: bool = True) -> dict:
    """One row: a fresh process over files that are not in the page cache."""
    drop_from_page_cache(directory)
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=measure, args=(directory, numbers, prefetch, answers))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the measuring process ended with code {process.exitcode}")
    row = {"layers": layers, "numbers": numbers, "prefetch": prefetch} | answers.get()
    print(json.dumps(row), flush=True)
    return row


def extrapolate(rows: list[dict], numbers: str) -> dict[str, dict[str, float]]:
    """Each peak at 32 layers: the largest one measured, and what a least-squares line over the layers adds if it rises.

    Together they are at least the process's own and what it maps, which need not have been at their peaks at once.
    """
    rows = [row for row in rows if row["prefetch"] and row["numbers"] == numbers]
    layers = [row["layers"] for row in rows]
    found = {}
    for name in ("RssAnon", "RssFile", "Rss"):
        peaks = [row["peak"][name] for row in rows]
        slope = float(np.polyfit(layers, peaks, 1)[0])
        whole = max(peaks) + max(slope, 0) * (WHOLE - max(layers))
        found[name] = {"bytes_a_layer": slope, "at_32_layers": whole}
    both = found["RssAnon"]["at_32_layers"] + found["RssFile"]["at_32_layers"]
    found["Rss"]["at_32_layers"] = max(found["Rss"]["at_32_layers"], both)
    # All tokens of a sweep instead of the few of this run, their states once before and once after a layer at most.
    width = SHAPES["hidden_size"] * (4 if numbers == "float32" else 2)
    found["Rss"]["with_full_sweep"] = found["Rss"]["at_32_layers"] + TOKENS_PER_SWEEP * width
    return found


def report(results: dict) -> str:
    """The results as Markdown."""

    def row(measured: dict) -> str:
        own, files = measured["peak"]["RssAnon"], measured["peak"]["RssFile"]
        sizes = (results["disk"][str(measured["layers"])], measured["before"]["RssAnon"], own, files, measured["peak"]["Rss"])
        cells = (measured["layers"], measured["numbers"], "yes" if measured["prefetch"] else "no")
        gigabytes = " | ".join(f"{size / 1e9:.2f}" for size in sizes)
        return f"| {' | '.join(map(str, cells))} | {gigabytes} | {measured['seconds']:.1f} |"

    def line(numbers: str, found: dict) -> str:
        sizes = (found["Rss"]["at_32_layers"], found["RssAnon"]["at_32_layers"], found["Rss"]["with_full_sweep"])
        whole, own, full = (f"{size / 1e9:.1f} GB" for size in sizes)
        verdict = "below" if found["Rss"]["with_full_sweep"] < results["limit_bytes"] else "above"
        slope = found["RssAnon"]["bytes_a_layer"] / 1e6
        return f"| {numbers} | {slope:+.0f} MB | {own} | {whole} | {full} | {verdict} 8 GB |"

    return "\n".join(
        [
            "# Memory of LLaMA-3-8B, streamed",
            "",
            "`python benchmarks/streamed_memory.py`, on the CPU; random bfloat16 weights in the real shapes of a layer, files",
            "not in the page cache. Sizes in GB (1e9 bytes): of the files, of the process before it opens them, and the peaks",
            f"while it embeds {sum(TEXTS.values())} texts ({sum(length * count for length, count in TEXTS.items())} tokens).",
            "",
            "| layers | numbers | read ahead | files | own before | own, peak | mapped, peak | together, peak | seconds |",
            "|---|---|---|---|---|---|---|---|---|",
            *map(row, results["rows"]),
            "",
            f"Extended to {WHOLE} layers (16 GB of files): the largest peak measured, and what a least-squares line over the",
            "layers adds where it rises; together at least the process's own and what it maps. The last column adds the",
            f"states of a full sweep of texts (`TOKENS_PER_SWEEP` in `teachers/embed.py`, {TOKENS_PER_SWEEP:,} tokens), which",
            "this run, of few tokens, doesn't hold.",
            "",
            f"| numbers | own, a layer more | own, {WHOLE} layers | together, {WHOLE} layers | with a full sweep | |",
            "|---|---|---|---|---|---|",
            *(line(numbers, found) for numbers, found in results["extrapolated"].items()),
            "",
            "Mapped pages belong to the page cache; the kernel takes them back when memory is short. On the CPU, bfloat16",
            "saves neither half of the memory nor time.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, default=None, help="where checkpoints are written for a while, on a real disk"
    )
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    arguments = parser.parse_args()
    results: dict = {"limit_bytes": LIMIT_BYTES, "shapes": SHAPES, "texts": TEXTS, "disk": {}, "rows": []}
    for layers in arguments.layers:
        directory = Path(tempfile.mkdtemp(prefix="streamed-", dir=arguments.directory))
        try:
            results["disk"][str(layers)] = write_checkpoint(directory, layers)
            results["rows"] += [measured(directory, layers, numbers) for numbers in ("float32", "bfloat16")]
            if layers == max(arguments.layers):
                # In turns, so that what a disk or a cache remembers favours neither.
                turns = (False, True, False)
                results["rows"] += [measured(directory, layers, "float32", prefetch=prefetch) for prefetch in turns]
        finally:
            shutil.rmtree(directory)
    write(results)


def write(results: dict) -> None:
    """The rows and what follows from them, as JSON and as Markdown."""
    results["extrapolated"] = {numbers: extrapolate(results["rows"], numbers) for numbers in ("float32", "bfloat16")}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "streamed_memory.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "streamed_memory.md").write_text(report(results))


if __name__ == "__main__":
    main()
