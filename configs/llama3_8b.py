"""The main job with LLaMA-3-8B as the teacher: 4096 numbers a text, its layers streamed from disk, in 8 GB of memory.

bin/train --config configs/llama3_8b.py --config.teacher.name DIRECTORY

DIRECTORY is a local copy of meta-llama/Meta-Llama-3-8B (or -Instruct, or 3.1) from the Hugging Face hub: config.json,
tokenizer.json, model.safetensors.index.json and its four shards in bfloat16, 16 GB. Memory was measured on random weights of
these shapes (benchmarks/results/streamed_memory.md); there is no score, since no machine of this project has held the weights.

The embedding is the last token's state after a sentence that asks for one word: under causal attention only the last token has
seen the whole text, and the prompt makes its state a summary instead of a guess at how the text goes on (Jiang et al., "Scaling
Sentence Embeddings with Large Language Models", 2023, arXiv:2307.16645). benchmarks/results/llama_pooling.md compares it with
the mean and the bare last token on SmolLM2's real weights. A text cut at the maximum length loses the prompt's end and is
counted; `--config.teacher.pooling mean --config.teacher.template {text}` is the choice for a corpus of long texts.
"""

from lattice_jax.config import Config, TeacherConfig, TrainingConfig

CONFIG = Config(
    teacher=TeacherConfig(
        name="models/Meta-Llama-3-8B",
        streamed=True,
        pooling="last",
        template='This sentence : "{text}" means in one word:"',
        # 32 heads attend over length squared: 134 MB of scores at 1024 tokens, 8.6 GB at the 8192 that the model could read.
        max_length=1024,
        batch_size=16,
    ),
    training=TrainingConfig(steps=120, evaluate_every=10, checkpoint_every=40),
)
