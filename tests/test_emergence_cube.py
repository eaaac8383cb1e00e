"""The cube as a dynamical system: passes, influence, exponents, and all metrics of a small cube."""

import dataclasses
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import FACES, SMALL, lively_parameters, quick_jit

from lattice_jax.config import EmergenceConfig, Face, GridConfig, LatticeConfig, UpdateConfig
from lattice_jax.lattice import cube
from lattice_jax.lattice.emergence import (
    criticality,
    dynamics,
    influence,
    information,
    metrics,
    nulls,
    orientation,
    specialisation,
)
from lattice_jax.lattice.emergence.information import Division
from lattice_jax.lattice.emergence.observe import NEARBY, PARTS, Inputs, Observation, observe, stepped
from lattice_jax.lattice.grid import offsets
from lattice_jax.lattice.step import State
from lattice_jax.lattice.surface import AXIS, face_mask, take_face

CONFIG = dataclasses.replace(SMALL, update=UpdateConfig(rate=0.7))
PARAMETERS = lively_parameters(CONFIG)
CODES = jnp.asarray(np.random.default_rng(3).normal(size=(3, 20)), jnp.float32)
KEY = jax.random.key(0)
QUESTIONS = 3


@functools.cache
def recorded() -> dynamics.Record:
    return dynamics.record(PARAMETERS, CODES, config=CONFIG)


def test_a_recorded_pass_is_that_of_the_cube():
    answer = cube.answer(PARAMETERS, CODES, key=KEY, config=CONFIG, sampled=False, trajectory=True)
    found = recorded()
    np.testing.assert_allclose(found.trajectory[1:], answer.propagation.trajectory, atol=1e-5)
    np.testing.assert_allclose(found.answers, answer.vectors, atol=1e-5)
    assert not np.any(found.trajectory[0, 1:])
    np.testing.assert_array_equal(found.trajectory[0, 0], found.trajectory[1, 0])


def test_responses_are_the_last_states_and_the_products_of_all():
    found, record = dynamics.respond(PARAMETERS, CODES, config=CONFIG), recorded()
    np.testing.assert_allclose(found.final, record.trajectory[-1], atol=1e-5)
    states = np.moveaxis(np.asarray(record.trajectory), 4, 2).reshape(CONFIG.steps + 1, 3, QUESTIONS, -1)
    states = states - states.mean(2, keepdims=True)
    np.testing.assert_allclose(found.likeness, states @ np.swapaxes(states, 2, 3), atol=1e-3)


@pytest.mark.parametrize(
    "changed", [{"injection": "pulse"}, {"sharing": "layer", "input_face": "right", "output_face": "left"}]
)
def test_the_compiled_engine_steps_as_the_definition_does(changed):
    """All that is taken of a cube; the directions in which close trajectories part begin on the input face too."""
    config = dataclasses.replace(CONFIG, walls="periodic", **changed)
    parameters = lively_parameters(config)
    codes = jnp.asarray(np.random.default_rng(3).normal(size=(3, config.surface_size(config.input_face))), jnp.float32)

    def taken(config: LatticeConfig) -> list:
        rates = criticality.cube_separation_rates(parameters, codes, steps=5, relative=1e-2, config=config, key=KEY)
        ablated = influence.by_ablation(parameters, codes, block=2, config=config, together=4)
        probes = jnp.asarray(np.random.default_rng(4).normal(size=(2, 3, config.surface_size(config.output_face))), jnp.float32)
        gradient = influence.by_gradient(parameters, codes, probes, config=config)
        passes = dynamics.record(parameters, codes, config=config)
        return [*passes, *dynamics.respond(parameters, codes, config=config), rates, ablated, gradient]

    for found, expected in zip(taken(stepped(dataclasses.replace(config, engine="automatic"))), taken(config), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


# Influence


def answered_with(gains: np.ndarray) -> np.ndarray:
    """The answers of a cube whose cells' updates are multiplied by `gains` [depth, height, width]."""
    prepared, injected = dynamics.prepare(PARAMETERS, CONFIG), dynamics.inject(PARAMETERS, CODES, CONFIG)
    state = dynamics.start(injected, CONFIG)
    for fires in dynamics.updates(CONFIG):
        moved = fires * jnp.asarray(gains, jnp.float32)[..., None, None]
        state = dynamics.advance(prepared, state, injected, moved, config=CONFIG)
    return np.asarray(dynamics.read_out(PARAMETERS, state.visible, CONFIG))


def test_ablation_is_the_change_of_an_answer_without_a_block_of_cells():
    found = influence.by_ablation(PARAMETERS, CODES, block=2, config=CONFIG, together=4)
    assert found.shape == (3, 4, 5)
    whole = answered_with(np.ones((3, 4, 5)))
    for depth, height, width in ((1, 0, 0), (2, 2, 4), (0, 2, 2)):
        gains = np.ones((3, 4, 5))
        gains[depth, height : height + 2, width : width + 2] = 0
        change = np.linalg.norm(answered_with(gains) - whole, axis=1) / np.linalg.norm(whole, axis=1)
        np.testing.assert_allclose(found[depth, height : height + 2, width : width + 2], change.mean(), rtol=1e-4)


def test_the_gradient_is_the_small_change_of_which_ablation_is_the_whole_one():
    probes = np.sqrt(20) * np.eye(20)[:, None].repeat(QUESTIONS, 1)  # every direction once: the norm is exact
    found = influence.by_gradient(PARAMETERS, CODES, jnp.asarray(probes, jnp.float32), config=CONFIG)
    whole, step = answered_with(np.ones((3, 4, 5))), 1e-2
    for cell in ((0, 1, 1), (1, 2, 3), (2, 0, 4)):
        gains = np.ones((3, 4, 5))
        gains[cell] += step
        more = answered_with(gains)
        gains[cell] -= 2 * step
        slope = (more - answered_with(gains)) / (2 * step)
        expected = np.sqrt(np.square(slope).sum(1).mean() / np.square(whole).sum(1).mean())
        assert float(found[cell]) == pytest.approx(expected, rel=0.02)


def test_concentration_is_zero_for_equal_shares_and_nearly_one_for_a_single_cell():
    alone = np.zeros((2, 5, 10))
    assert influence.concentration(alone) == 0
    alone[1, 2, 3] = 7.0
    assert influence.concentration(alone) == pytest.approx(0.99)
    assert influence.concentration(np.full((2, 5, 10), 3.0)) == pytest.approx(0)


def test_agreement_is_that_of_ranks():
    one = np.arange(24.0).reshape(2, 3, 4)
    assert influence.agreement(one, np.exp(one)) == pytest.approx(1)
    assert influence.agreement(one, -one) == pytest.approx(-1)
    assert influence.agreement(one, np.ones_like(one)) == 0


# Criticality


@pytest.mark.parametrize("largest", [0.5, 1.0, 1.25])
def test_the_exponent_of_a_linear_map_is_the_logarithm_of_its_largest_eigenvalue(largest):
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    matrix = jnp.asarray(basis @ np.diag([largest, 0.3 * largest, 0.2, 0.1]) @ basis.T, jnp.float32)
    # Away from the origin, as the size of differences is taken from that of the state.
    middle = jnp.ones((4, 2))
    found = jax.jit(
        lambda state, direction: criticality.separation_rates(
            lambda points: matrix @ (points - 1) + 1, state, direction, steps=35, relative=1e-2, sample_axis=1
        )
    )(middle, jnp.asarray(np.random.default_rng(2).normal(size=(4, 2)), jnp.float32))
    assert found.shape == (35, 2)
    np.testing.assert_allclose(found[15:].mean(0), np.log(largest), atol=2e-3)
    assert criticality.drift(np.asarray(found[15:])) == pytest.approx(0, abs=2e-3)


def test_the_logistic_map_is_chaotic_with_exponent_ln_2():
    """x' = 4 x (1 - x) (Ott 2002, Chaos in Dynamical Systems, section 2.4)."""
    found = jax.jit(
        lambda state: criticality.separation_rates(
            lambda points: 4 * points * (1 - points), state, jnp.ones_like(state), steps=4020, relative=1e-4, sample_axis=0
        )
    )(jnp.array([0.2345]))
    assert float(found[20:].mean()) == pytest.approx(np.log(2), abs=0.03)


def test_drift_is_the_second_half_less_the_first():
    assert criticality.drift(np.array([[1.0, 2.0], [1.0, 2.0], [4.0, 2.0], [2.0, 2.0], [3.0, 2.0]])) == pytest.approx(1.0)


def test_the_exponent_of_a_cube_at_rest_is_the_logarithm_of_its_largest_eigenvalue():
    """At a fixed point it is that of the linear map, the rule's Jacobian there; the first steps are far from it, and say so."""
    parameters, question = cube.initialise(CONFIG, key=KEY), CODES[:1]
    prepared, injected = dynamics.prepare(parameters, CONFIG), dynamics.inject(parameters, question, CONFIG)
    rate = jnp.full((1, 1, 1, 1, 1), CONFIG.update.rate)
    rule = quick_jit(functools.partial(dynamics.advance, config=CONFIG))
    rest = dynamics.start(injected, CONFIG)
    for _ in range(300):
        rest = rule(prepared, rest, injected, rate)
    places, step = sum(leaf.size for leaf in rest), 1e-2
    many = injected.repeat(places, 3)
    units = step * jnp.eye(places).reshape(2, *rest.visible.shape[:3], -1, places).transpose(0, 1, 2, 3, 5, 4)  # one a sample
    ahead, behind = (
        rule(prepared, State(rest.visible + units[0] * sign, rest.memory + units[1] * sign), many, rate) for sign in (1, -1)
    )
    columns = (np.stack(ahead) - np.stack(behind)).transpose(0, 1, 2, 3, 5, 4).reshape(places, places) / (2 * step)
    expected = np.log(np.abs(np.linalg.eigvals(columns.astype(np.float64))).max())

    settings = EmergenceConfig()
    separation_rates = quick_jit(criticality.cube_separation_rates.__wrapped__, static_argnames=("steps", "relative", "config"))
    steps = settings.exponent_transient + settings.exponent_steps
    found = separation_rates(parameters, question, steps=steps, relative=NEARBY, config=CONFIG, key=KEY)
    counted, early = np.asarray(found)[settings.exponent_transient :], np.asarray(found)[:16]
    assert counted.mean() == pytest.approx(expected, abs=2e-3)
    assert criticality.drift(counted) == pytest.approx(0, abs=1e-3)
    assert abs(early.mean() - expected) > 0.05
    assert abs(criticality.drift(early)) > 0.03


def test_a_cube_whose_cells_hardly_move_keeps_differences():
    """With a rate near zero nothing moves, so differences neither grow nor die."""
    slow = dataclasses.replace(CONFIG, update=UpdateConfig(rate=1e-4), injection="pulse")
    found = criticality.cube_separation_rates(PARAMETERS, CODES, steps=5, relative=1e-2, config=slow, key=KEY)
    np.testing.assert_allclose(found[1:].mean(0), 0, atol=2e-3)


def test_growth_is_the_distance_by_that_at_the_start():
    """Two questions whose differences, of sizes 3 and 0.5, are multiplied by known factors."""
    factors = np.array([[1.0, 1.0], [2.0, 0.5], [0.0, 4.0], [8.0, 0.25]])
    one, apart = (np.random.default_rng(5).normal(size=(times, 2, 1, 3, 2, 2)) for times in (4, 1))
    apart *= np.array([[3.0], [0.5]]) / np.sqrt(np.square(apart).sum((0, 1, 2, 3, 5)))[:, None]
    found = criticality.perturbation_growth(one, one + factors[:, None, None, None, :, None] * apart)
    np.testing.assert_allclose(found, factors, atol=1e-12)
    assert growth_metric(found) == pytest.approx(np.log(np.sqrt(8 * 0.25)))


def test_a_wave_guide_of_copies_ends_at_the_root_of_its_layers():
    layers = 5
    lit = np.arange(layers + 3)[:, None] >= np.arange(layers)  # layer l holds the input's code from step l on
    codes = np.random.default_rng(7).normal(size=(2, 3, 2, 4, 6))
    one, other = (lit[:, :, None, None, None, None] * code for code in codes)
    found = criticality.perturbation_growth(one, other)
    np.testing.assert_allclose(found, np.sqrt(lit.sum(1))[:, None].repeat(4, 1))
    assert growth_metric(found) == pytest.approx(np.log(np.sqrt(layers)))


def growth_metric(growth: np.ndarray) -> float:
    return metrics.METRICS["perturbation_growth"].measure(growth, metrics.Setting(periodic=False, block=1, seed=0))


# All metrics together

SETTINGS = EmergenceConfig(
    questions=3,
    topics=2,
    clusters=2,
    untrained_cubes=2,
    shuffles=3,
    ablation_block=2,
    exponent_steps=3,
    exponent_transient=2,
)

DRAWN = np.random.default_rng(4)
INPUTS = Inputs(
    shown=np.asarray(CODES),
    probed=DRAWN.normal(size=(12, 20)).astype(np.float32),
    answers=DRAWN.normal(size=(12, 20)).astype(np.float32),
    labels=np.arange(12) % 2,
    division=Division(np.arange(8), np.arange(8, 12)),
)


@functools.cache
def observed() -> Observation:
    return observation_of(PARAMETERS, CONFIG)


def observation_of(parameters: dict, config: LatticeConfig) -> Observation:
    return observe(parameters, INPUTS, config=config, settings=SETTINGS, parts=PARTS, seed=0, key=KEY)


def test_every_metric_is_compared_with_its_null_model():
    where = metrics.setting(CONFIG, SETTINGS, seed=0)
    found = observed()
    at_start = [metrics.values(found._replace(influence_ablation=None), where)] * 2
    assert metrics.METRICS.keys() - at_start[0].keys() == {"influence_agreement"}
    rows = metrics.compared(found, at_start, where, shuffles=3)
    assert rows.keys() == metrics.METRICS.keys()
    for name, row in rows.items():
        assert np.isfinite([row["value"], row["null"], row["null_deviation"]]).all(), name
        assert row["definition"]
        assert row["range"]
        assert row["draws"] == (2 if row["null_model"] == "untrained cube" else 3)
        if row["null_model"] == "untrained cube":
            assert row["null"] == pytest.approx(row["value"])
            assert row["z"] is None
        assert ("drift" in row) == (name == "lyapunov_exponent")
    json.dumps(rows, allow_nan=False)
    assert metrics.compared(found, at_start, where, shuffles=3) == rows


@pytest.mark.parametrize(("engine", "parts"), [("scan", ()), ("native", ()), ("native", PARTS)])
def test_what_is_followed_while_the_cube_learns_is_what_is_observed_at_the_end(engine, parts):
    config, where = dataclasses.replace(CONFIG, engine=engine), metrics.setting(CONFIG, SETTINGS, seed=0)
    everything = metrics.values(observed(), where)
    seen = observe(PARAMETERS, INPUTS, config=config, settings=SETTINGS, parts=parts, seed=0, key=KEY)
    followed = metrics.values(seen, where)
    assert everything.keys() - followed.keys() == (set() if parts else set(metrics.COSTLY))
    assert set(metrics.COSTLY) == {"influence_concentration", "influence_agreement", "lyapunov_exponent"}
    for name, value in followed.items():
        # A difference of a thousandth of the state carries a thousand times its rounding.
        of_differences = name in ("perturbation_growth", "lyapunov_exponent")
        assert value == pytest.approx(everything[name], abs=1e-3 if of_differences else 1e-5), name


@pytest.mark.parametrize("block", [1, 5])
def test_a_map_that_knows_nothing_of_the_other_is_within_its_null(block):
    """A map of blocks agrees with a random one by chance as often as its null model says: z has a deviation of about 1."""
    metric, where = metrics.METRICS["influence_agreement"], metrics.Setting(periodic=False, block=block, seed=0)
    assert metric.null.shuffle is not None
    drawn = np.random.default_rng(6)

    def blocks() -> np.ndarray:
        return drawn.normal(size=(4, 15 // block, 15 // block)).repeat(block, 1).repeat(block, 2)

    scores = []
    for _ in range(60):
        ablation, gradient = blocks(), blocks() + 0.1 * drawn.normal(size=(4, 15, 15))
        draws = [metric.measure(metric.null.shuffle(ablation, drawn, where), gradient, where) for _ in range(20)]
        scores.append(nulls.compare(metric.measure(ablation, gradient, where), draws).z)
    assert np.std(scores) == pytest.approx(1, abs=0.35)


# Other faces


class Twin(NamedTuple):
    """`CONFIG`'s cube, with an output face of its choice, and the same cube turned so that its signal enters elsewhere."""

    front: LatticeConfig
    config: LatticeConfig
    parameters: dict
    """Of the turned one."""


def twin(input_face: Face, output_face: Face) -> Twin:
    """The cube whose `orientation.turned` arrays are those of a cube with the front as its input."""
    config = dataclasses.replace(CONFIG, input_face=input_face, output_face=output_face)
    names = orientation.turned_axes(config)
    sizes = dict(zip(names, (3, 4, 5), strict=True))
    config = dataclasses.replace(config, grid=GridConfig(**sizes))
    ends = orientation.turned(np.asarray(face_mask(output_face, config.grid)), config)
    (seen,) = [face for face in FACES if np.array_equal(ends, np.asarray(face_mask(face, CONFIG.grid)))]
    front = dataclasses.replace(CONFIG, output_face=seen)

    axis, far = AXIS[input_face], input_face in ("back", "bottom", "right")
    parameters = {}
    for name, leaf in lively_parameters(front).items():
        if name in ("perception", "gate"):
            around = offsets(getattr(config.cell, name))
            places = []
            for offset in around:
                ahead, *rest = offset[axis], *(step for other, step in enumerate(offset) if other != axis)
                places.append(around.index((-ahead if far else ahead, rest[0], rest[1])))
            leaf = leaf[:, :, :, np.array(places)]
        parameters[name] = jnp.moveaxis(leaf[::-1] if far else leaf, 0, axis)
    return Twin(front, config, parameters)


def assert_alike(found: Observation, expected: Observation, names: tuple[str, ...]) -> None:
    for name in names:
        for one, other in zip(jax.tree.leaves(getattr(found, name)), jax.tree.leaves(getattr(expected, name)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("input_face", "output_face"), [("back", "front"), ("left", "right"), ("bottom", "top"), ("left", "top"), ("back", "right")]
)
def test_states_and_likenesses_are_turned_so_that_the_input_is_the_first_layer(input_face, output_face):
    """Opposite faces, and some that share an edge: there the last place of the likenesses is the output face."""
    front, config, parameters = twin(input_face, output_face)
    respond = quick_jit(dynamics.respond.__wrapped__, static_argnames="config")
    found = respond(parameters, CODES, config=config)
    expected = respond(lively_parameters(front), CODES, config=front)
    np.testing.assert_allclose(orientation.turned(np.asarray(found.final), config), expected.final, atol=1e-4)
    np.testing.assert_allclose(found.likeness, expected.likeness, rtol=1e-3, atol=1e-3)
    layers, seen = 3, np.asarray(take_face(found.final, config.output_face, config.grid))
    assert found.likeness.shape[1] == (layers if orientation.output_is_a_layer(config) else layers + 1)
    seen = np.moveaxis(seen - seen.mean(3, keepdims=True), 3, 0).reshape(QUESTIONS, -1)
    np.testing.assert_allclose(found.likeness[-1, -1], seen @ seen.T, atol=1e-3)


def test_a_cube_from_another_face_is_observed_like_the_same_cube_from_the_front():
    """All arrays and all figures, but those whose randomness is drawn cell by cell in the order of the grid."""
    front, config, parameters = twin("right", "left")
    assert front == CONFIG
    found, expected = observation_of(parameters, config), observed()
    drawn_by_cell = {"transient", "separation", "weight_groups"}
    assert_alike(found, expected, tuple(sorted(set(Observation._fields) - drawn_by_cell)))
    assert found.weight_groups is not None
    assert found.weight_groups.labels.shape == (3, 4, 5)
    weights = [np.sort(specialisation.weight_features(cells), -1) for cells in (parameters, PARAMETERS)]
    np.testing.assert_array_equal(orientation.turned(weights[0], config), weights[1])
    where = metrics.setting(config, SETTINGS, seed=0)
    assert where == metrics.setting(CONFIG, SETTINGS, seed=0)
    values, figures = metrics.values(found, where), metrics.values(expected, where)
    for name in values.keys() - {"lyapunov_exponent", "weight_clustering"}:
        assert values[name] == pytest.approx(figures[name], rel=1e-3, abs=1e-4), name


def test_where_faces_share_an_edge_probes_read_the_output_face_beside_the_layers():
    edge = dataclasses.replace(CONFIG, output_face="top")
    found = observation_of(PARAMETERS | {"read_out": lively_parameters(edge)["read_out"]}, edge)
    likeness = np.asarray(dynamics.respond(PARAMETERS, jnp.asarray(INPUTS.probed), config=edge).likeness)
    read = information.probe(likeness, INPUTS.probed, INPUTS.division)
    np.testing.assert_allclose(found.question_read, read[:, :3], atol=1e-4)
    np.testing.assert_allclose(found.question_at_output, read[:, 3], atol=1e-4)
    assert found.question_at_output[-1] != found.question_read[-1, -1]
    assert found.layer_similarity.shape == (3, 3)
    value = metrics.values(found, metrics.setting(edge, SETTINGS, seed=0))["question_read"]
    assert value == pytest.approx(found.question_at_output[-1])
