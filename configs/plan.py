"""The training plan of the main job: validation, convergence, production, evaluation.

bin/train --plan configs/plan.py

Measured with the texts embedded, on one core with AVX-512: 16 minutes, production made twice, because on the validation pairs
it stays more than 0.02 behind the best baseline. Held-out similarity 0.642, mean reciprocal rank 0.705 against 0.830 of the
question itself: the one criterion of six that is missed.
"""

from lattice_jax.config.plan import Criterion, GoBack, GoOn, Plan, Stage

VALIDATION = Stage(
    "validation",
    "Seconds: text, adapter, cube and record work together, and the loss falls.",
    settings={"training.steps": 12, "training.evaluate_every": 4, "training.checkpoint_every": 12, "adapter.steps": 50},
    criteria=(
        Criterion("last.loss", "<", "first.loss", "a loss that doesn't fall in twelve steps has no gradient to follow"),
        Criterion("adapter.validation_reconstruction", ">", 0.9, "the cube can't answer better than its adapter lets it"),
        Criterion(
            "validation.similarity",
            ">",
            "baselines.mean_answer.validation_similarity",
            "a cube that hands its question on is above the mean answer; below it nothing gets through",
        ),
    ),
)

CONVERGENCE = Stage(
    "convergence",
    "Ten pairs by heart: the full cube and its optimiser can fit what they are shown.",
    settings={
        "corpus.pairs": "ten",
        "training.steps": 100,
        "training.batch_size": 10,
        "training.evaluate_every": 20,
        "training.checkpoint_every": 100,
        "training.select_by": "training",
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 10,
    },
    criteria=(
        Criterion("train.similarity", ">", 0.95, "what can't be learned by heart won't be learned at all"),
        Criterion("train.mrr", ">=", 1.0, "each of the ten answers is told apart"),
        Criterion("last.gradient_norm", "<", 10.0, "the optimum is approached, not circled"),
    ),
    if_missed=(
        GoBack(
            "convergence",
            {"training.steps": 200, "optimizer.learning_rate": 5e-4},
            "twice the steps at half the rate",
        ),
    ),
)

PRODUCTION = Stage(
    "production",
    "The main job, whole.",
    criteria=(
        Criterion(
            "validation.similarity",
            ">",
            "baselines.question.validation_similarity",
            "an answer that is no nearer than the question itself was not learned",
        ),
        Criterion(
            "validation.similarity",
            ">=",
            "best_baseline.validation_similarity",
            "regressions and perceptrons cost seconds; a cube must be worth its minutes",
            margin=-0.02,
        ),
    ),
    if_missed=(
        GoBack(
            "production", {"optimizer.learning_rate": 1e-4, "optimizer.final_learning_rate": 3e-5}, "slower, as it overfits"
        ),
        GoOn("the held-out pairs have the last word, and twelve validation pairs are few"),
    ),
)

EVALUATION = Stage(
    "evaluation",
    "The verdict on pairs that nothing was chosen by.",
    judges="production",
    criteria=(
        Criterion("held_out.similarity", ">", "baselines.question.similarity", "the question itself costs nothing"),
        Criterion("baselines.question.gain_interval.0", ">", 0.0, "the lead over the question is more than chance"),
        Criterion("held_out.similarity", ">", "baselines.mean_answer.similarity", "the mean answer has no use"),
        Criterion("baselines.mean_answer.gain_interval.0", ">", 0.0, "the lead over the mean answer is more than chance"),
        Criterion("held_out.similarity", ">", "baselines.ridge.similarity", "a linear map is the least that a cube must beat"),
        Criterion(
            "held_out.mrr", ">=", "baselines.question.mrr", "answers must be told apart at least as well as questions are"
        ),
    ),
)

PLAN = Plan(config="phase3.py", stages=(VALIDATION, CONVERGENCE, PRODUCTION, EVALUATION))
