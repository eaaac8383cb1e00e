"""The verdict: what the lattice is worth on held-out pairs, beside baselines and beside its own training pairs.

Contract: `judge` takes predictions and answers as arrays and returns a `Verdict`, from which the table, the sentence and the
dictionary for `summary.json` are made; nothing here is fitted or chosen. Whether the lattice is better than a baseline is
decided by the paired difference on the same held-out pairs: above or below when its interval leaves out zero, level otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from rich import box
from rich.table import Table

from lattice_jax.evaluation.similarity import MEASURES, Estimate, Measures, paired_difference, score_pairs, summarise

CONTROLS = ("shuffled", "adapter_ceiling")
"""Rows that are no predictors of an answer and so can't be the best one."""
LABELS = {
    "lattice": "lattice",
    "question": "question itself",
    "mean_answer": "mean answer",
    "ridge": "ridge",
    "residual_ridge": "residual ridge",
    "shared_ridge": "ridge around a share",
    "kernel_ridge": "kernel ridge",
    "mlp": "MLP",
    "mlp_equal": "MLP, equal size",
    "shuffled": "shuffled pairs",
    "adapter_ceiling": "adapter ceiling",
}


class BothSides(NamedTuple):
    """Embeddings of the training pairs and of the held-out pairs."""

    train: Float[np.ndarray, "n d"]
    held_out: Float[np.ndarray, "m d"]


@dataclass(frozen=True)
class Row:
    """One predictor on both sets of pairs."""

    train: Measures
    held_out: Measures

    def as_dict(self) -> dict:
        """Held-out figures at the top, those of the training pairs under `train`."""
        return self.held_out.as_dict() | {"train": self.train.as_dict()}


@dataclass(frozen=True)
class Verdict:
    """Measures of the lattice, of every baseline and of the adapter ceiling, and what the lattice gains over each baseline."""

    lattice: Row
    baselines: dict[str, Row]
    ceiling: Row
    """What the adapter alone makes of the true answer: the lattice answers through it."""
    gains: dict[str, Estimate]
    """Held-out similarity of the lattice less that of a baseline, paired."""
    confidence: float

    def rows(self) -> dict[str, Row]:
        """Every row of the table by name, in its order."""
        return {"lattice": self.lattice, **self.baselines, "adapter_ceiling": self.ceiling}

    def as_dict(self) -> dict:
        """Plain values for `summary.json`: `train` and `held_out` of the lattice, `baselines.<name>`, `adapter_ceiling`.

        Each baseline also has the lattice's `gain` in held-out similarity over it, and its `gain_interval`.
        """
        baselines = {
            name: row.as_dict()
            | {"gain": self.gains[name].value, "gain_interval": [self.gains[name].low, self.gains[name].high]}
            for name, row in self.baselines.items()
        }
        return {
            "train": self.lattice.train.as_dict(),
            "held_out": self.lattice.held_out.as_dict(),
            "baselines": baselines,
            "adapter_ceiling": self.ceiling.as_dict(),
            "confidence": self.confidence,
            "verdict": self.sentence(),
        }

    def sentence(self) -> str:
        """The verdict in plain language."""
        held_out = self.lattice.held_out
        versus = "; ".join(self._compared(name) for name in self._compared_with())
        leader, mrr = max(((name, self.baselines[name].held_out.mrr.value) for name in self._real()), key=lambda pair: pair[1])
        return (
            f"On {held_out.pairs} held-out pairs the lattice scores {held_out.similarity} in similarity: {versus}. "
            f"It ranks the right answer first for {held_out.recall_at_1.value:.0%} of the questions "
            f"(MRR {held_out.mrr.value:.3f}; the best baseline, the {label(leader)}, {mrr:.3f}). "
            f"Intervals: {self.confidence:.0%}, bootstrap over pairs; differences are paired."
        )

    def _real(self) -> list[str]:
        return [name for name in self.baselines if name not in CONTROLS]

    def _compared_with(self) -> list[str]:
        """The baselines that the sentence speaks of: the best of the ridges, and every other real one."""
        ridges = [name for name in ("ridge", "residual_ridge", "shared_ridge", "kernel_ridge") if name in self.baselines]
        worse = sorted(ridges, key=lambda name: self.baselines[name].held_out.similarity.value)[:-1]
        return [name for name in self._real() if name not in worse]

    def _compared(self, name: str) -> str:
        gain, similarity = self.gains[name], self.baselines[name].held_out.similarity.value
        relation = "above" if gain.low > 0 else "below" if gain.high < 0 else "level with"
        return f"{relation} the {label(name)} ({similarity:.3f}; {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}])"


def label(name: str) -> str:
    """How a row is called where people read it; a name of the caller's own stays as it is."""
    return LABELS.get(name, name)


def judge(
    lattice: BothSides,
    baselines: Mapping[str, BothSides],
    ceiling: BothSides,
    answers: BothSides,
    *,
    bootstrap_samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Verdict:
    """Measures every predictor on both sides and compares the lattice with each baseline, pair by pair.

    Candidates for retrieval are all the answers of a side, so ranks of sides with different numbers of pairs don't compare.
    """
    summary = partial(summarise, bootstrap_samples=bootstrap_samples, confidence=confidence, seed=seed)
    difference = partial(paired_difference, bootstrap_samples=bootstrap_samples, confidence=confidence, seed=seed)

    def row(scores: BothSides) -> Row:
        return Row(summary(scores.train), summary(scores.held_out))

    ours = _scores(lattice, answers)
    theirs = {name: _scores(predicted, answers) for name, predicted in baselines.items()}
    similarity = MEASURES.index("similarity")
    return Verdict(
        lattice=row(ours),
        baselines={name: row(scores) for name, scores in theirs.items()},
        ceiling=row(_scores(ceiling, answers)),
        gains={name: difference(ours.held_out[:, similarity], s.held_out[:, similarity]) for name, s in theirs.items()},
        confidence=confidence,
    )


def _scores(predicted: BothSides, answers: BothSides) -> BothSides:
    return BothSides(*(score_pairs(p, a) for p, a in zip(predicted, answers, strict=True)))


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _figure(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}"


COLUMNS: tuple[tuple[str, Callable[[Row], Estimate], Callable[[Estimate], str]], ...] = (
    ("held-out\nsimilarity", lambda row: row.held_out.similarity, _with_interval),
    ("recall\n@1", lambda row: row.held_out.recall_at_1, _figure),
    ("recall\n@5", lambda row: row.held_out.recall_at_5, _figure),
    ("\nMRR", lambda row: row.held_out.mrr, _figure),
    ("train\nsimilarity", lambda row: row.train.similarity, _figure),
    ("train\nMRR", lambda row: row.train.mrr, _figure),
)


def render(verdict: Verdict) -> Table:
    """The final table: a row for each predictor, the best real one of every column emphasised, and the sentence beneath."""
    rows = verdict.rows()
    # One space of padding, on the right alone, and names that may take two lines: the figures fit 80 columns.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.caption, table.caption_justify, table.caption_style = verdict.sentence(), "left", ""
    table.add_column("")
    cells: dict[str, list[str]] = {name: [label(name)] for name in rows}
    for heading, estimate_of, text in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
        best = max(estimate_of(row).value for name, row in rows.items() if name not in CONTROLS)
        for name, row in rows.items():
            estimate = estimate_of(row)
            is_best = name not in CONTROLS and estimate.value == best
            cells[name].append(f"[bold green]{text(estimate)}[/]" if is_best else text(estimate))
    for name, line in cells.items():
        table.add_row(
            *line, style="bold" if name == "lattice" else "dim" if name in CONTROLS else "", end_section=name == "lattice"
        )
    return table
