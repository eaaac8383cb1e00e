"""What the benchmark of the adapter computes and prints: paired gains, components for the goal, the page, the plot."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_cube import real_embeddings

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.reproduction import texts  # noqa: E402
from benchmarks.reproduction.figures import GOAL, compare, components_for_goal  # noqa: E402
from benchmarks.reproduction.page import markdown, plot, text_name  # noqa: E402
from lattice_jax.config import Config, CorpusConfig, TeacherConfig  # noqa: E402
from lattice_jax.corpus.corpus import Corpus  # noqa: E402
from lattice_jax.corpus.pairs import Pair  # noqa: E402
from lattice_jax.corpus.splits import Split  # noqa: E402
from lattice_jax.evaluation.similarity import cosine_similarity  # noqa: E402
from lattice_jax.lattice.adapter import principal_components  # noqa: E402
from lattice_jax.material import Material  # noqa: E402

TEXT = np.concatenate(real_embeddings())


def figures(adapter, components):
    one = {"adapter": adapter, "components": components, "gain": adapter - components}
    return {name: {"value": value, "interval": [value - 0.01, value + 0.01]} for name, value in one.items()}


def row(name, count, adapter=0.96, components=0.94):
    kinds = (texts.PAIRS, texts.DEFINITIONS, texts.CONVERSATIONS)
    return {
        "name": name,
        "teacher": "minilm",
        "sentences": "none" if count < 200 else "scikit_learn_guide+wordnet:5000",
        "strategy": "attention",
        "learning_rate": 1e-3,
        "steps": 10,
        "texts": count,
        "seconds": 12.3,
        "variance_beyond": 0.051,
        "components_for_goal": dict.fromkeys(kinds, 201),
        "training": figures(0.99, 0.95),
        "validation": {kind: figures(adapter, components) for kind in kinds[:2]},
        "held_out": {kind: figures(adapter, components) for kind in kinds},
    }


def test_the_gain_is_paired_over_the_texts():
    generator = np.random.default_rng(0)
    near, far = (TEXT + size * generator.normal(size=TEXT.shape) for size in (0.01, 0.02))
    found = compare(near, far, TEXT)
    ours, theirs = cosine_similarity(near, TEXT), cosine_similarity(far, TEXT)
    assert found["adapter"]["value"] == pytest.approx(ours.mean())
    assert found["components"]["value"] == pytest.approx(theirs.mean())
    assert found["gain"]["value"] == pytest.approx(np.mean(ours - theirs))
    low, high = found["gain"]["interval"]
    assert 0 < low < found["gain"]["value"] < high


def test_components_for_the_goal_are_the_fewest_that_reach_it():
    width = components_for_goal(TEXT, TEXT)
    reached = [
        np.mean(cosine_similarity(principal_components(TEXT, count).reconstruct(TEXT), TEXT)) for count in (width - 1, width)
    ]
    assert reached[0] < GOAL <= reached[1]


def test_judged_text_is_no_training_text_and_none_of_it_is_on_both_sides(monkeypatch):
    judged, others = ["a deep red stone", "one who walks"], ["a tall ship", "A deep, red stone!"]
    words = [Pair(f"word {number}", text) for number, text in enumerate([*judged, *others])]
    monkeypatch.setattr(texts, "JUDGED_TEXTS", 2)
    monkeypatch.setattr(texts, "load_pairs", lambda name: words if name == "wordnet" else ())
    monkeypatch.setattr(texts, "load_sentences", lambda name: ("Who goes?", "Only me, the gardener.", "Nobody."))
    monkeypatch.setattr(texts, "extract", lambda found, teacher: SimpleNamespace(embeddings=np.full((len(found), 3), 1.0)))
    turns = texts.conversations()
    sentences = ("kept", "Stone: deep, red.", turns[0].upper(), "a tall ship, a", "kept too")
    corpus = Corpus((Pair("q", "a"), Pair("r", "b"), Pair("s", "c")), Split((0,), (1,), (2,)), sentences, 0, "", {})
    embedded = np.arange(15.0).reshape(5, 3)
    monkeypatch.setattr(texts, "gather", lambda config: Material(corpus, np.ones((3, 3)), np.ones((3, 3)), embedded, 0))
    assert texts.definitions() == (judged, ["a tall ship"])
    material, found = texts.load(Config(corpus=CorpusConfig(), teacher=TeacherConfig(name="minilm")))
    np.testing.assert_array_equal(material.sentences, embedded[[0, 4]])
    assert {kind: len(rows) for kind, rows in found.held_out.items()} == {"hundred": 2, "WordNet": 2, "chatterbot": 2}
    assert {kind: len(rows) for kind, rows in found.validation.items()} == {"hundred": 2, "WordNet": 1}


def test_a_held_out_turn_that_is_a_training_turn_too_is_not_judged(monkeypatch):
    pairs = (Pair("Who goes?", "Only me."), Pair("How so?", "It rains."), Pair("Only me!", "Nobody else."))
    corpus = Corpus(pairs, Split((0,), (1,), (2,)), ("kept",), 0, "", {})
    found = Material(corpus, np.arange(9.0).reshape(3, 3), np.arange(9.0, 18.0).reshape(3, 3), np.ones((1, 3)), 0)
    monkeypatch.setattr(texts, "definitions", lambda: (["a red stone"], ["a tall ship"]))
    monkeypatch.setattr(texts, "extract", lambda names, teacher: SimpleNamespace(embeddings=np.ones((len(names), 3))))
    monkeypatch.setattr(texts, "gather", lambda config: found)
    config = Config(corpus=CorpusConfig(pairs="chatterbot:english"), teacher=TeacherConfig(name="minilm"))
    held_out = texts.load(config)[1].held_out
    assert set(held_out) == {"chatterbot", "WordNet"}
    np.testing.assert_array_equal(held_out["chatterbot"], found.answers[2:])


def test_the_page_shows_every_figure(tmp_path):
    rows = [row("minilm-0", 184), row("minilm-1", 15966, adapter=0.9712), row("trial-minilm-linear-3e-05", 15966)]
    page = markdown(rows)
    assert "| pairs alone | 184 | hundred | 0.9600 [0.9500, 0.9700] | 0.9400 |" in page
    assert "| 0.9712 [0.9612, 0.9812] | 0.9400 | +0.0312 [+0.0212, +0.0412] | 201 |" in page
    assert "| MiniLM | attention | 0.001 | 0.9600 | 0.9600 |" in page
    assert "| MiniLM | PCA | | 0.9400 | 0.9400 |" in page
    assert "nothing: all above 0.95" in page
    short = markdown([row("minilm-0", 184, adapter=0.93, components=0.94)])
    assert "- MiniLM on hundred: 0.9300, 0.0200 below 0.95; PCA would need 201 numbers." in short
    assert "- MiniLM on hundred: no gain over PCA." in short
    plot(rows[:2], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_conversations_have_a_row_of_their_own():
    kinds = (texts.CONVERSATIONS, texts.DEFINITIONS)
    talk = row("minilm-conversations", 15966, adapter=0.94) | {
        "pairs": "chatterbot:english",
        "components_for_goal": dict.fromkeys(kinds, 230),
        "validation": {kind: figures(0.94, 0.93) for kind in kinds},
        "held_out": {kind: figures(0.94, 0.93) for kind in kinds},
    }
    page = markdown([row("minilm-0", 184, adapter=0.94), talk])
    assert "| pairs of chatterbot, guide, 5,000 words of WordNet | 15,966 | chatterbot | 0.9400" in page
    assert "- MiniLM on chatterbot, from conversations: 0.9400, 0.0100 below 0.95; PCA would need 230 numbers." in page
    assert "- MiniLM on chatterbot, of which it has learned nothing: 0.9400" in page


def test_text_is_named_for_people():
    assert text_name("scikit_learn_guide") == "pairs, guide"
    assert text_name("scikit_learn_guide+wordnet:20000") == "pairs, guide, 20,000 words of WordNet"
