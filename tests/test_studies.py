"""The studies: every arm can be, and the table says what the figures say."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.study.arms import ARMS, REFERENCE, Arm, arm_config  # noqa: E402
from benchmarks.study.table import emergence, gather, markdown  # noqa: E402
from lattice_jax.commandline import load_config  # noqa: E402
from lattice_jax.errors import InputError  # noqa: E402


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_changes_the_main_job_into_something_that_can_be(arm):
    base = load_config(ROOT / "configs" / "phase3.py")
    assert arm_config(base, arm) != arm_config(base, REFERENCE)


def test_an_arm_that_names_no_setting_is_refused():
    with pytest.raises(InputError, match=r"perhaps lattice\.steps"):
        arm_config(load_config(ROOT / "configs" / "phase3.py"), Arm("x", "y", {"lattice.step": 3}))


RUN = {"parameters": 3, "seconds": 60.0}


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
    runs = [{"parameters": 3, "seconds": 60.0, "emergence": {"coherence": {"value": 0.5, "z": 2.0}}}]
    rows = gather([REFERENCE, Arm("x", "other")], found, dict.fromkeys(found, runs))
    gain = rows[1]["gain_over_reference"]["similarity"]
    assert [gain["value"], *gain["interval"]] == pytest.approx([0.1] * 3)
    page = markdown(rows, "python benchmarks/studies.py")
    assert "+0.100 [+0.100, +0.100]" in page
    assert "| coherence | 0.5 (+2.0) | 0.5 (+2.0) |" in page


def test_emergence_is_the_mean_over_runs_of_what_all_have():
    runs = [
        {"emergence": {"a": {"value": 1.0, "z": 2.0}, "b": {"value": 0, "z": 0}}},
        {"emergence": {"a": {"value": 3.0, "z": 4.0}}},
    ]
    assert emergence(runs) == {"a": {"value": 2.0, "z": 3.0}}
    assert emergence([{}]) == {}


def test_a_metric_whose_null_model_never_varied_has_no_z():
    runs = [{"emergence": {"a": {"value": 1.0, "z": None}}}, {"emergence": {"a": {"value": 3.0, "z": 4.0}}}]
    assert emergence(runs) == {"a": {"value": 2.0, "z": None}}
    found = dict.fromkeys([REFERENCE.name], figures(0.1, 0.2))
    assert "| 2 (no null) |" in markdown(gather([REFERENCE], found, {REFERENCE.name: [one | RUN for one in runs]}), "")
