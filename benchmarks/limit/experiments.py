"""The experiments, each a table: what is varied, and the similarity of cube and baselines to answers that none of them saw.

Contract: every function takes a corpus at hand and returns rows. Held-out pairs play no part (`corpus.py`). Where a choice
among many is made (`place`), every corpus is divided anew.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from benchmarks.limit.corpus import Corpus, Sides
from benchmarks.limit.learners import Trained, train_cube, train_networks
from benchmarks.limit.linear import windowed_ridge, with_borrowed
from lattice_jax.alignment import align
from lattice_jax.config import AnswerConfig, Config
from lattice_jax.config.overrides import with_settings
from lattice_jax.evaluation.baselines import SHARES, Baseline, Pairs, fit_baselines, ridge
from lattice_jax.evaluation.names import spelled
from lattice_jax.evaluation.similarity import MEASURES, cosine_similarity, score_pairs, unit_rows
from lattice_jax.lattice import cube
from lattice_jax.lattice.adapter import Codec
from lattice_jax.stacking import fit_base

Row = dict[str, float | str]

RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates that are tried for what stands in the cube's place."""
OPERATIONS = 1e13
"""At most for an MLP, all its forms together; about what the longest training of a cube here takes."""
LEARNED = ("shared_ridge", "kernel_ridge", "mlp", "mlp_equal")
"""The baselines that stand in the tables, beside the question itself."""


def _first(pairs: Pairs, count: int) -> Pairs:
    return Pairs(*(rows[:count] for rows in pairs))


def _similarity(predicted: np.ndarray, pairs: Pairs) -> float:
    return float(cosine_similarity(predicted, pairs.answers).mean())


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _fitted(train: Pairs, chosen_on: Pairs, parameters: int) -> dict[str, Baseline]:
    return fit_baselines(train, chosen_on, parameters=parameters, operation_budget=OPERATIONS)


def _baselines(sides: Sides, parameters: int) -> dict[str, float]:
    fitted = _fitted(sides.train, sides.chosen_on, parameters)
    shown = ("question", "ridge", *LEARNED)
    return {name: _similarity(fitted[name].predict(sides.judged_on.questions), sides.judged_on) for name in shown}


def _laid_out(corpus: Corpus, config: Config, sides: Sides) -> Codec:
    """The codec with faces laid out as `config` says, by these pairs alone."""
    plain = corpus.codec
    return plain if config.adapter.layout == "principal" else align(plain, sides.train, sides.chosen_on, config.lattice)


def _layouts(config: Config) -> dict[str, Config]:
    return {layout: with_settings(config, {"adapter.layout": layout}) for layout in ("principal", "aligned")}


def _trained(corpus: Corpus, config: Config, sides: Sides) -> Trained:
    return train_cube(config, _laid_out(corpus, config, sides), sides.train, sides.chosen_on)


def _cube(corpus: Corpus, config: Config, sides: Sides) -> dict[str, float]:
    trained = _trained(corpus, config, sides)
    return {
        "cube": _similarity(trained.predict(sides.judged_on.questions), sides.judged_on),
        "cube, training": trained.looks[trained.best]["train"],
        "best look": trained.best * config.training.evaluate_every,
    }


def data(corpus: Corpus, counts: tuple[int, ...]) -> Iterator[Row]:
    """How the similarity grows with the number of pairs that are learned from."""
    parameters = cube.parameter_counts(corpus.config.lattice)["total"]
    divisions = corpus.sides()
    for count in counts:
        found = []
        for sides in divisions:
            fewer = sides._replace(train=_first(sides.train, count))
            found.append(_cube(corpus, corpus.config, fewer) | _baselines(fewer, parameters))
        yield {"pairs": min(count, len(divisions[0].train.questions)), **_mean(found)}


def capacity(corpus: Corpus, widths: tuple[int, ...]) -> Iterator[Row]:
    """How it grows with the hidden width of the cells, and of an MLP with as many parameters."""
    for hidden in widths:
        config = with_settings(corpus.config, {"lattice.cell.hidden": hidden})
        parameters = cube.parameter_counts(config.lattice)["total"]
        found = [_cube(corpus, config, sides) | _baselines(sides, parameters) for sides in corpus.sides()]
        yield {"hidden": hidden, "parameters": parameters, **_mean(found)}


def noise(corpus: Corpus, amounts: tuple[float, ...]) -> Iterator[Row]:
    """How it changes with the noise on the questions that the cube learns from."""
    for amount in amounts:
        config = with_settings(corpus.config, {"training.question_noise": amount})
        yield {"question noise": amount, **_mean([_cube(corpus, config, sides) for sides in corpus.sides()])}


def curriculum(corpus: Corpus, other: Corpus, weights: tuple[float, ...]) -> Iterator[Row]:
    """What pairs of another corpus are worth to the best regression, each counted as so much of a pair."""
    lent = other.sides()[0].train
    for weight in weights:
        found = []
        for train, chosen_on, judged_on in corpus.sides():
            fitted = ridge(with_borrowed(train, lent, weight), chosen_on, "shared_ridge", shares=(0.0, *SHARES))
            found.append({"shared_ridge": _similarity(fitted.predict(judged_on.questions), judged_on)})
        yield {"weight of a lent pair": weight, **_mean(found)}


def bottleneck(corpus: Corpus) -> Iterator[Row]:
    """What regressions and MLPs lose where their questions, or their answers, go through the code."""

    def as_is(rows: np.ndarray) -> np.ndarray:
        return rows

    def coded(rows: np.ndarray) -> np.ndarray:
        return unit_rows(corpus.codec.reproduce(rows), "codes")

    divisions, parameters = corpus.sides(), cube.parameter_counts(corpus.config.lattice)["total"]

    def told(asked: Callable[[np.ndarray], np.ndarray]) -> list[dict[str, np.ndarray]]:
        """By division, what each learner answers that is asked, and was taught, by questions of this form."""
        found = []
        for sides in divisions:
            train, chosen_on, judged_on = (Pairs(asked(pairs.questions), pairs.answers) for pairs in sides)
            fitted = _fitted(train, chosen_on, parameters)
            found.append({learner: fitted[learner].predict(judged_on.questions) for learner in LEARNED})
        return found

    plain, through = told(as_is), told(coded)
    ways = {"nothing": (plain, as_is), "questions": (through, as_is), "answers": (plain, coded), "both": (through, coded)}
    for name, (of_divisions, answered) in ways.items():
        found = [
            {learner: _similarity(answered(predicted), sides.judged_on) for learner, predicted in learners.items()}
            for learners, sides in zip(of_divisions, divisions, strict=True)
        ]
        yield {"through the code": name, **_mean(found)}


def reach(corpus: Corpus, radii: tuple[int, ...]) -> Iterator[Row]:
    """What a linear map of the code does where each number of the answer sees the question's within a radius alone.

    On faces as the adapter gives them, and on aligned ones.
    """
    configs = _layouts(corpus.config)
    divisions = [
        (sides, {name: _laid_out(corpus, config, sides) for name, config in configs.items()}) for sides in corpus.sides()
    ]
    for radius in radii:
        found = []
        for (train, chosen_on, judged_on), layouts in divisions:
            predict = {name: windowed_ridge(train, chosen_on, codec, radius) for name, codec in layouts.items()}
            found.append({name: _similarity(predict[name](judged_on.questions), judged_on) for name in layouts})
        yield {"radius": radius, **_mean(found)}


def objective(corpus: Corpus, shares: tuple[float, ...], contrasts: tuple[float, ...]) -> Iterator[Row]:
    """What similarity and the mean reciprocal rank cost each other.

    A ridge regression, an MLP of the cube's size and the cube, with more and more of the question added to their answers, and
    cubes that learn with more and more of the contrastive loss; each is chosen by similarity.
    """
    divisions, parameters = corpus.sides(), cube.parameter_counts(corpus.config.lattice)["total"]
    questions = [sides.judged_on.questions for sides in divisions]
    yield {"answer": "question", **_both_measures(questions, divisions)}

    def cubes(contrast: float) -> list[np.ndarray]:
        config = with_settings(corpus.config, {"loss.contrastive": contrast})
        return [_trained(corpus, config, sides).predict(sides.judged_on.questions) for sides in divisions]

    def baselines(fit: Callable[[Pairs, Pairs], Baseline]) -> list[np.ndarray]:
        return [fit(sides.train, sides.chosen_on).predict(sides.judged_on.questions) for sides in divisions]

    def regression(train: Pairs, chosen_on: Pairs) -> Baseline:
        return ridge(train, chosen_on, "ridge", shares=(0.0,))

    def mlp(train: Pairs, chosen_on: Pairs) -> Baseline:
        return _fitted(train, chosen_on, parameters)["mlp_equal"]

    learners = {
        "ridge": partial(baselines, regression),
        "MLP of equal size": partial(baselines, mlp),
        "cube": partial(cubes, 0.0),
    }
    for name, answers in learners.items():
        plain = [unit_rows(rows, "answers") for rows in answers()]
        for share in shares:
            told = [rows + share * asked for rows, asked in zip(plain, questions, strict=True)]
            yield {"answer": f"{name} + {share:g} question", **_both_measures(told, divisions)}
    for contrast in contrasts:
        yield {"answer": f"cube, contrastive {contrast:g}", **_both_measures(cubes(contrast), divisions)}


class Shares(NamedTuple):
    """How much of what is added to the cube's answers once it has learned; names and units are those of `AnswerConfig`."""

    added_question: float = 0.0
    added_regression: float = 0.0
    removed_mean: float = 0.0


def after_learning(corpus: Corpus, divisions: list[Sides], grid: Sequence[Shares]) -> Iterator[Row]:
    """What shares of the question, of a regression's answer and of the mean answer do to similarity and rank.

    Added to the answers of the cube and, because they would serve any learner, of an MLP of its size. Judged on all pairs that
    nothing learned from, those that chose the cube's best look among them: the more answers there are to be told from, the
    nearer a rank is to that among the held-out ones.
    """
    parameters = cube.parameter_counts(corpus.config.lattice)["total"]
    judged = [s._replace(judged_on=Pairs(*map(np.concatenate, zip(s.chosen_on, s.judged_on, strict=True)))) for s in divisions]
    fitted = [_fitted(sides.train, sides.chosen_on, parameters) for sides in divisions]

    def told(learners: Iterable[Trained | Baseline]) -> list[np.ndarray]:
        return [learner.predict(sides.judged_on.questions) for learner, sides in zip(learners, judged, strict=True)]

    for name in ("question", "shared_ridge", "kernel_ridge", "mlp"):
        yield {"answer": spelled(name), **_both_measures(told(of_one[name] for of_one in fitted), judged)}

    def added(sides: Sides, name: str) -> np.ndarray:
        config = AnswerConfig(regression=corpus.config.answer.regression, **{name: 1.0})
        return fit_base(sides.train, sides.chosen_on, config, seed=corpus.config.seed).afterwards(sides.judged_on.questions)

    # What is added grows with its share, so each is fitted once.
    whole = [{name: added(sides, name) for name in Shares._fields} for sides in judged]
    plain = {
        "cube": told(_trained(corpus, corpus.config, sides) for sides in divisions),
        "mlp equal": told(of_one["mlp_equal"] for of_one in fitted),
    }
    for (name, answers), shares in product(plain.items(), grid):
        with_shares = [
            rows + sum(share * of_one[part] for part, share in shares._asdict().items())
            for rows, of_one in zip(answers, whole, strict=True)
        ]
        yield {"answer": name, **shares._asdict(), **_both_measures(with_shares, judged)}


class Cube(NamedTuple):
    """A cube, with other settings than the corpus's own, or with maps at its faces that are learned with it."""

    settings: Mapping[str, object] = {}
    learn: Callable[[Config, Codec, Pairs, Pairs], Trained] = train_cube


class Several(NamedTuple):
    """Networks that share the numbers of a code among them."""

    networks: int
    size: int = 1
    """How many times the cube's parameters they have together."""


def place(
    corpus: Corpus,
    settings: Mapping[str, object],
    divisions: list[Sides],
    cubes: dict[str, Cube],
    several: dict[str, Several],
    rates: tuple[float, ...] = RATES,
) -> Iterator[Row]:
    """What stands in the cube's place: the cube, cubes of another kind, one network, or several.

    All with the same codes, base, batches, noise and loss, each at the learning rate that the pairs to choose by prefer.
    `ahead` is how much more than the first cube, in the mean over all pairs to judge on of all divisions, with the standard
    error of that mean.
    """
    base = with_settings(corpus.config, settings)
    parameters = cube.parameter_counts(base.lattice)["total"]
    learners: dict[str, tuple[Config, Callable[..., Trained]]] = {
        name: (with_settings(base, kind.settings), kind.learn) for name, kind in cubes.items()
    }
    for name, (networks, size) in several.items():
        learners[name] = base, partial(train_networks, networks=networks, parameters=size * parameters)
    first = None
    for name, (config, learn) in learners.items():
        trained = [_at_best_rate(learn, corpus, config, sides, rates) for sides in divisions]
        told = [one.predict(sides.judged_on.questions) for one, sides in zip(trained, divisions, strict=True)]
        own = np.concatenate([cosine_similarity(of, s.judged_on.answers) for of, s in zip(told, divisions, strict=True)])
        first = own if first is None else first
        yield {
            "around": spelled(config.answer.around),
            "in the cube's place": name,
            **_both_measures(told, divisions),
            "training": float(np.mean([one.looks[one.best]["train"] for one in trained])),
            "ahead": float(np.mean(own - first)),
            "standard error": float(np.std(own - first) / np.sqrt(len(own))),
        }


def beside(corpus: Corpus, divisions: list[Sides]) -> Iterator[Row]:
    """What baselines say to the same pairs as that which `place` asks."""
    parameters = cube.parameter_counts(corpus.config.lattice)["total"]
    fitted = [_fitted(sides.train, sides.chosen_on, parameters) for sides in divisions]
    for name in ("question", *LEARNED):
        told = [of_one[name].predict(sides.judged_on.questions) for of_one, sides in zip(fitted, divisions, strict=True)]
        yield {"in the cube's place": f"baseline: {spelled(name)}", **_both_measures(told, divisions)}


def _at_best_rate(
    learn: Callable[..., Trained], corpus: Corpus, config: Config, sides: Sides, rates: tuple[float, ...]
) -> Trained:
    codec = _laid_out(corpus, config, sides)
    tried = (
        learn(with_settings(config, {"optimizer.learning_rate": rate}), codec, sides.train, sides.chosen_on) for rate in rates
    )
    return max(tried, key=lambda trained: trained.looks[trained.best]["validation"])


def _both_measures(told: list[np.ndarray], divisions: list[Sides]) -> dict[str, float]:
    means = [score_pairs(of_one, sides.judged_on.answers).mean(axis=0) for of_one, sides in zip(told, divisions, strict=True)]
    return _mean([{name: row[MEASURES.index(name)] for name in ("similarity", "mrr")} for row in means])


def optimisation(corpus: Corpus) -> Iterator[Row]:
    """How well a cube learns a map that it can be, from questions without noise.

    The map is a ridge regression's, its answers as the code holds them, so nothing is added to the cube's output. MLPs get as
    many operations as one lattice step of the cube takes.
    """
    bare = with_settings(corpus.config, {"answer.around": "nothing", "training.question_noise": 0.0})
    divisions = [_taught_by_ridge(corpus.codec, sides) for sides in corpus.sides()]
    for layout, config in _layouts(bare).items():
        trained = [_trained(corpus, config, sides) for sides in divisions]
        yield {"learner": f"cube, {layout} faces", "steps": config.training.steps, **_gap_closed(trained, divisions)}
    parameters = cube.parameter_counts(bare.lattice)["total"]
    budget = 6.0 * parameters * bare.training.batch_size * bare.training.steps
    fitted = [fit_baselines(s.train, s.chosen_on, parameters=parameters, operation_budget=budget) for s in divisions]
    for name in ("mlp", "mlp_equal"):
        yield {"learner": spelled(name), **_gap_closed([of_one[name] for of_one in fitted], divisions)}


def _taught_by_ridge(codec: Codec, sides: Sides) -> Sides:
    """The same questions, answered by the ridge regression of these pairs, as the code holds what it says."""
    regression = ridge(sides.train, sides.chosen_on, "ridge", shares=(0.0,))
    return Sides(*(Pairs(of, unit_rows(codec.reproduce(regression.predict(of)), "answers")) for of, _ in sides))


def _gap_closed(learners: Sequence[Trained | Baseline], divisions: list[Sides]) -> dict[str, float]:
    """How near they come to the answers, and what share of the way there from the question that is.

    On pairs to judge on and on those to learn from; means of the divisions.
    """

    def told(predict: Callable[[np.ndarray], np.ndarray], pairs: Pairs) -> tuple[float, float]:
        start, reached = _similarity(pairs.questions, pairs), _similarity(predict(pairs.questions), pairs)
        return reached, (reached - start) / (1 - start)

    found = [told(of.predict, s.judged_on) + told(of.predict, s.train) for of, s in zip(learners, divisions, strict=True)]
    names = ("similarity", "gap closed", "training", "gap closed, training")
    return dict(zip(names, map(float, np.mean(found, axis=0)), strict=True))
