"""Settings of the frozen language model that turns text into embeddings."""

import re
from dataclasses import dataclass
from typing import Literal

from lattice_jax.config.checks import require, require_kinds

PLACE_OF_TEXT = "{text}"


@dataclass(frozen=True)
class TeacherConfig:
    """Which model reads the text, and what is taken from it as the embedding."""

    name: str = "mpnet"
    """'mpnet': all-mpnet-base-v2, 768 numbers a text; 'minilm': all-MiniLM-L6-v2, 384; 'smollm2': SmolLM2-135M-Instruct of the
    LLaMA family, 576; or the directory of a Hugging Face checkpoint (config.json, tokenizer.json, safetensors) of a family in
    lattice_jax/teachers/families.py."""
    pooling: Literal["auto", "mean", "last", "cls"] = "auto"
    """Mean of all tokens, the last or the first one; 'auto': as the teacher's 1_Pooling/config.json says, else the mean."""
    layers: str = "-1"
    """Layer whose states are taken: 0 the embeddings, 1 the first layer, -1 the last one; or several with commas, averaged."""
    template: str = PLACE_OF_TEXT
    """What the teacher reads; '{text}' stands for the text, once."""
    normalise: bool = True
    """Whether embeddings are scaled to length 1."""
    numbers: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of weights and products; 'auto': bfloat16 on accelerators, float32 on CPUs. Embeddings are float32 always."""
    products: Literal["auto", "xla", "split"] = "auto"
    """What multiplies states and weights in float32 on a CPU: XLA, or the processor's matrix unit (Intel AMX), for which every
    number is split into two bfloat16: 1.6 times as fast, with errors of 4e-6 instead of 4e-7. 'auto': the unit where there is
    one, for encoders of the BERT family, which alone can use it."""
    max_length: int = 0
    """Tokens read of a text, the rest is cut off; 0: as many as the teacher's own files say."""
    streamed: bool = False
    """Whether weights stay on disk but for one layer at a time, for a LLaMA or Mistral model that is larger than memory."""
    batch_size: int = 32
    """Texts of up to 32 tokens encoded at once; of longer ones fewer, so that the tokens stay as many."""
    cache_directory: str = ".cache/embeddings"
    """Where embeddings are kept, by teacher and text; created when missing."""
    stored_as: Literal["float32", "float16", "bfloat16"] = "float32"
    """Numbers of the embeddings that are kept; each kind has its own store. They are computed and used as float32."""

    def __post_init__(self):
        require_kinds(self, "teacher.")
        require(self.name != "", "teacher.name", self.name, "a packaged teacher's name or a directory")
        number = r"\s*-?\d+\s*"
        require(
            re.fullmatch(rf"{number}(,{number})*", self.layers) is not None,
            "teacher.layers",
            self.layers,
            "a layer's number, or several with commas between",
        )
        require(
            self.template.count(PLACE_OF_TEXT) == 1,
            "teacher.template",
            self.template,
            f"a template that holds {PLACE_OF_TEXT} once",
        )
        require(self.max_length >= 0, "teacher.max_length", self.max_length, "0 (the teacher's own) or a number of tokens")
        require(self.batch_size >= 1, "teacher.batch_size", self.batch_size, "at least 1 text")

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The numbers in `layers`."""
        return tuple(int(number) for number in self.layers.split(","))
