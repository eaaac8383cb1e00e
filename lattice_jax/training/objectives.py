"""What is minimised: one objective a mode, all for the same loop.

Contract: `objective(params, batch, *, key) -> (loss, metrics)`, pure; metrics are scalars, raw and weighted.
"""

from typing import cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from lattice_jax.config import Config, LossConfig
from lattice_jax.lattice import cube
from lattice_jax.lattice.adapter import Adapter, Codec
from lattice_jax.lattice.firing import Read
from lattice_jax.training import losses
from lattice_jax.training.loop import Objective


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


def answer_questions(
    codec: Codec, config: Config, mesh: Mesh | None, candidates: Float[Array, "n teacher"] | None = None
) -> Objective:
    """The cube's objective: 0.3 surface reconstruction + 0.3 internal consistency + 0.4 dialogue similarity, as configured, and
    the contrastive loss where it weighs anything.

    Batch: `question` and `target`, codes [batch, code], and `answer`, the right answer's embedding [batch, teacher]; where the
    answer is a change of something (`answer.around`), also what is added to the cube's output, `shift` [batch, code], and to
    the decoded sum, `remainder` [batch, teacher]. `candidates`: answers that the right one is told apart from, for the
    contrastive loss alone.
    """
    read, weights = read_by_losses(config.loss), config.loss

    def objective(params, batch, *, key) -> tuple[Array, dict[str, Array]]:
        mask_key, candidate_key = jax.random.split(key)
        answer = cube.answer(params, batch["question"], key=mask_key, config=config.lattice, sampled=True, mesh=mesh, read=read)
        if config.answer.around == "nothing":
            code, decoded = answer.vectors, codec.decode(answer.vectors)
        else:
            code = answer.vectors + batch["shift"]
            decoded = codec.decode(code) + batch["remainder"]
        raw = {
            "surface_reconstruction": losses.surface_reconstruction(code, batch["target"]),
            "internal_consistency": losses.internal_consistency(answer.propagation.activity, weights.consistency_steps),
            "dialogue_similarity": losses.dialogue_similarity(decoded, batch["answer"]),
        }
        if candidates is not None and weights.contrastive > 0:
            others = drawn_rows(candidates, weights.contrastive_candidates, key=candidate_key)
            raw["contrastive"] = losses.contrastive(decoded, batch["answer"], others, weights.contrastive_temperature)
        raw = {name: jnp.mean(values) for name, values in raw.items()}
        weighted = {f"weighted_{name}": getattr(weights, name) * value for name, value in raw.items()}
        loss = jnp.sum(jnp.stack(list(weighted.values())))
        return loss, {**raw, **weighted, "similarity": 1 - raw["dialogue_similarity"]}

    return objective


def drawn_rows(values: Float[Array, "n width"], count: int, *, key: PRNGKeyArray) -> Float[Array, "m width"]:
    """All rows where there are no more than `count`, else `count` of them, drawn with replacement."""
    if len(values) <= count:
        return values
    return values[jax.random.randint(key, (count,), 0, len(values))]
