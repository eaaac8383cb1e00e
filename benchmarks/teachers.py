"""Encoding speed of the teachers beside torch transformers: same texts, same padding, same cores, in one run.

Where the processor has a matrix unit that the teachers' products use, they are also timed with XLA's products.

Needs the extra `parity` (torch and transformers):

    python benchmarks/teachers.py --write

Each implementation runs in a process of its own, and the processes take turns, forth and back, so that whatever else the
machine does falls on both alike. A turn encodes all texts, from padded batches to embeddings of length 1; the first one, which
compiles, is not counted. Figures are medians and quartiles of the turns; embeddings are compared before any figure is given.
"""

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from measure import machine

from lattice_jax.config import TeacherConfig
from lattice_jax.corpus.pairs import load_pairs
from lattice_jax.teachers.embed import batches, encode, load_teacher, load_tokenizer, pad, tokenize
from lattice_jax.teachers.native.product import has_matrix_unit
from lattice_jax.teachers.settings import describe, encoder_sizes
from lattice_jax.teachers.weights import open_teacher

RESULTS = Path(__file__).parent / "results"
LARGEST_DIFFERENCE = 1e-5


def texts(count: int) -> list[str]:
    """Questions and answers of the shipped pairs: short texts and long ones."""
    pairs = load_pairs("hundred")
    return [text for pair in pairs for text in (pair.question, pair.answer)][:count]


class Lattice:
    """The teacher of this package, with the products that it chooses."""

    def __init__(self, config: TeacherConfig, chosen: list[str]):
        self.config, self.teacher = config, load_teacher(config)
        self.tokens = tokenize(self.teacher.tokenizer, chosen)

    def encode(self) -> np.ndarray:
        return encode(self.teacher, self.tokens, batch_size=self.config.batch_size)


class Plain(Lattice):
    """The same with XLA's products, whatever the processor has."""

    def __init__(self, config: TeacherConfig, chosen: list[str]):
        super().__init__(dataclasses.replace(config, products="xla"), chosen)


class Torch:
    """The same checkpoint in transformers, on the same padded batches, pooled alike."""

    def __init__(self, config: TeacherConfig, chosen: list[str]):
        import torch
        from transformers import AutoModel

        self.torch = torch
        checkpoint = open_teacher(config)
        self.model = AutoModel.from_pretrained(checkpoint.directory, dtype=torch.float32).eval()
        tokens = tokenize(load_tokenizer(config), chosen)
        described, padding_id = describe(config), encoder_sizes(checkpoint).padding_id
        self.shape = (len(tokens), described["dimension"])
        self.batches = []
        counts = [len(text.ids) for text in tokens]
        for length, size, members in batches(counts, config.batch_size, described["max_length"]):
            ids, mask = pad([tokens[member].ids for member in np.resize(members, size)], length, padding_id)
            self.batches.append((torch.from_numpy(ids).long(), torch.from_numpy(mask).long(), members))

    def encode(self) -> np.ndarray:
        embeddings = np.empty(self.shape, np.float32)
        with self.torch.inference_mode():
            for ids, mask, members in self.batches:
                hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                counted = mask[:, :, None]
                pooled = (hidden * counted).sum(1) / counted.sum(1)
                embeddings[members] = self.torch.nn.functional.normalize(pooled, dim=1).numpy()[: len(members)]
        return embeddings


def work(kind: type, config: TeacherConfig, chosen: list[str], pipe: Connection) -> None:
    """A process: sends the embeddings of its first turn, then the seconds of each further one that is asked for."""
    implementation = kind(config, chosen)
    pipe.send(implementation.encode())
    while pipe.recv():
        start = time.perf_counter()
        implementation.encode()
        pipe.send(time.perf_counter() - start)


def contestants() -> list[type]:
    """Who takes turns here."""
    return [Lattice, Plain, Torch] if has_matrix_unit() else [Lattice, Torch]


def compare(config: TeacherConfig, chosen: list[str], turns: int) -> dict:
    """Figures of both implementations for one teacher."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for kind in contestants():
        here, there = context.Pipe()
        process = context.Process(target=work, args=(kind, config, chosen, there), daemon=True)
        process.start()
        there.close()
        workers[kind.__name__.lower()] = (process, here)
    embeddings = {name: pipe.recv() for name, (_, pipe) in workers.items()}
    difference = max(float(np.abs(found - embeddings["torch"]).max()) for found in embeddings.values())
    if difference > LARGEST_DIFFERENCE:
        sys.exit(f"{config.name}: embeddings differ by {difference:.1e}, more than {LARGEST_DIFFERENCE}: speed says nothing")
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(turns):
        for name in list(workers) if turn % 2 == 0 else reversed(workers):
            pipe = workers[name][1]
            pipe.send(True)
            seconds[name].append(pipe.recv())
    for _, pipe in workers.values():
        pipe.send(False)
    for process, _ in workers.values():
        process.join()
    rates = {name: [len(chosen) / value for value in values] for name, values in seconds.items()}
    spread = {name: statistics.quantiles(values, n=4, method="inclusive") for name, values in rates.items()}
    return {
        "texts": len(chosen),
        "batch_size": config.batch_size,
        "largest_difference": difference,
        "texts_per_second": {name: quartiles[1] for name, quartiles in spread.items()},
        "quartiles": {name: [quartiles[0], quartiles[2]] for name, quartiles in spread.items()},
        "seconds": {name: [round(value, 4) for value in values] for name, values in seconds.items()},
        "ratios": {
            name: statistics.median(t / s for s, t in zip(seconds["lattice"], seconds[name], strict=True))
            for name in seconds
            if name != "lattice"
        },
    }


def table(found: dict) -> str:
    """Markdown of the figures, with the machine they were measured on."""
    names = {"lattice": "this package", "plain": "XLA's products", "torch": "torch"}
    measured = list(next(iter(found["teachers"].values()))["texts_per_second"])
    beside = measured[1:]
    heads = [f"{names[name]}, texts/s" for name in measured] + [f"ours over {names[name]}" for name in beside]
    lines = [f"| teacher | texts | {' | '.join(heads)} | largest difference |", "|---|" + "---:|" * (len(heads) + 2)]
    for teacher, row in found["teachers"].items():
        cells = [
            f"{row['texts_per_second'][name]:.1f} ({row['quartiles'][name][0]:.1f} to {row['quartiles'][name][1]:.1f})"
            for name in measured
        ]
        cells += [f"{row['ratios'][name]:.2f}" for name in beside]
        lines.append(f"| {teacher} | {row['texts']} | {' | '.join(cells)} | {row['largest_difference']:.0e} |")
    where = found["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines += [
        "",
        f"{where['processor']}, {where['cores']} cores; {packages}. Medians (quartiles) of {found['turns']} alternating turns.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", nargs="+", default=["minilm", "mpnet"], help="names or directories of float32 checkpoints")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="renew results/teachers.json and results/teachers.md")
    arguments = parser.parse_args()
    chosen = texts(arguments.texts)
    found = {
        "machine": machine.description(),
        "load_before": machine.load(),
        "turns": arguments.turns,
        "teachers": {},
    }
    for name in arguments.teacher:
        found["teachers"][name] = compare(TeacherConfig(name=name, pooling="mean"), chosen, arguments.turns)
        print(f"{name}: {found['teachers'][name]}", flush=True)
    print(table(found))
    if arguments.write:
        (RESULTS / "teachers.json").write_text(json.dumps(found, indent=2) + "\n")
        (RESULTS / "teachers.md").write_text(table(found))


if __name__ == "__main__":
    main()
