"""The command line: arguments in, one clear message out when they can't be used.

Contract: a configuration file is Python with one `CONFIG`; every field is overridden by its dotted name. `InputError` becomes a
message on standard error and exit code 2, without a traceback; Ctrl-C exits with 130.
"""

import contextlib
import dataclasses
import re
import runpy
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
from rich.console import Console

from lattice_jax.config import Config
from lattice_jax.config.plan import Plan
from lattice_jax.errors import InputError, SettingsError
from lattice_jax.records import flat, make_folder, read_record, require_file, write_record

Arguments = TypeVar("Arguments")
Value = TypeVar("Value")

CONFIG_RECORD, TRIAL_RECORD = "config.json", "trial.json"
_ROOMS = ("corpus", "teacher", "adapter", "lattice", "loss", "optimizer", "training", "evaluation")
_SETTINGS = {"seed": int, **dict.fromkeys(_ROOMS, dict)}
"""What every version has recorded of a run; a setting that came later has its start value where a record lacks it."""
_MAY_CHANGE_ON_RESUME = ("evaluation.", "teacher.batch_size", "teacher.cache_directory", "training.patience")
OF_THE_MACHINE = ("lattice.engine", "lattice.devices")
"""Settings that `use_devices` fills in; they change nothing that a run that has ended reports but its speed."""
_BEGUN = ("metrics.jsonl", "adapter", "checkpoints", "summary.json")
"""What a run's folder holds once something has been learned."""
_FOLDER, _ANOTHER = "one for the run, there or not yet", "give another --workdir"
_BACKEND_OF = {"native": "cpu", "fused": "gpu"}


@contextlib.contextmanager
def clear_errors(renamed: Mapping[str, str] | None = None) -> Iterator[None]:
    """Bad input ends the program with one message and code 2; Ctrl-C with 130.

    `renamed`: setting of a run -> the argument that this program has instead, which messages then name.
    """
    try:
        yield
    except InputError as error:
        print(f"error: {_rename(str(error), renamed or {})}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def terminal() -> Console:
    """The console that commands write to; a text's ':key:' stays as it is written instead of becoming a picture."""
    return Console(emoji=False)


def typed_questions(console: Console) -> Iterator[str]:
    """Questions from standard input, one a line: at a terminal up to an empty line, else to the end, each told again.

    `InputError` where there is none, and where they are not UTF-8.
    """
    if sys.stdin.isatty():
        console.print("Ask a question, or press Enter alone to end", style="dim")
        with contextlib.suppress(EOFError):
            while (question := console.input("[bold]? [/]")).strip():
                yield question
        return
    question = None
    try:
        for question in filter(None, map(str.strip, sys.stdin)):
            console.print(f"? {question}", style="bold", highlight=False, markup=False)
            yield question
    except UnicodeDecodeError as error:
        raise InputError(
            f"the questions are not UTF-8: {error.reason}", expected="text encoded as UTF-8", fix="convert them, as iconv does"
        ) from None
    if question is None:
        raise InputError(
            "there is no question", expected="one a line on standard input", fix="give one, or one in quotation marks"
        )


def _rename(message: str, renamed: Mapping[str, str]) -> str:
    for setting, argument in renamed.items():
        # Not as a part of a longer name, nor within quotation marks or a path, where it is a person's own.
        message = re.sub(rf"(?<![\w./'-])(?:--config\.)?{re.escape(setting)}(?!\.?\w)", argument, message)
    return message


def load_config(path: Path) -> Config:
    """The `CONFIG` of a configuration file."""
    return load_python(path, "CONFIG", Config, "configuration", "--config")


def load_plan(path: Path) -> tuple[Plan, Config]:
    """The `PLAN` of a plan file, and the configuration that it names beside itself."""
    plan = load_python(path, "PLAN", Plan, "plan", "--plan")
    return plan, load_config(path.parent / plan.config)


def load_python(path: Path, variable: str, kind: type[Value], called: str, option: str) -> Value:
    """The value of a type that a Python file sets under a name."""
    known = ", ".join(sorted(str(file) for file in Path("configs").glob("*.py"))) or "none in ./configs"
    require_file(path, f"there is no {called} {path}", expected=f"a Python file ({known})", fix=f"give {option} FILE")
    try:
        value = runpy.run_path(str(path)).get(variable)
    except InputError:
        raise  # it tells more than that the file can't be read
    except Exception as error:  # whatever Python can raise, for the file is a person's own program
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise InputError(
            f"{path}{f', line {lines[-1]},' if lines else ''} can't be read: {type(error).__name__}: {error}",
            expected=f"Python that sets {variable} = {kind.__name__}(...) with the fields of lattice_jax/config",
            fix=f"correct {path}",
        ) from error
    if not isinstance(value, kind):
        raise InputError(
            f"{path} sets {variable} to {type(value).__name__}",
            expected=f"a {kind.__module__}.{kind.__name__}",
            fix=f"correct {path}",
        )
    return value


def parse_with_config(arguments: type[Arguments], argv: Sequence[str], description: str) -> tuple[Arguments, str]:
    """`arguments`, a dataclass whose only field without default is `config`, and the configuration file's name.

    `--config FILE` gives the start values, `--config.SETTING VALUE` overrides one.
    """
    path, rest = take_config_path(argv)
    if path is None and not {"-h", "--help"} & set(rest):
        raise InputError("no configuration was named", expected="--config FILE", fix="try --config configs/phase3.py")
    start = arguments(config=load_config(path) if path else Config())  # pyright: ignore[reportCallIssue]
    return tyro.cli(arguments, args=rest, default=start, description=description), path.stem if path else ""


def take_config_path(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The value of `--config FILE`, and all other arguments."""
    return take_path(argv, "--config")


def take_path(argv: Sequence[str], option: str) -> tuple[Path | None, list[str]]:
    """The value of `OPTION FILE` or `OPTION=FILE`, and all other arguments."""
    rest = list(argv)
    for index, argument in enumerate(rest):
        if argument == option and index + 1 < len(rest):
            return Path(rest[index + 1]), rest[:index] + rest[index + 2 :]
        if argument.startswith(f"{option}="):
            return Path(argument.removeprefix(f"{option}=")), rest[:index] + rest[index + 1 :]
    return None, rest


def require_different(workdirs: Sequence[Path]) -> None:
    """Refuses a run that is named twice: it would stand beside itself as if it were another one."""
    folders = [workdir.resolve() for workdir in workdirs]
    for workdir, folder in zip(workdirs, folders, strict=True):
        if folders.count(folder) > 1:
            raise InputError(f"{workdir} is named twice", expected="every run once", fix="leave one of them out")


def use_devices(config: Config, *, recorded: bool = False) -> Config:
    """Give JAX one virtual device a CPU core, as `lattice.devices` says, and return the configuration with the number and the
    engine that it gets.

    Both are recorded because parameters lie padded for them on disk. With `recorded`, of a run that has ended: where an engine
    of another kind of machine trained it, which pads nothing, another one is taken. To be called before JAX computes anything;
    `SettingsError` where it has begun with fewer.
    """
    import jax

    from lattice_jax.lattice.devices import cell_mesh, engine
    from lattice_jax.lattice.native.engine import library, threads

    # On a CPU, XLA's own threads give back a step's temporaries only after its results are there, and a step that is asked for
    # at once takes new memory: 6.0 GB at most instead of 4.9 for the main job. In the thread that asks, they are given back
    # before the step returns.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    wanted = threads(config.lattice)
    if jax.config.jax_num_cpu_devices != wanted:  # pyright: ignore[reportAttributeAccessIssue]
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError as error:
            begun = len(jax.devices("cpu"))
            if begun < wanted:
                raise SettingsError(
                    f"lattice.devices is {wanted}, and this program has begun with {begun}",
                    expected="in stages and trials at most as many as in the configuration that they change",
                    fix="raise lattice.devices in the configuration",
                ) from error
    lattice, backend = config.lattice, jax.default_backend()
    if recorded and _BACKEND_OF.get(lattice.engine, backend) != backend:
        lattice = dataclasses.replace(lattice, engine="automatic", devices=1)
        wanted = 1
    chosen, mesh = engine(lattice), cell_mesh(lattice)
    if chosen == "native":
        library()  # before minutes of other work, because it may be refused
    count = wanted if chosen == "native" else 1 if mesh is None else mesh.size
    return dataclasses.replace(config, lattice=dataclasses.replace(lattice, engine=chosen, devices=count))


def new_workdir(wanted: Path | None, name: str) -> Path:
    """The folder that was asked for, or the first free one of runs/NAME, runs/NAME-2, ..."""
    folder = wanted or _free_folder(name)
    for path in (folder, *folder.parents):
        try:
            blocked = path.exists() and not path.is_dir()
        except OSError as error:  # a name that is too long, or a folder that must not be looked into
            raise InputError(f"{path} can't be used: {error.strerror}", expected=_FOLDER, fix=_ANOTHER) from error
        if blocked:
            raise InputError(f"{path} is no folder", expected=_FOLDER, fix=_ANOTHER)
    return folder


def make_workdir(folder: Path) -> Path:
    """The folder of a run, a plan or a sweep, made where there is none yet."""
    return make_folder(folder, expected="one that can be made and written to", fix=_ANOTHER)


def _free_folder(name: str) -> Path:
    number = 1
    while (free := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return free


def record_config(config: Config, workdir: Path, *, resume: bool) -> None:
    """Write `config.json` where nothing has been learned yet, or, to resume, refuse settings that differ from those there."""
    path = workdir / CONFIG_RECORD
    if not resume:
        make_workdir(workdir)
        # A first start that was refused for its texts, teacher or budget has left its settings alone, which may be corrected.
        if path.exists() and any((workdir / name).exists() for name in _BEGUN):
            raise InputError(
                f"{workdir} already holds a run", expected="a new folder", fix="give --resume, or another --workdir"
            )
        write_record(path, config.as_dict())
        return
    require_recorded(config, workdir)


def go_on(workdir: Path) -> None:
    """A trial that had ended, and is now trained further or judged, has not ended any more."""
    (workdir / TRIAL_RECORD).unlink(missing_ok=True)


def require_recorded(config: Config, workdir: Path, *, but: tuple[str, ...] = ()) -> None:
    """Refuse settings that differ from a run's, other than those that may change once it has begun and those in `but`."""
    saved, wanted = flat(read_config_record(workdir).as_dict()), flat(config.as_dict())
    may_change = (*_MAY_CHANGE_ON_RESUME, *but)
    different = [name for name in wanted if saved.get(name) != wanted[name] and not name.startswith(may_change)]
    if different:
        raise InputError(
            "these settings are not those of the run: " + ", ".join(f"{name} = {wanted[name]!r}" for name in different),
            expected=", ".join(f"{name} = {saved.get(name)!r}" for name in different) + f" ({workdir / CONFIG_RECORD})",
            fix="resume with the run's own settings, or start anew in another --workdir",
        )


def read_config_record(workdir: Path) -> Config:
    """The configuration of a run."""
    path = workdir / CONFIG_RECORD
    expected, fix = f"a folder with {CONFIG_RECORD}", "give the --workdir of a run"
    require_file(path, f"{workdir} holds no run", expected=expected, fix=fix)
    settings = read_record(path, _SETTINGS, expected="a run's settings")
    try:
        return _rebuild(Config, settings)
    except (TypeError, InputError) as error:
        told = error.found if isinstance(error, InputError) else error
        raise InputError(f"{path} can't be read: {told}", expected="a run's settings", fix="restore it") from error


def _rebuild(kind: type, values: dict):
    hints = typing.get_type_hints(kind).items()
    nested = {name: room for name, room in hints if isinstance(room, type) and dataclasses.is_dataclass(room)}
    return kind(
        **{
            name: _rebuild(nested[name], value) if name in nested and isinstance(value, dict) else value
            for name, value in values.items()
        }
    )
