"""How the states of a LLaMA-family model become an embedding: kinds of pooling side by side, on SmolLM2's real weights.

    python benchmarks/llama_pooling.py

Writes benchmarks/results/llama_pooling.md: how well each kind tells a question's own answer from the others, on the training
and validation pairs of 'hundred' and never on the held-out ones, since `configs/llama3_8b.py` chooses by it.
"""

from pathlib import Path

from lattice_jax.config import CorpusConfig, TeacherConfig
from lattice_jax.corpus.corpus import load_corpus
from lattice_jax.evaluation.similarity import measure
from lattice_jax.teachers.embed import embed, load_teacher

RESULT = Path(__file__).parent / "results" / "llama_pooling.md"
ONE_WORD = 'This sentence : "{text}" means in one word:"'
"""Jiang et al., "Scaling Sentence Embeddings with Large Language Models" (2023), arXiv:2307.16645."""

KINDS = {
    "mean of all tokens": TeacherConfig(name="smollm2", pooling="mean"),
    "last token": TeacherConfig(name="smollm2", pooling="last"),
    f"last token of `{ONE_WORD}`": TeacherConfig(name="smollm2", pooling="last", template=ONE_WORD),
}
WORDS = 40
"""Of an answer, from its beginning: the kinds are compared, and short texts compare them as well."""


def main() -> None:
    corpus = load_corpus(CorpusConfig(sentences="none"))
    pairs = [corpus.pairs[index] for index in (*corpus.split.train, *corpus.split.validation)]
    texts = [pair.question for pair in pairs] + [" ".join(pair.answer.split()[:WORDS]) for pair in pairs]
    rows = []
    for kind, config in KINDS.items():
        embeddings = embed(load_teacher(config), texts, batch_size=16)
        found = measure(embeddings[: len(pairs)], embeddings[len(pairs) :])
        estimates = (found.similarity, found.recall_at_1, found.recall_at_5, found.mrr)
        rows.append(f"| {kind} | " + " | ".join(map(str, estimates)) + " |")
        print(rows[-1], flush=True)
    heading = [
        "# From the states of a LLaMA-family model to an embedding",
        "",
        "`python benchmarks/llama_pooling.py`: SmolLM2-135M-Instruct, the question itself taken for the answer, on the "
        f"{len(pairs)}",
        f"training and validation pairs of 'hundred', answers cut after {WORDS} words. The held-out pairs are not looked at.",
        "",
        "| kind | similarity | recall@1 | recall@5 | MRR |",
        "|---|---|---|---|---|",
    ]
    RESULT.write_text("\n".join([*heading, *rows, ""]))


if __name__ == "__main__":
    main()
