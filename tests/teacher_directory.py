"""A small teacher's directory as it lies on a disk: a committed checkpoint and a tokenizer of as many words."""

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

ENCODERS = Path(__file__).parent / "data" / "encoders"
WORDS = 60
"""Rows of the word tables of all committed checkpoints."""


def make_tokenizer(words: int = WORDS) -> Tokenizer:
    """Knows "[CLS]" (2), "[SEP]" (3) and the words "w5" to "w59"; of everything else it makes nothing."""
    names = ["[PAD]", "<pad>", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(5, words))]
    tokenizer = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def make_teacher(directory: Path, case: str = "bert") -> Path:
    """Copy the checkpoint of a case into `directory` and give it a tokenizer."""
    shutil.copytree(ENCODERS / case, directory, ignore=shutil.ignore_patterns("states.npz"))
    make_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def write_json(path: Path, values: object) -> None:
    """As JSON, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
