"""Embeddings that are computed once: a content-addressed store on disk.

Contract: an embedding's address is the SHA-256 of the text and of everything else that determines it (the hashes of the
teacher's weights, tokenizer and configurations, the pooling, this encoder's revision). Shards are safetensors files of
addresses and embeddings, written once, never changed, and named by the SHA-256 of their own bytes: no index could disagree with
them. A shard gets its name only when it is wholly on disk, so a process may be killed at any moment, and any number may read
and write at once; at worst an embedding is stored twice. A shard whose bytes don't match its name is an `InputError` that names
it. Files that begin with '.writing-' are what a killed process left behind; they are never read.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import load, save

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers.embed import Progress, Tokens, check_embeddings, encode, load_teacher, load_tokenizer, tokenize
from lattice_jax.teachers.settings import describe
from lattice_jax.teachers.weights import make_directory

SHARD_ROWS = 512
"""Embeddings in a shard at most, which is what a killed process loses: about a minute of MPNet on one core."""

Rows = dict[bytes, np.ndarray]
"""Address -> embedding."""


def embed_texts(
    texts: Sequence[str], config: TeacherConfig, *, on_progress: Progress | None = None
) -> Float32[np.ndarray, "texts dimension"]:
    """Embeddings of `texts` by the configured teacher, in their order, from the cache where they are there.

    The teacher is loaded only if an embedding is missing; `on_progress` counts the missing ones, each different text once.
    """
    determinants = describe(config)
    tokens = tokenize(load_tokenizer(config), texts)
    directory = teacher_directory(determinants, Path(config.cache_directory))
    addresses = [address(determinants, text) for text in texts]
    rows = read_shards(directory, set(addresses))
    missing = {key: text for key, text in zip(addresses, tokens, strict=True) if key not in rows}
    if missing:
        rows |= _compute(missing, config, directory, description(determinants), on_progress)
    embeddings = np.array([rows[key] for key in addresses], np.float32).reshape(len(texts), determinants["dimension"])
    check_embeddings(embeddings, tokens)
    return embeddings


def count_cut(texts: Sequence[str], config: TeacherConfig) -> int:
    """How many of `texts` go on beyond the teacher's maximum length, so that their embedding leaves their end out."""
    return sum(text.cut for text in tokenize(load_tokenizer(config), texts))


def description(determinants: Mapping[str, Any]) -> str:
    """Everything besides the text that an embedding depends on, see `settings.describe`, as JSON."""
    return json.dumps(determinants, sort_keys=True)


def address(determinants: Mapping[str, Any], text: str) -> bytes:
    """SHA-256 of a text and of all else that determines its embedding."""
    return hashlib.sha256(f"{description(determinants)}\0{text}".encode()).digest()


def teacher_directory(determinants: Mapping[str, Any], cache_directory: Path) -> Path:
    """Where the shards of a teacher lie; one directory for each description."""
    return cache_directory / hashlib.sha256(description(determinants).encode()).hexdigest()[:16]


def read_shards(directory: Path, wanted: Collection[bytes]) -> Rows:
    """The embeddings at the wanted addresses, as far as they are stored; every shard is checked against its name."""
    rows: Rows = {}
    for path in sorted(directory.glob("[!.]*.safetensors")):
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != path.stem:
            raise InputError(
                f"{path} is damaged: {len(content)} bytes with SHA-256 {found}",
                expected="content whose SHA-256 is the file's name",
                fix=f"delete {path}, its embeddings are computed again",
            )
        shard = load(content)
        for key, embedding in zip(map(bytes, shard["addresses"]), shard["embeddings"], strict=True):
            if key in wanted:
                rows[key] = embedding
    return rows


def write_shard(directory: Path, rows: Rows, metadata: str) -> Path:
    """Store embeddings for good: written aside, flushed to disk, and only then named."""
    addresses = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
    content = save({"addresses": addresses, "embeddings": np.stack(list(rows.values()))}, {"description": metadata})
    aside = make_directory(directory) / f".writing-{uuid.uuid4().hex}"
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return aside.replace(directory / f"{hashlib.sha256(content).hexdigest()}.safetensors")


def _compute(
    missing: dict[bytes, Tokens], config: TeacherConfig, directory: Path, metadata: str, on_progress: Progress | None
) -> Rows:
    """Encode and store what is missing, shard by shard."""
    teacher = load_teacher(config)
    # Texts of one length in one shard fill their batches.
    order = sorted(missing, key=lambda key: len(missing[key].ids), reverse=True)
    rows: Rows = {}
    for start in range(0, len(order), SHARD_ROWS):
        keys = order[start : start + SHARD_ROWS]

        def count_on(done: int, _: int, before: int = start) -> None:
            if on_progress is not None:
                on_progress(before + done, len(order))

        tokens = [missing[key] for key in keys]
        embeddings = encode(teacher, tokens, batch_size=config.batch_size, on_batch=count_on)
        shard = dict(zip(keys, embeddings, strict=True))
        write_shard(directory, shard, metadata)
        rows |= shard
    return rows
