"""The one training loop, for every objective.

Contract: an objective is a pure function `objective(params, batch, *, key) -> (loss, metrics)`; modes differ by objective,
never by a second loop. One that remembers, `objective(params, batch, memory, *, key) -> (loss, (metrics, memory))`, gets the
memory that the step before left, which is part of the state and of every checkpoint. Step s depends on the state, the base key
and s alone: its batch is a pure function of (key, s) and its random key is `fold_in(key, s)`, so a resumed run equals an
uninterrupted one bit for bit. Each step is dispatched before the metrics of the one before are fetched (after
google-deepmind/nanodo), and nothing is saved before its loss is known to be finite.
"""

import functools
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from lattice_jax.config import TrainingConfig
from lattice_jax.training.alerts import NonFinite
from lattice_jax.training.checkpoint import Best, Checkpoints, Receipt, abstract
from lattice_jax.training.monitor import Monitor
from lattice_jax.training.schedule import Optimizer

CALMED_BY = (
    "lower --config.optimizer.learning_rate or --config.optimizer.gradient_clip, or raise --config.optimizer.warmup_steps"
)
"""What mends a cube that diverges."""


class Objective(Protocol):
    """What is minimised: the mean loss of a batch, and scalars to record."""

    def __call__(self, params: Any, batch: dict[str, Array], *, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]: ...


class RememberingObjective(Protocol):
    """An objective that also takes a memory, any pytree of arrays, and returns the next one."""

    def __call__(
        self, params: Any, batch: dict[str, Array], memory: Any, *, key: PRNGKeyArray
    ) -> tuple[Array, tuple[dict[str, Array], Any]]: ...


GradientMetrics = Callable[[Any], dict[str, Array]]
"""Gradients of the parameters to scalars to record."""

Validate = Callable[[Any], Mapping[str, float]]
"""Parameters to the figures that choices are made by."""


class TrainState(NamedTuple):
    """Everything that a step changes."""

    params: Any
    optimizer_state: Any
    step: Int32[Array, ""]
    """Updates made so far."""
    memory: Any = None
    """What a remembering objective hands from one step to the next; None where nothing is remembered."""


class FitResult(NamedTuple):
    """What `fit` leaves."""

    params: Any
    """The best parameters, not the last ones."""
    best: Best
    step: int
    stopped_early: bool
    checkpoint: Receipt | None
    """The last checkpoint, with its size and the seconds it took."""


class Interrupted(KeyboardInterrupt):
    """Training ended at a signal, after a whole step; where there are checkpoints, that step is saved."""

    def __init__(self, step: int):
        super().__init__(f"interrupted after step {step}")
        self.step = step


class NonFiniteLoss(NonFinite):
    """A metric stopped being a number: the settings make the run diverge."""

    def __init__(self, name: str, value: float, step: int, checkpoints: Checkpoints | None, fix: str = CALMED_BY):
        saved = None if checkpoints is None else checkpoints.latest
        kept = "" if saved is None else f"; the checkpoint of step {saved} is untouched, --resume continues from it"
        super().__init__(
            f"{name} is {value} at step {step}",
            step=step,
            expected="a finite number",
            fix=f"{fix}{kept}",
        )


def initial_state(params: Any, optimizer: Optimizer, memory: Any = None) -> TrainState:
    """The state before the first step: moments lie where their parameters do, counters and memory on all devices of `params`.

    Optax creates counters on the default device; left there, the first step would move them and the second compile again.
    """
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), memory)
    shardings = [leaf.sharding for leaf in jax.tree.leaves(params)]
    meshes = [sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)]
    counter_sharding = NamedSharding(meshes[0], PartitionSpec()) if meshes else shardings[0]
    return jax.tree.map(lambda leaf: leaf if leaf.committed else jax.device_put(leaf, counter_sharding), state)


def in_micro_batches(differentiate: Callable, params: Any, batch: dict[str, Array], memory: Any, key: PRNGKeyArray, size: int):
    """`differentiate(params, batch, memory, key=)` as the mean over parts of `size` samples, each with a key of its own.

    Losses and metrics that are means over samples, and their gradients, are those of the whole batch. Each part gets the memory
    that the one before left.
    """
    samples = len(next(iter(batch.values())))
    parts = jax.tree.map(lambda values: values.reshape(samples // size, size, *values.shape[1:]), batch)
    keys = jax.random.split(key, samples // size)

    def add(carried, part):
        total, memory = carried
        (loss, (metrics, memory)), gradients = differentiate(params, part[0], memory, key=part[1])
        return (jax.tree.map(jnp.add, total, (loss, metrics, gradients)), memory), None

    first = jax.tree.map(lambda values: values[0], parts)
    (loss, (metrics, memory)), gradients = differentiate(params, first, memory, key=keys[0])
    rest = (jax.tree.map(lambda values: values[1:], parts), keys[1:])
    (total, memory), _ = jax.lax.scan(add, ((loss, metrics, gradients), memory), rest)
    loss, metrics, gradients = jax.tree.map(lambda value: value * (size / samples), total)
    return (loss, (metrics, memory)), gradients


def make_train_step(
    objective: Objective | RememberingObjective,
    optimizer: Optimizer,
    like: TrainState,
    *,
    micro_batch: int = 0,
    gradient_metrics: GradientMetrics | None = None,
) -> Callable:
    """The jitted `step(state, batch, key) -> (state, metrics)`; `state` is donated, so the caller's copy is gone.

    The objective is a remembering one where `like` holds a memory. With `micro_batch` the gradient is computed for so many
    samples at a time.

    Every leaf of the new state lies where it lies in `like`: left to itself, the compiler may spread a leaf differently from
    one step to the next, which compiles again and makes a resumed run add up in another order. The metrics are the
    objective's own, with "loss", "gradient_norm" (global, before clipping) and those that `gradient_metrics` finds.
    """
    placement = jax.tree.map(lambda leaf: leaf.sharding, like)
    remembering = cast(RememberingObjective, objective) if like.memory is not None else _forgetful(cast(Objective, objective))

    @functools.partial(jax.jit, donate_argnames="state", out_shardings=(placement, None))
    def train_step(
        state: TrainState, batch: dict[str, Array], key: PRNGKeyArray
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        differentiate, drawn = jax.value_and_grad(remembering, has_aux=True), jax.random.fold_in(key, state.step)
        if micro_batch:
            found = in_micro_batches(differentiate, state.params, batch, state.memory, drawn, micro_batch)
        else:
            found = differentiate(state.params, batch, state.memory, key=drawn)
        (loss, (metrics, memory)), gradients = found
        params, optimizer_state, norm = optimizer.apply(gradients, state.optimizer_state, state.params)
        metrics = {"loss": loss, "gradient_norm": norm, **metrics}
        if gradient_metrics:
            metrics |= gradient_metrics(gradients)
        return TrainState(params, optimizer_state, state.step + 1, memory), metrics

    return train_step


def _forgetful(objective: Objective) -> RememberingObjective:
    """An objective without memory, called as one that has it."""

    def remembering(params, batch, memory, *, key):
        loss, metrics = objective(params, batch, key=key)
        return loss, (metrics, memory)

    return remembering


def batch_indices(key: PRNGKeyArray, step: int, *, samples: int, batch_size: int) -> np.ndarray:
    """Which samples step `step` sees: `batch_size` places in an endless sequence of permutations, one an epoch.

    Every sample comes exactly once an epoch; batches are always full, so they may straddle epochs. Costs the same for any step.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, positions = places // samples, places % samples
    key_data = tuple(jax.random.key_data(key).tolist())
    orders = {epoch: _epoch_order(key_data, epoch, samples) for epoch in np.unique(epochs).tolist()}
    return np.array([orders[epoch][position] for epoch, position in zip(epochs.tolist(), positions.tolist(), strict=True)])


@functools.lru_cache(maxsize=2)
def _epoch_order(key_data: tuple[int, ...], epoch: int, samples: int) -> np.ndarray:
    key = jax.random.wrap_key_data(jnp.array(key_data, jnp.uint32))
    return np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), samples))


class Interruption:
    """Ctrl-C and SIGTERM as a request that the loop honours between two steps; the second one acts at once."""

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "Interruption":
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        self.__exit__()
        # print() is not re-entrant, and the signal may have come in the middle of one.
        os.write(sys.stderr.fileno(), b"\nStopping after this step; once more stops at once, without saving.\n")


class Start(NamedTuple):
    """Where training begins: afresh, or where a checkpoint left it."""

    state: TrainState
    key: jax.Array
    best: Best

    @property
    def rows_kept(self) -> int:
        """The last step whose metrics stay: none of them for a run that begins afresh."""
        return int(self.state.step) if self.best.step is not None else -1


def start_or_continue(checkpoints: Checkpoints, fresh: Callable[[], TrainState], key: jax.Array) -> Start:
    """The last checkpoint in the folder, or a fresh state where there is none."""
    if checkpoints.latest is None:
        return Start(fresh(), key, Best())
    restored = checkpoints.restore(abstract(fresh()))
    return Start(restored.state, restored.key, restored.best)


class _DeviceCopy:
    """Keeps the best parameters in device memory, for runs without checkpoints."""

    def save_best(self, params: Any, step: int) -> None:
        self._params = jax.tree.map(jnp.copy, params)

    def restore_best(self, template: Any, step: int | None) -> Any:
        return self._params


def fit(
    state: TrainState,
    *,
    objective: Objective | RememberingObjective,
    optimizer: Optimizer,
    data: dict[str, np.ndarray],
    config: TrainingConfig,
    key: PRNGKeyArray,
    validate: Validate,
    selection: str,
    best: Best = Best(),  # noqa: B008, an immutable tuple
    checkpoints: Checkpoints | None = None,
    monitor: Monitor | None = None,
    gradient_metrics: GradientMetrics | None = None,
    calmed_by: str = CALMED_BY,
) -> FitResult:
    """Trains from `state.step` to `config.steps`, or until patience is spent; returns the best parameters.

    `data` is gathered on the host, by samples along the leading axis. `validate` is asked before the first step, every
    `evaluate_every` steps and at the last; its figure `selection` (higher is better) chooses the best. To resume, pass state,
    key and best of `Checkpoints.restore`. `state` is donated. Raises `NonFiniteLoss`, whose fix is `calmed_by`, and leaves the
    last checkpoint as it was; raises `Interrupted`, with the step saved, after Ctrl-C.
    """
    order_key, step_key = jax.random.split(key)
    samples = len(next(iter(data.values())))
    train_step = make_train_step(objective, optimizer, state, micro_batch=config.micro_batch, gradient_metrics=gradient_metrics)
    keeper = checkpoints or _DeviceCopy()
    fetch = functools.partial(_fetch, checkpoints=checkpoints, fix=calmed_by)

    def record(step: int, metrics: Mapping[str, float]) -> None:
        if monitor:
            monitor.record(step, metrics)

    def look(step: int, metrics: Mapping[str, float]) -> Best:
        figures = fetch(step, validate(state.params))
        record(step, {**metrics, **figures})
        updated = best.after_look(step, figures[selection])
        if updated.step == step:
            keeper.save_best(state.params, step)
        return updated

    step, pending, receipt, ahead = int(state.step), None, None, _dispatches_ahead()
    if checkpoints:
        checkpoints.require_start(step)
    with Interruption() as interruption:
        if best.step is None:
            best = look(step, {})
        while step < config.steps and not best.patience_spent(config.patience) and not interruption.requested:
            indices = batch_indices(order_key, step, samples=samples, batch_size=config.batch_size)
            state, metrics = train_step(state, {name: values[indices] for name, values in data.items()}, step_key)
            if pending:
                record(step, fetch(step, pending))
            step, pending = step + 1, metrics
            looking = step % config.evaluate_every == 0 or step == config.steps
            saving = checkpoints is not None and step % config.checkpoint_every == 0
            if looking:
                best, pending = look(step, fetch(step, pending)), None
            elif saving or not ahead:
                record(step, fetch(step, pending))
                pending = None
            if checkpoints and saving:
                receipt = checkpoints.save(step, state, key=key, best=best)
        if pending:
            record(step, fetch(step, pending))
        if checkpoints and checkpoints.latest != step:
            receipt = checkpoints.save(step, state, key=key, best=best)
    if interruption.requested:
        raise Interrupted(step)
    template = abstract(state.params)
    del state  # room for the best parameters
    params = keeper.restore_best(template, best.step)
    return FitResult(params, best, step, best.patience_spent(config.patience), receipt)


def _dispatches_ahead() -> bool:
    """Whether a step is only asked for, and computed while the one before it is recorded."""
    return jax.default_backend() != "cpu" or bool(jax.config.read("jax_cpu_enable_async_dispatch"))


def _fetch(step: int, metrics: Mapping[str, Any], *, checkpoints: Checkpoints | None, fix: str) -> dict[str, float]:
    """The metrics as numbers on the host; refuses one that is not finite."""
    values = {name: float(value) for name, value in metrics.items()}
    for name, value in sorted(values.items(), key=lambda item: item[0] != "loss"):  # the loss tells most, so it is named first
        if not math.isfinite(value):
            raise NonFiniteLoss(name, value, step, checkpoints, fix)
    return values
