"""The lattice's own workloads, built from the parts that a run is built from.

Contract: each builder returns a `Workload`, compiled and ready; one call of `measure` does its work once, to the end, and
returns the seconds. Texts, teacher, adapter, objective, optimiser and data are those of the main job; only the adapter is not
trained, which changes no shape.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lattice_jax import experiment
from lattice_jax.config import Config, CorpusConfig, Engine, TeacherConfig
from lattice_jax.lattice import cube, devices
from lattice_jax.lattice.adapter import Adapter, Codec, freeze, principal_start
from lattice_jax.lattice.firing import most_firings
from lattice_jax.lattice.native import engine as native
from lattice_jax.material import gather
from lattice_jax.training.loop import batch_indices, initial_state, make_train_step
from lattice_jax.training.objectives import answer_questions, read_by_losses

from . import operations
from .cases import Case

_DENSE_SIDES = (1024, 2048, 3072, 4096)
_DENSE_SIDES_OF_ACCELERATORS = (*_DENSE_SIDES, 8192)


class Workload(NamedTuple):
    """What a process holds to measure."""

    measure: Callable[[], float]
    compile_seconds: float
    figures: dict
    """What is known beside time: operations, checks."""


class Text(NamedTuple):
    """Embeddings of real pairs, and the codec between them and the cube."""

    questions: np.ndarray
    answers: np.ndarray
    codec: Codec


def load_text(config: Config) -> Text:
    """The training pairs of the corpus, from the cache of embeddings, and an adapter at its start values; once a face size."""
    corpus = dataclasses.replace(config.corpus, sentences="none")
    size = config.lattice.surface_size(config.lattice.input_face)
    return _load_text(corpus, config.teacher, config.adapter.strategy, size)


@functools.cache
def _load_text(corpus: CorpusConfig, teacher: TeacherConfig, strategy: str, size: int) -> Text:
    material = gather(Config(corpus=corpus, teacher=teacher))
    pairs = material.pairs("train")
    text, adapter = np.concatenate(pairs), Adapter(pairs.questions.shape[1], size, strategy)
    codec = freeze(adapter, principal_start(adapter, text), jnp.asarray(text))
    return Text(pairs.questions, pairs.answers, codec._replace(parameters=jax.tree.map(np.asarray, codec.parameters)))


def make_batch(text: Text, size: int, seed: int) -> dict[str, np.ndarray]:
    """One batch of the cube's objective, with pairs more than once where there are fewer than `size`."""
    rows = batch_indices(jax.random.key(seed), 0, samples=len(text.questions), batch_size=size)
    questions, answers = text.questions[rows], text.answers[rows]
    question, target = text.codec.encode_questions(jnp.asarray(questions)), text.codec.encode_answers(jnp.asarray(answers))
    return {"question": np.asarray(question), "target": np.asarray(target), "answer": answers}


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall time of `work`, until what it returns is there."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def compiled(function: Any, *arguments: Any) -> tuple[Callable, float]:
    """The jitted function compiled for these arguments, and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    executable = function.lower(*arguments).compile()
    return executable, time.perf_counter() - start


def counts(case: Case, mesh: Mesh | None) -> dict:
    """The case's operations, and the engine that does them."""
    engine = devices.engine(case.config.lattice)
    recomputes = case.trains and rematerialises(case, engine)
    counted = operations.count(
        case.config,
        case.batch,
        engine=engine,
        training=case.trains,
        sampled=case.sampled,
        read=case.read,
        devices=1 if mesh is None else mesh.size,
        recomputes=recomputes,
    )
    return {"engine": engine, "recomputes": recomputes, "defers": defers(case, engine, recomputes)} | counted


def defers(case: Case, engine: Engine, recomputes: bool) -> bool:
    """Whether a cell's matrix gradients wait for its last firing, which `lattice.weight_gradients` may leave to the engine."""
    if engine != "native" or not case.trains:
        return False
    samples = case.config.training.micro_batch or case.batch
    keeps = not recomputes
    return native.Pass(case.config.lattice, case.config.lattice.steps, samples, fires_batch=1, firings=0, keeps=keeps).defers


def rematerialises(case: Case, engine: Engine) -> bool:
    """Whether the backward pass computes the forward one again, which `lattice.remat` may leave to the engine."""
    lattice = case.config.lattice
    if engine == "fused":
        return True  # all products but the one that proposes
    if engine != "native" or lattice.remat != "automatic":
        return lattice.remat != "never"
    samples = case.config.training.micro_batch or case.batch
    most = most_firings(lattice, sampled=True, read=read_by_losses(case.config.loss))
    return native.recomputes(lattice, samples, most)


def training(case: Case, text: Text) -> Workload:
    """The whole training step: masks, forward, three losses, backward, clipping, AdamW."""
    config = case.config
    mesh = devices.cell_mesh(config.lattice)
    optimizer = experiment.cube_optimizer(config)
    state = initial_state(experiment.initial_parameters(config, mesh), optimizer)
    objective = answer_questions(text.codec, config, mesh)
    step: Any = make_train_step(objective, optimizer, state, micro_batch=config.training.micro_batch)
    if not case.donate:
        step = jax.jit(step.__wrapped__)
    batch, key = make_batch(text, case.batch, config.seed), jax.random.key(config.seed)
    step, compile_seconds = compiled(step, state, batch, key)
    held = [state]
    del state

    def measure() -> float:
        start = time.perf_counter()
        held[0], metrics = jax.block_until_ready(step(held[0], batch, key))
        seconds = time.perf_counter() - start
        if not np.isfinite(metrics["loss"]):
            raise FloatingPointError(f"the loss became {metrics['loss']} while it was timed")
        return seconds

    return Workload(measure, compile_seconds, counts(case, mesh))


def forward(case: Case, text: Text) -> Workload:
    """Codes at the input face to codes at the output face, updated as evaluation does."""
    config = case.config
    mesh = devices.cell_mesh(config.lattice)
    parameters = experiment.initial_parameters(config, mesh)
    codes, key = make_batch(text, case.batch, config.seed)["question"], jax.random.key(config.seed)

    @jax.jit
    def answer(parameters: dict, codes: jax.Array, key: jax.Array) -> jax.Array:
        asked = {"config": config.lattice, "sampled": case.sampled, "mesh": mesh, "read": case.read}
        return cube.answer(parameters, codes, key=key, **asked).vectors

    run, compile_seconds = compiled(answer, parameters, codes, key)
    return Workload(lambda: seconds_of(lambda: run(parameters, codes, key)), compile_seconds, counts(case, mesh))


def latency(case: Case, text: Text) -> Workload:
    """One question's embedding to the answer's, as `bin/ask` computes it: from host memory and back."""
    config = case.config
    mesh = devices.cell_mesh(config.lattice)
    parameters = experiment.initial_parameters(config, mesh)
    predict = experiment.make_predictor(config, text.codec, mesh, batch_size=1)
    question = text.questions[:1]
    first = seconds_of(lambda: predict(parameters, question))
    second = seconds_of(lambda: predict(parameters, question))
    return Workload(lambda: seconds_of(lambda: predict(parameters, question)), first - second, counts(case, mesh))


def dense(case: Case, text: Text) -> Workload:
    """The fastest of several products of matrices of the workload's numbers, on one device or with rows divided over all."""
    del text
    numbers = case.config.lattice.precision
    sides = _DENSE_SIDES if jax.default_backend() == "cpu" else _DENSE_SIDES_OF_ACCELERATORS
    available = jax.devices()
    rows = NamedSharding(jax.make_mesh((len(available),), ("rows",), devices=available), PartitionSpec("rows"))
    whole = NamedSharding(rows.mesh, PartitionSpec())
    trials = []
    for side in sides:
        matrix = np.random.default_rng(0).normal(size=(side, side)).astype(jnp.dtype(numbers))
        for spread in {len(available) > 1, False}:
            left = jax.device_put(matrix, rows) if spread else jnp.asarray(matrix)
            right = jax.device_put(matrix, whole) if spread else left
            product, compile_seconds = compiled(jax.jit(jnp.matmul, out_shardings=rows if spread else None), left, right)
            seconds = min(seconds_of(lambda: product(left, right)) for _ in range(4))  # noqa: B023, called at once
            trials.append((2 * side**3 / seconds, side, spread, product, left, right, compile_seconds))
    _, side, spread, product, left, right, compile_seconds = max(trials, key=lambda trial: trial[0])
    tried = {f"{size}{' on all devices' if wide else ''}": rate / 1e9 for rate, size, wide, *_ in trials}
    figures = {
        "counted_operations": 2 * side**3,
        "numbers": numbers,
        "side": side,
        "devices": len(available) if spread else 1,
        "tried_gflops": tried,
    }
    return Workload(lambda: seconds_of(lambda: product(left, right)), compile_seconds, figures)
