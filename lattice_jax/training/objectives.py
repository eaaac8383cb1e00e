"""What is minimised: one objective a mode, all for the same loop.

Contract: `objective(params, batch, *, key) -> (loss, metrics)`, pure; metrics are scalars, raw and weighted.
"""

from typing import cast

import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

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


def answer_questions(codec: Codec, config: Config, mesh: Mesh | None) -> Objective:
    """The cube's objective: 0.3 surface reconstruction + 0.3 internal consistency + 0.4 dialogue similarity, as configured.

    Batch: `question` and `target`, codes [batch, code], and `answer`, the right answer's embedding [batch, teacher].
    """

    read = read_by_losses(config.loss)

    def objective(params, batch, *, key) -> tuple[Array, dict[str, Array]]:
        answer = cube.answer(params, batch["question"], key=key, config=config.lattice, sampled=True, mesh=mesh, read=read)
        raw = {
            "surface_reconstruction": losses.surface_reconstruction(answer.vectors, batch["target"]),
            "internal_consistency": losses.internal_consistency(answer.propagation.activity, config.loss.consistency_steps),
            "dialogue_similarity": losses.dialogue_similarity(codec.decode(answer.vectors), batch["answer"]),
        }
        raw = {name: jnp.mean(values) for name, values in raw.items()}
        weighted = {f"weighted_{name}": getattr(config.loss, name) * value for name, value in raw.items()}
        loss = jnp.sum(jnp.stack(list(weighted.values())))
        return loss, {**raw, **weighted, "similarity": 1 - raw["dialogue_similarity"]}

    return objective
