"""The arms: what each changes of the main job, and why it is tried.

Contract: an arm's settings are changes by dotted name, so an arm that names no setting, or leads to a configuration that can't
be, raises `InputError` before anything is trained. Lattice steps follow the depth where that changes, with the main job's own
margin: as many steps as give the signal the same probability of arriving.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lattice_jax.config import Config
from lattice_jax.config.overrides import with_settings


@dataclass(frozen=True)
class Arm:
    """One row of the ablation table."""

    study: str
    name: str
    settings: Mapping[str, object] = field(default_factory=dict)


REFERENCE = Arm("reference", "main-job")
ARMS = (
    Arm("cube size", "depth-4", {"lattice.grid.depth": 4, "lattice.steps": 6}),
    Arm("cube size", "depth-7", {"lattice.grid.depth": 7, "lattice.steps": 10}),
    Arm("cube size", "depth-15", {"lattice.grid.depth": 15, "lattice.steps": 22}),
    Arm("cube size", "face-10x10", {"lattice.grid.height": 10, "lattice.grid.width": 10}),
    Arm("cube size", "face-20x20", {"lattice.grid.height": 20, "lattice.grid.width": 20}),
    Arm("cube size", "hidden-32", {"lattice.cell.hidden": 32}),
    Arm("cube size", "hidden-256", {"lattice.cell.hidden": 256}),
    Arm("weight sharing", "shared-by-layer", {"lattice.sharing": "layer"}),
    Arm("weight sharing", "one-rule", {"lattice.sharing": "lattice"}),
    Arm("mask", "mask-off", {"lattice.update.rate": 1.0}),
    Arm("mask", "mask-85", {"lattice.update.rate": 0.85}),
    Arm("mask", "mask-50", {"lattice.update.rate": 0.5, "lattice.steps": 24}),
    Arm("mask", "mask-of-each-sample", {"lattice.update.mask": "sample"}),
    Arm("mask", "not-quiescent", {"lattice.update.quiescent": False}),
    Arm("propagation", "steps-12", {"lattice.steps": 12, "lattice.minimum_arrival": 0.0}),
    Arm("propagation", "steps-20", {"lattice.steps": 20}),
    Arm("propagation", "steps-32", {"lattice.steps": 32}),
    Arm("propagation", "pulse", {"lattice.injection": "pulse"}),
    Arm(
        "losses",
        "dialogue-alone",
        {"loss.surface_reconstruction": 0.0, "loss.internal_consistency": 0.0, "loss.dialogue_similarity": 1.0},
    ),
    Arm("losses", "without-consistency", {"loss.internal_consistency": 0.0}),
    Arm("losses", "without-surface", {"loss.surface_reconstruction": 0.0}),
    Arm("losses", "with-contrast", {"loss.contrastive": 0.1}),
    Arm("pool", "pool", {"pool.size": 64}),
    Arm("faces", "aligned-faces", {"adapter.layout": "aligned"}),
    Arm("added once it has learned", "question-added", {"answer.added_question": 0.3}),
    Arm("added once it has learned", "regression-added", {"answer.added_regression": 1.0}),
    Arm("added once it has learned", "both-added", {"answer.added_question": 0.3, "answer.added_regression": 1.0}),
)


OBSERVED = {
    "emergence.every": 0,
    "emergence.probe_questions": 60,
    "emergence.untrained_cubes": 3,
    "pool.questions": 0,
    "evaluation.edge_questions": 0,
}
"""What of every arm is observed: all metrics, on fewer questions and cubes than of a single run."""


def arm_config(base: Config, arm: Arm) -> Config:
    """The configuration of an arm."""
    return with_settings(base, {**OBSERVED, **arm.settings})
