"""Edge cases: held-out questions asked in other wordings than their own, and what becomes of the answers.

Contract: figures for the end of a run, ready for JSON; nothing is chosen by them. Answers are ranked among all the held-out
ones, as in the verdict. Two rows say what the others are worth: `as_written`, the same questions in their own wording, and
`another_question`, the null model: every answer is scored as if it had been given to the question before it. Baselines are
asked in the same wordings.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from rich import box
from rich.table import Table

from lattice_jax.config import Config, EvaluationConfig
from lattice_jax.corpus.wordings import WORDINGS
from lattice_jax.evaluation.names import spelled
from lattice_jax.evaluation.similarity import cosine_similarity, paired_difference, ranks
from lattice_jax.material import Material
from lattice_jax.teachers.cache import extract

AS_WRITTEN, ANOTHER_QUESTION = "as_written", "another_question"

Answer = Callable[[np.ndarray], np.ndarray]
"""Questions [n, d] -> answers [n, d], both in the teacher's space."""
ByWording = Mapping[str, Float[np.ndarray, "n d"]]
"""Embeddings of the same n questions, or of the answers to them, by the wording's name; `as_written` among them."""


def reworded(questions: list[str], *, seed: int) -> dict[str, list[str]]:
    """The questions in each wording, by its name; the same ones for every run of one corpus."""
    return {
        name: [reword(question, np.random.default_rng((seed, number, place))) for place, question in enumerate(questions)]
        for number, (name, reword) in enumerate(WORDINGS.items())
    }


def measure_edge_cases(config: Config, material: Material, lattice: Answer, baselines: Mapping[str, Answer]) -> dict:
    """`questions`, how many there are, and `wordings`: the figures of `compare_wordings` by wording, with an `example` each."""
    rows = list(material.corpus.split.held_out)
    texts = [material.corpus.pairs[row].question for row in rows[: config.evaluation.edge_questions]]
    others = reworded(texts, seed=config.corpus.split_seed)
    embeddings = extract([text for wording in others.values() for text in wording], config.teacher).embeddings[:]
    asked = {AS_WRITTEN: texts, **others}
    heard = dict(zip(asked, [material.questions[rows[: len(texts)]], *np.split(embeddings, len(others))], strict=True))
    asked[ANOTHER_QUESTION], heard[ANOTHER_QUESTION] = np.roll(texts, 1).tolist(), np.roll(heard[AS_WRITTEN], 1, 0)
    together = np.concatenate(list(heard.values()))

    def wording_by_wording(answer: Answer) -> ByWording:
        return dict(zip(heard, np.split(answer(together), len(heard)), strict=True))

    rivals = {name: wording_by_wording(answer) for name, answer in baselines.items()}
    figures = compare_wordings(
        heard, wording_by_wording(lattice), rivals, material.answers[rows], config.evaluation, seed=config.seed
    )
    return {"questions": len(texts), "wordings": {name: {"example": asked[name][0], **row} for name, row in figures.items()}}


def compare_wordings(
    heard: ByWording,
    said: ByWording,
    others: Mapping[str, ByWording],
    candidates: Float[np.ndarray, "m d"],
    settings: EvaluationConfig,
    *,
    seed: int,
) -> dict[str, dict]:
    """Similarity and ranks of the cube's answers (`said`) and of the baselines' (`others`) in every wording.

    `heard` holds the embedded questions; the right answer to question i is candidate i. `similarity`, `recall_at_1` and `mrr`;
    `change`, the similarity less that of `as_written`, paired, with its interval; `agreement`, the mean cosine with the answers
    to the questions as written; `heard`, the same of the questions; and `baselines.<name>` with `similarity` and `mrr`.
    """
    count = len(said[AS_WRITTEN])
    right, own = candidates[:count], np.arange(count)
    as_written = cosine_similarity(said[AS_WRITTEN], right)
    figures = {}
    for name, answers in said.items():
        rank, similarity = ranks(answers, candidates, own), cosine_similarity(answers, right)
        change = paired_difference(
            similarity,
            as_written,
            bootstrap_samples=settings.bootstrap_samples,
            confidence=settings.confidence,
            seed=seed,
        )
        figures[name] = {
            "heard": float(cosine_similarity(heard[name], heard[AS_WRITTEN]).mean()),
            "agreement": float(cosine_similarity(answers, said[AS_WRITTEN]).mean()),
            "similarity": float(similarity.mean()),
            "change": change.value,
            "change_interval": [change.low, change.high],
            "recall_at_1": float(np.mean(rank <= 1)),
            "mrr": float(np.mean(1 / rank)),
            "baselines": {
                baseline: {
                    "similarity": float(cosine_similarity(theirs[name], right).mean()),
                    "mrr": float(np.mean(1 / ranks(theirs[name], candidates, own))),
                }
                for baseline, theirs in others.items()
            },
        }
    return figures


def render(edge_cases: Mapping) -> Table:
    """The cube's figures in each wording beside the ranks of the question itself, for the console."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(f"{edge_cases['questions']} questions asked", no_wrap=True)
    for heading in ("similarity", "change", "MRR", "MRR of the\nquestion itself", "agreement"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in edge_cases["wordings"].items():
        table.add_row(
            spelled(name),
            f"{row['similarity']:.3f}",
            "" if name == AS_WRITTEN else f"{row['change']:+.3f}",
            f"{row['mrr']:.3f}",
            f"{row['baselines']['question']['mrr']:.3f}",
            f"{row['agreement']:.3f}",
            style="dim" if name in (AS_WRITTEN, ANOTHER_QUESTION) else "",
        )
    return table
