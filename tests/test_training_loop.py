"""The order of samples, one step, and when a run stops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_task as task
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lattice_jax.config import OptimizerConfig, TrainingConfig
from lattice_jax.errors import InputError
from lattice_jax.training.checkpoint import Checkpoints, abstract
from lattice_jax.training.loop import NonFiniteLoss, batch_indices, fit, initial_state, make_train_step
from lattice_jax.training.monitor import Monitor
from lattice_jax.training.schedule import make_optimizer


@pytest.mark.parametrize(("samples", "batch_size"), [(50, 12), (12, 12), (7, 1), (5, 13)])
def test_every_sample_comes_once_an_epoch(samples, batch_size):
    key, epochs = jax.random.key(3), 4
    steps = -(-samples * epochs // batch_size)
    batches = [batch_indices(key, step, samples=samples, batch_size=batch_size) for step in range(steps)]
    assert {len(batch) for batch in batches} == {batch_size}
    order = np.concatenate(batches)[: samples * epochs].reshape(epochs, samples)
    for epoch in order:
        assert sorted(epoch) == list(range(samples))
    assert not np.array_equal(order[0], order[1])


def test_batch_is_a_function_of_key_and_step_alone():
    def indices(seed, step):
        return batch_indices(jax.random.key(seed), step, samples=50, batch_size=12).tolist()

    forward = [indices(0, step) for step in range(30)]
    backward = [indices(0, step) for step in reversed(range(30))]
    assert forward == backward[::-1]
    assert indices(1, 5) != forward[5]


def start(params=None, config=task.OPTIMIZER, steps=task.TRAINING.steps):
    optimizer = make_optimizer(config, steps, task.decay_matrices)
    return initial_state(params or task.initial_params(), optimizer), optimizer


def train(
    config: TrainingConfig, *, objective=task.objective, optimizer_config=task.OPTIMIZER, validate=None, data=None, **keywords
):
    state, optimizer = start(config=optimizer_config, steps=config.steps)
    train_data, held_out = task.load()
    measure = jax.jit(task.similarity)
    return fit(
        state,
        objective=objective,
        optimizer=optimizer,
        data=data or train_data,
        config=config,
        key=jax.random.key(0),
        validate=validate or (lambda params: {"validation_similarity": measure(params, held_out)}),
        selection="validation_similarity",
        **keywords,
    )


def test_step_equals_the_update_written_out():
    state, optimizer = start()
    batch, key = {name: values[:12] for name, values in task.load()[0].items()}, jax.random.key(5)
    step_key = jax.random.fold_in(key, 0)
    gradients = jax.jit(jax.grad(lambda params: task.objective(params, batch, key=step_key)[0]))(state.params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(optimizer.update)(gradients, state.optimizer_state, state.params)
    expected = optax.apply_updates(state.params, updates)
    norm = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradients)) ** 0.5

    before = state.params["hidden"]["kernel"]
    after, metrics = make_train_step(task.objective, optimizer, state)(state, batch, key)
    assert before.is_deleted(), "the state is donated"
    assert int(after.step) == 1
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-5)
    assert float(metrics["loss"]) == pytest.approx(1 - float(metrics["similarity"]), abs=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, expected)


def test_each_step_draws_its_own_randomness():
    state, optimizer = start(config=OptimizerConfig(warmup_steps=10))  # the first rate is 0: parameters stay the same
    batch, train_step = (
        {name: values[:12] for name, values in task.load()[0].items()},
        make_train_step(task.objective, optimizer, state),
    )
    state, first = train_step(state, batch, jax.random.key(5))
    _, second = train_step(state, batch, jax.random.key(5))
    assert float(first["loss"]) != float(second["loss"])


def test_sharded_parameters_stay_where_they_are_and_compile_once():
    mesh = jax.make_mesh((2,), ("cells",), axis_types=(AxisType.Auto,))
    split, everywhere = NamedSharding(mesh, PartitionSpec(None, "cells")), NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(lambda leaf: jax.device_put(leaf, split if leaf.ndim > 1 else everywhere), task.initial_params())
    state, optimizer = start(params)
    plain, _ = start()
    batch, train_step = (
        {name: values[:12] for name, values in task.load()[0].items()},
        make_train_step(task.objective, optimizer, state),
    )
    plain_step = make_train_step(task.objective, optimizer, plain)
    for _ in range(3):
        state, metrics = train_step(state, batch, jax.random.key(5))
        plain, plain_metrics = plain_step(plain, batch, jax.random.key(5))
        assert float(metrics["loss"]) == pytest.approx(float(plain_metrics["loss"]), abs=1e-5)
    assert train_step._cache_size() == 1
    assert state.params["hidden"]["kernel"].sharding == split
    assert optax.tree.get(state.optimizer_state, "mu")["output"]["kernel"].sharding == split


def test_learns_and_returns_the_best():
    looks = []
    _, held_out = task.load()

    def validate(params):
        looks.append(float(task.similarity(params, held_out)))
        return {"validation_similarity": looks[-1]}

    result = train(TrainingConfig(steps=110, batch_size=12, evaluate_every=20, patience=0), validate=validate)
    assert len(looks) == 7, "before the first step, every 20 steps, and at the last"
    assert looks[-1] > 0.8 > looks[0]
    assert result.best == (110, looks[-1], 0)
    assert not result.stopped_early
    assert float(task.similarity(result.params, held_out)) == looks[-1]


def test_patience_stops_the_run_and_keeps_the_best(tmp_path):
    figures = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9, 0.9]
    seen = []

    def validate(params):
        seen.append(params["hidden"]["kernel"][0, 0].item())
        return {"validation_similarity": figures[len(seen) - 1]}

    config = TrainingConfig(steps=60, batch_size=12, evaluate_every=10, patience=3, checkpoint_every=25)
    for checkpoints in (None, Checkpoints(tmp_path)):
        seen.clear()
        result = train(config, validate=validate, checkpoints=checkpoints)
        assert result.stopped_early
        assert result.step == 40, "a tie is no improvement, so three looks after step 10 brought nothing"
        assert result.best == (10, 0.5, 3)
        assert result.params["hidden"]["kernel"][0, 0].item() == seen[1]
    assert checkpoints.latest == 40


def test_patience_counts_on_after_a_resume(tmp_path):
    figures = iter([0.5, 0.4, 0.3])

    def validate(params):
        return {"validation_similarity": next(figures)}

    checkpoints = Checkpoints(tmp_path)
    config = TrainingConfig(steps=10, batch_size=12, evaluate_every=10, patience=2)
    assert train(config, validate=validate, checkpoints=checkpoints).best == (0, 0.5, 1)
    state, optimizer = start()
    restored = checkpoints.restore(abstract(state))
    result = fit(
        restored.state,
        objective=task.objective,
        optimizer=optimizer,
        data=task.load()[0],
        config=dataclasses.replace(config, steps=60),
        key=restored.key,
        validate=validate,
        selection="validation_similarity",
        best=restored.best,
        checkpoints=checkpoints,
    )
    assert (result.step, result.stopped_early, result.best) == (20, True, (0, 0.5, 2))
    jax.tree.map(np.testing.assert_array_equal, result.params, task.initial_params())


def test_non_finite_loss_names_the_step_and_leaves_the_checkpoint(tmp_path):
    def diverging(params, batch, *, key):
        loss, metrics = task.objective(params, batch, key=key)
        # The root, and its gradient, leave their domain as soon as training has brought the loss below 0.2.
        return loss + 0 * jnp.sqrt(loss - 0.2), metrics

    checkpoints = Checkpoints(tmp_path)
    config = TrainingConfig(steps=240, batch_size=12, evaluate_every=240, patience=0, checkpoint_every=5)
    with pytest.raises(NonFiniteLoss, match=r"loss is nan at step \d+\n.*finite") as caught:
        train(config, objective=diverging, checkpoints=checkpoints)
    assert isinstance(caught.value, InputError)
    assert "optimizer.learning_rate" in caught.value.fix
    assert f"the checkpoint of step {checkpoints.latest} is untouched" in caught.value.fix
    assert 0 < caught.value.step - checkpoints.latest <= 5
    state, _ = start()
    restored = checkpoints.restore(state).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored))


def test_non_finite_validation_is_refused():
    with pytest.raises(NonFiniteLoss, match="validation_similarity is nan at step 0"):
        train(task.TRAINING, validate=lambda params: {"validation_similarity": float("nan")})


@pytest.mark.parametrize(
    ("asynchronous", "order"),
    [
        (True, [0, "dispatch", "dispatch", 1, "dispatch", 2, 3, "dispatch", 4]),
        (False, [0, "dispatch", 1, "dispatch", 2, "dispatch", 3, "dispatch", 4]),
    ],
)
def test_next_step_is_dispatched_before_the_last_one_is_recorded_where_it_does_not_wait_for_it(request, asynchronous, order):
    flag, events = "jax_cpu_enable_async_dispatch", []
    request.addfinalizer(functools.partial(jax.config.update, flag, jax.config.read(flag)))
    jax.config.update(flag, asynchronous)

    class Data(dict):
        def items(self):
            events.append("dispatch")
            return super().items()

    class Recorder(Monitor):
        def __init__(self):
            pass

        def record(self, step, metrics):
            events.append(step)

    config = TrainingConfig(steps=4, batch_size=12, evaluate_every=3, patience=0)
    train(config, data=Data(task.load()[0]), monitor=Recorder())
    assert events == order


@pytest.mark.parametrize("size", [1, 4, 12])
def test_micro_batches_sum_up_to_the_step_of_the_whole_batch(size):
    def quiet(params, batch, *, key):
        del key
        value = task.similarity(params, batch)
        return 1 - value, {"similarity": value}

    data, _ = task.load()
    batch = {name: values[:12] for name, values in data.items()}
    outcomes = []
    for micro_batch in (0, size):
        state, optimizer = start()
        outcomes.append(make_train_step(quiet, optimizer, state, micro_batch=micro_batch)(state, batch, jax.random.key(1)))
    (whole, metrics), (parts, parts_metrics) = outcomes
    assert metrics["gradient_norm"] > 0.01
    for found, expected in zip(jax.tree.leaves((parts, parts_metrics)), jax.tree.leaves((whole, metrics)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_memory_goes_from_step_to_step_and_from_part_to_part():
    def counting(params, batch, memory, *, key):
        loss, metrics = task.objective(params, batch, key=key)
        return loss, (metrics, {"samples": memory["samples"] + len(batch["question"]), "parts": memory["parts"] + 1})

    batch = {name: values[:12] for name, values in task.load()[0].items()}
    for micro_batch, parts in ((0, 1), (4, 3)):
        optimizer = make_optimizer(task.OPTIMIZER, 10, task.decay_matrices)
        nothing = {"samples": jnp.zeros((), jnp.int32), "parts": jnp.zeros((), jnp.int32)}
        state = initial_state(task.initial_params(), optimizer, nothing)
        train_step = make_train_step(counting, optimizer, state, micro_batch=micro_batch)
        for _ in range(2):
            state, _ = train_step(state, batch, jax.random.key(1))
        assert (int(state.memory["samples"]), int(state.memory["parts"])) == (24, 2 * parts)


def test_metrics_of_the_gradients_are_recorded_beside_the_objectives_own():
    state, optimizer = start()
    batch = {name: values[:12] for name, values in task.load()[0].items()}
    train_step = make_train_step(
        task.objective, optimizer, state, gradient_metrics=lambda gradients: {"gradient/all": optax.tree.norm(gradients)}
    )
    _, metrics = train_step(state, batch, jax.random.key(5))
    assert float(metrics["gradient/all"]) == float(metrics["gradient_norm"]) > 0


def test_every_micro_batch_draws_its_own_random_numbers():
    def drawn(params, batch, *, key):
        value = jax.random.uniform(key)
        return 0 * task.similarity(params, batch) + value, {}

    data, _ = task.load()
    batch = {name: values[:4] for name, values in data.items()}
    losses = []
    for micro_batch in (0, 4, 2, 1):
        state, optimizer = start()
        losses.append(
            float(make_train_step(drawn, optimizer, state, micro_batch=micro_batch)(state, batch, jax.random.key(1))[1]["loss"])
        )
    assert len(set(losses)) == 4
