"""Settings of training from states that earlier questions left behind."""

from dataclasses import dataclass
from typing import Literal

from lattice_jax.config.checks import require, require_kinds

Damage = Literal["sphere", "box", "half_cube"]


@dataclass(frozen=True)
class PoolConfig:
    """States to start from (Mordvintsev et al. 2020), the number of steps of a training pass, and how both are judged."""

    size: int = 0
    """States kept; 0 starts every pass from the quiescent state."""
    reseed_share: float = 0.125
    """Share of a batch that starts from the quiescent state again: the states whose last answers were worst."""
    damage_share: float = 0.125
    """Share of a batch of whose start states a region is cleared: those whose last answers were best."""
    damage: Literal["any", "sphere", "box", "half_cube"] = "any"
    """The region's shape; 'any' draws one of the three for every state."""
    minimum_steps: int = 0
    """Fewest lattice steps of a training pass; 0 is lattice.steps."""
    maximum_steps: int = 0
    """Most lattice steps of a training pass, which draws their number; 0 is lattice.steps."""
    collapse_distance: float = 0.05
    """The states have collapsed when their mean distance, relative to their size, is below this."""
    collapse_rank: float = 1.5
    """Or when their effective rank is below this."""
    questions: int = 64
    """Held-out questions, at most, that are answered from each other's states at the end of a run; 0 measures neither that nor
    recovery."""
    rounds: int = 4
    """How many questions follow each other there."""
    recovery_questions: int = 8
    """Those of them whose states are damaged to see them recover."""

    def __post_init__(self):
        require_kinds(self, "pool.")
        require(self.size >= 0, "pool.size", self.size, "0 (no pool) or a number of states")
        for name in ("reseed_share", "damage_share"):
            require(0 <= getattr(self, name) <= 1, f"pool.{name}", getattr(self, name), "a share in [0, 1]")
        for name in ("minimum_steps", "maximum_steps"):
            require(getattr(self, name) >= 0, f"pool.{name}", getattr(self, name), "0 (lattice.steps) or a number of steps")
        require(self.collapse_distance >= 0, "pool.collapse_distance", self.collapse_distance, "0 or more")
        require(self.collapse_rank >= 1, "pool.collapse_rank", self.collapse_rank, "1 (never) or more")
        require(self.questions == 0 or self.questions >= 2, "pool.questions", self.questions, "0, or at least 2")
        require(self.rounds >= 1, "pool.rounds", self.rounds, "at least 1")
        require(self.recovery_questions >= 1, "pool.recovery_questions", self.recovery_questions, "at least 1")
