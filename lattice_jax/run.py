"""What a person starts: a run trained and judged, judged again, or asked.

Contract: each function works on a run's folder and tells a console what it does. The folder holds `config.json`,
`corpus.json`, `metrics.jsonl`, `alerts.jsonl`, `summary.json` (written whole or not at all), `checkpoints/`, `adapter/`, event
files, plots and `report.html`.
"""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lattice_jax import adaptation, edge_cases, endurance, experiment, observation
from lattice_jax.commandline import go_on, read_config_record, record_config, require_different, use_devices
from lattice_jax.config import Config
from lattice_jax.embedding import embedding_progress
from lattice_jax.errors import InputError
from lattice_jax.evaluation import plots
from lattice_jax.evaluation.report.record import REPORT
from lattice_jax.evaluation.similarity import nearest_answers
from lattice_jax.evaluation.verdict import render
from lattice_jax.lattice import cell, cube, devices
from lattice_jax.lattice.adapter import Codec
from lattice_jax.lattice.emergence.metrics import METRICS as METRICS_OF_EMERGENCE
from lattice_jax.material import SUMMARY, Material, gather, record_corpus, require_same_corpus
from lattice_jax.records import make_folder, read_record, require_file, require_writable, write_record
from lattice_jax.stacking import Base
from lattice_jax.teachers.cache import question_embedder
from lattice_jax.training.alerts import NonFinite
from lattice_jax.training.checkpoint import Checkpoints
from lattice_jax.training.loop import FitResult, Interrupted
from lattice_jax.training.monitor import METRICS, median_samples_per_second, peak_memory_bytes, read_metrics, reset_peak_memory

_SUMMARY_FIELDS = {"training_operations": int | float, "steps": int}
"""What is read of a summary when a run is judged again."""
_DEFINITIONS = {name: metric.definition for name, metric in METRICS_OF_EMERGENCE.items()}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "lattice-jax")


def describe(config: Config) -> Table:
    """The cube in figures: parameters by part, and whether and how the input reaches the output."""
    lattice = config.lattice
    table = Table(title="The cube", title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    grid = lattice.grid
    table.add_row("cells", f"{grid.depth} x {grid.height} x {grid.width} = {grid.cells:,}")
    for part, count in cell.component_counts(lattice.cell).items():
        table.add_row(f"  {part}", f"{count:,}")
    table.add_row("parameters a cell", f"{cell.parameters_per_cell(lattice.cell):,}")
    for part, count in cube.parameter_counts(lattice).items():
        table.add_row(f"parameters, {part}", f"{count:,}")
    table.add_row("steps (needed)", f"{lattice.steps} ({lattice.steps_needed()})")
    table.add_row("arrival probability", f"{lattice.arrival_probability(lattice.steps):.3f}")
    table.add_row("input cells seen by an output cell", f"{cube.coverage(lattice):.0%}")
    table.add_row("engine", devices.engine(lattice))
    return table


def train(
    config: Config,
    workdir: Path,
    *,
    resume: bool,
    console: Console,
    fit: experiment.FitBaselines = experiment.answer_baselines,
) -> dict:
    """Embed, train the adapter, train the cube, judge it beside the baselines of `fit`, and write the summary; returns it."""
    start = time.perf_counter()
    reset_peak_memory()
    seconds = {}
    config = use_devices(config)
    record_config(config, workdir, resume=resume)
    mesh = devices.cell_mesh(config.lattice)
    console.print(describe(config))
    with _timed(seconds, "embedding"):
        material = _gather(config, console)
    record_corpus(material.corpus, workdir, resume=resume)
    go_on(workdir)
    console.print("Training the adapter")
    with _timed(seconds, "adapter"), _reported_where_it_stops(workdir, "adapter", console):
        codec = adaptation.fit_adapter(config, material, workdir)
        adapter_figures = adaptation.adapter_figures(material, codec)
    console.print(
        "Adapter, held-out reconstruction: {adapter_reconstruction:.3f} (principal components of equal width: "
        "{pca_reconstruction:.3f})".format(**adapter_figures)
    )
    console.print("Training the cube")
    with _timed(seconds, "training"), _reported_where_it_stops(workdir, "cube", console):
        base = experiment.answer_base(config, material)
        result = experiment.fit_cube(config, material, codec, base, workdir, mesh)
    with _timed(seconds, "evaluation"), console.status("measuring the cube and the baselines"):
        operations = experiment.training_operations(config, result.step)
        judgement = experiment.judge_run(config, material, codec, base, result.params, mesh, operations, fit)
        endured = _endurance_figures(config, material, codec, base, result.params, mesh)
    emergence = {}
    if config.emergence.at_end:
        console.print("Observing the cube")
        with _timed(seconds, "observation"), console.status("measuring emergence and its null models"):
            emergence = _observe(config, material, codec, result.params, workdir)
    seconds["total"] = time.perf_counter() - start
    rows = read_metrics(workdir / METRICS)
    figures = _run_figures(config, material, result, operations, seconds)
    summary = {
        **_verdict_figures(judgement),
        **adapter_figures,
        **figures,
        **endured,
        **emergence,
        "samples_per_second": median_samples_per_second(rows),
    }
    write_record(workdir / SUMMARY, summary)
    _draw(summary, rows, workdir, console)
    _tell(judgement, summary, console)
    console.print(
        f"\n{seconds['total'] / 60:.1f} minutes, {summary['peak_memory_bytes'] / 1e9:.1f} GB at most. Results: {workdir}",
        markup=False,
    )
    console.print(f'Ask it: bin/ask --workdir {workdir} "What is overfitting?"', markup=False)
    return summary


def evaluate(workdir: Path, *, console: Console) -> dict:
    """Judge a trained run again with its best parameters; renews the verdict in its summary and returns the summary."""
    summary, rows = read_summary(workdir), _read_rows(workdir)  # before minutes of judging, because they may be refused
    config, material, codec, base, parameters, mesh = _load(workdir, console)
    judgement = experiment.judge_run(config, material, codec, base, parameters, mesh, summary["training_operations"])
    summary |= _verdict_figures(judgement) | _endurance_figures(config, material, codec, base, parameters, mesh)
    if config.emergence.at_end:
        summary |= _observe(config, material, codec, parameters, workdir)
    write_record(workdir / SUMMARY, summary)
    _draw(summary, rows, workdir, console)
    _tell(judgement, summary, console)
    return summary


def ask(workdir: Path, questions: Iterable[str], *, count: int, console: Console) -> None:
    """Tell for every question, of any wording, the known answers that lie nearest to what the cube says, with similarities.

    Run and teacher are loaded once; the first question is taken when the run is there.
    """
    config, material, codec, base, parameters, mesh = _load(workdir, console)
    embed = question_embedder(config.teacher)
    predict = experiment.make_predictor(config, codec, mesh, base=base, batch_size=1)
    for question in questions:
        embedded, cut = embed(question)
        if cut:
            console.print("The question is longer than the teacher reads; its end is left out")
        indices, similarities = nearest_answers(predict(parameters, embedded), material.answers, count)
        for index, similarity in zip(indices[0], similarities[0], strict=True):
            answer = material.corpus.pairs[index].answer
            console.print(f"[bold]{similarity:.3f}[/]  {escape(answer)}\n", highlight=False)


class Trained(NamedTuple):
    """A trained run as a function."""

    config: Config
    material: Material
    predict: Callable[[np.ndarray], np.ndarray]
    """Questions [n, d] to answers [n, d], both in the teacher's space."""


def load_trained(workdir: Path, *, console: Console) -> Trained:
    """The best parameters of a run, ready to be asked about any questions."""
    config, material, codec, base, parameters, mesh = _load(workdir, console)
    predict = experiment.make_predictor(config, codec, mesh, base=base)
    return Trained(config, material, lambda questions: predict(parameters, questions))


def report(folders: Sequence[Path], out: Path | None, *, png: Path | None, watch: int | None, console: Console) -> Path:
    """Writes the report of one run or the comparison of several, and returns its path.

    With `watch`, again every so many seconds as long as a run that has not ended records more; `png` takes the figures too.
    """
    if not folders:
        raise InputError("no run was named", expected="one folder of a run or several", fix="try bin/report runs/phase3")
    require_different(folders)
    if watch is not None and watch < 1:
        raise InputError(f"--interval is {watch}", expected="1 second or more", fix="give a larger one")
    page = _report_page()
    if out:
        require_writable(out, "--out")
    if png:
        make_folder(png, expected="a folder, new or not", fix="give another --png")
    path = out or (folders[0] / REPORT if len(folders) == 1 else folders[0].resolve().parent / page.COMPARISON)
    panels, ended = page.write_page(folders, path, refresh=watch, definitions=_DEFINITIONS)
    console.out(f"Report: {path}", highlight=False)
    while watch is not None and not ended:
        time.sleep(watch)
        panels, ended = page.write_page(folders, path, refresh=watch, definitions=_DEFINITIONS)
    for picture in page.export_png(panels, png) if png else []:
        console.out(f"Figure: {picture}", highlight=False)
    return path


def _report_page():
    """The room that needs the packages of the extra 'evaluation', which a run does without."""
    try:
        from lattice_jax.evaluation.report import page
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise InputError(
            f"{error.name} isn't installed",
            expected="jinja2 and matplotlib for the report",
            fix="pip install -e '.[evaluation]'",
        ) from error
    return page


def leave_report(workdir: Path, step: int, console: Console) -> None:
    """The report of as much of a run as there is, in its folder; where the packages for it are missing, a line that says so."""
    try:
        _write_report(_report_page(), workdir, step, console)
    except InputError as error:
        console.print(f"No report: {error}", style="dim", markup=False)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start


def _gather(config: Config, console: Console) -> Material:
    with embedding_progress(config.teacher.name, console) as on_progress:
        material = gather(config, on_progress)
    corpus = material.corpus
    console.print(
        f"Corpus: {len(corpus.split.train)} training, {len(corpus.split.validation)} validation and "
        f"{len(corpus.split.held_out)} held-out pairs, {len(corpus.sentences):,} unlabelled sentences; teacher: "
        f"{config.teacher.name}, {material.questions.shape[1]} numbers a text"
        + (f"; {material.cut:,} texts longer than it reads, their ends cut off" if material.cut else ""),
        markup=False,
    )
    for reason, count in corpus.left_out.items():
        console.print(f"Left out of {config.corpus.pairs}: {count:,} {reason}", markup=False)
    if corpus.sentences_removed:
        left_out = f"{corpus.sentences_removed:,} nearly the same as held-out or validation text"
        console.print(f"Left out of {config.corpus.sentences}: {left_out}", markup=False)
    return material


def _load(workdir: Path, console: Console):
    """All of a trained run: settings, texts, adapter, what answers are changes of, best parameters, devices."""
    config = use_devices(read_config_record(workdir), recorded=True)
    mesh = devices.cell_mesh(config.lattice)
    checkpoints = Checkpoints(workdir / "checkpoints")
    parameters = checkpoints.restore_best(experiment.parameter_template(config, mesh))
    material = _gather(config, console)
    require_same_corpus(material.corpus, workdir)
    codec, base = adaptation.load_adapter(config, material, workdir), experiment.answer_base(config, material)
    return config, material, codec, base, parameters, mesh


def _run_figures(config: Config, material: Material, result: FitResult, operations: float, seconds: dict[str, float]) -> dict:
    """What the run was and what it took; `seconds` are those since it was last started."""
    receipt, split = result.checkpoint, material.corpus.split
    return {
        "parameters": cube.parameter_counts(config.lattice)["total"],
        "parameters_per_cell": cell.parameters_per_cell(config.lattice.cell),
        "lattice_steps": config.lattice.steps,
        "coverage": cube.coverage(config.lattice),
        "steps": result.step,
        "best_step": result.best.step,
        "stopped_early": result.stopped_early,
        "training_operations": operations,
        "seconds": seconds["total"],
        "seconds_by_phase": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "checkpoint": receipt and {"size_bytes": receipt.size_bytes, "seconds": receipt.seconds},
        "engine": config.lattice.engine,
        "devices": f"{config.lattice.devices} x {jax.devices()[0].device_kind}",
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "seed": config.seed,
        "data_hash": material.corpus.hash,
        "pairs": {side: len(getattr(split, side)) for side in ("train", "validation", "held_out")},
        "pairs_left_out": dict(material.corpus.left_out),
        "sentences": len(material.corpus.sentences),
        "sentences_left_out": material.corpus.sentences_removed,
    }


def _verdict_figures(judgement: experiment.Judgement) -> dict:
    figures = judgement.verdict.as_dict()
    for name, choices in judgement.baseline_choices.items():
        figures["baselines"][name]["choices"] = choices
        figures["baselines"][name]["validation_similarity"] = judgement.validation_baselines[name]
    asked_otherwise = {"edge_cases": judgement.edge_cases} if judgement.edge_cases else {}
    return figures | {"evaluation_modes": judgement.evaluation_modes, "samples": judgement.samples, **asked_otherwise}


def _endurance_figures(
    config: Config, material: Material, codec: Codec, base: Base, parameters: dict, mesh: Mesh | None
) -> dict[str, dict]:
    """How answers last, where it is asked for."""
    if not config.pool.questions:
        return {}
    return endurance.measure_endurance(config, codec, base, parameters, mesh, material.pairs("held_out"))


def _observe(config: Config, material: Material, codec: Codec, parameters: dict, workdir: Path) -> dict:
    return {"emergence": observation.observe_run(config, material, codec, parameters, workdir)}


def read_summary(workdir: Path) -> dict:
    """The figures of a run that has ended."""
    read_config_record(workdir)  # what is no run at all is refused as that
    path = workdir / SUMMARY
    fix = "finish it with bin/train --resume"
    require_file(path, f"{workdir} has no {SUMMARY}", expected="a run that has ended", fix=fix)
    return read_record(path, _SUMMARY_FIELDS, expected="the figures of a run that has ended", fix="restore it")


def _read_rows(workdir: Path) -> list[dict]:
    """What a run that has ended recorded at each step."""
    expected, fix = "what the run recorded at each step", "restore it, or train anew"
    require_file(workdir / METRICS, f"{workdir} has no {METRICS}", expected=expected, fix=fix)
    return read_metrics(workdir / METRICS)


def _draw(summary: dict, rows: list[dict], workdir: Path, console: Console) -> None:
    """Plots and the report, where the packages for them are installed; TensorBoard gets the report's figures too."""
    try:
        page = _report_page()
        plots.plot_verdict(summary, workdir / "verdict.png")
        plots.plot_learning(
            rows,
            workdir / "learning.png",
            baselines={
                name: row["validation_similarity"]
                for name, row in summary["baselines"].items()
                if "validation_similarity" in row
            },
        )
        _write_report(page, workdir, summary["steps"], console)
    except InputError as error:
        console.print(f"No plots: {error}", style="dim", markup=False)


@contextmanager
def _reported_where_it_stops(workdir: Path, part: str, console: Console) -> Iterator[None]:
    """Leaves a report of as much as there is where training a part is interrupted, or diverges, and says how to go on."""
    try:
        yield
    except (Interrupted, NonFinite) as stopped:
        leave_report(workdir, stopped.step, console)
        if isinstance(stopped, Interrupted):
            saved = f"The {part} is saved at step {stopped.step}; go on with --resume --workdir {workdir}"
            console.out(saved, highlight=False)
        raise


def _write_report(page, workdir: Path, step: int, console: Console) -> None:
    panels, _ = page.write_page([workdir], workdir / REPORT, definitions=_DEFINITIONS)
    page.show_in_tensorboard(panels, workdir, step)
    console.out(f"Report: {workdir / REPORT}", highlight=False)


def _tell(judgement: experiment.Judgement, summary: dict, console: Console) -> None:
    """Samples to read, answers to other wordings, what emerged where it was observed, and the verdict."""
    console.print()
    for number, sample in enumerate(judgement.samples, start=1):
        best = sample["nearest"][0]
        mark = "[green]right[/]" if best["right"] else "[red]wrong[/]"
        console.print(f"[bold]{number}. {escape(sample['question'])}[/]  {mark}, {best['similarity']:.3f}", highlight=False)
        console.print(f"   {best['answer'][:160]}", highlight=False, overflow="ellipsis", no_wrap=True, markup=False)
    console.print()
    if judgement.edge_cases:
        console.print(edge_cases.render(judgement.edge_cases))
        console.print()
    if "emergence" in summary:
        console.print(observation.render(summary["emergence"]))
        console.print()
    console.print(render(judgement.verdict))
