"""Bytes that a lattice step moves, counted from the settings.

Contract: a count of the arrays that each kernel must read and write, under the assumptions that `step_bytes` states; no
measurement, and no device.
"""

import math

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice.cell import hidden_width, shapes
from lattice_jax.lattice.fused.launch import sample_blocks
from lattice_jax.lattice.fused.step import SPEAKS


def step_bytes(config: LatticeConfig, batch: int, *, fused: bool) -> dict[str, int]:
    """Bytes that one step of the whole cube moves to and from GPU memory: weights and fields, forward and backward.

    Counted, not measured: every kernel reads each array once (what neighbours read again comes from the cache) and writes it
    once, and every cell acts. Not fused, a product is one kernel, and so is all elementwise work between two products; the
    backward pass runs the forward one again, and then every kernel's adjoint, which reads what the kernel read and the gradient
    of what it wrote and writes the gradient of what it read; a product's reads twice, once for each factor.
    """
    cells, visible, hidden = config.grid.cells, config.cell.visible, hidden_width(config.cell)
    low = 4 if config.precision == "float32" else 2
    sizes = {name: math.prod(shape) * (low if name.endswith("_kernel") else 4) for name, shape in shapes(config.cell).items()}
    weights, speaks = sum(sizes.values()), sum(sizes[name] for name in SPEAKS)
    neighbours = sizes["perception"] + sizes["gate"]
    # Read; the adjoint neighbour weights made and read; the gradient written, then read and added to that of later steps.
    backward_weights = weights + 3 * neighbours + 4 * weights
    field, pair, layer, low_layer = 4 * visible, 2 * low * visible, 4 * hidden, low * hidden
    if fused:
        rows, blocks = sample_blocks(batch)
        batch = rows * blocks
        state, number = 2 * field, 4
        listen = (state + low_layer + number) + (state + low_layer) + (state + low_layer)
        forward = listen + (2 * state + low_layer) + (state + field + number)
        move = (2 * state + low_layer + field + state + number) + (state + field + low_layer)
        correlate = 2 * (field + low_layer)
        collect = (low_layer + state + field + low_layer) + (state + low_layer + number)
        backward = listen + move + correlate + collect + (2 * state + low_layer + 2 * number) + state
        backward_weights += speaks + neighbours + 2 * (weights - neighbours) * (blocks if blocks > 1 else 0)
    else:
        elementwise = [(2 * field, pair), (layer, low_layer), (2 * field, field + pair)]
        elementwise += [(layer + low_layer, low_layer), (2 * field, pair), (5 * field, 2 * field)]
        products = [(pair, layer), (pair, layer), (low_layer, field), (pair, field)]
        forward = sum(map(sum, elementwise + products))
        backward = forward + sum(2 * read + written for read, written in elementwise)
        backward += sum(2 * (read + written) for read, written in products)
        backward_weights += sum(size for name, size in sizes.items() if name.endswith("_kernel"))
    return {
        "forward weights": cells * weights,
        "forward fields": cells * batch * forward,
        "backward weights": cells * backward_weights,
        "backward fields": cells * batch * backward,
    }
