"""Compiles C sources for this machine, once, and hands their functions to XLA.

Contract: `load` returns the loaded library, with its handlers registered. It is kept under the user's cache folder by the
hash of all that it depends on (sources, compiler, processor, jaxlib), so it is never out of date. Without a working C compiler
or a cache folder that can be written to it raises `InputError`; nothing slower is taken instead.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

import jax

from lattice_jax.errors import InputError

_SHARED = Path(__file__).parent
_OPTIONS = ["-std=gnu11", "-O3", "-march=native", "-fPIC", "-shared", "-pthread"]
# Sums may be reordered, so that they use vectors; infinities and NaN keep their meaning, so that a diverging run is seen.
_OPTIONS += ["-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"]
_WHOLE_VECTORS = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []


def processor() -> str:
    """What `-march=native` depends on: names and abilities of the processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))


def _run(command: list[str], purpose: str, instead: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise InputError(
            f"{purpose} can't be compiled: {detail.strip().splitlines()[-1]} ({shlex.join(command[:1])})",
            expected="a C compiler, gcc or clang",
            fix=f"install gcc, name another compiler in the environment variable CC, or {instead}",
        ) from error


@functools.cache
def load(folder: Path, handlers: tuple[str, ...], *, purpose: str, instead: str) -> ctypes.CDLL:
    """The functions of a folder's C files, `handlers` of them ready for `jax.ffi.ffi_call`.

    What they are for and how to do without is said where they can't be had.
    """
    command = [*shlex.split(os.environ.get("CC", "gcc")), *_OPTIONS, *_WHOLE_VECTORS]
    parts = [path.read_bytes() for place in (_SHARED, folder) for path in sorted(place.glob("*.[ch]"))]
    described = [*command, _run([command[0], "--version"], purpose, instead), processor(), importlib.metadata.version("jaxlib")]
    digest = hashlib.sha256(b"\0".join([*parts, *(each.encode() for each in described)])).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lattice_jax"
    compiled = cache / f"{folder.parent.name}-{digest}.so"
    included = ["-I", str(_SHARED), "-isystem", jax.ffi.include_dir()]
    try:
        if not compiled.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as temporary:
                output = Path(temporary) / compiled.name
                sources = map(str, sorted(folder.glob("*.c")))
                _run([*command, *included, "-o", str(output), *sources, "-lm"], purpose, instead)
                output.replace(compiled)
    except OSError as error:
        raise InputError(
            f"{purpose} can't be kept in {cache}: {error.strerror}",
            expected="a cache folder that can be made and written to",
            fix=f"name another one in the environment variable XDG_CACHE_HOME, or {instead}",
        ) from error
    loaded = ctypes.CDLL(str(compiled))
    for name in handlers:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(loaded, name)), platform="cpu")
    return loaded
