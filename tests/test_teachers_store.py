"""The store of embeddings: what is written is read, what is damaged is named, and company and kills do no harm."""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_jax.errors import InputError
from lattice_jax.teachers import store as store_module
from lattice_jax.teachers.shards import ASIDE, MANIFEST, Rows
from lattice_jax.teachers.store import Store, View, addresses_of, check_directory, open_store

DIMENSION = 24
TEXTS = [f"text {index}" for index in range(30)]

WRITER = """
import sys
from pathlib import Path
import numpy as np
from lattice_jax.teachers.shards import Rows
from lattice_jax.teachers.store import addresses_of, open_store

directory, description, first, count = Path(sys.argv[1]), eval(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store = open_store(directory, description).adopt()
print("ready", flush=True)
for number in range(first, first + count):
    texts = [f"{number}.{row}" for row in range(50)]
    store = store.add(Rows(addresses_of(texts), np.full((50, description["dimension"]), number + 1.0), np.zeros(50, bool)))
    print(number, flush=True)
"""


def description(stored_as: str = "float32", dimension: int = DIMENSION) -> dict:
    return {"teacher": "a random one", "dimension": dimension, "stored_as": stored_as}


def random_rows(texts: list[str], dimension: int = DIMENSION) -> Rows:
    random_numbers = np.random.default_rng(len(texts))
    embeddings = random_numbers.normal(size=(len(texts), dimension)).astype(np.float32)
    return Rows(addresses_of(texts), embeddings, random_numbers.random(len(texts)) < 0.5)


def part(rows: Rows, which: slice) -> Rows:
    return Rows(*(values[which] for values in rows))


ROWS = random_rows(TEXTS)


@pytest.fixture
def filled(tmp_path) -> Store:
    """Thirty rows in three shards."""
    store = open_store(tmp_path, description())
    for start in (0, 10, 20):
        store = store.add(part(ROWS, slice(start, start + 10)))
    return store


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("[!.]*.safetensors"))


def conditions(directory: Path) -> dict[Path, str | None]:
    return {condition.path: condition.damage for condition in check_directory(directory)}


def everything(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and cuts of all thirty, by a store opened anew."""
    store = open_store(directory, description())
    rows = store.find(addresses_of(TEXTS))
    return View(store, rows)[:], store.cut(rows)


@pytest.mark.parametrize("stored_as", ["float32", "float16", "bfloat16"])
def test_what_is_written_is_read(tmp_path, stored_as):
    store = open_store(tmp_path, description(stored_as)).add(part(ROWS, slice(0, 10))).add(part(ROWS, slice(10, 30)))
    expected = ROWS.embeddings.astype(getattr(ml_dtypes, stored_as, stored_as)).astype(np.float32)
    assert (stored_as == "float32") == np.array_equal(expected, ROWS.embeddings)
    order = [29, 0, 9, 10, 9, 11]
    for opened in (store, open_store(tmp_path, description(stored_as))):
        rows = opened.find(ROWS.addresses[order])
        view = View(opened, rows)
        assert view.shape == (6, DIMENSION)
        assert view[:].dtype == np.float32
        np.testing.assert_array_equal(view[:], expected[order])
        np.testing.assert_array_equal(view[2], expected[9])
        np.testing.assert_array_equal(view[-1], expected[11])
        np.testing.assert_array_equal(view[1:4:2], expected[[0, 10]])
        np.testing.assert_array_equal(view[[5, 0, 5]], expected[[11, 29, 11]])
        np.testing.assert_array_equal(opened.cut(rows), ROWS.cut[order])


def test_a_store_is_a_snapshot_that_can_be_renewed(tmp_path):
    first = open_store(tmp_path, description())
    second = first.add(part(ROWS, slice(0, 10)))
    assert (len(first), len(second)) == (0, 10)
    assert second.refreshed() is second
    assert len(first.refreshed()) == 10


def test_an_empty_store(tmp_path):
    store = open_store(tmp_path / "none", description()).adopt()
    assert len(store) == store.size == 0
    np.testing.assert_array_equal(store.find(ROWS.addresses), np.full(30, -1))
    assert View(store, store.find(addresses_of([])))[:].shape == (0, DIMENSION)
    with pytest.raises(IndexError, match="text 0 is not stored"):
        View(store, store.find(ROWS.addresses))
    assert not (tmp_path / "none").exists()


# Addresses that begin alike, so that eight bytes don't tell them apart.
ALIKE = st.builds(lambda head, tail: bytes([head]) * 8 + bytes([tail]) * 24, st.integers(0, 2), st.integers(0, 5))
ANY = st.binary(min_size=32, max_size=32)


@settings(max_examples=40, deadline=None)
@given(stored=st.lists(st.lists(ALIKE | ANY, min_size=1, max_size=12), min_size=1, max_size=3), others=st.lists(ALIKE | ANY))
def test_lookup_agrees_with_a_dictionary(stored, others):
    flat = [address for shard in stored for address in shard]
    first: dict[bytes, int] = {}
    for row, address in enumerate(flat):
        first.setdefault(address, row)
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(Path(directory), description(dimension=1))
        for number, shard in enumerate(stored, start=1):
            addresses = np.frombuffer(b"".join(shard), np.uint8).reshape(-1, 32)
            rows = Rows(addresses, np.full((len(shard), 1), number, np.float32), np.zeros(len(shard), np.bool_))
            store = store.add(rows)
        wanted = flat + others
        found = store.find(np.frombuffer(b"".join(wanted), np.uint8).reshape(-1, 32))
        assert found.tolist() == [first.get(address, -1) for address in wanted]


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
    for text in range(1, 30):
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


@pytest.mark.parametrize(
    ("stored_as", "embedding", "message"),
    [
        ("float32", np.zeros(DIMENSION), "zero or not finite"),
        ("float32", np.full(DIMENSION, np.nan), "zero or not finite"),
        ("float16", np.full(DIMENSION, 1e5), "zero or not finite as float16"),
        ("bfloat16", np.full(DIMENSION, 1e-45), "zero or not finite as bfloat16"),
        ("float32", np.ones(DIMENSION + 1), "of shape"),
    ],
)
def test_unusable_embeddings_are_not_stored(tmp_path, stored_as, embedding, message):
    rows = Rows(addresses_of(["one"]), embedding[None].astype(np.float32), np.zeros(1, np.bool_))
    with pytest.raises(InputError, match=message):
        open_store(tmp_path, description(stored_as)).add(rows)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cant_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="can't be created"):
        open_store(tmp_path / "file" / "store", description()).add(ROWS)


def test_a_full_disk_leaves_the_store_as_it_was(filled, tmp_path):
    """A limit on the size of files, which the system enforces as it does the end of the disk."""
    before = sorted(path.name for path in tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(InputError, match="can't be written to"):
            filled.add(random_rows([f"other {index}" for index in range(40)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(open_store(tmp_path, description()).adopt()) == 30


def test_a_lock_that_cant_be_had_is_told(filled, tmp_path):
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match="can't be written to"):
        filled.add(ROWS)


def test_many_may_write_at_once(tmp_path):
    parts = [part(ROWS, slice(start, start + 3)) for start in range(0, 30, 3)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            list(pool.map(lambda rows: open_store(tmp_path, description()).adopt().add(rows), parts))
    store = open_store(tmp_path, description())
    assert len(store) == 30, "the same rows in the same shard are stored once"
    np.testing.assert_array_equal(everything(tmp_path)[0], ROWS.embeddings)
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST, ".lock", *(shard.path.name for shard in store.shards)}


def start_writer(directory: Path, first: int, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(directory), repr(description()), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_may_write_at_once(tmp_path):
    writers = [start_writer(tmp_path, 100 * number, 20) for number in range(3)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    store = open_store(tmp_path, description())
    assert len(store) == 3 * 20 * 50
    for number in [first + index for first in (0, 100, 200) for index in range(20)]:
        row = store.find(addresses_of([f"{number}.7"]))
        np.testing.assert_array_equal(store.read(row), np.full((1, DIMENSION), number + 1.0))
    assert not list(tmp_path.glob(f"{ASIDE}*"))


def test_a_writer_may_be_killed_at_any_moment(tmp_path):
    """SIGKILL after a time drawn anew; what was said to be stored is, and the rest can be stored again."""
    said = 0
    for attempt in range(6):
        writer = start_writer(tmp_path, 1000 * attempt, 10_000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(random.SystemRandom().uniform(0.0, 0.05))
        writer.send_signal(signal.SIGKILL)
        said += len(writer.communicate()[0].split("\n")) - 1  # what follows the last line end was not wholly said
        assert writer.returncode == -signal.SIGKILL
        store = open_store(tmp_path, description()).adopt()
        assert said * 50 <= len(store) <= (said + attempt + 1) * 50
        for shard in store.shards:
            assert shard.read_keys().addresses.shape == (50, 32)
    assert said > 0
    assert set(conditions(tmp_path).values()) == {None}
    store.read(np.arange(len(store)))


def test_what_was_left_half_written_goes_after_an_hour(filled, tmp_path):
    old, new = tmp_path / f"{ASIDE}old", tmp_path / f"{ASIDE}new.safetensors"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    assert len(filled.adopt()) == 30
    assert (old.exists(), new.exists()) == (False, True)


def test_no_more_shards_are_mapped_than_may_be(filled, monkeypatch):
    monkeypatch.setattr(store_module, "MAPPED_SHARDS", 2)
    mapped, whole = [], filled._map
    monkeypatch.setattr(filled, "_map", lambda shard: (whole(shard), mapped.append(len(filled._mapped)))[0])
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_array_equal(filled.read(filled.find(ROWS.addresses[order])), ROWS.embeddings[order])
    assert set(mapped) == {1, 2}


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of mapped files is read from /proc")
def test_reading_everything_does_not_hold_everything(tmp_path, monkeypatch):
    """64 MB in four shards, of which 16 may be held."""

    def held() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) << 10

    monkeypatch.setattr(store_module, "MAPPED_BYTES", 16 << 20)
    store = open_store(tmp_path, description(dimension=4096))
    for number in range(4):
        store = store.add(random_rows([f"{number}.{row}" for row in range(1024)], 4096))
    store.read(np.arange(0, len(store), 1000))
    before, most = held(), 0
    for rows in np.array_split(np.random.default_rng(0).permutation(len(store)), 100):
        store.read(rows)
        most = max(most, held())
    assert most - before <= 16 << 20
