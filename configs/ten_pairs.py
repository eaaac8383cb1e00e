"""Ten AI/ML pairs learned by heart by the full cube, beside the 40 held-out pairs of `hundred`.

bin/train --config configs/ten_pairs.py

The update is that of the measured run in benchmarks/results/ten_pairs.json.
"""

from lattice_jax.config import Config, CorpusConfig, LatticeConfig, OptimizerConfig, TrainingConfig, UpdateConfig

CONFIG = Config(
    corpus=CorpusConfig(pairs="ten"),
    lattice=LatticeConfig(update=UpdateConfig(mask="sample", quiescent=False)),
    optimizer=OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=10),
    training=TrainingConfig(steps=140, batch_size=10, evaluate_every=20, checkpoint_every=70, patience=0, select_by="training"),
)
