"""A cube of seconds: MiniLM, 4 x 15 x 15 narrow cells, for continuous integration and first steps.

bin/train --config configs/smoke.py
"""

from lattice_jax.config import (
    AdapterConfig,
    CellConfig,
    Config,
    CorpusConfig,
    EmergenceConfig,
    EvaluationConfig,
    GridConfig,
    LatticeConfig,
    OptimizerConfig,
    TeacherConfig,
    TrainingConfig,
)

CONFIG = Config(
    corpus=CorpusConfig(sentences="none"),
    teacher=TeacherConfig(name="minilm"),
    adapter=AdapterConfig(steps=60, evaluate_every=20, pair_fraction=1.0, batch_size=64),
    lattice=LatticeConfig(
        grid=GridConfig(depth=4), cell=CellConfig(visible=8, memory=8, hidden=16, perception="moore"), steps=6
    ),
    optimizer=OptimizerConfig(learning_rate=2e-3, final_learning_rate=2e-4, warmup_steps=5),
    training=TrainingConfig(steps=40, batch_size=16, evaluate_every=10, checkpoint_every=10),
    evaluation=EvaluationConfig(bootstrap_samples=500),
    emergence=EmergenceConfig(every=10, untrained_cubes=2, shuffles=10),
)
