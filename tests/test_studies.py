"""The studies: every arm can be, and the table says what the figures say."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.study.arms import ARMS, REFERENCE, Arm, arm_config  # noqa: E402
from benchmarks.study.table import emergence, gather, markdown  # noqa: E402
from lattice_jax.commandline import load_config  # noqa: E402
from lattice_jax.errors import InputError  # noqa: E402
from lattice_jax.lattice.emergence import nulls  # noqa: E402


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_changes_the_main_job_into_something_that_can_be(arm):
    base = load_config(ROOT / "configs" / "phase3.py")
    assert arm_config(base, arm) != arm_config(base, REFERENCE)


def test_an_arm_that_names_no_setting_is_refused():
    with pytest.raises(InputError, match=r"perhaps lattice\.steps"):
        arm_config(load_config(ROOT / "configs" / "phase3.py"), Arm("x", "y", {"lattice.step": 3}))


RUN = {"parameters": 3}


def compared(value: float, *draws: float) -> dict:
    return nulls.compare(value, draws)._asdict()


def figures(*similarities: float) -> dict:
    one = {"mean": 0.5, "deviation": 0.1, "lowest": 0.4, "highest": 0.6}
    row = {"similarity": 0.5, "mrr": 0.5}
    return {
        "members": [{"seed": 0}, {"seed": 1}],
        "mean_member_pairs": {"similarity": list(similarities), "mrr": [0.5] * len(similarities)},
        "spread": {side: {"similarity": one, "mrr": one} for side in ("train", "validation", "held_out")},
        "ensemble": row,
        "baselines": {"ridge": row},
    }


def test_gains_are_paired_with_the_reference():
    """A constant gain has an interval of no width, however much the pairs differ."""
    found = {REFERENCE.name: figures(0.1, 0.9, 0.4), "other": figures(0.2, 1.0, 0.5)}
    runs = [RUN | {"emergence": {"coherence": compared(5.0, 0.0, 2.0, 4.0)}}]
    rows = gather([REFERENCE, Arm("x", "other")], found, dict.fromkeys(found, runs))
    gain = rows[1]["gain_over_reference"]["similarity"]
    assert [gain["value"], *gain["interval"]] == pytest.approx([0.1] * 3)
    page = markdown(rows, "python benchmarks/studies.py")
    assert "+0.100 [+0.100, +0.100]" in page
    assert "| coherence | 5 (+1.5) | 5 (+1.5) |" in page


def test_emergence_is_the_mean_over_runs_of_what_all_have():
    runs = [
        {"emergence": {"a": compared(1.0, 0.0, 1.0), "b": compared(0.0, 1.0, 2.0)}},
        {"emergence": {"a": compared(3.0, 2.0, 4.0)}},
    ]
    found = emergence(runs)
    assert found.keys() == {"a"}
    assert found["a"]["value"] == 2.0
    assert emergence([{}]) == {}


def test_the_spread_of_the_null_models_is_that_of_all_runs():
    """Two cubes that hardly differ by chance would make any value a wonder; the draws of the other run tell how they differ."""
    draws = [[0.5 - 5e-4, 0.5 + 5e-4], [5.2, 5.9, 5.4]]
    rows = [{"emergence": {"a": compared(value, *of_run)}} for value, of_run in zip((1.5, 6.5), draws, strict=True)]
    about_their_own = np.concatenate([np.array(of_run) - np.mean(of_run) for of_run in draws])
    deviation = np.sqrt(np.sum(about_their_own**2) / 3)
    found = emergence(rows)["a"]
    assert found == pytest.approx({"value": 4.0, "null": 3.0, "z": 1.0 / deviation})
    assert rows[0]["emergence"]["a"]["z"] > 1e3
    assert found["z"] < 5


def test_a_metric_whose_null_model_never_varied_has_no_z():
    runs = [{"emergence": {"a": compared(1.0, 2.0, 2.0)}}, {"emergence": {"a": compared(3.0, 2.0, 2.0)}}]
    assert emergence(runs) == {"a": {"value": 2.0, "null": 2.0, "z": None}}
    found = dict.fromkeys([REFERENCE.name], figures(0.1, 0.2))
    assert "| 2 (null does not vary) |" in markdown(
        gather([REFERENCE], found, {REFERENCE.name: [one | RUN for one in runs]}), ""
    )
