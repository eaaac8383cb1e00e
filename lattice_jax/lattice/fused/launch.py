"""Launching a kernel for every cell and block of samples.

Contract: `launch` hands a program its own part of every array that it gets, by name, and the whole of what it may read around.
The weight gradients of several blocks of samples are added up in float32.
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
    """Of a program: the samples that it computes, and its warps of 32 threads."""

    rows: int
    warps: int


def sample_blocks(batch: int) -> tuple[int, int]:
    """Samples of one program of products, and how many programs share a cell: a batch is padded to a power of two, or to a
    multiple of 64."""
    rows = min(max(pl.next_power_of_2(batch), FEWEST_ROWS), MOST_ROWS)
    return rows, -(-batch // rows)


def multiplying(batch: int) -> Shape:
    """For kernels of products. Twice as many warps leave a thread half the registers, and measured slower."""
    rows, _ = sample_blocks(batch)
    return Shape(rows, max(4, rows // 8))


LISTENING = Shape(FEWEST_ROWS, 4)
"""For neighbour sums: small programs, of which many wait for memory at the same time."""


def adding(batch: int) -> Shape:
    """For sums over all samples."""
    return Shape(batch, 4)


def _specs(width: int, rows: int) -> tuple[Callable, Callable, Callable]:
    """Which part of an array a program gets: of a field, of weights, of weight gradients that each block of samples writes."""

    def place(depth, cell, block):
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
        return pl.BlockSpec(
            (None, None, None, None, *rest), lambda *program: (program[2], *place(*program)[:3], *[0] * len(rest))
        )

    return of_field, of_weights, of_partial


def launch(
    kernel: Callable,
    plan: Plan,
    shape: Shape,
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
    of_field, of_weights, of_partial = _specs(plan.grid[2], shape.rows)
    blocks, results, around = plan.batch // shape.rows, results or {}, around or {}
    shown = {name: field if plan.world.whole else plan.world.extend(field) for name, field in around.items()}
    out_fields = {name: jax.ShapeDtypeStruct((*plan.grid, plan.batch, size), kind) for name, (size, kind) in results.items()}
    out_weights = {name: jax.ShapeDtypeStruct((blocks, *weights[name].shape), weights[name].dtype) for name in gradients}
    found, partial = pl.pallas_call(
        functools.partial(kernels.skipping(kernel, at_rest or {}), plan=plan),
        grid=(plan.grid[0], plan.grid[1] * plan.grid[2], blocks),
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
