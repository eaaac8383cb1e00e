"""What a run observes of its cube when it has ended: metrics beside null models, arrays for pictures.

Contract: `observe_run` takes a trained cube and what it learned from, asks it held-out questions, measures untrained cubes in
the same way, writes `emergence.npz` and returns `summary["emergence"]`. What it finds depends on configuration, text and
parameters alone, and nothing is chosen by it. Updates are the expected ones; engines and devices of the training matter
no more than by rounding.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from rich import box
from rich.table import Table
from threadpoolctl import threadpool_limits

from lattice_jax.config import Config
from lattice_jax.evaluation.names import spelled
from lattice_jax.inquiry import choose_questions, make_inputs
from lattice_jax.lattice import cube
from lattice_jax.lattice.adapter import Codec
from lattice_jax.lattice.emergence import coherence, metrics, nulls, orientation, specialisation
from lattice_jax.lattice.emergence.observe import PARTS, Observation, Part, observe, on_one_device, stepped
from lattice_jax.material import Material

ARRAYS = "emergence.npz"


@threadpool_limits.wrap(limits=1)
def observe_run(config: Config, material: Material, codec: Codec, parameters: dict, workdir: Path) -> dict[str, dict]:
    """Observe the cube and its null models, write the arrays, and return every metric with its comparison.

    What NumPy and scikit-learn compute here is many small products, for which threads wait longer than they work: on two busy
    cores k-means of 900 cells took 5 s with them and 0.1 s without.
    """
    settings, lattice = config.emergence, stepped(config.lattice)
    asked = choose_questions(material.corpus.split, settings)
    inputs, topics = make_inputs(config, material, codec, asked)
    where = metrics.setting(lattice, settings, config.seed)
    key, start_key = jax.random.key(config.seed), jax.random.key(config.seed)

    def observed_of(cells: dict, parts: Collection[Part]) -> Observation:
        return observe(cells, inputs, config=lattice, settings=settings, parts=parts, seed=config.seed, key=key)

    untrained, at_start = [], []
    for number in range(settings.untrained_cubes):
        fresh = cube.initialise(lattice, key=jax.random.fold_in(start_key, number) if number else start_key)
        seen = observed_of(on_one_device(fresh, lattice), [part for part in PARTS if part != "ablation"])
        untrained.append(metrics.values(seen, where))
        at_start.append(reads(seen) | layer_profiles(seen))
        del fresh, seen  # room for the next one
    trained = on_one_device(parameters, lattice)
    observed = observed_of(trained, PARTS)
    shown = [material.corpus.pairs[row].question for row in asked.shown]
    write_arrays(
        {
            **arrays(observed, where, shuffles=settings.shuffles),
            **untrained_arrays(at_start),
            "axes": np.array(orientation.turned_axes(lattice)),
            "faces": np.array([lattice.input_face, lattice.output_face]),
            "questions": np.array(shown),
            "topics": np.array(topics.names),
        },
        workdir,
    )
    return metrics.compared(observed, untrained, where, shuffles=settings.shuffles)


def reads(observed: Observation) -> dict[str, np.ndarray]:
    """What probes read, by layer [time, layer] and at the output face [time]."""
    return {
        "question_read": observed.question_read,
        "answer_read": observed.answer_read,
        "question_read_output": observed.question_at_output,
        "answer_read_output": observed.answer_at_output,
    }


def layer_profiles(observed: Observation) -> dict[str, Float[np.ndarray, " layer"]]:
    """How specialised the cells of every layer are, on average: what topics explain, and how well cells fit their groups."""
    return {
        "layer_selectivity": specialisation.layer_means(specialisation.selectivity(observed.responses, observed.labels)),
        "layer_silhouette": specialisation.layer_means(observed.response_groups.silhouettes),
    }


def untrained_arrays(at_start: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What untrained cubes give for `reads` (`*_null`, their mean) and `layer_profiles` (mean and deviation over cubes)."""
    found = {}
    for name in at_start[0]:
        mean, deviation = nulls.band([cube[name] for cube in at_start])
        if name.startswith("layer_"):
            found |= {f"{name}_untrained_mean": mean, f"{name}_untrained_deviation": deviation}
        else:
            found[f"{name}_null"] = mean
    return {name: values.astype(np.float32) for name, values in found.items()}


def arrays(observed: Observation, where: metrics.Setting, *, shuffles: int) -> dict[str, np.ndarray]:
    """What pictures are made of, beside `shuffles` draws of their null models; layer 0 is the input face.

    `activity` and `change` [question, time, layer, row, column] are root mean squares over visible channels, of the state and
    of what the step before it changed (0 at the start). `coherence` [direction, distance] is the last state's correlogram, its
    rows the offsets (layer, row, column) in `directions`, with mean and deviation of shuffled cells; NaN where the cube is too
    short. `response_group` and `weight_group` [layer, row, column] number cells that are alike. `separation` [step] are the
    rates whose mean, the first `separation_transient` left out, is the Lyapunov exponent.
    """
    change = np.diff(observed.trajectory, axis=0, prepend=observed.trajectory[:1])
    activity, change = (
        np.moveaxis(np.sqrt(np.square(field).mean(-1)), -1, 0).astype(np.float16) for field in (observed.trajectory, change)
    )
    coherence_generator, topic_generator = (np.random.default_rng((where.seed, len(metrics.METRICS) + n)) for n in range(2))
    shuffled = coherence.correlogram_null(
        observed.final, periodic=where.periodic, shuffles=shuffles, generator=coherence_generator
    )
    by_chance = specialisation.layer_selectivity_null(
        observed.responses, observed.labels, shuffles=shuffles, generator=topic_generator
    )
    transient, counted = observed.transient, observed.separation
    rates = None if transient is None or counted is None else np.concatenate([transient, counted])
    single = {
        **reads(observed),
        **layer_profiles(observed),
        "selectivity": specialisation.selectivity(observed.responses, observed.labels),
        "layer_selectivity_null_mean": by_chance.mean,
        "layer_selectivity_null_deviation": by_chance.deviation,
        "response_silhouette": observed.response_groups.silhouettes,
        "influence_gradient": observed.influence_gradient,
        "influence_ablation": observed.influence_ablation,
        "perturbation": observed.growth.mean(1),
        "layer_similarity": observed.layer_similarity,
        "separation": None if rates is None else rates.mean(1),
        "coherence": coherence.correlogram(observed.final, periodic=where.periodic),
        "coherence_null_mean": shuffled.mean,
        "coherence_null_deviation": shuffled.deviation,
    }
    whole = {
        "topic": observed.topic,
        "response_group": observed.response_groups.labels,
        "weight_group": None if observed.weight_groups is None else observed.weight_groups.labels,
        "directions": np.array(coherence.DIRECTIONS),
        "separation_transient": None if transient is None else np.array(len(transient)),
    }
    return {
        "activity": activity,
        "change": change,
        **{name: values.astype(np.int32) for name, values in whole.items() if values is not None},
        **{name: values.astype(np.float32) for name, values in single.items() if values is not None},
    }


def write_arrays(named: Mapping[str, np.ndarray], workdir: Path) -> None:
    """`emergence.npz`, whole or not at all."""
    temporary = workdir / f"{ARRAYS}.tmp"
    with temporary.open("wb") as file:
        np.savez_compressed(file, **named)  # pyright: ignore[reportArgumentType] (a name may be that of an option)
    temporary.replace(workdir / ARRAYS)


def render(figures: Mapping[str, dict]) -> Table:
    """The metrics beside their null models and beside the untrained cube, with the drift of those that are limits."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("emergence", no_wrap=True)
    for heading in ("value", "null", "z", "untrained"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("null model")
    for name, row in figures.items():
        z = "" if row["z"] is None else f"{row['z']:+.1f}"
        untrained = f"{row['untrained']:.3f}" if "untrained" in row else ""
        null_model = row["null_model"] + (f"; drift {row['drift']:+.3f}" if "drift" in row else "")
        table.add_row(spelled(name), f"{row['value']:.3f}", f"{row['null']:.3f}", z, untrained, f"[dim]{null_model}[/]")
    return table
