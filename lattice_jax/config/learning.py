"""Settings of what is learned from, how, and how it is judged."""

from dataclasses import dataclass
from typing import Literal

from lattice_jax.config.checks import require, require_kinds


@dataclass(frozen=True)
class CorpusConfig:
    """Which text is learned from, and how it is divided."""

    pairs: str = "hundred"
    """Question-answer pairs: 'ten', 'hundred', an installed corpus ('wordnet', 'wordnet:20000', 'chatterbot:english',
    'debian-faq:de', 'debian-faq:en:de', 'perlfaq', 'python-faq'), the path of a file (JSONL with 'question' and 'answer' on
    every line, CSV or TSV with these columns, Parquet) or of a Hugging Face datasets directory."""
    question_column: str = "question"
    """Name of the key or column with the questions, in files and directories."""
    answer_column: str = "answer"
    """Name of the one with the answers."""
    sentences: str = "scikit_learn_guide"
    """Unlabelled text for the adapter: 'scikit_learn_guide', an installed corpus as in `pairs`, or the path of a text file with
    one sentence a line; or several of these joined by '+', 'scikit_learn_guide+wordnet:20000'; or 'none'."""
    held_out_pairs: int = 40
    """Pairs for the verdict, never used for any choice."""
    validation_pairs: int = 12
    """Pairs for choices: early stopping and the baselines' regularisation."""
    split_seed: int = 0
    """Seed of the division; apart from the run's seed, so that several seeds share one held-out set."""
    near_duplicate_similarity: float = 0.8
    """Answers whose word sets overlap at least this much (Jaccard, 0..1) stay on one side of the division."""

    def __post_init__(self):
        require_kinds(self, "corpus.")
        require(
            self.answer_column != self.question_column,
            "corpus.answer_column",
            self.answer_column,
            "another column than corpus.question_column",
        )
        require(self.held_out_pairs >= 2, "corpus.held_out_pairs", self.held_out_pairs, "at least 2 pairs to judge on")
        require(self.validation_pairs >= 2, "corpus.validation_pairs", self.validation_pairs, "at least 2 pairs for choices")
        require(
            0 < self.near_duplicate_similarity <= 1,
            "corpus.near_duplicate_similarity",
            self.near_duplicate_similarity,
            "a number in (0, 1]",
        )


@dataclass(frozen=True)
class AdapterConfig:
    """The compressor between the teacher's space and a face of the cube; trained first, then frozen."""

    strategy: Literal["hierarchical", "linear", "attention", "autoencoder"] = "hierarchical"
    steps: int = 1000
    """Training steps at most; the best on the validation text is kept."""
    batch_size: int = 128
    learning_rate: float = 3e-5
    """Low, because training starts near the linear optimum: at 3e-4 the adapter first forgets it."""
    pair_fraction: float = 0.25
    """Share of the text that is of the training pairs, which are repeated where they are fewer; where they are more, all are
    taken. The rest are the unlabelled sentences; 1 takes the pairs alone."""
    evaluate_every: int = 50
    layout: Literal["principal", "aligned"] = "principal"
    """What lies where on the faces: 'principal' as the adapter gives it; 'aligned' turns the codes of questions and of answers,
    each its own way, so that the best regression between them joins each place of the input face to the same place of the
    output face alone, the strongest in the middle. What such a map needs is then near; no cell must hear of the whole face."""

    def __post_init__(self):
        require_kinds(self, "adapter.")
        require(self.steps >= 1, "adapter.steps", self.steps, "at least 1 step")
        require(self.batch_size >= 1, "adapter.batch_size", self.batch_size, "at least 1 text")
        require(self.learning_rate > 0, "adapter.learning_rate", self.learning_rate, "a positive rate")
        require(0 < self.pair_fraction <= 1, "adapter.pair_fraction", self.pair_fraction, "a share in (0, 1]")
        require(self.evaluate_every >= 1, "adapter.evaluate_every", self.evaluate_every, "at least 1 step")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the three objectives (Multi-objective loss, 0.3 / 0.3 / 0.4), and of a fourth that tells answers apart."""

    surface_reconstruction: float = 0.3
    internal_consistency: float = 0.3
    dialogue_similarity: float = 0.4
    contrastive: float = 0.0
    """Cross-entropy of the right answer among other training answers by cosine; raises the mean reciprocal rank."""
    consistency_steps: int = 2
    """Last lattice steps over which the cube must have come to rest."""
    contrastive_candidates: int = 256
    """Other answers that the right one is told apart from at a step: all of the training pairs, or so many drawn anew."""
    contrastive_temperature: float = 0.05
    """Cosines are divided by it; the smaller, the more the nearest wrong answers count."""

    def __post_init__(self):
        require_kinds(self, "loss.")
        weights = (self.surface_reconstruction, self.internal_consistency, self.dialogue_similarity, self.contrastive)
        require(all(w >= 0 for w in weights) and sum(weights) > 0, "loss", weights, "weights >= 0, at least one above 0")
        require(self.consistency_steps >= 1, "loss.consistency_steps", self.consistency_steps, "at least 1 step")
        require(self.contrastive_candidates >= 1, "loss.contrastive_candidates", self.contrastive_candidates, "at least 1")
        require(self.contrastive_temperature > 0, "loss.contrastive_temperature", self.contrastive_temperature, "above 0")


ADDED_AFTERWARDS = ("added_question", "added_regression", "removed_mean")
"""Settings of `AnswerConfig` that change the answers of a cube that has learned."""


@dataclass(frozen=True)
class AnswerConfig:
    """How the cube's output becomes the answer."""

    around: Literal["nothing", "question", "shrunken_question", "ridge", "shared_ridge", "kernel_ridge", "beyond_code"] = (
        "nothing"
    )
    """What the cube's answer is a change of: 'nothing' decodes its output as it is; 'beyond_code' adds to that only what of the
    best ridge regression's answer no code can hold, and leaves the rest to the cube; otherwise the untrained cube answers the
    question itself, the mean answer moved by a share of what sets the question apart, or what a ridge regression around `share`
    of the question says, or one around the share that the validation pairs choose, linear or of a kernel, and learns what that
    lacks."""
    share: float = 0.7
    """Of the question, in 'shrunken_question' and in what 'ridge' is fitted around. 0 leaves the mean answer, which is similar
    to every answer, and the regression of the answers themselves; 1 keeps all that tells answers apart."""
    folds: int = 10
    """Parts of the training pairs, each of which is answered by the regression of the others while the cube learns."""
    added_question: float = 0.0
    """How much of the question, at an answer's mean length, is added to every answer once the cube has learned. It tells
    answers apart, and gives back what noise on the questions took while the cube learned."""
    added_regression: float = 0.0
    """How much of a regression's answer is added then: two learners that err apart are right together."""
    regression: Literal["shared_ridge", "kernel_ridge"] = "shared_ridge"
    """Which one that is: the best ridge regression around a share of the question, or the best one of a kernel, which compares
    a question with those of the training pairs."""
    removed_mean: float = 0.0
    """How much of the mean training answer is taken away then. It is similar to all answers, so it tells none apart."""

    def __post_init__(self):
        require_kinds(self, "answer.")
        require(0 <= self.share <= 1, "answer.share", self.share, "a share in [0, 1]")
        require(self.folds >= 2, "answer.folds", self.folds, "at least 2")
        for name in ADDED_AFTERWARDS:
            require(getattr(self, name) >= 0, f"answer.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, cosine decay and clipping by the global norm."""

    learning_rate: float = 3e-4
    """Peak, reached after the warm-up."""
    final_learning_rate: float = 1e-4
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    """Decoupled; matrices only, not the neighbour weights, scales and biases."""
    gradient_clip: float = 1.0
    """Largest global gradient norm."""
    first_moment_decay: float = 0.9
    second_moment_decay: float = 0.99
    fused: bool = True
    """Whether clipping and AdamW are one compiled pass over the cube's parameters, where the native engine computes it; they
    are optax's otherwise."""

    def __post_init__(self):
        require_kinds(self, "optimizer.")
        require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "a positive rate")
        require(
            0 <= self.final_learning_rate <= self.learning_rate,
            "optimizer.final_learning_rate",
            self.final_learning_rate,
            "between 0 and optimizer.learning_rate",
        )
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "0 or more steps")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        require(self.gradient_clip > 0, "optimizer.gradient_clip", self.gradient_clip, "a positive norm")
        for name in ("first_moment_decay", "second_moment_decay"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "a number in [0, 1)")


@dataclass(frozen=True)
class TrainingConfig:
    """Length of the run, and when it looks, saves and stops."""

    steps: int = 200
    batch_size: int = 16
    micro_batch: int = 0
    """Samples whose gradient is computed at once, summed over the batch: less memory for large batches; 0 takes them all."""
    question_noise: float = 0.0
    """Standard deviation of the noise that is added to a question's code each time the cube learns from it, in units of the
    code's own root mean square. It smooths what is learned, so that pairs are learned by heart later; answers are given
    without it."""
    evaluate_every: int = 20
    """Steps between two looks at the validation pairs."""
    patience: int = 5
    """Looks without a better similarity before the run stops; 0 never stops early."""
    select_by: Literal["validation", "training"] = "validation"
    """Pairs by whose similarity the best parameters are chosen; "training" to learn a set by heart."""
    checkpoint_every: int = 50
    """Steps between two checkpoints; the last step and Ctrl-C save too."""

    def __post_init__(self):
        require_kinds(self, "training.")
        for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "at least 1")
        require(
            self.micro_batch == 0 or (self.micro_batch > 0 and self.batch_size % self.micro_batch == 0),
            "training.micro_batch",
            self.micro_batch,
            f"0, or a divisor of training.batch_size = {self.batch_size}",
        )
        require(self.question_noise >= 0, "training.question_noise", self.question_noise, "0 or more")
        require(self.patience >= 0, "training.patience", self.patience, "0 (never) or a number of looks")


@dataclass(frozen=True)
class EvaluationConfig:
    """The verdict: bootstrap intervals, samples to read, and edge cases."""

    bootstrap_samples: int = 2000
    confidence: float = 0.95
    sample_questions: int = 10
    training_pairs: int = 1000
    """Training pairs at most, spread over all of them, on which the training side of every figure is measured."""
    edge_questions: int = 40
    """Held-out questions, the first ones, that are also asked in other wordings: in capitals, with typos, cut short and so on.
    The teacher embeds eight times as many texts for it, once a corpus; 0 leaves it out."""

    def __post_init__(self):
        require_kinds(self, "evaluation.")
        require(self.bootstrap_samples >= 100, "evaluation.bootstrap_samples", self.bootstrap_samples, "at least 100")
        require(0 < self.confidence < 1, "evaluation.confidence", self.confidence, "a probability in (0, 1)")
        require(self.sample_questions >= 1, "evaluation.sample_questions", self.sample_questions, "at least 1")
        require(self.training_pairs >= 2, "evaluation.training_pairs", self.training_pairs, "at least 2")
        require(
            self.edge_questions == 0 or self.edge_questions >= 2,
            "evaluation.edge_questions",
            self.edge_questions,
            "0, or at least 2",
        )
