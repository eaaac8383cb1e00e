"""Starts a program of this folder under the project's own Python, with the memory settings that it runs fastest with.

Contract: returns once both hold, otherwise replaces this process by one in which they do. Without huge pages XLA's large
buffers are faulted in 4 KiB at a time, and without a heap that is kept the pages of every step's buffers are handed back to the
system and cleared again; both slow all work on whole parameters. glibc reads these settings at start only.
"""

import importlib.util
import os
import sys
from pathlib import Path

MEMORY = {
    "glibc.malloc.hugetlb": "1",  # madvise huge pages
    "glibc.malloc.mmap_threshold": str(2**40),  # large buffers come from the heap, ...
    "glibc.malloc.trim_threshold": str(2**40),  # which is not given back, ...
    "glibc.malloc.arena_max": "1",  # and of which there is one
}


def prepare() -> None:
    """Make sure that lattice_jax can be imported and that large buffers come in huge pages."""
    python = sys.executable
    if importlib.util.find_spec("lattice_jax") is None:
        own = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"
        if not own.exists() or Path(sys.prefix) == own.parent.parent:
            sys.exit("error: lattice_jax is not installed for this Python\n  fix: run `make setup` once")
        python = str(own)
    given = os.environ.get("GLIBC_TUNABLES", "")
    missing = [f"{name}={value}" for name, value in MEMORY.items() if name not in given]
    if python != sys.executable or missing:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [given, *missing]))
        os.execv(python, [python, *sys.argv])
