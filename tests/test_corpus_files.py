"""CSV and TSV files of pairs, and columns of other names."""

import pytest

from lattice_jax.config import CorpusConfig
from lattice_jax.corpus.corpus import load_corpus
from lattice_jax.corpus.pairs import Pair, list_pairs, load_pairs
from lattice_jax.corpus.readers.entries import Columns
from lattice_jax.errors import InputError

PAIRS = (Pair('What is a "cell", then?', "A unit,\nof two lines."), Pair("Why?", "Because."))


@pytest.fixture
def write(tmp_path):
    def write(content, name="pairs.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_csv_quotes_as_rfc_4180_says(write):
    content = 'id,answer,question\r\n1,"A unit,\nof two lines.","What is a ""cell"", then?"\r\n\r\n2, Because. ,Why?\r\n'
    assert load_pairs(write(content)) == PAIRS
    assert load_pairs(write(b"\xef\xbb\xbf" + content.encode(), "PAIRS.CSV")) == PAIRS


def test_tsv_takes_quotation_marks_as_they_stand(write):
    path = write('question\tanswer\n"So" he said\tYes, "so"\nWhy?\tBecause.', "pairs.tsv")
    assert load_pairs(path) == (Pair('"So" he said', 'Yes, "so"'), Pair("Why?", "Because."))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.csv", "prompt,reply,question\nWhy?,Because.,x\n"),
        ("pairs.tsv", "prompt\treply\tquestion\nWhy?\tBecause.\tx\n"),
        ("pairs.jsonl", '{"prompt": "Why?", "reply": "Because.", "question": 7}\n'),
    ],
)
def test_columns_of_other_names(write, name, content):
    assert load_pairs(write(content, name), Columns("prompt", "reply")) == (Pair("Why?", "Because."),)


def test_columns_come_from_the_settings(write):
    path = write("prompt,reply\n" + "".join(f"Q{n}?,word{n}\n" for n in range(20)))
    settings = {"sentences": "none", "held_out_pairs": 5, "validation_pairs": 4}
    corpus = load_corpus(CorpusConfig(pairs=path, question_column="prompt", answer_column="reply", **settings))
    assert corpus.pairs[0] == Pair("Q0?", "word0")
    assert corpus.left_out == {}
    with pytest.raises(InputError, match=r"columns 'prompt', 'reply': 'question' is there 0 times") as raised:
        load_corpus(CorpusConfig(pairs=path, **settings))
    assert "--config.corpus.question_column" in raised.value.fix


def test_the_columns_are_two():
    with pytest.raises(InputError, match=r"corpus\.answer_column is 'text'"):
        CorpusConfig(question_column="text", answer_column="text")


def test_the_shipped_pairs_keep_their_own_columns():
    assert load_pairs("ten", Columns("prompt", "reply")) == load_pairs("ten")


HEADER = "question,answer\nWhat?,This.\n\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "Why?\n", "line 4 .* has 1 fields, and the header 2"),
        (HEADER + "Why?,Because,indeed\n", "line 4 .* has 3 fields"),
        (HEADER + "Why?, \n", "line 4 .* has an empty 'answer'"),
        (HEADER + "\u200b,Because.\n", "line 4 .* has an empty 'question'"),
        (HEADER + "What?,That.\n", "lines 2 and 4 .* have the same question: 'What\\?'"),
        (HEADER + '"Why?,Because.\n', "line 4 .* can't be parsed"),
        (HEADER + 'Why?,"Because" indeed.\n', "line 4 .* can't be parsed"),
        (HEADER.encode() + b"Why?,caf\xe9\n", "line 4 .* is not UTF-8"),
        ("question,answer,question\na,b,c\n", "line 1 .*: 'question' is there 2 times"),
        ("\n\nquestion,reply\na,b\n", "line 3 .*: 'answer' is there 0 times"),
        ("question,answer\n", "holds no pairs"),
        ("\n \n", "holds no text"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(write, content, message):
    with pytest.raises(InputError, match=message) as raised:
        load_pairs(write(content))
    assert raised.value.fix


def test_the_line_of_a_record_is_the_one_on_which_it_begins(write):
    with pytest.raises(InputError, match=r"lines 2 and 5 .* have the same question"):
        load_pairs(write('question,answer\nWhy?,"one\ntwo\nthree"\n"Why?",four\n'))


def test_a_missing_table_is_refused_with_the_choices(tmp_path):
    with pytest.raises(InputError, match="there is no such file") as raised:
        load_pairs(str(tmp_path / "missing.csv"))
    assert all(choice in raised.value.expected for choice in ("'hundred'", "CSV", "'wordnet:20000'", "'debian-faq:en:de'"))


@pytest.mark.parametrize("name", ["wordnet:", "worldnet", "chatterbot:"])
def test_a_corpus_of_a_mistaken_name_is_refused_with_the_known_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"corpus.pairs is '{name}', and there is no such file") as raised:
        load_pairs(name)
    assert "'chatterbot:english'" in raised.value.expected


def test_a_question_of_joiners_is_empty(write):
    path = write('{"question": "\\u200b\\u200d", "answer": "Because."}\n', "pairs.jsonl")
    with pytest.raises(InputError, match=r"line 1 .* has an empty 'question'"):
        list_pairs(path)
