"""A LLaMA-family model in one GGUF file, seen as the checkpoint of a Hugging Face directory.

Contract: `open_gguf` gives the file's configuration in the words of a config.json, its tensors under the names and in the order
of rows that checkpoints have, each dequantised to float32 when it is asked for, and its tokenizer, built from the vocabulary
and merges that the file holds. What the file asks for and this room can't do is an `InputError`. The `gguf` package knows the
container and the 4-bit formats; it is imported only here and only when such a file is opened.

Source: the GGUF specification, github.com/ggml-org/ggml, docs/gguf.md.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lattice_jax.errors import InputError
from lattice_jax.teachers.checkpoint import Checkpoint

_CONFIG = {
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "intermediate_size": "llama.feed_forward_length",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "rope_theta": "llama.rope.freq_base",
    "head_dim": "llama.rope.dimension_count",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
"""Key of a config.json -> key of the file."""

_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Module of the file -> module of a checkpoint."""

_CONTROL_TOKEN = 3
"""The file's type of tokens that no text spells, <|endoftext|> for example."""


class GgufFile:
    """A file's facts and tensors, mapped from disk."""

    def __init__(self, path: Path):
        try:
            import gguf
        except ImportError as error:
            raise InputError(
                f"{path} needs the package gguf to be read", expected="gguf 0.19 or newer", fix="pip install 'gguf>=0.19'"
            ) from error
        self.path = path
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} can't be read: {error}", expected="a GGUF file", fix="install its package again"
            ) from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._dequantize = gguf.dequantize

    def fact(self, key: str) -> Any:
        """One of the values that the file states; `InputError` where it doesn't."""
        field = self._reader.get_field(key)
        if field is None:
            raise self.refused(f"states no {key}", "all of " + ", ".join(_CONFIG.values()))
        return field.contents()

    def states(self, key: str) -> bool:
        """Whether the file has a value of this name."""
        return self._reader.get_field(key) is not None

    def refused(self, found: str, expected: str) -> InputError:
        """The error that this file can't be used."""
        return InputError(f"{self.path} {found}", expected=expected, fix="use SmolLM2, or the model's safetensors")

    @property
    def names(self) -> list[str]:
        """Of the tensors."""
        return list(self._tensors)

    def tensor(self, name: str) -> np.ndarray:
        """One tensor, dequantised."""
        tensor = self._tensors[name]
        return np.asarray(self._dequantize(tensor.data, tensor.tensor_type), np.float32)


class DequantisedTensors(Mapping[str, np.ndarray]):
    """Tensors by the names of a checkpoint."""

    def __init__(self, file: GgufFile, config: Mapping[str, Any]):
        self._file, self._config = file, config

    @cached_property
    def _names(self) -> dict[str, str]:
        """Name in a checkpoint -> name in the file; the file's own where a checkpoint has none for it."""
        named = {}
        for name in self._file.names:
            module, _, kind = name.removeprefix("blk.").rpartition(".")
            layer, _, inner = module.rpartition(".")
            before = f"model.layers.{layer}." if name.startswith("blk.") else ""
            named[f"{before}{_TENSORS[inner]}.{kind}" if inner in _TENSORS else name] = name
        return named

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._file.tensor(self._names[name])
        if name.endswith("q_proj.weight"):
            return checkpoint_rows(tensor, self._config["num_attention_heads"])
        if name.endswith("k_proj.weight"):
            return checkpoint_rows(tensor, self._config["num_key_value_heads"])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def checkpoint_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key weight with the channels that turn together half a head apart, as checkpoints have them.

    GGUF files of this family have them side by side: (0, half), (1, half + 1) ... of a head lie one after the other.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def open_gguf(path: Path, hashes: Mapping[str, str]) -> Checkpoint:
    """The checkpoint that a GGUF file holds; `hashes` are those of the file, already found to be right."""
    stat = path.stat()
    file = _parsed(path, stat.st_size, stat.st_mtime_ns)
    config = read_config(file)
    return Checkpoint(
        config=config,
        tokenizer=build_tokenizer(file),
        hashes=hashes,
        directory=path.parent,
        open_weights=lambda: DequantisedTensors(file, config),
    )


@lru_cache(maxsize=4)
def _parsed(path: Path, size: int, changed: int) -> GgufFile:  # size and time of change are there to key the cache
    """The file, whose 50,000 words take seconds to go through."""
    return GgufFile(path)


def read_config(file: GgufFile) -> dict[str, Any]:
    """The values of a config.json that say what the file says."""
    if file.fact("general.architecture") != "llama":
        raise file.refused(f"has the architecture {file.fact('general.architecture')!r}", "'llama'")
    config = {key: file.fact(name) for key, name in _CONFIG.items()}
    stretched = file.states("llama.rope.scaling.type") or "rope_freqs.weight" in file.names
    if stretched or config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise file.refused("scales its rotary positions or turns a part of its channels", "plain rotary positions")
    return {"model_type": "llama", **config}


def build_tokenizer(file: GgufFile) -> Tokenizer:
    """SmolLM's tokenizer: byte-level pair encoding in which every digit stands alone; nothing is put before or after a text."""
    kinds = (file.fact("tokenizer.ggml.model"), file.fact("tokenizer.ggml.pre"), file.fact("tokenizer.ggml.add_bos_token"))
    if kinds != ("gpt2", "smollm", False):
        raise file.refused(f"has the tokenizer {kinds}", "SmolLM's: gpt2, smollm, no token before the text")
    words = file.fact("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in file.fact("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    types = file.fact("tokenizer.ggml.token_type")
    control = [word for word, kind in zip(words, types, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    return tokenizer
