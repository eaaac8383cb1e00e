"""Every setting of a run, as frozen dataclasses.

Contract: a `Config` that exists is valid on its own terms (each value of its type and in range, the steps enough for the
depth); whatever also depends on files or data is checked where these are read. A bad value raises `InputError` with the name of
the field and the fix.
A configuration file is plain Python with one `CONFIG = Config(...)`; the command line overrides any field by its dotted name.
"""

import dataclasses
from dataclasses import dataclass, field

from lattice_jax.config.checks import require, require_kinds
from lattice_jax.config.lattice import (
    CellConfig,
    Engine,
    Face,
    GridConfig,
    LatticeConfig,
    Neighbourhood,
    Sharing,
    UpdateConfig,
    Walls,
)
from lattice_jax.config.learning import (
    AdapterConfig,
    AnswerConfig,
    CorpusConfig,
    EvaluationConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from lattice_jax.config.teacher import TeacherConfig

__all__ = [
    "AdapterConfig",
    "AnswerConfig",
    "CellConfig",
    "Config",
    "CorpusConfig",
    "Engine",
    "EvaluationConfig",
    "Face",
    "GridConfig",
    "LatticeConfig",
    "LossConfig",
    "Neighbourhood",
    "OptimizerConfig",
    "Sharing",
    "TeacherConfig",
    "TrainingConfig",
    "UpdateConfig",
    "Walls",
]


@dataclass(frozen=True)
class Config:
    """One run, whole."""

    seed: int = 0
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    lattice: LatticeConfig = field(default_factory=LatticeConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self):
        require_kinds(self, "")
        require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2**31)")
        require(
            self.loss.consistency_steps < self.lattice.steps,
            "loss.consistency_steps",
            self.loss.consistency_steps,
            f"fewer than lattice.steps = {self.lattice.steps}",
        )
        sizes = self.lattice.surface_size(self.lattice.input_face), self.lattice.surface_size(self.lattice.output_face)
        require(
            sizes[0] == sizes[1],
            "lattice.output_face",
            self.lattice.output_face,
            f"a face as large as lattice.input_face ({sizes[0]} numbers, found {sizes[1]}): one adapter serves both",
        )

    def as_dict(self) -> dict:
        """Nested plain values, ready for JSON."""
        return dataclasses.asdict(self)
