"""The embedding cache: computes what is missing and nothing else, through kills, damage and company."""

import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers.cache import address, count_cut, description, embed_texts, read_shards, teacher_directory, write_shard
from lattice_jax.teachers.embed import embed, load_teacher
from lattice_jax.teachers.settings import describe
from lattice_jax.teachers.weights import MPNET, find_files

MINILM_DESCRIBED = describe(TeacherConfig(name="minilm"))
TEXTS = [f"Cell {index} passes its state on to layer {index % 11}." for index in range(12)]

# Small shards, and a process that can be told to die; its embeddings go to standard output as bytes.
SCRIPT = """
import os, signal, sys
from lattice_jax.config import TeacherConfig
from lattice_jax.teachers import cache

cache.SHARD_ROWS = 4
directory, die_after, texts = sys.argv[1], int(sys.argv[2]), sys.argv[3:]

def progress(done, total):
    if done > die_after:
        os.kill(os.getpid(), signal.SIGKILL)

config = TeacherConfig(name="minilm", batch_size=4, cache_directory=directory)
sys.stdout.buffer.write(cache.embed_texts(texts, config, on_progress=progress).tobytes())
"""


class Progress:
    """Remembers what it was told."""

    def __init__(self):
        self.reports: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.reports.append((done, total))


@pytest.fixture
def config(tmp_path) -> TeacherConfig:
    return TeacherConfig(name="minilm", batch_size=4, cache_directory=str(tmp_path))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> np.ndarray:
    """What the teacher says without a cache."""
    config = TeacherConfig(name="minilm", cache_directory=str(tmp_path_factory.mktemp("unused")))
    return embed(load_teacher(config), TEXTS, batch_size=4)


def shards(tmp_path: Path) -> list[Path]:
    return sorted(teacher_directory(MINILM_DESCRIBED, tmp_path).glob("*.safetensors"))


def test_order_and_duplicates_are_kept(config, plain):
    order = [3, 0, 3, 7, 1, 1, 3]
    progress = Progress()
    found = embed_texts([TEXTS[i] for i in order], config, on_progress=progress)
    np.testing.assert_allclose(found, plain[order], atol=1e-6)
    assert progress.reports[-1] == (4, 4)


def test_only_missing_embeddings_are_computed(config, tmp_path):
    first = embed_texts(TEXTS[:5], config)
    assert len(shards(tmp_path)) == 1
    again, more = Progress(), Progress()
    np.testing.assert_array_equal(embed_texts(TEXTS[4::-1], config, on_progress=again), first[::-1])
    assert again.reports == []
    assert len(shards(tmp_path)) == 1
    np.testing.assert_array_equal(embed_texts(TEXTS[:8], config, on_progress=more)[:5], first)
    assert more.reports[-1] == (3, 3)


def test_the_weights_are_not_read_when_everything_is_cached(tmp_path):
    """With a directory of MPNet that has everything but the weights."""
    whole = Path(__file__).parents[1] / TeacherConfig().cache_directory
    unpacked = find_files(MPNET, whole)
    ignored = shutil.ignore_patterns("model.safetensors")
    shutil.copytree(unpacked, tmp_path / unpacked.relative_to(whole), ignore=ignored)
    stored = np.eye(2, 768, dtype=np.float32)
    config = TeacherConfig(name="mpnet", cache_directory=str(tmp_path))
    described = describe(config)
    rows = {address(described, text): row for text, row in zip(["one", "two"], stored, strict=True)}
    write_shard(teacher_directory(described, tmp_path), rows, description(described))
    np.testing.assert_array_equal(embed_texts(["two", "one"], config), stored[::-1])
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        embed_texts(["two", "three"], config)


def test_unusable_embeddings_in_the_cache_are_refused(config, tmp_path):
    rows = {address(MINILM_DESCRIBED, text): np.zeros(384, np.float32) for text in TEXTS[:2]}
    write_shard(teacher_directory(MINILM_DESCRIBED, tmp_path), rows, description(MINILM_DESCRIBED))
    with pytest.raises(InputError, match="text 0 is zero"):
        embed_texts(TEXTS[:2], config)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_shard_is_named_and_may_be_deleted(config, tmp_path, damage):
    first = embed_texts(TEXTS[:3], config)
    (shard,) = shards(tmp_path)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes({"truncated": content[:-1], "altered": content, "empty": b""}[damage])
    with pytest.raises(InputError) as raised:
        embed_texts(TEXTS[:3], config)
    assert str(shard) in raised.value.found
    assert raised.value.fix.startswith(f"delete {shard}")
    shard.unlink()
    np.testing.assert_array_equal(embed_texts(TEXTS[:3], config), first)


def test_an_address_depends_on_text_and_teacher():
    pooled = describe(TeacherConfig(name="minilm", pooling="cls"))
    addresses = {address(described, text) for described in (MINILM_DESCRIBED, pooled) for text in ("a", "b", "A")}
    assert len(addresses) == 6
    assert teacher_directory(MINILM_DESCRIBED, Path()) != teacher_directory(pooled, Path())


def test_what_a_killed_process_left_half_written_is_not_read(config, tmp_path):
    directory = teacher_directory(MINILM_DESCRIBED, tmp_path)
    directory.mkdir(parents=True)
    (directory / ".writing-0123").write_bytes(b"half")
    (directory / ".writing-0123.safetensors").write_bytes(b"half")
    assert embed_texts(TEXTS[:2], config).shape == (2, 384)


def test_a_killed_process_loses_one_shard_at_most(config, tmp_path, plain):
    killed = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), "8", *TEXTS], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    stored = read_shards(teacher_directory(MINILM_DESCRIBED, tmp_path), {address(MINILM_DESCRIBED, text) for text in TEXTS})
    assert len(stored) == 8
    progress = Progress()
    np.testing.assert_allclose(embed_texts(TEXTS, config, on_progress=progress), plain, atol=1e-6)
    assert progress.reports[-1] == (4, 4)


def test_two_processes_may_fill_one_cache(config, tmp_path, plain):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "99", *TEXTS]
    with ThreadPoolExecutor(2) as pool:
        finished = list(pool.map(lambda _: subprocess.run(command, capture_output=True), range(2)))
    for process in finished:
        assert process.returncode == 0, process.stderr.decode()
        np.testing.assert_allclose(np.frombuffer(process.stdout, np.float32).reshape(12, 384), plain, atol=1e-6)
    progress = Progress()
    np.testing.assert_allclose(embed_texts(TEXTS, config, on_progress=progress), plain, atol=1e-6)
    assert progress.reports == []
    assert all(not path.name.startswith(".writing-") for path in teacher_directory(MINILM_DESCRIBED, tmp_path).iterdir())


def test_many_may_write_one_shard_at_once(tmp_path):
    rows = {address(MINILM_DESCRIBED, str(index)): np.full(384, index, np.float32) for index in range(200)}
    for attempt in range(10):
        directory = tmp_path / str(attempt)
        with ThreadPoolExecutor(8) as pool:
            paths = list(pool.map(lambda _, directory=directory: write_shard(directory, rows, "metadata"), range(8)))
        assert set(directory.iterdir()) == set(paths)
        stored = read_shards(directory, rows)
        assert all(np.array_equal(stored[key], row) for key, row in rows.items())


def test_cut_texts_are_counted(config):
    long = "The state of the cell moves on to the next layer of the cube. " * 30
    assert count_cut([*TEXTS, long, long], config) == 2
