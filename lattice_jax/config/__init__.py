"""Every setting of a run, as frozen dataclasses.

Contract: a `Config` that exists is valid on its own terms (each value of its type and in range, the steps enough for the
depth); whatever also depends on files or data is checked where these are read. A bad value raises `InputError` with the name of
the field and the fix.
A configuration file is plain Python with one `CONFIG = Config(...)`; the command line overrides any field by its dotted name.
"""

import dataclasses
from dataclasses import dataclass, field

from lattice_jax.config.checks import require, require_kinds
from lattice_jax.config.emergence import EmergenceConfig
from lattice_jax.config.lattice import (
    AXIS,
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
from lattice_jax.config.pool import Damage, PoolConfig
from lattice_jax.config.teacher import TeacherConfig

__all__ = [
    "AXIS",
    "AdapterConfig",
    "AnswerConfig",
    "CellConfig",
    "Config",
    "CorpusConfig",
    "Damage",
    "EmergenceConfig",
    "Engine",
    "EvaluationConfig",
    "Face",
    "GridConfig",
    "LatticeConfig",
    "LossConfig",
    "Neighbourhood",
    "OptimizerConfig",
    "PoolConfig",
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
    emergence: EmergenceConfig = field(default_factory=EmergenceConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)

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
        self._require_pool()

    def horizons(self) -> tuple[int, int]:
        """Fewest and most lattice steps of a training pass."""
        return self.pool.minimum_steps or self.lattice.steps, self.pool.maximum_steps or self.lattice.steps

    def _require_pool(self) -> None:
        fewest, most = self.horizons()
        require(
            most <= self.lattice.steps,
            "pool.maximum_steps",
            self.pool.maximum_steps,
            f"at most lattice.steps = {self.lattice.steps}",
        )
        needed = max(self.lattice.steps_needed(), self.loss.consistency_steps + 1)
        require(
            needed <= fewest <= most,
            "pool.minimum_steps",
            self.pool.minimum_steps,
            f"0, or between {needed}, so that the input reaches the output (lattice.minimum_arrival) and the cube can come to "
            f"rest (loss.consistency_steps), and the most steps of a pass, {most}",
        )
        at_once = self.training.micro_batch or self.training.batch_size
        require(
            self.pool.size == 0 or (self.pool.size >= self.training.batch_size and at_once >= 2),
            "pool.size",
            self.pool.size,
            f"0, or at least training.batch_size = {self.training.batch_size} with 2 or more samples at once: states are drawn "
            "without replacement and compared",
        )
        for name in ("reseed_share", "damage_share"):
            share = getattr(self.pool, name)
            require(
                self.pool.size == 0 or share == 0 or round(share * at_once) > 0,
                f"pool.{name}",
                share,
                f"0, or enough for one of the {at_once} samples at once (training.micro_batch, training.batch_size)",
            )

    def as_dict(self) -> dict:
        """Nested plain values, ready for JSON."""
        return dataclasses.asdict(self)
