"""The cube as it is set against something else, one at a time: a peer, or one setting changed.

Contract: each row was measured in turns with the default, and holds `ratio`, its samples/s over the default's in those turns.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping

from lattice_jax.config import Config, LossConfig
from lattice_jax.errors import InputError

from . import machine
from .cases import Case, with_batch, with_lattice, with_update
from .timing import Spread, Tell, Worker, measure, row

_CAX_BATCH_SHARE = 8
_DEFERRED_BATCHES = (8, 16, 32, 64)
_KEPT_HEAP = ("glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold", "glibc.malloc.arena_max")


def against(name: str, default: Case, others: Mapping[str, Case], *, turns: Mapping[str, int], tell: Tell) -> dict[str, dict]:
    """The default's row under `name`, and those of all others, each with its ratio to the default in the same turns."""
    found: dict[str, dict] = {}
    tell(f"building {name}")
    with Worker(name, default) as base:
        everything: list[float] = []
        for other, case in others.items():
            base.seconds = []
            (measured,) = measure({other: case}, turns=turns[other], tell=tell, beside=[base]).values()
            everything += base.seconds
            rate = default.batch / Spread.of(base.seconds).median
            found[other] = measured | {"default_samples_per_second": rate, "ratio": measured["samples_per_second"] / rate}
        base.seconds = everything
        return {name: row(base) | {"ratio": 1.0}, **found}


def require_torch() -> None:
    """Raises InputError where the PyTorch peers can't be measured."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            "torch isn't installed",
            expected="the peers' requirements",
            fix="pip install -r benchmarks/requirements.txt, or leave the peers out: --what main",
        )


def peers(reference: Config, *, turns: int, tell: Tell) -> dict:
    """The same mathematics by other means, checked to be equal; and CAX's automaton for one rule, where it is installed."""
    require_torch()
    one_device, devices = with_lattice(reference, engine="scan", devices=1), machine.most_devices()
    scans = {"lax.scan, 1 device": Case("training", one_device, check=reference)}
    if devices > 1:
        everywhere = with_lattice(reference, engine="scan")
        scans[f"lax.scan, {devices} devices"] = Case("training", everywhere, check=reference)
    others = scans | {
        "PyTorch, eager": Case("torch eager", reference, check=reference),
        "PyTorch, eager, adjoint by hand": Case("torch adjoint", reference, check=reference),
        "PyTorch, compiled": Case("torch compiled", reference, check=reference),
        "PyTorch, a module a cell": Case("cell modules", reference, check=reference),
    }
    counts = dict.fromkeys(others, max(turns, 1)) | {"PyTorch, a module a cell": 1}
    found = {"own weights": against("this lattice", Case("training", reference), others, turns=counts, tell=tell)}
    if importlib.util.find_spec("cax") is None:
        tell("CAX isn't installed (benchmarks/requirements.txt): left out")
        return found
    shared = one_rule(reference)
    cax = {"CAX": Case("cax", shared)}
    found["one rule"] = against("this lattice", Case("training", shared), cax, turns={"CAX": min(turns, 2)}, tell=tell)
    return found


def one_rule(reference: Config) -> Config:
    """One rule for all cells, a smaller batch, and the loss that CAX's automaton is trained on: the surface alone."""
    shared = with_batch(with_lattice(reference, sharing="lattice"), max(1, reference.training.batch_size // _CAX_BATCH_SHARE))
    return dataclasses.replace(shared, loss=LossConfig(1.0, 0.0, 0.0))


def settings(reference: Config) -> dict[str, Case]:
    """Every setting that speed depends on, switched alone, by what it is switched to; first the default, for the noise."""
    update, batch = reference.lattice.update, reference.training.batch_size
    mask = "sample" if update.mask == "batch" else "batch"

    def trained(config: Config) -> Case:
        return Case("training", config)

    found = {
        "default, again": trained(reference),
        "lattice.engine scan": trained(with_lattice(reference, engine="scan")),
        f"lattice.update.mask {mask}": trained(with_update(reference, mask=mask)),
        f"lattice.update.quiescent {not update.quiescent}": trained(with_update(reference, quiescent=not update.quiescent)),
        "lattice.remat always": trained(with_lattice(reference, remat="always")),
        "lattice.remat never": trained(with_lattice(reference, remat="never")),
        "lattice.weight_gradients deferred": trained(with_lattice(reference, weight_gradients="deferred")),
        "lattice.weight_gradients immediate": trained(with_lattice(reference, weight_gradients="immediate")),
        "lattice.devices 1": trained(with_lattice(reference, devices=1)),
        "optimizer.fused False": trained(
            dataclasses.replace(reference, optimizer=dataclasses.replace(reference.optimizer, fused=False))
        ),
    }
    for size in sorted({batch // 2, batch // 4} - {0}, reverse=True):
        divided = dataclasses.replace(reference.training, micro_batch=size)
        found[f"training.micro_batch {size}"] = trained(dataclasses.replace(reference, training=divided))
    return found | {
        "without huge pages": Case("training", reference, without_tunables=("glibc.malloc.hugetlb",)),
        "without a heap that is kept": Case("training", reference, without_tunables=_KEPT_HEAP),
        "without donation": Case("training", reference, donate=False),
    }


def deferral(reference: Config, *, turns: int, tell: Tell) -> dict:
    """Weight gradients at every firing against once a cell, over batch sizes: what `lattice.weight_gradients` chooses by."""
    found: dict[str, dict] = {}
    for size in _DEFERRED_BATCHES:
        deferred, immediate = (
            Case("training", with_batch(with_lattice(reference, weight_gradients=when), size))
            for when in ("deferred", "immediate")
        )
        other = f"immediate, {size}"
        found |= against(f"deferred, {size}", deferred, {other: immediate}, turns={other: turns}, tell=tell)
    return found


def ablation(reference: Config, *, turns: int, tell: Tell) -> dict:
    """What every setting alone gains in training; and the light cone of what is read, in a forward pass."""
    trained = settings(reference)
    whole = {"read the whole cube": Case("forward", reference, read="cube")}
    counts = dict.fromkeys([*trained, *whole], turns)
    return {
        "training": against("default", Case("training", reference), trained, turns=counts, tell=tell),
        "forward": against("default", Case("forward", reference), whole, turns=counts, tell=tell),
    }
