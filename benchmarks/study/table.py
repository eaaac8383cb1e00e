"""The ablation table: held-out figures over seeds, and emergence figures where runs have them.

Contract: figures of `ensemble.json` and `summary.json` in, rows and Markdown out. The gain over the reference is paired over
the held-out pairs, each pair's score averaged over the seeds first, with the package's own bootstrap. The spread of an
emergence metric's null model is taken from all runs of the arm together: the few untrained cubes of one may hardly differ.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.study.arms import OBSERVED, REFERENCE, Arm
from lattice_jax.evaluation.names import spelled
from lattice_jax.evaluation.similarity import paired_difference
from lattice_jax.lattice.emergence import nulls


def gather(arms: Sequence[Arm], found: Mapping[str, dict], summaries: Mapping[str, Sequence[dict]]) -> list[dict[str, Any]]:
    """A row for each arm."""
    reference = found[REFERENCE.name]["mean_member_pairs"]
    rows = []
    for arm in arms:
        ensemble, runs = found[arm.name], summaries[arm.name]
        gains = {}
        for name in ("similarity", "mrr"):
            ours, theirs = np.array(ensemble["mean_member_pairs"][name]), np.array(reference[name])
            gain = paired_difference(ours, theirs)
            gains[name] = {"value": gain.value, "interval": [gain.low, gain.high]}
        rows.append(
            {
                "study": arm.study,
                "arm": arm.name,
                "settings": dict(arm.settings),
                "seeds": [member["seed"] for member in ensemble["members"]],
                "parameters": runs[0]["parameters"],
                "spread": ensemble["spread"],
                "gain_over_reference": gains,
                "ensemble": {name: ensemble["ensemble"][name] for name in ("similarity", "mrr")},
                "baselines": {
                    name: {measure: row[measure] for measure in ("similarity", "mrr")}
                    for name, row in ensemble["baselines"].items()
                },
                "emergence": emergence(runs),
            }
        )
    return rows


def emergence(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Each emergence metric that every run has: the means over the runs of value and null, and the z-score of the former.

    Its scale is `pooled_deviation`, about each run's own null: topics and start values differ from seed to seed.
    """
    measured = [one.get("emergence", {}) for one in runs]
    names = [name for name in measured[0] if all(name in one for one in measured)]
    rows = {}
    for name in names:
        value, null = (statistics.mean(one[name][part] for one in measured) for part in ("value", "null"))
        z = nulls.standard_score(value, null, pooled_deviation([one[name] for one in measured]))
        rows[name] = {"value": value, "null": null, "z": z}
    return rows


def pooled_deviation(comparisons: Sequence[Mapping[str, Any]]) -> float:
    """The standard deviation of null draws about the mean of their own run, from that of each run."""
    squares = sum((one["draws"] - 1) * one["null_deviation"] ** 2 for one in comparisons)
    return math.sqrt(squares / sum(one["draws"] - 1 for one in comparisons))


def markdown(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """The page `studies.md`."""
    seeds = ", ".join(map(str, rows[0]["seeds"]))
    lines = [
        "# Studies of the main job",
        "",
        f"Mean ± standard deviation over the seeds {seeds}. *Gain*: held-out similarity over the main job's, paired, 95 %.",
        "",
        "| study | arm | parameters | validation similarity | held-out similarity | gain | held-out MRR "
        "| training similarity | ensemble similarity / MRR |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        spread, gain = row["spread"], row["gain_over_reference"]["similarity"]
        told = "" if row["arm"] == REFERENCE.name else "{:+.3f} [{:+.3f}, {:+.3f}]".format(gain["value"], *gain["interval"])
        figures = [
            row["study"],
            row["arm"],
            f"{row['parameters']:,}",
            _spread(spread["validation"]["similarity"]),
            _spread(spread["held_out"]["similarity"]),
            told,
            _spread(spread["held_out"]["mrr"]),
            _spread(spread["train"]["similarity"]),
            f"{row['ensemble']['similarity']:.3f} / {row['ensemble']['mrr']:.3f}",
        ]
        lines.append(f"| {' | '.join(figures)} |")
    baselines = ", ".join(
        f"{spelled(name)} {one['similarity']:.3f} / {one['mrr']:.3f}" for name, one in rows[0]["baselines"].items()
    )
    lines += ["", f"Baselines on the same held-out pairs, similarity / MRR: {baselines}.", ""]
    if any(row["emergence"] for row in rows):
        lines += [
            f"Emergence, from {OBSERVED['emergence.probe_questions']} questions and {OBSERVED['emergence.untrained_cubes']} "
            "untrained cubes a seed (a single run takes more of both: compare within these tables). Mean over the seeds (z:",
            "distance from the null models' mean, by the spread of their draws in a seed).",
            "",
        ]
        first, *others = rows
        for study in dict.fromkeys(row["study"] for row in others or rows):
            own = [row for row in others if row["study"] == study]
            lines += [f"## Emergence: {study}", "", *_emergence_table([first, *own]), ""]
    return "\n".join([*lines, f"`{command}`", ""])


def _emergence_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A column for each arm."""
    lines = [f"| metric | {' | '.join(row['arm'] for row in rows)} |", "|---|" + "---:|" * len(rows)]
    for name in dict.fromkeys(name for row in rows for name in row["emergence"]):
        cells = [_emerged(row["emergence"].get(name)) for row in rows]
        lines.append(f"| {spelled(name)} | {' | '.join(cells)} |")
    return lines


def _spread(one: Mapping[str, float]) -> str:
    return f"{one['mean']:.3f} ± {one['deviation']:.3f}"


def _emerged(one: Mapping[str, float | None] | None) -> str:
    if one is None or one["value"] is None:
        return ""
    return f"{one['value']:.3g} ({'null does not vary' if one['z'] is None else format(one['z'], '+.1f')})"
