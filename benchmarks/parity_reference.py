"""Writes tests/data/encoders/: small random checkpoints as transformers saves them, and the states torch computes from them.

An implementation that shares no code with this package, for the parity of every layer. It needs the extra `parity` (torch and
transformers), which the tests don't:

    python benchmarks/parity_reference.py

For each case: the checkpoint's own files (config.json, safetensors, in shards with an index or in one file, float32 or
bfloat16), and states.npz with token ids and mask [texts, longest] of a padded batch and hidden_0, hidden_1, ..., each [texts,
longest, hidden] in float32. Weights are drawn wider than models are initialised, so that each part of a layer shows in its
states.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "encoders"
LENGTHS = (11, 4, 7)


class Case(NamedTuple):
    """One checkpoint to write."""

    model: Callable[[], torch.nn.Module]
    bfloat16: bool = False
    shard_size: str = "5GB"


BERT_SIZES = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
}
DISTILBERT_SIZES = {"vocab_size": 60, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 20}
ROBERTA_SIZES = BERT_SIZES | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}

CASES = {
    # With segments, in shards, as the encoder alone.
    "bert": Case(lambda: transformers.BertModel(transformers.BertConfig(**BERT_SIZES)), shard_size="25KB"),
    # Another activation, and everything below a prefix, beside a head.
    "bert_with_head": Case(
        lambda: transformers.BertForMaskedLM(transformers.BertConfig(**BERT_SIZES, hidden_act="gelu_new")), bfloat16=True
    ),
    "distilbert": Case(
        lambda: transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**DISTILBERT_SIZES)), shard_size="25KB"
    ),
    "distilbert_bfloat16": Case(
        lambda: transformers.DistilBertModel(
            transformers.DistilBertConfig(**DISTILBERT_SIZES, sinusoidal_pos_embds=True, activation="relu")
        ),
        bfloat16=True,
        shard_size="15KB",
    ),
    "mpnet": Case(lambda: transformers.MPNetForMaskedLM(transformers.MPNetConfig(**BERT_SIZES)), shard_size="25KB"),
    "roberta": Case(lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**ROBERTA_SIZES)), shard_size="25KB"),
    "xlm-roberta": Case(
        lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**ROBERTA_SIZES)), bfloat16=True, shard_size="15KB"
    ),
}


@torch.inference_mode()
def write(name: str, case: Case) -> None:
    """The checkpoint of a case and the states of a padded batch."""
    torch.manual_seed(0)
    model = case.model().eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0))
    if case.bfloat16:
        model = model.to(torch.bfloat16)
    model.save_pretrained(FOLDER / name, max_shard_size=case.shard_size)
    padding_id = model.config.pad_token_id
    token_ids = torch.randint(5, model.config.vocab_size, (len(LENGTHS), max(LENGTHS)))
    # A literal padding id within a text, which the families count in different ways.
    token_ids[0, 3] = padding_id
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    token_ids = torch.where(mask, token_ids, padding_id)
    # What is saved may be rounded; the states are those of the rounded weights, computed in float32.
    outputs = model.float()(input_ids=token_ids, attention_mask=mask.long(), output_hidden_states=True)
    states = {f"hidden_{index}": state.numpy() for index, state in enumerate(outputs.hidden_states)}
    arrays = {"token_ids": token_ids.numpy().astype(np.int32), "mask": mask.numpy(), **states}
    np.savez_compressed(FOLDER / name / "states.npz", **arrays)


def main() -> None:
    for name, case in CASES.items():
        write(name, case)
        print(name, sorted(path.name for path in (FOLDER / name).iterdir()))


if __name__ == "__main__":
    main()
