"""Tables of pairs as Hugging Face `datasets` saves them, and Parquet, read with pyarrow alone.

Contract: what is read is a directory that `Dataset.save_to_disk` wrote (state.json lists its Arrow streams in order), one that
`DatasetDict.save_to_disk` wrote (dataset_dict.json lists the divisions, which are read one after the other; the directory of
one division gives that one alone), a directory with Parquet files in it or in its own directories, in the order of their paths,
or one Parquet file. The settings corpus.question_column and corpus.answer_column name the two columns, which hold text. Rows
where one of them is null or without a visible character are left out and counted.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from lattice_jax.corpus.readers.entries import Columns, Reading, clean
from lattice_jax.corpus.readers.packages import optional_module
from lattice_jax.errors import InputError

_LAYOUT = (
    "a directory that datasets' save_to_disk wrote (state.json with *.arrow, or dataset_dict.json), or one with *.parquet files"
)


def read_table_files(path: Path, columns: Columns) -> Reading:
    """Entries of a `datasets` directory, a directory of Parquet files, or one Parquet file."""
    if not path.exists():
        raise InputError(
            f"corpus.pairs is '{path}', and there is no such file",
            expected=_LAYOUT,
            fix="correct --config.corpus.pairs",
        )
    files = _files(path)
    reading = Reading()
    for file in files:
        row = 0
        for table in _tables(file, columns):
            for question, answer in zip(*(table.column(name).to_pylist() for name in columns), strict=True):
                reading.add(clean(question or ""), clean(answer or ""), f"row {row} of '{file}'")
                row += 1
    return reading


def _files(path: Path) -> list[Path]:
    """The files that hold the rows, in order."""
    if path.is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        return [file for split in _listed(path / "dataset_dict.json", "splits") for file in _files(path / str(split))]
    if (path / "state.json").is_file():
        files = [path / _filename(entry, path) for entry in _listed(path / "state.json", "_data_files")]
    else:
        files = sorted([*path.glob("*.parquet"), *path.glob("*/*.parquet")])
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        found = f"{', '.join(missing)} is missing" if missing else f"'{path}' can't be read: it is a directory without a table"
        raise InputError(found, expected=_LAYOUT, fix="set --config.corpus.pairs to a whole one")
    return files


def _listed(path: Path, key: str) -> list:
    """A list in a JSON file of the directory."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = content[key]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' can't be read: {error!r}", expected=f"JSON with a list {key!r}", fix=_SAVE_ANEW) from None
    if not isinstance(listed, list) or content.get("_indices_data_files"):
        raise InputError(f"'{path}' is of another format", expected=f"a list {key!r} and no indices", fix=_SAVE_ANEW)
    return listed


def _filename(entry: object, path: Path) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
        raise InputError(f"'{path / 'state.json'}' lists {entry!r}", expected="a 'filename' for every file", fix=_SAVE_ANEW)
    return entry["filename"]


_SAVE_ANEW = "write the directory anew with save_to_disk of a present datasets release"


def _tables(file: Path, columns: Columns) -> Iterator:
    """The two columns of one file, some rows at a time."""
    pyarrow = optional_module("pyarrow", "pyarrow", f"reading {file.suffix} files")
    try:
        if file.suffix == ".parquet":
            parquet = optional_module("pyarrow.parquet", "pyarrow", "reading .parquet files").ParquetFile(file, memory_map=True)
            _require_text(parquet.schema_arrow, file, columns, pyarrow)
            yield from parquet.iter_batches(columns=list(columns))
            return
        with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
            _require_text(stream.schema, file, columns, pyarrow)
            yield from stream
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(
            f"'{file}' can't be read: {error}", expected="a whole Arrow stream or Parquet file", fix="copy or write it anew"
        ) from None


def _require_text(schema, file: Path, columns: Columns, pyarrow) -> None:
    for name in columns:
        there = schema.names.count(name)
        kind = schema.field(name).type if there == 1 else None
        types = pyarrow.types
        if kind is None or not (types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)):
            found = "there " + f"{there} times" if kind is None else f"of type {kind}, not text"
            raise InputError(
                f"'{file}' has the columns {', '.join(map(repr, schema.names))}: {name!r} is {found}",
                expected=f"text in {columns.question!r} and {columns.answer!r}",
                fix="set --config.corpus.question_column and --config.corpus.answer_column to columns of text",
            )
