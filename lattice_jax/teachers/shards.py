"""One shard: a safetensors file of embeddings that is written once, never changed, and named by the SHA-256 of its bytes.

Contract: a row is a text's address (the SHA-256 of its UTF-8 bytes), its embedding, the CRC-32 of the embedding's bytes, and
whether the text was cut. The header's metadata hold, as the JSON in `shard`, the `description` of everything that determines an
embedding besides the text, and `rows`, the SHA-256 over addresses, checksums and cuts.

What is read is checked, as far as it is read: opening checks size and header, `read_keys` addresses, checksums and cuts, and
whoever reads an embedding its checksum, so that nothing damaged is used and no gigabytes are hashed to say so. `find_damage`
reads it all. A damaged shard is an `InputError` that names it.
"""

import hashlib
import json
import os
import uuid
import zlib
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt32
from safetensors.numpy import save

from lattice_jax.errors import InputError
from lattice_jax.teachers.weights import make_directory

SUFFIX = ".safetensors"
ASIDE = ".writing-"
"""How the name of a file begins that is not wholly written; a killed process leaves it behind, and it is never read."""
MANIFEST = "manifest.json"

ADDRESS_BYTES = 32
_LARGEST_HEADER = 1 << 20

NUMBERS = {
    "float32": (np.dtype(np.float32), "F32"),
    "float16": (np.dtype(np.float16), "F16"),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), "BF16"),
}
"""What an embedding's numbers may be stored as: the type, and its name in a header."""


@dataclass(frozen=True)
class Shard:
    """A shard as the manifest lists it."""

    sha256: str
    rows: int
    size: int
    """Bytes of the file."""
    header: str
    """SHA-256 of the file's head, which says where everything in it lies."""

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.sha256 + SUFFIX


class Rows(NamedTuple):
    """Embeddings with the addresses of their texts."""

    addresses: UInt8[np.ndarray, "rows 32"]
    embeddings: Float[np.ndarray, "rows dimension"]
    cut: Bool[np.ndarray, " rows"]


class Keys(NamedTuple):
    """What is known of rows without reading their embeddings."""

    addresses: UInt8[np.ndarray, "rows 32"]
    checksums: UInt32[np.ndarray, " rows"]
    cut: Bool[np.ndarray, " rows"]


def as_json(description: dict) -> str:
    """The one spelling of a description."""
    return json.dumps(description, sort_keys=True)


def write_aside(directory: Path, rows: Rows, description: dict) -> tuple[Path, Shard]:
    """Write and flush a shard under a name that is not read; renaming it to `Shard.file` makes it count.

    Refused are embeddings of another dimension, and such as are zero or not finite, in the stored type too.
    """
    numbers, _ = NUMBERS[description["stored_as"]]
    with np.errstate(over="ignore"):  # what does not fit is refused below
        embeddings = np.ascontiguousarray(rows.embeddings, numbers)
    _refuse_unusable(embeddings, description)
    checksums = np.array([zlib.crc32(row) for row in embeddings.view(np.uint8)], np.uint32)
    keys = Keys(np.ascontiguousarray(rows.addresses), checksums, np.ascontiguousarray(rows.cut))
    content = save(
        {"addresses": keys.addresses, "checksums": checksums, "cut": keys.cut, "embeddings": embeddings},
        # One entry, because several would come in an order that changes, and equal rows give equal shards.
        {"shard": as_json({"description": description, "rows": _digest(keys)})},
    )
    path = make_directory(directory) / f"{ASIDE}{uuid.uuid4().hex}"
    write_flushed(path, content)
    head = content[: 8 + int.from_bytes(content[:8], "little")]
    return path, Shard(_sha256(content), len(rows.addresses), len(content), _sha256(head))


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and see it onto the disk, or leave nothing."""
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from error


def unwritable(directory: Path, error: OSError) -> InputError:
    """What a directory is told that takes no file."""
    return InputError(
        f"{directory} can't be written to: {error.strerror}",
        expected="a directory for embeddings, with room left",
        fix="make room or set other rights, or name another directory",
    )


class OpenShard:
    """A shard whose size and header were found to be right."""

    def __init__(self, path: Path, shard: Shard, description: dict):
        self.path, self.shard = path, shard
        self._offsets, self._digest = _check_header(path, shard, description)

    @property
    def embeddings_at(self) -> int:
        """Where in the file the embedding of row 0 begins; the others follow without gaps."""
        return self._offsets["embeddings"]

    def read_keys(self) -> Keys:
        """Addresses, checksums and cuts, checked."""
        count = self.shard.rows
        try:
            addresses, checksums, cut = (
                np.fromfile(self.path, kind, size, offset=self._offsets[name])
                for name, kind, size in (
                    ("addresses", np.uint8, count * ADDRESS_BYTES),
                    ("checksums", np.uint32, count),
                    ("cut", np.bool_, count),
                )
            )
        except OSError as error:
            raise damaged(self.path, f"can't be read: {error.strerror}") from error
        if (len(addresses), len(checksums), len(cut)) != (count * ADDRESS_BYTES, count, count):
            raise damaged(self.path, "was cut short since it was opened")
        keys = Keys(addresses.reshape(count, ADDRESS_BYTES), checksums, cut)
        if _digest(keys) != self._digest:
            raise damaged(self.path, "holds altered addresses, checksums or cuts")
        return keys

    def open_file(self) -> FileIO:
        """The file, found to be as long as it was; what it holds is unchecked, see `refuse_row` and `refuse_end`."""
        try:
            file = FileIO(self.path)
        except OSError as error:
            raise damaged(self.path, f"can't be read: {error.strerror}") from error
        found = os.fstat(file.fileno()).st_size
        if found != self.shard.size:
            raise damaged(self.path, f"has {found:,} bytes instead of {self.shard.size:,}")
        return file

    def refuse_row(self, row: int) -> InputError:
        """What is raised where the bytes of an embedding don't have its checksum."""
        return damaged(self.path, f"holds an altered embedding in row {row}")


def damaged(path: Path, how: str) -> InputError:
    """What is raised for a shard that is not what it was when it was written."""
    return InputError(
        f"{path} {how}",
        expected="the shard as it was written",
        fix=f"delete it and {MANIFEST} beside it: its embeddings are computed again, the other shards are listed anew",
    )


def find_damage(path: Path, shard: Shard, description: dict) -> str | None:
    """In words, what is wrong with a shard that is read as a whole; None if it is as it was written."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size < shard.size:
        return f"is truncated to {path.stat().st_size:,} bytes of {shard.size:,}"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return "is altered: its SHA-256 is not its name"
    try:
        OpenShard(path, shard, description)
    except InputError as error:
        return error.found.removeprefix(f"{path} ")
    return None


def read_shard_facts(path: Path) -> tuple[Shard, dict]:
    """A shard that no manifest lists and the description in its header, both unchecked; `InputError` where it has no header."""
    head = _read_head(path)
    try:
        header = json.loads(head[8:])
        shard = Shard(path.stem, header["addresses"]["shape"][0], path.stat().st_size, _sha256(head))
        return shard, json.loads(header["__metadata__"]["shard"])["description"]
    except (LookupError, TypeError, ValueError) as error:
        raise damaged(path, "has a header that is no shard's") from error


def _read_head(path: Path) -> bytes:
    """The length and the JSON at the head of a safetensors file."""
    try:
        with path.open("rb") as file:
            length = file.read(8)
            return length + file.read(min(int.from_bytes(length, "little"), _LARGEST_HEADER))
    except OSError as error:
        raise damaged(path, f"can't be read: {error.strerror}") from error


def _check_header(path: Path, shard: Shard, description: dict) -> tuple[dict[str, int], str]:
    """Where each tensor begins in the file, and the digest of the rows' keys; size and header are found to be right."""
    if not path.is_file():
        raise damaged(path, "is missing")
    if path.stat().st_size != shard.size:
        raise damaged(path, f"has {path.stat().st_size:,} bytes instead of {shard.size:,}")
    head = _read_head(path)
    if _sha256(head) != shard.header:
        raise damaged(path, "has an altered header")
    header = json.loads(head[8:])
    facts = json.loads(header.pop("__metadata__")["shard"])
    expected = {
        "addresses": ("U8", [shard.rows, ADDRESS_BYTES]),
        "checksums": ("U32", [shard.rows]),
        "cut": ("BOOL", [shard.rows]),
        "embeddings": (NUMBERS[description["stored_as"]][1], [shard.rows, description["dimension"]]),
    }
    found = {name: (tensor["dtype"], tensor["shape"]) for name, tensor in header.items()}
    if found != expected:
        raise damaged(path, f"holds {found} instead of {expected}")
    if as_json(facts["description"]) != as_json(description):
        raise damaged(path, "is of another teacher, or was made with other settings")
    return {name: len(head) + tensor["data_offsets"][0] for name, tensor in header.items()}, facts["rows"]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(keys: Keys) -> str:
    digest = hashlib.sha256()
    for part in keys:
        digest.update(part.tobytes())
    return digest.hexdigest()


def _refuse_unusable(embeddings: Float[np.ndarray, "rows dimension"], description: dict) -> None:
    stored_as, dimension = description["stored_as"], description["dimension"]
    if embeddings.shape[1:] != (dimension,):
        raise InputError(
            f"embeddings of shape {embeddings.shape}",
            expected=f"{dimension} numbers each, as the teacher's description says",
            fix="check the teacher's files against each other",
        )
    unusable = ~np.isfinite(embeddings).all(axis=1) | ~embeddings.any(axis=1)
    if unusable.any():
        raise InputError(
            f"{unusable.sum()} of {len(embeddings)} embeddings are zero or not finite as {stored_as}",
            expected="embeddings with finite numbers, not all of them zero",
            fix="check the teacher; set --config.teacher.stored_as to float32 if numbers are too large or small for this type",
        )
