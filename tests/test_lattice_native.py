"""The compiled engine against the scan: every wall, neighbourhood and update, values and gradients."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from program import SMOKE, run_here
from small_cube import SMALL, WALLS, assert_close, lively_parameters, noise_like, quick_jit, with_cell, with_update

from lattice_jax.config import LatticeConfig
from lattice_jax.errors import InputError
from lattice_jax.lattice import cube, devices, propagate
from lattice_jax.lattice.firing import firing, most_firings
from lattice_jax.lattice.native import engine
from lattice_jax.native import build

WIDE = with_cell(SMALL, visible=16, memory=16, hidden=40, perception="moore")
"""Channels that fill whole vectors, a hidden width that leaves a remainder."""
GROUPED = with_cell(SMALL, visible=32, memory=32, hidden=64, gate="moore")
"""Widths that divide the groups in which blocks of neighbours are read."""
BROAD = with_cell(SMALL, visible=16, memory=16, hidden=256, gate="moore")
"""A hidden width of several such groups."""
PERIODIC = dataclasses.replace(SMALL, walls="periodic")

CASES = {
    **{walls: (dataclasses.replace(SMALL, walls=walls), 2) for walls in WALLS},
    "channels of whole vectors, rows of every tile": (WIDE, 15),
    "rows of tiles of six, four and one": (WIDE, 11),
    "channels of whole groups": (GROUPED, 9),
    "hidden rows of several groups": (BROAD, 3),
    "one sample": (GROUPED, 1),
    "samples that fill more than a vector": (WIDE, 18),
    "gradients at every firing": (dataclasses.replace(WIDE, remat="never", weight_gradients="immediate"), 3),
    "gradients once a cell": (dataclasses.replace(WIDE, remat="never", weight_gradients="deferred"), 18),
    "recomputed": (dataclasses.replace(WIDE, remat="always"), 3),
    "pulse": (dataclasses.replace(SMALL, injection="pulse"), 2),
    "replaced state": (with_update(SMALL, residual=False), 2),
    "unbounded": (with_update(SMALL, bound="none"), 2),
    "every cell fires": (with_update(SMALL, rate=1.0), 2),
    "one mask for the batch": (with_update(SMALL, mask="batch"), 3),
    "one mask, recomputed": (dataclasses.replace(with_update(SMALL, mask="batch"), remat="always"), 3),
    "weights by layer": (dataclasses.replace(SMALL, sharing="layer"), 2),
    "one rule": (dataclasses.replace(PERIODIC, sharing="lattice"), 2),
    "quiescent": (with_update(PERIODIC, quiescent=True), 2),
    "from side to side": (dataclasses.replace(SMALL, input_face="left", output_face="right", steps=6), 2),
    "one thread": (dataclasses.replace(SMALL, devices=1), 2),
    "more threads than cores": (dataclasses.replace(SMALL, devices=5), 2),
}


def native(config: LatticeConfig) -> LatticeConfig:
    return dataclasses.replace(config, engine="native")


def vectors(config: LatticeConfig, batch: int) -> jax.Array:
    return noise_like(jnp.zeros((batch, config.surface_size(config.input_face))), 5)


def answer_loss(parameters: dict, given: jax.Array, config: LatticeConfig, sampled: bool = True, read: str = "cube"):
    """A random weighing of all that a pass returns, so that no part of the gradient is left out."""
    answer = cube.answer(parameters, given, key=jax.random.key(3), config=config, sampled=sampled, read=read)
    shown = (answer.vectors, answer.propagation.state, answer.propagation.activity) if read == "cube" else answer.vectors
    weighed = jax.tree.map(lambda value, weight: jnp.sum(value * weight), shown, noise_like(shown, 9))
    return jnp.sum(jnp.stack(jax.tree.leaves(weighed))), shown


@pytest.mark.parametrize("sampled", [True, False], ids=["sampled", "expected"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_scan(case, sampled):
    config, batch = CASES[case]
    parameters, given = lively_parameters(config), vectors(config, batch)
    results = []
    for each in (native(config), config):
        differentiate = jax.value_and_grad(functools.partial(answer_loss, config=each, sampled=sampled), (0, 1), has_aux=True)
        results.append(quick_jit(differentiate)(parameters, given))
    ((_, values), gradients), ((_, plain_values), plain_gradients) = results
    assert_close(values, plain_values)
    assert_close(gradients, plain_gradients)


@pytest.mark.parametrize(
    ("case", "alike"),
    [
        ("zero", False),
        ("replaced state", False),
        ("recomputed", False),
        ("pulse", True),
        ("unbounded", True),
        ("gradients once a cell", True),
    ],
)
def test_the_gradient_by_how_far_cells_move_is_that_of_the_scan(case, alike, monkeypatch):
    """Cells move as far for each sample, or alike for all."""
    config, batch = CASES[case]
    parameters, given = lively_parameters(config), vectors(config, batch)
    size, drawn = config.grid, np.random.default_rng(4)
    shape = (config.steps, size.depth, size.height, size.width, 1 if alike else batch, 1)
    rests = drawn.random(shape[:4]) < 0.3
    far = jnp.asarray(drawn.uniform(0.2, 1, shape) * ~rests[..., None, None], jnp.float32)

    def loss(far, config):
        monkeypatch.setattr(propagate, "firing", lambda *_, **__: far)
        return answer_loss(parameters, given, config, sampled=False)[0]

    found, expected = (quick_jit(jax.grad(functools.partial(loss, config=each)))(far) for each in (native(config), config))
    assert_close(found, jnp.where(rests[..., None, None], 0, expected))


@pytest.mark.parametrize("case", ["zero", "channels of whole groups", "quiescent", "recomputed"])
def test_a_pass_without_gradient_keeps_no_versions_and_is_the_same(case):
    config, batch = CASES[case]
    parameters, given = lively_parameters(config), vectors(config, batch)
    _, values = quick_jit(functools.partial(answer_loss, config=native(config)))(parameters, given)
    (_, kept), _ = quick_jit(jax.value_and_grad(functools.partial(answer_loss, config=native(config)), has_aux=True))(
        parameters, given
    )
    jax.tree.map(np.testing.assert_array_equal, values, kept)


@pytest.mark.parametrize("engine_name", ["scan", "native"])
@pytest.mark.parametrize("quiescent", [True, False])
def test_cells_that_can_no_longer_reach_the_output_change_neither_the_answer_nor_its_gradient(engine_name, quiescent):
    config = dataclasses.replace(with_update(SMALL, quiescent=quiescent, mask="batch"), engine=engine_name, steps=5)
    parameters, given = lively_parameters(config), vectors(config, 2)

    def loss(parameters, given, read):
        answer = cube.answer(parameters, given, key=jax.random.key(3), config=config, sampled=True, read=read)
        return jnp.sum(jnp.square(answer.vectors)), answer.vectors

    differentiate = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
    (_, whole), whole_gradients = differentiate(parameters, given, "cube")
    (_, pruned), pruned_gradients = differentiate(parameters, given, "output")
    assert_close(pruned, whole)
    assert_close(pruned_gradients, whole_gradients)


def test_the_same_call_gives_the_same_bits_on_any_number_of_threads():
    config = native(dataclasses.replace(GROUPED, devices=1))
    parameters, given = lively_parameters(config), vectors(config, 3)
    results = [
        quick_jit(jax.grad(lambda p, threads=threads: answer_loss(p, given, dataclasses.replace(config, devices=threads))[0]))(
            parameters
        )
        for threads in (1, 2, 7)
    ]
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, results[0])


def test_a_pass_can_be_differentiated_twice():
    """The backward pass works in the place of what was kept, so a second one must find it as it was."""
    config = native(GROUPED)
    parameters, given = lively_parameters(config), vectors(config, 3)

    @quick_jit
    def gradients(parameters):
        _, pull_back, shown = jax.vjp(lambda p: answer_loss(p, given, config), parameters, has_aux=True)
        del shown
        return pull_back(jnp.ones(())), pull_back(2 * jnp.ones(()))

    (once,), (twice,) = gradients(parameters)
    assert_close(jax.tree.map(lambda value: 2 * value, once), twice)


def test_values_are_kept_while_they_fit_into_an_eighth_of_the_memory(monkeypatch):
    config = native(dataclasses.replace(GROUPED, remat="automatic"))
    parameters, given = lively_parameters(config), vectors(config, 2)
    memory = psutil.virtual_memory()

    def temporary_bytes(total: int) -> int:
        monkeypatch.setattr(engine.psutil, "virtual_memory", lambda: memory._replace(total=total))
        engine.recomputes.cache_clear()
        grad = quick_jit(jax.grad(lambda p: answer_loss(p, given, config)[0]))
        return grad.lower(parameters).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(2**20) < temporary_bytes(2**40)
    engine.recomputes.cache_clear()


def test_a_diverging_pass_is_seen():
    config = native(with_update(SMALL, bound="none"))
    parameters = lively_parameters(config)
    parameters["content_kernel"] = parameters["content_kernel"].at[1, 1, 1, 0, 0].set(jnp.nan)
    loss, _ = quick_jit(functools.partial(answer_loss, config=config))(parameters, vectors(config, 2))
    assert not np.isfinite(loss)


def test_more_firings_than_room_was_made_for_stop_the_pass():
    config = native(SMALL)
    cells = {name: value for name, value in lively_parameters(config).items() if name not in ("injection", "read_out")}
    injected = jnp.ones((1, 4, 5, 2, 3))
    fires = firing(config, 2, sampled=True, key=jax.random.key(0))

    def loss(cells, firings):
        return jnp.sum(engine.advance(cells, injected, fires, config=config, firings=firings)[0].visible)

    jax.grad(loss)(cells, most_firings(config, sampled=True))
    with pytest.raises(jax.errors.JaxRuntimeError, match="more cells fire"):
        jax.block_until_ready(jax.grad(loss)(cells, 5))


def test_a_cube_that_it_cannot_compute_is_refused_with_the_fix():
    config = dataclasses.replace(SMALL, precision="bfloat16")
    assert devices.engine(dataclasses.replace(config, engine="automatic")) == "scan"
    with pytest.raises(InputError, match=r"engine automatic"):
        devices.engine(native(config))


def test_a_missing_compiler_is_named_with_the_fix(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    build.load.cache_clear()
    try:
        with pytest.raises(InputError, match=r"install gcc.*lattice\.engine scan"):
            engine.library()
    finally:
        monkeypatch.undo()
        build.load.cache_clear()


def test_sources_that_do_not_compile_leave_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_OPTIONS", [*build._OPTIONS, "--no-such-option"])
    build.load.cache_clear()
    try:
        with pytest.raises(InputError, match="can't be compiled"):
            engine.library()
    finally:
        monkeypatch.undo()
        build.load.cache_clear()
    assert list((tmp_path / "lattice_jax").iterdir()) == []


@pytest.mark.parametrize("home", ["/proc", "file"])
def test_a_cache_folder_that_cannot_be_used_is_named_with_the_fix(monkeypatch, capsys, tmp_path, home):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))  # /proc takes no folder, not even of root
    monkeypatch.chdir(tmp_path)
    build.load.cache_clear()
    try:
        assert run_here(monkeypatch, "train", "--config", SMOKE, "--workdir", tmp_path / "run") == 2
    finally:
        monkeypatch.undo()
        build.load.cache_clear()
    message = " ".join(capsys.readouterr().err.split())
    assert f"can't be kept in {tmp_path / home}/lattice_jax" in message
    assert "--config.lattice.engine scan" in message


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_it_starts_as_many_threads_as_the_process_may_have_cores():
    allowed = os.sched_getaffinity(0)
    one_pass = engine.Pass(SMALL, 1, batch=1, fires_batch=1, firings=1, keeps=False)
    everywhere = one_pass.settings()
    os.sched_setaffinity(0, {min(allowed)})
    try:
        pinned = one_pass.settings()
    finally:
        os.sched_setaffinity(0, allowed)
    assert pinned[everywhere != pinned].tolist() == ([1] if len(allowed) > 1 else [])
