"""The page of the study: two plots and Markdown from what the arms gave.

Contract: figures in, text and pictures out; every number on the page comes from `found` or from the results of real runs.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.historical.levels import constant_level

COLOURS = {"cube": "#2b6cb0", "wrong": "#b7791f", "constant": "#4a5568"}


CONSTANT, WRONG = "best constant prediction", "cube that learns others' answers"
FIGURES = (
    "similarity",
    "constant",
    "others",
    "pairwise",
    "recall_at_1",
    "mrr",
    "held_out_similarity",
    "held_out_constant",
    "held_out_mrr",
)
"""Of the last step, in the order of the table."""

TEXT = """\
# What 38.5 % -> 89.81 % meant

An earlier attempt reported that question-answer similarity rose from 38.5 % to 89.81 % on ten pairs. Its target was
the answer behind a projection of its own (Linear, LayerNorm, ReLU, down to 225 numbers), trained with the cube or
left random, and it was measured on the ten pairs that had been learned. Repeated that way, on a narrow cube and real
embeddings of MPNet, similarity goes from {trained_before} to **{trained_similarity}** with the trained projection,
and from {random_before} to {random_similarity} with the random one. A prediction that is the same for every question
scores **{trained_constant}** and {random_constant} there, and a cube that learned the answers of *other* questions
{wrong_similarity}. On the 40 held-out pairs the cube with the trained projection has {trained_held_out_similarity}, a
constant {trained_held_out_constant}; its MRR there is {trained_held_out_mrr}. So the figure says little about
answering: the measure gives most of it to whoever says nothing. And 38.5 % is no state before learning but about what
questions and answers have in common anyway: their mean cosine is {raw} on the ten pairs with this teacher.

Measured in the teacher's space, which no training can change, the same cube goes from {teacher_before} to
{teacher_similarity} on the ten pairs (a constant: {teacher_constant}), and reaches {teacher_held_out_similarity} on
held-out ones (a constant: {teacher_held_out_constant}).

The project's own figures, of full runs, in the teacher's space:

- ten pairs by heart (`configs/ten_pairs.py`): {ten_learned} on them, {ten_held_out} on held-out pairs;
- the main job (`configs/phase3.py`, 92 pairs): held-out similarity {main_similarity}, MRR {main_mrr}; the question itself has
  {question_similarity} and {question_mrr}, the mean answer {mean_answer}.

![Similarity over training]({curves})

The red line is 89.81 %. Where the projection is trained, the constant rises with the cube: making all targets alike
lowers the loss.

![Arms beside what says nothing]({arms})

## All arms

Means over {seeds} seeds, after the last step. *Pairwise*: mean cosine c of two different targets; the best constant
scores sqrt((1 + (n - 1) c) / n), for c = 0.8 and n = 10 already {alike}.

| arm | before | after | constant | other questions | pairwise | recall@1 | MRR | held-out | held-out constant | held-out MRR |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{rows}

Recall and MRR are among the ten answers, held-out MRR among the 40. Arms with *others' answers* learned the ten
answers permuted, none in its place, and are measured against what they learned.

`{command}`: a cube of 4 x 15 x 15 narrow cells, the three losses at 0.3, 0.3 and 0.4. Of the earlier attempt the
layers, the losses and the ten pairs' number are known, not its learning rate; those here are this project's, so the
measure is repeated, not the run.
"""


def mean(arm: Mapping, name: str) -> float:
    """Over the seeds, of the last step."""
    return statistics.mean(run["final"][name] for run in arm["seeds"])


def start(arm: Mapping) -> float:
    """Similarity before training, over the seeds."""
    return statistics.mean(run["curve"][0]["similarity"] for run in arm["seeds"])


def plot_curves(found: Mapping[str, Mapping], path: Path) -> None:
    """Similarity of each space over training, with right answers and with others', and what a constant scores meanwhile."""
    spaces = [name for name in found if not found[name]["shuffled"]]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(spaces), sharey=True)
    for panel, name in zip(panels, spaces, strict=True):
        wrong = found[f"{name}, others' answers"]
        steps = [row["step"] for row in found[name]["seeds"][0]["curve"]]

        def curve(arm: Mapping, figure_name: str) -> list[float]:
            runs = [[row[figure_name] for row in run["curve"]] for run in arm["seeds"]]
            return [statistics.mean(values) for values in zip(*runs, strict=True)]

        panel.plot(steps, curve(found[name], "similarity"), color=COLOURS["cube"], lw=2, label="cube")
        panel.plot(
            steps, curve(wrong, "similarity"), color=COLOURS["wrong"], lw=2, ls="--", label="cube that learns others' answers"
        )
        panel.plot(
            steps, curve(found[name], "constant"), color=COLOURS["constant"], lw=1.5, ls=":", label="best constant prediction"
        )
        panel.axhline(0.8981, color="#c53030", lw=0.8)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("training step")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("similarity on the ten pairs")
    panels[0].text(steps[-1], 0.8981, "89.81 %", color="#c53030", fontsize=8, ha="right", va="bottom")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


def plot_arms(found: Mapping[str, Mapping], path: Path) -> None:
    """Each arm's similarity after training beside what answers to nothing score in the same space."""
    names = list(found)
    rows = {
        "cube": [mean(found[name], "similarity") for name in names],
        CONSTANT: [mean(found[name], "constant") for name in names],
        "cube's answers to other questions": [mean(found[name], "others") for name in names],
    }
    figure = Figure(figsize=(11, 0.62 * len(names) + 1.4), layout="constrained")
    panel = figure.subplots()
    for number, (label, colour) in enumerate(zip(rows, (COLOURS["cube"], COLOURS["constant"], "#a0aec0"), strict=True)):
        places = [place + 0.27 * (number - 1) for place in range(len(names))]
        bars = panel.barh(places, rows[label], height=0.25, color=colour, label=label)
        panel.bar_label(bars, fmt="%.3f", fontsize=8, padding=3)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlim(min(0, *rows["cube's answers to other questions"]), 1.12)
    panel.set_xlabel("similarity on the ten pairs after training")
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


def markdown(
    found: Mapping[str, Mapping], raw: float, honest: Mapping, ten: Mapping, plots: Sequence[str], command: str
) -> str:
    """The page.

    `raw`: cosine of the ten questions with their answers in the teacher's space; `honest`, `ten`: summaries of the main job and
    of `configs/ten_pairs.py`.
    """
    arms = {
        "trained": "trained projection",
        "random": "random projection",
        "wrong": "trained projection, others' answers",
        "teacher": "teacher's space",
    }
    told = {f"{arm}_{name}": f"{mean(found[full], name):.3f}" for arm, full in arms.items() for name in FIGURES}
    told |= {f"{arm}_before": f"{start(found[full]):.3f}" for arm, full in arms.items()}
    told |= {f"main_{name}": f"{row[name]:.3f}" for row in [honest["held_out"]] for name in ("similarity", "mrr")}
    told |= {f"question_{name}": f"{honest['baselines']['question'][name]:.3f}" for name in ("similarity", "mrr")}
    told |= {
        "mean_answer": f"{honest['baselines']['mean_answer']['similarity']:.3f}",
        "ten_learned": f"{ten['train']['similarity']:.3f}",
        "ten_held_out": f"{ten['held_out']['similarity']:.3f}",
        "raw": f"{raw:.3f}",
        "alike": f"{float(constant_level(0.8, 10)):.3f}",
        "rows": "\n".join(table_row(name, arm) for name, arm in found.items()),
        "seeds": str(len(found["trained projection"]["seeds"])),
        "curves": plots[0],
        "arms": plots[1],
        "command": command,
    }
    return TEXT.format_map(told)


def table_row(name: str, arm: Mapping) -> str:
    """One arm in Markdown."""
    return (
        f"| {name} | " + " | ".join(f"{value:.3f}" for value in (start(arm), *(mean(arm, figure) for figure in FIGURES))) + " |"
    )
