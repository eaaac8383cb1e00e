"""Checkpoints on disk: read tensor by tensor, and refused with the file's name when anything is wrong with them."""

import json
import shutil
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from teacher_directory import ENCODERS, make_teacher, make_tokenizer

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers.checkpoint import INDEX_FILE, open_checkpoint, open_tensors
from lattice_jax.teachers.embed import load_teacher, load_tokenizer, tokenize


@pytest.fixture
def directory(tmp_path) -> Path:
    """A teacher in two shards."""
    return make_teacher(tmp_path / "teacher")


def first_shard(directory: Path) -> Path:
    return min(directory.glob("model-*.safetensors"))


def refusal(directory: Path) -> InputError:
    """What opening a directory is refused with."""
    with pytest.raises(InputError) as raised:
        open_checkpoint(directory)
    return raised.value


@pytest.mark.parametrize("case", ["bert", "bert_with_head", "distilbert_bfloat16"])
def test_tensors_equal_those_of_the_safetensors_library(case):
    tensors, shards = open_tensors(ENCODERS / case)
    expected = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert set(tensors) == set(expected)
    assert len(tensors) == len(expected)
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors.shape(name) == tensor.shape
        np.testing.assert_array_equal(tensors[name].astype(np.float32), tensor.astype(np.float32))


def test_a_tensor_is_mapped_and_not_read(tmp_path):
    save_file({"large": np.ones((4096, 2048), np.float32), "small": np.ones(3, np.float16)}, tmp_path / "model.safetensors")
    tensors, _ = open_tensors(tmp_path)
    tracemalloc.start()
    large = tensors["large"]
    assert large[4095, 2047] == 1
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    with pytest.raises(ValueError, match="read-only"):
        large[0, 0] = 2
    assert tensors["small"].dtype == np.float16


def test_the_hashes_follow_weights_tokenizer_and_configuration_and_not_the_place(directory, tmp_path):
    first = open_checkpoint(directory).hashes
    moved = Path(shutil.copytree(directory, tmp_path / "elsewhere"))
    (moved / "README.md").write_text("a note")
    assert open_checkpoint(moved).hashes == first
    changed = set()
    for name in ("config.json", "tokenizer.json", first_shard(moved).name):
        content = bytearray((moved / name).read_bytes())
        if name.endswith(".json"):
            content += b"\n"
        else:
            content[-1] ^= 1
        (moved / name).write_bytes(content)
        changed.add(name)
        now = open_checkpoint(moved).hashes
        assert {file for file in first if now[file] != first[file]} == changed


# What is refused


def test_a_directory_that_is_not_there_is_named_and_the_packaged_teachers_are_listed(tmp_path):
    assert f"no directory {tmp_path / 'nowhere'}" in refusal(tmp_path / "nowhere").found
    with pytest.raises(InputError, match="no teacher 'gpt'") as raised:
        load_teacher(TeacherConfig(name="gpt"))
    assert "minilm, mpnet" in raised.value.expected


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(directory, name):
    (directory / name).unlink()
    assert refusal(directory).found == f"{directory / name} is missing"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", INDEX_FILE])
@pytest.mark.parametrize("content", [b'{"model_type": ', b"\xff\xfe", b"[1]", b"{}"])
def test_a_broken_file_is_named(directory, name, content):
    (directory / name).write_bytes(content)
    assert str(directory / name) in refusal(directory).found


def change_tokenizer(directory: Path, part: str, values: object) -> None:
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: values}))


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("version", "9.9"),
        ("model", {"type": "WordLevel", "vocab": {"w5": "five"}, "unk_token": "[UNK]"}),
        ("model", {"type": "WordLevel", "vocab": [["w5", -1.0]], "unk_token": "[UNK]"}),
        ("model", {"type": "another", "vocab": {"w5": 5}}),
        ("pre_tokenizer", {"type": "another"}),
        ("added_tokens", [{"id": 1}]),
        ("truncation", {"max_length": "long"}),
    ],
)
def test_a_tokenizer_that_the_library_cant_read_is_named(directory, part, values):
    change_tokenizer(directory, part, values)
    assert f"{directory / 'tokenizer.json'} can't be read" in refusal(directory).found


def test_a_tokenizer_that_fails_at_a_text_is_named(directory):
    """It can be read, and it has no token for an unknown word."""
    vocabulary = {f"w{number}": number for number in range(60)}
    change_tokenizer(directory, "model", {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"})
    reader = load_tokenizer(TeacherConfig(name=str(directory)))
    assert [text.ids for text in tokenize(reader, ["w5"])] == [(2, 5, 3)]
    with pytest.raises(InputError, match=f"the tokenizer in {directory} fails: WordLevel error: Missing \\[UNK\\]"):
        tokenize(reader, ["unheard"])


def test_a_template_with_an_undefined_mark_is_refused(directory):
    pieces = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": {}}
    for processor in (template, {"type": "Sequence", "processors": [template]}):
        change_tokenizer(directory, "post_processor", processor)
        assert r"puts [CLS] around texts and doesn't define it" in refusal(directory).found


def test_a_mark_that_the_model_does_not_embed_is_refused(directory):
    pieces = [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    marks = {"[X]": {"id": "[X]", "ids": [60], "tokens": ["[X]"]}}
    template = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": marks}
    change_tokenizer(directory, "post_processor", template)
    with pytest.raises(InputError, match="token ids up to 60, the model embeds ids below 60"):
        load_tokenizer(TeacherConfig(name=str(directory)))


def test_an_unknown_architecture_gets_the_known_ones_listed(directory):
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"model_type": "t5"}))
    error = refusal(directory)
    assert "unknown architecture 't5'" in error.found
    for family in ("bert", "distilbert", "mpnet", "roberta", "xlm-roberta"):
        assert family in error.expected


def test_a_missing_shard_is_named(directory):
    gone = first_shard(directory)
    gone.unlink()
    assert refusal(directory).found == f"{directory} lacks 1 of 2 shards: {gone.name}"


def test_an_index_that_does_not_fit_its_shards_lists_both_sides(directory):
    index = json.loads((directory / INDEX_FILE).read_text())
    names = index["weight_map"]
    names["more.weight"] = names.pop("embeddings.LayerNorm.bias")
    (directory / INDEX_FILE).write_text(json.dumps(index))
    found = refusal(directory).found
    assert "shard lacks: ['more.weight']" in found
    assert "doesn't name: ['embeddings.LayerNorm.bias']" in found


def test_weights_in_another_format_are_named(directory):
    for path in directory.glob("model*"):
        path.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"pickled")
    error = refusal(directory)
    assert "only pytorch_model.bin" in error.found
    assert "save_pretrained" in error.fix


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "is cut off"),
        (lambda content: content[:100], "is cut off"),
        (lambda content: content[:5], "is cut off"),
        (lambda content: b"", "is cut off"),
        (lambda content: content + b"\0", "is too long"),
        (lambda content: content[:8] + b"x" + content[9:], "damaged header"),
    ],
    ids=["one byte", "in the header", "in the length", "empty", "longer", "no JSON"],
)
def test_a_damaged_shard_is_named(directory, damage, message):
    shard = first_shard(directory)
    shard.write_bytes(damage(shard.read_bytes()))
    found = refusal(directory).found
    assert str(shard) in found
    assert message in found


@pytest.mark.parametrize("kind", [np.int8, ml_dtypes.float8_e4m3fn, np.float64], ids=["int8", "fp8", "float64"])
def test_weights_of_another_type_are_refused(directory, kind):
    shard = first_shard(directory)
    tensors = load_file(shard)
    name = min(tensors)
    save_file(tensors | {name: np.zeros(tensors[name].shape, kind)}, shard)
    error = refusal(directory)
    assert str(shard) in error.found
    assert "F32, F16, BF16" in error.expected


def test_whole_numbers_are_no_weights(directory):
    """Position ids may be whole numbers; a parameter may not."""
    shard = first_shard(directory)
    tensors = load_file(shard)
    save_file(tensors | {"embeddings.LayerNorm.bias": np.zeros(24, np.int64)}, shard)
    with pytest.raises(InputError, match=r"tensor embeddings\.LayerNorm\.bias of .* is of type I64"):
        load_teacher(TeacherConfig(name=str(directory)))


@pytest.mark.parametrize("words", [61, 20])
def test_a_tokenizer_of_another_model_is_refused(directory, words):
    make_tokenizer(words).save(str(directory / "tokenizer.json"))
    with pytest.raises(InputError, match=rf"token ids up to {words - 1}, the model embeds ids below 60"):
        load_teacher(TeacherConfig(name=str(directory)))
