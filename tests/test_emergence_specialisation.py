"""Cell specialisation and information flow, with topics, codes, fronts and groups that were planted."""

import numpy as np
import pytest

from lattice_jax.lattice.emergence import information, metrics, nulls, specialisation
from lattice_jax.lattice.emergence.information import Division

DRAWN = np.random.default_rng(0)
GRID = (2, 3, 4)
QUESTIONS, CHANNELS, TOPICS = 60, 3, 4
LABELS = np.arange(QUESTIONS) % TOPICS


def noise(*shape: int) -> np.ndarray:
    return DRAWN.normal(size=shape)


# Selectivity


def test_cells_with_planted_topics_are_found_and_the_others_are_at_chance():
    responses = noise(*GRID, QUESTIONS, CHANNELS)
    responses[0] = noise(*GRID[1:], TOPICS, CHANNELS)[:, :, LABELS]
    found = specialisation.selectivity(responses, LABELS)
    np.testing.assert_allclose(found[0], 1)
    assert found[1].mean() == pytest.approx((TOPICS - 1) / (QUESTIONS - 1), abs=0.03)


def test_explained_variance_is_that_of_signal_and_noise():
    """A topic mean of variance s and noise of variance 1 explain s / (s + 1)."""
    labels = np.arange(4000) % 2
    responses = np.where(labels == 0, 1.0, -1.0)[:, None] * np.ones((1, 1, 1, 1, CHANNELS)) + noise(1, 1, 1, 4000, CHANNELS)
    assert specialisation.selectivity(responses, labels)[0, 0, 0] == pytest.approx(0.5, abs=0.03)


def test_a_cell_that_does_not_vary_is_not_selective():
    constant = np.ones((*GRID, QUESTIONS, CHANNELS))
    assert not specialisation.selectivity(constant, LABELS).any()
    assert not specialisation.sensitivity(constant, LABELS).any()


def test_sensitivity_is_the_distance_in_standard_deviations():
    labels = (np.arange(20000) < 10000).astype(int)
    responses = (2.5 * labels[:, None] + noise(20000, 1)).reshape(1, 1, 1, 20000, 1)
    np.testing.assert_allclose(specialisation.sensitivity(responses, labels)[0, 0, 0], [2.5, 2.5], atol=0.05)


def test_each_cell_prefers_the_topic_that_was_planted_in_it():
    planted = DRAWN.integers(TOPICS, size=GRID)
    responses = noise(*GRID, QUESTIONS, CHANNELS)
    responses += 4.0 * (planted[..., None] == LABELS)[..., None]
    np.testing.assert_array_equal(specialisation.preferred_topic(responses, LABELS), planted)
    np.testing.assert_array_equal(specialisation.preferred_topic(responses, 3 * LABELS + 5), 3 * planted + 5)


def test_a_map_of_regions_is_coherent_and_a_shuffled_one_is_not():
    regions = np.repeat(np.arange(4), 3)[None, None] * np.ones((5, 6, 1), int)
    assert specialisation.map_coherence(np.zeros((3, 4, 5), int), periodic=False) == 1
    assert specialisation.map_coherence(np.arange(60).reshape(3, 4, 5), periodic=False) == 0
    value = specialisation.map_coherence(regions, periodic=False)
    generator = np.random.default_rng(1)
    draws = [specialisation.map_coherence(nulls.shuffled_cells(regions, generator), periodic=False) for _ in range(30)]
    assert np.mean(draws) == pytest.approx(89 / 359, abs=0.02)
    assert nulls.compare(value, draws).z > 10


# Groups


def test_planted_groups_of_cells_have_a_high_silhouette_and_one_cloud_a_low_one():
    def silhouette(features: np.ndarray) -> float:
        return float(specialisation.grouped(features, clusters=4, seed=0).silhouettes.mean())

    groups = 10 * noise(4, 20)[np.arange(200) % 4] + 0.1 * noise(200, 20)
    assert silhouette(groups.reshape(4, 5, 10, 20)) > 0.9
    assert silhouette(noise(4, 10, 10, 20)) < 0.2
    assert silhouette(np.ones((2, 5, 5, 3))) == 0


def test_planted_groups_are_found_and_numbered_from_the_first_layer_on():
    planted = np.repeat([2, 0, 1], 2)[:, None, None] + np.zeros((6, 3, 4), int)
    found = specialisation.grouped(10 * noise(3, 20)[planted] + 0.1 * noise(6, 3, 4, 20), clusters=3, seed=0)
    np.testing.assert_array_equal(found.labels, np.repeat(np.arange(3), 2)[:, None, None] + np.zeros((6, 3, 4), int))
    alike = specialisation.grouped(np.ones((6, 3, 4, 20)), clusters=3, seed=0)
    assert not alike.labels.any()


def test_a_cell_between_two_groups_has_a_silhouette_near_zero():
    places = np.repeat([0.0, 1.0], 12)
    places[5] = 0.45
    features = (places[:, None] * noise(6)).reshape(2, 3, 4, 6)
    found = specialisation.grouped(features, clusters=2, seed=0).silhouettes.ravel()
    assert found[5] < 0.3
    assert np.delete(found, 5).min() > 0.8


def test_a_layer_of_planted_topics_stands_above_shuffled_ones_and_the_other_does_not():
    responses = noise(*GRID, QUESTIONS, CHANNELS)
    responses[1] += noise(*GRID[1:], TOPICS, CHANNELS)[:, :, LABELS]
    value = specialisation.layer_means(specialisation.selectivity(responses, LABELS))
    null = specialisation.layer_selectivity_null(responses, LABELS, shuffles=40, generator=np.random.default_rng(2))
    np.testing.assert_allclose(null.mean, (TOPICS - 1) / (QUESTIONS - 1), rtol=0.1)
    z = (value - null.mean) / null.deviation
    assert abs(z[0]) < 4
    assert z[1] > 10


def test_responses_are_compared_whatever_their_size():
    responses = noise(*GRID, QUESTIONS, CHANNELS)
    louder = responses * np.arange(1, 25).reshape(*GRID, 1, 1)
    np.testing.assert_allclose(specialisation.response_features(responses), specialisation.response_features(louder), rtol=1e-5)
    assert not specialisation.response_features(0 * responses).any()


# Probes


def gram(states: np.ndarray) -> np.ndarray:
    centred = states - states.mean(-2, keepdims=True)
    return centred @ np.swapaxes(centred, -1, -2)


DIVISION = Division(np.arange(80), np.arange(80, 120))
CODES = noise(120, 6)


def test_a_probe_reads_a_code_that_is_there_and_none_that_is_not():
    there, absent = CODES @ noise(6, 30), noise(120, 30)
    read = information.probe(np.stack([gram(there), gram(absent), 0 * gram(there)])[None], CODES, DIVISION)
    assert read.shape == (1, 3)
    assert read[0, 0] > 0.999
    assert -0.3 < read[0, 1] < 0.1
    assert read[0, 2] == 0


def test_a_probe_reads_the_share_that_noise_leaves():
    """The state is the code and noise of equal variance, so half of a code's variance can be told."""
    division = Division(np.arange(400), np.arange(400, 600))
    codes = noise(600, 4)
    read = information.probe(gram(codes + noise(600, 4)), codes, division)
    assert float(read) == pytest.approx(0.5, abs=0.08)


def test_a_probe_is_the_ridge_regression_of_a_library_with_a_good_penalty():
    from sklearn.linear_model import Ridge

    states = CODES @ noise(6, 30) + 3 * noise(120, 30) + 3.0
    fit, judge = DIVISION
    scale = np.square(states[fit] - states[fit].mean(0)).sum() / len(fit)
    fitted = [Ridge(penalty * scale).fit(states[fit], CODES[fit]) for penalty in information.PENALTIES]
    spread = np.square(CODES[judge] - CODES[fit].mean(0)).sum()
    library = [1 - np.square(CODES[judge] - ridge.predict(states[judge])).sum() / spread for ridge in fitted]
    read = float(information.probe(gram(states), CODES, DIVISION))
    assert np.abs(np.array(library) - read).min() < 1e-6
    assert max(library) - 0.03 < read
    assert read > library[0] + 0.03, "without a penalty it would be worse"


def test_layers_that_differ_by_a_rotation_are_alike_and_independent_ones_are_not():
    layer = noise(400, 5)
    rotation, _ = np.linalg.qr(noise(5, 5))
    similarity = information.layer_similarity(np.stack([gram(layer), gram(3 * layer @ rotation), gram(noise(400, 5))]))
    np.testing.assert_allclose(np.diag(similarity), 1)
    np.testing.assert_allclose(similarity, similarity.T)
    assert similarity[0, 1] == pytest.approx(1)
    assert similarity[0, 2] < 0.1


# The front


def travelling(delay: int, layers: int = 5, times: int = 23) -> np.ndarray:
    """Two questions that differ in layer z half by time delay * z, and wholly half a step later."""
    time, layer = np.indices((times, layers))
    arrived = np.clip(time - delay * layer + 0.5, 0, 1)
    return np.stack([arrived, -arrived], -1).reshape(times, layers, 1, 1, 2, 1)


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_planted_front_has_its_speed(delay):
    signal = information.layer_signal(travelling(delay))
    np.testing.assert_allclose(information.arrival(signal, 0.5), delay * np.arange(5))
    assert information.front_speed(signal, 0.5) == pytest.approx(1 / delay)


def test_what_all_questions_share_is_no_signal():
    shared = np.abs(travelling(1))
    signal = information.layer_signal(shared)
    assert not signal.any()
    np.testing.assert_array_equal(information.arrival(signal, 0.5), len(signal))


# The metrics of them, counted by hand


def measured(name: str, **arrays: np.ndarray) -> float:
    """A metric of the arrays that it reads of an observation."""
    metric = metrics.METRICS[name]
    return metric.measure(*(arrays[field] for field in metric.reads), metrics.Setting(periodic=False, block=1, seed=0))


def test_layer_similarity_is_the_mean_of_what_is_off_the_diagonal():
    likeness = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.8], [0.2, 0.8, 1.0]])
    assert measured("layer_similarity", layer_similarity=likeness) == pytest.approx(0.5)


def test_the_gain_is_what_is_read_at_the_output_in_the_end_less_what_is_read_anywhere_at_the_start():
    at_output, read = np.array([0.0, 0.9, 0.45]), np.array([[0.2, 0.0, -0.1], [0.3, 0.9, 0.8], [0.4, 0.5, 0.45]])
    assert measured("answer_read_gain", answer_at_output=at_output, answer_read=read) == pytest.approx(0.25)


def test_front_speed_is_the_mean_of_distance_by_half_arrival():
    """Half of its signal is in layer 1 after 1.5 steps, in layer 2 after 3 and a third."""
    signal = np.array([[2, 0, 0], [2, 0, 0], [2, 4, 0], [2, 4, 0.25], [2, 4, 1.0]])
    trajectory = signal[:, :, None, None, None, None] * np.array([1.0, -1.0])[:, None]
    assert measured("front_speed", trajectory=trajectory) == pytest.approx((1 / 1.5 + 2 / (3 + 1 / 3)) / 2)
