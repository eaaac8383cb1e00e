"""The store of embeddings: what is written is read, and company, kills and full disks do no harm."""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_store import DIMENSION, ROWS, conditions, description, everything, fill, part, random_rows

from lattice_jax.errors import InputError
from lattice_jax.teachers import store as store_module
from lattice_jax.teachers.shards import ASIDE, MANIFEST, Rows
from lattice_jax.teachers.store import Store, View, addresses_of, open_store

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


@pytest.fixture
def filled(tmp_path) -> Store:
    return fill(tmp_path)


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


def test_no_more_files_are_open_than_may_be(filled, monkeypatch):
    monkeypatch.setattr(store_module, "OPEN_FILES", 2)
    opened, whole = [], filled._open
    monkeypatch.setattr(filled, "_open", lambda shard: (whole(shard), opened.append(len(filled._files)))[0])
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_array_equal(filled.read(filled.find(ROWS.addresses[order])), ROWS.embeddings[order])
    assert set(opened) == {1, 2}


def test_reading_holds_little_beside_what_is_asked_for(tmp_path, monkeypatch):
    """16 MB in four shards, read whole."""
    monkeypatch.setattr(store_module, "READ_ROWS", 32)
    store = open_store(tmp_path, description(dimension=4096))
    for number in range(4):
        store = store.add(random_rows([f"{number}.{row}" for row in range(256)], 4096))
    order = np.random.default_rng(0).permutation(len(store))
    store.read(order[:100])
    tracemalloc.start()
    embeddings = store.read(order)
    assert tracemalloc.get_traced_memory()[1] < embeddings.nbytes + (2 << 20)
    tracemalloc.stop()
