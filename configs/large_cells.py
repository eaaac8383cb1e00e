"""Words and their definitions by few, large cells: every cell of the 3 x 3 faces takes 25 of the code's numbers, or makes 25.

bin/train --config configs/large_cells.py --seeds 0 1 2 3 4

Needs Debian's wordnet-base. Corpus, layout of the faces, noise and number of parameters are those of wordnet.py, where each
cell takes one number. Numbers of one cell share its features, which is what cells of one number lack beside an MLP
(benchmarks/README.md, "What limits the cube"). Settings were chosen by the validation pairs, the contrastive weight and what is
added once the cube has learned on a division of the pairs that are not held out (the latter by `python benchmarks/limits.py
--only shares-wordnet`).
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
        grid=GridConfig(depth=4, height=3, width=3),
        cell=CellConfig(
            visible=64, memory=64, parameter_budget=63_000, gate="moore", perception_noise=0.0, candidate_scale=0.0
        ),
        surface_channels=25,
        steps=8,
        update=UpdateConfig(rate=1.0),
    ),
    answer=AnswerConfig(
        around="beyond_code", added_question=0.4, added_regression=6.0, regression="kernel_ridge", removed_mean=0.4
    ),
    loss=LossConfig(surface_reconstruction=0.0, internal_consistency=0.0, contrastive=0.01),
    optimizer=OptimizerConfig(learning_rate=3e-3, final_learning_rate=1e-5, weight_decay=0.3),
    training=TrainingConfig(
        steps=1200, batch_size=64, question_noise=0.5, evaluate_every=100, checkpoint_every=1200, patience=0
    ),
)
