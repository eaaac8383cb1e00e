"""The cube corrects a kernel regression: its answers begin as those of the best one that the validation pairs choose.

bin/train --config configs/around_kernel.py --seeds 0 1 2 3 4

All else is as in around_ridge.py, whose linear regression knows less, but for what is added once the cube has learned: of the
shares that keep half of what it gains over the best baseline in similarity, on divisions of the pairs that are not held out,
those that rank best (`python benchmarks/limits.py --only shares-hundred shares-hundred-kernel`).
"""

from lattice_jax.config import (
    AnswerConfig,
    CellConfig,
    Config,
    LatticeConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
    UpdateConfig,
)

CONFIG = Config(
    lattice=LatticeConfig(cell=CellConfig(perception_noise=0.0, candidate_scale=0.0), steps=20, update=UpdateConfig(rate=1.0)),
    answer=AnswerConfig(around="kernel_ridge", added_question=0.06, removed_mean=0.1),
    loss=LossConfig(internal_consistency=0.0, contrastive=0.03),
    optimizer=OptimizerConfig(learning_rate=3e-5, final_learning_rate=1e-5),
    training=TrainingConfig(steps=30, evaluate_every=5, checkpoint_every=30, patience=0),
)
