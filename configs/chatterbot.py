"""English small talk: a flat cube corrects the best ridge regression on conversations of chatterbot-corpus, in MiniLM's space.

bin/train --config configs/chatterbot.py --seeds 0 1 2 3 4

Needs the extra `corpora`, pip install -e '.[corpora]'.
"""

from lattice_jax.config import (
    AnswerConfig,
    CellConfig,
    Config,
    CorpusConfig,
    GridConfig,
    LatticeConfig,
    LossConfig,
    OptimizerConfig,
    TeacherConfig,
    TrainingConfig,
    UpdateConfig,
)

CONFIG = Config(
    corpus=CorpusConfig(pairs="chatterbot:english", held_out_pairs=200, validation_pairs=100),
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
    training=TrainingConfig(steps=120, batch_size=32, evaluate_every=10, checkpoint_every=120, patience=0),
)
