"""Every setting of a run, as frozen dataclasses.

Contract: a `Config` that exists is valid on its own terms (each value of its type and in range, the steps enough for the
depth); whatever also depends on files or data is checked where these are read. A bad value raises `InputError` with the name of
the field and the fix.
A configuration file is plain Python with one `CONFIG = Config(...)`; the command line overrides any field by its dotted name.
"""

import bisect
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args, get_origin

from lattice_jax.errors import InputError

Face = Literal["front", "back", "top", "bottom", "left", "right"]
Sharing = Literal["cell", "layer", "lattice"]
Neighbourhood = Literal["von_neumann", "moore"]
Walls = Literal["zero", "periodic", "reflect", "edge"]


def _require(condition: bool, setting: str, value: object, expected: str) -> None:
    if not condition:
        raise InputError(f"{setting} is {value!r}", expected=expected, fix=f"set --config.{setting} accordingly")


def _require_kinds(settings: Any, room: str) -> None:
    """Refuse values that are not of their field's type, which a configuration file, being plain Python, may hold."""
    for entry in dataclasses.fields(settings):
        value, kind = getattr(settings, entry.name), cast(Any, entry.type)
        if get_origin(kind) is Literal:
            valid, expected = value in get_args(kind), "one of " + ", ".join(map(repr, get_args(kind)))
        elif kind is float:
            valid, expected = type(value) in (float, int) and math.isfinite(value), "a finite number"
        else:
            valid, expected = type(value) is kind, f"a value of type {kind.__name__}"
        _require(valid, f"{room}{entry.name}", value, expected)


@dataclass(frozen=True)
class CorpusConfig:
    """Which text is learned from, and how it is divided."""

    pairs: str = "hundred"
    """Question-answer pairs: 'ten', 'hundred', or the path of a JSONL file with 'question' and 'answer' on every line."""
    sentences: str = "scikit_learn_guide"
    """Unlabelled text for the adapter: 'scikit_learn_guide', 'none', or the path of a text file with one sentence a line."""
    held_out_pairs: int = 40
    """Pairs for the verdict, never used for any choice."""
    validation_pairs: int = 12
    """Pairs for choices: early stopping and the baselines' regularisation."""
    split_seed: int = 0
    """Seed of the division; apart from the run's seed, so that several seeds share one held-out set."""
    near_duplicate_similarity: float = 0.8
    """Answers whose word sets overlap at least this much (Jaccard, 0..1) stay on one side of the division."""

    def __post_init__(self):
        _require_kinds(self, "corpus.")
        _require(self.held_out_pairs >= 2, "corpus.held_out_pairs", self.held_out_pairs, "at least 2 pairs to judge on")
        _require(self.validation_pairs >= 2, "corpus.validation_pairs", self.validation_pairs, "at least 2 pairs for choices")
        _require(
            0 < self.near_duplicate_similarity <= 1,
            "corpus.near_duplicate_similarity",
            self.near_duplicate_similarity,
            "a number in (0, 1]",
        )


@dataclass(frozen=True)
class TeacherConfig:
    """The frozen language model that turns text into embeddings."""

    name: Literal["mpnet", "minilm"] = "mpnet"
    """'mpnet': all-mpnet-base-v2, 768 numbers a text; 'minilm': all-MiniLM-L6-v2, 384."""
    batch_size: int = 32
    """Texts encoded at once."""
    cache_directory: str = ".cache/embeddings"
    """Where embeddings are kept, by teacher and text; created when missing."""

    def __post_init__(self):
        _require_kinds(self, "teacher.")
        _require(self.batch_size >= 1, "teacher.batch_size", self.batch_size, "at least 1 text")


@dataclass(frozen=True)
class AdapterConfig:
    """The compressor between the teacher's space and a face of the cube; trained first, then frozen."""

    strategy: Literal["hierarchical", "linear", "attention", "autoencoder"] = "hierarchical"
    steps: int = 1000
    """Training steps at most; the best on the validation text is kept."""
    batch_size: int = 128
    learning_rate: float = 3e-5
    """Low, because training starts near the linear optimum: at 3e-4 the adapter first forgets it."""
    pair_fraction: float = 0.25
    """Share of every batch drawn from the training pairs, the rest from the unlabelled sentences."""
    evaluate_every: int = 50

    def __post_init__(self):
        _require_kinds(self, "adapter.")
        _require(self.steps >= 1, "adapter.steps", self.steps, "at least 1 step")
        _require(self.batch_size >= 1, "adapter.batch_size", self.batch_size, "at least 1 text")
        _require(self.learning_rate > 0, "adapter.learning_rate", self.learning_rate, "a positive rate")
        _require(0 < self.pair_fraction <= 1, "adapter.pair_fraction", self.pair_fraction, "a share in (0, 1]")
        _require(self.evaluate_every >= 1, "adapter.evaluate_every", self.evaluate_every, "at least 1 step")


@dataclass(frozen=True)
class GridConfig:
    """Cells along each axis; the front face is depth 0, the back face the last depth."""

    depth: int = 11
    height: int = 15
    width: int = 15

    def __post_init__(self):
        _require_kinds(self, "lattice.grid.")
        for name in ("depth", "height", "width"):
            _require(getattr(self, name) >= 2, f"lattice.grid.{name}", getattr(self, name), "at least 2 cells")


@dataclass(frozen=True)
class CellConfig:
    """The gMLP cell: what it holds and what it sees."""

    visible: int = 32
    """Channels that neighbours perceive."""
    memory: int = 32
    """Channels that only the cell itself reads."""
    hidden: int = 128
    """Width of each half of the gated hidden layer."""
    parameter_budget: int = 0
    """Parameters a cell should have: the hidden width is solved for; 0 takes `hidden` as it is."""
    perception: Neighbourhood = "moore"
    """Neighbours whose visible channels a cell perceives: 6 (von_neumann) or 26 (moore)."""
    gate: Neighbourhood = "von_neumann"
    """Neighbours that are the tokens of the spatial gate."""
    normalisation_epsilon: float = 1e-2
    """Added to the mean square; 1e-5 on the all-zero start state gave first gradients of norm 37,659."""

    def __post_init__(self):
        _require_kinds(self, "lattice.cell.")
        for name in ("visible", "memory", "hidden"):
            _require(getattr(self, name) >= 1, f"lattice.cell.{name}", getattr(self, name), "at least 1 channel")
        _require(
            self.memory == self.visible,
            "lattice.cell.memory",
            self.memory,
            f"lattice.cell.visible = {self.visible}: one candidate serves both",
        )
        _require(
            self.parameter_budget >= 0, "lattice.cell.parameter_budget", self.parameter_budget, "0 or a number of parameters"
        )
        _require(
            self.normalisation_epsilon > 0,
            "lattice.cell.normalisation_epsilon",
            self.normalisation_epsilon,
            "a positive number",
        )


@dataclass(frozen=True)
class UpdateConfig:
    """The neural-cellular-automaton update: which cells fire, and how far one step may go."""

    rate: float = 0.7
    """Probability that a cell fires in a step; 1 is plain synchronous updating."""
    mask: Literal["sample", "batch"] = "sample"
    """Every sample draws its own mask, or one mask serves the whole batch."""
    evaluation: Literal["expected", "sampled"] = "expected"
    """Evaluation scales every update by the rate (no randomness), or samples masks as training does."""
    bound: Literal["tanh", "none"] = "tanh"
    """Limits one step's change of a visible channel to the step size, or leaves it unbounded."""
    residual: bool = True
    """Add the change to the state (neural cellular automaton), or replace the state by it."""
    step_size: float = 1.0
    """Start value of the learned size of a step, per visible channel."""

    def __post_init__(self):
        _require_kinds(self, "lattice.update.")
        _require(0 <= self.rate <= 1, "lattice.update.rate", self.rate, "a probability in [0, 1]")
        _require(self.step_size > 0, "lattice.update.step_size", self.step_size, "a positive number")


@dataclass(frozen=True)
class LatticeConfig:
    """The cube: grid, cell, update, and the pass from one face to another."""

    grid: GridConfig = field(default_factory=GridConfig)
    cell: CellConfig = field(default_factory=CellConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    sharing: Sharing = "cell"
    """Weights of its own for every cell, for every depth layer, or one rule for all."""
    walls: Walls = "zero"
    """What a cell at the border sees beyond it."""
    surface_channels: int = 1
    """Numbers injected into, and read from, each cell of a face."""
    input_face: Face = "front"
    output_face: Face = "back"
    injection: Literal["held", "pulse"] = "held"
    """Clamp the input face at every step, or only before the first."""
    steps: int = 16
    """Lattice steps from injection to read-out."""
    minimum_arrival: float = 0.8
    """Probability with which a signal that needs one firing a layer must have reached the output face after all steps."""
    remat: bool = True
    """Recompute each step in the backward pass instead of storing what it held: several times less memory."""
    devices: int = 0
    """Devices that the cells are spread over, by height; 0 takes one per CPU core, or every accelerator there is."""

    def __post_init__(self):
        _require_kinds(self, "lattice.")
        _require(self.surface_channels >= 1, "lattice.surface_channels", self.surface_channels, "at least 1 channel")
        _require(
            self.surface_channels <= self.cell.visible,
            "lattice.surface_channels",
            self.surface_channels,
            f"at most lattice.cell.visible = {self.cell.visible}",
        )
        _require(self.steps >= 1, "lattice.steps", self.steps, "at least 1 step")
        _require(0 <= self.minimum_arrival < 1, "lattice.minimum_arrival", self.minimum_arrival, "a probability in [0, 1)")
        _require(self.devices >= 0, "lattice.devices", self.devices, "0 (all) or a number of devices")
        _require(
            self.input_face != self.output_face, "lattice.output_face", self.output_face, "another face than lattice.input_face"
        )
        needed = self.steps_needed()
        _require(
            self.steps >= needed,
            "lattice.steps",
            self.steps,
            f"at least {needed}, so that a signal crosses {self.face_distance()} cells at update rate {self.update.rate:g} "
            f"with probability {max(self.minimum_arrival, 0):g} or more (lattice.minimum_arrival)",
        )

    def face_distance(self) -> int:
        """Firings that a signal needs from the input face to the nearest cell of the output face."""
        axes = {"front": 0, "back": 0, "top": 1, "bottom": 1, "left": 2, "right": 2}
        sizes = (self.grid.depth, self.grid.height, self.grid.width)
        axis = axes[self.input_face]
        # The faces of two different axes share an edge, whose cells are in both: no step is needed there, one anywhere else.
        return sizes[axis] - 1 if axes[self.output_face] == axis else 1

    def arrival_probability(self, steps: int) -> float:
        """Probability that a path of `face_distance()` cells, each firing with the update rate, is crossed in `steps`.

        Each cell must fire once after the one before it did, so the steps needed are negative-binomial and the probability is
        that of at least `face_distance()` successes in `steps` draws.
        """
        rate, distance = self.update.rate, self.face_distance()
        if rate in (0, 1) or steps < distance:
            return float(rate == 1 and steps >= distance)

        # The binomial coefficients of long passes are too large for a float, their products with the powers are not.
        def log_chance(successes: int) -> float:
            ways = math.lgamma(steps + 1) - math.lgamma(successes + 1) - math.lgamma(steps - successes + 1)
            return ways + successes * math.log(rate) + (steps - successes) * math.log1p(-rate)

        return max(0.0, 1 - math.fsum(math.exp(log_chance(successes)) for successes in range(distance)))

    def steps_needed(self) -> int:
        """Fewest steps after which the input has reached the output with `minimum_arrival`; never fewer than the distance."""
        _require(self.update.rate > 0, "lattice.update.rate", self.update.rate, "above 0: with no cell firing nothing arrives")
        fewest = most = self.face_distance()
        while self.arrival_probability(most) < self.minimum_arrival:
            most *= 2
        return bisect.bisect_left(range(most), self.minimum_arrival, fewest, key=self.arrival_probability)

    def surface_size(self, face: Face) -> int:
        """Numbers that one face takes or gives."""
        depth, height, width = self.grid.depth, self.grid.height, self.grid.width
        cells = {"front": height * width, "top": depth * width, "left": depth * height}
        opposite = {"back": "front", "bottom": "top", "right": "left"}
        return cells[opposite.get(face, face)] * self.surface_channels


@dataclass(frozen=True)
class LossConfig:
    """Weights of the three objectives (Multi-objective loss, 0.3 / 0.3 / 0.4)."""

    surface_reconstruction: float = 0.3
    internal_consistency: float = 0.3
    dialogue_similarity: float = 0.4
    consistency_steps: int = 2
    """Last lattice steps over which the cube must have come to rest."""

    def __post_init__(self):
        _require_kinds(self, "loss.")
        weights = (self.surface_reconstruction, self.internal_consistency, self.dialogue_similarity)
        _require(all(w >= 0 for w in weights) and sum(weights) > 0, "loss", weights, "weights >= 0, at least one above 0")
        _require(self.consistency_steps >= 1, "loss.consistency_steps", self.consistency_steps, "at least 1 step")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, cosine decay and clipping by the global norm."""

    learning_rate: float = 3e-4
    """Peak, reached after the warm-up."""
    final_learning_rate: float = 1e-4
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    """Decoupled; matrices only, not the neighbour weights, scales and biases."""
    gradient_clip: float = 1.0
    """Largest global gradient norm."""
    first_moment_decay: float = 0.9
    second_moment_decay: float = 0.99

    def __post_init__(self):
        _require_kinds(self, "optimizer.")
        _require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "a positive rate")
        _require(
            0 <= self.final_learning_rate <= self.learning_rate,
            "optimizer.final_learning_rate",
            self.final_learning_rate,
            "between 0 and optimizer.learning_rate",
        )
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "0 or more steps")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        _require(self.gradient_clip > 0, "optimizer.gradient_clip", self.gradient_clip, "a positive norm")
        for name in ("first_moment_decay", "second_moment_decay"):
            _require(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "a number in [0, 1)")


@dataclass(frozen=True)
class TrainingConfig:
    """Length of the run, and when it looks, saves and stops."""

    steps: int = 200
    batch_size: int = 16
    evaluate_every: int = 20
    """Steps between two looks at the validation pairs."""
    patience: int = 5
    """Looks without a better similarity before the run stops; 0 never stops early."""
    select_by: Literal["validation", "training"] = "validation"
    """Pairs by whose similarity the best parameters are chosen; "training" to learn a set by heart."""
    checkpoint_every: int = 50
    """Steps between two checkpoints; the last step and Ctrl-C save too."""

    def __post_init__(self):
        _require_kinds(self, "training.")
        for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every"):
            _require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "at least 1")
        _require(self.patience >= 0, "training.patience", self.patience, "0 (never) or a number of looks")


@dataclass(frozen=True)
class EvaluationConfig:
    """The verdict: bootstrap intervals and samples to read."""

    bootstrap_samples: int = 2000
    confidence: float = 0.95
    sample_questions: int = 10

    def __post_init__(self):
        _require_kinds(self, "evaluation.")
        _require(self.bootstrap_samples >= 100, "evaluation.bootstrap_samples", self.bootstrap_samples, "at least 100")
        _require(0 < self.confidence < 1, "evaluation.confidence", self.confidence, "a probability in (0, 1)")
        _require(self.sample_questions >= 1, "evaluation.sample_questions", self.sample_questions, "at least 1")


@dataclass(frozen=True)
class Config:
    """One run, whole."""

    seed: int = 0
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    lattice: LatticeConfig = field(default_factory=LatticeConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self):
        _require_kinds(self, "")
        _require(0 <= self.seed < 2**31, "seed", self.seed, "a number in [0, 2**31)")
        _require(
            self.loss.consistency_steps < self.lattice.steps,
            "loss.consistency_steps",
            self.loss.consistency_steps,
            f"fewer than lattice.steps = {self.lattice.steps}",
        )
        sizes = self.lattice.surface_size(self.lattice.input_face), self.lattice.surface_size(self.lattice.output_face)
        _require(
            sizes[0] == sizes[1],
            "lattice.output_face",
            self.lattice.output_face,
            f"a face as large as lattice.input_face ({sizes[0]} numbers, found {sizes[1]}): one adapter serves both",
        )

    def as_dict(self) -> dict:
        """Nested plain values, ready for JSON."""
        return dataclasses.asdict(self)
