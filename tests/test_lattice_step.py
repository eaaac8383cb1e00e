"""One step: against its formula cell by cell, its fast gradients against autodiff, its limits and its reach."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import (
    METRICS,
    SMALL,
    WALLS,
    cell_parameters,
    cells_of,
    lively_state,
    noise_like,
    quick_jit,
    with_cell,
    with_update,
    world,
)
from test_lattice_grid import shift_by_loop

from lattice_jax.config import LatticeConfig, UpdateConfig
from lattice_jax.lattice.grid import offsets, shift
from lattice_jax.lattice.step import (
    State,
    affine,
    candidate,
    mix,
    neighbour_sum,
    perceive,
    plain_neighbour_sum,
    product,
    step,
    update,
    with_transposed,
)

PARAMETERS = cell_parameters(SMALL)
STATE = lively_state(SMALL)
ALL_FIRE = jnp.ones((1, 1, 1, 1, 1))


def one_step(config: LatticeConfig, parameters: dict, state: State, fires: jax.Array) -> State:
    """`step` with what a pass prepares."""
    return step(with_transposed(parameters, config), state, fires, world=world(config.walls), config=config)


def gelu(values: np.ndarray) -> np.ndarray:
    return 0.5 * values * (1 + np.tanh(np.sqrt(2 / np.pi) * (values + 0.044715 * values**3)))


def normalised(values: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    return values / np.sqrt(np.mean(values**2) + epsilon) * scale


def step_by_loop(config: LatticeConfig, parameters: dict, state: State, fires: np.ndarray) -> State:
    """The contract of `lattice_jax.lattice.cell`, one cell and one sample at a time, in double precision."""
    visible, memory = (np.asarray(values, np.float64) for values in state)
    weights = {name: np.broadcast_to(np.asarray(w, np.float64), (3, 4, 5, *w.shape[3:])) for name, w in parameters.items()}
    epsilon = config.cell.normalisation_epsilon
    places = [(*cell, sample) for cell in map(tuple, cells_of(config)) for sample in range(visible.shape[3])]

    def gathered(field: np.ndarray, name: str, around: tuple) -> np.ndarray:
        shifted = [shift_by_loop(field, offset, config.walls) for offset in around]
        return sum(weights[name][..., k, None, :] * shown for k, shown in enumerate(shifted))

    perceived = gathered(visible, "perception", offsets(config.cell.perception))
    message = np.zeros((*visible.shape[:4], weights["gate"].shape[-1]))
    for *cell, sample in places:
        w = {name: value[tuple(cell)] for name, value in weights.items()}
        own = np.concatenate([visible[(*cell, sample)], memory[(*cell, sample)]])
        told = gelu(normalised(own, w["message_scale"], epsilon) @ w["message_kernel"] + w["message_bias"])
        message[(*cell, sample)] = normalised(told, w["gate_scale"], epsilon)
    gathered_messages = gathered(message, "gate", offsets(config.cell.gate))
    after = State(visible.copy(), memory.copy())
    for *cell, sample in places:
        w, here = {name: value[tuple(cell)] for name, value in weights.items()}, (*cell, sample)
        around = np.concatenate([perceived[here], memory[here]])
        content = gelu(normalised(around, w["content_scale"], epsilon) @ w["content_kernel"] + w["content_bias"])
        gate = 1 + gathered_messages[here] + w["gate_bias"]
        proposed = (content * gate) @ w["candidate_kernel"] + w["candidate_bias"]
        forget = 1 / (1 + np.exp(-(np.concatenate([proposed, memory[here]]) @ w["memory_kernel"] + w["memory_bias"])))
        after.memory[here] += fires[here] * forget * (proposed - memory[here])
        after.visible[here] += fires[here] * w["step_size"] * np.tanh(proposed + perceived[here] - visible[here])
    return after


@pytest.mark.parametrize(
    ("sharing", "walls", "gate"),
    [("cell", "zero", "von_neumann"), ("layer", "reflect", "moore"), ("lattice", "periodic", "von_neumann")],
)
def test_step_equals_the_formula_cell_by_cell(sharing, walls, gate):
    config = LatticeConfig(
        SMALL.grid, with_cell(SMALL, gate=gate).cell, sharing=sharing, walls=walls, steps=4, minimum_arrival=0.0
    )
    parameters = cell_parameters(config)
    fires = np.random.default_rng(2).integers(0, 2, size=(3, 4, 5, 2, 1)).astype(np.float32)
    fast = quick_jit(functools.partial(one_step, config))(parameters, STATE, jnp.asarray(fires))
    slow = step_by_loop(config, parameters, STATE, fires[..., 0])
    np.testing.assert_allclose(fast.visible, slow.visible, atol=2e-5)
    np.testing.assert_allclose(fast.memory, slow.memory, atol=2e-5)


def values_and_gradients(function, *arguments):
    """The result, and its vector-Jacobian product with fixed noise, for all arguments."""

    def both(*arguments):
        result, pull = jax.vjp(function, *arguments)
        return result, pull(noise_like(result, 9))

    return quick_jit(both)(*arguments)


def assert_same(one, other, tolerance: float = 1e-5) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), one, other)


@pytest.mark.parametrize("neighbourhood", ["von_neumann", "moore"])
@pytest.mark.parametrize("walls", WALLS)
def test_plain_neighbour_sum_weighs_the_shifts(walls, neighbourhood):
    around = offsets(neighbourhood)
    weights = noise_like(jnp.zeros((3, 4, 5, len(around), 3)), 3)
    expected = sum(
        np.asarray(weights)[..., k, None, :] * shift_by_loop(np.asarray(STATE.visible), offset, walls)
        for k, offset in enumerate(around)
    )
    summed = quick_jit(lambda weights, field: plain_neighbour_sum(weights, field, around, world(walls)))
    np.testing.assert_allclose(summed(weights, STATE.visible), expected, atol=1e-5)


@pytest.mark.parametrize("neighbourhood", ["von_neumann", "moore"])
@pytest.mark.parametrize("walls", ["zero", "periodic"])
def test_neighbour_sum_has_the_value_and_the_gradients_of_the_plain_one(walls, neighbourhood):
    around = offsets(neighbourhood)
    weights = noise_like(jnp.zeros((3, 4, 5, len(around), 3)), 3)
    fast, plain = (
        values_and_gradients(lambda w, f, way=way: way(w, f, around, world(walls)), weights, STATE.visible)
        for way in (neighbour_sum, plain_neighbour_sum)
    )
    assert_same(fast, plain)


@pytest.mark.parametrize(
    ("walls", "leading"),
    [("zero", (3, 4, 5)), ("zero", (3, 1, 1)), ("periodic", (1, 1, 1)), ("reflect", (3, 4, 5)), ("edge", (1, 1, 1))],
)
def test_mix_has_the_value_and_the_gradients_of_the_definition_under_every_wall(walls, leading):
    around = offsets("von_neumann")
    weights = noise_like(jnp.zeros((*leading, len(around), 3)), 3)

    def definition(weights, field):
        return sum(weights[..., k, None, :] * shift(field, offset, walls) for k, offset in enumerate(around))

    fast = values_and_gradients(lambda weights, field: mix(weights, field, around, world(walls)), weights, STATE.visible)
    assert_same(fast, values_and_gradients(definition, weights, STATE.visible))


def test_product_has_the_value_and_the_gradients_of_matmul_and_none_for_its_copy():
    values, kernel = noise_like((jnp.zeros((2, 3, 2, 4, 3)), jnp.zeros((2, 3, 2, 3, 5))), 4)
    fast, (to_values, to_kernel, to_copy) = values_and_gradients(product, values, kernel, jnp.swapaxes(kernel, -1, -2))
    assert_same((fast, (to_values, to_kernel)), values_and_gradients(jnp.matmul, values, kernel))
    np.testing.assert_array_equal(to_copy, np.zeros_like(to_copy))


@pytest.mark.parametrize("sharing", ["cell", "layer", "lattice"])
def test_affine_has_the_value_and_all_gradients_of_matmul_and_bias(sharing):
    config = LatticeConfig(SMALL.grid, SMALL.cell, sharing=sharing, steps=4, minimum_arrival=0.0)
    names = ("candidate_kernel", "candidate_bias")
    parameters = {name: value for name, value in cell_parameters(config).items() if name in names}
    values = noise_like(jnp.zeros((3, 4, 5, 2, 5)), 5)

    def fast(parameters, values):
        return affine(with_transposed(parameters, config), "candidate", values)

    def plain(parameters, values):
        return jnp.matmul(values, parameters["candidate_kernel"]) + parameters["candidate_bias"][..., None, :]

    assert_same(values_and_gradients(fast, parameters, values), values_and_gradients(plain, parameters, values))


MIDDLE = (1, 2, 2)


@functools.cache
def memory_reach(gate: str) -> object:
    """How the candidate of the middle cell changes with every cell's memory, for given gate weights.

    A neighbour's memory shows in its messages alone, so only the gate can let it through.
    """
    config = with_cell(SMALL, gate=gate)

    def proposed(parameters, memory):
        perceived = perceive(parameters, STATE.visible, world("zero"), config.cell)
        prepared = with_transposed(parameters, config)
        return jnp.sum(
            candidate(prepared, perceived, State(STATE.visible, memory), world("zero"), config.cell)[MIDDLE], dtype=jnp.float32
        )

    return quick_jit(jax.grad(proposed, argnums=1))


def seen_offsets(gate: str, parameters: dict) -> set[tuple[int, int, int]]:
    """Where the cells lie whose memory changes the middle cell's candidate."""
    touched = np.argwhere(np.any(np.asarray(memory_reach(gate)(parameters, STATE.memory)) != 0, (-1, -2)))
    return {tuple((cell - np.array(MIDDLE)).tolist()) for cell in touched}


@pytest.mark.parametrize("gate", ["von_neumann", "moore"])
def test_the_gate_mixes_the_messages_of_exactly_its_neighbours(gate):
    parameters = cell_parameters(with_cell(SMALL, gate=gate))
    assert seen_offsets(gate, parameters) == set(offsets(gate))
    itself_alone = parameters | {"gate": parameters["gate"].at[..., 1:, :].set(0.0)}
    assert seen_offsets(gate, itself_alone) == {(0, 0, 0)}


def test_each_gate_weight_lets_its_own_neighbour_through():
    for k, offset in enumerate(offsets("von_neumann")):
        one = PARAMETERS | {"gate": jnp.zeros_like(PARAMETERS["gate"]).at[..., k, :].set(PARAMETERS["gate"][..., k, :])}
        assert seen_offsets("von_neumann", one) == {offset, (0, 0, 0)}


def test_a_neighbours_message_changes_the_gate_by_its_weight():
    changed = STATE._replace(memory=STATE.memory.at[1, 2, 3].add(1.0))
    propose = quick_jit(
        lambda state: candidate(
            with_transposed(PARAMETERS, SMALL),
            perceive(PARAMETERS, state.visible, world("zero"), SMALL.cell),
            state,
            world("zero"),
            SMALL.cell,
        )
    )
    difference = np.abs(np.asarray(propose(changed) - propose(STATE))).max((-1, -2))
    heard = np.argwhere(difference > 0).tolist()
    assert sorted(heard) == sorted([1 + a, 2 + b, 3 + c] for a, b, c in offsets("von_neumann"))


@pytest.mark.parametrize("residual", [True, False])
def test_cells_that_do_not_fire_keep_their_state_bit_for_bit(residual):
    config = with_update(SMALL, residual=residual)
    fires = jnp.zeros((3, 4, 5, 2, 1)).at[:, :, 2:].set(1.0)
    after = quick_jit(functools.partial(one_step, config))(PARAMETERS, STATE, fires)
    for new, old in zip(after, STATE, strict=True):
        np.testing.assert_array_equal(new[:, :, :2], old[:, :, :2])
        assert np.all(np.any(np.asarray(new[:, :, 2:] != old[:, :, 2:]), -1))


def moved(config: UpdateConfig, fires: float = 1.0, size: float = 10.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visible channels before and after an update by large numbers, and the goal."""
    perceived, proposed = (size * field for field in lively_state(SMALL, seed=6))
    prepared = with_transposed(PARAMETERS, SMALL)
    after = update(prepared, STATE, perceived, proposed, jnp.full((1, 1, 1, 1, 1), fires), config)
    return np.asarray(STATE.visible), np.asarray(after.visible), np.asarray(perceived + proposed)


def test_tanh_bounds_a_step_by_the_step_size_and_none_does_not():
    limit = np.abs(np.asarray(PARAMETERS["step_size"]))[..., None, :]
    before, after, goal = moved(UpdateConfig(bound="tanh"))
    assert np.all(np.abs(after - before) <= limit * (1 + 1e-5) + 1e-6)
    assert np.any(np.abs(after - before) > 0.99 * limit)
    before, after, goal = moved(UpdateConfig(bound="none"))
    np.testing.assert_allclose(after - before, np.asarray(PARAMETERS["step_size"])[..., None, :] * (goal - before), rtol=1e-4)
    assert np.mean(np.abs(after - before) > limit) > 0.9


def test_without_residual_the_firing_cells_take_the_bounded_goal_itself():
    limit = np.asarray(PARAMETERS["step_size"])[..., None, :]
    _, after, goal = moved(UpdateConfig(residual=False))
    np.testing.assert_allclose(after, limit * np.tanh(goal), atol=1e-5)
    before, after, goal = moved(UpdateConfig(residual=False), fires=0.25)
    np.testing.assert_allclose(after, 0.75 * before + 0.25 * limit * np.tanh(goal), atol=1e-5)


def test_an_expected_update_is_the_rate_times_the_whole_one():
    before, whole, _ = moved(UpdateConfig())
    _, expected, _ = moved(UpdateConfig(), fires=0.7)
    np.testing.assert_allclose(expected - before, 0.7 * (whole - before), atol=1e-5)


@pytest.mark.parametrize(("perception", "gate"), list(itertools.product(METRICS, METRICS)))
def test_a_step_depends_on_cells_at_most_one_away_and_on_all_of_these(perception, gate):
    config = with_cell(SMALL, perception=perception, gate=gate)
    parameters, state = cell_parameters(config), lively_state(config, batch=1)
    weigh = noise_like(jnp.zeros(config.cell.visible), 7)

    def outcome(state: State) -> jax.Array:
        after = one_step(config, parameters, state, ALL_FIRE)
        return jnp.matmul(after.visible + after.memory, weigh).reshape(-1)

    gradient = quick_jit(jax.jacrev(outcome))(state)
    touches = {name: np.any(np.asarray(g).reshape(60, 60, -1) != 0, -1) for name, g in gradient._asdict().items()}
    apart = cells_of(config)[:, None] - cells_of(config)[None]
    near_gate, near_perception = (METRICS[around](apart) <= 1 for around in (gate, perception))
    np.testing.assert_array_equal(touches["memory"], near_gate)
    np.testing.assert_array_equal(touches["visible"], near_gate | near_perception)


def test_one_rule_with_periodic_walls_commutes_with_moving_the_whole_state():
    config = LatticeConfig(SMALL.grid, SMALL.cell, sharing="lattice", walls="periodic", steps=4, minimum_arrival=0.0)
    parameters = cell_parameters(config)
    run = quick_jit(lambda state: one_step(config, parameters, state, ALL_FIRE))

    def roll(state: State) -> State:
        return jax.tree.map(lambda field: jnp.roll(field, (1, 2, 3), (0, 1, 2)), state)

    assert_same(run(roll(STATE)), roll(run(STATE)), 1e-6)
