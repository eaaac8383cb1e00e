"""bin/embed on real weights and real text: what it leaves, what it says, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from program import SMOKE, finish, run_here, start
from teacher_directory import make_teacher

from lattice_jax.config import TeacherConfig
from lattice_jax.corpus.texts import corpus_texts
from lattice_jax.teachers.cache import extract, open_corpus, teacher_store
from lattice_jax.teachers.embed import embed, load_teacher
from lattice_jax.teachers.shards import MANIFEST

MINILM = TeacherConfig(name="minilm")


@pytest.fixture
def program(monkeypatch, capsys, tmp_path):
    """Runs bin/embed with the given exit code expected, and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0) -> str:
        assert run_here(monkeypatch, "embed", *arguments) == code
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return " ".join((printed.out + printed.err).split())

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory with the embeddings of the ten pairs."""
    out = tmp_path_factory.mktemp("made")
    printed = finish(start("embed", "--teacher", "minilm", "--corpus", "ten", "--out", out))
    assert "Embeddings:" in printed
    return out


def test_the_embeddings_of_a_corpus_are_found_in_its_order(made):
    view = open_corpus(teacher_store(MINILM, made), "ten")
    texts = corpus_texts("ten")
    np.testing.assert_allclose(view[:], embed(load_teacher(MINILM), texts, batch_size=20), atol=1e-6)


def test_a_run_takes_the_embeddings_from_there(made):
    config = TeacherConfig(name="minilm", cache_directory=str(made))
    computed = []
    extract(corpus_texts("ten"), config, on_progress=lambda done, total: computed.append(done))
    assert computed == []


def test_what_it_took_is_told(program, tmp_path):
    lines = ["A short sentence.", "Another one.", "A short sentence.", "word " * 600]
    (tmp_path / "sentences.txt").write_text("\n".join(lines))
    printed = program(
        "--teacher", "minilm", "--corpus", "sentences.txt", "--out", "out", "--config.teacher.stored-as", "bfloat16"
    )
    for told in ("different ones) 4 (3)", "new 3 longer", "cut 1 numbers", "384 as bfloat16", "in 1 shards", "memory at most"):
        assert told in printed
    assert "new 0 longer" in program(
        "--teacher", "minilm", "--corpus", "sentences.txt", "--out", "out", "--config.teacher.stored-as", "bfloat16"
    )


def test_columns_of_other_names_are_read(program, tmp_path):
    (tmp_path / "pairs.csv").write_text("Frage,Antwort\nWhat is a cell?,A small network.\nWhat is light?,A signal.\n")
    named = ("--config.corpus.question-column", "Frage", "--config.corpus.answer-column", "Antwort")
    printed = program("--teacher", "minilm", "--corpus", "pairs.csv", "--out", "out", *named)
    assert "different ones) 4 (4)" in printed
    assert "corpus.question_column" in program("--teacher", "minilm", "--corpus", "pairs.csv", "--out", "out", code=2)
    (tmp_path / "config.py").write_text(
        "from lattice_jax.config import Config, CorpusConfig\n"
        "CONFIG = Config(corpus=CorpusConfig(question_column='Frage', answer_column='Antwort'))\n"
    )
    printed = program("--config", "config.py", "--teacher", "minilm", "--corpus", "pairs.csv", "--out", "out")
    assert "different ones) 4 (4)" in printed
    same = ("--config.corpus.question-column", "Frage", "--config.corpus.answer-column", "Frage")
    assert "another column than" in program("--teacher", "minilm", "--corpus", "pairs.csv", "--out", "out", *same, code=2)


def test_the_teacher_of_a_configuration_is_taken(program):
    printed = program("--config", SMOKE, "--corpus", "ten", "--out", "out")
    assert "ten by minilm" in printed
    assert "different ones) 20 (20)" in printed


def test_whole_embeddings_pass_the_check(program, made):
    for directory in (made, teacher_store(MINILM, made).directory):
        printed = program("--check", directory)
        assert "20 │ 0.0 │ whole" in printed
        assert "corpus ten: 20 texts, all there" in printed
        assert "as they were written" in printed


def test_a_shard_that_is_not_listed_passes_the_check_and_is_told(program, tmp_path):
    program("--teacher", "minilm", "--corpus", "ten", "--out", "out")
    manifest = teacher_store(MINILM, tmp_path / "out").directory / MANIFEST
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(values | {"shards": []}))
    assert "whole, not in manifest.json" in program("--check", "out")
    manifest.unlink()
    assert "has no manifest.json: the next run writes it anew" in program("--check", "out")
    assert "new 0 longer" in program("--teacher", "minilm", "--corpus", "ten", "--out", "out")
    assert "as they were written" in program("--check", "out")


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_shard_does_not_pass_the_check(program, tmp_path, damage):
    program("--teacher", "minilm", "--corpus", "ten", "--out", "out")
    path = teacher_store(MINILM, tmp_path / "out").shards[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1] if damage == "truncated" else content)
    if damage == "missing":
        path.unlink()
    printed = program("--check", "out", code=2)
    assert f"{path.name} is {damage}" in printed
    assert "as they were written." not in printed


@pytest.mark.parametrize("damage", ["altered", "truncated"])
def test_a_damaged_order_of_texts_does_not_pass_the_check(program, tmp_path, damage):
    program("--teacher", "minilm", "--corpus", "ten", "--out", "out")
    path = teacher_store(MINILM, tmp_path / "out").directory / "corpora" / "ten.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "altered" else content[:-1])
    printed = program("--check", "out", code=2)
    assert str(path.relative_to(tmp_path)) in printed
    assert "as they were written." not in printed
    program("--teacher", "minilm", "--corpus", "ten", "--out", "out")
    assert "as they were written." in program("--check", "out")


def test_what_cant_be_done_is_refused(program, tmp_path):
    assert "no corpus was named" in program(code=2)
    assert "there is no teacher 'gpt'" in program("--teacher", "gpt", "--corpus", "ten", code=2)
    assert "no-such-corpus" in program("--teacher", "minilm", "--corpus", "no-such-corpus", code=2)
    assert "nowhere holds no embeddings" in program("--check", "nowhere", code=2)
    (tmp_path / "file").write_text("in the way")
    assert "can't be created" in program("--teacher", "minilm", "--corpus", "ten", "--out", "file", code=2)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / MANIFEST).write_text("{")
    assert "manifest.json can't be read" in program("--check", "store", code=2)


def test_messages_name_the_arguments_of_this_program(program, tmp_path):
    for name in ("no-such-corpus", "no-such-file.txt"):
        told = program("--teacher", "minilm", "--corpus", name, code=2)
        assert f"--corpus is '{name}'" in told
        assert "fix: set --corpus" in told
    told = program("--teacher", "minilm", "--corpus", "wordnet:many", code=2)
    assert "a corpus is 'wordnet:many'" in told
    assert "corpus.pairs" not in told
    told = program("--teacher", "gpt", "--corpus", "ten", code=2)
    assert "fix: set --teacher to one of these" in told
    (tmp_path / "corpus.pairs").write_text('{"question": "teacher.name"}\n')
    told = program("--teacher", "minilm", "--corpus", "corpus.pairs", code=2)
    assert "line 1 of 'corpus.pairs' has no 'answer'" in told, "a person's own names stay"
    assert "or set --corpus to another file" in told
    (tmp_path / "file").write_text("in the way")
    assert "set --out to one" in program("--teacher", "minilm", "--corpus", "ten", "--out", "file", code=2)


def test_a_blank_line_is_refused_as_an_empty_text(program, tmp_path):
    (tmp_path / "sentences.txt").write_text("A short sentence.\n \nAnother one.\n")
    told = program("--teacher", "minilm", "--corpus", "sentences.txt", "--out", "out", code=2)
    assert "line 2 of 'sentences.txt' is blank: an empty text" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ['{"model": {"vocab": {"a": 0}}}', '{"model": {"type": "BPE", "vocab": [1]}}', "{", "[]"])
def test_a_broken_tokenizer_is_told_in_one_message(program, tmp_path, content):
    directory = make_teacher(tmp_path / "teacher")
    (directory / "tokenizer.json").write_text(content)
    told = program("--teacher", directory, "--corpus", "ten", "--out", "out", code=2)
    assert f"{directory / 'tokenizer.json'}" in told
    assert told.count("error:") == 1
