"""What a program of a GPU kernel computes for one cell and all samples: the gradients to its weights.

Contract: as for `kernels`, where those to the step size and to the gate's scale are, which need no product. They are products
of a cell's values with the gradients to what it made of them, added up over some samples at a time; of a cell that acts for
any sample both must have been written for all.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from lattice_jax.lattice.fused.kernels import Plan, Rows, Surroundings, multiply, normalising, pieces

_FEW_ROWS, MANY_ROWS = 16, 128
"""Samples that a program adds up, and multiplies, at a time."""
_SUMS = 9
"""Sums over samples that a program holds at a time."""


def correlate(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """Gradients of neighbour sums to their weights, over all samples, from those to the sums, in `fields`."""
    del weights, results
    for name, gradient in to_weights.items():
        near = list(enumerate(plan.near(name)))
        for columns in pieces(gradient.shape[1]):
            for some in (near[start : start + _SUMS] for start in range(0, len(near), _SUMS)):

                def add(block, sums, some=some, name=name, columns=columns):
                    samples = pl.Slice(block * _FEW_ROWS, _FEW_ROWS)
                    to_sum = fields[name][samples, columns].astype(jnp.float32)
                    seen = [around.see(name, offset, samples, columns) for _, offset in some]
                    return tuple(total + to_sum * one for total, one in zip(sums, seen, strict=True))

                nothing = jnp.zeros((_FEW_ROWS, columns.size))
                sums = jax.lax.fori_loop(0, plan.batch // _FEW_ROWS, add, (nothing,) * len(some))
                for (k, offset), total in zip(some, sums, strict=True):
                    gradient[k, columns] = jnp.where(around.sees(offset), jnp.sum(total, 0), 0.0)


def weigh_moves(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """Gradients to the weights of what `move` multiplies, over all samples."""
    del around, results
    visible, kind = plan.config.cell.visible, weights["candidate_kernel"].dtype
    _weigh_normalised(fields, weights, to_weights, "content", "around", plan)
    for bias, gradient in {"candidate_bias": "to_proposed", "memory_bias": "to_forget", "gate_bias": "to_gathered"}.items():
        to_weights[bias][...] = _sum_over_samples(fields[gradient], plan)

    def read(name: str, columns: slice = slice(None)) -> Callable:
        return lambda samples: fields[name][samples, columns].astype(kind)

    own, other = slice(visible), slice(visible, None)
    to_weights["candidate_kernel"][...] = _contract(read("gated"), fields["to_proposed"], plan).astype(kind)
    to_weights["memory_kernel"][own, :] = _contract(read("proposed"), fields["to_forget"], plan).astype(kind)
    to_weights["memory_kernel"][other, :] = _contract(read("state", other), fields["to_forget"], plan).astype(kind)


def weigh_messages(fields: dict, weights: dict, around: Surroundings, results: dict, to_weights: dict, *, plan: Plan) -> None:
    """Gradients to the weights of what `speak` multiplies, over all samples."""
    del around, results
    _weigh_normalised(fields, weights, to_weights, "message", "state", plan)


def _weigh_normalised(fields: dict, weights: dict, to_weights: dict, name: str, source: str, plan: Plan) -> None:
    """Gradients to kernel and bias of the affine map `name` of a normalised field, and to the scale that it is normalised with.

    The kernel's is s M and the scale's the sum of K M over columns, with M the product of what is normalised but not scaled
    with the gradient to the map's result.
    """
    kernel, scale = weights[f"{name}_kernel"], weights[f"{name}_scale"][...]

    def read(samples):
        values = fields[source][samples, :]
        return (values * normalising(values, plan.config.cell.normalisation_epsilon)).astype(kernel.dtype)

    both = _contract(read, fields[f"to_{name}"], plan)
    to_weights[f"{name}_kernel"][...] = (both * scale[:, None]).astype(kernel.dtype)
    to_weights[f"{name}_scale"][...] = jnp.sum(both * kernel[...].astype(jnp.float32), 1)
    to_weights[f"{name}_bias"][...] = _sum_over_samples(fields[f"to_{name}"], plan)


def _contract(read: Callable[[pl.Slice], Rows], gradient, plan: Plan) -> Rows:
    """The product over all samples of what is read and the reference `gradient`: [channel of the one, channel of the other]."""
    rows = math.gcd(MANY_ROWS, plan.batch)

    def some(block) -> Rows:
        samples = pl.Slice(block * rows, rows)
        return multiply(read(samples).T, gradient[samples, :])

    return jax.lax.fori_loop(1, plan.batch // rows, lambda block, total: total + some(block), some(0))


def _sum_over_samples(field, plan: Plan) -> Float[Array, " channel"]:
    """Of the reference `field`."""

    def add(block, total):
        return total + field[pl.Slice(block * _FEW_ROWS, _FEW_ROWS), :].astype(jnp.float32)

    return jnp.sum(jax.lax.fori_loop(0, plan.batch // _FEW_ROWS, add, jnp.zeros((_FEW_ROWS, field.shape[1]))), 0)
