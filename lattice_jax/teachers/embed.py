"""Texts in, embeddings out: tokens, encoder, mean over the tokens, unit length.

Contract: an embedding is float32, of length 1, in the order of the texts; a longer text than the teacher takes is cut at its
maximum length, and `Tokens.cut` says so. Each text is encoded in a shape that follows from its own number of tokens, so that
its embedding doesn't depend on the texts beside it, and a handful of compilations serve any corpus. A text without tokens, and
embeddings that are zero, not finite or all alike, are refused with an `InputError`.

Source: Reimers and Gurevych, "Sentence-BERT" (2019), arXiv:1908.10084, mean pooling.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32
from tokenizers import Tokenizer

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers.bert import build_encoder, convert, read_config, read_tensors
from lattice_jax.teachers.weights import TeacherSource, check_file, find_files, teacher_source

PADDED_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Lengths that texts are padded to, in tokens; longer texts are padded to the teacher's maximum. One compilation each: finer
steps would spend on compiling what they save on padding."""

FULL_BATCH_LENGTH = 64
"""Padded length up to which a batch holds all of `batch_size` texts; longer ones are fewer, so that the tokens stay as many."""

COLLAPSED_COSINE = 0.999
"""Mean cosine between the embeddings of different texts above which they are refused; 100 real questions have 0.43."""

Progress = Callable[[int, int], None]
"""Called with the number of texts done and of all texts to do."""


class Tokens(NamedTuple):
    """One text as the teacher reads it."""

    ids: tuple[int, ...]
    cut: bool
    """Whether the text went on beyond the teacher's maximum length."""


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder with its parameters and tokenizer."""

    source: TeacherSource
    tokenizer: Tokenizer
    max_length: int
    """Tokens that are read of a text, the opening and the closing one among them."""
    encoder: nn.Module
    parameters: dict[str, Any]


def load_tokenizer(config: TeacherConfig) -> Tokenizer:
    """The teacher's own tokenizer, set to cut at the teacher's maximum length and not to pad."""
    source = teacher_source(config)
    directory = find_files(source, Path(config.cache_directory))
    tokenizer = Tokenizer.from_file(str(check_file(source, directory, "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_max_length(source, directory))
    return tokenizer


def load_teacher(config: TeacherConfig) -> Teacher:
    """Load a teacher, its files checked against their SHA-256; `InputError` where they are missing or differ."""
    source = teacher_source(config)
    tokenizer = load_tokenizer(config)
    directory = find_files(source, Path(config.cache_directory))
    encoder_config = read_config(check_file(source, directory, "config.json"))
    tensors = read_tensors(check_file(source, directory, "model.safetensors"))
    parameters = convert(tensors, encoder_config)
    return Teacher(source, tokenizer, _max_length(source, directory), build_encoder(encoder_config), parameters)


def _max_length(source: TeacherSource, directory: Path) -> int:
    settings = check_file(source, directory, "sentence_bert_config.json").read_text(encoding="utf-8")
    return json.loads(settings)["max_seq_length"]


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], numbers: Sequence[int] | None = None) -> list[Tokens]:
    """Every text as tokens; `InputError` names the first text that has none, by its place or, if given, by its number."""
    for index, text in zip(numbers or range(len(texts)), texts, strict=True):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {index} holds half a surrogate pair at character {error.start}",
                expected="text that can be written as UTF-8",
                fix="correct or remove this text",
            ) from error
    tokens = [Tokens(tuple(encoding.ids), bool(encoding.overflowing)) for encoding in tokenizer.encode_batch(list(texts))]
    for index, text, (ids, _) in zip(numbers or range(len(texts)), texts, tokens, strict=True):
        if len(ids) <= tokenizer.num_special_tokens_to_add(is_pair=False):
            raise InputError(
                f"text {index} is {text[:40]!r}, which has nothing to embed",
                expected="at least one word or sign in every text",
                fix="correct or remove this text",
            )
    return tokens


def embed(
    teacher: Teacher, texts: Sequence[str], *, batch_size: int, on_batch: Progress | None = None
) -> Float32[np.ndarray, "texts dimension"]:
    """Embeddings of `texts`, in their order; see `cache.embed_texts` for embeddings that are kept."""
    tokens = tokenize(teacher.tokenizer, texts)
    embeddings = encode(teacher, tokens, batch_size=batch_size, on_batch=on_batch)
    check_embeddings(embeddings, tokens)
    return embeddings


def encode(
    teacher: Teacher, tokens: Sequence[Tokens], *, batch_size: int, on_batch: Progress | None = None
) -> Float32[np.ndarray, "texts dimension"]:
    """Embeddings of tokenized texts, in their order, unchecked."""
    embeddings = np.empty((len(tokens), teacher.source.dimension), np.float32)
    done = 0
    for length, size, members in batches([len(text.ids) for text in tokens], batch_size, teacher.max_length):
        token_ids = np.zeros((size, length), np.int32)
        mask = np.zeros((size, length), np.bool_)
        # Rows that no text fills repeat those that are there: the shape stays, and no row is without tokens.
        for row, member in enumerate(np.resize(members, size)):
            ids = tokens[member].ids
            token_ids[row, : len(ids)], mask[row, : len(ids)] = ids, True
        encoded = _encode_batch(teacher.parameters, token_ids, mask, encoder=teacher.encoder)
        embeddings[members] = np.asarray(encoded)[: len(members)]
        done += len(members)
        if on_batch is not None:
            on_batch(done, len(tokens))
    return embeddings


def batches(token_counts: Sequence[int], batch_size: int, max_length: int) -> Iterator[tuple[int, int, list[int]]]:
    """Padded length, rows and members (at most as many) of every batch, the longest texts first."""
    by_length = defaultdict(list)
    for index, count in enumerate(token_counts):
        fitting = [length for length in PADDED_LENGTHS if count <= length < max_length]
        by_length[min(fitting, default=max_length)].append(index)
    for length in sorted(by_length, reverse=True):
        size = max(batch_size * FULL_BATCH_LENGTH // max(length, FULL_BATCH_LENGTH), 1)
        for start in range(0, len(by_length[length]), size):
            yield length, size, by_length[length][start : start + size]


@partial(jax.jit, static_argnames="encoder")
def _encode_batch(parameters: dict, token_ids: Array, mask: Array, *, encoder: nn.Module) -> Array:
    # The default on accelerators would round the factors of every product to fewer bits.
    with jax.default_matmul_precision("highest"):
        hidden = cast(Array, encoder.apply({"params": parameters}, token_ids, mask))
    return unit_length(mean_pool(hidden, mask))


def mean_pool(hidden: Float[Array, "batch length hidden"], mask: Bool[Array, "batch length"]) -> Float[Array, "batch hidden"]:
    """The mean hidden state of each text's tokens, padding left out."""
    counted = mask.astype(hidden.dtype)[:, :, None]
    return jnp.sum(hidden * counted, axis=1) / jnp.sum(counted, axis=1)


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
                expected="embeddings of length 1",
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
