"""Search over any settings with Optuna: chosen on the validation pairs, judged on the held-out pairs once, at the end.

Contract: every trial is one of `trial.py`, in which the held-out embeddings are not numbers, so the search can't use them. The
trial that does best on the validation pairs is judged when all have ended, and from then on no trial is added: it would be
chosen by someone who knows. A trial is worth the figure at the look that chose its parameters. It is reported at every look, so
a pruner can end a trial that falls behind. The n-th trial's suggestions depend on the seed, n and what ended before, and all of
it lies in `<workdir>/sweep.db` (SQLite), so a resumed sweep goes on as if it had not been cut off: a trial that was running is
tried again from its start. What a trial's own settings make impossible, or let diverge, is a result of the search; what is
wrong with files, teacher or machine ends the sweep, which goes on with that trial when it is resumed. Only the best trial keeps
its parameters; each that recorded anything has its `report.html`, and `sweep.json` and `sweep.html` tell of all.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lattice_jax import run, trial
from lattice_jax.commandline import make_workdir, read_config_record, use_devices
from lattice_jax.config import Config
from lattice_jax.config.overrides import with_settings
from lattice_jax.config.search import Choice, Dimension, Range
from lattice_jax.errors import InputError, SettingsError
from lattice_jax.evaluation.sweep_page import draw
from lattice_jax.material import record_corpus
from lattice_jax.records import read_record, require_file, write_record
from lattice_jax.training.alerts import NonFinite
from lattice_jax.training.monitor import METRICS, read_metrics

if TYPE_CHECKING:
    import optuna

Figure = Literal["similarity", "mrr", "mean"]
Pruner = Literal["median", "hyperband", "none"]
DATABASE, RECORD, FIGURES, PAGE = "sweep.db", "search.json", "sweep.json", "sweep.html"
_STARTUP_TRIALS, _WARMUP_LOOKS = 4, 2
"""Trials that end before any is pruned, and looks that every trial is given."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched, by which figure, and how."""

    dimensions: tuple[Dimension, ...]
    figure: Figure = "similarity"
    """Validation similarity, validation MRR, or their mean."""
    pruner: Pruner = "median"

    def __post_init__(self):
        names = [dimension.name for dimension in self.dimensions]
        if not names or len(set(names)) != len(names):
            raise InputError(
                f"a search over {names or 'nothing'}",
                expected="one or more settings, each once",
                fix="for example --search 'optimizer.learning_rate=log(1e-4,1e-2)'",
            )

    def value(self, figures: Mapping[str, float]) -> float:
        """What the search maximises, from the figures of a look."""
        similarity, mrr = figures["validation_similarity"], figures["validation_mrr"]
        return {"similarity": similarity, "mrr": mrr, "mean": (similarity + mrr) / 2}[self.figure]


class _Looks:
    """Told the figures of every look of a trial; hands them to Optuna, which may end it."""

    def __init__(self, asked: "optuna.Trial", search: Search, config: Config):
        self._asked, self._search, self._config = asked, search, config
        self._count, self._best, self.value = 0, float("-inf"), float("-inf")

    def __call__(self, figures: Mapping[str, float]) -> None:
        import optuna

        training, value = self._config.training, self._search.value(figures)
        selected = figures[f"{training.select_by}_similarity"]
        if selected > self._best:  # the parameters of this look are kept, so the trial is worth what they are
            self._best, self.value = selected, value
        self._asked.report(value, min(self._count * training.evaluate_every, training.steps))
        self._count += 1
        if self._asked.should_prune():
            raise optuna.TrialPruned


def search(
    config: Config, wanted: Search, workdir: Path, *, trials: int, judged: bool, resume: bool, console: Console
) -> dict[str, Any]:
    """Try settings until `trials` have ended, then judge the best; returns the figures of `sweep.json`."""
    if trials < 1:
        raise InputError(f"--trials is {trials}", expected="1 or more", fix="give a larger one")
    optuna = _optuna()
    _record(config, wanted, workdir, resume=resume)
    study = _study(workdir / DATABASE, optuna, resume=resume)
    _give_up_what_was_cut_off(study, workdir)
    shared = trial.Shared(workdir / "adapters", console)
    while (ended := _ended(study)) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=config.seed + ended, n_startup_trials=_STARTUP_TRIALS)
        study.pruner = _pruner(wanted.pruner, config, optuna)
        _try(study, config, wanted, workdir, shared, console)
        _keep_the_best(study, workdir)
        write_record(workdir / FIGURES, _figures(study, config, wanted, None))
    if not study.best_trials:
        raise InputError(
            f"none of {trials} trials came to its end", expected="one at least", fix=f"read the reasons in {workdir / FIGURES}"
        )
    verdict = _judge(study.best_trial, workdir, console) if judged else None
    found = _figures(study, config, wanted, verdict)
    write_record(workdir / FIGURES, found)
    draw(study, found, workdir / PAGE)
    console.print(render(found))
    console.print(f"\n{workdir / PAGE}", highlight=False, markup=False)
    return found


def _study(path: Path, optuna: Any, *, resume: bool) -> "optuna.Study":
    from sqlalchemy.exc import SQLAlchemyError  # comes with Optuna

    try:
        return optuna.create_study(storage=f"sqlite:///{path}", study_name="sweep", direction="maximize", load_if_exists=resume)
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise InputError(
            f"{path} can't be read: {str(error).splitlines()[0]}", expected="the study of this sweep", fix="restore it"
        ) from error


def _optuna():
    try:
        import optuna
        import plotly  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} isn't installed", expected="optuna and plotly for a search", fix="pip install -e '.[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _pruner(kind: Pruner, config: Config, optuna: Any) -> Any:
    every, steps = config.training.evaluate_every, config.training.steps
    if kind == "median":
        # Steps are counted from 0, so this many looks are never pruned.
        return optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=_WARMUP_LOOKS * every)
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=_WARMUP_LOOKS * every, max_resource=max(steps, _WARMUP_LOOKS * every)
        )
    return optuna.pruners.NopPruner()


def _record(config: Config, wanted: Search, workdir: Path, *, resume: bool) -> None:
    path = workdir / RECORD
    asked = json.loads(json.dumps({"config": config.as_dict(), "search": dataclasses.asdict(wanted)}))
    if not resume:
        if path.exists() or (workdir / DATABASE).exists():
            raise InputError(
                f"{workdir} already holds a sweep", expected="a new folder", fix="give --resume or another --workdir"
            )
        write_record(make_workdir(workdir) / RECORD, asked)
        return
    require_file(path, f"{workdir} holds no sweep", expected=f"a folder with {RECORD}", fix="start it without --resume")
    if read_record(path, {"config": dict, "search": dict}, expected="what the sweep searches") != asked:
        raise InputError(
            f"configuration or search are not those of {path}",
            expected="the same ones: trials of different searches don't compare",
            fix="resume with the same arguments, or start anew in another --workdir",
        )
    figures = workdir / FIGURES
    if figures.is_file() and read_record(figures, {"verdict": object}, expected="the figures of the sweep")["verdict"]:
        raise InputError(
            f"{workdir} was judged on the held-out pairs",
            expected="a sweep without a verdict: trials added now would be chosen knowing it",
            fix="start anew in another --workdir, with --no-judge until all trials are done",
        )


def _states() -> Any:
    import optuna

    return optuna.trial.TrialState


def _ended(study: Any) -> int:
    """Trials that count. One that was cut off has failed without a reason; its successor gets the same suggestions."""
    ended = study.get_trials(deepcopy=False, states=[_states().COMPLETE, _states().PRUNED, _states().FAIL])
    return sum(one.state is not _states().FAIL or "reason" in one.user_attrs for one in ended)


def _give_up_what_was_cut_off(study: Any, workdir: Path) -> None:
    for left in study.get_trials(states=[_states().RUNNING]):
        study.tell(left.number, state=_states().FAIL)
        trial.record_end(_folder(workdir, left), "cut off and given up")


def _folder(workdir: Path, one: Any) -> Path:
    return workdir / f"trial-{one.number:04d}"


def _try(study: Any, config: Config, wanted: Search, workdir: Path, shared: trial.Shared, console: Console) -> None:
    """One trial, from suggestions to what it was worth; what isn't due to them is raised, and the trial to be made again."""
    import optuna

    asked = study.ask()
    changes = {dimension.name: _suggest(asked, dimension) for dimension in wanted.dimensions}
    folder = _folder(workdir, asked)
    shutil.rmtree(folder, ignore_errors=True)
    suggested = ", ".join(f"{name} = {_told(value)}" for name, value in changes.items())
    console.rule(escape(f"trial {asked.number}: {suggested}"), align="left")
    try:
        changed = use_devices(with_settings(config, changes))
        _require_texts(changed, wanted, workdir, shared)
        looks = _Looks(asked, wanted, changed)
        trained = trial.train(changed, folder, shared, resume=False, on_look=looks)
    except optuna.TrialPruned:
        study.tell(asked, state=_states().PRUNED)
        trial.record_end(folder, "pruned")
        console.print("[dim]pruned: behind the others[/]")
    except (SettingsError, NonFinite) as error:
        diverged = isinstance(error, NonFinite)
        reason = error.found if diverged else f"{error.found}; expected: {error.expected}"
        asked.set_user_attr("reason", reason)
        study.tell(asked, state=_states().FAIL)
        trial.record_end(folder, f"given up: {reason}")
        console.print(f"[yellow]{'diverged' if diverged else 'not possible'}[/]: {escape(reason)}")
    else:
        asked.set_user_attr("steps", trained.result.step)
        asked.set_user_attr("best_step", trained.result.best.step)
        study.tell(asked, looks.value)
        console.print(f"validation {wanted.figure} [bold]{looks.value:.4f}[/]; best so far {study.best_value:.4f}")
    finally:
        _leave_report(folder, console)


def _leave_report(folder: Path, console: Console) -> None:
    """The report of a trial that recorded anything, however it has ended."""
    rows = read_metrics(folder / METRICS) if (folder / METRICS).is_file() else []
    if rows:
        run.leave_report(folder, rows[-1]["step"], console)


def _require_texts(config: Config, wanted: Search, workdir: Path, shared: trial.Shared) -> None:
    """Gather what a trial works on, the same for all trials unless the search is over corpus or teacher."""
    rooms = {dimension.name.partition(".")[0] for dimension in wanted.dimensions}
    try:
        corpus = shared.material(config).corpus
    except InputError as error:
        if rooms & {"corpus", "teacher"}:
            raise SettingsError(error.found, expected=error.expected, fix=error.fix) from error
        raise
    if "corpus" not in rooms:
        record_corpus(corpus, workdir, resume=True)  # a sweep goes on for days, and trials on other texts don't compare


def _suggest(asked: Any, dimension: Dimension) -> object:
    if isinstance(dimension, Choice):
        return asked.suggest_categorical(dimension.name, list(dimension.values))
    return _range(asked, dimension)


def _range(asked: Any, dimension: Range) -> float | int:
    if dimension.whole:
        return asked.suggest_int(
            dimension.name, int(dimension.low), int(dimension.high), step=int(dimension.step or 1), log=dimension.logarithmic
        )
    return asked.suggest_float(dimension.name, dimension.low, dimension.high, step=dimension.step, log=dimension.logarithmic)


def _keep_the_best(study: Any, workdir: Path) -> None:
    """Delete the parameters of all trials but the best; what they were and how they went stays."""
    best = study.best_trial.number if study.best_trials else None
    for one in study.get_trials(deepcopy=False):
        if one.number != best:
            shutil.rmtree(_folder(workdir, one) / "checkpoints", ignore_errors=True)
            shutil.rmtree(_folder(workdir, one) / "adapter", ignore_errors=True)


def _judge(best: Any, workdir: Path, console: Console) -> dict[str, Any]:
    """The only look at the held-out pairs."""
    folder = _folder(workdir, best)
    console.rule(f"trial {best.number} is the best on the validation pairs; now it is judged", align="left")
    return run.train(read_config_record(folder), folder, resume=True, console=console)


def _figures(study: Any, config: Config, wanted: Search, verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    trials = [
        {
            "number": one.number,
            "folder": _folder(Path(), one).name,
            "state": one.state.name.lower(),
            "value": one.value if one.state is _states().COMPLETE else None,
            "last_value": one.intermediate_values[max(one.intermediate_values)] if one.intermediate_values else None,
            "settings": dict(one.params),
            "looks": {str(step): value for step, value in sorted(one.intermediate_values.items())},
            "seconds": one.duration.total_seconds() if one.duration else None,
            **one.user_attrs,
        }
        for one in study.get_trials(deepcopy=False)
    ]
    judged = None
    if verdict is not None:
        judged = {name: verdict[name] for name in ("held_out", "baselines", "verdict")}
    best = study.best_trial.number if study.best_trials else None
    return {
        "figure": f"validation {wanted.figure}",
        "search": [dataclasses.asdict(dimension) for dimension in wanted.dimensions],
        "seed": config.seed,
        "best": best,
        "folder": None if best is None else f"trial-{best:04d}",
        "verdict": judged,
        "trials": trials,
    }


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def ranked(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that came to their end by value, then the pruned ones by theirs, then the others."""
    order = {"complete": 0, "pruned": 1}
    return sorted(trials, key=lambda one: (order.get(one["state"], 2), -(one["value"] or one["last_value"] or 0.0)))


def render(found: Mapping[str, Any]) -> Table:
    """Every trial, best first."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    names = [dimension["name"] for dimension in found["search"]]
    for heading in ("trial", "state", found["figure"], *names, "seconds"):
        table.add_column(heading, justify="left" if heading == "state" else "right")
    for one in ranked(found["trials"]):
        value = one["value"] if one["value"] is not None else one["last_value"]
        table.add_row(
            str(one["number"]),
            one["state"],
            "" if value is None else f"{value:.4f}",
            *(escape(_told(one["settings"].get(name, ""))) for name in names),
            "" if one["seconds"] is None else f"{one['seconds']:.0f}",
            style="bold green" if one["number"] == found["best"] else None if one["state"] == "complete" else "dim",
        )
    if found["verdict"]:
        table.caption, table.caption_justify = f"Trial {found['best']}: {found['verdict']['verdict']}", "left"
    return table
