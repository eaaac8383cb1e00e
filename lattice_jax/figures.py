"""The figures that a stage of a plan will have, by name, before anything is trained.

Contract: `require_known` refuses a criterion on a figure that a stage of this configuration will not record. Names come from
the code that writes the figures, run on made-up vectors or by shape alone, wherever it can be; those that texts decide
(`samples`, what is left out of the pairs) are known by their form. Nothing is trained or embedded, and no value is used.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lattice_jax import edge_cases, endurance, experiment, trial
from lattice_jax.config import Config
from lattice_jax.config.plan import Stage
from lattice_jax.corpus.wordings import WORDINGS
from lattice_jax.errors import InputError
from lattice_jax.evaluation.baselines import Pairs, fit_baselines
from lattice_jax.evaluation.similarity import MEASURES, measure
from lattice_jax.evaluation.verdict import CONTROLS, LABELS, BothSides, judge
from lattice_jax.lattice import cube, pool
from lattice_jax.lattice.adapter import Adapter, Codec
from lattice_jax.lattice.emergence.dynamics import plain
from lattice_jax.lattice.emergence.metrics import COSTLY, METRICS, Metric
from lattice_jax.lattice.emergence.nulls import Comparison
from lattice_jax.training.objectives import answer_from_pool, answer_questions

_NEAREST_SHOWN, _NAMES_SHOWN, _ALIKE = 3, 12, 0.75
_ALWAYS = ("steps", "best_step", "seconds", "samples_per_second", "peak_memory_bytes")
_OF_RUNS = (
    *_ALWAYS,
    *("adapter_reconstruction", "pca_reconstruction", "confidence", "parameters", "parameters_per_cell", "lattice_steps"),
    *("coverage", "training_operations", "seed", "sentences", "sentences_left_out"),
)
"""Single numbers of `summary.json`."""
_PHASES = ("embedding", "adapter", "training", "evaluation", "total")


def flatten(values: Any, prefix: str = "") -> dict[str, float]:
    """The numbers in nested values by dotted name; places in a list count from 0 (`gain_interval.0`)."""
    if isinstance(values, bool) or not isinstance(values, dict | list | int | float):
        return {}
    if isinstance(values, int | float):
        return {prefix: values}
    entries = values.items() if isinstance(values, dict) else enumerate(values)
    found = {}
    for name, value in entries:
        found |= flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return found


def require_known(stage: Stage, config: Config) -> None:
    """Refuse a stage with a criterion on a figure that it will not have; `config` is that of the run it trains or judges."""
    for name in (name for criterion in stage.criteria for name in criterion.figures()):
        known = known_figures(config, name, judged=bool(stage.judges))
        if name not in known:
            raise InputError(
                f"stage {stage.name!r} is measured by {name}, which it will not record",
                expected=_meant(name, known),
                fix="correct the plan file",
            )


def known_figures(config: Config, name: str, *, judged: bool) -> set[str]:
    """All figures of the family of `name`, what stands before its first dot; `judged`: of `summary.json`, else of a trial."""
    family = name.partition(".")[0]
    if judged:
        return _of_judgement(config, family, name)
    return _of_trial(config, family)


def _meant(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), _NEAREST_SHOWN, _ALIKE)
    if near:
        return f"perhaps {' or '.join(near)}"
    if not known:
        return "such as validation.similarity, last.loss, baselines.ridge.validation_similarity, held_out.similarity"
    shown = sorted(known, key=lambda one: ("/" in one, one))[:_NAMES_SHOWN]  # families of many come last
    return ", ".join(shown) + (", ..." if len(known) > len(shown) else "")


def _of_trial(config: Config, family: str) -> set[str]:
    """What `trial.figures` will give."""
    if family in ("first", "last", "best"):
        return _within(family, trial.recorded(_rows(config), best_step=0))
    sides = ("validation", "train")
    found: dict[str, Iterable[str]] = {
        **{side: [f"{side}.{name}" for name in MEASURES] for side in sides},
        "baselines": (f"baselines.{row}.{side}_{name}" for row in baseline_names() for side in sides for name in MEASURES),
        "best_baseline": (f"best_baseline.validation_{name}" for name in MEASURES),
        "adapter": ("adapter.validation_reconstruction",),
    }
    return set(found.get(family, _ALWAYS))


def _rows(config: Config) -> list[dict[str, float]]:
    """Rows as `metrics.jsonl` has them: of the first look, and of a step with a look.

    The best parameters may be those that the run starts with, so the first holds no more than every look is sure to find.
    """
    training, settings = config.training, config.emergence
    sides = ("validation", "training") if training.select_by == "training" else ("validation",)
    look = {f"{side}_{name}": 0.0 for side in sides for name in ("similarity", "mrr")} | {"validation_spread": 0.0}
    looks = list(experiment.look_steps(training, 0, fresh=True))

    def measured(over: Callable[[Iterable[bool]], bool]) -> dict[str, float]:
        found, costly = (over(due(step, training) for step in looks) for due in (settings.due, settings.costly_due))
        names = [name for name in _metrics(config) if (costly if name in COSTLY else found)]
        return {f"emergence/{name}": 0.0 for name in names}

    step = dict.fromkeys(step_metrics(config), 0.0)
    return [{"step": 0, **look, **measured(all)}, {"step": 1, **step, **look, **measured(any)}]


@functools.lru_cache(maxsize=32)
def step_metrics(config: Config) -> tuple[str, ...]:
    """What a training step of the cube records."""
    config = dataclasses.replace(config, lattice=plain(config.lattice))  # the other engines compile before they are traced
    code = config.lattice.surface_size(config.lattice.input_face)
    adapter = Adapter(code, code, "linear")

    def step(key: jax.Array) -> dict[str, jax.Array]:
        vectors = jnp.zeros((config.training.batch_size, code))
        codec = Codec(adapter, dict(adapter.init(key, vectors)), 1.0)
        parameters = cube.initialise(config.lattice, key=key)
        batch = {name: vectors for name in ("question", "target", "answer", "shift", "remainder")}  # noqa: C420 (its type)
        if config.pool.size:
            memory = pool.create(config.lattice, config.pool.size)
            loss, (metrics, _) = answer_from_pool(codec, config, None, vectors)(parameters, batch, memory, key=key)
        else:
            loss, metrics = answer_questions(codec, config, None, vectors)(parameters, batch, key=key)
        return {"loss": loss, "gradient_norm": loss, **metrics, **cube.gradient_figures(parameters, config.lattice)}

    return tuple(jax.eval_shape(step, jax.random.key(0)))


def baseline_names() -> list[str]:
    """The baselines of every run."""
    return [name for name in LABELS if name not in ("lattice", *CONTROLS)]


def _of_judgement(config: Config, family: str, name: str) -> set[str]:
    """What `run.train` will write into `summary.json`."""
    observation = ("observation",) if config.emergence.at_end else ()
    families: Mapping[str, Callable[[], Iterable[str]]] = {
        **dict.fromkeys(("train", "held_out", "adapter_ceiling"), lambda: _within(family, _verdict())),
        "baselines": lambda: _choices() if ".choices." in name else _of_baselines(),
        "evaluation_modes": lambda: flatten({family: {mode: _measured() for mode in ("expected", "sampled")}}),
        "edge_cases": lambda: _of_edge_cases(config),
        "emergence": lambda: _of_emergence(config),
        **dict.fromkeys(("pool", "recovery"), lambda: _within(family, _of_endurance(config))),
        "seconds_by_phase": lambda: (f"{family}.{phase}" for phase in (*_PHASES, *observation)),
        "pairs": lambda: (f"{family}.{side}" for side in ("train", "validation", "held_out")),
        # What texts decide is known by its form alone.
        "samples": lambda: _if_like(r"samples\.\d+\.nearest\.[0-2]\.similarity", name),
        "pairs_left_out": lambda: _if_like(r"pairs_left_out\..+", name),
    }
    return set(families.get(family, lambda: _OF_RUNS)())


def _within(family: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith(f"{family}.")}


def _if_like(pattern: str, name: str) -> set[str]:
    return {name} if re.fullmatch(pattern, name) else set()


def _made_up(count: int) -> Pairs:
    generator = np.random.default_rng(0)
    return Pairs(*(generator.normal(size=(count, 3)) for _ in range(2)))


def _measured() -> dict:
    return measure(*_made_up(4), bootstrap_samples=2).as_dict()


@functools.cache
def _verdict() -> dict[str, float]:
    sides = BothSides(*_made_up(4))
    rows = dict.fromkeys((*baseline_names(), "shuffled"), sides)
    return flatten(judge(sides, rows, sides, sides, bootstrap_samples=2).as_dict())


def _of_baselines() -> set[str]:
    return {*_within("baselines", _verdict()), *(f"baselines.{name}.validation_similarity" for name in baseline_names())}


@functools.cache
def _choices() -> dict[str, float]:
    """What the fits tell of themselves; they take some seconds, so they are asked for only where a criterion speaks of it."""
    fitted = fit_baselines(_made_up(4), _made_up(4), parameters=1, operation_budget=0.0)
    return flatten({"baselines": {name: {"choices": baseline.choices} for name, baseline in fitted.items()}})


@functools.lru_cache(maxsize=8)
def _of_edge_cases(config: Config) -> dict[str, float]:
    """Names from the comparison itself, of made-up answers."""
    if not config.evaluation.edge_questions:
        return {}
    answers = _made_up(2).answers
    said = dict.fromkeys((edge_cases.AS_WRITTEN, *WORDINGS, edge_cases.ANOTHER_QUESTION), answers)
    others = dict.fromkeys(baseline_names(), said)
    found = edge_cases.compare_wordings(said, said, others, answers, config.evaluation, seed=0)
    return flatten({"edge_cases": {"questions": 2, "wordings": found}})


def _of_emergence(config: Config) -> set[str]:
    if not config.emergence.at_end:
        return set()
    return {
        f"emergence.{name}.{field}"
        for name, row in _metrics(config).items()
        for field in (
            *Comparison._fields,
            *(() if "influence_ablation" in row.reads else ("untrained",)),  # untrained cubes are not ablated
            *(("drift",) if row.drift else ()),
        )
    }


def _metrics(config: Config) -> dict[str, Metric]:
    """Cells that share their weights have none of their own to group them by."""
    absent = set() if config.lattice.sharing == "cell" else {"weight_groups"}
    return {name: row for name, row in METRICS.items() if absent.isdisjoint(row.reads)}


@functools.lru_cache(maxsize=8)
def _of_endurance(config: Config) -> dict[str, float]:
    """Names from the measurement itself, of a cube that gives every question back."""
    if not config.pool.questions:
        return {}
    pairs = Pairs(*_made_up(2))

    def respond(questions: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        return questions, state

    def recall(questions: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        return np.tile(questions, (config.lattice.steps + 1, 1, 1)), state

    return flatten(
        {"pool": endurance.answer_in_turn(config, respond, pairs), "recovery": endurance.recover(config, recall, pairs[0])}
    )
