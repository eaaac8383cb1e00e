"""Several runs as one predictor: their answers averaged, judged beside each of them and beside the baselines.

Contract: members share corpus, division and teacher, else they are refused, for a mean over different held-out pairs means
nothing. The ensemble's answer is the mean of the members' answers at unit length (deep ensembles, Lakshminarayanan et al.,
arXiv:1612.01474). Nothing is fitted or chosen here but the baselines, on training and validation pairs. Differences are paired
over the held-out pairs; those of the *mean member* average each pair's score over the members first, so they say what one run
is worth, whichever its seed.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table

from lattice_jax import experiment, run
from lattice_jax.commandline import CONFIG_RECORD, OF_THE_MACHINE, require_different, require_recorded
from lattice_jax.config import Config
from lattice_jax.errors import InputError
from lattice_jax.evaluation.baselines import Pairs
from lattice_jax.evaluation.similarity import MEASURES, paired_difference, score_pairs, summarise, unit_rows
from lattice_jax.evaluation.verdict import label
from lattice_jax.material import Material
from lattice_jax.records import require_writable, write_record

FILE = "ensemble.json"
SIDES = ("train", "validation", "held_out")
_SPEED_OF_TEACHER = {"batch_size": 1, "cache_directory": ".", "stored_as": "float32", "streamed": False}


class Member(NamedTuple):
    """One run: what it is, and its answers at unit length by side."""

    workdir: Path
    config: Config
    answers: dict[str, Float[np.ndarray, "n d"]]
    operations: float


def average(predictions: Sequence[Float[np.ndarray, "n d"]]) -> Float[np.ndarray, "n d"]:
    """The mean of several predictions, each taken at unit length."""
    return np.mean([unit_rows(predicted, "a member's answers") for predicted in predictions], axis=0)


def train_seeds(config: Config, workdir: Path, *, seeds: Sequence[int], resume: bool, console: Console) -> dict[str, Any]:
    """Train and judge one run a seed, in `workdir/seed-N`, then all of them together; returns the figures of `ensemble.json`.

    With `resume`, runs that have ended stay as they are; `InputError` where they had other settings.
    """
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        raise InputError(f"seeds {list(seeds)}", expected="two or more, each once", fix="for example --seeds 0 1 2 3 4")
    folders, fit = [workdir / f"seed-{seed}" for seed in seeds], experiment.FittedOnce()
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    ended = [folder for folder in folders if resume and (folder / run.SUMMARY).exists()]
    for one, folder in zip(configs, folders, strict=True):
        if folder in ended:
            require_recorded(one, folder, but=OF_THE_MACHINE)
    for one, folder in zip(configs, folders, strict=True):
        if folder not in ended:
            console.rule(f"seed {one.seed}", align="left")
            run.train(one, folder, resume=resume and (folder / CONFIG_RECORD).exists(), console=console, fit=fit)
    return evaluate(folders, workdir / FILE, console=console, fit=fit)


def evaluate(
    workdirs: Sequence[Path], out: Path, *, console: Console, fit: experiment.FitBaselines = experiment.answer_baselines
) -> dict[str, Any]:
    """Judge runs and their ensemble on the held-out pairs that they share; writes `out` and returns what is in it."""
    if len(workdirs) < 2:
        raise InputError(f"an ensemble of {len(workdirs)}", expected="two or more runs", fix="give --workdir several times")
    require_different(workdirs)
    require_writable(out, "--out")
    members, material = _load(workdirs, console)
    with console.status("measuring the ensemble and the baselines"):
        found = judge(members, material, fit)
    write_record(out, found)
    console.print(render(found))
    console.print(f"\nFigures: {out}", highlight=False, markup=False)
    return found


def judged_sides(config: Config, material: Material) -> dict[str, Pairs]:
    """The pairs of each side that figures are measured on."""
    return {side: material.judged_pairs(side, config.evaluation.training_pairs) for side in SIDES}


def _load(workdirs: Sequence[Path], console: Console) -> tuple[list[Member], Material]:
    members, material = [], None
    for workdir in workdirs:
        summary = run.read_summary(workdir)
        trained = run.load_trained(workdir, console=Console(quiet=True) if members else console)
        if material is None:
            material = trained.material
        else:
            _require_alike(workdir, trained, members[0], material)
        answers = {
            side: unit_rows(trained.predict(pairs.questions), f"the answers of {workdir}")
            for side, pairs in judged_sides(members[0].config if members else trained.config, material).items()
        }
        members.append(Member(workdir, trained.config, answers, summary["training_operations"]))
    assert material is not None
    return members, material


def _require_alike(workdir: Path, trained: run.Trained, first: Member, material: Material) -> None:
    ours, theirs = material.corpus, trained.material.corpus
    teachers = [dataclasses.replace(config.teacher, **_SPEED_OF_TEACHER) for config in (first.config, trained.config)]
    different = [
        name
        for name, same in (
            ("texts (data_hash)", ours.hash == theirs.hash),
            ("division of the pairs", ours.split == theirs.split),
            ("teacher", teachers[0] == teachers[1]),
        )
        if not same
    ]
    if different:
        raise InputError(
            f"{workdir} and {first.workdir} differ in: {', '.join(different)}",
            expected="runs of one corpus, one division and one teacher",
            fix="leave one of them out",
        )


def judge(
    members: Sequence[Member], material: Material, fit: experiment.FitBaselines = experiment.answer_baselines
) -> dict[str, Any]:
    """Every figure of `ensemble.json`, from the members' answers."""
    config = members[0].config
    settings = {
        "bootstrap_samples": config.evaluation.bootstrap_samples,
        "confidence": config.evaluation.confidence,
        "seed": config.seed,
    }
    measures, difference = partial(summarise, **settings), partial(paired_difference, **settings)
    pairs = judged_sides(config, material)
    scores = [{side: score_pairs(member.answers[side], pairs[side].answers) for side in SIDES} for member in members]
    together = {side: score_pairs(average([member.answers[side] for member in members]), pairs[side].answers) for side in SIDES}
    mean_member = {side: np.mean([of_one[side] for of_one in scores], axis=0) for side in SIDES}

    def row(by_side: dict[str, np.ndarray]) -> dict[str, Any]:
        held_out = measures(by_side["held_out"]).as_dict()
        return held_out | {side: measures(by_side[side]).as_dict() for side in ("train", "validation")}

    def gains(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        found = {}
        for name in ("similarity", "mrr"):
            column = MEASURES.index(name)
            estimate = difference(ours[:, column], theirs[:, column])
            found[name] = {"value": estimate.value, "interval": [estimate.low, estimate.high]}
        return found

    baselines = {}
    for name, baseline in fit(config, material, max(member.operations for member in members)).items():
        theirs = {side: score_pairs(baseline.predict(pairs[side].questions), pairs[side].answers) for side in SIDES}
        baselines[name] = row(theirs) | {
            "ensemble_gain": gains(together["held_out"], theirs["held_out"]),
            "mean_member_gain": gains(mean_member["held_out"], theirs["held_out"]),
        }
    return {
        "members": [
            {"workdir": str(member.workdir), "seed": member.config.seed} | row(of_one)
            for member, of_one in zip(members, scores, strict=True)
        ],
        "spread": {side: spread([of_one[side].mean(axis=0) for of_one in scores]) for side in SIDES},
        "mean_member": row(mean_member),
        "ensemble": row(together) | {"gain_over_mean_member": gains(together["held_out"], mean_member["held_out"])},
        "baselines": baselines,
        "mean_member_pairs": {
            name: mean_member["held_out"][:, column].tolist()
            for column, name in enumerate(MEASURES)
            if name in ("similarity", "mrr")
        },
        "data_hash": material.corpus.hash,
        "teacher": config.teacher.name,
        "pairs": {side: len(material.pairs(side).questions) for side in SIDES},
        "confidence": config.evaluation.confidence,
    }


def spread(means: Sequence[Float[np.ndarray, " 4"]]) -> dict[str, dict[str, float]]:
    """Over members, of each measure: mean, sample standard deviation, lowest and highest."""
    table = np.stack(means)
    return {
        name: {
            "mean": float(table[:, column].mean()),
            "deviation": float(table[:, column].std(ddof=1)),
            "lowest": float(table[:, column].min()),
            "highest": float(table[:, column].max()),
        }
        for column, name in enumerate(MEASURES)
    }


def render(found: dict[str, Any]) -> Table:
    """Members, their mean and spread, the ensemble and the baselines; beneath, what is above or below what."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.caption, table.caption_justify, table.caption_style = sentence(found), "left", ""
    table.add_column("")
    for heading in ("held-out\nsimilarity", "recall\n@1", "\nMRR", "validation\nsimilarity", "train\nsimilarity"):
        table.add_column(heading, justify="right", no_wrap=True)

    def add(name: str, row: dict[str, Any], **style: Any) -> None:
        low, high = row["similarity_interval"]
        table.add_row(
            name,
            f"{row['similarity']:.3f} [{low:.2f}, {high:.2f}]",
            *(f"{row[measure]:.3f}" for measure in ("recall_at_1", "mrr")),
            *(f"{row[side]['similarity']:.3f}" for side in ("validation", "train")),
            **style,
        )

    for member in found["members"]:
        add(f"{Path(member['workdir']).name}, seed {member['seed']}", member)
    spreads = found["spread"]
    shown = [spreads["held_out"][name] for name in ("similarity", "recall_at_1", "mrr")]
    shown += [spreads[side]["similarity"] for side in ("validation", "train")]
    for name, figure in (("mean", "mean"), ("standard deviation", "deviation")):
        table.add_row(name, *(f"{one[figure]:.3f}" for one in shown), end_section=figure == "deviation")
    add("ensemble", found["ensemble"], style="bold", end_section=True)
    for name, row in found["baselines"].items():
        add(label(name), row)
    return table


def sentence(found: dict[str, Any]) -> str:
    """The comparisons in plain language."""

    def told(gain: dict[str, Any]) -> str:
        (low, high), value = gain["interval"], gain["value"]
        relation = "above" if low > 0 else "below" if high < 0 else "level with"
        return f"{relation} {{}} ({value:+.3f} [{low:+.3f}, {high:+.3f}])"

    own = told(found["ensemble"]["gain_over_mean_member"]["similarity"]).format("its mean member")
    parts = [told(row["ensemble_gain"]["similarity"]).format(f"the {label(name)}") for name, row in found["baselines"].items()]
    ranks = [told(row["ensemble_gain"]["mrr"]).format(f"the {label(name)}") for name, row in found["baselines"].items()]
    return (
        f"{len(found['members'])} members, {found['pairs']['held_out']} held-out pairs. Similarity of the ensemble: {own}; "
        f"{'; '.join(parts)}. Mean reciprocal rank: {'; '.join(ranks)}. Differences are paired, intervals "
        f"{found['confidence']:.0%}."
    )
