"""A Hugging Face checkpoint on disk: its configuration, its tokenizer, and its tensors, each loaded when it is asked for.

Contract: `open_checkpoint` takes the directory of any checkpoint with config.json, tokenizer.json and safetensors, one file or
shards with an index. Everything that can be known without reading weights is checked when it is opened: that all files are
there, whole, of a known family and of number types that can be read, and that the index names the tensors which the shards
hold. A tensor is a read-only view of its mapped file, so memory holds what is in use and nothing else; the mapping ends with
the view. Whatever is wrong is an `InputError` that names the file.

Source: the safetensors format, eight bytes of length, a JSON header, then the tensors' bytes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from tokenizers import Encoding, Tokenizer

from lattice_jax.errors import InputError
from lattice_jax.teachers.families import FAMILIES, known_families

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_NUMBERS = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_BUFFERS = ("I64", "I32", "BOOL", "U8")
"""Types of position ids and masks, which some checkpoints carry and no parameter takes."""

_AGAIN = "copy the checkpoint again, all of it"
_TOKENIZER = "a tokenizer of the tokenizers library, whose parts fit each other"


class _Place(NamedTuple):
    """Where a tensor lies."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    offset: int


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of safetensors files by name; a value is mapped when it is asked for."""

    def __init__(self, places: Mapping[str, _Place]):
        self._places = places

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._places[name]
        if place.kind not in _NUMBERS:
            raise InputError(
                f"tensor {name} of {place.path} is of type {place.kind}",
                expected="weights as " + ", ".join(_NUMBERS),
                fix="use the unquantised checkpoint, or save this one as one of these types",
            )
        if 0 in place.shape:
            return np.empty(place.shape, _NUMBERS[place.kind])
        return np.memmap(place.path, _NUMBERS[place.kind], mode="r", offset=place.offset, shape=place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def kind(self, name: str) -> str:
        """The type of a tensor's numbers as the file states it, "F32" for example."""
        return self._places[name].kind

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not mapped for it."""
        return self._places[name].shape


@dataclass(frozen=True)
class Checkpoint:
    """A teacher's files, opened."""

    config: dict[str, Any]
    """The values of config.json."""
    tokenizer: Tokenizer
    """Neither cutting nor padding."""
    hashes: Mapping[str, str]
    """SHA-256 of config.json, tokenizer.json and every file of weights."""
    directory: Path
    open_weights: Callable[[], Mapping[str, np.ndarray]]
    """Called once, when `tensors` are first asked for."""

    @cached_property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """Each one loaded when it is asked for, by the checkpoint's own names."""
        return self.open_weights()

    def settings(self, name: str) -> dict[str, Any]:
        """The values of a JSON file that may be there beside the weights; none if it isn't."""
        path = self.directory / name
        return read_json(path) if path.is_file() else {}

    def module_types(self) -> dict[str, str]:
        """Folder -> kind of each step in a sentence-transformers modules.json; none if it isn't there."""
        path = self.directory / "modules.json"
        if not path.is_file():
            return {}
        try:
            return {step["path"]: step["type"].rsplit(".", 1)[-1] for step in json.loads(path.read_bytes())}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} can't be read: {error}", expected="steps, each with path and type", fix=_AGAIN) from error


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open and check the checkpoint in a directory, and hash its files (10 s for 16 GB, once a process)."""
    if not directory.is_dir():
        raise InputError(
            f"there is no directory {directory}",
            expected="a directory with config.json, tokenizer.json and safetensors",
            fix="set --config.teacher.name to one, or to a packaged teacher's name",
        )
    config = read_config(directory / "config.json")
    tensors, shards = open_tensors(directory)
    tokenizer = read_tokenizer(directory / "tokenizer.json")
    files = [directory / "config.json", directory / "tokenizer.json", *shards]
    return Checkpoint(config, tokenizer, {path.name: file_hash(path) for path in files}, directory, lambda: tensors)


def read_config(path: Path) -> dict[str, Any]:
    """The values of a config.json whose `model_type` is a known one."""
    if not path.is_file():
        raise InputError(
            f"{path} is missing", expected="the directory of a Hugging Face checkpoint", fix="give its own directory, all of it"
        )
    config = read_json(path)
    if config.get("model_type") not in FAMILIES:
        raise InputError(
            f"{path} describes the unknown architecture {config.get('model_type')!r}",
            expected=f"a model_type among {known_families()}",
            fix="use a teacher of one of these families",
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}", expected="a JSON object", fix="set other rights") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {error}", expected="a JSON object", fix=_AGAIN) from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}", expected="a JSON object", fix=_AGAIN)
    return values


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, set neither to cut nor to pad; `InputError` where the library can't read it."""
    if not path.is_file():
        raise InputError(
            f"{path} is missing",
            expected="a tokenizer.json, which every fast tokenizer has",
            fix="save the tokenizer with transformers: AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)",
        )
    values = read_json(path)
    model = values.get("model")
    if not isinstance(model, dict) or not model.get("vocab"):
        raise InputError(f"{path} has no vocabulary", expected=_TOKENIZER, fix=_AGAIN)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception, nothing narrower, for a file that it can't read
        raise InputError(f"{path} can't be read: {error}", expected=_TOKENIZER, fix=_AGAIN) from error
    if undefined := _undefined_marks(values):
        raise InputError(
            f"{path} puts {', '.join(undefined)} around texts and doesn't define it", expected=_TOKENIZER, fix=_AGAIN
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _undefined_marks(values: dict[str, Any]) -> list[str]:
    """Special tokens of a readable tokenizer's template that it has no ids for; using one would crash the library."""
    processor = values.get("post_processor") or {}
    templates = [step for step in (processor, *processor.get("processors", ())) if {"single", "special_tokens"} <= step.keys()]
    return sorted(
        {
            piece["SpecialToken"]["id"]
            for template in templates
            for piece in (*template["single"], *template["pair"])
            if "SpecialToken" in piece and piece["SpecialToken"]["id"] not in template["special_tokens"]
        }
    )


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], directory: Path) -> list[Encoding]:
    """Every text by the tokenizer of the teacher in `directory`; `InputError` where it turns out to be broken.

    A tokenizer.json can be read and still not work: a text then needs a token that its vocabulary lacks, say.
    """
    try:
        return tokenizer.encode_batch(list(texts))
    except Exception as error:  # the library raises a bare Exception, nothing narrower, for whatever its parts can't do
        raise InputError(f"the tokenizer in {directory} fails: {error}", expected=_TOKENIZER, fix=_AGAIN) from error


def open_tensors(directory: Path) -> tuple[Tensors, list[Path]]:
    """The tensors of a directory's safetensors, one file or shards, and these files."""
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.is_file():
        return Tensors(_read_header(single)), [single]
    if not index.is_file():
        others = sorted(path.name for path in directory.iterdir() if path.suffix in (".bin", ".pt", ".h5", ".msgpack", ".gguf"))
        raise InputError(
            f"{directory} holds no {SINGLE_FILE} and no {INDEX_FILE}" + (f", only {', '.join(others)}" if others else ""),
            expected="weights as safetensors",
            fix="save the model with transformers: AutoModel.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)",
        )
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise InputError(f"{index} has no weight_map", expected="tensor -> shard, as transformers writes it", fix=_AGAIN)
    shards = sorted({directory / shard for shard in named.values()})
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise InputError(
            f"{directory} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing)}",
            expected=f"every file that {INDEX_FILE} names",
            fix="copy the missing files into the directory",
        )
    places = {shard.name: _read_header(shard) for shard in shards}
    absent = sorted(name for name, shard in named.items() if name not in places[Path(shard).name])
    unlisted = sorted(name for held in places.values() for name in held if name not in named)
    if absent or unlisted:
        raise InputError(
            f"{index} doesn't fit its shards: tensors that their shard lacks: {absent or 'none'}; tensors that it doesn't "
            f"name: {unlisted or 'none'}",
            expected="an index and shards that were written together",
            fix=_AGAIN,
        )
    return Tensors({name: places[Path(shard).name][name] for name, shard in named.items()}), shards


def _read_header(path: Path) -> dict[str, _Place]:
    """Where each tensor of a safetensors file lies; the file's length is checked against the last one's end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise InputError(f"{path} is cut off: {size} bytes", expected="a whole safetensors file", fix=_AGAIN)
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            places = {
                name: _Place(path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
                for name, entry in entries.items()
            }
            end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path} has a damaged header: {error}", expected="a safetensors file", fix=_AGAIN) from error
    if size != end:
        raise InputError(
            f"{path} is {'cut off' if size < end else 'too long'}: {size} bytes",
            expected=f"{end} bytes, as its header says",
            fix=_AGAIN,
        )
    wrong = sorted({place.kind for place in places.values()} - {*_NUMBERS, *_BUFFERS})
    if wrong:
        raise InputError(
            f"{path} holds tensors of type {', '.join(wrong)}",
            expected="weights as " + ", ".join(_NUMBERS),
            fix="use the unquantised checkpoint, or save this one as one of these types",
        )
    return places


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, computed once a process as long as its size and time of change stay."""
    stat = path.stat()
    return _hash_of(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
