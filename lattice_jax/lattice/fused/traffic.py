"""Bytes that a lattice step moves, counted from the settings.

Contract: a count of the arrays that each kernel must read and write, under the assumptions that `step_bytes` states; no
measurement, and no device.
"""

import math

from lattice_jax.config import LatticeConfig
from lattice_jax.lattice.cell import hidden_width, shapes
from lattice_jax.lattice.fused.launch import sample_blocks
from lattice_jax.lattice.fused.step import HEARS, SPEAKS, product_bytes


def step_bytes(config: LatticeConfig, batch: int, *, fused: bool) -> dict[str, int]:
    """Bytes that one step of the whole cube moves to and from GPU memory: weights and fields, forward and backward.

    Counted, not measured: every kernel reads each array once (what neighbours read again comes from the cache) and writes it
    once, and every cell acts. Fused, the listening is kept for the backward pass but with `lattice.remat` "always". Not fused,
    a product is one kernel, and so is all elementwise work between two products; the backward pass runs the forward one again,
    and then every kernel's adjoint, which reads what the kernel read and the gradient of what it wrote and writes the gradient
    of what it read; a product's reads twice, once for each factor.
    """
    cells, visible, hidden = config.grid.cells, config.cell.visible, hidden_width(config.cell)
    low = product_bytes(config)
    sizes = {name: math.prod(shape) * (low if name.endswith("_kernel") else 4) for name, shape in shapes(config.cell).items()}
    weights, neighbours = sum(sizes.values()), sizes["perception"] + sizes["gate"]
    # Read; the adjoint neighbour weights made and read; the gradient written, then read and added to that of later steps.
    backward_weights = weights + 3 * neighbours + 4 * weights
    field, pair, layer, low_layer = 4 * visible, 2 * low * visible, 4 * hidden, low * hidden
    if fused:
        rows, blocks = sample_blocks(batch)
        batch = rows * blocks
        state, number = 2 * field, 4
        listen = (state + low_layer + number) + (state + low_layer) + (state + low_layer)
        forward = listen + (2 * state + low_layer) + (state + field + number)
        update = (2 * state + 2 * field + number) + (state + field + pair)
        content = (2 * state + low_layer + pair // 2 + field) + (state + field + 3 * low_layer)
        weigh = (state + 3 * low_layer + pair + 2 * field) + (state + low_layer)
        correlate = 2 * (field + low_layer)
        collect = (low_layer + state + field + low_layer) + (state + low_layer + number)
        speak = (2 * state + low_layer + 2 * number) + (state + low_layer)
        backward = update + content + weigh + correlate + collect + speak
        # What normalises and multiplies is read by the kernels that make its gradient, too.
        backward_weights += sum(sizes[f"{name}_{part}"] for name in ("content", "message") for part in ("kernel", "scale"))
        backward_weights -= neighbours
        if config.remat == "always":
            backward += listen
            backward_weights += sum(sizes[name] for name in (*SPEAKS, *HEARS))
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
