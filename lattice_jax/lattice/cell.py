"""The gMLP cell: its parameters, their start values, and how many there are.

Contract: parameters are a flat dict of arrays whose first three axes are the grid's, or of size 1 where weights are shared, so
that they broadcast. One cell holds `visible` channels that its neighbours perceive and `memory` channels that it alone reads:

    perceived  p  = sum_k P_k * shift_k(x)                       depthwise, self + neighbours
    content    u  = gelu(norm([p, m]) U + b)                     what the cell makes of what it perceives
    message    v  = gelu(norm([x, m]) S + b)                     what it tells its neighbours, from its own state alone
    gate       g  = 1 + sum_k W_k * shift_k(norm(v)) + c         spatial gating unit: neighbours are the tokens it mixes
    candidate  d  = (u * g) V + b
    memory     m' = m + fires * f (d - m),   f = sigmoid([d, m] G + b)
    visible    x' = x + fires * alpha * tanh(d + p - x)

A step reads nothing farther than one cell away: the message is made from the sender's own state, so light travels one cell a
step. The spatial gating unit is that of Liu et al. 2021 (Pay Attention to MLPs), the update that of Mordvintsev et al. 2020
(Growing Neural Cellular Automata).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lattice_jax.config import CellConfig, LatticeConfig
from lattice_jax.errors import SettingsError
from lattice_jax.lattice import draw
from lattice_jax.lattice.grid import offsets
from lattice_jax.lattice.surface import towards

Parameters = dict[str, Float[Array, "..."]]

DECAYED = frozenset({"content_kernel", "message_kernel", "candidate_kernel", "memory_kernel"})
"""The matrices, which weight decay may shrink; shrinking the neighbour weights would close the wave guide."""

_GATE_NOISE = 0.03


def shapes(config: CellConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of one cell."""
    visible, memory, hidden = config.visible, config.memory, hidden_width(config)
    return {
        "perception": (len(offsets(config.perception)), visible),
        "content_scale": (visible + memory,),
        "content_kernel": (visible + memory, hidden),
        "content_bias": (hidden,),
        "message_scale": (visible + memory,),
        "message_kernel": (visible + memory, hidden),
        "message_bias": (hidden,),
        "gate_scale": (hidden,),
        "gate": (len(offsets(config.gate)), hidden),
        "gate_bias": (hidden,),
        "candidate_kernel": (hidden, visible),
        "candidate_bias": (visible,),
        "memory_kernel": (visible + memory, memory),
        "memory_bias": (memory,),
        "step_size": (visible,),
    }


def parameters_per_cell(config: CellConfig) -> int:
    """Weights of one cell, without the injection and read-out weights that only the faces have."""
    return sum(int(np.prod(shape)) for shape in shapes(config).values())


def hidden_width(config: CellConfig) -> int:
    """The hidden width: as configured, or that whose parameter count comes nearest to `parameter_budget`.

    The count is linear in the width, so two counts give the line. Raises SettingsError for a budget below the narrowest cell.
    """
    if not config.parameter_budget:
        return config.hidden
    one, two = (parameters_per_cell(dataclasses.replace(config, hidden=hidden, parameter_budget=0)) for hidden in (1, 2))
    hidden = 1 + round((config.parameter_budget - one) / (two - one))
    if hidden < 1:
        raise SettingsError(
            f"lattice.cell.parameter_budget is {config.parameter_budget}",
            expected=f"at least {one} parameters, with {config.visible} visible and {config.memory} memory channels",
            fix="raise --config.lattice.cell.parameter_budget, or lower lattice.cell.visible and lattice.cell.memory",
        )
    return hidden


def sharing_shape(config: LatticeConfig) -> tuple[int, int, int]:
    """Leading axes of every cell parameter: the grid's, or 1 where cells share."""
    grid = config.grid
    return {
        "cell": (grid.depth, grid.height, grid.width),
        "layer": (grid.depth, 1, 1),
        "lattice": (1, 1, 1),
    }[config.sharing]


def initialise(config: LatticeConfig, *, key: Key[Array, ""]) -> Parameters:
    """Start values: a wave guide that copies the layer nearer to the input face, and small random everything else.

    The perception starts as the neighbour there alone, so the update relaxes every cell towards the one before it and the cube
    hands a signal on from the first step. With small random neighbour weights nothing arrives and nothing is learned.
    """
    cell, leading = config.cell, sharing_shape(config)
    ahead = offsets(cell.perception).index(towards(config.input_face))
    keys = dict(zip(shapes(cell), jax.random.split(key, len(shapes(cell))), strict=True))

    def start(name: str, shape: tuple[int, ...]) -> Array:
        full = (*leading, *shape)
        if name.endswith("scale"):
            return jnp.ones(full)
        if name.endswith("bias"):
            return jnp.zeros(full)
        if name == "step_size":
            return jnp.full(full, config.update.step_size, jnp.float32)
        noise = draw.normal(keys[name], full)
        if name == "perception":
            return (cell.perception_noise * noise).at[..., ahead, :].set(1.0)
        if name == "gate":
            return _GATE_NOISE * noise
        scale = cell.candidate_scale if name == "candidate_kernel" else 1.0
        return scale * noise / np.sqrt(shape[0])

    return {name: start(name, shape) for name, shape in shapes(cell).items()}


COMPONENTS = {
    "perceive": ("perception",),
    "content": ("content_scale", "content_kernel", "content_bias"),
    "message": ("message_scale", "message_kernel", "message_bias"),
    "spatial gate": ("gate_scale", "gate", "gate_bias"),
    "candidate": ("candidate_kernel", "candidate_bias"),
    "memory": ("memory_kernel", "memory_bias"),
    "step size": ("step_size",),
}
"""The cell's parts, for the table of parameters."""


def component_counts(config: CellConfig) -> dict[str, int]:
    """Parameters of one cell by part."""
    sizes = {name: int(np.prod(shape)) for name, shape in shapes(config).items()}
    return {part: sum(sizes[name] for name in names) for part, names in COMPONENTS.items()}
