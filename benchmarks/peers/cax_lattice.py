"""A neural cellular automaton by the library CAX, on our grid and of our cell's size: the peer for one shared rule.

Contract: `Automaton` is built from CAX's own parts (convolution perceive, residual update with cell dropout, its scan over
steps), and `training_step` is its whole update. It is another rule than ours, not an equal one; alike are the grid, the
channels of a cell, the share of cells that fire, the held input, the steps, and, for the main job's cell, the parameters to
within one in a hundred. Its loss is the surface reconstruction alone. CAX: Faldor and Cully 2024, arXiv:2410.02651.
"""

import jax
import jax.numpy as jnp
import optax
from cax.core import ComplexSystem
from cax.core.perceive import ConvPerceive
from cax.core.update import ResidualUpdate
from flax import nnx
from jaxtyping import Array, Float

from lattice_jax.config import LatticeConfig, OptimizerConfig
from lattice_jax.lattice import surface
from lattice_jax.lattice.cell import parameters_per_cell

State = Float[Array, "batch depth height width channel"]

_KERNEL = (3, 3, 3)
_FEATURES = 3
"""Perceived numbers a channel, as in Growing Neural Cellular Automata (the state and its gradients); here all are learned."""


def hidden_width(config: LatticeConfig) -> int:
    """The hidden width whose parameter count comes nearest to that of our cell."""
    channels = config.cell.visible + config.cell.memory
    perceived = _FEATURES * channels
    return max(1, round((parameters_per_cell(config.cell) - 27 * perceived - channels) / (perceived + 1 + channels)))


class Automaton(ComplexSystem):
    """Perceive by a depthwise convolution, update by one hidden layer; `input` is what the input face holds."""

    def __init__(self, config: LatticeConfig, *, seed: int):
        channels, rngs = config.cell.visible + config.cell.memory, nnx.Rngs(seed)
        self.at_input = surface.face_mask(config.input_face, config.grid)[..., None]
        self.perceive = ConvPerceive(
            channels, _FEATURES * channels, kernel_size=_KERNEL, feature_group_count=channels, rngs=rngs
        )
        self.update = ResidualUpdate(
            len(_KERNEL),
            channels,
            _FEATURES * channels,
            (hidden_width(config),),
            activation_fn=nnx.gelu,
            cell_dropout_rate=1 - config.update.rate,
            rngs=rngs,
        )

    def _step(self, state: State, input: State | None = None, *, sow: bool = False) -> State:
        del sow
        moved = self.update(state, self.perceive(state))
        return moved if input is None else jnp.where(self.at_input, input, moved)


def answer(automaton: Automaton, vectors: Float[Array, "batch size"], config: LatticeConfig) -> Float[Array, "batch size"]:
    """What the first channels of the output face hold after `config.steps` steps with `vectors` in those of the input face."""
    grid, channels = config.grid, config.cell.visible + config.cell.memory
    on_face = jnp.moveaxis(surface.vector_to_face(vectors, config.input_face, grid), 3, 0)
    spare = channels - config.surface_channels
    shape = (len(vectors), grid.depth, grid.height, grid.width, channels)
    held = jnp.broadcast_to(jnp.pad(on_face, [(0, 0)] * 4 + [(0, spare)]), shape)
    state = automaton(jnp.where(automaton.at_input, held, 0.0), held, num_steps=config.steps)
    seen = surface.take_face(jnp.moveaxis(state, 0, 3), config.output_face, grid)
    return surface.face_to_vector(seen[..., : config.surface_channels])


def parameters(automaton: Automaton) -> int:
    """How many parameters the rule has."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(automaton, nnx.Param)))


def make_optimizer(automaton: Automaton, config: OptimizerConfig) -> nnx.Optimizer:
    """Clipping by the global norm, then AdamW at the peak rate."""
    adamw = optax.adamw(
        config.learning_rate, config.first_moment_decay, config.second_moment_decay, weight_decay=config.weight_decay
    )
    return nnx.Optimizer(automaton, optax.chain(optax.clip_by_global_norm(config.gradient_clip), adamw), wrt=nnx.Param)


@nnx.jit(static_argnames="config")
def training_step(
    automaton: Automaton,
    optimizer: nnx.Optimizer,
    question: Float[Array, "batch size"],
    target: Float[Array, "batch size"],
    *,
    config: LatticeConfig,
) -> Float[Array, ""]:
    """Forward, mean squared error at the output face, backward, one update in place; the loss."""

    def loss(automaton: Automaton) -> Float[Array, ""]:
        return jnp.mean(jnp.square(answer(automaton, question, config) - target))

    value, gradients = nnx.value_and_grad(loss)(automaton)
    optimizer.update(automaton, gradients)
    return value
