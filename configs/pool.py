"""The main job from a pool of states: every question is answered from what another one left in the cube.

bin/train --config configs/pool.py

States are reseeded and damaged on the way, and a pass has 16 to 20 steps, so that neither the state in which a question finds
the cube nor the step at which the answer is read is to be relied on. benchmarks/results/pool.md has it beside the same job
without a pool.
"""

from lattice_jax.config import Config, LatticeConfig, PoolConfig, TrainingConfig

CONFIG = Config(
    lattice=LatticeConfig(steps=20),
    training=TrainingConfig(steps=120, evaluate_every=10, checkpoint_every=40),
    pool=PoolConfig(size=64, minimum_steps=16),
)
