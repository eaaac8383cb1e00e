"""The cube's objective from a pool, in the one loop: what it remembers, what it reads, and that a resumed run is the same."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_cube import principal_codec, quick_jit, real_embeddings

from lattice_jax.config import CellConfig, Config, GridConfig, LatticeConfig, PoolConfig, TrainingConfig, UpdateConfig
from lattice_jax.lattice import cube, pool
from lattice_jax.lattice.adapter import Codec
from lattice_jax.training.checkpoint import Best, Checkpoints, abstract
from lattice_jax.training.loop import fit, initial_state, make_train_step
from lattice_jax.training.losses import internal_consistency
from lattice_jax.training.objectives import answer_from_pool, answer_questions, horizon
from lattice_jax.training.schedule import make_optimizer

QUESTIONS, ANSWERS = (embeddings[:12] for embeddings in real_embeddings())
LATTICE = LatticeConfig(
    grid=GridConfig(3, 4, 5),
    cell=CellConfig(visible=8, memory=8, hidden=16, perception="von_neumann"),
    update=UpdateConfig(rate=1.0),
    steps=6,
    minimum_arrival=0.0,
    engine="scan",
    remat="never",
)
TRAINING = TrainingConfig(steps=8, batch_size=4, evaluate_every=8, checkpoint_every=3, patience=0)
CONFIG = Config(
    lattice=LATTICE, training=TRAINING, pool=PoolConfig(size=10, minimum_steps=4, reseed_share=0.25, damage_share=0.25)
)
KEY = jax.random.key(4)


@functools.cache
def codec() -> Codec:
    return principal_codec(np.concatenate([QUESTIONS, ANSWERS]), 20)


@functools.cache
def data() -> dict[str, np.ndarray]:
    codes = {"question": np.asarray(codec().encode_questions(QUESTIONS)), "target": np.asarray(codec().encode_answers(ANSWERS))}
    return codes | {"answer": ANSWERS}


def batch() -> dict[str, jax.Array]:
    return {name: jnp.asarray(values[:4]) for name, values in data().items()}


@functools.cache
def parameters() -> dict:
    return quick_jit(functools.partial(cube.initialise, LATTICE))(key=jax.random.key(0))


@functools.cache
def asked(config: Config):
    compiled = quick_jit(answer_from_pool(codec(), config, None))
    return lambda memory, key=KEY: compiled(parameters(), batch(), memory, key=key)


def used() -> pool.Pool:
    """A pool in which every state was left by a question."""
    memory = pool.create(LATTICE, CONFIG.pool.size)
    for number in range(8):
        _, (_, memory) = asked(CONFIG)(memory, jax.random.fold_in(KEY, number))
    return memory


@pytest.mark.parametrize("size", [0, 10])
def test_a_step_leaves_the_types_that_it_found_so_that_it_is_compiled_once(size):
    settings, optimizer = dataclasses.replace(CONFIG.pool, size=size), make_optimizer(CONFIG.optimizer, 8)
    config = dataclasses.replace(CONFIG, pool=settings)
    objective = (answer_from_pool if size else answer_questions)(codec(), config, None)
    state = initial_state(parameters(), optimizer, pool.create(LATTICE, size) if size else None)
    after, _ = jax.eval_shape(make_train_step(objective, optimizer, state), state, batch(), KEY)
    types = [[(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)] for tree in (state, after)]
    assert types[0] == types[1]


def test_from_a_new_pool_the_loss_is_that_of_the_quiescent_start():
    config = dataclasses.replace(CONFIG, pool=PoolConfig(size=10, reseed_share=0.0, damage_share=0.0))
    loss, (metrics, _) = asked(config)(pool.create(LATTICE, 10))
    plain, plain_metrics = quick_jit(answer_questions(codec(), config, None))(parameters(), batch(), key=KEY)
    assert float(loss) == pytest.approx(float(plain), rel=1e-5)
    assert set(metrics) - set(plain_metrics) == {
        f"pool/{name}" for name in ("distance", "effective_rank", "collapsed", "age", "steps")
    }
    assert float(metrics["pool/steps"]) == LATTICE.steps


def test_what_questions_leave_is_written_back_to_as_many_places():
    memory = used()
    _, (metrics, written) = asked(CONFIG)(memory)
    changed = np.any(np.asarray(written.state.visible != memory.state.visible), (0, 1, 2, 4))
    assert changed.sum() == 4
    np.testing.assert_array_equal(np.asarray(written.age)[~changed], np.asarray(memory.age)[~changed])
    assert sorted(np.asarray(written.age - memory.age)[changed])[1:] == [1, 1, 1], "one of four was reseeded"
    assert np.asarray(written.age)[changed].min() == 1
    worst = np.argmax(np.where(changed, memory.loss, -1))
    assert int(written.age[worst]) == 1
    assert np.mean(np.asarray(written.loss)[changed]) == pytest.approx(float(metrics["dialogue_similarity"]), rel=1e-5)
    assert float(metrics["pool/effective_rank"]) > 1.1


def test_the_answer_depends_on_what_was_left():
    config = dataclasses.replace(CONFIG, pool=PoolConfig(size=10, reseed_share=0.0, damage_share=0.0))
    from_rest, from_used = (float(asked(config)(memory)[0]) for memory in (pool.create(LATTICE, 10), used()))
    assert abs(from_rest - from_used) > 1e-5
    hurt = dataclasses.replace(config, pool=PoolConfig(size=10, reseed_share=0.0, damage_share=1.0))
    assert abs(float(asked(hurt)(used())[0]) - from_used) > 1e-6


def test_passes_have_every_number_of_steps_in_the_range_and_no_other():
    drawn = [int(horizon(CONFIG, key=jax.random.key(seed))) for seed in range(60)]
    assert set(drawn) == {4, 5, 6}
    assert horizon(Config(), key=KEY) is None


def test_consistency_reads_the_last_steps_before_the_horizon():
    activity = jnp.array([[3.0], [1.0], [0.5], [0.0], [0.0]])
    assert float(internal_consistency(activity, 2, jnp.asarray(3, jnp.int32))[0]) == 0.75
    assert float(internal_consistency(activity, 2)[0]) == 0.0
    short = dataclasses.replace(CONFIG, pool=PoolConfig(minimum_steps=4, maximum_steps=4))
    four = dataclasses.replace(CONFIG, lattice=dataclasses.replace(LATTICE, steps=4), pool=PoolConfig())
    losses = [float(quick_jit(answer_questions(codec(), c, None))(parameters(), batch(), key=KEY)[0]) for c in (short, four)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


NATIVE = dataclasses.replace(CONFIG, lattice=dataclasses.replace(LATTICE, engine="native"))
"""Its passes compile in no time."""


def train(checkpoints: Checkpoints, steps: int):
    """Up to `steps`, from the last checkpoint where there is one; all but the objective depends on the whole run alone."""
    optimizer = make_optimizer(CONFIG.optimizer, TRAINING.steps, lambda params: dict.fromkeys(params, False))
    state, key = initial_state(jax.tree.map(jnp.copy, parameters()), optimizer, pool.create(LATTICE, 10)), KEY
    best = Best()
    if checkpoints.latest is not None:
        restored = checkpoints.restore(abstract(state))
        state, key, best = restored.state, restored.key, restored.best
    return fit(
        state,
        objective=answer_from_pool(codec(), NATIVE, None),
        optimizer=optimizer,
        data=data(),
        config=dataclasses.replace(TRAINING, steps=steps),
        key=key,
        validate=lambda params: {"figure": float(jnp.sum(params["injection"]))},
        selection="figure",
        checkpoints=checkpoints,
        gradient_metrics=functools.partial(cube.gradient_figures, config=NATIVE.lattice),
        best=best,
    )


def test_a_resumed_run_has_the_same_parameters_and_the_same_pool_bit_for_bit(tmp_path):
    whole, parts = Checkpoints(tmp_path / "whole"), Checkpoints(tmp_path / "parts")
    train(whole, TRAINING.steps)
    train(parts, 3)
    assert train(parts, TRAINING.steps).step == TRAINING.steps
    optimizer = make_optimizer(CONFIG.optimizer, TRAINING.steps, lambda params: dict.fromkeys(params, False))
    template = abstract(initial_state(parameters(), optimizer, pool.create(LATTICE, 10)))
    one, other = (checkpoints.restore(template).state for checkpoints in (whole, parts))
    assert int(jnp.max(one.memory.age)) > 1
    jax.tree.map(np.testing.assert_array_equal, other, one)
