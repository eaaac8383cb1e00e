"""Figures of how answers last: from states that other questions left, and after part of the cube was cleared.

Contract: functions of `pool` and `recovery` in a run's summary; a panel is left out where its figures are.
"""

from collections.abc import Mapping
from functools import partial

from lattice_jax.evaluation.names import spelled
from lattice_jax.evaluation.plots import BLUE, GREEN, ORANGE, PURPLE, QUIET, name_endings
from lattice_jax.evaluation.report.drawing import Panel, grid_lines, new_axes

KINDS = {"undamaged": QUIET, "sphere": BLUE, "box": ORANGE, "half_cube": GREEN}
IN_TURN = {"similarity": BLUE, "mrr": PURPLE, "agreement": QUIET}


def endurance_panels(summary: Mapping | None) -> list[Panel]:
    """Recovery from damage, and answers given in turn."""
    recovery, rounds = (summary or {}).get("recovery"), ((summary or {}).get("pool") or {}).get("rounds")
    panels = []
    if recovery:
        shares = ", ".join(f"{spelled(kind)} {share:.0%}" for kind, share in recovery["cleared_share"].items())
        panels.append(
            Panel(
                "recovery",
                "Recovery after damage",
                "Cosine of what is read with the answer before a region of the cube was cleared, while the question stays at "
                f"the input: 1 is full recovery. Cleared: {shares} of the cells. Undamaged: how steady the answer is.",
                partial(_recovery, recovery),
            )
        )
    if rounds:
        panels.append(
            Panel(
                "answers_in_turn",
                "Answers from other questions' states",
                "Every question is asked of a cube at rest, then of the cube as another question left it, and so on. "
                "Agreement: cosine with the answer from rest. A cube that forgets what was asked before has level lines.",
                partial(_in_turn, rounds),
            )
        )
    return panels


def _recovery(recovery: Mapping):
    figure, axes = new_axes("Recovery after damage", "lattice step after the damage", "cosine with the answer before")
    endings = []
    for kind, colour in KINDS.items():
        axes.plot(recovery["steps"], recovery[kind], color=colour, linewidth=2, linestyle="--" if kind == "undamaged" else "-")
        endings.append((recovery[kind][-1], spelled(kind), colour, False))
    axes.margins(x=0)
    grid_lines(axes)
    name_endings(axes, endings)
    return figure


def _in_turn(rounds: list[Mapping]):
    figure, axes = new_axes("Answers from other questions' states", "questions asked before", "value")
    before = [row["questions_before"] for row in rounds]
    endings = []
    for name, colour in IN_TURN.items():
        axes.plot(before, [row[name] for row in rounds], color=colour, linewidth=2, marker="o", markersize=4)
        endings.append((rounds[-1][name], spelled(name), colour, False))
    axes.set_xticks(before)
    axes.margins(x=0.02)
    grid_lines(axes)
    name_endings(axes, endings)
    return figure
