"""chatterbot-corpus: conversations in many languages, as YAML.

Contract: a conversation is its turns in order. As entries it gives each turn with the one that follows it, so that a
conversation of n turns has n - 1 entries, and every turn but the last is a question once. Fenced code is no part of a turn.
What is no list of at least two turns with text is left out and counted.
'chatterbot:english' is one language (a directory of the package), 'chatterbot' all of them.
"""

import itertools
import re
from pathlib import Path

from lattice_jax.corpus.readers.catalogue import CORPORA
from lattice_jax.corpus.readers.entries import Reading, clean, visible
from lattice_jax.corpus.readers.packages import optional_module, python_files
from lattice_jax.errors import InputError

Conversation = tuple[str, ...]

_SOURCE = CORPORA["chatterbot"]
_FENCED_CODE = re.compile(r"```.*?(```|\Z)", re.DOTALL)


def read_chatterbot(choice: str) -> Reading:
    """Consecutive turns of all conversations in one language, or in all where `choice` is empty."""
    reading = Reading()
    for path in _files(choice):
        for number, node in _listed(path):
            turns = _turns(node)
            if turns is None:
                reading.left_out["conversations that are no list of two or more turns with text"] += 1
                continue
            for question, answer in itertools.pairwise(turns):
                reading.add(question, answer, f"line {number} of '{path}'")
    return reading


def _files(choice: str) -> list[Path]:
    files = python_files(_SOURCE, "chatterbot-corpus", "chatterbot_corpus/data/*/*.yml")
    languages = sorted({path.parent.name for path in files})
    if choice and choice not in languages:
        raise InputError(
            f"a corpus is 'chatterbot:{choice}'",
            expected=f"'chatterbot', or one language: {', '.join(languages)}",
            fix="name it chatterbot:english, say",
        )
    return [path for path in files if not choice or path.parent.name == choice]


def _listed(path: Path) -> list[tuple[int, object]]:
    """Line and YAML node of every item under 'conversations'."""
    yaml = optional_module("yaml", "PyYAML", "the corpus 'chatterbot'")
    try:
        root = yaml.compose(path.read_bytes(), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1} of '{path}'" if mark else f"'{path}'"
        raise _damaged(f"{place} is not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise _damaged(f"'{path}' is not UTF-8: {error.reason} at byte {error.start}") from None
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "conversations" and isinstance(value, yaml.SequenceNode):
            return [(node.start_mark.line + 1, node) for node in value.value]
    raise _damaged(f"'{path}' has no list of conversations")


def _turns(node) -> Conversation | None:
    """The turns of a YAML list of scalars, taken as text: YAML would read 'no' and '22' otherwise."""
    if node.id != "sequence" or any(turn.id != "scalar" for turn in node.value):
        return None
    turns = tuple(_text(turn.value) for turn in node.value)
    return turns if len(turns) >= 2 and all(map(visible, turns)) else None


def _text(turn: str) -> str:
    return clean(_FENCED_CODE.sub(" ", turn)) or clean(turn)


def _damaged(found: str) -> InputError:
    return InputError(
        found, expected="'conversations:', a list of lists of turns", fix="pip install --force-reinstall chatterbot-corpus"
    )
