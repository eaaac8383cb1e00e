"""Real teachers against torch, and the texts and embeddings that are refused.

`teacher_reference.npz` comes from torch and transformers, see benchmarks/teacher_reference.py.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers.embed import (
    Tokens,
    batches,
    check_embeddings,
    embed,
    load_teacher,
    load_tokenizer,
    mean_pairwise_cosine,
    tokenize,
)
from lattice_jax.teachers.weights import MINILM, find_files

DATA = Path(__file__).parent / "data"
TEXTS = json.loads((DATA / "teacher_texts.json").read_text(encoding="utf-8"))
# MPNet is unpacked once for all tests, where a run unpacks it too.
CACHE = str(Path(__file__).parents[1] / TeacherConfig().cache_directory)
PARITY = 1e-5


@pytest.fixture(scope="module")
def reference():
    with np.load(DATA / "teacher_reference.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def minilm():
    return load_teacher(TeacherConfig(name="minilm", cache_directory=CACHE))


@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_tokens_equal_the_reference(name, reference):
    tokens = tokenize(load_tokenizer(TeacherConfig(name=name, cache_directory=CACHE)), TEXTS)
    expected = [tuple(row[row >= 0]) for row in reference[f"{name}_token_ids"]]
    assert [text.ids for text in tokens] == expected
    assert [index for index, text in enumerate(tokens) if text.cut] == [len(TEXTS) - 1]


def test_minilm_equals_the_reference(minilm, reference):
    found = embed(minilm, TEXTS, batch_size=8)
    assert found.dtype == np.float32
    assert np.abs(found - reference["minilm_embeddings"]).max() < PARITY


def test_a_packages_directory_is_a_teacher_like_any_other(reference):
    """MiniLM by its directory: pooling, length and everything else from its own files."""
    directory = find_files(MINILM, Path(CACHE))
    teacher = load_teacher(TeacherConfig(name=str(directory)))
    assert teacher.settings == load_teacher(TeacherConfig(name="minilm", cache_directory=CACHE)).settings
    assert np.abs(embed(teacher, TEXTS, batch_size=8) - reference["minilm_embeddings"]).max() < PARITY


def test_mpnet_equals_the_reference(reference):
    teacher = load_teacher(TeacherConfig(name="mpnet", cache_directory=CACHE))
    found = embed(teacher, TEXTS, batch_size=2)
    assert np.abs(found - reference["mpnet_embeddings"]).max() < PARITY


def test_an_embedding_does_not_depend_on_its_companions_or_place(minilm):
    short = TEXTS[:9]
    together = embed(minilm, short, batch_size=8)
    shuffled = np.random.default_rng(0).permutation(np.tile(np.arange(9), 3))
    np.testing.assert_allclose(embed(minilm, [short[i] for i in shuffled], batch_size=8), together[shuffled], atol=1e-6)
    alone = np.concatenate([embed(minilm, [text], batch_size=8) for text in short])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_progress_counts_every_text_once(minilm):
    reports = []
    embed(minilm, TEXTS[:9], batch_size=8, on_batch=lambda done, total: reports.append((done, total)))
    assert [total for _, total in reports] == [9] * len(reports)
    done = [done for done, _ in reports]
    assert done == sorted(set(done))
    assert done[-1] == 9


def test_batches_hold_every_text_once_in_few_shapes():
    counts = np.random.default_rng(0).integers(3, 385, size=1000).tolist()
    planned = list(batches(counts, 32, 384))
    assert Counter(index for _, _, members in planned for index in members) == Counter(range(1000))
    for length, rows, members in planned:
        assert 0 < len(members) <= rows <= 32
        assert max(counts[index] for index in members) <= length
        assert length * rows <= 32 * 32
    # Up to 64 tokens 7 are wasted at most, beyond them a quarter.
    assert all(length - min(counts[index] for index in members) < max(8, length / 4) for length, _, members in planned)
    assert {(length, rows) for length, rows, _ in planned} == {
        *((8, 32), (16, 32), (24, 32), (32, 32), (40, 25), (48, 21), (56, 18), (64, 16)),
        *((80, 12), (96, 10), (112, 9), (128, 8), (160, 6), (192, 5), (224, 4), (256, 4), (320, 3), (384, 2)),
    }
    assert {length for length, _, _ in batches([3, 250], 32, 250)} == {8, 250}, "no longer than the teacher reads"
    # A long context doesn't make a text of middle length as expensive as one that fills it.
    assert {length for length, _, _ in batches([300, 700, 8000], 32, 8192)} == {320, 768, 8192}


@pytest.mark.parametrize("nothing", ["", " \t\n", "\u200b", "\x00"])
def test_a_text_with_nothing_to_embed_is_named(minilm, nothing):
    with pytest.raises(InputError, match=r"^text 2 is "):
        embed(minilm, ["one", "two", nothing, ""], batch_size=8)


def test_a_text_that_is_no_unicode_is_named(minilm):
    with pytest.raises(InputError, match=r"^text 1 holds half a surrogate pair at character 3"):
        embed(minilm, ["one", "two\ud800"], batch_size=8)


def test_equal_tokens_are_not_taken_for_collapse(minilm):
    long = "The state of the cell moves on to the next layer of the cube. " * 30
    for texts in (["What is a cell?", "what  is a CELL ?"], [long + "one", long + "two"], ["cell"]):
        embeddings = embed(minilm, texts, batch_size=8)
        assert embeddings.shape == (len(texts), 384)


def tokens_of(count: int) -> list[Tokens]:
    return [Tokens((0, index, 2), False) for index in range(count)]


def unit_rows(count: int) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_sound_embeddings_pass():
    check_embeddings(unit_rows(5), tokens_of(5))


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "text 3 is not finite"), (np.inf, "text 3 is not finite"), (0.0, "text 3 is zero, as are 1 of 5")],
)
def test_zero_and_non_finite_embeddings_are_refused(value, message):
    embeddings = unit_rows(5)
    embeddings[3] = value
    with pytest.raises(InputError, match=message):
        check_embeddings(embeddings, tokens_of(5))


def test_collapsed_embeddings_are_refused():
    embeddings = np.repeat(unit_rows(1), 6, axis=0) + np.float32(1e-4) * unit_rows(6)
    with pytest.raises(InputError, match="6 different texts are all alike"):
        check_embeddings(embeddings, tokens_of(6))
    check_embeddings(embeddings, tokens_of(1) * 6)
    embeddings[0] *= -1
    check_embeddings(embeddings, tokens_of(6))


def test_mean_pairwise_cosine_equals_the_double_loop():
    rows = 3 * unit_rows(7)
    cosines = [
        left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        for i, left in enumerate(rows)
        for j, right in enumerate(rows)
        if i != j
    ]
    assert mean_pairwise_cosine(rows) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert mean_pairwise_cosine(rows[:1]) == 0
