"""Words and their definitions: a flat cube learns 20,000 entries of WordNet, in MiniLM's space.

bin/train --config configs/wordnet.py --seeds 0 1 2 3 4

Needs Debian's wordnet-base. The faces are aligned, so that what the best regression needs is near; the cube learns all of
that map and what lies beyond it, from questions with noise, so that it learns the pairs by heart later. Settings were chosen by
the validation pairs.
"""

from lattice_jax.config import (
    AdapterConfig,
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
    corpus=CorpusConfig(pairs="wordnet:20000", held_out_pairs=1000, validation_pairs=400),
    teacher=TeacherConfig(name="minilm"),
    adapter=AdapterConfig(layout="aligned"),
    lattice=LatticeConfig(
        grid=GridConfig(depth=4),
        cell=CellConfig(visible=16, memory=16, hidden=16, perception_noise=0.0, candidate_scale=0.0),
        steps=5,
        update=UpdateConfig(rate=1.0),
    ),
    answer=AnswerConfig(around="beyond_code"),
    loss=LossConfig(surface_reconstruction=0.0, internal_consistency=0.0),
    optimizer=OptimizerConfig(learning_rate=3e-3, final_learning_rate=1e-5),
    training=TrainingConfig(
        steps=2400, batch_size=64, question_noise=0.5, evaluate_every=200, checkpoint_every=2400, patience=0
    ),
)
