"""A store that is damaged: nothing wrong is used, and whatever is damaged is named with what mends it."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from random_store import ROWS, TEXTS, conditions, description, everything, fill, part, random_rows

from lattice_jax.errors import InputError
from lattice_jax.teachers.shards import MANIFEST
from lattice_jax.teachers.store import Store, View, open_store


@pytest.fixture
def filled(tmp_path) -> Store:
    return fill(tmp_path)


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("[!.]*.safetensors"))


def test_opening_and_lookup_read_no_embeddings(filled, tmp_path):
    """Every embedding but one is altered; that one is still read, the others only when they are asked for."""
    for path in shards(tmp_path):
        content = path.read_bytes()
        for row in ROWS.embeddings[1:]:
            content = content.replace(row.tobytes(), (-row).tobytes())
        path.write_bytes(content)
    store = open_store(tmp_path, description())
    view = View(store, store.find(ROWS.addresses))
    np.testing.assert_array_equal(view[0], ROWS.embeddings[0])
    for text in [*range(1, 30), 1]:  # what is damaged stays so, however often it is read
        with pytest.raises(InputError) as raised:
            view[[0, text]]
        assert str(store.shards[text // 10].path) in raised.value.found
        assert f"row {text % 10}" in raised.value.found


def test_no_altered_byte_is_used(filled, tmp_path):
    """Whatever byte changes: what is read is right, or an error names the shard; a check of the directory always names it."""
    chosen = random.Random(0)
    for path in shards(tmp_path):
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        for place in [*chosen.sample(range(header), 60), *chosen.sample(range(header, len(whole)), 60)]:
            content = bytearray(whole)
            content[place] ^= 1 << chosen.randrange(8)
            path.write_bytes(content)
            try:
                embeddings, cut = everything(tmp_path)
            except InputError as error:
                assert str(path) in error.found  # noqa: PT017
            else:
                np.testing.assert_array_equal(embeddings, ROWS.embeddings)
                np.testing.assert_array_equal(cut, ROWS.cut)
            assert [named for named, damage in conditions(tmp_path).items() if damage] == [path]
        path.write_bytes(whole)
    assert set(conditions(tmp_path).values()) == {None}


@pytest.mark.parametrize("kept", [0, 4, 100, 1500, -1])
def test_a_truncated_shard_is_named_when_it_is_opened(filled, tmp_path, kept):
    path = filled.shards[1].path
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError) as raised:
        open_store(tmp_path, description())
    assert f"{path} has" in raised.value.found
    assert "truncated" in (conditions(tmp_path)[path] or "")


def test_a_shard_that_is_truncated_or_deleted_after_opening_is_named_when_it_is_read(filled, tmp_path):
    opened = [open_store(tmp_path, description()) for _ in range(4)]
    rows = opened[0].find(ROWS.addresses)
    opened[1].find(ROWS.addresses)
    path = filled.shards[1].path
    path.write_bytes(path.read_bytes()[:900])
    for damaged in (lambda: opened[1].read(rows), lambda: opened[2].find(ROWS.addresses)):
        with pytest.raises(InputError, match=path.name):
            damaged()
    path.unlink()
    for damaged in (lambda: opened[0].read(rows), lambda: opened[3].find(ROWS.addresses)):
        with pytest.raises(InputError, match=path.name):
            damaged()


def test_a_shard_that_is_truncated_while_it_is_read_is_named(filled, tmp_path):
    """As a mapped file is not: reading on in it would end the process by a signal."""
    store = open_store(tmp_path, description())
    rows = store.find(ROWS.addresses)
    store.read(rows)
    path = filled.shards[1].path
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match=path.name + " was cut short"):
        store.read(rows)


def test_the_fix_for_a_damaged_shard_keeps_the_others(filled, tmp_path):
    path = filled.shards[1].path
    path.write_bytes(path.read_bytes()[:-1])
    path.unlink()
    (tmp_path / MANIFEST).unlink()
    store = open_store(tmp_path, description()).adopt()
    assert len(store) == 20
    store = store.add(part(ROWS, slice(10, 20)))
    np.testing.assert_array_equal(View(store, store.find(ROWS.addresses))[:], ROWS.embeddings)


def test_a_missing_shard_is_named(filled, tmp_path):
    path = filled.shards[2].path
    path.unlink()
    with pytest.raises(InputError) as raised:
        open_store(tmp_path, description())
    assert f"{path} is missing" in raised.value.found
    assert conditions(tmp_path)[path] == "is missing"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"format": 1}',
        "half",
        '"format": 2',
        '"rows": "many"',
        '"rows": -10',
        '"sha256": "short"',
        '"stored_as": "int8"',
    ],
    ids=str,
)
def test_a_damaged_manifest_is_named_and_may_be_deleted(filled, tmp_path, content):
    path = tmp_path / MANIFEST
    values = json.loads(path.read_text())
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "half":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        entry = json.loads(f"{{{content}}}")
        place = values if "format" in entry else values["description"] if "stored_as" in entry else values["shards"][1]
        place |= entry
        path.write_text(json.dumps(values))
    for use in (lambda: open_store(tmp_path, description()), filled.refreshed, lambda: conditions(tmp_path)):
        with pytest.raises(InputError) as raised:
            use()
        assert str(path) in raised.value.found
        assert raised.value.fix.startswith(f"delete {path}")
    path.unlink()
    assert len(open_store(tmp_path, description()).adopt()) == 30
    np.testing.assert_array_equal(everything(tmp_path)[0], ROWS.embeddings)


def test_a_shard_that_was_named_but_not_listed_is_taken_in(filled, tmp_path):
    """As a process leaves it that is killed between the two."""
    path = tmp_path / MANIFEST
    values = json.loads(path.read_text())
    del values["shards"][1]
    path.write_text(json.dumps(values))
    assert conditions(tmp_path)[filled.shards[1].path] is None
    store = open_store(tmp_path, description())
    assert len(store) == 20
    assert len(store.adopt()) == 30
    assert len(store.adopt().adopt()) == 30
    np.testing.assert_array_equal(everything(tmp_path)[0], ROWS.embeddings)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "of other numbers", "of another dimension"])
def test_a_shard_that_is_not_listed_and_not_whole_is_refused(filled, tmp_path, damage):
    other = description("float16") if damage == "of other numbers" else description(dimension=8)
    lone = open_store(tmp_path / "other", other).add(random_rows(TEXTS[:5], other["dimension"])).shards[0].path
    path = tmp_path / lone.name
    content = bytearray(lone.read_bytes())
    content[-1] ^= 1
    shutil.copy(lone, path)
    if damage in ("truncated", "altered", "empty"):
        path.write_bytes({"truncated": content[:-1], "altered": content, "empty": b""}[damage])
    assert conditions(tmp_path)[path]
    with pytest.raises(InputError) as raised:
        open_store(tmp_path, description()).adopt()
    assert str(path) in raised.value.found
    path.unlink()
    assert len(open_store(tmp_path, description()).adopt()) == 30


@pytest.mark.parametrize("other", [description("float16"), description(dimension=8), {**description(), "teacher": "another"}])
def test_stores_are_not_mixed(filled, tmp_path, other):
    with pytest.raises(InputError, match="another teacher or other settings"):
        open_store(tmp_path, other)
    lone = open_store(tmp_path / "other", other).add(random_rows(TEXTS[:5], other["dimension"])).shards[0]
    values = json.loads((tmp_path / MANIFEST).read_text())
    values["shards"].append(dataclasses.asdict(lone.shard))
    shutil.copy(lone.path, tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(InputError, match=lone.path.name):
        open_store(tmp_path, description())
