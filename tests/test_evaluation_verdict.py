"""The verdict's dictionary, sentence and table, and the plots made of them."""

import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from lattice_jax.errors import InputError
from lattice_jax.evaluation.plots import plot_learning, plot_verdict, spread
from lattice_jax.evaluation.similarity import Estimate, measure
from lattice_jax.evaluation.verdict import LABELS, BothSides, Verdict, judge, render

MEASURES = ("similarity", "recall_at_1", "recall_at_5", "mrr")


@pytest.fixture(scope="module")
def answers() -> BothSides:
    generator = np.random.default_rng(0)
    return BothSides(generator.normal(size=(30, 16)), generator.normal(size=(20, 16)))


def near(answers: BothSides, distance: float, seed: int = 1) -> BothSides:
    """Predictions at a distance: the same directions for one seed, so that farther is worse for every pair."""
    generator = np.random.default_rng(seed)
    return BothSides(*(rows + distance * generator.normal(size=rows.shape) for rows in answers))


@pytest.fixture(scope="module")
def verdict(answers) -> Verdict:
    baselines = {
        "question": near(answers, 2),
        "mean_answer": BothSides(*(np.tile(answers.train.mean(axis=0), (len(rows), 1)) for rows in answers)),
        "ridge": near(answers, 1.1, seed=2),
        "residual_ridge": near(answers, 1.5, seed=3),
        "mlp": near(answers, 0.5),
        "shuffled": BothSides(*(np.roll(rows, 1, axis=0) for rows in near(answers, 1))),
    }
    return judge(near(answers, 1), baselines, near(answers, 0.1), answers, bootstrap_samples=500)


def test_as_dict_has_what_a_summary_needs(answers, verdict):
    summary = json.loads(json.dumps(verdict.as_dict()))
    assert summary["held_out"] == measure(near(answers, 1).held_out, answers.held_out, bootstrap_samples=500).as_dict()
    assert summary["train"] == measure(near(answers, 1).train, answers.train, bootstrap_samples=500).as_dict()
    assert list(summary["baselines"]) == ["question", "mean_answer", "ridge", "residual_ridge", "mlp", "shuffled"]
    for row in (*summary["baselines"].values(), summary["adapter_ceiling"]):
        for name in MEASURES:
            assert isinstance(row[name], float)
            assert isinstance(row["train"][name], float)
            assert len(row[f"{name}_interval"]) == 2
        assert (row["pairs"], row["train"]["pairs"]) == (20, 30)
    assert summary["baselines"]["mlp"]["similarity"] > summary["baselines"]["question"]["similarity"]
    assert summary["verdict"] == verdict.sentence()


def test_gains_are_the_lattice_less_the_baseline(verdict):
    for name, row in verdict.baselines.items():
        gain = verdict.lattice.held_out.similarity.value - row.held_out.similarity.value
        assert verdict.gains[name].value == pytest.approx(gain)
        assert verdict.as_dict()["baselines"][name]["gain"] == pytest.approx(gain)


def test_the_sentence_says_above_below_and_level_as_the_paired_intervals_do(verdict):
    assert verdict.gains["question"].low > 0 > verdict.gains["mlp"].high
    assert verdict.gains["ridge"].low < 0 < verdict.gains["ridge"].high
    sentence = verdict.sentence()
    assert sentence.startswith(f"On 20 held-out pairs the lattice scores {verdict.lattice.held_out.similarity} in similarity: ")
    assert f"above the question itself ({verdict.baselines['question'].held_out.similarity.value:.3f}; +" in sentence
    assert f"below the MLP ({verdict.baselines['mlp'].held_out.similarity.value:.3f}; -" in sentence
    assert "level with the ridge (" in sentence
    assert "the best baseline, the MLP" in sentence
    assert "residual" not in sentence, "the worse of both ridges isn't spoken of"
    assert "shuffled" not in sentence


@pytest.mark.parametrize("gain", [Estimate(0.01, -0.05, 0.07), Estimate(-0.01, -0.07, 0.05)])
def test_a_difference_that_may_be_none_is_level(verdict, gain):
    unclear = dataclasses.replace(verdict, gains=dict.fromkeys(verdict.gains, gain))
    assert unclear.sentence().count("level with") == 4
    assert "above" not in unclear.sentence()
    assert "below" not in unclear.sentence()


def test_the_table_fits_a_terminal_and_shows_every_row(verdict):
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(render(verdict))
    text = console.export_text()
    assert "…" not in text
    lines = text.splitlines()
    for name in (
        "lattice",
        "question itself",
        "mean answer",
        "ridge",
        "residual ridge",
        "MLP",
        "shuffled pairs",
        "adapter ceiling",
    ):
        assert any(line.strip().startswith(name) for line in lines), name
    lattice = next(line for line in lines if line.strip().startswith("lattice"))
    held_out, train = verdict.lattice.held_out, verdict.lattice.train
    figures = (held_out.recall_at_1, held_out.recall_at_5, held_out.mrr, train.similarity, train.mrr)
    similarity = held_out.similarity
    assert f"{similarity.value:.3f} [{similarity.low:.2f}, {similarity.high:.2f}]" in lattice
    assert lattice.split()[-5:] == [f"{estimate.value:.3f}" for estimate in figures]
    assert " ".join(text.split()).endswith(verdict.sentence())


def test_every_figure_is_whole_beside_the_longest_names(verdict):
    names = [name for name in LABELS if name not in ("lattice", "adapter_ceiling")]
    every = dataclasses.replace(
        verdict,
        baselines=dict.fromkeys(names, verdict.baselines["ridge"]),
        gains=dict.fromkeys(names, verdict.gains["ridge"]),
    )
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(render(every))
    assert "…" not in console.export_text()


def test_the_best_real_predictor_is_emphasised_and_no_control_is(verdict):
    for ceiling in (verdict.ceiling, verdict.baselines["mlp"]):
        similarities = render(dataclasses.replace(verdict, ceiling=ceiling)).columns[1].cells
        assert ["bold green" in str(cell) for cell in similarities] == [False, False, False, False, False, True, False, False]


def test_the_blue_bar_grows_with_the_lattice(verdict, tmp_path):
    from matplotlib.image import imread

    areas = []
    for share in (1, 0.5):
        summary = verdict.as_dict()
        for name in ("similarity", "mrr"):
            summary["held_out"][name] *= share
            summary["held_out"][f"{name}_interval"] = [summary["held_out"][name]] * 2
        plot_verdict(summary, tmp_path / "verdict.png")
        pixels = imread(tmp_path / "verdict.png")[..., :3]
        areas.append(np.sum(np.abs(pixels - [0, 0x72 / 255, 0xB2 / 255]).max(axis=-1) < 0.02))
        assert 1500 < pixels.shape[1] < 1800
    assert areas[1] == pytest.approx(areas[0] / 2, rel=0.05)


@pytest.mark.filterwarnings("error")
def test_learning_shows_every_curve_that_was_logged(tmp_path):
    from matplotlib.image import imread

    rows: list[dict] = [
        {
            "step": step,
            "loss": 0.7 - step / 100,
            "surface_reconstruction": 0.9 - step / 100,
            "internal_consistency": 0.3 - step / 100,
            "dialogue_similarity": 0.8 - step / 100,
            "similarity": step / 50,
        }
        for step in range(1, 21)
    ]
    looks = [{"step": step, "validation_similarity": step / 60, "validation_mrr": 0.5} for step in (10, 20)]

    def coloured(metrics: list[dict], colour: tuple[int, int, int], **baselines: float) -> int:
        plot_learning(metrics, tmp_path / "learning.png", baselines=baselines)
        pixels = imread(tmp_path / "learning.png")[..., :3]
        return int(np.sum(np.abs(pixels - np.array(colour) / 255).max(axis=-1) < 0.02))

    blue, green, grey = (0, 0x72, 0xB2), (0, 0x9E, 0x73), (0xB4, 0xBC, 0xC6)
    assert coloured(rows, blue) == 0 < 500 < coloured(rows + looks, blue)
    assert coloured(looks, green) == 0 < 500 < coloured(rows + looks, green)
    assert coloured(rows, grey) + 150 < coloured(rows, grey, ridge=0.2)


def test_names_are_spread_just_enough():
    assert spread([0.1, 0.5, 0.9], gap=0.2) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5, 0.9], gap=0.2) == pytest.approx([0.4, 0.6, 0.9])
    crowded = spread([0.5, 0.52, 0.55, 0.56], gap=0.1)
    assert np.diff(crowded) == pytest.approx([0.1] * 3)
    assert np.mean(crowded) == pytest.approx(np.mean([0.5, 0.52, 0.55, 0.56]))


def test_without_matplotlib_the_plots_say_how_to_get_it(verdict, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[evaluation\]'"):
        plot_verdict(verdict.as_dict(), tmp_path / "verdict.png")


def test_matplotlib_is_imported_on_use_alone_and_never_as_pyplot():
    program = (
        "import sys, lattice_jax.evaluation.plots as plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import io; plots.plot_learning([{'step': 1, 'loss': 0.5}], io.BytesIO())\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
