"""A LLaMA-family encoder that is larger than memory: its layers come from disk one after the other.

Contract: the same hidden states as `llama.Llama`, for any number of padded batches at once. Each layer is read from the mapped
checkpoint once, all batches go through it, and it is let go before the next one is read. Memory holds one layer, the hidden
states of the batches, and the rows of the word embeddings that their tokens name; the checkpoint's pages belong to the page
cache and are mapped only while they are read. Everything that is kept is of the type `numbers`. That the checkpoint fits is
checked as a whole before anything is read of it.
"""

import mmap
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lattice_jax.errors import InputError
from lattice_jax.teachers.filling import check_fit, fill, parameter_shapes
from lattice_jax.teachers.llama import Llama, LlamaConfig, LlamaLayer, RMSNorm, layer_names, not_needed, parameter_names, prefix
from lattice_jax.teachers.stages import through_layer

Pool = Callable[[Array, Array], Array]
"""(hidden states [batch, length, hidden], mask [batch, length]) -> one vector a text [batch, hidden]."""

Progress = Callable[[int, int], None]
"""Called with the number of layers done and of all layers to do."""


class Batch(NamedTuple):
    """Texts of one padded length."""

    token_ids: Int[np.ndarray, "batch length"]
    mask: Bool[np.ndarray, "batch length"]


@dataclass(frozen=True)
class Streamed:
    """A checkpoint of the LLaMA family that fits its configuration, opened and not loaded."""

    config: LlamaConfig
    tensors: Mapping[str, np.ndarray]
    """Mapped from disk when they are asked for, and only as long as they are held."""
    numbers: str


def open_streamed(tensors: Mapping[str, np.ndarray], config: LlamaConfig, *, numbers: str = "float32") -> Streamed:
    """Check that the tensors fill the encoder, by names and shapes; `InputError` lists both sides where they don't.

    numbers: "float32", or "bfloat16" for half the memory where the processor multiplies it fast.
    """
    wanted = parameter_shapes(Llama(config, numbers))
    check_fit(tensors, parameter_names(config, tensors), wanted, not_needed(config, tensors), config.family)
    return Streamed(config, tensors, numbers)


def encode_streamed(
    streamed: Streamed,
    batches: Sequence[Batch],
    *,
    pool: Pool,
    states: Collection[int] = (-1,),
    on_layer: Progress | None = None,
    prefetch: bool = True,
) -> list[np.ndarray]:
    """One vector a text for each batch, float32: `pool` of the hidden states numbered `states`, averaged over them.

    states: 0 for the embeddings, 1 for the first layer's and so on; negative ones count from the last, -1. Layers beyond the
    last one wanted are not read.
    """
    levels = streamed.config.layers + 1
    wrong = [state for state in states if not -levels <= state < levels]
    if wrong or not states:
        raise InputError(
            f"hidden states {wrong or 'none'} are asked for",
            expected=f"numbers from 0, the embeddings, to {levels - 1}, the last layer, or from -{levels} to -1",
            fix="change the layers that the embeddings are taken from",
        )
    wanted = Counter(state % levels for state in states)
    sums = [np.zeros((1, 1), np.float32)] * len(batches)
    for level, hidden in enumerate(sweep(streamed, batches, last=max(wanted), prefetch=prefetch)):
        if level in wanted:
            for index, (state, batch) in enumerate(zip(hidden, batches, strict=True)):
                pooled = np.asarray(pool(jnp.asarray(state, jnp.float32), jnp.asarray(batch.mask)))
                sums[index] = sums[index] + np.float32(wanted[level]) * pooled
        if on_layer is not None:
            on_layer(level, max(wanted))
    return [total / np.float32(wanted.total()) for total in sums]


def sweep(
    streamed: Streamed, batches: Sequence[Batch], *, last: int | None = None, prefetch: bool = True
) -> Iterator[list[np.ndarray]]:
    """The hidden states [batch, length, hidden] of all batches: the embeddings, then each layer's, up to number `last`.

    A list is overwritten when the next one is asked for. prefetch: read the pages of the next layer while this one computes.
    """
    config, tensors, numbers = streamed.config, streamed.tensors, streamed.numbers
    before, one_layer = prefix(tensors), LlamaLayer(config, numbers)
    # A mapped table gives the rows that are asked for; the others are never read.
    hidden = [tensors[f"{before}embed_tokens.weight"][batch.token_ids].astype(numbers) for batch in batches]
    yield hidden
    shapes = {
        path.removeprefix("layer_0/"): shape
        for path, shape in parameter_shapes(Llama(config, numbers)).items()
        if path.startswith("layer_0/")
    }
    last = config.layers if last is None else last
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pages") as reader:
        for layer in range(last):
            names = layer_names(config, tensors, layer)
            parameters = fill({name: tensors[name] for name in names}, names, shapes, (), config.family, numbers=numbers)
            ahead = _read_ahead(reader, streamed, layer + 1) if prefetch and layer + 1 < last else None
            for index, batch in enumerate(batches):
                hidden[index] = np.asarray(through_layer(parameters, hidden[index], batch.mask, layer=one_layer))
            del parameters
            if ahead is not None:
                ahead.result()
            if layer + 1 == config.layers:
                scale = tensors[f"{before}norm.weight"].astype(numbers)
                for index, state in enumerate(hidden):
                    hidden[index] = np.asarray(_normed(scale, state, epsilon=config.norm_epsilon, numbers=numbers))
            yield hidden


@partial(jax.jit, static_argnames=("epsilon", "numbers"))
def _normed(scale: Array, hidden: Array, *, epsilon: float, numbers: str) -> Array:
    return RMSNorm(epsilon, numbers).apply({"params": {"scale": scale}}, hidden)  # pyright: ignore[reportReturnType]


def _read_ahead(reader: ThreadPoolExecutor, streamed: Streamed, layer: int) -> Future[None]:
    """Touch every page of a layer in another thread, so that they are in the page cache when the layer is filled."""

    def touch(names: Collection[str]) -> None:
        for name in names:
            streamed.tensors[name].reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].max()

    return reader.submit(touch, layer_names(streamed.config, streamed.tensors, layer))
