"""What a run leaves on disk so that it can be resumed, and what it learned best: Orbax, wrapped in one room.

Contract: `<directory>/<step>` holds everything that the next step depends on (parameters, optimizer state, step, base key,
early stopping), so a resumed run continues bit for bit; `<directory>/best/<step>` holds the best parameters. A checkpoint
exists once its seal does: Orbax writes to a temporary folder and renames it, then `seal.json` records size and CRC-32 of
every file, and only then are older checkpoints deleted. A kill at any moment therefore leaves the previous checkpoint usable.
The seal is verified before Orbax reads anything, because Orbax loads a flipped byte without complaint and reports a truncated
file as a bare `Exception`.

Leaves are stored flat, under their dotted names ("params.gate.kernel"): names on disk that a person can read, and a
difference of architecture that can be told leaf by leaf. Compression is off: float32 parameters hardly shrink (806 MB to 746
MB), and on two cores saving took 3.4 s and 720 MB of memory with it, 0.7 s and no memory without.
"""

import json
import os
import shutil
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from lattice_jax.errors import InputError

SEAL, _ORBAX_METADATA = "seal.json", "_CHECKPOINT_METADATA"
_CHUNK_BYTES = 1 << 22
_DIFFERENCES_SHOWN = 4


class Best(NamedTuple):
    """What early stopping remembers."""

    step: int | None = None
    """Step of the best look; None before the first one."""
    value: float | None = None
    looks_since: int = 0
    """Looks without improvement since then."""

    def after_look(self, step: int, value: float) -> "Best":
        """The memory after a look at `step`; a tie is no improvement."""
        if self.value is None or value > self.value:
            return Best(step, value, 0)
        return self._replace(looks_since=self.looks_since + 1)

    def patience_spent(self, patience: int) -> bool:
        """Whether `patience` looks in a row brought nothing; 0 is endless patience."""
        return patience > 0 and self.looks_since >= patience


class Receipt(NamedTuple):
    """What a save or a restore cost."""

    path: Path
    size_bytes: int
    seconds: float


class Restored(NamedTuple):
    """All that `fit` needs to continue."""

    state: Any
    key: jax.Array
    best: Best
    receipt: Receipt


class Checkpoints:
    """The checkpoints of one run: the last one, and the best parameters."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory).absolute()

    @property
    def latest(self) -> int | None:
        """Step of the last complete checkpoint, if there is one."""
        return max(_sealed_steps(self.directory), default=None)

    def save(self, step: int, state: Any, *, key: jax.Array, best: Best) -> Receipt:
        """Saves `state` as the only checkpoint, with the base key and early stopping; returns what it cost."""
        path = self.directory / str(step)
        receipt = _write(path, {"state": state, "key": jax.random.key_data(key)}, {"best": best._asdict()})
        _keep_only(self.directory, {str(step)})
        _keep_only(self.directory / "best", {str(best.step)})
        return receipt

    def restore(self, template: Any) -> Restored:
        """The last checkpoint, in the structure, types and placement of `template` (arrays or `jax.ShapeDtypeStruct`).

        Raises `InputError` when there is none, when it is damaged, and when it holds another architecture.
        """
        path = self._latest_path()
        key_data = jax.ShapeDtypeStruct((2,), np.uint32)
        tree, metadata, receipt = _read(path, {"state": template, "key": key_data})
        # A host copy leaves the key uncommitted, so that it follows the state to whichever devices that lies on.
        key = jax.random.wrap_key_data(jnp.asarray(np.asarray(tree["key"])))
        return Restored(tree["state"], key, Best(**metadata["best"]), receipt)

    def save_best(self, params: Any, step: int) -> Receipt:
        """Saves `params` as the best; those that the last checkpoint calls the best stay until the next `save`."""
        path = self.directory / "best" / str(step)
        receipt = _write(path, params, {})
        named = None if self.latest is None else _named_best(self._latest_path())
        _keep_only(self.directory / "best", {str(step), str(named)})
        return receipt

    def restore_best(self, template: Any, step: int | None = None) -> Any:
        """The best parameters, placed as in `template`: of `step`, or of the look that the last checkpoint calls the best."""
        if step is None:
            latest = self._latest_path()
            _verify(latest)
            step = _named_best(latest)
        params, _, _ = _read(self.directory / "best" / str(step), template)
        return params

    def require_start(self, step: int) -> None:
        """Refuses a start at `step` that would overwrite the checkpoint of another run."""
        if self.latest not in (None, step):
            raise InputError(
                f"{self.directory} already holds the checkpoint of step {self.latest}",
                expected=f"no checkpoint in the folder of a run that starts at step {step}",
                fix="continue that run with --resume, or take another --workdir",
            )

    def _latest_path(self) -> Path:
        if self.latest is None:
            present = sorted(entry.name for entry in self.directory.glob("*")) if self.directory.is_dir() else []
            raise InputError(
                f"no complete checkpoint in {self.directory} (it holds {', '.join(present) or 'nothing'})",
                expected="a folder named by its step, with a seal.json",
                fix="give the --workdir of a run that has saved, or start without --resume in a new --workdir",
            )
        return self.directory / str(self.latest)


def abstract(tree: Any) -> Any:
    """Shapes, types and placement of `tree` without its memory: a template for `Checkpoints.restore`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def _context() -> ocp.Context:
    context = ocp.Context()
    context.array_options.saving.use_compression = False
    return context


def _flatten(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _write(path: Path, tree: Any, metadata: dict) -> Receipt:
    start = time.perf_counter()
    shutil.rmtree(path, ignore_errors=True)
    with _context():
        ocp.save(str(path), _flatten(tree), custom_metadata=metadata)
    seal = {name: [(path / name).stat().st_size, _checksum(path / name)] for name in _names(path)}
    temporary = path / f"{SEAL}.tmp"
    with temporary.open("w") as file:
        json.dump(seal, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path / SEAL)
    return Receipt(path, sum(size for size, _ in seal.values()), time.perf_counter() - start)


def _read(path: Path, template: Any) -> tuple[Any, dict, Receipt]:
    start = time.perf_counter()
    size = _verify(path)
    stored: Any = ocp.metadata(str(path))
    wanted = _flatten(template)
    _require_same_architecture(path, stored.metadata, wanted)
    with _context():
        leaves: Any = ocp.load(str(path), {name: _placed(leaf) for name, leaf in wanted.items()})
    tree = jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in wanted])
    return tree, stored.custom_metadata, Receipt(path, size, time.perf_counter() - start)


def _named_best(path: Path) -> int | None:
    metadata: Any = ocp.metadata(str(path)).custom_metadata
    return metadata["best"]["step"]


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _require_same_architecture(path: Path, stored: Any, wanted: dict[str, Any]) -> None:
    names = [*wanted, *(name for name in stored if name not in wanted)]
    different = [name for name in names if _describe(stored.get(name)) != _describe(wanted.get(name))]
    if not different:
        return
    shown = different[:_DIFFERENCES_SHOWN]
    rest = f" and {len(different) - len(shown)} more" if len(different) > len(shown) else ""
    raise InputError(
        f"{path} holds another architecture: " + ", ".join(f"{name} {_describe(stored.get(name))}" for name in shown) + rest,
        expected=", ".join(f"{name} {_describe(wanted.get(name))}" for name in shown) + rest,
        fix="set lattice, adapter and optimizer as in the run's config.json, or take a new --workdir",
    )


def _describe(leaf: Any) -> str:
    return "absent" if leaf is None else f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _names(path: Path) -> list[str]:
    """All files of a checkpoint but its seal."""
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and file.name != SEAL)


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _verify(path: Path) -> int:
    """Compares every file with the seal; returns the bytes they hold."""
    fix = f"restore {path} from a copy, or delete it and start the run without --resume"
    seal = _read_seal(path, fix)
    for name, (size, checksum) in seal.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{file} is missing", expected=f"a file of {size} bytes", fix=fix)
        if file.stat().st_size != size:
            raise InputError(f"{file} has {file.stat().st_size} bytes", expected=f"{size} bytes", fix=fix)
        if _checksum(file) != checksum:
            raise InputError(f"{file} was changed after it was saved", expected=f"CRC-32 {checksum:08x}", fix=fix)
    return sum(size for size, _ in seal.values())


def _read_seal(path: Path, fix: str) -> dict[str, tuple[int, int]]:
    """Size and CRC-32 by file; a seal that leaves out a file which Orbax may read proves nothing of it and is refused."""
    try:
        seal = json.loads((path / SEAL).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} has no readable {SEAL} ({error})", expected="a complete checkpoint", fix=fix) from error
    entries = seal.items() if isinstance(seal, dict) else ()
    whole = all(isinstance(entry, list) and [type(number) for number in entry] == [int, int] for _, entry in entries)
    if not entries or not whole:
        raise InputError(f"{path / SEAL} is damaged", expected="size and CRC-32 of every file of a checkpoint", fix=fix)
    unlisted = [name for name in (_ORBAX_METADATA, *_names(path)) if name not in seal]
    if unlisted:
        raise InputError(
            f"{path / SEAL} does not list {', '.join(unlisted[:_DIFFERENCES_SHOWN])}", expected="all that is saved", fix=fix
        )
    return seal


def _sealed_steps(directory: Path) -> list[int]:
    return [int(seal.parent.name) for seal in directory.glob(f"*/{SEAL}") if seal.parent.name.isdigit()]


def _keep_only(directory: Path, names: set[str]) -> None:
    """Deletes other steps, and what a kill in mid-save left behind ("50.orbax-checkpoint-tmp-…")."""
    for entry in directory.glob("*"):
        if entry.name.partition(".")[0].isdigit() and entry.name not in names:
            shutil.rmtree(entry)
