"""Starts a program of this folder under the project's own Python, with the memory settings that it runs fastest with.

Contract: returns once both hold, otherwise replaces this process by one in which they do. Without huge pages XLA's large
buffers are faulted in 4 KiB at a time, which slows all work on whole parameters; glibc reads the setting at start only.
"""

import importlib.util
import os
import sys
from pathlib import Path

_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def prepare() -> None:
    """Make sure that lattice_jax can be imported and that large buffers come in huge pages."""
    python = sys.executable
    if importlib.util.find_spec("lattice_jax") is None:
        own = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"
        if not own.exists() or Path(sys.prefix) == own.parent.parent:
            sys.exit("error: lattice_jax is not installed for this Python\n  fix: run `make setup` once")
        python = str(own)
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if python != sys.executable or _HUGE_PAGES not in tunables:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, _HUGE_PAGES]))
        os.execv(python, [python, *sys.argv])
