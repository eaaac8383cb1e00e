"""The main job: a cube of 2,475 cells learns to answer AI/ML questions in the space of MPNet.

bin/train --config configs/phase3.py

Three and a half minutes on two fast CPU cores with AVX-512 once the packages are there, six to seven on slower ones with AMX;
held-out similarity 0.640, mean reciprocal rank 0.679 (benchmarks/results/phase3.json).
"""

from lattice_jax.config import Config, TrainingConfig

CONFIG = Config(training=TrainingConfig(steps=120, evaluate_every=10, checkpoint_every=40))
