"""The data of the interactive view of the cube, small enough to stand in a page.

Contract: `payload` gives plain values for JSON. Fields are bytes in base64, one a cell, scaled between `low` and `high`;
a field that changes has the shape [question, step, cell], the others [cell], cells in the order depth, height, width.
"""

import base64
from collections.abc import Mapping
from typing import cast

import numpy as np

from lattice_jax.config import AXIS, Face

BUDGET_BYTES = 3_000_000
"""Of one changing field; a larger cube is shown with fewer questions."""
CHANGING = {"activity": "activity (root mean square)", "change": "change in the step (root mean square)"}
FIXED = {
    "selectivity": "selectivity (0 to 1)",
    "influence_gradient": "influence by gradient",
    "influence_ablation": "influence by ablation",
}

KINDS = {
    "topic": "preferred topic",
    "response_group": "cells that respond alike",
    "weight_group": "cells of like weights",
}
"""Fields of small whole numbers, which name a kind and have no order."""


def payload(arrays: Mapping[str, np.ndarray]) -> dict:
    """What the page's script reads; `arrays` are those of `emergence.npz`, with `activity` at least."""
    activity = arrays["activity"]
    questions, steps, *shape = activity.shape
    shown = max(1, min(questions, BUDGET_BYTES // (steps * int(np.prod(shape)))))
    fields = [
        {"name": name, "label": label, "changing": True, **_bytes(arrays[name][:shown])}
        for name, label in CHANGING.items()
        if name in arrays
    ]
    fields += [
        {"name": name, "label": label, "changing": False, **_bytes(arrays[name])}
        for name, label in FIXED.items()
        if name in arrays
    ]
    topics = [str(topic) for topic in arrays.get("topics", [])]
    fields += [
        {
            "name": name,
            "label": label,
            "changing": False,
            "topics": topics if name == "topic" else [f"group {number}" for number in range(int(arrays[name].max()) + 1)],
            **_whole(arrays[name]),
        }
        for name, label in KINDS.items()
        if name in arrays
    ]
    return {
        "shape": shape,
        "last_is_output": _last_is_output(arrays),
        "steps": steps,
        "questions": [str(question) for question in arrays["questions"][:shown]],
        "questions_left_out": questions - shown,
        "fields": fields,
    }


def _last_is_output(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the last layer is the output face: not where it shares an edge with the input face, layer 0."""
    entered, left = (AXIS[cast(Face, str(face))] for face in arrays.get("faces", ("front", "back")))
    return entered == left


def _bytes(field: np.ndarray) -> dict:
    values = np.asarray(field, np.float32)
    low, high = float(values.min()), float(values.max())
    scaled = np.round((values - low) * (255 / (high - low or 1))).astype(np.uint8)
    return {"low": low, "high": high, "data": base64.b64encode(scaled.tobytes()).decode()}


def _whole(field: np.ndarray) -> dict:
    """Small whole numbers as they are."""
    return {"low": 0, "high": 255, "data": base64.b64encode(np.asarray(field).astype(np.uint8).tobytes()).decode()}
