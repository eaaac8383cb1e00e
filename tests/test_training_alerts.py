"""Detectors on rows that do, and on rows that do not, show what they look for."""

import pytest

from lattice_jax.training.alerts import DETECTORS, FIRST, REARM, Watch

LAYERS = ("gradient_norm/layer_00", "gradient_norm/layer_01", "gradient_norm/layer_02")


def rows(count, *, every=10, training=lambda step: 0.5, validation=lambda step: 0.5, spread=lambda step: 0.6, **figures):
    """Rows of a run; every figure is a function of the step, and those of validation are there at every look."""
    for step in range(count + 1):
        row: dict = {"step": step, "timing": {"seconds": 1.0}}
        if step:
            row |= {"loss": 1.0, "similarity": training(step)} | {name: value(step) for name, value in figures.items()}
            row["timing"]["samples_per_second"] = 10.0
        if step % every == 0:
            row |= {"validation_similarity": validation(step), "validation_spread": spread(step)}
        yield row


def with_layers(count, norms):
    for row in rows(count):
        yield row | (dict(zip(LAYERS, norms(row["step"]), strict=True)) if row["step"] else {})


def with_rates(count, rate):
    for row in rows(count):
        if row["step"]:
            row["timing"]["samples_per_second"] = rate(row["step"])
        yield row


def find_alerts(rows, detectors=DETECTORS):
    """All alerts of a whole record, in order."""
    watch = Watch(detectors)
    return [alert for row in rows for alert in watch.see(row)]


def kinds(found):
    return [(alert.kind, alert.step) for alert in found]


def test_a_run_without_troubles_raises_no_alert():
    calm = rows(200, training=lambda step: 0.5 + 0.001 * step, validation=lambda step: 0.5 + 0.0008 * step)
    assert find_alerts(calm) == []


def test_collapse_begins_where_predictions_stop_differing():
    (alert,) = find_alerts(rows(80, spread=lambda step: 0.6 if step < 40 else 0.01))
    assert (alert.kind, alert.step) == ("collapse", 40)
    assert "1.0%" in alert.message


def test_cautious_predictions_are_no_collapse():
    assert find_alerts(rows(80, spread=lambda step: 0.15)) == []


def test_overfitting_needs_both_curves_to_part():
    rising, falling = (lambda step: 0.5 + 0.002 * step), (lambda step: 0.6 - 0.001 * step)
    (alert,) = find_alerts(rows(100, training=rising, validation=falling))
    # The look at step 0 has no training batch before it; then one best look and three below it.
    assert (alert.kind, alert.step) == ("overfitting", 40)
    assert "since step 10" in alert.message
    assert find_alerts(rows(100, training=rising, validation=rising)) == []
    assert find_alerts(rows(100, training=falling, validation=falling)) == []


def test_noise_of_a_few_validation_pairs_is_no_overfitting():
    noisy = rows(200, training=lambda step: 0.5 + 0.002 * step, validation=lambda step: 0.6 - 0.02 * (step % 40 == 10))
    assert find_alerts(noisy) == []


def test_dead_layers_are_named():
    (alert,) = find_alerts(with_layers(30, lambda step: (0.0, 0.5, 0.0)))
    assert (alert.kind, alert.step) == ("dead_cells", 10)
    assert "layers 0, 2" in alert.message
    assert find_alerts(with_layers(30, lambda step: (0.0 if step % 5 else 0.1, 0.5, 0.3))) == []


def test_many_dead_cells_among_living_ones_are_told_of():
    def with_dead(share):
        return [row | {"dead_cells": share(row["step"])} for row in with_layers(30, lambda step: (0.2, 0.5, 0.3))]

    (alert,) = find_alerts(with_dead(lambda step: 0.4 + 0.001 * step))
    assert alert.kind == "dead_cells"
    assert "40% of the cells" in alert.message
    assert find_alerts(with_dead(lambda step: 0.4 if step % 5 else 0.0)) == []


def test_a_vanishing_gradient_is_named_by_layer():
    (alert,) = find_alerts(with_layers(30, lambda step: (1e-7, 0.5, 0.3)))
    assert (alert.kind, alert.step) == ("vanishing_gradient", 10)
    assert "in layer 0:" in alert.message
    assert find_alerts(with_layers(30, lambda step: (1e-3, 0.5, 0.3))) == []


def test_a_pool_that_collapses():
    (alert,) = find_alerts(rows(60, **{"pool/collapsed": lambda step: float(step > 20)}))
    assert (alert.kind, alert.step) == ("pool_collapse", 30)
    assert find_alerts(rows(60, **{"pool/collapsed": lambda step: float(step % 3 == 0)})) == []


def test_a_drop_in_throughput_is_a_median_of_steps():
    (alert,) = find_alerts(with_rates(80, lambda step: 10.0 if step < 50 else 4.0))
    assert alert.kind == "throughput"
    assert 50 < alert.step <= 59
    # One slow step in ten, as with a checkpoint, is none; nor is a first step that compiles.
    assert find_alerts(with_rates(80, lambda step: 1.0 if step % 10 == 0 else 10.0)) == []
    assert find_alerts(with_rates(80, lambda step: 900.0 if step == 1 else 10.0)) == []
    assert find_alerts(with_rates(FIRST, lambda step: 10.0 / step)) == []


def test_a_condition_that_lasts_is_told_once_and_one_that_returns_again():
    lasting = rows(400, spread=lambda step: 0.01)
    assert kinds(find_alerts(lasting)) == [("collapse", 0)]
    returning = rows(300, spread=lambda step: 0.01 if step < 20 or step >= 20 + 10 * (REARM // 10 + 1) else 0.6)
    assert [kind for kind, _ in kinds(find_alerts(returning))] == ["collapse", "collapse"]


@pytest.mark.parametrize("kind", DETECTORS)
def test_detectors_say_nothing_of_an_empty_record(kind):
    assert find_alerts([{"step": 0, "timing": {}}], {kind: DETECTORS[kind]}) == []
