"""English small talk by few, large cells: what a cube and a kernel regression say together, in MiniLM's space.

bin/train --config configs/large_cells_chatterbot.py --seeds 0 1 2 3 4

Needs the extra `corpora`, pip install -e '.[corpora]'. The cells are those of large_cells.py with twice the parameters. They
learn the whole map, from noisy questions, where chatterbot.py corrects a regression, so the two err apart. Settings were
chosen on divisions of the pairs that are not held out (`python benchmarks/limits.py --only shares-chatterbot`).
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
        grid=GridConfig(depth=4, height=3, width=3),
        cell=CellConfig(
            visible=64, memory=64, parameter_budget=126_000, gate="moore", perception_noise=0.0, candidate_scale=0.0
        ),
        surface_channels=25,
        steps=8,
        update=UpdateConfig(rate=1.0),
    ),
    answer=AnswerConfig(
        around="question", added_question=1.2, added_regression=8.0, regression="kernel_ridge", removed_mean=0.4
    ),
    loss=LossConfig(surface_reconstruction=0.0, internal_consistency=0.0),
    optimizer=OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-5),
    training=TrainingConfig(steps=160, batch_size=32, question_noise=0.5, evaluate_every=20, checkpoint_every=160, patience=0),
)
