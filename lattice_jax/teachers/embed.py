"""Texts in, embeddings out: tokens, encoder, pooling, length 1.

Contract: an embedding is float32, in the order of the texts, of length 1 unless the settings leave it; what else they say of
layers, pooling and template is in `settings`. A longer text than the teacher takes is cut at its maximum length, and
`Tokens.cut` says so. Each text is encoded in a shape that follows from its own number of tokens, so that its embedding doesn't
depend on the texts beside it, and a few dozen small compilations serve any corpus. A text without tokens, and embeddings that
are zero, not finite or all alike, are refused with an `InputError`.

Source: Reimers and Gurevych, "Sentence-BERT" (2019), arXiv:1908.10084, pooling of token states.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32
from tokenizers import Tokenizer

from lattice_jax.config import TeacherConfig
from lattice_jax.config.teacher import PLACE_OF_TEXT
from lattice_jax.errors import InputError
from lattice_jax.teachers.checkpoint import Checkpoint, encode_texts
from lattice_jax.teachers.families import FAMILIES
from lattice_jax.teachers.filling import fill, parameter_shapes
from lattice_jax.teachers.llama import LlamaConfig
from lattice_jax.teachers.native.product import choose
from lattice_jax.teachers.settings import Pooling, Settings, encoder_sizes, settle
from lattice_jax.teachers.stages import StagedEncoder, hidden_states
from lattice_jax.teachers.streamed import Batch, Streamed, encode_streamed, open_streamed
from lattice_jax.teachers.weights import open_teacher

FULL_BATCH_LENGTH = 32
"""Padded length up to which a batch holds all of `batch_size` texts; longer ones are fewer, so that the tokens stay as many.
2,048 tokens at once go through MPNet 1.04 times as fast as 1,024 on two cores, but leave more rows empty: the main job then has
171,456 tokens instead of 165,208, padding among them."""

COLLAPSED_COSINE = 0.999
"""Mean cosine between the embeddings of different texts above which they are refused; 100 real questions have 0.43."""

TOKENS_PER_SWEEP = 65_536
"""Padded tokens that go through the layers of a streamed teacher together, so that each layer is read once for all of them.
Their states are what memory holds beside one layer: 1.1 GB in float32 at 4096 numbers a token."""

Progress = Callable[[int, int], None]
"""Called with the number of texts done and of all texts to do."""


class Tokens(NamedTuple):
    """One text as the teacher reads it."""

    ids: tuple[int, ...]
    cut: bool
    """Whether the text went on beyond the teacher's maximum length."""


@dataclass(frozen=True)
class TeacherTokenizer:
    """A teacher's own tokenizer, set to cut at the maximum length, with the template that texts are put into."""

    tokenizer: Tokenizer
    template: str
    directory: Path
    """Of the teacher, for messages."""


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder with its parameters, tokenizer and settings."""

    tokenizer: TeacherTokenizer
    settings: Settings
    dimension: int
    """Numbers in an embedding."""
    padding_id: int
    encoder: StagedEncoder
    parameters: dict[str, Any]
    """None of them where the teacher is streamed."""
    streamed: Streamed | None = None
    """Where the layers come from disk one after the other instead."""


def load_tokenizer(config: TeacherConfig) -> TeacherTokenizer:
    """The tokenizer of the configured teacher; weights are not read for it."""
    checkpoint = open_teacher(config)
    return _tokenizer(checkpoint, settle(config, checkpoint, encoder_sizes(checkpoint)))


def load_teacher(config: TeacherConfig) -> Teacher:
    """Load the configured teacher; `InputError` where its files are missing, damaged or don't fit each other."""
    checkpoint = open_teacher(config)
    sizes = encoder_sizes(checkpoint)
    settings = settle(config, checkpoint, sizes)
    name = checkpoint.config["model_type"]
    family, tensors = FAMILIES[name], checkpoint.tensors
    encoder, streamed, parameters = family.build(sizes, settings.numbers), None, {}
    if product := choose(config.products, numbers=settings.numbers, widths=encoder.dense_widths()):
        encoder = encoder.clone(product=product)
    if config.streamed:
        if not isinstance(sizes, LlamaConfig):
            raise InputError(
                f"teacher.streamed is set for a teacher of the family {name}",
                expected="a teacher of the family llama or mistral, whose layers can be streamed",
                fix="leave out --config.teacher.streamed",
            )
        streamed = open_streamed(tensors, sizes, numbers=settings.numbers)
    else:
        names, not_needed = family.names(sizes, tensors), family.not_needed(sizes, tensors)
        parameters = fill(tensors, names, parameter_shapes(encoder), not_needed, name, numbers=settings.numbers)
    return Teacher(
        tokenizer=_tokenizer(checkpoint, settings),
        settings=settings,
        dimension=sizes.hidden_size,
        padding_id=sizes.padding_id,
        encoder=encoder,
        parameters=parameters,
        streamed=streamed,
    )


def _tokenizer(checkpoint: Checkpoint, settings: Settings) -> TeacherTokenizer:
    checkpoint.tokenizer.enable_truncation(settings.max_length)
    return TeacherTokenizer(checkpoint.tokenizer, settings.template, checkpoint.directory)


def tokenize(teacher: TeacherTokenizer, texts: Sequence[str], places: Sequence[int] | None = None) -> list[Tokens]:
    """Every text as tokens; `InputError` names the first text that has none, by its place among `texts` or that in `places`."""
    tokenizer, places = teacher.tokenizer, range(len(texts)) if places is None else places
    for index, text in zip(places, texts, strict=True):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {index} holds half a surrogate pair at character {error.start}",
                expected="text that can be written as UTF-8",
                fix="correct or remove this text",
            ) from error
    templated = teacher.template != PLACE_OF_TEXT
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    encodings = encode_texts(tokenizer, texts, teacher.directory)
    for index, text, encoding in zip(places, texts, encodings, strict=True):
        if len(encoding.ids) <= special:
            raise InputError(
                f"text {index} is {text[:40]!r}, which has nothing to embed",
                expected="at least one word or sign in every text",
                fix="correct or remove this text",
            )
    if templated:
        filled = [teacher.template.replace(PLACE_OF_TEXT, text) for text in texts]
        encodings = encode_texts(tokenizer, filled, teacher.directory)
    return [Tokens(tuple(encoding.ids), bool(encoding.overflowing)) for encoding in encodings]


def embed(
    teacher: Teacher, texts: Sequence[str], *, batch_size: int, on_batch: Progress | None = None
) -> Float32[np.ndarray, "texts dimension"]:
    """Embeddings of `texts`, in their order; see `cache.extract` for embeddings that are kept."""
    tokens = tokenize(teacher.tokenizer, texts)
    embeddings = encode(teacher, tokens, batch_size=batch_size, on_batch=on_batch)
    check_embeddings(embeddings, tokens)
    return embeddings


def encode(
    teacher: Teacher, tokens: Sequence[Tokens], *, batch_size: int, on_batch: Progress | None = None
) -> Float32[np.ndarray, "texts dimension"]:
    """Embeddings of tokenized texts, in their order, unchecked."""
    embeddings = np.empty((len(tokens), teacher.dimension), np.float32)
    planned = list(batches([len(text.ids) for text in tokens], batch_size, teacher.settings.max_length))
    done = 0
    for group in [[batch] for batch in planned] if teacher.streamed is None else sweeps(planned):
        # Rows that no text fills repeat those that are there: the shape stays, and no row is without tokens.
        padded = [
            Batch(*pad([tokens[member].ids for member in np.resize(members, size)], length, teacher.padding_id))
            for length, size, members in group
        ]
        texts = sum(len(members) for _, _, members in group)

        def count_on(layer: int, layers: int, before: int = done, texts: int = texts) -> None:
            if on_batch is not None and layer < layers:
                on_batch(before + texts * layer // layers, len(tokens))

        for (_, _, members), vectors in zip(group, _encode_padded(teacher, padded, count_on), strict=True):
            embeddings[members] = vectors[: len(members)]
        done += texts
        if on_batch is not None:
            on_batch(done, len(tokens))
    return embeddings


def sweeps(planned: Sequence[tuple[int, int, list[int]]]) -> Iterator[list[tuple[int, int, list[int]]]]:
    """The batches in groups of at most `TOKENS_PER_SWEEP` padded tokens, or of one batch that is larger."""
    group, tokens = [], 0
    for batch in planned:
        length, size, _ = batch
        if group and tokens + length * size > TOKENS_PER_SWEEP:
            yield group
            group, tokens = [], 0
        group.append(batch)
        tokens += length * size
    if group:
        yield group


def _encode_padded(teacher: Teacher, padded: Sequence[Batch], on_layer: Progress) -> list[np.ndarray]:
    """One vector for each text of each batch; `on_layer` is called where layers are streamed."""
    settings = teacher.settings
    if teacher.streamed is None:
        return [np.asarray(_encode_batch(teacher, batch)) for batch in padded]
    pool = POOLINGS[settings.pooling]
    pooled = encode_streamed(teacher.streamed, padded, pool=pool, states=settings.layers, on_layer=on_layer)
    return [np.asarray(unit_length(jnp.asarray(vectors))) if settings.normalise else vectors for vectors in pooled]


def pad(texts: Sequence[Sequence[int]], length: int, padding_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int32 and their mask, both [texts, length]."""
    token_ids = np.full((len(texts), length), padding_id, np.int32)
    mask = np.zeros((len(texts), length), np.bool_)
    for row, ids in enumerate(texts):
        token_ids[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return token_ids, mask


def padded_length(tokens: int, longest: int) -> int:
    """What a text of so many tokens is padded to, at most `longest`: multiples of 8 up to 64, then four lengths an octave.

    Finer ones would spend on compiling what they save: a sixth of the main job's tokens are padding, by multiples of 4 an
    eighth, and every length costs most of a second.
    """
    step = max(8, 2 ** ((tokens - 1).bit_length() - 3))
    return min(-(-tokens // step) * step, longest)


def batches(token_counts: Sequence[int], batch_size: int, max_length: int) -> Iterator[tuple[int, int, list[int]]]:
    """Padded length, rows and members (at most as many) of every batch, the longest texts first."""
    by_length = defaultdict(list)
    for index, count in enumerate(token_counts):
        by_length[padded_length(count, max_length)].append(index)
    for length in sorted(by_length, reverse=True):
        size = max(batch_size * FULL_BATCH_LENGTH // max(length, FULL_BATCH_LENGTH), 1)
        for start in range(0, len(by_length[length]), size):
            yield length, size, by_length[length][start : start + size]


def _encode_batch(teacher: Teacher, batch: Batch) -> Float[Array, "batch dimension"]:
    wanted = teacher.settings.layers
    # States beyond the last one wanted are never asked for, so they are not computed.
    states = zip(range(max(wanted) + 1), hidden_states(teacher.encoder, teacher.parameters, *batch), strict=False)
    return _pooled({number: state for number, state in states if number in wanted}, batch.mask, settings=teacher.settings)


@partial(jax.jit, static_argnames="settings")
def _pooled(states: dict[int, Array], mask: Array, *, settings: Settings) -> Array:
    """One vector a text from the states that are taken, by their numbers."""
    total = sum((states[number].astype(jnp.float32) for number in settings.layers), jnp.zeros(()))
    pooled = POOLINGS[settings.pooling](total / len(settings.layers), mask)
    return unit_length(pooled) if settings.normalise else pooled


def mean_pool(hidden: Float[Array, "batch length hidden"], mask: Bool[Array, "batch length"]) -> Float[Array, "batch hidden"]:
    """The mean hidden state of each text's tokens, padding left out."""
    counted = mask.astype(hidden.dtype)[:, :, None]
    return jnp.sum(hidden * counted, axis=1) / jnp.sum(counted, axis=1)


def last_pool(hidden: Float[Array, "batch length hidden"], mask: Bool[Array, "batch length"]) -> Float[Array, "batch hidden"]:
    """The hidden state of each text's last token."""
    last = jnp.sum(mask, axis=1, dtype=jnp.int32) - 1
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def cls_pool(hidden: Float[Array, "batch length hidden"], mask: Bool[Array, "batch length"]) -> Float[Array, "batch hidden"]:
    """The hidden state of each text's first token, which BERT's tokenizers call [CLS]."""
    return hidden[:, 0]


POOLINGS: dict[Pooling, Callable[[Array, Array], Array]] = {"mean": mean_pool, "last": last_pool, "cls": cls_pool}


def unit_length(vectors: Float[Array, "batch hidden"]) -> Float[Array, "batch hidden"]:
    """Each vector over its length; a zero vector stays zero."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def check_embeddings(embeddings: Float32[np.ndarray, "texts dimension"], tokens: Sequence[Tokens]) -> None:
    """Refuse embeddings that nothing can be learned from.

    Refused are a value that is not finite, an embedding of length zero, and collapse: at least two texts with different tokens,
    and a mean cosine over all pairs of such texts above `COLLAPSED_COSINE`. Texts that the tokenizer makes equal (by case,
    white space or cutting) count as one, since theirs have to be alike.
    """
    fix = "check the corpus and the teacher; delete the embedding cache if another version of this program wrote it"
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    for wrong, name in ((~np.isfinite(lengths), "not finite"), (lengths < 1e-6, "zero")):
        if wrong.any():
            raise InputError(
                f"the embedding of text {np.flatnonzero(wrong)[0]} is {name}, as are {wrong.sum()} of {len(embeddings)} in all",
                expected="embeddings that are finite and not zero",
                fix=fix,
            )
    different = list({text.ids: index for index, text in enumerate(tokens)}.values())
    cosine = mean_pairwise_cosine(embeddings[different])
    if cosine > COLLAPSED_COSINE:
        raise InputError(
            f"the embeddings of {len(different)} different texts are all alike: mean cosine {cosine:.6f} between them",
            expected=f"a mean cosine of at most {COLLAPSED_COSINE}",
            fix=fix,
        )


def mean_pairwise_cosine(vectors: Float32[np.ndarray, "texts dimension"]) -> float:
    """Mean cosine over all pairs of different rows; 0 for fewer than two."""
    count = len(vectors)
    if count < 2:
        return 0.0
    precise = vectors.astype(np.float64)
    units = precise / np.linalg.norm(precise, axis=1, keepdims=True)
    # The square of the sum of n unit vectors is n plus every ordered pair's cosine.
    return float((np.sum(np.sum(units, axis=0) ** 2) - count) / (count * (count - 1)))
