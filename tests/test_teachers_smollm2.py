"""SmolLM2 on its real 4-bit weights: tokens and embeddings against torch, meaning, and files that are refused.

`smollm2_reference.npz` comes from torch and transformers' own reading of the file, see benchmarks/smollm2_reference.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers import gguf_checkpoint
from lattice_jax.teachers.embed import Teacher, embed, load_teacher, tokenize
from lattice_jax.teachers.gguf_checkpoint import GgufFile, build_tokenizer, checkpoint_rows, read_config
from lattice_jax.teachers.weights import SMOLLM2, find_files, open_teacher

DATA = Path(__file__).parent / "data"
TEXTS = json.loads((DATA / "teacher_texts.json").read_text(encoding="utf-8"))
CONFIG = TeacherConfig(name="smollm2")
PARITY = 1e-5

PARAPHRASES = [
    ("What is overfitting?", "Explain why a model fits its training data too closely."),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("How do I install the package?", "Which steps set up this software on my computer?"),
    ("The train to Berlin was late.", "Our railway journey to the German capital got delayed."),
    ("She bought fresh bread at the bakery.", "The woman purchased a new loaf from the baker."),
    ("It will rain heavily tomorrow.", "Strong showers are forecast for the next day."),
    ("The doctor prescribed antibiotics for the infection.", "A physician gave him medicine against the bacteria."),
    ("Our team won the football match.", "We were victorious in the soccer game."),
]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher(CONFIG)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(DATA / "smollm2_reference.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def file() -> GgufFile:
    return GgufFile(find_files(SMOLLM2, Path()) / Path(SMOLLM2.pattern).name)


def test_tokens_equal_the_reference(teacher, reference):
    expected = [tuple(row[row >= 0]) for row in reference["token_ids"]]
    assert [text.ids for text in tokenize(teacher.tokenizer, TEXTS)] == expected


def test_embeddings_equal_the_reference(teacher, reference):
    found = embed(teacher, TEXTS, batch_size=2)
    assert found.shape == (len(TEXTS), 576)
    assert np.abs(found - reference["embeddings"]).max() < PARITY


def test_paraphrases_are_closer_than_unrelated_sentences(teacher):
    embeddings = embed(teacher, [text for pair in PARAPHRASES for text in pair], batch_size=16)
    cosines = embeddings[::2] @ embeddings[1::2].T
    related, unrelated = np.diag(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
    assert related.mean() > unrelated.mean() + 0.1
    assert (np.argmax(cosines, axis=1) == np.arange(len(cosines))).sum() >= 7
    assert np.mean(related[:, None] > unrelated[None, :]) > 0.9


def test_streaming_a_teacher_gives_the_same_embeddings(teacher):
    streamed = load_teacher(TeacherConfig(name="smollm2", streamed=True))
    assert not streamed.parameters
    reports = []
    found = embed(streamed, TEXTS[:4], batch_size=2, on_batch=lambda *step: reports.append(step))
    np.testing.assert_allclose(found, embed(teacher, TEXTS[:4], batch_size=2), atol=1e-5)
    done = [done for done, _ in reports]
    assert done == sorted(done)
    assert done[-1] == 4
    assert {total for _, total in reports} == {4}


def test_streaming_is_refused_for_other_families():
    with pytest.raises(InputError, match=r"teacher\.streamed is set for a teacher of the family bert"):
        load_teacher(TeacherConfig(name="minilm", streamed=True))


def test_every_digit_is_a_token_and_text_comes_back(teacher):
    tokenizer = teacher.tokenizer.tokenizer
    encoding = tokenizer.encode("In 2024, über 1/2 café")
    assert encoding.tokens[:6] == ["In", "Ġ", "2", "0", "2", "4"]
    assert tokenizer.decode(encoding.ids) == "In 2024, über 1/2 café"
    assert tokenizer.encode("<|im_start|>").ids == [1]


def test_rows_are_put_back_as_the_converter_found_them():
    heads, half, columns = 3, 4, 5
    original = np.arange(heads * 2 * half * columns).reshape(-1, columns)
    # What llama.cpp's converter does to the weights of a checkpoint.
    converted = original.reshape(heads, 2, half, columns).swapaxes(1, 2).reshape(original.shape)
    assert not np.array_equal(converted, original)
    np.testing.assert_array_equal(checkpoint_rows(converted, heads), original)


def test_the_file_is_a_checkpoint_of_the_family(file):
    checkpoint = open_teacher(CONFIG)
    assert checkpoint.hashes == SMOLLM2.sha256
    assert checkpoint.config["num_key_value_heads"] == 3
    assert checkpoint.config["rope_theta"] == 100_000
    assert len(checkpoint.tensors) == len(file.names) == 272
    assert checkpoint.tensors["model.embed_tokens.weight"].shape == (49152, 576)
    assert checkpoint.tensors["model.layers.29.self_attn.k_proj.weight"].shape == (192, 576)


class Altered(GgufFile):
    """The real file with some of its facts changed."""

    def __init__(self, file: GgufFile, facts: Mapping[str, Any]):
        self.__dict__ |= file.__dict__
        self.facts = facts

    def fact(self, key: str) -> Any:
        return self.facts[key] if key in self.facts else super().fact(key)

    def states(self, key: str) -> bool:
        return key in self.facts or super().states(key)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"general.architecture": "qwen2"}, "architecture 'qwen2'"),
        ({"llama.rope.scaling.type": "yarn"}, "scales its rotary positions"),
        ({"llama.rope.dimension_count": 32}, "a part of its channels"),
    ],
)
def test_a_file_of_another_kind_is_refused(file, facts, message):
    with pytest.raises(InputError, match=message):
        read_config(Altered(file, facts))


@pytest.mark.parametrize("fact", [{"tokenizer.ggml.pre": "llama-bpe"}, {"tokenizer.ggml.add_bos_token": True}])
def test_another_tokenizer_is_refused(file, fact):
    with pytest.raises(InputError, match="has the tokenizer"):
        build_tokenizer(Altered(file, fact))


def test_a_file_that_lacks_a_fact_or_is_damaged_is_named(file, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(gguf_checkpoint._CONFIG, "rope_theta", "llama.rope.absent")
        with pytest.raises(InputError, match=r"states no llama\.rope\.absent"):
            read_config(file)
    damaged = tmp_path / "small.gguf"
    damaged.write_bytes(b"GGUX" + bytes(100))
    with pytest.raises(InputError, match="can't be read"):
        GgufFile(damaged)
    damaged.write_bytes(file.path.read_bytes()[:5000])
    with pytest.raises(InputError, match="can't be read"):
        GgufFile(damaged)
