"""A directory of embeddings: shards, and a manifest that lists them.

Contract: a directory holds the embeddings of one description (teacher, tokenizer, pooling, numbers: all that determines an
embedding besides the text). `manifest.json` has the description and each shard's SHA-256, size and rows, in the order in which
rows are counted. `open_store` reads the manifest and the shards' headers, no more; a `Store` is a snapshot, valid for good,
because shards never change.

Writers: a shard is written aside and flushed, then, under the lock of `.lock`, renamed and entered into the manifest, which is
replaced as a whole. So any number of processes may read and write at once, a reader needs no lock, and a process may be killed
at any moment; at worst an embedding is stored twice, which does no harm. A shard that was renamed but not entered, or whose
manifest is lost, is checked as a whole and entered by the next writer (`Store.adopt`). A manifest that can't be read is an
`InputError`; it may be deleted.

Reading: rows come by `pread` from the system's page cache, the pages that a map of the file would show. A map counts all that
it touched as this process's own, and the kernel maps large pages whole: for a million rows more than 1 GB, even where they are
let go every 4,096 rows (`benchmarks/cache.py`). And a file that is cut short while it is open is an error that names it, not a
signal that ends the process.

Memory: 54 bytes a row for the index, however many rows are read.
"""

import fcntl
import hashlib
import json
import os
import re
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from lattice_jax.errors import InputError
from lattice_jax.teachers.shards import (
    ADDRESS_BYTES,
    ASIDE,
    MANIFEST,
    NUMBERS,
    SUFFIX,
    Keys,
    OpenShard,
    Rows,
    Shard,
    as_json,
    damaged,
    find_damage,
    read_shard_facts,
    unwritable,
    write_aside,
    write_flushed,
)
from lattice_jax.teachers.weights import make_directory

FORMAT = 1
"""Of the manifest and the shards; a store of another format is refused."""

OPEN_FILES = 128
"""Shards that a store holds open at once at most; systems allow a process from 256 files on."""

READ_ROWS = 4096
"""Embeddings in memory as they are stored, beside all that are asked for."""

ABANDONED_SECONDS = 3600
"""Age at which a file that was being written belongs to no living process."""


def address_of(text: str) -> bytes:
    """SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def addresses_of(texts: Sequence[str]) -> UInt8[np.ndarray, "texts 32"]:
    """The address of every text."""
    return np.frombuffer(b"".join(map(address_of, texts)), np.uint8).reshape(len(texts), ADDRESS_BYTES)


def open_store(directory: Path, description: dict) -> "Store":
    """The store of this description in `directory`, which need not exist; shards that no manifest lists are left out."""
    manifest = read_manifest(directory)
    if manifest is None:
        return Store(directory, description, ())
    found, shards = manifest
    if as_json(found) != as_json(description):
        raise _bad_manifest(directory / MANIFEST, f"is of another teacher or other settings: {as_json(found)}")
    return Store(directory, description, tuple(OpenShard(directory / shard.file, shard, description) for shard in shards))


def read_manifest(directory: Path) -> tuple[dict, list[Shard]] | None:
    """The description and the shards that a manifest states; None where there is no manifest."""
    path = directory / MANIFEST
    try:
        values = json.loads(path.read_bytes())
        description, shards = values["description"], [Shard(**entry) for entry in values["shards"]]
        known = values["format"] == FORMAT and description["stored_as"] in NUMBERS and description["dimension"] > 0
        whole = all(shard.rows > 0 and shard.size > 0 and len(shard.sha256) == len(shard.header) == 64 for shard in shards)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _bad_manifest(path, f"can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_manifest(path, f"can't be read: {type(error).__name__} {error}") from error
    if not (known and whole):
        raise _bad_manifest(path, f"does not list shards of format {FORMAT}")
    return description, shards


class Store:
    """Embeddings as they were listed when this was opened; rows are counted from 0 over all shards."""

    def __init__(self, directory: Path, description: dict, shards: tuple[OpenShard, ...]):
        self.directory, self.description, self.shards = directory, description, shards
        self.dimension: int = description["dimension"]
        self._numbers, _ = NUMBERS[description["stored_as"]]
        self._width = self.dimension * self._numbers.itemsize
        self._ends = np.cumsum([0, *(shard.shard.rows for shard in shards)])
        self._begins = np.array([shard.embeddings_at for shard in shards], np.int64)
        self._files: dict[int, FileIO] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.shard.size for shard in self.shards)

    @cached_property
    def _keys(self) -> Keys:
        parts = [shard.read_keys() for shard in self.shards]
        empty = Keys(np.empty((0, ADDRESS_BYTES), np.uint8), np.empty(0, np.uint32), np.empty(0, np.bool_))
        return Keys(*map(np.concatenate, zip(*[empty, *parts], strict=True)))

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The first eight bytes of every address in ascending order, and the rows in that order."""
        prefixes = _prefixes(self._keys.addresses)
        order = np.argsort(prefixes, kind="stable")
        return prefixes[order], order

    def find(self, addresses: UInt8[np.ndarray, "texts 32"]) -> Int[np.ndarray, " texts"]:
        """The row of every address, the first one where it is stored twice; -1 where it is not."""
        prefixes, order = self._sorted
        wanted = _prefixes(addresses)
        rows = np.full(len(addresses), -1)
        place = np.searchsorted(prefixes, wanted)
        searched = np.arange(len(addresses))
        # One turn finds nearly all; others are needed only by different addresses that begin alike.
        while len(searched := searched[place[searched] < len(order)]):
            searched = searched[prefixes[place[searched]] == wanted[searched]]
            candidates = order[place[searched]]
            same = (self._keys.addresses[candidates] == addresses[searched]).all(axis=1)
            rows[searched[same]] = candidates[same]
            searched = searched[~same]
            place[searched] += 1
        return rows

    @cached_property
    def _checked(self) -> Bool[np.ndarray, " rows"]:
        """Which embeddings had the bytes of their checksum when they were read."""
        return np.zeros(len(self), np.bool_)

    def read(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dimension"]:
        """The embeddings of rows in any order, each checked against its checksum when this store reads it first."""
        embeddings = np.empty((len(rows), self.dimension), np.float32)
        for start in range(0, len(rows), READ_ROWS):
            embeddings[start : start + READ_ROWS] = self._read(rows[start : start + READ_ROWS])
        return embeddings

    def _read(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows dimension"]:
        """As `read`, in the stored type and all at once."""
        shards = np.searchsorted(self._ends, rows, side="right") - 1
        places = rows - self._ends[shards]
        found = self._pread(shards.tolist(), (self._begins[shards] + places * self._width).tolist())
        unchecked = np.flatnonzero(~self._checked[rows])
        if len(unchecked):
            computed = np.array([zlib.crc32(found[index]) for index in unchecked.tolist()], np.uint32)
            wrong = unchecked[computed != self._keys.checksums[rows[unchecked]]]
            if len(wrong):
                raise self.shards[shards[wrong[0]]].refuse_row(int(places[wrong[0]]))
            self._checked[rows] = True
        return np.frombuffer(b"".join(found), self._numbers).reshape(len(rows), self.dimension)

    def cut(self, rows: Int[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Whether the text of each row went on beyond the teacher's maximum length."""
        return self._keys.cut[rows]

    def _pread(self, shards: Sequence[int], offsets: Sequence[int]) -> list[bytes]:
        """The bytes of an embedding at each offset of its shard."""
        found, files, width, pread, shard = [], self._files, self._width, os.pread, -1
        try:
            for shard, offset in zip(shards, offsets, strict=True):
                file = files.get(shard) or self._open(shard)
                found.append(pread(file.fileno(), width, offset))
        except OSError as error:
            raise damaged(self.shards[shard].path, f"can't be read: {error.strerror}") from error
        for shard, row in zip(shards, found, strict=True):
            if len(row) != width:
                raise damaged(self.shards[shard].path, "was cut short since it was opened")
        return found

    def _open(self, shard: int) -> FileIO:
        """The file of a shard; the one that has been open longest is closed where they are too many."""
        if len(self._files) >= OPEN_FILES:
            self._files.pop(next(iter(self._files)))
        self._files[shard] = self.shards[shard].open_file()
        return self._files[shard]

    def refreshed(self) -> "Store":
        """The store as it is listed now; this very object if nothing was added."""
        manifest = read_manifest(self.directory)
        shards = manifest[1] if manifest else []
        known = {shard.shard: shard for shard in self.shards}
        if shards == list(known):
            return self
        opened = (known.get(shard) or OpenShard(self.directory / shard.file, shard, self.description) for shard in shards)
        return Store(self.directory, self.description, tuple(opened))

    def add(self, rows: Rows) -> "Store":
        """Store rows for good; returns the store with them, and with what other processes added."""
        aside, shard = write_aside(self.directory, rows, self.description)
        with _lock(self.directory):
            try:
                aside.replace(self.directory / shard.file)
            except OSError as error:
                raise unwritable(self.directory, error) from error
            self._enter([shard])
        return self.refreshed()

    def adopt(self) -> "Store":
        """Enter shards that no manifest lists, each checked as a whole, and clear away what was left half-written."""
        if not self.directory.is_dir():
            return self
        with _lock(self.directory):
            for path in self.directory.glob(f"{ASIDE}*"):
                if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    path.unlink()
            found = []
            for path in unlisted_shards(self.directory):
                shard, _ = read_shard_facts(path)
                if damage := find_damage(path, shard, self.description):
                    raise damaged(path, damage)
                found.append(shard)
            if found:
                self._enter(found)
        return self.refreshed()

    def _enter(self, shards: list[Shard]) -> None:
        """List more shards; to be called under the lock."""
        manifest = read_manifest(self.directory)
        listed = manifest[1] if manifest else []
        more = [shard for shard in shards if shard not in listed]
        values = {
            "format": FORMAT,
            "description": self.description,
            "shards": [asdict(shard) for shard in [*listed, *more]],
        }
        aside = self.directory / f"{ASIDE}{uuid.uuid4().hex}"
        write_flushed(aside, (json.dumps(values, indent=1) + "\n").encode())
        aside.replace(self.directory / MANIFEST)
        # The names are on disk only once the directory is.
        handle = os.open(self.directory, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


class View:
    """Embeddings of texts in their order, read as they are asked for: `view[3]`, `view[:100]` and `view[[5, 1, 5]]` are float32
    arrays, read from the page cache and checked."""

    def __init__(self, store: Store, rows: Int[np.ndarray, " texts"]):
        if (rows < 0).any():
            raise IndexError(f"text {np.flatnonzero(rows < 0)[0]} is not stored")
        self.store, self.rows = store, rows
        self.shape = (len(rows), store.dimension)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        rows = self.rows[np.asarray(which, np.intp) if isinstance(which, Sequence) else which]
        embeddings = self.store.read(np.atleast_1d(rows))
        return embeddings if np.ndim(rows) else embeddings[0]


@dataclass(frozen=True)
class Condition:
    """How a shard was found to be."""

    path: Path
    shard: Shard | None
    """None where the file has no header to learn it from."""
    listed: bool
    """Whether the manifest lists it; the next writer enters one that is whole."""
    damage: str | None
    """In words; None for a shard that is as it was written."""


def check_directory(directory: Path) -> Iterator[Condition]:
    """Every shard of a store, listed or lying there, read as a whole (about 1 s a gigabyte)."""
    manifest = read_manifest(directory)
    for shard in manifest[1] if manifest else []:
        path = directory / shard.file
        yield Condition(path, shard, True, find_damage(path, shard, manifest[0]) if manifest else None)
    for path in unlisted_shards(directory):
        try:
            shard, description = read_shard_facts(path)
            damage = find_damage(path, shard, manifest[0] if manifest else description)
        except InputError as error:
            shard, damage = None, error.found.removeprefix(f"{path} ")
        yield Condition(path, shard, False, damage)


def unlisted_shards(directory: Path) -> list[Path]:
    """Files in a directory that are named as shards are, and that its manifest doesn't list."""
    manifest = read_manifest(directory)
    listed = {shard.file for shard in manifest[1]} if manifest else set()
    named = [path for path in sorted(directory.glob(f"*{SUFFIX}")) if re.fullmatch("[0-9a-f]{64}", path.stem)]
    return [path for path in named if path.name not in listed]


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Alone among all processes that add to a directory; a process that dies gives the lock back."""
    try:
        file = (make_directory(directory) / ".lock").open("wb")
    except OSError as error:
        raise unwritable(directory, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prefixes(addresses: UInt8[np.ndarray, "texts 32"]) -> np.ndarray:
    return np.ascontiguousarray(addresses[:, :8]).view(np.uint64)[:, 0]


def _bad_manifest(path: Path, how: str) -> InputError:
    return InputError(
        f"{path} {how}",
        expected="a manifest as this program writes it",
        fix=f"delete {path}: it is written anew from the shards, each of them checked",
    )
