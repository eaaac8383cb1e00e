"""A run that stops short of its verdict: trained and measured without its held-out pairs, for whatever is to be chosen.

Contract: `train` leaves the folder of a run in which all but the verdict is there; `run.train(resume=True)` on that folder
finds nothing left to train and judges it on the held-out pairs. Until then these can't play a part, for their embeddings are
not numbers (`blinded`): any use of them raises. Embeddings and adapters are shared between trials whose settings ask for the
same ones. `trial.json` says how a trial has ended; until then, and while it is judged, there is none.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from lattice_jax import adaptation, experiment
from lattice_jax.commandline import CONFIG_RECORD, TRIAL_RECORD, go_on, read_config_record, record_config, use_devices
from lattice_jax.config import Config, LatticeConfig
from lattice_jax.embedding import embedding_progress
from lattice_jax.errors import InputError
from lattice_jax.evaluation.similarity import MEASURES, cosine_similarity, measure
from lattice_jax.lattice import devices
from lattice_jax.lattice.adapter import Codec
from lattice_jax.lattice.surface import face_shape
from lattice_jax.material import Material, gather, record_corpus, require_same_corpus
from lattice_jax.stacking import Base
from lattice_jax.training.checkpoint import Best, Checkpoints
from lattice_jax.training.loop import FitResult, initial_state
from lattice_jax.training.monitor import METRICS, median_samples_per_second, peak_memory_bytes, read_metrics, reset_peak_memory

_TEACHER_SPEED = ("batch_size", "cache_directory")
"""Settings of the teacher that leave its embeddings as they are."""
_SHARE_OF_ROWS = 0.1
"""How many rows of the record `first` and `last` are means of."""


def blinded(material: Material) -> Material:
    """The same texts and embeddings, those of the held-out pairs replaced by NaN, which every measure refuses."""
    rows = list(material.corpus.split.held_out)
    questions, answers = material.questions.copy(), material.answers.copy()
    questions[rows] = answers[rows] = np.nan
    return material._replace(questions=questions, answers=answers)


class Shared:
    """What trials take over from each other: embeddings, in memory, and adapters, in a folder."""

    def __init__(self, adapters: Path, console: Console):
        self._adapters, self._console = adapters, console
        self._material: dict[str, Material] = {}

    def material(self, config: Config) -> Material:
        """The blinded texts and embeddings that this configuration asks for."""
        key = _key(config, "corpus", "teacher")
        if key not in self._material:
            with embedding_progress(config.teacher.name, self._console) as on_progress:
                self._material[key] = blinded(gather(config, on_progress))
        return self._material[key]

    def lend_adapter(self, config: Config, workdir: Path) -> None:
        """Put the finished adapter that these settings lead to into a run's folder, if there is one."""
        found = self._adapter(config)
        if found.is_dir() and not (workdir / "adapter").exists():
            copy_adapter(found, workdir / "adapter")

    def keep_adapter(self, config: Config, workdir: Path) -> None:
        """Remember the finished adapter of a run."""
        if not self._adapter(config).exists():
            copy_adapter(workdir / "adapter", self._adapter(config))

    def _adapter(self, config: Config) -> Path:
        return self._adapters / f"{_key(config, 'corpus', 'teacher', 'adapter', 'seed')}-{_faces(config.lattice)}"


def _faces(lattice: LatticeConfig) -> str:
    """Which faces the adapter's numbers lie on, and where: aligned ones are laid out by their cells."""
    faces = (lattice.input_face, lattice.output_face)
    shapes = ("x".join(map(str, (*face_shape(face, lattice.grid), lattice.surface_channels))) for face in faces)
    return "-".join((*faces, *shapes))


def copy_adapter(source: Path, target: Path) -> None:
    """Copy an adapter's folder; what is half copied when the program is killed does not count as one."""
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    temporary.replace(target)


def _key(config: Config, *rooms: str) -> str:
    values = config.as_dict()
    teacher = {name: value for name, value in values["teacher"].items() if name not in _TEACHER_SPEED}
    chosen = {room: teacher if room == "teacher" else values[room] for room in rooms}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


class Trial(NamedTuple):
    """What `train` leaves in memory."""

    config: Config
    material: Material
    codec: Codec
    base: Base
    result: FitResult
    seconds: float
    """Since it was last started."""


def train(
    config: Config,
    workdir: Path,
    shared: Shared,
    *,
    resume: bool,
    start: Path | None = None,
    adapter: Path | None = None,
    on_look: experiment.OnLook | None = None,
) -> Trial:
    """Train adapter and cube in a run's folder, without held-out pairs.

    The cube starts from the best parameters of the run in `start`, if one is given, and the adapter is that of the run in
    `adapter`. `on_look` is told the validation figures and may end the trial by an exception. Ctrl-C saves, and comes out as
    `KeyboardInterrupt`.
    """
    began = time.perf_counter()
    reset_peak_memory()
    config = use_devices(config)
    record_config(config, workdir, resume=resume)
    mesh = devices.cell_mesh(config.lattice)
    material = shared.material(config)
    record_corpus(material.corpus, workdir, resume=resume)
    go_on(workdir)
    for earlier in filter(None, (start, adapter)):
        if read_config_record(earlier).corpus == config.corpus:  # else a stage has asked for other texts
            require_same_corpus(material.corpus, earlier)
    if adapter is None:
        shared.lend_adapter(config, workdir)
    elif not (workdir / "adapter").exists():
        _require_same_faces(adapter, config)
        copy_adapter(adapter / "adapter", workdir / "adapter")
    codec = adaptation.fit_adapter(config, material, workdir)
    if adapter is None:
        shared.keep_adapter(config, workdir)
    if start is not None:
        _begin_from(start, config, workdir, mesh)
    base = experiment.answer_base(config, material)
    result = experiment.fit_cube(config, material, codec, base, workdir, mesh, on_look)
    record_end(workdir, "trained and not judged")
    return Trial(config, material, codec, base, result, time.perf_counter() - began)


def record_end(workdir: Path, outcome: str) -> None:
    """Leave in a trial's folder how it has ended, for whoever watches it; nothing where it had not begun."""
    if not (workdir / CONFIG_RECORD).is_file():
        return
    temporary = workdir / f"{TRIAL_RECORD}.tmp"
    temporary.write_text(json.dumps({"outcome": outcome}) + "\n")
    temporary.replace(workdir / TRIAL_RECORD)


def _require_same_faces(adapter: Path, config: Config) -> None:
    """Refuse another run's adapter where its numbers lie elsewhere on the faces than this cube has cells."""
    theirs = read_config_record(adapter)
    if config.adapter.layout == "aligned" and _faces(theirs.lattice) != _faces(config.lattice):
        raise InputError(
            f"the adapter of {adapter} is aligned for {_faces(theirs.lattice)}",
            expected=_faces(config.lattice),
            fix="train an adapter in this stage, or give both the same faces",
        )


def _begin_from(start: Path, config: Config, workdir: Path, mesh: jax.sharding.Mesh | None) -> None:
    """Write a checkpoint of step 0 that holds another run's best parameters, unless the run is under way."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.latest is not None:
        return
    template = experiment.parameter_template(config, mesh)
    parameters = Checkpoints(start / "checkpoints").restore_best(template)
    state = initial_state(parameters, experiment.cube_optimizer(config))
    checkpoints.save(0, state, key=jax.random.key(config.seed), best=Best())


def figures(trial: Trial, workdir: Path) -> dict[str, float]:
    """What can be said of a trial without held-out pairs, by dotted name.

    `validation.*` and `train.*`: the best parameters; `baselines.NAME.validation_*` and `train_*`: what was chosen on the same
    validation pairs, which flatters them; `best_baseline.validation_*`: the highest of each; `first.*` and `last.*`: means of
    the metrics over the first and the last tenth of the steps; `best.*`: the metrics at the look that chose the parameters.
    """
    config, material, codec, base, result, seconds = trial
    predict = experiment.make_predictor(config, codec, devices.cell_mesh(config.lattice), base=base)
    sides = {side: material.judged_pairs(side, config.evaluation.training_pairs) for side in ("validation", "train")}
    found = {"steps": result.step, "best_step": result.best.step or 0, "seconds": seconds}
    for side, pairs in sides.items():
        found |= _measured(f"{side}.", MEASURES, predict(result.params, pairs.questions), pairs.answers)
    operations = experiment.training_operations(config, result.step)
    baselines = experiment.answer_baselines(config, material, operations)
    for name, baseline in baselines.items():
        for side, pairs in sides.items():
            found |= _measured(f"baselines.{name}.{side}_", MEASURES, baseline.predict(pairs.questions), pairs.answers)
    for name in MEASURES:
        found[f"best_baseline.validation_{name}"] = max(found[f"baselines.{b}.validation_{name}"] for b in baselines)
    text = np.concatenate(sides["validation"])
    reproduced = codec.reproduce(text)
    found["adapter.validation_reconstruction"] = float(np.mean(cosine_similarity(reproduced, text)))
    rows = read_metrics(workdir / METRICS)
    found |= recorded(rows, result.best.step or 0)
    return found | {
        "samples_per_second": median_samples_per_second(rows) or 0.0,
        "peak_memory_bytes": float(peak_memory_bytes()),
    }


def _measured(prefix: str, names: Sequence[str], predicted: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    measures = measure(predicted, answers, bootstrap_samples=2)
    return {f"{prefix}{name}": getattr(measures, name).value for name in names}


def recorded(rows: Sequence[Mapping], best_step: int) -> dict[str, float]:
    """`first.NAME` and `last.NAME` of every metric (see `figures`), and `best.NAME` at `best_step`."""
    found: dict[str, float] = {}
    values: dict[str, list[float]] = {}
    for row in rows:
        metrics = {name: value for name, value in row.items() if name not in ("step", "timing")}
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
        if row["step"] == best_step:
            found |= {f"best.{name}": value for name, value in metrics.items()}
    for name, series in values.items():
        count = max(1, round(_SHARE_OF_ROWS * len(series)))
        found |= {f"first.{name}": float(np.mean(series[:count])), f"last.{name}": float(np.mean(series[-count:]))}
    return found
