"""The cube corrects a regression: its answers begin as those of the best ridge regression that the validation pairs choose.

bin/train --config configs/around_ridge.py --seeds 0 1 2 3 4

Contrastive weight and learning rate were chosen on divisions of the pairs that are not held out. Without masks, and read at the
output face alone, a pass of 20 steps has few firings that can reach the answer, so a step costs less than the
main job's; 20 steps, because every layer takes some to settle and an answer read earlier is not yet that of the regression.
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
    answer=AnswerConfig(around="shared_ridge"),
    loss=LossConfig(internal_consistency=0.0, contrastive=0.03),
    optimizer=OptimizerConfig(learning_rate=3e-5, final_learning_rate=1e-5),
    training=TrainingConfig(steps=30, evaluate_every=5, checkpoint_every=30, patience=0),
)
