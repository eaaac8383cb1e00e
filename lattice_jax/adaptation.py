"""The adapter of a run: trained on all text at hand but held-out pairs, frozen, laid out on the faces, and measured.

Contract: what it leaves in `<workdir>/adapter` is all that a later process needs to get the same codec; nothing is fitted again
that was saved, because singular vectors come with other signs from another machine.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lattice_jax.alignment import align
from lattice_jax.config import Config, OptimizerConfig, TrainingConfig
from lattice_jax.evaluation.similarity import cosine_similarity
from lattice_jax.lattice.adapter import Adapter, Codec, Turns, freeze, principal_components, principal_start
from lattice_jax.material import Material
from lattice_jax.training.checkpoint import Best, Checkpoints, abstract
from lattice_jax.training.loop import fit, initial_state, start_or_continue
from lattice_jax.training.monitor import Monitor
from lattice_jax.training.objectives import reproduce_embeddings
from lattice_jax.training.schedule import make_optimizer


def make_adapter(config: Config, material: Material) -> Adapter:
    """The adapter between this teacher and this cube, without parameters."""
    code = config.lattice.surface_size(config.lattice.input_face)
    return Adapter(material.questions.shape[1], code, config.adapter.strategy)


def load_adapter(config: Config, material: Material, workdir: Path) -> Codec:
    """The frozen adapter of a run, from its folder."""
    adapter = make_adapter(config, material)
    text = np.concatenate(material.adapter_text())
    template = jax.eval_shape(adapter.init, jax.random.key(0), text[:1])
    codec = freeze(adapter, Checkpoints(workdir / "adapter").restore_best(template), jnp.asarray(text))
    return codec if config.adapter.layout == "principal" else codec._replace(turns=_restore_turns(codec, workdir))


def fit_adapter(config: Config, material: Material, workdir: Path) -> Codec:
    """Train the adapter to reproduce embeddings, keep the best on the validation text, freeze it and lay it out on the faces.

    Goes on from what the run's folder holds of it, so an adapter that is finished is taken as it is.
    """
    settings, adapter = config.adapter, make_adapter(config, material)
    pairs, sentences = material.adapter_text()
    text, chosen_by = np.concatenate([pairs, sentences]), np.concatenate(material.pairs("validation"))
    schedule = OptimizerConfig(settings.learning_rate, settings.learning_rate / 10, weight_decay=0.0)
    optimizer = make_optimizer(schedule, settings.steps)
    checkpoints = Checkpoints(workdir / "adapter")
    start = start_or_continue(
        checkpoints, lambda: initial_state(principal_start(adapter, text), optimizer), jax.random.key(config.seed)
    )
    reconstruct = jax.jit(adapter.apply)

    def validate(parameters: dict) -> dict[str, float]:
        reconstructed = np.asarray(reconstruct(parameters, chosen_by))
        if not np.isfinite(reconstructed).all():
            return {"validation_similarity": math.nan}  # of one that diverges, which `fit` refuses with its step
        return {"validation_similarity": float(np.mean(cosine_similarity(reconstructed, chosen_by)))}

    with Monitor(
        checkpoints.directory,
        steps=settings.steps,
        batch_size=settings.batch_size,
        print_every=settings.steps,
        resume_step=start.rows_kept,
    ) as monitor:
        result = fit(
            start.state,
            objective=reproduce_embeddings(adapter),
            optimizer=optimizer,
            data={"embedding": mixed_text(pairs, sentences, settings.pair_fraction)},
            config=TrainingConfig(
                steps=settings.steps,
                batch_size=settings.batch_size,
                evaluate_every=settings.evaluate_every,
                patience=0,
                checkpoint_every=settings.steps,
            ),
            key=start.key,
            validate=validate,
            selection="validation_similarity",
            best=start.best,
            checkpoints=checkpoints,
            monitor=monitor,
            calmed_by="lower --config.adapter.learning_rate",
        )
    return _laid_out(freeze(adapter, result.params, jnp.asarray(text)), config, material, workdir)


def _laid_out(codec: Codec, config: Config, material: Material, workdir: Path) -> Codec:
    """The codec with its numbers where `adapter.layout` puts them: as the run's folder says, or found now and kept there."""
    if config.adapter.layout == "principal":
        return codec
    saved = Checkpoints(workdir / "adapter" / "turns")
    if saved.latest is not None:
        return codec._replace(turns=_restore_turns(codec, workdir))
    aligned = align(codec, material.pairs("train"), material.pairs("validation"), config.lattice)
    saved.save(0, aligned.turns, key=jax.random.key(config.seed), best=Best())
    return aligned


def _restore_turns(codec: Codec, workdir: Path) -> Turns:
    turn = jnp.zeros((codec.adapter.code, codec.adapter.code), jnp.float32)
    return Checkpoints(workdir / "adapter" / "turns").restore(abstract(Turns(turn, turn))).state


def mixed_text(pairs: np.ndarray, sentences: np.ndarray, pair_fraction: float) -> np.ndarray:
    """Rows of both, those of the pairs repeated until they are about `pair_fraction` of all, unless they are more as it is; 1
    takes the pairs alone."""
    if pair_fraction == 1:
        return pairs
    repeats = max(1, round(pair_fraction / (1 - pair_fraction) * len(sentences) / len(pairs)))
    return np.concatenate([np.tile(pairs, (repeats, 1)), sentences])


def adapter_figures(material: Material, codec: Codec) -> dict[str, float]:
    """How well held-out embeddings survive the adapter, beside principal components of equal width on the same text."""
    held_out = np.concatenate(material.pairs("held_out"))
    fitted = principal_components(np.concatenate(material.adapter_text()), codec.adapter.code)
    adapted = codec.reproduce(held_out)
    return {
        "adapter_reconstruction": float(np.mean(cosine_similarity(adapted, held_out))),
        "pca_reconstruction": float(np.mean(cosine_similarity(fitted.reconstruct(held_out), held_out))),
    }
