#!/usr/bin/env python3
"""What 225 numbers keep of an embedding, by the adapter and by principal components: python benchmarks/autoencoding.py

    python benchmarks/autoencoding.py --write

Needs wordnet-base (Debian) and chatterbot-corpus (PyPI). Adapters of both teachers are trained on growing text. Trials compare
strategies and learning rates on one amount of it, by validation text.
What has ended in --workdir is not repeated. With --write the rows of what has ended there are renewed in
benchmarks/results/autoencoding.{json,md,png}; the others stay as they are.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bin")]

import launcher  # noqa: E402

launcher.prepare()

import json  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import tyro  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.reproduction.figures import measure  # noqa: E402
from benchmarks.reproduction.page import markdown, plot  # noqa: E402
from lattice_jax.commandline import clear_errors, make_workdir  # noqa: E402
from lattice_jax.config import AdapterConfig, Config, CorpusConfig, TeacherConfig  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
STRATEGY, LEARNING_RATE, STEPS = "attention", 1e-3, 1000
GUIDE = "scikit_learn_guide"
TEXTS = {
    "minilm": ("none", GUIDE, *(f"{GUIDE}+wordnet:{count}" for count in (5000, 20000, 50000))),
    "mpnet": ("none", GUIDE, *(f"{GUIDE}+wordnet:{count}" for count in (5000, 20000))),
}
TRIALS = (
    ("hierarchical", 3e-5),
    ("hierarchical", 3e-4),
    ("linear", 3e-5),
    ("autoencoder", 3e-4),
    ("attention", 3e-4),
)
TRIED_ON = f"{GUIDE}+wordnet:5000"
CONVERSATIONS = Config(
    corpus=CorpusConfig(
        pairs="chatterbot:english", held_out_pairs=200, validation_pairs=100, sentences=f"{GUIDE}+wordnet:20000"
    ),
    teacher=TeacherConfig(name="minilm"),
    adapter=AdapterConfig(strategy=STRATEGY, learning_rate=3e-3, steps=4000, pair_fraction=0.15, evaluate_every=250),
)
"""Conversations among what an adapter learns from: of rates of 0.001 to 0.003, 1,000 to 4,000 steps and a tenth to a half of
pairs the ones that are best by validation (0.9584 on conversations, the others 0.9466 to 0.9583)."""


@dataclass(frozen=True)
class Autoencoding:
    """Arguments of benchmarks/autoencoding.py."""

    only: tuple[str, ...] = ("trial", "minilm", "mpnet")
    """'trial' compares strategies by validation ('trial-minilm': of one teacher), 'minilm' and 'mpnet' train on growing text,
    MiniLM on conversations too; or one run by its name, 'minilm-conversations' say."""
    workdir: Path = Path("runs/autoencoding")
    """Where adapters and figures lie."""
    write: bool = False
    """Renew benchmarks/results/autoencoding.{json,md,png} by all figures in the workdir."""


def adapter_config(teacher: str, sentences: str, strategy: str, learning_rate: float) -> Config:
    """Settings of one adapter; every text is in the mixture about as often as in the text of the components."""
    adapter = AdapterConfig(
        strategy=strategy,  # pyright: ignore[reportArgumentType] (one of TRIALS)
        learning_rate=learning_rate,
        steps=STEPS,
        pair_fraction=1e-3,
        evaluate_every=250,
    )
    return Config(corpus=CorpusConfig(sentences=sentences), teacher=TeacherConfig(name=teacher), adapter=adapter)


def all_runs() -> Mapping[str, Config]:
    """Every adapter by the name of its folder."""
    trials = {
        f"trial-{teacher}-{strategy}-{rate:g}": adapter_config(teacher, TRIED_ON, strategy, rate)
        for teacher in TEXTS
        for strategy, rate in TRIALS
    }
    growing = {
        f"{teacher}-{number}": adapter_config(teacher, sentences, STRATEGY, LEARNING_RATE)
        for teacher, texts in TEXTS.items()
        for number, sentences in enumerate(texts)
    }
    return growing | {"minilm-conversations": CONVERSATIONS} | trials


with clear_errors():
    arguments = tyro.cli(Autoencoding, args=sys.argv[1:], description=__doc__)
    console, runs = Console(), all_runs()
    make_workdir(arguments.workdir)
    for name, config in runs.items():
        record = arguments.workdir / f"{name}.json"
        if not record.exists() and any(name == wanted or name.startswith(f"{wanted}-") for wanted in arguments.only):
            found = measure(config, arguments.workdir / name)
            record.write_text(json.dumps(found, indent=2) + "\n")
            told = {kind: f"{one['adapter']['value']:.4f}" for kind, one in found["validation"].items()}
            console.print(f"{name}: validation {told}, {found['seconds']:.0f} s", highlight=False)
    if arguments.write:
        saved = RESULTS / "autoencoding.json"
        known = {row["name"]: row for row in json.loads(saved.read_text())} if saved.exists() else {}
        ended = {name: arguments.workdir / f"{name}.json" for name in runs}
        known |= {name: json.loads(path.read_text()) | {"name": name} for name, path in ended.items() if path.exists()}
        rows = [known[name] for name in runs if name in known]
        saved.write_text(json.dumps(rows, indent=2) + "\n")
        (RESULTS / "autoencoding.md").write_text(markdown(rows))
        plot([row for row in rows if not row["name"].startswith("trial-")], RESULTS / "autoencoding.png")
