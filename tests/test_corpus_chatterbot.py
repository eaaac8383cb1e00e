"""The chatterbot reader and its conversations, on an installed package with text invented here."""

import pytest

from lattice_jax.corpus.pairs import Pair, list_pairs, load_pairs
from lattice_jax.errors import InputError

TALES = """\
categories:
- tales
conversations:
- - Who walks  there?
  - "A friend."
  - Then come in.
- - Is it 22?
  - no
- - Who walks there?
  - Nobody.
- - "How do I greet?"
  - "Like this:\\n\\n```\\nprint('hail')\\n```\\nThen bow."
- just a line
- - alone
- - "\\u200b"
  - empty question
- - What: ever
  - a mapping
"""
OTHER = "conversations:\n- - \u8ab0\u3067\u3059\u304b\n  - \u53cb\u3067\u3059\n"


def package(tales=TALES):
    return {
        "chatterbot_corpus/data/elvish/tales.yml": tales,
        "chatterbot_corpus/data/japanese/tales.yml": OTHER,
        "chatterbot_corpus/corpus.py": "",
    }


def test_turns_pair_with_those_that_follow(install_python):
    install_python("chatterbot-corpus", package())
    listing = list_pairs("chatterbot:elvish")
    assert listing.entries == (
        Pair("Who walks there?", "A friend."),
        Pair("A friend.", "Then come in."),
        Pair("Is it 22?", "no"),
        Pair("Who walks there?", "Nobody."),
        Pair("How do I greet?", "Like this: Then bow."),
    )
    assert listing.pairs == (*listing.entries[:3], listing.entries[4])
    assert listing.left_out == {
        "conversations that are no list of two or more turns with text": 4,
        "further entries of the same question": 1,
    }


def test_all_languages_are_those_of_the_package(install_python):
    install_python("chatterbot-corpus", package())
    assert load_pairs("chatterbot") == load_pairs("chatterbot:elvish") + load_pairs("chatterbot:japanese")
    assert load_pairs("chatterbot:japanese") == (Pair("\u8ab0\u3067\u3059\u304b", "\u53cb\u3067\u3059"),)


def test_an_unknown_language_is_refused_with_the_known_ones(install_python):
    install_python("chatterbot-corpus", package())
    with pytest.raises(InputError, match="'chatterbot:klingon'") as raised:
        load_pairs("chatterbot:klingon")
    assert "elvish, japanese" in raised.value.expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"conversations:\n- - one\n  - 'two\n", r"line 4 of '.*elvish/tales\.yml' is not YAML"),
        (b"conversations:\n- - caf\xe9\n  - two\n", r"tales\.yml' is not (UTF-8|YAML)"),
        (b"categories:\n- tales\n", r"tales\.yml' has no list of conversations"),
        (b"- one\n- two\n", r"tales\.yml' has no list of conversations"),
        (b"", r"tales\.yml' has no list of conversations"),
        (b"conversations: none\n", r"tales\.yml' has no list of conversations"),
    ],
)
def test_a_damaged_file_is_refused(install_python, content, message):
    install_python("chatterbot-corpus", package(content))
    with pytest.raises(InputError, match=message) as raised:
        load_pairs("chatterbot:elvish")
    assert "chatterbot-corpus" in raised.value.fix


def test_a_corpus_without_pairs_is_refused(install_python):
    install_python("chatterbot-corpus", package("conversations:\n- - alone\n"))
    with pytest.raises(InputError, match="'chatterbot:elvish' holds no pairs"):
        load_pairs("chatterbot:elvish")
