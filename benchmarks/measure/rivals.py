"""The peers as workloads, each held to equal the lattice before it is timed.

Contract: `check` compares loss and gradients with those of the case's `check` configuration on a small cube and raises
`ArithmeticError` where they differ; the builders return workloads of the peers' whole training steps. They get the firing masks
that the lattice draws, ready-made, so a peer's time contains no random numbers. Packages that only peers need are imported on
use.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import largest_difference
from lattice_jax.config import Config
from lattice_jax.errors import InputError
from lattice_jax.lattice import cube, devices
from lattice_jax.lattice.firing import firing
from lattice_jax.training.objectives import answer_questions, read_by_losses

from . import workload
from .cases import Case, small
from .workload import Text, Workload

TOLERANCE = {"cpu": 1e-4, "gpu": 1e-2}
"""Largest difference from the lattice by backend, as a share of the largest entry.

Float32 sums in another order stay near 1e-6. On a GPU factors are TF32, and each of two implementations may be 5e-3 from the
exact value, which is what the tests of the kernels allow.
"""

_NOISE = 0.02
_NORMALISATION_EPSILON = 1e-6  # of flax's LayerNorm


def masks(config: Config, batch: int) -> np.ndarray:
    """The firing masks of a training step, [steps, d, h, w, batch or 1, 1]."""
    read, key = read_by_losses(config.loss), jax.random.key(config.seed)
    return np.array(firing(config.lattice, batch, sampled=True, key=key, read=read))


def start_parameters(config: Config, *, noise: float = 0.0) -> dict[str, np.ndarray]:
    """Untrained parameters on the host, so that every peer starts from the same; with noise, so that no gradient is zero."""
    rng = np.random.default_rng(0)
    found = cube.initialise(config.lattice, key=jax.random.key(config.seed))
    return {
        name: np.array(value) + noise * rng.normal(size=value.shape).astype(np.float32) if noise else np.array(value)
        for name, value in found.items()
    }


def loss_and_gradients(config: Config, text: Text, parameters: Mapping[str, np.ndarray], batch: dict) -> dict[str, np.ndarray]:
    """The training objective and its gradients by the lattice itself, on the devices that `config` asks for."""
    mesh = devices.cell_mesh(config.lattice)
    placed = devices.place({name: jnp.asarray(value) for name, value in parameters.items()}, config.lattice.grid, mesh)
    objective = answer_questions(text.codec, config, mesh)
    differentiate = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, _), gradients = differentiate(placed, batch, key=jax.random.key(config.seed))
    gradients = devices.collect(gradients, config.lattice.grid)
    return {"loss": np.asarray(loss), **{name: np.asarray(value) for name, value in gradients.items()}}


def check(case: Case, text: Text) -> dict:
    """The largest difference in loss and gradients between the case and what it is checked against, on a small cube.

    `text` is that of the small cube.
    """
    assert case.check is not None
    config, against = small(case.config), small(case.check)
    parameters = start_parameters(config, noise=_NOISE)
    batch = workload.make_batch(text, config.training.batch_size, config.seed)
    expected = loss_and_gradients(against, text, parameters, batch)
    if case.kind == "training":
        found = loss_and_gradients(config, text, parameters, batch)
    else:
        found = _torch_loss_and_gradients(case, config, text, parameters, batch)
    difference, name = largest_difference(found, expected)
    if not difference <= TOLERANCE[jax.default_backend()]:
        raise ArithmeticError(f"{case.kind} differs from the lattice by {difference:.2g} of the largest entry, in {name}")
    return {"difference": difference}


def _torch_loss_and_gradients(case: Case, config: Config, text: Text, parameters: Mapping, batch: Mapping) -> dict:
    import torch

    from benchmarks.peers import torch_lattice

    device = _torch_device()
    lattice = _module(case, config, parameters, device)
    fires = torch.tensor(masks(config, config.training.batch_size), device=device)
    loss = torch_lattice.objective(lattice, _tensors(batch, device), fires, torch_decoder(text, device), config.loss)
    loss.backward()
    return {"loss": loss.detach().cpu().numpy(), **lattice.gradients()}


def _torch_device():
    """The kind of device that JAX computes on."""
    import torch

    if jax.default_backend() != "gpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            f"JAX computes on a GPU, and PyTorch {torch.__version__} finds none",
            expected="a build of PyTorch for this GPU",
            fix="install one, or measure the peers on the CPU with JAX_PLATFORMS=cpu",
        )
    return torch.device("cuda")


def _tensors(values: Mapping, device) -> dict:
    import torch

    return {name: torch.tensor(np.asarray(value), device=device) for name, value in values.items()}


def _module(case: Case, config: Config, parameters: Mapping[str, np.ndarray], device):
    """The peer of the case, with as many threads as the process has cores, and on a GPU with TF32 products, as JAX's are."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else "highest")
    if case.kind == "cell modules":
        from benchmarks.peers.per_cell_modules import CellModules

        return CellModules(parameters, config.lattice).to(device)
    from benchmarks.peers.torch_lattice import TorchLattice

    checkpoint = config.lattice.remat == "always"
    adjoint = case.kind == "torch adjoint"
    compiled = case.kind == "torch compiled"
    return TorchLattice(parameters, config.lattice, compiled, checkpoint=checkpoint, adjoint=adjoint).to(device)


def torch_decoder(text: Text, device) -> Callable:
    """The codec's decoder in PyTorch, frozen: dense layers with normalisation and gelu in between."""
    import torch.nn.functional as F

    layers: Mapping[str, Any] = text.codec.parameters["params"]["decoder"]
    tensors = {name: _tensors(layer, device) for name, layer in layers.items()}
    count = sum(name.startswith("Dense_") for name in tensors)

    def decode(codes):
        values = codes * text.codec.scale
        for number in range(count):
            dense = tensors[f"Dense_{number}"]
            values = values @ dense["kernel"] + dense["bias"]
            if number < count - 1:
                norm = tensors[f"LayerNorm_{number}"]
                values = F.layer_norm(values, values.shape[-1:], norm["scale"], norm["bias"], eps=_NORMALISATION_EPSILON)
                values = F.gelu(values, approximate="tanh")
        return values

    return decode


def _torch_step(case: Case, text: Text) -> Callable[[int], float]:
    """Trains the peer for the given number of lattice steps; returns the seconds."""
    import torch

    from benchmarks.peers import torch_lattice

    config, device = case.config, _torch_device()
    lattice = _module(case, config, start_parameters(config), device)
    optimizer = torch_lattice.make_optimizer(lattice, config.optimizer)
    tensors = _tensors(workload.make_batch(text, case.batch, config.seed), device)
    decode = torch_decoder(text, device)
    fires = torch.tensor(masks(config, case.batch), device=device)

    def train(steps: int) -> float:
        start = time.perf_counter()
        float(torch_lattice.training_step(lattice, optimizer, tensors, fires[:steps], decode, config))
        return time.perf_counter() - start

    return train


def _counted(case: Case) -> int:
    return cube.operations(case.config.lattice, case.batch, training=True)


def torch_training(case: Case, text: Text) -> Workload:
    """The vectorised PyTorch lattice, eager or compiled; it rematerialises only where `lattice.remat` is 'always'."""
    train, steps = _torch_step(case, text), case.config.lattice.steps
    first = train(steps)
    second = train(steps)
    return Workload(lambda: train(steps), first - second, {"counted_operations": _counted(case)})


def cell_modules(case: Case, text: Text) -> Workload:
    """One module a cell, in a Python loop: seconds of all steps, from those of one and of two lattice steps."""
    train, steps = _torch_step(case, text), case.config.lattice.steps
    train(1)

    def measure() -> float:
        one, two = train(1), train(2)
        return one + (steps - 1) * (two - one)

    note = "measured at 1 and 2 lattice steps, and continued along their line"
    return Workload(measure, 0.0, {"counted_operations": _counted(case), "note": note, "once": True})


def cax(case: Case, text: Text) -> Workload:
    """CAX's automaton of our cell's size; another rule, trained on the surface reconstruction alone."""
    from benchmarks.peers import cax_lattice

    config = case.config
    automaton = cax_lattice.Automaton(config.lattice, seed=config.seed)
    optimizer = cax_lattice.make_optimizer(automaton, config.optimizer)
    batch = workload.make_batch(text, case.batch, config.seed)
    question, target = jnp.asarray(batch["question"]), jnp.asarray(batch["target"])

    def measure() -> float:
        return workload.seconds_of(
            lambda: cax_lattice.training_step(automaton, optimizer, question, target, config=config.lattice)
        )

    first = measure()
    second = measure()
    figures = {"parameters": cax_lattice.parameters(automaton), "note": "another rule of the same size", "once": True}
    return Workload(measure, first - second, figures)
