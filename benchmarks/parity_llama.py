"""Writes tests/data/llama: small checkpoints of the LLaMA family, and what torch and transformers make of them.

An implementation that shares no code with this package. It needs `torch` beside `transformers`, which the tests don't:

    python benchmarks/parity_llama.py

Each folder is a checkpoint as it lies on a hub: config.json, bfloat16 or float32 shards of safetensors and their index. Its
`states.npz` holds token ids and mask [texts, length], padded on the right or, in one text, on the left, and the float32 hidden
states [layers + 1, texts, length, hidden] at every layer. The weights are random and large, so that every part of a layer
moves its states far beyond the tolerance.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, MistralConfig, MistralForCausalLM

DATA = Path(__file__).parents[1] / "tests" / "data" / "llama"
SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
}
LENGTH = 14


@dataclass(frozen=True)
class Variant:
    """One way in which checkpoints of the family differ."""

    model: type
    settings: dict
    numbers: torch.dtype
    older_spelling: dict | None = None
    """What config.json says of positions instead of `rope_parameters`, as checkpoints older than transformers 5 do."""


VARIANTS = {
    "llama_2": Variant(
        LlamaForCausalLM,
        {"num_key_value_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
        torch.float32,
        {"rope_scaling": None},
    ),
    "llama_3": Variant(
        LlamaForCausalLM,
        {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
        torch.bfloat16,
        {"rope_scaling": None, "rope_theta": 500_000.0},
    ),
    "llama_3_1": Variant(
        LlamaForCausalLM,
        {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        torch.float32,
        {
            "rope_theta": 500_000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "linear_with_biases": Variant(
        LlamaModel,
        {
            "num_key_value_heads": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
        },
        torch.float32,
    ),
    "mistral": Variant(
        MistralForCausalLM,
        {
            "num_key_value_heads": 2,
            "sliding_window": 5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        torch.bfloat16,
    ),
}


def randomise(model: torch.nn.Module) -> None:
    """Weights that keep states near length 1 a channel, and norms and biases that are not trivial."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif "embed_tokens" in name:
            torch.nn.init.normal_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """One text that fills the length, one padded on the right and one on the left."""
    mask = torch.ones(3, LENGTH, dtype=torch.int64)
    mask[1, 9:] = 0
    mask[2, :4] = 0
    return torch.randint(1, SIZES["vocab_size"], (3, LENGTH)) * mask, mask


@torch.inference_mode()
def write(name: str, variant: Variant) -> float:
    """Write one checkpoint and its states; the largest difference that attention makes to them."""
    directory = DATA / name
    shutil.rmtree(directory, ignore_errors=True)
    configuration = MistralConfig if variant.model is MistralForCausalLM else LlamaConfig
    model = variant.model(configuration(**SIZES, **variant.settings))
    randomise(model)
    model.to(variant.numbers).save_pretrained(directory, max_shard_size="24KB")
    (directory / "generation_config.json").unlink(missing_ok=True)
    # Read back from disk, so that the states are those of the rounded weights.
    model = variant.model.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    token_ids, mask = padded_batch()
    states = model(input_ids=token_ids, attention_mask=mask, output_hidden_states=True).hidden_states
    np.savez_compressed(
        directory / "states.npz",
        token_ids=token_ids.numpy().astype(np.int32),
        mask=mask.numpy().astype(np.bool_),
        states=torch.stack(states).numpy(),
    )
    if variant.older_spelling is not None:
        path = directory / "config.json"
        values = json.loads(path.read_text())
        del values["rope_parameters"]
        path.write_text(json.dumps(values | variant.older_spelling, indent=2) + "\n")
    alone = model(input_ids=token_ids[:1, -1:], output_hidden_states=True).hidden_states
    return float((alone[-1][0, -1] - states[-1][0, -1]).abs().max())


def main() -> None:
    torch.manual_seed(0)
    for name, variant in VARIANTS.items():
        print(f"{name}: the text before a token changes its last state by up to {write(name, variant):.2f}")


if __name__ == "__main__":
    main()
