"""Where installed packages keep their files, and what to install where they are absent.

Contract: files come sorted by path; none at all is an `InputError` with the corpus, its licence and the install line. Debian
packages are looked for below `/`, or below the directory that the environment variable LATTICE_JAX_DEBIAN_ROOT names, into
which they can be unpacked without being installed. Nothing is ever fetched.
"""

import importlib
import os
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

from lattice_jax.corpus.readers.catalogue import CorpusSource
from lattice_jax.errors import InputError

DEBIAN_ROOT = "LATTICE_JAX_DEBIAN_ROOT"


def debian_files(source: CorpusSource, package: str, pattern: str) -> list[Path]:
    """Files of a Debian package that match a pattern below the root of the file system."""
    root = Path(os.environ.get(DEBIAN_ROOT) or "/")
    files = sorted(root.glob(pattern))
    if not files:
        raise InputError(
            f"corpus {source.name!r} is not installed: there is no {root / pattern}",
            expected=f"the files of the Debian package {package} ({source.contents}; licence: {source.licence})",
            fix=f"apt-get install {package}, or apt-get download {package} && dpkg-deb -x {package}_*.deb DIRECTORY and set "
            f"{DEBIAN_ROOT}=DIRECTORY",
        )
    return files


def python_files(source: CorpusSource, package: str, pattern: str) -> list[Path]:
    """Files of an installed Python package that match a pattern, as its record lists them."""
    try:
        recorded = distribution(package).files or []
    except PackageNotFoundError:
        recorded = []
    files = sorted(path for entry in recorded if entry.match(pattern) and (path := Path(str(entry.locate()))).is_file())
    if not files:
        raise InputError(
            f"corpus {source.name!r} is not installed: there is no package {package} with files {pattern}",
            expected=f"the package {package} ({source.contents}; licence: {source.licence})",
            fix=source.install,
        )
    return files


def newest(files: list[Path]) -> list[Path]:
    """The files of the directory with the highest version in its path, where a package is installed in several."""

    def version(directory: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", str(directory))]

    directories = {file.parent.resolve() for file in files}
    best = max(directories, key=version)
    return sorted({best / file.name for file in files if file.parent.resolve() == best})


def optional_module(name: str, package: str, purpose: str) -> ModuleType:
    """An optional library, imported when it is needed first."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"{purpose} needs the package {package}, which is not installed",
            expected=f"{package}, part of the extra 'corpora'",
            fix=f"pip install {package}, or pip install -e '.[corpora]' for all of them",
        ) from None


def read_text(path: Path) -> str:
    """A file as UTF-8."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"line {line} of '{path}' is not UTF-8: {error.reason} at byte {error.start} of the file",
            expected="text encoded as UTF-8",
            fix="install the package that the file belongs to anew",
        ) from None
    except OSError as error:
        raise InputError(
            f"'{path}' can't be read: {error}", expected="a readable file", fix="install its package anew"
        ) from error


def refuse_choice(source: CorpusSource, choice: str) -> None:
    """Refuse a part of a corpus that has none."""
    if choice:
        raise InputError(
            f"a corpus is '{source.name}:{choice}'",
            expected=f"{source.name!r}, which is read whole",
            fix=f"name it {source.name}",
        )
