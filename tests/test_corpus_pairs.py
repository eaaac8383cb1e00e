"""Pairs from files: what is read, what is refused and how the refusal reads, and the hash of the contents."""

import pytest

from lattice_jax.corpus.pairs import Pair, data_hash, load_pairs
from lattice_jax.errors import InputError

GOOD = '{"question": "What is a lattice?", "answer": "A grid of cells."}'
OTHER = '{"question": "What is a face?", "answer": "An outer layer.", "source": "anything"}'


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "pairs.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_pairs_in_file_order_stripped(write):
    path = write(GOOD.replace("A grid", " A grid") + "\n" + OTHER + "\n")
    assert load_pairs(path) == (
        Pair("What is a lattice?", "A grid of cells."),
        Pair("What is a face?", "An outer layer."),
    )


def test_byte_order_mark_windows_line_ends_and_blank_lines_are_accepted(write):
    assert len(load_pairs(write(b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n  \r\n{OTHER}".encode()))) == 2


def test_unicode_line_separator_inside_an_answer_does_not_end_the_line(write):
    (pair,) = load_pairs(write(GOOD.replace("grid of", "grid\u2028of")))
    assert pair.answer == "A grid\u2028of cells."


@pytest.mark.parametrize(
    ("third_line", "message"),
    [
        ("{'question': 1}", "line 3 .* is not JSON"),
        ('{"question": "Why?"', "line 3 .* is not JSON"),
        ("[" * 100_000, "line 3 .* is not JSON"),
        ('{"question": "Why?", "answer": ' + "1" * 5000 + "}", "line 3 .* is not JSON"),
        ('["Why?", "Because."]', "line 3 .* is not a JSON object but list"),
        ('{"question": "Why?"}', "line 3 .* has no 'answer'"),
        ('{"answer": "Because."}', "line 3 .* has no 'question'"),
        ('{"question": "Why?", "answer": null}', "line 3 .* has a 'answer' that is NoneType, not text"),
        ('{"question": 7, "answer": "Because."}', "line 3 .* has a 'question' that is int, not text"),
        ('{"question": " ", "answer": "Because."}', "line 3 .* has an empty 'question'"),
        ('{"question": "Why?", "answer": ""}', "line 3 .* has an empty 'answer'"),
        ('{"question": "Why?", "answer": "\\ud800"}', "line 3 .* has half of a surrogate pair in its 'answer'"),
        (GOOD, "lines 1 and 3 .* have the same question: 'What is a lattice\\?'"),
        (b'{"question": "Why?", "answer": "\xe9"}', "line 3 .* is not UTF-8"),
    ],
)
def test_bad_line_is_refused_with_its_number(write, third_line, message):
    raw = third_line if isinstance(third_line, bytes) else third_line.encode()
    with pytest.raises(InputError, match=message) as raised:
        load_pairs(write(GOOD.encode() + b"\n\n" + raw + b"\n" + OTHER.encode()))
    assert raised.value.fix


@pytest.mark.parametrize("content", ["", "\n \n", b"\xef\xbb\xbf"])
def test_empty_file_is_refused(write, content):
    with pytest.raises(InputError, match="holds no text"):
        load_pairs(write(content))


@pytest.mark.parametrize("name", ["twelve", "missing/pairs.jsonl", ""])
def test_missing_file_is_refused_with_the_choices(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as raised:
        load_pairs(name)
    assert "can't be read" in str(raised.value) or "there is no such file" in str(raised.value)
    assert all(choice in str(raised.value) for choice in ("'hundred'", "'ten'", "JSONL", "corpus.pairs"))


@pytest.mark.parametrize("name", [".", "null\0character"])
def test_unreadable_path_is_refused(name):
    with pytest.raises(InputError, match="can't be read"):
        load_pairs(name)


def test_hash_is_that_of_the_contents():
    pairs, sentences = [Pair("a", "b"), Pair("c", "d")], ["e", "f"]
    assert data_hash(pairs, sentences) == data_hash(tuple(pairs), tuple(sentences))
    assert len(data_hash(pairs, sentences)) == 64
    others = [
        (pairs[::-1], sentences),
        (pairs, sentences[::-1]),
        (pairs, ["ef"]),
        (pairs, ["e", "f", ""]),
        ([Pair("ab", ""), pairs[1]], sentences),
        ([Pair("b", "a"), pairs[1]], sentences),
        (pairs[:1], ["c", "d", *sentences]),
    ]
    hashes = {data_hash(*other) for other in others}
    assert len(hashes) == len(others)
    assert data_hash(pairs, sentences) not in hashes


def test_hash_takes_any_language():
    assert data_hash([Pair("\u00e9?", "\u7b54")], []) != data_hash([Pair("\u00e8?", "\u3048")], [])
