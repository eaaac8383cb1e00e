"""The machine that figures were measured on.

Contract: plain values; nothing that names a person, a path or a host.
"""

import importlib.metadata
import os
import platform
from pathlib import Path

import jax
import psutil

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "lattice-jax", "torch", "cax")


def processor() -> str:
    """The processor's model."""
    description = Path("/proc/cpuinfo")
    lines = description.read_text().splitlines() if description.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    installed = {
        distribution.metadata["Name"].lower(): distribution.version for distribution in importlib.metadata.distributions()
    }
    return {"python": platform.python_version()} | {name: installed[name] for name in _PACKAGES if name in installed}


def description() -> dict:
    """Processor, cores, memory, devices, versions and glibc settings."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


def most_devices() -> int:
    """How many devices a cube can be spread over: accelerators where there are any, else cores."""
    return len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else len(jax.devices())


def load() -> float:
    """The load average of the last minute: how much else the machine did."""
    return os.getloadavg()[0]
