"""The adapter on real embeddings: its size, its start at the linear optimum, its training, and its frozen form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_cube import quick_jit, real_embeddings

from lattice_jax.lattice.adapter import (
    Adapter,
    Stack,
    freeze,
    hierarchical_widths,
    principal_components,
    principal_start,
)
from lattice_jax.training.objectives import reproduce_embeddings

TEXT = np.concatenate(real_embeddings())
STRATEGIES = ("hierarchical", "linear", "attention", "autoencoder")
CODE = 80


def similarity(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean cosine."""
    return float(np.mean(np.sum(found * wanted, -1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(wanted, axis=-1)))


@functools.cache
def start(strategy: str, code: int = CODE) -> tuple[Adapter, dict]:
    """An adapter of the real embeddings, and its start values."""
    adapter = Adapter(384, code, strategy)
    return adapter, principal_start(adapter, TEXT)


def reproduced(adapter: Adapter, parameters: dict) -> np.ndarray:
    return np.asarray(quick_jit(adapter.apply)(parameters, TEXT))


# Size


@pytest.mark.parametrize(("teacher", "parameters"), [(4096, 45_918_613), (768, 1_402_797)])
def test_the_hierarchical_adapter_has_the_parameters_of_the_card(teacher, parameters):
    adapter = Adapter(teacher, 225, "hierarchical")
    arrays = jax.eval_shape(adapter.init, jax.random.key(0), jax.ShapeDtypeStruct((1, teacher), jnp.float32))
    assert sum(array.size for array in jax.tree.leaves(arrays)) == parameters


def test_widths_shrink_by_seven_tenths_down_to_twice_the_code():
    assert hierarchical_widths(4096, 225) == (4096, 2867, 2006, 1404, 982, 687, 480, 336, 225)
    assert hierarchical_widths(768, 225) == (768, 537, 375, 225)
    assert hierarchical_widths(384, 225) == (384, 225)
    assert hierarchical_widths(100, 225) == (100, 225)


def test_the_decoder_mirrors_the_encoder():
    arrays = jax.eval_shape(Adapter(384, CODE, "hierarchical").init, jax.random.key(0), jnp.zeros((1, 384)))["params"]
    kernels = {part: [layers[f"Dense_{number}"]["kernel"].shape for number in range(4)] for part, layers in arrays.items()}
    assert kernels["encoder"] == [(384, 268), (268, 187), (187, 130), (130, 80)]
    assert kernels["decoder"] == [(80, 130), (130, 187), (187, 268), (268, 384)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_maps_to_the_code_and_back(strategy):
    adapter = Adapter(384, 30, strategy)
    values = jax.ShapeDtypeStruct((5, 384), jnp.float32)
    parameters = jax.eval_shape(adapter.init, jax.random.key(0), values)
    code = jax.eval_shape(functools.partial(adapter.apply, method="encode"), parameters, values)
    assert code.shape == (5, 30)
    assert jax.eval_shape(functools.partial(adapter.apply, method="decode"), parameters, code).shape == (5, 384)


# Start


def test_principal_components_are_those_of_the_singular_value_decomposition():
    mean = TEXT.mean(0)
    _, _, directions = np.linalg.svd((TEXT - mean).astype(np.float64), full_matrices=False)
    expected = mean + (TEXT - mean) @ directions[:CODE].T @ directions[:CODE]
    np.testing.assert_allclose(principal_components(TEXT, CODE).reconstruct(TEXT), expected, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_start_reproduces_nearly_as_well_as_principal_components(strategy):
    optimum = similarity(principal_components(TEXT, CODE).reconstruct(TEXT), TEXT)
    assert 0.8 < optimum < 0.99
    assert similarity(reproduced(*start(strategy)), TEXT) > optimum - 0.02


def test_the_linear_start_is_the_projection_on_principal_components():
    expected = principal_components(TEXT, CODE).reconstruct(TEXT)
    np.testing.assert_allclose(reproduced(*start("linear")), expected, atol=2e-3)


class Deep(Adapter):
    """Twelve layers each way."""

    def setup(self):
        self.encoder, self.decoder = Stack((self.code,) * 12), Stack((self.code,) * 11 + (self.teacher,))


def test_a_stack_of_more_than_ten_layers_starts_in_order():
    """Layer names sorted as text put the eleventh before the third."""
    adapter = Deep(384, 20, "hierarchical")
    optimum = similarity(principal_components(TEXT, 20).reconstruct(TEXT), TEXT)
    assert similarity(reproduced(adapter, principal_start(adapter, TEXT)), TEXT) > optimum - 0.05


def test_a_code_wider_than_the_embedding_starts_almost_lossless():
    assert similarity(reproduced(*start("linear", 400)), TEXT) > 0.98


# Training


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_learns_to_reproduce_real_embeddings(strategy):
    adapter = Adapter(384, CODE, strategy)
    objective, optimizer = reproduce_embeddings(adapter), optax.adam(1e-3)
    parameters = quick_jit(adapter.init)(jax.random.key(1), TEXT[:1])
    moments = optimizer.init(parameters)

    @quick_jit
    def learn(parameters, moments):
        differentiate = jax.value_and_grad(objective, has_aux=True)
        (loss, _), gradients = differentiate(parameters, {"embedding": TEXT[:32]}, key=jax.random.key(0))
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(parameters, updates), moments, loss

    losses = []
    for _ in range(40):
        parameters, moments, loss = learn(parameters, moments)
        losses.append(float(loss))
    assert losses[0] > 0.7
    assert losses[-1] < 0.6 * losses[0]


# Frozen


@pytest.mark.parametrize("strategy", ["hierarchical", "attention"])
def test_a_frozen_codec_has_codes_of_unit_mean_square_and_decodes_as_the_adapter_does(strategy):
    adapter, parameters = start(strategy)
    codec = freeze(adapter, parameters, jnp.asarray(TEXT))
    codes = codec.encode_questions(jnp.asarray(TEXT))
    assert codes.shape == (200, CODE)
    assert float(jnp.mean(jnp.square(codes))) == pytest.approx(1.0, rel=1e-4)
    np.testing.assert_allclose(codec.decode(codes), reproduced(adapter, parameters), atol=1e-4)
    assert codec.scale != pytest.approx(1.0, rel=0.05)
