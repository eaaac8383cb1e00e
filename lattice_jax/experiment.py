"""One run from text to verdict: the only room in which all wings meet.

Contract: every function takes the configuration and what came before it, and returns arrays, parameters or figures. Held-out
pairs are embedded with the rest and next touched by `adapter_figures` and `judge_run`, which report; all choices are made on
the validation pairs.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from threadpoolctl import threadpool_limits

from lattice_jax.config import Config, TrainingConfig
from lattice_jax.edge_cases import measure_edge_cases
from lattice_jax.evaluation.baselines import Baseline, Pairs, fit_baselines, shuffled
from lattice_jax.evaluation.similarity import measure, nearest_answers, relative_spread
from lattice_jax.evaluation.verdict import BothSides, Verdict, judge
from lattice_jax.inquiry import make_inputs, questions_to_follow
from lattice_jax.lattice import cell, cube, devices, pool
from lattice_jax.lattice.adapter import Codec
from lattice_jax.lattice.emergence import metrics as emergence
from lattice_jax.lattice.emergence.observe import PARTS, observe, on_one_device, stepped
from lattice_jax.lattice.native import engine as native
from lattice_jax.material import Material
from lattice_jax.stacking import Base, Offsets, fit_base
from lattice_jax.training.alerts import DETECTORS
from lattice_jax.training.checkpoint import Checkpoints
from lattice_jax.training.loop import FitResult, TrainState, fit, initial_state, start_or_continue
from lattice_jax.training.monitor import Monitor
from lattice_jax.training.objectives import answer_from_pool, answer_questions
from lattice_jax.training.schedule import Optimizer, make_optimizer

OnLook = Callable[[Mapping[str, float]], None]
"""Told the figures of every look at the validation pairs; may end the training by an exception."""


Predict = Callable[..., np.ndarray]
"""(parameters, questions [n, d]) -> predicted answers [n, d], both in the teacher's space."""


def make_predictor(
    config: Config,
    codec: Codec,
    mesh: Mesh | None,
    *,
    base: Base = Base(),  # noqa: B008, an immutable tuple
    sampled: bool | None = None,
    batch_size: int | None = None,
) -> Predict:
    """Question embeddings to answer embeddings through the cube, in batches of one size so that it compiles once.

    `base` is what the answers are changes of. `sampled` None updates as `lattice.update.evaluation` says; `batch_size` None is
    that of training.
    """
    if sampled is None:
        sampled = config.lattice.update.evaluation == "sampled"
    size = batch_size or config.training.batch_size

    @jax.jit
    def answer(parameters: dict, questions: jax.Array, added: Offsets, key: jax.Array) -> jax.Array:
        codes = codec.encode_questions(questions)
        answered = cube.answer(parameters, codes, key=key, config=config.lattice, sampled=sampled, mesh=mesh, read="output")
        return added.answers(codec, answered.vectors)

    def predict(parameters: dict, questions: np.ndarray) -> np.ndarray:
        predicted = []
        for number, start in enumerate(range(0, len(questions), size)):
            batch = questions[start : start + size]
            padded = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), 0)])
            key = jax.random.fold_in(jax.random.key(config.seed), number)
            added = base.offsets(codec, padded)
            predicted.append(np.asarray(answer(parameters, padded, added, key))[: len(batch)])
        return np.concatenate(predicted)

    return predict


def decayed(parameters: dict) -> dict:
    """Which parameters weight decay may shrink: the matrices of the cells."""
    return {name: name in cell.DECAYED for name in parameters}


def initial_parameters(config: Config, mesh: Mesh | None) -> dict:
    """Untrained parameters of the cube, where their cells are computed."""
    parameters = cube.initialise(config.lattice, key=jax.random.key(config.seed))
    return devices.place(parameters, config.lattice.grid, mesh)


def parameter_template(config: Config, mesh: Mesh | None) -> dict:
    """What `initial_parameters` would give, by shape, type and placement: a template for `Checkpoints.restore_best`."""
    drawn = jax.eval_shape(lambda: cube.initialise(config.lattice, key=jax.random.key(config.seed)))
    return devices.placed(drawn, config.lattice.grid, mesh)


def look_steps(config: TrainingConfig, start: int, *, fresh: bool) -> Iterator[int]:
    """The steps at which `fit` asks for validation figures, from where it starts; of a fresh run before the first step too."""
    if fresh:
        yield start
    while start < config.steps:
        start = min(config.steps, (start // config.evaluate_every + 1) * config.evaluate_every)
        yield start


def make_observer(config: Config, material: Material, codec: Codec) -> Callable[[dict, int], dict[str, float]]:
    """(parameters, the step of a look at the validation pairs) -> the emergence metrics due there, as `emergence/<metric>`."""
    settings, training, lattice = config.emergence, config.training, stepped(config.lattice)
    inputs, _ = make_inputs(config, material, codec, questions_to_follow(material.corpus.split, settings))
    where, key = emergence.setting(lattice, settings, config.seed), jax.random.key(config.seed)

    @threadpool_limits.wrap(limits=1)  # as `observation.observe_run`
    def observer(parameters: dict, step: int) -> dict[str, float]:
        if not settings.due(step, training):
            return {}
        parts, cells = PARTS if settings.costly_due(step, training) else (), on_one_device(parameters, lattice)
        seen = observe(cells, inputs, config=lattice, settings=settings, parts=parts, seed=config.seed, key=key)
        return {f"emergence/{name}": value for name, value in emergence.values(seen, where).items()}

    return observer


def answer_base(config: Config, material: Material) -> Base:
    """What the cube's answers are changes of, fitted on the training pairs."""
    return fit_base(material.pairs("train"), material.pairs("validation"), config.answer, seed=config.seed)


def training_data(codec: Codec, train: Pairs, base: Base) -> dict[str, np.ndarray]:
    """What batches are drawn from, as `answer_questions` reads them, row by row."""
    return {
        "question": np.asarray(codec.encode_questions(jnp.asarray(train.questions))),
        "target": np.asarray(codec.encode_answers(jnp.asarray(train.answers))),
        "answer": train.answers,
        **base.training_offsets(codec, train.questions)._asdict(),
    }


def cube_optimizer(config: Config) -> Optimizer:
    """What updates the cube's parameters, in compiled C where that also computes the cube."""
    compiled = config.optimizer.fused and devices.engine(config.lattice) == "native"
    threads = native.threads(config.lattice) if compiled else 0
    return make_optimizer(config.optimizer, config.training.steps, decayed, native_threads=threads)


def fit_cube(
    config: Config,
    material: Material,
    codec: Codec,
    base: Base,
    workdir: Path,
    mesh: Mesh | None,
    on_look: OnLook | None = None,
) -> FitResult:
    """Train the cube on the training pairs, from the last checkpoint where the run's folder holds one."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    optimizer = cube_optimizer(config)
    train, validation = material.pairs("train"), material.pairs("validation")
    predict = make_predictor(config, codec, mesh, base=base)
    observer = make_observer(config, material, codec)
    select_by = config.training.select_by

    def validate(parameters: dict) -> dict[str, float]:
        looked_at = {"validation": validation} | ({"training": train} if select_by == "training" else {})
        figures = {}
        for side, pairs in looked_at.items():
            predicted = predict(parameters, pairs.questions)
            if not np.isfinite(predicted).all():
                return {f"{side}_similarity": math.nan}  # of a run that diverges, which `fit` refuses with its step
            measures = measure(predicted, pairs.answers, bootstrap_samples=2)
            figures |= {f"{side}_similarity": measures.similarity.value, f"{side}_mrr": measures.mrr.value}
            if side == "validation":
                figures["validation_spread"] = relative_spread(predicted, pairs.answers)
        figures |= observer(parameters, next(looks))
        if on_look:
            on_look(figures)
        return figures

    from_pool = config.pool.size > 0

    def fresh() -> TrainState:
        memory = pool.create(config.lattice, config.pool.size) if from_pool else None
        return initial_state(initial_parameters(config, mesh), optimizer, memory)

    start = start_or_continue(checkpoints, fresh, jax.random.key(config.seed))
    looks = look_steps(config.training, int(start.state.step), fresh=start.best.step is None)
    with Monitor(
        workdir,
        steps=config.training.steps,
        batch_size=config.training.batch_size,
        print_every=config.training.evaluate_every,
        resume_step=start.rows_kept,
        detectors=DETECTORS,
    ) as monitor:
        return fit(
            start.state,
            objective=(answer_from_pool if from_pool else answer_questions)(codec, config, mesh, jnp.asarray(train.answers)),
            optimizer=optimizer,
            data=training_data(codec, train, base),
            config=config.training,
            key=start.key,
            validate=validate,
            selection=f"{select_by}_similarity",
            best=start.best,
            checkpoints=checkpoints,
            monitor=monitor,
            gradient_metrics=partial(cube.gradient_figures, config=config.lattice),
        )


def training_operations(config: Config, steps: int) -> float:
    """Counted floating-point operations of so many training steps."""
    return float(cube.operations(config.lattice, config.training.batch_size * steps, training=True))


Baselines = Mapping[str, Baseline]
FitBaselines = Callable[[Config, Material, float], Baselines]


def answer_baselines(config: Config, material: Material, operations: float) -> Baselines:
    """What a cube of this size is held against, each MLP with at most `operations` for its training."""
    parameters = cube.parameter_counts(config.lattice)["total"]
    train, validation = material.pairs("train"), material.pairs("validation")
    return fit_baselines(train, validation, parameters=parameters, operation_budget=operations, seed=config.seed)


class FittedOnce:
    """`answer_baselines` for several seeds of one configuration: as long as all else is alike, those of the first seed."""

    def __init__(self) -> None:
        self._key, self._fitted = None, {}

    def __call__(self, config: Config, material: Material, operations: float) -> Baselines:
        key = (material.corpus.hash, material.corpus.split, config.teacher, config.lattice, operations)
        if key != self._key:
            self._key, self._fitted = key, answer_baselines(config, material, operations)
        return self._fitted


class Judgement(NamedTuple):
    """The verdict, and what else is known once held-out pairs have been looked at."""

    verdict: Verdict
    evaluation_modes: dict[str, dict]
    """Held-out figures of the expected-value update and of sampled masks."""
    baseline_choices: dict[str, dict]
    validation_baselines: dict[str, float]
    samples: list[dict]
    edge_cases: dict
    """The same questions asked in other wordings; empty where that is left out."""


def judge_run(
    config: Config,
    material: Material,
    codec: Codec,
    base: Base,
    parameters: dict,
    mesh: Mesh | None,
    operations: float,
    fit: FitBaselines = answer_baselines,
) -> Judgement:
    """Measure the cube and every baseline on the held-out pairs, and the same on the training pairs."""
    settings = config.evaluation
    train, held_out = (material.judged_pairs(side, settings.training_pairs) for side in ("train", "held_out"))
    baselines = fit(config, material, operations)
    predict = {
        mode: make_predictor(config, codec, mesh, base=base, sampled=mode == "sampled") for mode in ("expected", "sampled")
    }
    answered = {mode: predict_in(parameters, held_out.questions) for mode, predict_in in predict.items()}
    configured = config.lattice.update.evaluation
    lattice = BothSides(predict[configured](parameters, train.questions), answered[configured])
    predictions = {
        name: BothSides(baseline.predict(train.questions), baseline.predict(held_out.questions))
        for name, baseline in baselines.items()
    }
    predictions["shuffled"] = BothSides(*(shuffled(side, seed=config.seed) for side in lattice))
    ceiling = BothSides(codec.reproduce(train.answers), codec.reproduce(held_out.answers))
    judged = judge(
        lattice,
        predictions,
        ceiling,
        BothSides(train.answers, held_out.answers),
        bootstrap_samples=settings.bootstrap_samples,
        confidence=settings.confidence,
        seed=config.seed,
    )
    modes = {mode: measure(predicted, held_out.answers).as_dict() for mode, predicted in answered.items()}
    edge_cases = {}
    if settings.edge_questions:
        said = partial(predict[configured], parameters)
        edge_cases = measure_edge_cases(config, material, said, {name: row.predict for name, row in baselines.items()})
    return Judgement(
        judged,
        modes,
        {name: baseline.choices for name, baseline in baselines.items()},
        {name: baseline.validation_similarity for name, baseline in baselines.items()},
        read_samples(config, material, lattice.held_out),
        edge_cases,
    )


def read_samples(config: Config, material: Material, predicted: np.ndarray) -> list[dict]:
    """The first held-out questions, each with the held-out answers that lie nearest to what the cube says."""
    rows = material.corpus.split.held_out
    pairs = [material.corpus.pairs[row] for row in rows]
    shown = min(config.evaluation.sample_questions, len(pairs))
    nearest, similarities = nearest_answers(predicted[:shown], material.pairs("held_out").answers, min(3, len(pairs)))
    return [
        {
            "question": pairs[index].question,
            "right_answer": pairs[index].answer,
            "nearest": [
                {"answer": pairs[other].answer, "similarity": float(similarity), "right": int(other) == index}
                for other, similarity in zip(nearest[index], similarities[index], strict=True)
            ],
        }
        for index in range(shown)
    ]
