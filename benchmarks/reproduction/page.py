"""The page and the plot of `autoencoding.py`, from its figures.

Contract: rows as `figures.measure` gives them, each with the `name` of its run; nothing is measured here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reproduction.figures import GOAL
from benchmarks.reproduction.texts import CONVERSATIONS, DEFINITIONS, PAIRS
from lattice_jax.evaluation.plots import BLUE, FAINT, INK, ORANGE, QUIET, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEACHERS = {"minilm": "MiniLM, 384 numbers", "mpnet": "MPNet, 768 numbers"}
KINDS = {PAIRS: "pairs of 'hundred'", DEFINITIONS: "WordNet", CONVERSATIONS: "chatterbot"}
_INTRODUCTION = f"""\
# 225 numbers and back

Cosine between an embedding and what comes back of it, on text that was used for no training and no choice. *PCA*: 225
principal components of the same text. *Gain*: adapter less PCA, paired, with its 95 % bootstrap interval. *Components for
{GOAL}*: how many of them PCA would need on the same held-out text. Held out are the 80 questions and answers of the held-out
pairs of 'hundred', 500 definitions of WordNet, and 500 turns of chatterbot, a kind of text that these adapters were not
trained on. In the last row of MiniLM's table chatterbot's are the pairs, repeated until they are 15 % of the text, for the
components too; held out are there the questions and answers of its held-out pairs that no text of a training pair holds. The
best step is chosen by the validation pairs, the start at PCA (of every text once) among them: where learning helps these
nowhere, the adapter stays what it was and gains nothing.
"""


def markdown(rows: Sequence[Mapping]) -> str:
    """The whole page; trials, if any, after the figures on growing text."""
    lines = [_INTRODUCTION]
    for teacher, title in TEACHERS.items():
        trained = [row for row in rows if row["teacher"] == teacher and not _is_trial(row)]
        if trained:
            settings = dict.fromkeys(_settings(row) for row in trained)
            lines += [f"## {title}", "", *settings, "", *_trained(trained), ""]
    lines += ["## What falls short", "", *_short(rows), ""]
    lines += ["![Cosine over the amount of text](autoencoding.png)", ""]
    tried_on = {(row["teacher"], row["sentences"]) for row in rows if _is_trial(row)}
    trials = sorted((row for row in rows if (row["teacher"], row["sentences"]) in tried_on), key=lambda row: row["teacher"])
    if trials:
        lines += ["## Strategies and learning rates", "", *_trials(trials), ""]
    lines.append("`python benchmarks/autoencoding.py --write`")
    return "\n".join(lines) + "\n"


def _is_trial(row: Mapping) -> bool:
    return row["name"].startswith("trial-")


def _settings(row: Mapping) -> str:
    name = "From conversations: adapter" if _converses(row) else "Adapter"
    return f"{name} `{row['strategy']}`, learning rate {row['learning_rate']:g}, {row['steps']:,} steps of 128 texts."


def _pairs(row: Mapping) -> str:
    """A run's `corpus.pairs`; rows of before there was a choice don't say."""
    return row.get("pairs", PAIRS)


def _converses(row: Mapping) -> bool:
    return _pairs(row) != PAIRS


def text_name(sentences: str, pairs: str = PAIRS) -> str:
    """How the page calls what a run's `corpus.sentences` and `corpus.pairs` name."""
    own = "pairs" if pairs == PAIRS else f"pairs of {pairs.partition(':')[0]}"
    if sentences == "none":
        return f"{own} alone"
    count = sentences.partition("+wordnet:")[2]
    return f"{own}, guide, {int(count):,} words of WordNet" if count else f"{own}, guide"


def _trained(rows: Sequence[Mapping]) -> list[str]:
    lines = [
        f"| text | texts | held-out | adapter | PCA | gain | components for {GOAL} | variance beyond 225 | on training text |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        for number, (kind, figures) in enumerate(row["held_out"].items()):
            gain = _interval(figures["gain"], "+")
            cells = [kind, _interval(figures["adapter"]), f"{figures['components']['value']:.4f}", gain]
            cells.append(str(row["components_for_goal"][kind]))
            # What holds for all kinds of a row stands beside the first alone.
            before = [text_name(row["sentences"], _pairs(row)), f"{row['texts']:,}"] if number == 0 else ["", ""]
            after = [f"{row['variance_beyond']:.3f}", _training(row)] if number == 0 else ["", ""]
            lines.append(f"| {' | '.join([*before, *cells, *after])} |")
    return lines


def _name(teacher: str) -> str:
    return TEACHERS[teacher].partition(",")[0]


def _short(rows: Sequence[Mapping]) -> list[str]:
    """With the most text of each teacher, and with conversations, every held-out kind that misses the goal or does not surpass
    components."""
    lines = []
    for teacher in TEACHERS:
        trained = [row for row in rows if row["teacher"] == teacher and not _is_trial(row)]
        growing = sorted((row for row in trained if not _converses(row)), key=lambda row: row["texts"])
        for row in growing[-1:] + [row for row in trained if _converses(row)]:
            for kind, figures in row["held_out"].items():
                name = f"{_name(teacher)} on {kind}"
                name += ", of which it has learned nothing" if kind not in row["validation"] else ""
                name += ", from conversations" if _converses(row) else ""
                reached = figures["adapter"]["value"]
                if reached < GOAL:
                    missing = f"{GOAL - reached:.4f} below {GOAL}"
                    needed = f"PCA would need {row['components_for_goal'][kind]} numbers"
                    lines.append(f"- {name}: {reached:.4f}, {missing}; {needed}.")
                if figures["gain"]["interval"][0] <= 0:
                    lines.append(f"- {name}: no gain over PCA.")
    return lines or [f"With the most text of each teacher nothing: all above {GOAL} and above PCA."]


def _training(row: Mapping) -> str:
    return f"{row['training']['adapter']['value']:.4f} (PCA {row['training']['components']['value']:.4f})"


def _interval(one: Mapping, sign: str = "") -> str:
    low, high = one["interval"]
    return f"{one['value']:{sign}z.4f} [{low:{sign}z.4f}, {high:{sign}z.4f}]"


def _trials(rows: Sequence[Mapping]) -> list[str]:
    lines = [
        f"Text: {text_name(rows[0]['sentences'])}, {rows[0]['steps']:,} steps; judged by validation text alone.",
        "",
        "| teacher | strategy | learning rate | validation pairs | validation definitions |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        pairs, definitions = (row["validation"][kind]["adapter"]["value"] for kind in (PAIRS, DEFINITIONS))
        lines.append(
            f"| {_name(row['teacher'])} | {row['strategy']} | {row['learning_rate']:g} | {pairs:.4f} | {definitions:.4f} |"
        )
    for teacher in dict.fromkeys(row["teacher"] for row in rows):
        known = next(row for row in rows if row["teacher"] == teacher)["validation"]
        pairs, definitions = (known[kind]["components"]["value"] for kind in (PAIRS, DEFINITIONS))
        lines.append(f"| {_name(teacher)} | PCA | | {pairs:.4f} | {definitions:.4f} |")
    return lines


def plot(rows: Sequence[Mapping], path: Path) -> None:
    """A row of panels a teacher, a panel a kind of held-out text: cosine over the number of texts, intervals as bands."""
    teachers = [teacher for teacher in TEACHERS if any(row["teacher"] == teacher for row in rows)]
    figure = new_figure(width=8.8, height=2.75 * len(teachers))
    panels = figure.subplots(len(teachers), len(KINDS), squeeze=False, sharex=True, sharey="row")
    for teacher, line in zip(teachers, panels, strict=True):
        growing = [row for row in rows if row["teacher"] == teacher and not _converses(row)]
        own = sorted(growing, key=lambda row: row["texts"])
        for kind, axes in zip(KINDS, line, strict=True):
            _panel(axes, own, kind)
            dress(axes, f"{_name(teacher)}, {KINDS[kind]}")
            axes.spines["bottom"].set_color(FAINT)
            axes.tick_params(which="both", colors=QUIET, labelsize=8, length=0)
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
        line[0].set_ylabel("cosine", color=QUIET, fontsize=8.5)
    for axes in panels[-1]:
        axes.set_xlabel("texts trained on", color=QUIET, fontsize=8.5)
    panels[0][0].legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")
    figure.savefig(path)


def _panel(axes: "Axes", rows: Sequence[Mapping], kind: str) -> None:
    texts = [row["texts"] for row in rows]
    axes.axhline(GOAL, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), label=f"goal, {GOAL}")
    for name, colour, label in (("components", ORANGE, "PCA-225"), ("adapter", BLUE, "adapter")):
        figures = [row["held_out"][kind][name] for row in rows]
        low, high = zip(*(one["interval"] for one in figures), strict=True)
        axes.fill_between(texts, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(texts, [one["value"] for one in figures], color=colour, marker="o", markersize=3.5, label=label)
    axes.set_xscale("log")
    axes.set_xticks([200, 2000, 20_000], ["200", "2,000", "20,000"])
    axes.set_xlim(140, 150_000)
    axes.minorticks_off()
