"""Launching a kernel for every cell and block of samples.

Contract: `launch` hands a program its own part of every array that it gets, by name, and the whole of what it may read around.
Of weight gradients that several programs of a cell make, each for its own samples, the sums are given.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from lattice_jax.lattice.fused import kernels
from lattice_jax.lattice.fused.kernels import Plan

FEWEST_ROWS, MOST_ROWS = 16, 64


class Shape(NamedTuple):
    """Of a program."""

    rows: int
    """The most samples that it computes: a power of two from `FEWEST_ROWS` to `MOST_ROWS`, which divides every padded batch; or
    0, all."""
    warps: int
    """Of 32 threads."""
    samples_first: bool = False
    """Whether programs of one cell run next to each other, so that its weights are read once, or those of the same samples, so
    that what cells show their neighbours is; the latter where a kernel sees its `Surroundings`, which count so."""


SHAPES = {
    "speak": Shape(32, 4, samples_first=True),
    "hear": Shape(16, 4),
    "move": Shape(16, 4, samples_first=True),
    "update_backward": Shape(64, 4, samples_first=True),
    "content_backward": Shape(16, 2, samples_first=True),
    "weigh_moves": Shape(0, 4),
    "correlate": Shape(0, 8),
    "collect": Shape(16, 4),
    "speak_backward": Shape(32, 4, samples_first=True),
    "weigh_messages": Shape(0, 4),
}
"""Of the programs of each kernel: the fastest of eight that an H100 tried in bfloat16, at 256 samples."""


def sample_blocks(batch: int) -> tuple[int, int]:
    """Samples of a block, whose cells rest or act together, and the number of blocks: a batch is padded to a power of two, or
    to a multiple of 64."""
    rows = min(max(pl.next_power_of_2(batch), FEWEST_ROWS), MOST_ROWS)
    return rows, -(-batch // rows)


def _specs(width: int, rows: int, samples_first: bool) -> tuple[Callable, Callable, Callable]:
    """Which part of an array a program gets: of a field, of weights, of weight gradients that each block of samples writes."""

    def place(*program):
        depth, cell, block = reversed(program) if samples_first else program
        return depth, jax.lax.div(cell, width), jax.lax.rem(cell, width), block

    def of_field(field) -> pl.BlockSpec:
        def index(*program):
            return (*(0 if size == 1 else i for i, size in zip(place(*program), field.shape[:4], strict=True)), 0)

        return pl.BlockSpec((None, None, None, min(rows, field.shape[3]), field.shape[4]), index)

    def of_weights(weights) -> pl.BlockSpec:
        rest = weights.shape[3:]
        return pl.BlockSpec((None, None, None, *rest), lambda *program: (*place(*program)[:3], *[0] * len(rest)))

    def of_partial(weights) -> pl.BlockSpec:
        rest = weights.shape[4:]

        def index(*program):
            *cell, block = place(*program)
            return (block, *cell, *[0] * len(rest))

        return pl.BlockSpec((None, None, None, None, *rest), index)

    return of_field, of_weights, of_partial


def launch(
    kernel: Callable,
    plan: Plan,
    *,
    fields: dict,
    weights: dict,
    around: dict | None = None,
    results: Mapping[str, tuple] | None = None,
    at_rest: Mapping[str, str] | None = None,
    gradients: tuple[str, ...] = (),
) -> tuple[dict, dict]:
    """Run `kernel` for every cell that acts; the fields of `results` (channels and type of each), and weight gradients.

    `around`: what neighbours show of themselves. `at_rest`: what `kernels.skipping` says.
    """
    shape = SHAPES[kernel.__name__]
    rows = min(shape.rows or plan.batch, plan.batch)
    if plan.batch % rows or (around and shape.samples_first):
        raise ValueError(f"{kernel.__name__} can't have programs of {shape} for {plan.batch} samples")
    of_field, of_weights, of_partial = _specs(plan.grid[2], rows, shape.samples_first)
    blocks, results, around = plan.batch // rows, results or {}, around or {}
    shown = {name: field if plan.world.whole else plan.world.extend(field) for name, field in around.items()}
    out_fields = {name: jax.ShapeDtypeStruct((*plan.grid, plan.batch, size), kind) for name, (size, kind) in results.items()}
    out_weights = {name: jax.ShapeDtypeStruct((blocks, *weights[name].shape), weights[name].dtype) for name in gradients}
    programs = (plan.grid[0], plan.grid[1] * plan.grid[2], blocks)
    found, partial = pl.pallas_call(
        functools.partial(kernels.skipping(kernel, at_rest or {}), plan=plan),
        grid=programs[::-1] if shape.samples_first else programs,
        in_specs=(
            jax.tree.map(of_field, fields),
            jax.tree.map(of_weights, weights),
            jax.tree.map(lambda _: pl.BlockSpec(memory_space=pl.ANY), shown),
        ),
        out_specs=(jax.tree.map(of_field, out_fields), jax.tree.map(of_partial, out_weights)),
        out_shape=(out_fields, out_weights),
        compiler_params=triton.CompilerParams(num_warps=shape.warps, num_stages=1),
        interpret=plan.interpret,
        name=kernel.__name__,
    )(fields, weights, shown)
    if blocks == 1:
        return found, {name: value[0] for name, value in partial.items()}
    return found, {name: jnp.sum(value, 0, dtype=jnp.float32).astype(value.dtype) for name, value in partial.items()}
