"""Runs the programs of bin/ as a person does."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMOKE = str(ROOT / "configs" / "smoke.py")


def launcher_memory() -> dict[str, str]:
    """The settings with which a program does not start itself anew."""
    return runpy.run_path(str(ROOT / "bin" / "launcher.py"))["MEMORY"]


def run_here(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> int:
    """Run bin/NAME in this process, for speed; returns its exit code. Tracebacks come through as exceptions."""
    monkeypatch.syspath_prepend(str(ROOT / "bin"))
    monkeypatch.setenv("GLIBC_TUNABLES", ":".join(f"{name}={value}" for name, value in launcher_memory().items()))
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    try:
        runpy.run_path(str(ROOT / "bin" / name), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start(name: str, *arguments: object) -> subprocess.Popen:
    """Start bin/NAME as a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "bin" / name), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for a program that must succeed; returns what it printed."""
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return printed
