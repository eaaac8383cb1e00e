"""Strict numerics and checked shapes, under pytest only; what one test or program compiled the others of a session load."""

import atexit
import os
import shutil
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="lattice_jax-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)

from jaxtyping import install_import_hook

# Shapes in signatures are checked here and cost nothing in use; linen modules stay out, beartype breaks their `init`.
_hook = install_import_hook(
    [
        "lattice_jax.lattice.cell",
        "lattice_jax.lattice.emergence",
        "lattice_jax.lattice.grid",
        "lattice_jax.lattice.propagate",
        "lattice_jax.lattice.step",
        "lattice_jax.lattice.surface",
        "lattice_jax.evaluation.similarity",
    ],
    "beartype.beartype",
)

import jax  # noqa: E402
import pytest  # noqa: E402
from installed import install_debian, install_python  # noqa: E402, F401 (fixtures)

jax.config.update("jax_num_cpu_devices", 2)  # the sharded pass is tested beside the plain one
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session", autouse=True)
def quick_compilation():
    """On the CPU tests compile far more than they compute; on a GPU kernels are tested as they are used.

    A fixture, because to ask for the backend takes a GPU's memory, which the process that only hands tests out must not.
    """
    jax.config.update("jax_disable_most_optimizations", jax.default_backend() == "cpu")
