"""What is saved comes back bit for bit, or is refused with a message that helps."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_task as task
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lattice_jax.errors import InputError
from lattice_jax.training.checkpoint import SEAL, Best, Checkpoints, abstract
from lattice_jax.training.loop import initial_state, make_train_step
from lattice_jax.training.schedule import make_optimizer

KEY = jax.random.key(11)
BEST = Best(20, 0.123456789012345678, 2)


@functools.cache
def trained(hidden: int = 32, mesh: Mesh | None = None):
    """A state in which nothing is zero any more, its matrices spread over the mesh, if any."""
    optimizer = make_optimizer(task.OPTIMIZER, 100, task.decay_matrices)
    params = task.initial_params(hidden)
    if mesh:
        split, everywhere = NamedSharding(mesh, PartitionSpec(None, "cells")), NamedSharding(mesh, PartitionSpec())
        params = jax.tree.map(lambda leaf: jax.device_put(leaf, split if leaf.ndim > 1 else everywhere), params)
    state = initial_state(params, optimizer)
    batch = {name: values[:12] for name, values in task.load()[0].items()}
    train_step = make_train_step(task.objective, optimizer, state)
    for _ in range(3):
        state, _ = train_step(state, batch, KEY)
    return state


def assert_identical(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory, state = tmp_path_factory.mktemp("saved"), trained()
    Checkpoints(directory).save(3, state, key=KEY, best=BEST)
    return directory, state


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved checkpoint, to be damaged."""
    return shutil.copytree(saved[0], tmp_path / "checkpoints")


def test_round_trip_is_exact(saved):
    directory, state = saved
    restored = Checkpoints(directory).restore(abstract(state))
    assert_identical(restored.state, state)
    assert restored.best == BEST
    assert jax.random.key_data(restored.key).tolist() == jax.random.key_data(KEY).tolist()
    bytes_held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert bytes_held < restored.receipt.size_bytes < 2 * bytes_held + 20_000
    assert restored.receipt.path == directory / "3"


def test_sharded_state_comes_back_in_its_place(tmp_path):
    mesh = jax.make_mesh((2,), ("cells",), axis_types=(AxisType.Auto,))
    state = trained(mesh=mesh)
    assert len(state.params["hidden"]["kernel"].devices()) == 2
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, key=KEY, best=BEST)
    restored = checkpoints.restore(abstract(state)).state
    assert_identical(restored, state)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(lambda leaf: leaf.sharding, state)
    unplaced = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    single = checkpoints.restore(unplaced).state
    assert_identical(single, state)
    assert len(single.params["hidden"]["kernel"].devices()) == 1


def test_only_the_last_checkpoint_and_its_best_stay(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), trained()

    def on_disk():
        return sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob(SEAL))

    checkpoints.save_best(state.params, 0)
    checkpoints.save(10, state, key=KEY, best=Best(0, 0.1, 0))
    checkpoints.save_best(state.params, 20)
    checkpoints.save_best(state.params, 30)
    # A kill now resumes from 10, whose best is 0.
    assert on_disk() == ["10", "best/0", "best/30"]
    checkpoints.save(40, state, key=KEY, best=Best(30, 0.2, 1))
    assert on_disk() == ["40", "best/30"]
    assert checkpoints.latest == 40


def test_best_parameters_are_those_of_the_last_checkpoint(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), trained()
    halved = jax.tree.map(lambda leaf: leaf * 0.5, state.params)
    checkpoints.save_best(halved, 10)
    checkpoints.save(20, state, key=KEY, best=Best(10, 0.5, 1))
    checkpoints.save_best(state.params, 30)
    assert_identical(checkpoints.restore_best(abstract(state.params)), halved)
    assert_identical(checkpoints.restore_best(abstract(state.params), 30), state.params)


def delete(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(delete, "is missing"), (empty, "has 0 bytes"), (halve, "bytes"), (flip_a_bit, "was changed after it was saved")],
)
def test_damage_to_any_file_is_refused(copy, damage, message):
    state = trained()
    files = sorted(file for file in (copy / "3").rglob("*") if file.is_file() and file.stat().st_size and file.name != SEAL)
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        damage(file)
        with pytest.raises(InputError) as caught:
            Checkpoints(copy).restore(abstract(state))
        assert str(file) in caught.value.found
        assert message in caught.value.found
        assert "--resume" in caught.value.fix
        file.write_bytes(content)
    assert_identical(Checkpoints(copy).restore(abstract(state)).state, state)


def test_unreadable_seal_is_refused(copy):
    halve(copy / "3" / SEAL)
    with pytest.raises(InputError, match=r"no readable seal\.json"):
        Checkpoints(copy).restore(abstract(trained()))


@pytest.mark.parametrize(
    ("seal", "told"),
    [
        ("{}", "is damaged"),
        ("[]", "is damaged"),
        ('{"x": 3}', "is damaged"),
        ('{"x": [3]}', "is damaged"),
        ('{"x": ["3", 4]}', "is damaged"),
        ('{"commit_success.txt": [46, 136268806]}', "does not list _CHECKPOINT_METADATA"),
        ("[" * 100_000, "no readable"),
    ],
)
def test_a_seal_that_proves_nothing_is_refused(copy, seal, told):
    (copy / "3" / SEAL).write_text(seal)
    with pytest.raises(InputError, match=told):
        Checkpoints(copy).restore(abstract(trained()))


def test_a_seal_without_one_of_the_files_is_refused(copy):
    content = json.loads((copy / "3" / SEAL).read_text())
    for name in content:
        (copy / "3" / SEAL).write_text(json.dumps({other: entry for other, entry in content.items() if other != name}))
        with pytest.raises(InputError, match=f"does not list .*{name}"):
            Checkpoints(copy).restore(abstract(trained()))


def test_half_written_checkpoint_is_passed_over_and_cleared_away(copy):
    state = trained()
    shutil.copytree(copy / "3", copy / "9")
    (copy / "9" / SEAL).unlink()
    (copy / "9.orbax-checkpoint-tmp-0").mkdir()
    checkpoints = Checkpoints(copy)
    assert checkpoints.latest == 3
    assert_identical(checkpoints.restore(abstract(state)).state, state)
    checkpoints.save(9, state, key=KEY, best=BEST)
    assert [entry.name for entry in copy.iterdir()] == ["9"]


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(InputError, match=r"no complete checkpoint in .* \(it holds nothing\)"):
        Checkpoints(tmp_path / "absent").restore(abstract(trained()))
    (tmp_path / "50.orbax-checkpoint-tmp-0").mkdir()
    with pytest.raises(InputError, match=r"it holds 50\.orbax-checkpoint-tmp-0"):
        Checkpoints(tmp_path).restore_best(abstract(trained().params))


def test_another_architecture_is_told_leaf_by_leaf(saved):
    directory, state = saved
    with pytest.raises(InputError, match="another architecture") as caught:
        Checkpoints(directory).restore(abstract(trained(hidden=16)))
    assert "state.params.hidden.kernel float32[48, 32]" in caught.value.found
    assert "state.params.hidden.kernel float32[48, 16]" in caught.value.expected
    assert "and 5 more" in caught.value.found
    assert "config.json" in caught.value.fix

    wanted = abstract(state)
    renamed = wanted._replace(params={"gate": wanted.params["hidden"], "output": wanted.params["output"]})
    with pytest.raises(InputError) as caught:
        Checkpoints(directory).restore(renamed)
    assert "state.params.gate.kernel absent" in caught.value.found
    assert "state.params.hidden.kernel absent" in caught.value.expected

    halved = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), wanted)
    with pytest.raises(InputError, match="float32"):
        Checkpoints(directory).restore(halved)


def test_another_run_is_not_overwritten(saved):
    checkpoints = Checkpoints(saved[0])
    checkpoints.require_start(3)
    with pytest.raises(InputError, match="already holds the checkpoint of step 3"):
        checkpoints.require_start(0)
