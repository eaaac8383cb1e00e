"""Writes tests/data/teacher_reference.npz: what torch and transformers make of tests/data/teacher_texts.json.

An implementation that shares no code with this package. It needs `torch` beside `transformers`, which the tests don't. Run it
where both are installed, with the directories of the two models (`bin/train` unpacks MPNet's below .cache/embeddings/weights):

    python benchmarks/teacher_reference.py --minilm <directory> --mpnet <directory>

For each model: token ids [texts, longest], -1 beyond a text's end, and unit-length embeddings float32 [texts, dimension].
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

DATA = Path(__file__).parents[1] / "tests" / "data"


@torch.inference_mode()
def reference(directory: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and embeddings of all texts, padded into one batch."""
    maximum = json.loads((directory / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=maximum, return_tensors="pt")
    mask = batch["attention_mask"][:, :, None]
    pooled = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    token_ids = torch.where(batch["attention_mask"] == 1, batch["input_ids"], -1)
    return token_ids.numpy().astype(np.int32), torch.nn.functional.normalize(pooled, dim=1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--mpnet", type=Path, required=True)
    arguments = parser.parse_args()
    texts = json.loads((DATA / "teacher_texts.json").read_text(encoding="utf-8"))
    arrays = {}
    for name, directory in (("minilm", arguments.minilm), ("mpnet", arguments.mpnet)):
        arrays[f"{name}_token_ids"], arrays[f"{name}_embeddings"] = reference(directory, texts)
    np.savez_compressed(DATA / "teacher_reference.npz", **arrays)


if __name__ == "__main__":
    main()
