"""Embeddings that are computed once: texts in, embeddings out, from a store on disk as far as they are there.

Contract: one directory, a `store.Store`, for each description: the hashes of the teacher's files, tokenizer among them, the
settings of what is taken from it (`settings.describe`), the stored numbers. In it an embedding's address is the SHA-256 of its
text. Only what is missing is computed, each different text once, longest first, and stored shard after shard: a process that
is killed loses the shard in the making, at most `SHARD_SECONDS` and one call of `encode`. Several processes may fill one store;
each leaves out what another one has finished. Missing texts are tokenized once and kept as four bytes a token, about what the
texts themselves take.

`extract` stores what it computes and gives a view of the store; `question_embedder` adds nothing to it, since a shard for every
question that somebody asks would fill a directory with files. `record_corpus` writes `corpora/NAME.safetensors` into the
store's directory: 'addresses' [texts, 32], the SHA-256 of every text of a corpus in its order, questions before answers. With
it `open_corpus` finds row i for text i of `corpus_texts(NAME)`, without the teacher.
"""

import functools
import hashlib
import re
import time
import uuid
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers.embed import (
    COLLAPSED_COSINE,
    Progress,
    Teacher,
    TeacherTokenizer,
    Tokens,
    batches,
    check_embeddings,
    encode,
    load_teacher,
    load_tokenizer,
    mean_pairwise_cosine,
    sweeps,
    tokenize,
)
from lattice_jax.teachers.settings import describe
from lattice_jax.teachers.shards import ADDRESS_BYTES, ASIDE, NUMBERS, SUFFIX, Rows, as_json, unwritable, write_flushed
from lattice_jax.teachers.store import Store, View, addresses_of, open_store
from lattice_jax.teachers.weights import make_directory

EmbedQuestion = Callable[[str], tuple[Float32[np.ndarray, "1 dimension"], bool]]
"""The embedding of a text, from the store if it is there, else computed and not stored; and whether the teacher cut it."""

SHARD_ROWS = 16_384
"""Embeddings in a shard at most: 25 MB of MiniLM's."""

SHARD_SECONDS = 60.0
"""Computing after which a shard is stored though it has fewer rows: what a killed process loses."""

ENCODED_ROWS = 1024
"""Texts given to `encode` at once; of a streamed teacher, as many as go through its layers together."""

COLLAPSE_ROWS = 1024
"""Embeddings looked at for collapse where `extract` has more."""


@dataclass(frozen=True)
class Extraction:
    """Embeddings of texts, and what it took to have them."""

    embeddings: View
    new: int
    """Different texts that had to be computed."""
    cut: int
    """Texts that go on beyond the teacher's maximum length, so that their embedding leaves their end out."""


def extract(
    texts: Sequence[str], config: TeacherConfig, *, directory: Path | None = None, on_progress: Progress | None = None
) -> Extraction:
    """Embeddings of `texts` by the configured teacher, in their order, in `teacher_store(config, directory)`.

    Weights are loaded only if an embedding is missing; `on_progress` counts the missing ones, each different text once.
    Embeddings that nothing can be learned from are refused as by `check_embeddings`: zero or not finite before they are stored,
    collapsed by a sample.
    """
    found = _extract(texts, config, directory, on_progress)
    sample = np.unique(np.linspace(0, max(len(texts) - 1, 0), COLLAPSE_ROWS, dtype=np.intp))[: len(texts)]
    embeddings = found.embeddings[sample]
    if mean_pairwise_cosine(embeddings) > COLLAPSED_COSINE:
        # Perhaps only because the tokenizer makes many of these texts equal, which is worth looking at now.
        check_embeddings(embeddings, _tokenize_some(load_tokenizer(config), texts, sample))
    return found


def question_embedder(config: TeacherConfig) -> EmbedQuestion:
    """What embeds one text after the other: the store is opened once, the teacher loaded at the first text that isn't in it.

    Numbers are rounded as the store would round them.
    """
    store, numbers = teacher_store(config), NUMBERS[config.stored_as][0]
    teacher_of = functools.cache(load_teacher)

    def embed(question: str) -> tuple[Float32[np.ndarray, "1 dimension"], bool]:
        row = store.find(addresses_of([question]))
        if row[0] >= 0:
            return store.read(row), bool(store.cut(row)[0])
        teacher = teacher_of(config)
        tokens = tokenize(teacher.tokenizer, [question])
        embedding = encode(teacher, tokens, batch_size=1)
        check_embeddings(embedding, tokens)
        return embedding.astype(numbers).astype(np.float32), tokens[0].cut

    return embed


def _extract(texts: Sequence[str], config: TeacherConfig, directory: Path | None, on_progress: Progress | None) -> Extraction:
    addresses = addresses_of(texts)
    store = teacher_store(config, directory)
    missing = _missing(store, addresses)
    if len(missing):
        store = store.adopt()
        missing = _missing(store, addresses)
    count = len(missing)
    if count:
        store, count = _compute(store, texts, addresses, missing, config, on_progress)
    rows = store.find(addresses)
    return Extraction(View(store, rows), count, int(store.cut(rows).sum()))


def teacher_store(config: TeacherConfig, directory: Path | None = None) -> Store:
    """The embeddings of a teacher below `directory` or the configured one, in NAME-HASH, one for each description.

    The hash decides; the name is for people, and that under which the teacher was embedded first.
    """
    wanted = describe(config) | {"stored_as": config.stored_as}
    root = directory or Path(config.cache_directory)
    key = hashlib.sha256(as_json(wanted).encode()).hexdigest()[:16]
    own = root / f"{Path(config.name).resolve().name}-{key}"
    try:
        found = next(root.glob(f"*-{key}"), own)
    except OSError as error:  # a name that is too long, or a directory that may not be entered
        raise unwritable(root, error) from error
    return open_store(found, wanted)


def record_corpus(store: Store, name: str, addresses: UInt8[np.ndarray, "texts 32"]) -> Path:
    """Write down which texts a corpus has, in order; replaces what was written under this name."""
    path = _corpus_file(store, name)
    make_directory(path.parent)
    aside = store.directory / f"{ASIDE}{uuid.uuid4().hex}"
    write_flushed(aside, save({"addresses": addresses}, {"corpus": name}))
    return aside.replace(path)


def recorded_corpora(store: Store) -> list[str]:
    """Names under which `open_corpus` finds corpora."""
    return sorted(path.stem for path in (store.directory / "corpora").glob(f"*{SUFFIX}"))


def open_corpus(store: Store, name: str) -> View:
    """The embeddings of a corpus that was recorded, in its order; `InputError` where its record or one of them is lost."""
    path = _corpus_file(store, name)
    fix = f"run bin/embed --corpus {name} again"
    try:
        addresses = load_file(path)["addresses"]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} can't be read: {error}", expected="a corpus that bin/embed recorded", fix=fix) from error
    if addresses.shape[1:] != (ADDRESS_BYTES,) or addresses.dtype != np.uint8:
        raise InputError(
            f"{path} holds {addresses.dtype} {addresses.shape}", expected="a corpus that bin/embed recorded", fix=fix
        )
    rows = store.find(addresses)
    if (rows < 0).any():
        raise InputError(
            f"{path}: {(rows < 0).sum()} of {len(rows)} texts of {name!r} are not stored in {store.directory}",
            expected="the embedding of every text",
            fix=fix,
        )
    return View(store, rows)


def _corpus_file(store: Store, name: str) -> Path:
    return store.directory / "corpora" / (re.sub(r"[^\w.-]+", "-", name) + SUFFIX)


def _missing(store: Store, addresses: UInt8[np.ndarray, "texts 32"]) -> Int[np.ndarray, " missing"]:
    """Indices of the texts that are not stored, each different text once, in ascending order."""
    absent = np.flatnonzero(store.find(addresses) < 0)
    _, first = np.unique(np.ascontiguousarray(addresses[absent]).view("V32")[:, 0], return_index=True)
    return np.sort(absent[first])


class _Tokenized(NamedTuple):
    """Many texts as tokens, one after the other."""

    ids: Int[np.ndarray, " tokens"]
    ends: Int[np.ndarray, " texts+1"]
    """Text i has the ids from ends[i] to ends[i + 1]."""
    cut: Bool[np.ndarray, " texts"]

    def take(self, which: Int[np.ndarray, " some"]) -> list[Tokens]:
        """Some of the texts."""
        return [Tokens(tuple(self.ids[self.ends[i] : self.ends[i + 1]].tolist()), bool(self.cut[i])) for i in which.tolist()]


def _tokenize_all(tokenizer: TeacherTokenizer, texts: Sequence[str], indices: Int[np.ndarray, " missing"]) -> _Tokenized:
    ids, lengths, cut = array("i"), [0], []
    for some in np.split(indices, range(ENCODED_ROWS, len(indices), ENCODED_ROWS)):
        for text in _tokenize_some(tokenizer, texts, some):
            ids.extend(text.ids)
            lengths.append(len(text.ids))
            cut.append(text.cut)
    return _Tokenized(np.frombuffer(ids, np.intc), np.cumsum(lengths), np.array(cut))


def _tokenize_some(tokenizer: TeacherTokenizer, texts: Sequence[str], indices: Int[np.ndarray, " some"]) -> list[Tokens]:
    """Some of the texts as tokens; an error names the text by its place among all."""
    some: list[int] = indices.tolist()
    return tokenize(tokenizer, [texts[index] for index in some], some)


def _compute(
    store: Store,
    texts: Sequence[str],
    addresses: UInt8[np.ndarray, "texts 32"],
    missing: Int[np.ndarray, " missing"],
    config: TeacherConfig,
    on_progress: Progress | None,
) -> tuple[Store, int]:
    """Encode and store what is missing; returns the store with it, and how many of them this process computed."""
    tokenized, addresses = _tokenize_all(load_tokenizer(config), texts, missing), addresses[missing]
    teacher = load_teacher(config)
    portions = _portions(np.diff(tokenized.ends), teacher, config.batch_size)
    kept: list[Rows] = []
    reached, computed, began = 0, 0, time.monotonic()
    for number, portion in enumerate(portions):

        def count_on(done: int, _: int, before: int = reached) -> None:
            if on_progress is not None:
                on_progress(before + done, len(missing))

        last = number + 1 == len(portions)
        store = store.refreshed()
        some = portion[store.find(addresses[portion]) < 0]
        if len(some):
            tokens = tokenized.take(some)
            embeddings = encode(teacher, tokens, batch_size=config.batch_size, on_batch=count_on)
            if len(some) == len(portion) and not last:
                check_embeddings(embeddings, tokens)
            kept.append(Rows(addresses[some], embeddings, tokenized.cut[some]))
            computed += len(some)
        reached += len(portion)
        full = last or sum(len(rows.cut) for rows in kept) + len(portions[number + 1]) > SHARD_ROWS
        if kept and (full or time.monotonic() - began > SHARD_SECONDS):
            rows, store = Rows(*map(np.concatenate, zip(*kept, strict=True))), store.refreshed()
            unknown = store.find(rows.addresses) < 0
            if unknown.any():
                store = store.add(Rows(*(part[unknown] for part in rows)))
            kept, began = [], time.monotonic()
    return store, computed


def _portions(lengths: Int[np.ndarray, " texts"], teacher: Teacher, batch_size: int) -> list[Int[np.ndarray, " some"]]:
    """Indices of the texts of every call of `encode`: the longest first, so that too little memory shows at once."""
    if teacher.streamed is None:
        # Texts of one length fill their batches.
        order = np.argsort(-lengths, kind="stable")
        return np.split(order, range(ENCODED_ROWS, len(order), ENCODED_ROWS))
    planned = list(batches(lengths.tolist(), batch_size, teacher.settings.max_length))
    return [np.concatenate([members for _, _, members in sweep]) for sweep in sweeps(planned)]
