"""The embedding cache: computes what is missing and nothing else, through kills, damage and company."""

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers import cache, settings
from lattice_jax.teachers.cache import extract, open_corpus, question_embedder, record_corpus, recorded_corpora, teacher_store
from lattice_jax.teachers.embed import embed, load_teacher
from lattice_jax.teachers.settings import describe
from lattice_jax.teachers.shards import ASIDE, MANIFEST, Rows
from lattice_jax.teachers.store import Store, addresses_of
from lattice_jax.teachers.weights import MPNET, find_files

TEXTS = [f"Cell {index} passes its state on to layer {index % 11}." for index in range(12)]
LONG = "The state of the cell moves on to the next layer of the cube. " * 30

# Small shards, and a process that can be told to die; its embeddings go to standard output as bytes.
SCRIPT = """
import os, signal, sys
from lattice_jax.config import TeacherConfig
from lattice_jax.teachers import cache

cache.ENCODED_ROWS = cache.SHARD_ROWS = 4
directory, die_after, texts = sys.argv[1], int(sys.argv[2]), sys.argv[3:]

def progress(done, total):
    if done > die_after:
        os.kill(os.getpid(), signal.SIGKILL)

config = TeacherConfig(name="minilm", batch_size=4, cache_directory=directory)
sys.stdout.buffer.write(cache.extract(texts, config, on_progress=progress).embeddings[:].tobytes())
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


def embed_all(texts: list[str], config: TeacherConfig, on_progress: Progress | None = None) -> np.ndarray:
    return extract(texts, config, on_progress=on_progress).embeddings[:]


def add(config: TeacherConfig, texts: list[str], embeddings: np.ndarray) -> Store:
    """Store embeddings that no teacher made."""
    return teacher_store(config).add(Rows(addresses_of(texts), embeddings, np.zeros(len(texts), np.bool_)))


def test_order_and_duplicates_are_kept(config, plain):
    order = [3, 0, 3, 7, 1, 1, 3]
    progress = Progress()
    found = embed_all([TEXTS[i] for i in order], config, on_progress=progress)
    np.testing.assert_allclose(found, plain[order], atol=1e-6)
    assert progress.reports[-1] == (4, 4)
    assert len(teacher_store(config)) == 4


def test_only_missing_embeddings_are_computed(config):
    first = embed_all(TEXTS[:5], config)
    assert [shard.shard.rows for shard in teacher_store(config).shards] == [5]
    again, more = Progress(), Progress()
    np.testing.assert_array_equal(embed_all(TEXTS[4::-1], config, on_progress=again), first[::-1])
    assert again.reports == []
    np.testing.assert_array_equal(embed_all(TEXTS[:8], config, on_progress=more)[:5], first)
    assert more.reports[-1] == (3, 3)
    assert [shard.shard.rows for shard in teacher_store(config).shards] == [5, 3]


def test_no_text_has_no_embedding(config):
    assert extract([], config).embeddings.shape == (0, 384)


def test_extraction_gives_a_view_and_says_what_it_took(config, plain, tmp_path):
    texts = [TEXTS[3], LONG, *TEXTS, LONG]
    first = extract(texts, config, directory=tmp_path / "elsewhere")
    assert (first.new, first.cut) == (13, 2)
    assert first.embeddings.shape == (15, 384)
    np.testing.assert_allclose(first.embeddings[2:14], plain, atol=1e-6)
    again = extract(texts[:2], config, directory=tmp_path / "elsewhere")
    assert (again.new, again.cut) == (0, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere"}


def test_shards_are_as_large_as_they_may_be(config, monkeypatch):
    monkeypatch.setattr(cache, "ENCODED_ROWS", 2)
    monkeypatch.setattr(cache, "SHARD_ROWS", 5)
    progress = Progress()
    extract(TEXTS[:7], config, on_progress=progress)
    assert [shard.shard.rows for shard in teacher_store(config).shards] == [4, 3]
    assert [done for done, _ in progress.reports] == [2, 4, 6, 7]
    monkeypatch.setattr(cache, "SHARD_SECONDS", 0.0)
    extract(TEXTS, config)
    assert [shard.shard.rows for shard in teacher_store(config).shards] == [4, 3, 2, 2, 1]


@pytest.mark.parametrize(("stored_as", "nearest", "furthest"), [("float16", 1e-9, 3e-4), ("bfloat16", 1e-6, 2e-3)])
def test_smaller_numbers_have_a_store_of_their_own(config, plain, stored_as, nearest, furthest):
    smaller = TeacherConfig(name="minilm", batch_size=4, cache_directory=config.cache_directory, stored_as=stored_as)
    assert teacher_store(smaller).directory != teacher_store(config).directory
    difference = np.abs(embed_all(TEXTS, smaller) - plain).max()
    assert nearest < difference < furthest
    np.testing.assert_allclose(embed_all(TEXTS, config), plain, atol=1e-6)
    assert teacher_store(smaller).size < teacher_store(config).size * 0.55


def test_the_weights_are_not_read_when_everything_is_cached(tmp_path):
    """With a directory of MPNet that has everything but the weights."""
    whole = Path(__file__).parents[1] / TeacherConfig().cache_directory
    unpacked = find_files(MPNET, whole)
    ignored = shutil.ignore_patterns("model.safetensors")
    shutil.copytree(unpacked, tmp_path / unpacked.relative_to(whole), ignore=ignored)
    config = TeacherConfig(name="mpnet", cache_directory=str(tmp_path))
    add(config, ["one", "two"], np.eye(2, 768, dtype=np.float32))
    np.testing.assert_array_equal(embed_all(["two", "one"], config), np.eye(2, 768)[::-1])
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        embed_all(["two", "three"], config)


def test_unusable_embeddings_are_refused(config, monkeypatch):
    add(config, TEXTS[:3], np.ones((3, 384), np.float32))
    with pytest.raises(InputError, match="of 3 different texts are all alike"):
        extract(TEXTS[:3], config)
    monkeypatch.setattr(cache, "encode", lambda teacher, tokens, **_: np.zeros((len(tokens), 384), np.float32))
    with pytest.raises(InputError, match="zero or not finite"):
        extract(TEXTS[3:5], config)
    assert len(teacher_store(config)) == 3


def test_collapse_is_refused_before_much_is_computed(config, monkeypatch):
    monkeypatch.setattr(cache, "ENCODED_ROWS", 4)
    calls = []
    monkeypatch.setattr(
        cache, "encode", lambda teacher, tokens, **_: calls.append(len(tokens)) or np.ones((len(tokens), 384), np.float32)
    )
    with pytest.raises(InputError, match="all alike"):
        extract(TEXTS, config)
    assert calls == [4]
    assert len(teacher_store(config)) == 0


def test_a_bad_text_is_named_by_its_place_among_all(config, monkeypatch):
    extract(TEXTS[:5], config)
    monkeypatch.setattr(cache, "ENCODED_ROWS", 2)
    for bad in ("", "half \ud800"):
        with pytest.raises(InputError, match="text 9 "):
            extract([*TEXTS[:9], bad], config)
    assert len(teacher_store(config)) == 5, "a bad text is found before anything is computed"


def test_a_damaged_shard_is_named_and_may_be_deleted(config):
    first = embed_all(TEXTS[:3], config)
    path = teacher_store(config).shards[0].path
    content = bytearray(path.read_bytes())
    place = content.index(first[1].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(embed_all([TEXTS[0], TEXTS[2]], config), first[[0, 2]])
    with pytest.raises(InputError) as raised:
        embed_all(TEXTS[:3], config)
    assert str(path) in raised.value.found
    assert raised.value.fix.startswith(f"delete it and {MANIFEST}")
    path.unlink()
    (path.parent / MANIFEST).unlink()
    np.testing.assert_array_equal(embed_all(TEXTS[:3], config), first)


def test_the_store_is_named_by_all_that_determines_an_embedding(monkeypatch):
    configs = [
        TeacherConfig(name=name, stored_as=kind, pooling=pooling)
        for name in ("minilm", "mpnet")
        for kind in ("float32", "bfloat16")
        for pooling in ("mean", "cls")
    ]
    before = {teacher_store(config).directory for config in configs}
    monkeypatch.setattr(settings, "ENCODER_REVISION", settings.ENCODER_REVISION + 1)
    after = {teacher_store(config).directory for config in configs}
    assert len(before | after) == 16
    assert {"model.safetensors", "tokenizer.json"} <= describe(configs[0])["files"].keys()


def test_a_store_is_found_under_whatever_name_it_was_made(config):
    first = extract(TEXTS[:2], config).embeddings.store.directory
    assert first.name.startswith("minilm-")
    renamed = first.rename(first.with_name(first.name.replace("minilm", "another-name")))
    again = extract(TEXTS[:2], config)
    assert (again.new, again.embeddings.store.directory) == (0, renamed)


def test_a_killed_process_loses_one_shard_at_most(config, plain):
    killed = subprocess.run([sys.executable, "-c", SCRIPT, config.cache_directory, "8", *TEXTS], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(teacher_store(config)) == 8
    progress = Progress()
    np.testing.assert_allclose(embed_all(TEXTS, config, on_progress=progress), plain, atol=1e-6)
    assert progress.reports[-1] == (4, 4)


def test_a_process_may_be_killed_at_any_moment(config):
    """SIGKILL after a time drawn anew, from the first shard on: what was stored is not computed again."""
    texts = [f"{text} {number} times." for text in TEXTS for number in range(50)]
    command = [sys.executable, "-c", SCRIPT, config.cache_directory, "999", *texts]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    manifest = teacher_store(config).directory / MANIFEST
    while not manifest.exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(random.SystemRandom().uniform(0.0, 0.3))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len(teacher_store(config).adopt())
    assert kept % 4 == 0
    progress = Progress()
    found = embed_all(texts, config, on_progress=progress)
    assert progress.reports[-1] == (600 - kept, 600 - kept)
    np.testing.assert_allclose(found, embed(load_teacher(config), texts, batch_size=4), atol=1e-6)


def test_what_a_process_named_but_did_not_list_is_not_computed_again(config, plain):
    embed_all(TEXTS, config)
    path = teacher_store(config).directory / MANIFEST
    values = json.loads(path.read_text())
    values["shards"] = []
    path.write_text(json.dumps(values))
    progress = Progress()
    np.testing.assert_allclose(embed_all(TEXTS, config, on_progress=progress), plain, atol=1e-6)
    assert progress.reports == []


def test_two_processes_may_fill_one_cache(config, plain):
    """Each with texts of its own and some that both have."""
    shares = (TEXTS[:8], TEXTS[4:])
    commands = [[sys.executable, "-c", SCRIPT, config.cache_directory, "99", *share] for share in shares]
    with ThreadPoolExecutor(2) as pool:
        finished = list(pool.map(lambda command: subprocess.run(command, capture_output=True), commands))
    for process, expected in zip(finished, (plain[:8], plain[4:]), strict=True):
        assert process.returncode == 0, process.stderr.decode()
        np.testing.assert_allclose(np.frombuffer(process.stdout, np.float32).reshape(8, 384), expected, atol=1e-6)
    progress = Progress()
    np.testing.assert_allclose(embed_all(TEXTS, config, on_progress=progress), plain, atol=1e-6)
    assert progress.reports == []
    assert not list(teacher_store(config).directory.glob(f"{ASIDE}*"))


def test_what_another_process_stored_meanwhile_is_left_out(config, monkeypatch):
    monkeypatch.setattr(cache, "ENCODED_ROWS", 4)
    encode, calls = cache.encode, []

    def encode_beside_another(teacher, tokens, *, batch_size, on_batch):
        if not calls:
            add(config, TEXTS, np.eye(12, 384, dtype=np.float32))
        calls.append(len(tokens))
        return encode(teacher, tokens, batch_size=batch_size, on_batch=on_batch)

    monkeypatch.setattr(cache, "encode", encode_beside_another)
    found = extract(TEXTS, config)
    assert (calls, found.new) == ([4], 4)
    assert len(teacher_store(config)) == 12
    np.testing.assert_array_equal(found.embeddings[:], np.eye(12, 384))


def test_the_order_of_a_corpus_is_found_again(config, plain):
    order = [3, 1, 3, 0]
    texts = [TEXTS[i] for i in order]
    store = extract(TEXTS, config).embeddings.store
    path = record_corpus(store, "folder/my pairs.jsonl", addresses_of(texts))
    assert path.parent == store.directory / "corpora"
    np.testing.assert_allclose(open_corpus(teacher_store(config), "folder/my pairs.jsonl")[:], plain[order], atol=1e-6)
    record_corpus(store, "folder/my pairs.jsonl", addresses_of(["never embedded"]))
    with pytest.raises(InputError, match=r"1 of 1 texts of 'folder/my pairs.jsonl' are not stored"):
        open_corpus(store, "folder/my pairs.jsonl")
    path.write_bytes(path.read_bytes()[:-1])
    for name in ("folder/my pairs.jsonl", "another"):
        with pytest.raises(InputError, match="can't be read"):
            open_corpus(store, name)
    assert recorded_corpora(store) == ["folder-my-pairs.jsonl"]


def test_several_may_record_a_corpus_at_once(config):
    store = add(config, TEXTS, np.eye(12, 384, dtype=np.float32))
    addresses = addresses_of(TEXTS * 1000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: record_corpus(store, "one", addresses), range(40)))
    assert open_corpus(store, "one").shape == (12_000, 384)
    assert not list(store.directory.glob(f"{ASIDE}*"))


def test_a_question_that_is_asked_is_not_stored(config, plain):
    extract(TEXTS[:1], config)
    embed = question_embedder(config)
    for text, expected in zip(TEXTS[:2], plain, strict=False):
        embedding, cut = embed(text)
        np.testing.assert_allclose(embedding, expected[None], atol=1e-6)
        assert not cut
    assert embed(LONG)[1]
    assert len(teacher_store(config)) == 1
    smaller = dataclasses.replace(config, stored_as="float16")
    rounded, _ = question_embedder(smaller)(TEXTS[0])
    np.testing.assert_array_equal(rounded, rounded.astype(np.float16))
    np.testing.assert_allclose(rounded, plain[:1], atol=3e-4)


def test_every_text_is_tokenized_once_and_none_that_is_stored(config, monkeypatch):
    monkeypatch.setattr(cache, "ENCODED_ROWS", 4)
    tokenize, tokenized = cache.tokenize, []
    monkeypatch.setattr(
        cache, "tokenize", lambda reader, texts, places=None: tokenized.extend(texts) or tokenize(reader, texts, places)
    )
    extract([*TEXTS[:6], LONG, *TEXTS[:6]], config)
    assert sorted(tokenized) == sorted([*TEXTS[:6], LONG])
    tokenized.clear()
    assert extract([*TEXTS[:8], LONG], config).cut == 1
    assert tokenized == TEXTS[6:8]
