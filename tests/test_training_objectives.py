"""The objectives on real embeddings: what they weigh, what they move, and that each overfits one batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_cube import principal_codec, quick_jit, real_embeddings

from lattice_jax.config import (
    AnswerConfig,
    CellConfig,
    Config,
    GridConfig,
    LatticeConfig,
    LossConfig,
    TrainingConfig,
    UpdateConfig,
)
from lattice_jax.lattice import cube
from lattice_jax.lattice.adapter import Adapter, Codec
from lattice_jax.training import losses
from lattice_jax.training.objectives import answer_questions, noisy, reproduce_embeddings

QUESTIONS, ANSWERS = (embeddings[:8] for embeddings in real_embeddings())
LATTICE = LatticeConfig(
    grid=GridConfig(3, 4, 5),
    cell=CellConfig(visible=8, memory=8, hidden=16, perception="von_neumann"),
    steps=5,
    minimum_arrival=0.0,
    remat="never",
)
CONFIG = Config(lattice=LATTICE)
SURE = dataclasses.replace(CONFIG, lattice=dataclasses.replace(LATTICE, update=UpdateConfig(rate=1.0)))
KEY = jax.random.key(4)
TERMS = ("surface_reconstruction", "internal_consistency", "dialogue_similarity")


@functools.cache
def codec() -> Codec:
    """20 principal components of the 16 texts, which hold them entirely."""
    return principal_codec(np.concatenate([QUESTIONS, ANSWERS]), 20)


@functools.cache
def batch() -> dict[str, jax.Array]:
    codes = {"question": codec().encode_questions(QUESTIONS), "target": codec().encode_answers(ANSWERS)}
    return codes | {"answer": jnp.asarray(ANSWERS)}


@functools.cache
def parameters() -> dict:
    return quick_jit(functools.partial(cube.initialise, LATTICE))(key=jax.random.key(0))


@functools.cache
def objective(config: Config):
    """The cube's objective, compiled once for a configuration."""
    compiled = quick_jit(answer_questions(codec(), config, None))
    return lambda key=KEY, **other: compiled(parameters(), batch() | other, key=key)


def weighing(*weights: float) -> Config:
    """A configuration without chance, with these weights."""
    return dataclasses.replace(SURE, loss=LossConfig(*weights))


# The cube's objective


def test_raw_metrics_are_the_losses_of_what_the_cube_answers():
    _, metrics = objective(SURE)()
    run = quick_jit(functools.partial(cube.answer, config=SURE.lattice, sampled=True))
    answer = run(parameters(), batch()["question"], key=jax.random.key(99))
    expected = {
        "surface_reconstruction": losses.surface_reconstruction(answer.vectors, batch()["target"]),
        "internal_consistency": losses.internal_consistency(answer.propagation.activity, 2),
        "dialogue_similarity": losses.dialogue_similarity(codec().decode(answer.vectors), batch()["answer"]),
    }
    for name, values in expected.items():
        assert float(metrics[name]) == pytest.approx(float(jnp.mean(values)), rel=1e-4), name
    assert float(metrics["similarity"]) == pytest.approx(1 - float(metrics["dialogue_similarity"]), abs=1e-6)


@pytest.mark.parametrize("weights", [(0.3, 0.3, 0.4), (0.3, 0.3, 2.4), (0.0, 1.0, 0.0)])
def test_the_loss_is_the_sum_of_the_terms_by_exactly_the_configured_weights(weights):
    loss, metrics = objective(weighing(*weights))()
    for name, weight in zip(TERMS, weights, strict=True):
        assert float(metrics[f"weighted_{name}"]) == pytest.approx(weight * float(metrics[name]), rel=1e-6)
    assert float(loss) == pytest.approx(sum(w * float(metrics[name]) for name, w in zip(TERMS, weights, strict=True)), rel=1e-5)
    assert set(metrics) == {*TERMS, *(f"weighted_{name}" for name in TERMS), "similarity"}


def test_a_weight_changes_the_loss_by_its_own_term_alone():
    card, heavier = (objective(weighing(0.3, 0.3, weight))() for weight in (0.4, 2.4))
    assert float(heavier[0] - card[0]) == pytest.approx(2.0 * float(card[1]["dialogue_similarity"]), rel=1e-4)
    assert objective(CONFIG)()[1].keys() == card[1].keys()


def test_training_draws_masks_by_the_key():
    one, again, other = (float(objective(CONFIG)(jax.random.key(seed))[0]) for seed in (1, 1, 2))
    assert one == again != other
    assert float(objective(SURE)(jax.random.key(1))[0]) == float(objective(SURE)(jax.random.key(2))[0])


def test_noise_is_in_units_of_each_code_and_drawn_by_the_key():
    codes = jnp.repeat(batch()["question"][:2], 4000, axis=0) * jnp.repeat(jnp.array([[1.0], [5.0]]), 4000, axis=0)
    drawn = noisy(codes, 0.5, key=KEY) - codes
    for half in (slice(None, 4000), slice(4000, None)):
        assert float(jnp.std(drawn[half])) == pytest.approx(0.5 * float(jnp.sqrt(jnp.mean(codes[half] ** 2))), rel=0.02)
        assert float(jnp.abs(jnp.mean(drawn[half]))) < 0.01 * float(jnp.std(drawn[half]))
    assert jnp.array_equal(noisy(codes, 0.5, key=KEY), codes + drawn)
    assert not jnp.allclose(noisy(codes, 0.5, key=jax.random.key(5)), codes + drawn)


def test_the_cube_learns_from_noisy_questions_and_from_the_same_masks():
    plain, noise = (dataclasses.replace(SURE, training=TrainingConfig(question_noise=amount)) for amount in (0.0, 0.5))
    asked = noisy(batch()["question"], 0.5, key=KEY)
    assert float(objective(noise)()[0]) == pytest.approx(float(objective(plain)(question=asked)[0]), rel=1e-6)
    assert float(objective(noise)()[0]) != float(objective(noise)(jax.random.key(5))[0])
    masked = [dataclasses.replace(config, lattice=LATTICE) for config in (plain, noise)]
    assert float(objective(masked[1])()[0]) == pytest.approx(float(objective(masked[0])(question=asked)[0]), rel=1e-6)


def learned(loss_of, start, steps: int, rate: float):
    """Parameters after `steps` updates on one batch, and the metrics of each."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    @quick_jit
    def update(parameters, moments, key):
        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters, key=key)
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(parameters, updates), moments, metrics | {"loss": loss}

    moments, history = optimizer.init(start), []
    for step in range(steps):
        start, moments, metrics = update(start, moments, jax.random.fold_in(KEY, step))
        history.append({name: float(value) for name, value in metrics.items()})
    return start, history


def test_the_cube_overfits_one_batch_and_every_array_of_it_learns():
    loss_of = functools.partial(answer_questions(codec(), CONFIG, None), batch=batch())
    after, history = learned(lambda parameters, key: loss_of(parameters, key=key), parameters(), steps=60, rate=1e-2)
    assert history[0]["similarity"] < 0.7
    assert np.mean([metrics["similarity"] for metrics in history[-10:]]) > 0.97
    assert np.mean([metrics["loss"] for metrics in history[-10:]]) < 0.1 * history[0]["loss"]
    for name, value in after.items():
        assert not np.array_equal(value, parameters()[name]), name


def test_the_contrastive_term_is_weighed_like_the_others_and_drawn_from_the_candidates():
    config = dataclasses.replace(SURE, loss=LossConfig(contrastive=0.7))
    answers = jnp.asarray(ANSWERS)
    (loss, metrics), (plain, _) = (
        quick_jit(answer_questions(codec(), c, None, answers))(parameters(), batch(), key=KEY) for c in (config, SURE)
    )
    assert float(loss - plain) == pytest.approx(0.7 * float(metrics["contrastive"]), rel=1e-4)
    assert float(metrics["weighted_contrastive"]) == pytest.approx(0.7 * float(metrics["contrastive"]), rel=1e-6)
    one = dataclasses.replace(config, loss=dataclasses.replace(config.loss, contrastive_candidates=1))
    few = quick_jit(answer_questions(codec(), one, None, answers))
    drawn = {float(few(parameters(), batch(), key=jax.random.key(seed))[1]["contrastive"]) for seed in range(4)}
    assert len(drawn) > 1
    assert max(drawn) < float(metrics["contrastive"])


def test_an_answer_around_a_base_adds_its_offsets():
    around = dataclasses.replace(SURE, answer=AnswerConfig("question"))
    shift, remainder = 0.1 * batch()["target"], 0.3 * batch()["answer"]
    _, metrics = quick_jit(answer_questions(codec(), around, None))(
        parameters(), batch() | {"shift": shift, "remainder": remainder}, key=KEY
    )
    run = quick_jit(functools.partial(cube.answer, config=SURE.lattice, sampled=True))
    vectors = run(parameters(), batch()["question"], key=KEY).vectors + shift
    reconstruction = jnp.mean(losses.surface_reconstruction(vectors, batch()["target"]))
    similarity = 1 - jnp.mean(losses.dialogue_similarity(codec().decode(vectors) + remainder, batch()["answer"]))
    assert float(metrics["surface_reconstruction"]) == pytest.approx(float(reconstruction), rel=1e-4)
    assert float(metrics["similarity"]) == pytest.approx(float(similarity), abs=1e-5)


# The adapter's objective


def test_the_adapters_loss_is_its_mean_cosine_distance():
    adapter, values = codec().adapter, codec().parameters
    loss, metrics = reproduce_embeddings(adapter)(values, {"embedding": QUESTIONS}, key=KEY)
    found = np.asarray(adapter.apply(values, QUESTIONS))
    cosine = np.sum(found * QUESTIONS, 1) / np.linalg.norm(found, axis=1) / np.linalg.norm(QUESTIONS, axis=1)
    assert float(loss) == pytest.approx(1 - cosine.mean(), abs=1e-5)
    assert float(metrics["similarity"]) == pytest.approx(cosine.mean(), abs=1e-5)


def test_the_adapter_overfits_one_batch():
    adapter = Adapter(384, 12, "autoencoder")
    start = quick_jit(adapter.init)(jax.random.key(1), QUESTIONS)
    loss_of = functools.partial(reproduce_embeddings(adapter), batch={"embedding": QUESTIONS})
    _, history = learned(lambda parameters, key: loss_of(parameters, key=key), start, steps=250, rate=3e-3)
    assert history[0]["similarity"] < 0.3
    assert history[-1]["similarity"] > 0.98
