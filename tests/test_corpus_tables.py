"""Directories as Hugging Face datasets 5 lays them out, and Parquet, written here with pyarrow."""

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest

from lattice_jax.corpus.pairs import Pair, list_pairs, load_pairs
from lattice_jax.corpus.readers.entries import Columns
from lattice_jax.errors import InputError

ROWS = {"id": [7, 8, 9], "question": ["Who  goes\nthere?", "Why?", "Why?"], "answer": ["Nobody.", "Because.", "Why not?"]}
PAIRS = (Pair("Who goes there?", "Nobody."), Pair("Why?", "Because."))


def save_to_disk(directory, *shards):
    """What `Dataset.save_to_disk` writes: Arrow streams, and a state that lists them in order."""
    directory.mkdir(parents=True)
    names = [f"data-{shard:05d}-of-{len(shards):05d}.arrow" for shard in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        table = rows if isinstance(rows, pyarrow.Table) else pyarrow.table(rows)
        with pyarrow.OSFile(str(directory / name), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "8901a58b50360870", "_split": None}
    (directory / "state.json").write_text(json.dumps(state))
    (directory / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return str(directory)


def save_dict(directory, **divisions):
    for name, rows in divisions.items():
        save_to_disk(directory / name, rows)
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": list(divisions)}))
    return str(directory)


def rows(*questions):
    return {"question": list(questions), "answer": [f"answer to {question}" for question in questions]}


def questions(name):
    return [pair.question for pair in load_pairs(name)]


def test_a_saved_dataset_keeps_the_first_of_every_question_and_counts(tmp_path):
    listing = list_pairs(save_to_disk(tmp_path / "saved", ROWS))
    assert listing.pairs == PAIRS
    assert listing.entries == (*PAIRS, Pair("Why?", "Why not?"))
    assert listing.left_out == {"further entries of the same question": 1}


def test_shards_come_in_the_order_of_the_state(tmp_path):
    directory = save_to_disk(tmp_path / "saved", rows("a", "b", "c"), rows("d"), rows("e", "f"))
    assert questions(directory) == ["a", "b", "c", "d", "e", "f"]
    state = tmp_path / "saved" / "state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, "_data_files": content["_data_files"][::-1]}))
    assert questions(directory) == ["e", "f", "d", "a", "b", "c"]


def test_divisions_come_in_the_order_of_the_dictionary_or_alone(tmp_path):
    directory = save_dict(tmp_path / "saved", train=rows("a", "b"), test=rows("c"), extra=rows("d"))
    assert questions(directory) == ["a", "b", "c", "d"]
    assert questions(f"{directory}/test") == ["c"]


def test_parquet_in_a_directory_or_alone(tmp_path):
    (tmp_path / "data").mkdir()
    for name, content in {
        "data/train-1.parquet": rows("c"),
        "data/train-0.parquet": rows("b"),
        "all.parquet": rows("a"),
    }.items():
        pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / name)
    assert questions(str(tmp_path)) == ["a", "b", "c"]
    assert questions(str(tmp_path / "data")) == ["b", "c"]
    assert questions(str(tmp_path / "data" / "train-0.parquet")) == ["b"]


def test_rows_without_text_are_left_out_and_counted(tmp_path):
    content = {"question": ["a", None, "c", " ", "e"], "answer": ["1", "2", None, "4", "5"]}
    listing = list_pairs(save_to_disk(tmp_path / "saved", content))
    assert listing.pairs == (Pair("a", "1"), Pair("e", "5"))
    assert listing.left_out == {"entries without question or answer": 3}


def test_other_columns_and_large_text(tmp_path):
    schema = pyarrow.schema([("prompt", pyarrow.large_string()), ("reply", pyarrow.string())])
    table = pyarrow.table({"prompt": ["a"], "reply": ["b"]}, schema=schema)
    assert load_pairs(save_to_disk(tmp_path / "saved", table), Columns("prompt", "reply")) == (Pair("a", "b"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"question": ["a"], "reply": ["b"]}, "columns 'question', 'reply': 'answer' is there 0 times"),
        ({"question": ["a"], "answer": [1]}, "'answer' is of type int64, not text"),
        ({"question": ["a"], "answer": [["b"]]}, "'answer' is of type list<.*>, not text"),
    ],
)
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_columns_that_hold_no_text_are_refused(tmp_path, kind, content, message):
    path = tmp_path / "pairs.parquet"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(content), path)
    with pytest.raises(InputError, match=message) as raised:
        load_pairs(str(path) if kind == "parquet" else save_to_disk(tmp_path / "saved", content))
    assert "--config.corpus.answer_column" in raised.value.fix


def test_a_missing_shard_is_named(tmp_path):
    directory = save_to_disk(tmp_path / "saved", rows("a"), rows("b"))
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00002\.arrow is missing"):
        load_pairs(directory)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.parametrize("kept", [0, 100, -300])
def test_a_truncated_file_is_named(tmp_path, kind, kept):
    many = rows(*(f"question {number}" for number in range(50)))
    if kind == "arrow":
        path = tmp_path / "saved" / "data-00000-of-00001.arrow"
        name = save_to_disk(tmp_path / "saved", many)
    else:
        path = tmp_path / "pairs.parquet"
        pyarrow.parquet.write_table(pyarrow.table(many), path)
        name = str(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"'{path}' can't be read"):
        load_pairs(name)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "state.json' can't be read"),
        ("[]", "state.json' can't be read"),
        ('{"_data_files": {}}', "state.json' is of another format"),
        ('{"_data_files": ["a.arrow"]}', "state.json' lists 'a.arrow'"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}', "state.json' is of another format"),
        ('{"_data_files": []}', "a directory without a table"),
    ],
)
def test_a_damaged_state_is_refused(tmp_path, state, message):
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(InputError, match=message):
        load_pairs(str(tmp_path))


def test_a_directory_without_tables_is_refused(tmp_path):
    with pytest.raises(InputError, match="can't be read: it is a directory without a table") as raised:
        load_pairs(str(tmp_path))
    assert "dataset_dict.json" in raised.value.expected


def test_a_missing_pyarrow_is_named_with_its_install_line(tmp_path, monkeypatch):
    directory = save_to_disk(tmp_path / "saved", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"reading \.arrow files needs the package pyarrow") as raised:
        load_pairs(directory)
    assert "pip install pyarrow" in raised.value.fix


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.parquet', and there is no such file"):
        load_pairs(str(tmp_path / "missing.parquet"))
