"""Conversations of several turns.

Contract: a conversation is its turns in order, two or more, none empty. `exchanges` gives what `load_pairs` gives of the same
corpus, turn by turn, each with the turns that came before it.
"""

from dataclasses import dataclass

from lattice_jax.corpus.readers.chatterbot import Conversation, read_conversations
from lattice_jax.errors import InputError


@dataclass(frozen=True)
class Exchange:
    """A turn and its answer, and what was said before."""

    history: tuple[str, ...]
    """Earlier turns in order; empty at the start of a conversation."""
    question: str
    answer: str


def load_conversations(name: str) -> tuple[Conversation, ...]:
    """Conversations of 'chatterbot' (28 languages) or of one of its languages, 'chatterbot:english'.

    Raises InputError for another name, and with the install line where the corpus is absent.
    """
    corpus, colon, language = name.partition(":")
    if corpus != "chatterbot" or (colon and not language):
        raise InputError(
            f"{name!r} holds no conversations",
            expected="'chatterbot' or one of its languages, 'chatterbot:english'",
            fix="name one of them",
        )
    return read_conversations(language)


def exchanges(conversation: Conversation) -> tuple[Exchange, ...]:
    """Every turn but the last with the turn that follows it, in order."""
    return tuple(
        Exchange(conversation[:turn], conversation[turn], conversation[turn + 1]) for turn in range(len(conversation) - 1)
    )
