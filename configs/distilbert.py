"""The main job with DistilBERT as the teacher, from a Hugging Face directory on disk.

bin/train --config configs/distilbert.py --config.teacher.name DIRECTORY

DIRECTORY holds config.json, tokenizer.json and model.safetensors, or shards with their index, as downloaded from a model hub or
as `save_pretrained` writes them: distilbert-base-uncased, any other DistilBERT of 768 numbers, or a sentence-transformers model
made of one, whose own pooling is then followed. There is no figure yet: no package brings these weights.
"""

from lattice_jax.config import Config, TeacherConfig, TrainingConfig

CONFIG = Config(
    teacher=TeacherConfig(name="models/distilbert-base-uncased"),
    training=TrainingConfig(steps=120, evaluate_every=10, checkpoint_every=40),
)
