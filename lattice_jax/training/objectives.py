"""What is minimised: one objective a mode, all for the same loop.

Contract: `objective(params, batch, *, key) -> (loss, metrics)`, pure; metrics are scalars, raw and weighted. One that starts
from what earlier questions left behind is `objective(params, batch, memory, *, key) -> (loss, (metrics, memory))`.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from lattice_jax.config import Config, LossConfig
from lattice_jax.lattice import cube, pool
from lattice_jax.lattice.adapter import Adapter, Codec
from lattice_jax.lattice.firing import Horizon, Read
from lattice_jax.lattice.pool import Pool
from lattice_jax.lattice.step import State
from lattice_jax.training import losses
from lattice_jax.training.loop import Objective, RememberingObjective


def reproduce_embeddings(adapter: Adapter) -> Objective:
    """The adapter's objective: an embedding comes back as it went in. Batch: `embedding` [batch, teacher]."""

    def objective(params, batch, *, key) -> tuple[Array, dict[str, Array]]:
        del key
        reproduced = cast(Array, adapter.apply(params, batch["embedding"]))
        distance = optax.losses.cosine_distance(reproduced, batch["embedding"], epsilon=1e-6)
        return jnp.mean(distance), {"similarity": 1 - jnp.mean(distance)}

    return objective


def read_by_losses(config: LossConfig) -> Read:
    """What the cube's losses need of a pass: internal consistency reads all cells, the others the output face."""
    return "cube" if config.internal_consistency > 0 else "output"


class Left(NamedTuple):
    """What a batch of questions leaves behind."""

    state: State
    loss: Float[Array, " batch"]
    """Of each answer: its cosine distance from the right one."""


Candidates = Float[Array, "n teacher"]
"""Answers that the right one is told apart from, for the contrastive loss alone."""


def _questions_asked(
    codec: Codec, config: Config, mesh: Mesh | None, read: Read, candidates: Candidates | None
) -> Callable[..., tuple[Array, dict, Left]]:
    """The cube's losses of a batch, from any start: (loss, metrics, what is left)."""
    weights = config.loss
    if weights.contrastive == 0:
        candidates = None

    def ask(params, batch, *, key, start: State | None, horizon: Horizon | None) -> tuple[Array, dict[str, Array], Left]:
        mask_key, candidate_key = jax.random.split(key) if candidates is not None else (key, key)
        answer = cube.answer(
            params,
            noisy(batch["question"], config.training.question_noise, key=key),
            key=mask_key,
            config=config.lattice,
            sampled=True,
            mesh=mesh,
            read=read,
            start=start,
            horizon=horizon,
        )
        if config.answer.around == "nothing":
            code, decoded = answer.vectors, codec.decode(answer.vectors)
        else:
            code = answer.vectors + batch["shift"]
            decoded = codec.decode(code) + batch["remainder"]
        activity, last = answer.propagation.activity, weights.consistency_steps
        by_sample = {
            "surface_reconstruction": losses.surface_reconstruction(code, batch["target"]),
            "internal_consistency": losses.internal_consistency(activity, last, horizon),
            "dialogue_similarity": losses.dialogue_similarity(decoded, batch["answer"]),
        }
        if candidates is not None:
            others = drawn_rows(candidates, weights.contrastive_candidates, key=candidate_key)
            by_sample["contrastive"] = losses.contrastive(decoded, batch["answer"], others, weights.contrastive_temperature)
        raw = {name: jnp.mean(values) for name, values in by_sample.items()}
        weighted = {f"weighted_{name}": getattr(weights, name) * value for name, value in raw.items()}
        loss = jnp.sum(jnp.stack(list(weighted.values())))
        left = jax.lax.stop_gradient(Left(answer.propagation.state, by_sample["dialogue_similarity"]))
        return loss, {**raw, **weighted, "similarity": 1 - raw["dialogue_similarity"]}, left

    return ask


def answer_questions(codec: Codec, config: Config, mesh: Mesh | None, candidates: Candidates | None = None) -> Objective:
    """The cube's objective: 0.3 surface reconstruction + 0.3 internal consistency + 0.4 dialogue similarity, as configured, and
    the contrastive loss where it weighs anything.

    Batch: `question` and `target`, codes [batch, code], and `answer`, the right answer's embedding [batch, teacher]; where the
    answer is a change of something (`answer.around`), also what is added to the cube's output, `shift` [batch, code], and to
    the decoded sum, `remainder` [batch, teacher]. `candidates`: answers that the right one is told apart from, for the
    contrastive loss alone.
    """
    ask = _questions_asked(codec, config, mesh, read_by_losses(config.loss), candidates)

    def objective(params, batch, *, key) -> tuple[Array, dict[str, Array]]:
        horizon_key, mask_key = jax.random.split(key) if draws_horizon(config) else (key, key)
        loss, metrics, _ = ask(params, batch, key=mask_key, start=None, horizon=horizon(config, key=horizon_key))
        return loss, metrics

    return objective


def answer_from_pool(
    codec: Codec, config: Config, mesh: Mesh | None, candidates: Candidates | None = None
) -> RememberingObjective:
    """`answer_questions` where the cube begins as earlier questions left it (Mordvintsev et al. 2020).

    Of every batch of start states, drawn from the pool without replacement, those with the worst last answers are made
    quiescent and those with the best are damaged, as `config.pool` says; what the questions leave is written back. `memory` is
    the pool.
    """
    ask, settings = _questions_asked(codec, config, mesh, "cube", candidates), config.pool

    def objective(params, batch, memory: Pool, *, key) -> tuple[Array, tuple[dict[str, Array], Pool]]:
        draw_key, damage_key, horizon_key, mask_key = jax.random.split(key, 4)
        samples = len(batch["question"])
        places, drawn = pool.draw(memory, samples, key=draw_key)
        drawn = pool.reseed(drawn, round(settings.reseed_share * samples))
        damaged = round(settings.damage_share * samples)
        begun = pool.damage_best(drawn, damaged, settings, config.lattice.grid, key=damage_key)
        steps = horizon(config, key=horizon_key)
        loss, metrics, left = ask(params, batch, key=mask_key, start=begun.state, horizon=steps)
        found = pool.diversity(left.state)
        shown = {
            "pool/distance": found.distance,
            "pool/effective_rank": found.effective_rank,
            "pool/collapsed": pool.collapsed(found, settings).astype(jnp.float32),
            "pool/age": jnp.mean(drawn.age.astype(jnp.float32)),
            "pool/steps": jnp.asarray(config.lattice.steps if steps is None else steps, jnp.float32),
        }
        written = pool.write_back(memory, places, Pool(left.state, drawn.age + 1, left.loss))
        return loss, ({**metrics, **shown}, written)

    return objective


NOISE = 1_000_003
"""Folded into the key, so that masks and candidates don't depend on whether there is noise. Splitting a key may fold in the
numbers from 0 on, and the masks' key is split by lattice steps, so this one is far from them."""


def noisy(codes: Float[Array, "batch code"], amount: float, *, key: PRNGKeyArray) -> Float[Array, "batch code"]:
    """Codes with Gaussian noise, `amount` times the root mean square of each: learning from it is learning with a penalty on
    how fast answers change with the question (Bishop 1995, "Training with noise is equivalent to Tikhonov regularization")."""
    if amount == 0:
        return codes
    scale = amount * jnp.sqrt(jnp.mean(codes**2, axis=1, keepdims=True))
    return codes + scale * jax.random.normal(jax.random.fold_in(key, NOISE), codes.shape)


def draws_horizon(config: Config) -> bool:
    """Whether training passes are of a random number of steps, or of another number than `lattice.steps`."""
    return config.horizons() != (config.lattice.steps, config.lattice.steps)


def horizon(config: Config, *, key: PRNGKeyArray) -> Horizon | None:
    """The number of lattice steps of one training pass, each from the fewest to the most equally likely; None for all."""
    if not draws_horizon(config):
        return None
    fewest, most = config.horizons()
    return jax.random.randint(key, (), fewest, most + 1)


def drawn_rows(values: Float[Array, "n width"], count: int, *, key: PRNGKeyArray) -> Float[Array, "m width"]:
    """All rows where there are no more than `count`, else `count` of them, drawn with replacement."""
    if len(values) <= count:
        return values
    return values[jax.random.randint(key, (count,), 0, len(values))]
