"""Settings of what is observed of a cube: how often, and on how many questions."""

from dataclasses import dataclass

from lattice_jax.config.checks import require, require_kinds
from lattice_jax.config.learning import TrainingConfig


@dataclass(frozen=True)
class EmergenceConfig:
    """Emergence metrics: some while the cube learns, all of them when the run has ended."""

    every: int = 20
    """Training steps between two measurements of the metrics that take a few passes, each at the next look at the validation
    pairs (training.evaluate_every); 0 measures at the end of the run alone."""
    costly_every: int = 60
    """The same of those that take many passes, influence by gradient and by ablation and the Lyapunov exponent; a run of fewer
    steps has them of its end alone, as has one with 0."""
    at_end: bool = True
    """Measure everything when the run has ended, on the best parameters."""
    questions: int = 8
    """Held-out questions whose passes are stored step by step, and validation questions that are watched while the cube
    learns."""
    probe_questions: int = 160
    """Training and held-out questions, at most, that probes and topics are about; a third or less held out."""
    followed_questions: int = 48
    """Training and validation questions, at most, that they are about while the cube learns; a third or less for validation."""
    topics: int = 6
    """Topics, by k-means of question embeddings; at most one for every two questions."""
    clusters: int = 4
    """Groups of cells, by k-means of their responses and of their weights."""
    untrained_cubes: int = 3
    """Cubes with start values that are measured as null model; the first is that of the run itself."""
    shuffles: int = 20
    """Draws of every shuffled null model."""
    ablation_block: int = 5
    """Edge of the blocks of cells that are ablated, within a layer; 1 ablates each cell by itself, 25 times the work."""
    exponent_steps: int = 48
    """Steps over which the Lyapunov exponent is taken."""
    exponent_transient: int = 192
    """Steps before those, in which a small difference turns to the direction that grows most. In an untrained full cube it took
    some 300: the exponent came out 0.05 nats lower than in the end after 16 of them, 0.01 lower after 192."""

    def __post_init__(self):
        require_kinds(self, "emergence.")
        for name in ("every", "costly_every"):
            value = getattr(self, name)
            require(value >= 0, f"emergence.{name}", value, "0 (at the end alone) or a number of steps")
        for name, least in (
            ("questions", 2),
            ("probe_questions", 6),
            ("followed_questions", 6),
            ("topics", 2),
            ("clusters", 2),
            ("untrained_cubes", 2),
            ("shuffles", 2),
            ("ablation_block", 1),
            ("exponent_steps", 2),
            ("exponent_transient", 0),
        ):
            require(getattr(self, name) >= least, f"emergence.{name}", getattr(self, name), f"at least {least}")

    def due(self, step: int, training: TrainingConfig) -> bool:
        """Whether metrics are measured at this look at the validation pairs: at the first look, the last one, and the
        first at or after every multiple of `every`; and wherever the costly ones are."""
        if not self.every:
            return False
        return step in (0, training.steps) or _passed(self.every, step, training) or self.costly_due(step, training)

    def costly_due(self, step: int, training: TrainingConfig) -> bool:
        """The same for the costly ones: at the first look at or after every multiple of `costly_every` alone, since all are
        measured of the untrained cube and the trained one when the run has ended."""
        return bool(self.every and self.costly_every and step and _passed(self.costly_every, step, training))


def _passed(every: int, step: int, training: TrainingConfig) -> bool:
    """Whether a multiple of `every` lies after the look before this one, and not after this one."""
    before = (step - 1) // training.evaluate_every * training.evaluate_every
    return step // every > before // every
