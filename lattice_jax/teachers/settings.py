"""What of a teacher is taken as the embedding: the configuration's settings, completed from the teacher's own files.

Contract: a `Settings` that exists can be carried out: its layers are there, and the encoder has positions for its length. What
a teacher's files say of pooling and of length counts where the configuration leaves it open; what they ask for and this package
can't do is an `InputError`, never left out silently.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import jax

from lattice_jax.config import TeacherConfig
from lattice_jax.errors import InputError
from lattice_jax.teachers.checkpoint import Checkpoint, encode_texts
from lattice_jax.teachers.families import FAMILIES, EncoderSizes
from lattice_jax.teachers.weights import open_teacher

ENCODER_REVISION = 2
"""To be raised by whoever changes what `embed.encode` returns for any text, by more than rounding."""

Pooling = Literal["mean", "last", "cls"]

_POOLING_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
}
_OWN_MODULES = ("Transformer", "Pooling", "Normalize")
"""The steps of a sentence-transformers model that are carried out here."""


@dataclass(frozen=True)
class Settings:
    """How texts become embeddings, nothing left open."""

    pooling: Pooling
    layers: tuple[int, ...]
    """Indices into the encoder's hidden states, 0 the embeddings; averaged where several."""
    template: str
    normalise: bool
    numbers: Literal["float32", "bfloat16"]
    max_length: int
    """Tokens that are read of a text, special ones among them."""


def encoder_sizes(checkpoint: Checkpoint) -> EncoderSizes:
    """The sizes of a checkpoint's encoder; `InputError` where its tokenizer doesn't fit them."""
    sizes = FAMILIES[checkpoint.config["model_type"]].read_config(checkpoint.config)
    words = checkpoint.tokenizer.get_vocab(with_added_tokens=True)
    # Its own marks too, which it may put around a text without listing them as words.
    marks = encode_texts(checkpoint.tokenizer, [""], checkpoint.directory)[0].ids
    highest = max([*words.values(), *marks], default=-1)
    # Tables are rounded up to multiples of 64 or the like; one of twice the size belongs to another tokenizer.
    if not sizes.vocabulary_size // 2 <= highest < sizes.vocabulary_size:
        raise InputError(
            f"the tokenizer of {checkpoint.directory} has token ids up to {highest}, "
            f"the model embeds ids below {sizes.vocabulary_size}",
            expected="a tokenizer and weights of one model",
            fix="use the tokenizer.json that belongs to these weights",
        )
    return sizes


def settle(config: TeacherConfig, checkpoint: Checkpoint, sizes: EncoderSizes) -> Settings:
    """The settings of a configuration, completed from the teacher's files and checked against its sizes."""
    count = sizes.layers + 1
    beyond = [number for number in config.layer_numbers if not -count <= number < count]
    if beyond:
        raise InputError(
            f"teacher.layers asks for {', '.join(map(str, beyond))}",
            expected=f"layers from 0, the embeddings, to {sizes.layers}, or from -1, the last one, to -{count}",
            fix="set --config.teacher.layers accordingly",
        )
    numbers = config.numbers
    if numbers == "auto":
        numbers = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return Settings(
        pooling=_own_pooling(checkpoint) if config.pooling == "auto" else config.pooling,
        layers=tuple(sorted(number % count for number in config.layer_numbers)),
        template=config.template,
        normalise=config.normalise,
        numbers=numbers,
        max_length=_length(config, checkpoint, sizes),
    )


def describe(config: TeacherConfig) -> dict[str, Any]:
    """Everything besides the text that an embedding depends on, ready for JSON; no weights of a packaged teacher are read."""
    checkpoint = open_teacher(config)
    sizes = encoder_sizes(checkpoint)
    settings = settle(config, checkpoint, sizes)
    return {
        "files": dict(checkpoint.hashes),
        "dimension": sizes.hidden_size,
        **dataclasses.asdict(settings),
        "layers": list(settings.layers),
        "revision": ENCODER_REVISION,
    }


def _own_pooling(checkpoint: Checkpoint) -> Pooling:
    """What a sentence-transformers model's files say, else the mean."""
    fix = "set --config.teacher.pooling to mean, last or cls"
    modules = checkpoint.module_types()
    others = [name for name in modules.values() if name not in _OWN_MODULES]
    if others:
        raise InputError(
            f"the teacher in {checkpoint.directory} goes on with {', '.join(others)} after its encoder",
            expected="modules.json with nothing but " + ", ".join(_OWN_MODULES),
            fix=fix + ", to do without",
        )
    folder = next((path for path, name in modules.items() if name == "Pooling"), "1_Pooling")
    stated = checkpoint.settings(f"{folder}/config.json")
    asked = [mode for mode, value in stated.items() if mode.startswith("pooling_mode_") and value is True]
    if not stated:
        return "mean"
    if len(asked) != 1 or asked[0] not in _POOLING_MODES:
        raise InputError(
            f"the teacher in {checkpoint.directory} pools by {', '.join(asked) or 'nothing known'}",
            expected="one of " + ", ".join(_POOLING_MODES),
            fix=fix,
        )
    return _POOLING_MODES[asked[0]]


def _length(config: TeacherConfig, checkpoint: Checkpoint, sizes: EncoderSizes) -> int:
    special = checkpoint.tokenizer.num_special_tokens_to_add(is_pair=False)
    if config.max_length:
        if not special < config.max_length <= sizes.max_length:
            raise InputError(
                f"teacher.max_length is {config.max_length}",
                expected=f"more than the {special} special tokens and at most the teacher's {sizes.max_length}",
                fix="set --config.teacher.max-length accordingly",
            )
        return config.max_length
    stated = (
        checkpoint.settings("sentence_bert_config.json").get("max_seq_length"),
        checkpoint.settings("tokenizer_config.json").get("model_max_length"),
    )
    # Tokenizers without a limit state a huge number.
    return min([sizes.max_length, *(int(length) for length in stated if isinstance(length, int | float) and length > special)])
