"""Parameters filled from a checkpoint's tensors: wholly, or not at all.

Contract: a family's table says for each tensor of a checkpoint which parameter it fills; tensors that fill one parameter
together are joined along its last axis in the order of the table. A tensor that is neither in the table nor listed as not
needed, a parameter that stays unfilled and one of another shape are an `InputError` that lists both sides. Tensors that are not
needed are never loaded.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from lattice_jax.errors import InputError


def parameter_shapes(encoder: nn.Module) -> dict[str, tuple[int, ...]]:
    """Path of each parameter of an encoder, parts joined by '/', and its shape; nothing is allocated."""
    ids, mask = jax.ShapeDtypeStruct((1, 8), jnp.int32), jax.ShapeDtypeStruct((1, 8), jnp.bool_)
    initialised = jax.eval_shape(encoder.init, jax.random.key(0), ids, mask)
    leaves = cast(dict[str, jax.ShapeDtypeStruct], flatten_dict(initialised["params"], sep="/"))
    return {path: leaf.shape for path, leaf in leaves.items()}


def fill(
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    wanted: Mapping[str, tuple[int, ...]],
    not_needed: Collection[str],
    family: str,
    *,
    numbers: str = "float32",
) -> dict:
    """Nested parameters, each at its path in `wanted`, as the type `numbers`; all or an `InputError`.

    names: tensor of the checkpoint -> path of the parameter that it fills, alone or joined with others.
    wanted: path -> shape, see `parameter_shapes`.
    not_needed: tensors that may be there and are left out.
    """
    filled = {}
    for path, parts in check_fit(tensors, names, wanted, not_needed, family).items():
        turned = [_turned(tensors[name], path) for name in parts]
        joined = turned[0] if len(turned) == 1 else np.concatenate(turned, axis=-1)
        filled[path] = jnp.asarray(joined.astype(numbers))
    return unflatten_dict(filled, sep="/")


def check_fit(
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    wanted: Mapping[str, tuple[int, ...]],
    not_needed: Collection[str],
    family: str,
) -> dict[str, list[str]]:
    """Path -> the tensors that fill it, found to be whole by names and shapes alone; arguments as for `fill`."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name, path in names.items():
        parts[path].append(name)
    missing = {path: [name for name in parts[path] if name not in tensors] for path in wanted}
    unknown = sorted(set(tensors) - set(names) - set(not_needed))
    unfilled = sorted(path for path in wanted if not parts[path] or missing[path])
    misshapen = []
    for path, shape in wanted.items():
        if path in unfilled:
            continue
        found = _joined_shape([_turned(tensors[name], path).shape for name in parts[path]])
        if found != shape:
            misshapen.append(f"{path} {found} instead of {shape}")
    if unknown or unfilled or misshapen:
        raise InputError(
            f"the checkpoint doesn't fit the {family} encoder: tensors that no parameter takes: {unknown or 'none'}; "
            f"parameters that no tensor fills: {unfilled or 'none'}; of another shape: {misshapen or 'none'}",
            expected=f"the tensors of a {family} checkpoint as its config.json describes it, none missing and none more",
            fix="use the model's own config.json and weights, both from one checkpoint",
        )
    return {path: parts[path] for path in wanted}


def _turned(tensor: np.ndarray, path: str) -> np.ndarray:
    """Checkpoints hold dense weights as [out, in], linen as [in, out]."""
    return tensor.T if path.endswith("/kernel") else tensor


def _joined_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...] | str:
    """Shape of tensors joined along their last axis, or, where they can't be, all of theirs in words."""
    if len({shape[:-1] for shape in shapes}) > 1:
        return " and ".join(map(str, shapes))
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
