"""Settings of the cube: grid, cell, update, and the pass from one face to another."""

import bisect
import math
from dataclasses import dataclass, field
from typing import Literal

from lattice_jax.config.checks import require, require_kinds

Face = Literal["front", "back", "top", "bottom", "left", "right"]
AXIS: dict[Face, int] = {"front": 0, "back": 0, "top": 1, "bottom": 1, "left": 2, "right": 2}
"""The axis of the grid, depth, height or width, at whose end a face lies."""
Sharing = Literal["cell", "layer", "lattice"]
Neighbourhood = Literal["von_neumann", "moore"]
Walls = Literal["zero", "periodic", "reflect", "edge"]
Engine = Literal["automatic", "scan", "native", "fused"]


@dataclass(frozen=True)
class GridConfig:
    """Cells along each axis; the front face is depth 0, the back face the last depth."""

    depth: int = 11
    height: int = 15
    width: int = 15

    def __post_init__(self):
        require_kinds(self, "lattice.grid.")
        for name in ("depth", "height", "width"):
            require(getattr(self, name) >= 2, f"lattice.grid.{name}", getattr(self, name), "at least 2 cells")

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.depth * self.height * self.width


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
    perception_noise: float = 0.03
    """Start values of the weights of all neighbours but the one ahead are drawn with this standard deviation. With 0 an
    untrained cube, once `candidate_scale` is 0 too, hands its input on as it is."""
    candidate_scale: float = 0.1
    """Start scale of what a cell adds to what it perceives; 1 is that of the other matrices."""
    normalisation_epsilon: float = 1e-2
    """Added to the mean square; 1e-5 on the all-zero start state gave first gradients of norm 37,659."""

    def __post_init__(self):
        require_kinds(self, "lattice.cell.")
        for name in ("visible", "memory", "hidden"):
            require(getattr(self, name) >= 1, f"lattice.cell.{name}", getattr(self, name), "at least 1 channel")
        require(
            self.memory == self.visible,
            "lattice.cell.memory",
            self.memory,
            f"lattice.cell.visible = {self.visible}: one candidate serves both",
        )
        require(
            self.parameter_budget >= 0, "lattice.cell.parameter_budget", self.parameter_budget, "0 or a number of parameters"
        )
        for name in ("perception_noise", "candidate_scale"):
            require(getattr(self, name) >= 0, f"lattice.cell.{name}", getattr(self, name), "0 or more")
        require(
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
    mask: Literal["sample", "batch"] = "batch"
    """Every sample draws its own mask, or one mask of exactly round(rate x cells) cells serves the whole batch."""
    quiescent: bool = True
    """Cells stay at rest until light from the input face can have reached them, as in a classical cellular automaton."""
    evaluation: Literal["expected", "sampled"] = "expected"
    """Evaluation scales every update by the rate (no randomness), or samples masks as training does."""
    bound: Literal["tanh", "none"] = "tanh"
    """Limits one step's change of a visible channel to the step size, or leaves it unbounded."""
    residual: bool = True
    """Add the change to the state (neural cellular automaton), or replace the state by it."""
    step_size: float = 1.0
    """Start value of the learned size of a step, per visible channel."""

    def __post_init__(self):
        require_kinds(self, "lattice.update.")
        require(0 <= self.rate <= 1, "lattice.update.rate", self.rate, "a probability in [0, 1]")
        require(self.step_size > 0, "lattice.update.step_size", self.step_size, "a positive number")


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
    engine: Engine = "automatic"
    """What computes the steps: 'scan', the plain definition in JAX; 'native', compiled C that skips what does not fire, on CPU;
    'fused', kernels for a GPU that skip it too; 'automatic' takes what measured fastest for the device and the precision, which
    on a GPU are the kernels wherever they can run."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers in which the steps are computed, and the matrices' gradients added up over them; weights, what updates them and
    losses are float32 either way."""
    remat: Literal["automatic", "always", "never"] = "automatic"
    """Recompute each step in the backward pass instead of storing what it held, which takes several times less memory.
    Automatic is always with the scan; with the native engine where the stored values would take more than an eighth of the
    memory; and with the fused one where they would take more than two thirds of the GPU's. That one stores the states and what
    the cells propose either way."""
    weight_gradients: Literal["automatic", "deferred", "immediate"] = "automatic"
    """When the native engine adds up the matrices' gradients: once a cell, in one product over all its firings and samples, or
    at every firing, which needs nothing stored. Automatic is deferred for batches of up to 8 whose values are stored."""
    devices: int = 0
    """Devices that the cells are spread over, by height; 0 takes one per CPU core that the process may use, or every
    accelerator there is."""

    def __post_init__(self):
        require_kinds(self, "lattice.")
        require(self.surface_channels >= 1, "lattice.surface_channels", self.surface_channels, "at least 1 channel")
        require(
            self.surface_channels <= self.cell.visible,
            "lattice.surface_channels",
            self.surface_channels,
            f"at most lattice.cell.visible = {self.cell.visible}",
        )
        require(self.steps >= 1, "lattice.steps", self.steps, "at least 1 step")
        require(0 <= self.minimum_arrival < 1, "lattice.minimum_arrival", self.minimum_arrival, "a probability in [0, 1)")
        require(
            self.weight_gradients != "deferred" or self.remat != "always",
            "lattice.weight_gradients",
            self.weight_gradients,
            "another value with lattice.remat 'always': what is deferred must be stored",
        )
        require(self.devices >= 0, "lattice.devices", self.devices, "0 (all) or a number of devices")
        require(
            self.input_face != self.output_face, "lattice.output_face", self.output_face, "another face than lattice.input_face"
        )
        needed = self.steps_needed()
        require(
            self.steps >= needed,
            "lattice.steps",
            self.steps,
            f"at least {needed}, so that a signal crosses {self.face_distance()} cells at update rate {self.update.rate:g} "
            f"with probability {max(self.minimum_arrival, 0):g} or more (lattice.minimum_arrival)",
        )

    def face_distance(self) -> int:
        """Firings that a signal needs from the input face to the nearest cell of the output face."""
        sizes = (self.grid.depth, self.grid.height, self.grid.width)
        axis = AXIS[self.input_face]
        # The faces of two different axes share an edge, whose cells are in both: no step is needed there, one anywhere else.
        # Across a periodic wall opposite faces are neighbours.
        return sizes[axis] - 1 if AXIS[self.output_face] == axis and self.walls != "periodic" else 1

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
        require(self.update.rate > 0, "lattice.update.rate", self.update.rate, "above 0: with no cell firing nothing arrives")
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
