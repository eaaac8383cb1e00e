"""Words and their definitions: a flat cube corrects the best ridge regression on 20,000 words of WordNet, in MiniLM's space.

bin/train --config configs/wordnet.py --seeds 0 1 2 3 4

Needs Debian's wordnet-base. Four layers of narrow cells learn from 200 pairs a second where the whole cube learns from 40, and
so see every pair more than once within minutes.
"""

from lattice_jax.config import (
    AnswerConfig,
    CellConfig,
    Config,
    CorpusConfig,
    EmergenceConfig,
    GridConfig,
    LatticeConfig,
    LossConfig,
    OptimizerConfig,
    PoolConfig,
    TeacherConfig,
    TrainingConfig,
    UpdateConfig,
)

CONFIG = Config(
    corpus=CorpusConfig(pairs="wordnet:20000", held_out_pairs=1000, validation_pairs=400),
    teacher=TeacherConfig(name="minilm"),
    lattice=LatticeConfig(
        grid=GridConfig(depth=4),
        cell=CellConfig(hidden=32, perception_noise=0.0, candidate_scale=0.0),
        steps=8,
        update=UpdateConfig(rate=1.0),
    ),
    answer=AnswerConfig(around="shared_ridge"),
    loss=LossConfig(surface_reconstruction=0.0, internal_consistency=0.0),
    optimizer=OptimizerConfig(learning_rate=3e-4, final_learning_rate=1e-5),
    training=TrainingConfig(steps=500, batch_size=64, evaluate_every=50, checkpoint_every=500, patience=0),
    emergence=EmergenceConfig(every=0, at_end=False),
    pool=PoolConfig(questions=0),
)
