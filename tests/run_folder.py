"""A run's folder as a run leaves it, written by hand: small, and with known figures."""

import json
from pathlib import Path

import numpy as np

from lattice_jax.config import Config
from lattice_jax.lattice.emergence.coherence import DIRECTIONS

SHAPE = (5, 4, 6)
STEPS = 7


def emergence_arrays(shape: tuple[int, int, int] = SHAPE, steps: int = STEPS, questions: int = 3) -> dict[str, np.ndarray]:
    """Arrays with the names of `emergence.npz`: a front that crosses the cube one layer a step, two topics left and right."""
    depth, _, width = shape
    generator = np.random.default_rng(0)
    step, layer = np.arange(steps + 1)[:, None], np.arange(depth)[None]
    front = 1 / (1 + np.exp(2.0 * (layer - step)))
    texture = 0.4 + generator.random((questions, 1, *shape))
    activity = front[None, :, :, None, None] * texture
    change = np.abs(np.diff(activity, axis=1, prepend=0))
    columns = np.broadcast_to(np.arange(width), shape)
    return {
        "activity": activity.astype(np.float16),
        "change": change.astype(np.float16),
        "questions": np.array([f"Question {n}: what is <i>held out</i>?" for n in range(questions)]),
        "selectivity": (columns / width).astype(np.float32),
        "topic": (columns >= width // 2).astype(np.int32),
        "topics": np.array(["What is a left topic?", "What is a right topic?"]),
        "influence_gradient": generator.random(shape).astype(np.float32),
        "influence_ablation": generator.random(shape).astype(np.float32),
        "question_read": (0.9 * front).astype(np.float32),
        "answer_read": (0.5 * front).astype(np.float32),
        "question_read_null": (0.3 * front).astype(np.float32),
        "answer_read_null": (0.1 * front - 0.05).astype(np.float32),
        "perturbation": (1.15 ** np.arange(steps + 1)).astype(np.float32),
        "layer_similarity": np.exp(-np.abs(layer - layer.T) / 2).astype(np.float32),
        **order_arrays(shape, steps),
    }


def order_arrays(shape: tuple[int, int, int], steps: int) -> dict[str, np.ndarray]:
    """Those of order: coherence that falls with the distance, groups left and right, rates that have settled."""
    depth, _, width = shape
    directions = np.array(DIRECTIONS)
    fading = np.exp(-np.arange(1, max(shape)) / 2) * (1 + directions[:, :1] ** 2)
    reach = np.array([min(size for size, moves in zip(shape, offset, strict=True) if moves) for offset in directions])
    coherence = np.where(np.arange(1, max(shape)) < reach[:, None], fading / 2, np.nan)
    groups = (np.broadcast_to(np.arange(width), shape) >= width // 2).astype(np.int32)
    layers = np.linspace(0.1, 0.4, depth)
    return {
        "directions": directions,
        "coherence": coherence,
        "coherence_null_mean": coherence * 0,
        "coherence_null_deviation": coherence * 0 + 0.05,
        "layer_selectivity": layers,
        "layer_selectivity_null_mean": layers * 0 + 0.1,
        "layer_selectivity_null_deviation": layers * 0 + 0.02,
        "layer_selectivity_untrained_mean": layers * 0.8,
        "layer_silhouette": layers / 2,
        "layer_silhouette_untrained_mean": layers / 3,
        "response_group": groups,
        "weight_group": 1 - groups,
        "separation": np.exp(-np.arange(3 * steps) / 4) - 0.2,
        "separation_transient": np.array(2 * steps),
        "faces": np.array(["front", "back"]),
    }


def emergence_summary() -> dict[str, dict]:
    """Three metrics as in `summary.json["emergence"]`: two far from their null models, one not."""
    return {
        "morans_i": {
            "value": 0.61,
            "null": 0.01,
            "null_deviation": 0.04,
            "z": 15.0,
            "null_model": "shuffled cells",
            "definition": "Moran's I of the activity",
            "range": "-1 to 1",
        },
        "settling_time": {
            "value": 9.0,
            "null": 8.5,
            "null_deviation": 1.0,
            "z": 0.5,
            "null_model": "shuffled changes",
            "definition": "steps until the change stays small",
            "range": "0 to steps",
        },
        "topic_selectivity": {
            "value": 0.12,
            "null": 0.04,
            "null_deviation": 0.002,
            "z": 40.0,
            "null_model": "shuffled topics",
            "definition": "variance explained by topics",
            "range": "0 to 1",
        },
    }


def measures(similarity: float) -> dict:
    """Figures of one predictor on one set of pairs."""
    row = {}
    for name, value in (("similarity", similarity), ("recall_at_1", 0.5), ("recall_at_5", 0.75), ("mrr", similarity)):
        row |= {name: value, f"{name}_interval": [value - 0.05, value + 0.05]}
    return row | {"pairs": 40}


def summary(similarity: float) -> dict:
    """What the report reads of `summary.json`."""
    baselines = {
        name: measures(value)
        | {
            "train": measures(value),
            "gain": similarity - value,
            "gain_interval": [similarity - value - 0.02, similarity - value + 0.02],
        }
        | ({} if name == "shuffled" else {"validation_similarity": value})
        for name, value in {"question": 0.53, "mean_answer": 0.51, "ridge": 0.63, "mlp": 0.65, "shuffled": 0.41}.items()
    }
    return {
        "train": measures(similarity + 0.1),
        "held_out": measures(similarity),
        "baselines": baselines,
        "adapter_ceiling": measures(0.9) | {"train": measures(0.9)},
        "confidence": 0.95,
        "verdict": "On 40 held-out pairs the lattice is <level> with ridge.",
        "samples": [
            {
                "question": "What is <script>alert(1)</script>?",
                "right_answer": "An R&D <b>joke</b>.",
                "nearest": [{"answer": "An R&D <b>joke</b>.", "similarity": 0.71, "right": True}],
            }
        ],
        "edge_cases": {"questions": 2, "wordings": {name: wording(name) for name in ("as_written", "upper_case")}},
        "steps": 20,
        "best_step": 10,
        "seconds": 90.0,
        "peak_memory_bytes": 2_000_000_000,
        "parameters": 1000,
        "data_hash": "abc",
        "versions": {"jax": "0.10.2"},
        "devices": "2 x cpu",
        "engine": "native",
        "pairs": {"train": 92, "validation": 12, "held_out": 40},
    }


def wording(name: str) -> dict:
    """What becomes of answers to one wording; the same in each."""
    return {
        "example": f"{name}: what is <script>alert(1)</script>?",
        "heard": 0.93,
        "agreement": 0.87,
        "similarity": 0.54,
        "change": -0.02,
        "change_interval": [-0.04, 0.01],
        "recall_at_1": 0.5,
        "mrr": 0.61,
        "baselines": {"question": {"similarity": 0.5, "mrr": 0.72}, "kernel_ridge": {"similarity": 0.66, "mrr": 0.7}},
    }


def endurance_summary() -> dict:
    """What a run tells of how answers last, in rounds and after damage."""
    steps = list(range(5))
    curves = {
        "undamaged": [1.0] * 5,
        "sphere": [0.7, 0.8, 0.9, 0.95, 0.96],
        "box": [0.8] * 5,
        "half_cube": [0.2, 0.3, 0.5, 0.8, 0.9],
    }
    rounds = [
        {"questions_before": before, "similarity": 0.64 - 0.01 * before, "mrr": 0.7, "agreement": 1 - 0.1 * before}
        for before in range(3)
    ]
    cleared = {"sphere": 0.07, "box": 0.1, "half_cube": 0.5}
    return {
        "pool": {"questions": 5, "trained_from_pool": True, "rounds": rounds},
        "recovery": {"questions": 3, "steps": steps, **curves, "cleared_share": cleared},
    }


def write_run(folder: Path, *, similarity: float = 0.64, config: Config | None = None, whole: bool = True) -> Path:
    """A folder with everything that a run leaves; `whole` False stops before its end, as seen while it goes on."""
    folder.mkdir(parents=True)
    config = config or Config()
    (folder / "config.json").write_text(json.dumps(config.as_dict()))
    rows = []
    for step in range(21):
        row: dict = {"step": step}
        if step:
            row |= {
                "loss": 1 / step,
                "dialogue_similarity": 0.5,
                "weighted_dialogue_similarity": 0.2,
                "similarity": 0.02 * step,
            }
            row |= {"weighted_surface_reconstruction": 0.1, "gradient_norm": 2.0 / step, "pool/distance": 0.4}
            row |= {f"gradient_norm/layer_{layer:02}": 0.1 * (layer + 1) for layer in range(5)}
        if step % 5 == 0:
            row |= {"validation_similarity": 0.5 + 0.01 * step, "validation_mrr": 0.4, "validation_spread": 0.6}
            row |= {"emergence/morans_i": 0.03 * step, "emergence/topic_selectivity": 0.17}
        rate = {"samples_per_second": 12.0, "memory_bytes": 10**9} if step else {}
        rows.append(row | {"timing": {"seconds": 1.0} | rate})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if whole:
        (folder / "summary.json").write_text(
            json.dumps(summary(similarity) | {"emergence": emergence_summary()} | endurance_summary())
        )
        (folder / "alerts.jsonl").write_text(
            json.dumps({"kind": "overfitting", "step": 15, "message": "by heart & <soul>", "fix": "more pairs"}) + "\n"
        )
        np.savez_compressed(folder / "emergence.npz", **emergence_arrays())
    return folder
