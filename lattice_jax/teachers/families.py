"""The families of encoders that a checkpoint's config.json may name as its `model_type`.

Contract: `FAMILIES` maps each known `model_type` to how its configuration is read, its module built and its parameters named.
Whoever adds a family adds a row here and nothing elsewhere.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

from lattice_jax.teachers import bert_checkpoints, llama
from lattice_jax.teachers.stages import StagedEncoder


class EncoderSizes(Protocol):
    """What extraction needs to know of any encoder's configuration; each family's own dataclass has more."""

    @property
    def vocabulary_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def max_length(self) -> int:
        """Tokens of a text that the encoder can tell the positions of."""
        ...

    @property
    def padding_id(self) -> int: ...


class Family(NamedTuple):
    """One kind of encoder."""

    read_config: Callable[[Mapping[str, Any]], Any]
    """The sizes (`EncoderSizes`) that a config.json's values state; `InputError` for what the encoder can't do."""
    build: Callable[[Any, str], StagedEncoder]
    """(configuration, "float32" or "bfloat16") -> module: token ids and mask [batch, length] -> tuple of hidden states
    [batch, length, hidden]: the embeddings, then each layer's, the last one as the family hands it on."""
    names: Callable[[Any, Collection[str]], dict[str, str]]
    """(configuration, tensors that are there) -> tensor of the checkpoint -> path of the parameter that it fills."""
    not_needed: Callable[[Any, Collection[str]], Collection[str]]
    """(configuration, tensors that are there) -> tensors that are left out: heads, buffers that the configuration implies."""


_BERT = Family(
    bert_checkpoints.read_config, bert_checkpoints.build, bert_checkpoints.parameter_names, bert_checkpoints.not_needed
)

_LLAMA = Family(llama.read_config, llama.Llama, llama.parameter_names, llama.not_needed)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "distilbert": _BERT,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mpnet": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
}


def known_families() -> str:
    """Their names, as a message lists them."""
    return ", ".join(sorted(FAMILIES))
