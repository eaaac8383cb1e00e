"""Settings: what is refused, with the field's name and the fix, and the steps that a signal needs."""

import dataclasses
import json

import numpy as np
import pytest

from lattice_jax.config import (
    AdapterConfig,
    CellConfig,
    Config,
    CorpusConfig,
    EmergenceConfig,
    EvaluationConfig,
    GridConfig,
    LatticeConfig,
    LossConfig,
    OptimizerConfig,
    PoolConfig,
    TeacherConfig,
    TrainingConfig,
    UpdateConfig,
)
from lattice_jax.errors import InputError

BAD = [
    (CorpusConfig, "corpus", "pairs", 3),
    (CorpusConfig, "corpus", "held_out_pairs", 1),
    (CorpusConfig, "corpus", "validation_pairs", 1),
    (CorpusConfig, "corpus", "split_seed", 0.5),
    (CorpusConfig, "corpus", "near_duplicate_similarity", 0.0),
    (CorpusConfig, "corpus", "near_duplicate_similarity", 1.1),
    (TeacherConfig, "teacher", "name", ""),
    (TeacherConfig, "teacher", "pooling", "max"),
    (TeacherConfig, "teacher", "layers", ""),
    (TeacherConfig, "teacher", "layers", "last"),
    (TeacherConfig, "teacher", "layers", "1,,2"),
    (TeacherConfig, "teacher", "template", "no place"),
    (TeacherConfig, "teacher", "template", "{text} {text}"),
    (TeacherConfig, "teacher", "numbers", "float16"),
    (TeacherConfig, "teacher", "max_length", -1),
    (TeacherConfig, "teacher", "batch_size", 0),
    (AdapterConfig, "adapter", "strategy", "magic"),
    (AdapterConfig, "adapter", "steps", 0),
    (AdapterConfig, "adapter", "batch_size", 0),
    (AdapterConfig, "adapter", "learning_rate", 0.0),
    (AdapterConfig, "adapter", "pair_fraction", 0.0),
    (AdapterConfig, "adapter", "evaluate_every", 0),
    (GridConfig, "lattice.grid", "depth", 1),
    (GridConfig, "lattice.grid", "height", 1),
    (GridConfig, "lattice.grid", "width", 1),
    (GridConfig, "lattice.grid", "width", 15.0),
    (CellConfig, "lattice.cell", "visible", 0),
    (CellConfig, "lattice.cell", "memory", 0),
    (CellConfig, "lattice.cell", "memory", 16),
    (CellConfig, "lattice.cell", "hidden", 0),
    (CellConfig, "lattice.cell", "hidden", True),
    (CellConfig, "lattice.cell", "perception", "hexagonal"),
    (CellConfig, "lattice.cell", "gate", None),
    (CellConfig, "lattice.cell", "parameter_budget", -1),
    (CellConfig, "lattice.cell", "normalisation_epsilon", 0.0),
    (UpdateConfig, "lattice.update", "rate", -0.1),
    (UpdateConfig, "lattice.update", "rate", 1.1),
    (UpdateConfig, "lattice.update", "rate", float("nan")),
    (UpdateConfig, "lattice.update", "mask", "none"),
    (UpdateConfig, "lattice.update", "evaluation", "both"),
    (UpdateConfig, "lattice.update", "bound", "clip"),
    (UpdateConfig, "lattice.update", "residual", 1),
    (UpdateConfig, "lattice.update", "step_size", 0.0),
    (UpdateConfig, "lattice.update", "step_size", float("inf")),
    (LatticeConfig, "lattice", "grid", (11, 15, 15)),
    (LatticeConfig, "lattice", "sharing", "row"),
    (LatticeConfig, "lattice", "walls", "brick"),
    (LatticeConfig, "lattice", "surface_channels", 0),
    (LatticeConfig, "lattice", "surface_channels", 33),
    (LatticeConfig, "lattice", "input_face", "inside"),
    (LatticeConfig, "lattice", "output_face", "front"),
    (LatticeConfig, "lattice", "injection", "drip"),
    (LatticeConfig, "lattice", "steps", 0),
    (LatticeConfig, "lattice", "steps", "16"),
    (LatticeConfig, "lattice", "minimum_arrival", 1.0),
    (LatticeConfig, "lattice", "minimum_arrival", -0.1),
    (LatticeConfig, "lattice", "devices", -1),
    (LatticeConfig, "lattice", "weight_gradients", "never"),
    (LossConfig, "loss", "consistency_steps", 0),
    (LossConfig, "loss", "surface_reconstruction", "0.3"),
    (OptimizerConfig, "optimizer", "learning_rate", 0.0),
    (OptimizerConfig, "optimizer", "final_learning_rate", 1.0),
    (OptimizerConfig, "optimizer", "final_learning_rate", -1e-4),
    (OptimizerConfig, "optimizer", "warmup_steps", -1),
    (OptimizerConfig, "optimizer", "weight_decay", -1.0),
    (OptimizerConfig, "optimizer", "gradient_clip", 0.0),
    (OptimizerConfig, "optimizer", "first_moment_decay", 1.0),
    (OptimizerConfig, "optimizer", "second_moment_decay", -0.1),
    (TrainingConfig, "training", "steps", 0),
    (TrainingConfig, "training", "batch_size", 0),
    (TrainingConfig, "training", "evaluate_every", 0),
    (TrainingConfig, "training", "checkpoint_every", 0),
    (TrainingConfig, "training", "question_noise", -0.1),
    (TrainingConfig, "training", "patience", -1),
    (EvaluationConfig, "evaluation", "bootstrap_samples", 99),
    (EvaluationConfig, "evaluation", "confidence", 1.0),
    (EvaluationConfig, "evaluation", "sample_questions", 0),
    (EmergenceConfig, "emergence", "every", -1),
    (EmergenceConfig, "emergence", "at_end", 1),
    (EmergenceConfig, "emergence", "questions", 1),
    (EmergenceConfig, "emergence", "probe_questions", 5),
    (EmergenceConfig, "emergence", "topics", 1),
    (EmergenceConfig, "emergence", "clusters", 1),
    (EmergenceConfig, "emergence", "untrained_cubes", 1),
    (EmergenceConfig, "emergence", "shuffles", 1),
    (EmergenceConfig, "emergence", "ablation_block", 0),
    (EmergenceConfig, "emergence", "exponent_steps", 0),
    (PoolConfig, "pool", "size", -1),
    (PoolConfig, "pool", "reseed_share", 1.1),
    (PoolConfig, "pool", "damage_share", -0.1),
    (PoolConfig, "pool", "damage", "pyramid"),
    (PoolConfig, "pool", "minimum_steps", -1),
    (PoolConfig, "pool", "maximum_steps", -1),
    (PoolConfig, "pool", "collapse_distance", -0.1),
    (PoolConfig, "pool", "collapse_rank", 0.5),
    (PoolConfig, "pool", "questions", 1),
    (PoolConfig, "pool", "rounds", 0),
    (PoolConfig, "pool", "recovery_questions", 0),
]


@pytest.mark.parametrize(("room", "path", "name", "value"), BAD)
def test_a_bad_value_is_refused_with_its_field_and_the_option_that_sets_it(room, path, name, value):
    with pytest.raises(InputError) as refusal:
        dataclasses.replace(room(), **{name: value})
    assert refusal.value.found.startswith(f"{path}.{name} is {value!r}")
    assert refusal.value.expected
    assert f"--config.{path}.{name}" in refusal.value.fix


ROOMS = {
    CorpusConfig: "corpus.",
    TeacherConfig: "teacher.",
    AdapterConfig: "adapter.",
    GridConfig: "lattice.grid.",
    CellConfig: "lattice.cell.",
    UpdateConfig: "lattice.update.",
    LatticeConfig: "lattice.",
    LossConfig: "loss.",
    OptimizerConfig: "optimizer.",
    TrainingConfig: "training.",
    EvaluationConfig: "evaluation.",
    EmergenceConfig: "emergence.",
    PoolConfig: "pool.",
    Config: "",
}
FIELDS = [(room, f"{path}{entry.name}", entry.name) for room, path in ROOMS.items() for entry in dataclasses.fields(room)]


@pytest.mark.parametrize(("room", "path", "name"), FIELDS, ids=[path for _, path, _ in FIELDS])
def test_a_value_of_another_type_is_refused_in_every_field(room, path, name):
    with pytest.raises(InputError) as refusal:
        dataclasses.replace(room(), **{name: [1]})
    assert refusal.value.found == f"{path} is [1]"
    assert f"--config.{path}" in refusal.value.fix


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(InputError, match=r"^seed is"):
        Config(seed=seed)


@pytest.mark.parametrize("weights", [(-0.1, 0.5, 0.6), (0.0, 0.0, 0.0)])
def test_loss_weights_are_not_negative_and_not_all_zero(weights):
    with pytest.raises(InputError, match=r"^loss is"):
        LossConfig(*weights)


def test_the_default_weights_are_those_of_the_card():
    loss = LossConfig()
    assert (loss.surface_reconstruction, loss.internal_consistency, loss.dialogue_similarity) == (0.3, 0.3, 0.4)


def test_what_is_computed_again_can_not_be_deferred():
    with pytest.raises(InputError, match=r"lattice\.weight_gradients is 'deferred'.*\n.*lattice\.remat 'always'"):
        LatticeConfig(remat="always", weight_gradients="deferred")


def test_the_loss_may_not_ask_for_more_steps_than_the_cube_takes():
    with pytest.raises(InputError, match=r"loss\.consistency_steps is 16"):
        Config(loss=LossConfig(consistency_steps=16), lattice=LatticeConfig(steps=16))


def test_faces_of_different_sizes_are_refused():
    cube = LatticeConfig(input_face="front", output_face="top")
    with pytest.raises(InputError, match=r"lattice\.output_face is 'top'") as refusal:
        Config(lattice=cube)
    assert "225" in refusal.value.expected
    assert "165" in refusal.value.expected


@pytest.mark.parametrize(
    ("every", "expected"), [(0, []), (1, [0, 10, 20, 30, 40, 45]), (20, [0, 20, 40, 45]), (25, [0, 30, 45]), (100, [0, 45])]
)
def test_emergence_is_measured_at_the_first_look_after_every_multiple(every, expected):
    training = TrainingConfig(steps=45, evaluate_every=10)
    looks = (0, 10, 20, 30, 40, 45)
    assert [look for look in looks if EmergenceConfig(every=every).due(look, training)] == expected


@pytest.mark.parametrize(
    ("every", "costly_every", "costly", "all_looks"),
    [
        (10, 30, [30], [0, 10, 20, 30, 40, 45]),
        (30, 20, [20, 40], [0, 20, 30, 40, 45]),
        (10, 45, [45], [0, 10, 20, 30, 40, 45]),
        (100, 15, [20, 30, 45], [0, 20, 30, 45]),
        (10, 60, [], [0, 10, 20, 30, 40, 45]),
        (10, 0, [], [0, 10, 20, 30, 40, 45]),
        (0, 20, [], []),
    ],
)
def test_costly_metrics_are_measured_at_an_interval_of_their_own(every, costly_every, costly, all_looks):
    training, settings = TrainingConfig(steps=45, evaluate_every=10), EmergenceConfig(every=every, costly_every=costly_every)
    looks = (0, 10, 20, 30, 40, 45)
    assert [look for look in looks if settings.costly_due(look, training)] == costly
    assert [look for look in looks if settings.due(look, training)] == all_looks


@pytest.mark.parametrize(
    ("name", "expected", "fields"),
    [
        ("size", "training.batch_size = 16", {"pool": PoolConfig(size=15)}),
        ("size", "2 or more samples at once", {"pool": PoolConfig(size=64), "training": TrainingConfig(micro_batch=1)}),
        ("maximum_steps", "lattice.steps = 16", {"pool": PoolConfig(maximum_steps=17)}),
        ("minimum_steps", "between 16", {"pool": PoolConfig(minimum_steps=15)}),
        ("minimum_steps", "the most steps of a pass, 17", {"pool": PoolConfig(minimum_steps=18, maximum_steps=17)}),
    ],
)
def test_a_pool_that_does_not_fit_the_run_is_refused(name, expected, fields):
    steps = 16 if name != "minimum_steps" or "16" in expected else 20
    with pytest.raises(InputError) as refusal:
        Config(lattice=LatticeConfig(steps=steps), **fields)
    assert refusal.value.found.startswith(f"pool.{name} is ")
    assert expected in refusal.value.expected


def test_a_pass_has_the_lattices_steps_unless_the_pool_says_otherwise():
    assert Config().horizons() == (16, 16)
    assert Config(lattice=LatticeConfig(steps=20), pool=PoolConfig(minimum_steps=17)).horizons() == (17, 20)


# Steps


def arrival_by_walking(distance: int, rate: float, steps: int) -> float:
    """Where a signal can be after each step, as a distribution over places: it moves on when the next cell fires."""
    places = np.zeros(distance + 1)
    places[0] = 1
    for _ in range(steps):
        going = places[:-1] * rate
        places[:-1] -= going
        places[1:] += going
    return places[-1]


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.7, 0.99, 1.0])
@pytest.mark.parametrize("depth", [2, 4, 11])
def test_arrival_probability_is_that_of_a_walk_from_cell_to_cell(depth, rate):
    config = LatticeConfig(grid=GridConfig(depth=depth), update=UpdateConfig(rate=rate), minimum_arrival=0.0, steps=400)
    for steps in (1, depth - 2, depth - 1, depth, 2 * depth, 200):
        assert config.arrival_probability(steps) == pytest.approx(arrival_by_walking(depth - 1, rate, steps), abs=1e-9)


@pytest.mark.parametrize(("steps", "probability"), [(14, 0.58), (16, 0.82), (18, 0.94), (20, 0.98)])
def test_the_default_cube_arrives_as_designed(steps, probability):
    assert LatticeConfig().arrival_probability(steps) == pytest.approx(probability, abs=0.006)


@pytest.mark.parametrize("rate", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("minimum", [0.0, 0.5, 0.8, 0.99])
def test_the_steps_needed_are_the_fewest_that_suffice_and_one_less_is_refused(minimum, rate):
    settings = {"grid": GridConfig(depth=5), "update": UpdateConfig(rate=rate), "minimum_arrival": minimum}
    needed = LatticeConfig(**settings, steps=100).steps_needed()
    fewest = next(steps for steps in range(4, 100) if arrival_by_walking(4, rate, steps) >= minimum - 1e-12)
    assert needed == fewest
    assert LatticeConfig(**settings, steps=needed).steps == needed
    with pytest.raises(InputError, match=rf"lattice\.steps is {needed - 1}\b") as refusal:
        LatticeConfig(**settings, steps=needed - 1)
    assert f"at least {needed}," in refusal.value.expected
    assert "crosses 4 cells" in refusal.value.expected
    assert "--config.lattice.steps" in refusal.value.fix


def test_a_rare_update_gets_an_answer_too():
    """Thousands of steps: the binomial coefficients alone would overflow."""
    with pytest.raises(InputError, match=r"lattice\.steps is 16") as refusal:
        LatticeConfig(update=UpdateConfig(rate=0.001))
    needed = int(refusal.value.expected.split()[2].rstrip(","))
    assert arrival_by_walking(10, 0.001, needed) >= 0.8 > arrival_by_walking(10, 0.001, needed - 1)


def test_a_cube_in_which_nothing_fires_is_refused():
    with pytest.raises(InputError, match=r"lattice\.update\.rate is 0"):
        LatticeConfig(update=UpdateConfig(rate=0.0))


@pytest.mark.parametrize(
    ("faces", "distance"),
    [(("front", "back"), 4), (("right", "left"), 6), (("top", "bottom"), 5), (("front", "left"), 1), (("top", "back"), 1)],
)
def test_the_distance_of_two_faces(faces, distance):
    config = LatticeConfig(grid=GridConfig(5, 6, 7), input_face=faces[0], output_face=faces[1])
    assert config.face_distance() == distance


# Records


def test_settings_cannot_be_changed_and_become_plain_json():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    record = json.loads(json.dumps(config.as_dict()))
    assert record["lattice"]["grid"] == {"depth": 11, "height": 15, "width": 15}
    assert record["lattice"]["update"]["rate"] == 0.7
    assert list(record) == [entry.name for entry in dataclasses.fields(Config)]


def test_a_share_of_the_pool_too_small_for_the_samples_at_once_is_refused():
    few = TrainingConfig(batch_size=32, micro_batch=4)
    for name in ("reseed_share", "damage_share"):
        with pytest.raises(InputError, match=f"pool.{name} is 0.125"):
            Config(training=few, pool=PoolConfig(size=64, **{"reseed_share": 0.0, "damage_share": 0.0, name: 0.125}))
    Config(training=few, pool=PoolConfig(size=64, reseed_share=0.0, damage_share=0.25))
    Config(training=few)
