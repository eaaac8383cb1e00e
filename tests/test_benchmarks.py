"""The parts of the benchmark that are arithmetic: counts, ratios, exponents, spreads, and what a report holds."""

import copy
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.measure import compare, headline, operations, report, versus, workload  # noqa: E402
from benchmarks.measure.cases import REFERENCE, Case, small, with_batch, with_lattice, with_update  # noqa: E402
from benchmarks.measure.report import exponent  # noqa: E402
from benchmarks.measure.timing import Spread, Worker, environment, in_turns  # noqa: E402
from lattice_jax.config import CellConfig, GridConfig, LossConfig  # noqa: E402
from lattice_jax.errors import InputError  # noqa: E402
from lattice_jax.lattice.cell import parameters_per_cell  # noqa: E402
from lattice_jax.lattice.firing import exact_count  # noqa: E402

TINY = with_lattice(REFERENCE, grid=GridConfig(3, 4, 5), cell=CellConfig(4, 4, 8), steps=6)
PARAMETERS = parameters_per_cell(TINY.lattice.cell)
CELLS, STEPS, BATCH = 60, 6, 4
KEY = jax.random.key(0)


def counted(config, *, engine="native", training=True, sampled=True, read="cube", devices=1, recomputes=False):
    return operations.count(
        config,
        config.training.batch_size,
        engine=engine,
        training=training,
        sampled=sampled,
        read=read,
        devices=devices,
        recomputes=recomputes,
    )


def restless(config, **update):
    """Nothing rests but what the mask says."""
    return with_batch(with_update(config, **{"quiescent": False, "mask": "batch"} | update), BATCH)


def test_an_exact_count_mask_executes_exactly_its_share_and_the_scan_everything():
    config = restless(TINY)
    updates = STEPS * exact_count(config.lattice)
    native, scan = counted(config), counted(config, engine="scan", recomputes=True)
    assert native["cell_updates"] == updates
    assert native["executed_operations"] == 6 * PARAMETERS * BATCH * updates
    assert scan["executed_operations"] == 8 * PARAMETERS * BATCH * STEPS * CELLS
    assert native["counted_operations"] == scan["counted_operations"]


def test_a_cell_that_moves_for_one_sample_is_computed_for_the_batch():
    config = restless(TINY, mask="sample")
    few, many = (operations.firings(config.lattice, n, sampled=True, key=KEY, read="cube") for n in (1, 16))
    assert 0.55 * CELLS * STEPS < few < 0.85 * CELLS * STEPS
    assert many == CELLS * STEPS


def test_the_light_cone_leaves_out_cells_that_the_light_has_not_reached_and_that_cannot_be_read():
    config = with_batch(with_update(TINY, quiescent=True), BATCH)
    face = 20
    # Depth 3: of the last two steps only what can still reach the back; of the first only what the front has reached.
    by_read = {
        read: operations.firings(config.lattice, 1, sampled=False, key=KEY, read=read) // face for read in ("cube", "output")
    }
    assert by_read == {"cube": 2 + 5 * 3, "output": 2 + 3 * 3 + 2 + 1}


def test_rows_that_only_pad_the_devices_count_as_executed():
    config = restless(TINY)
    assert counted(config, engine="scan", devices=3)["cell_updates"] == STEPS * CELLS // 4 * 6


def test_a_divided_batch_visits_the_cells_once_a_part():
    config = restless(TINY)
    halves = dataclasses.replace(config, training=dataclasses.replace(config.training, micro_batch=BATCH // 2))
    whole, divided = counted(config), counted(halves)
    assert divided["cell_updates"] == 2 * whole["cell_updates"]
    assert divided["executed_operations"] == whole["executed_operations"]
    assert divided["parameter_bytes_moved"] > whole["parameter_bytes_moved"]


def test_training_reads_the_output_alone_where_consistency_has_no_weight():
    config = with_batch(with_update(TINY, quiescent=True), BATCH)
    alone = dataclasses.replace(config, loss=LossConfig(1.0, 0.0, 0.0))
    assert counted(alone)["cell_updates"] < counted(config)["cell_updates"]


@pytest.mark.parametrize("slope", [-1.0, 0.5, 3.0])
def test_the_exponent_is_that_of_a_power_law(slope):
    values = np.array([2.0, 4.0, 8.0, 16.0])
    assert exponent(values, 0.3 * values**slope) == pytest.approx(slope)


def test_one_value_has_no_exponent():
    assert exponent([2], [1.0]) is None


def test_a_spread_is_median_and_quartiles():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, (2.0, 4.0), (5.0, 1.0, 2.0, 4.0, 3.0))
    assert Spread.of([2.0]).quartiles == (2.0, 2.0)


def test_turns_go_forth_and_back():
    class Recorder(list):
        def worker(self, name):
            return type("Worker", (), {"turn": lambda worker: self.append(name)})()

    order = Recorder()
    in_turns([order.worker("a"), order.worker("b")], 3)
    assert "".join(order) == "abbaab"


def test_a_case_is_started_without_the_settings_that_it_does_without(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1")
    plain = Case("training", REFERENCE)
    without = dataclasses.replace(plain, without_tunables=("glibc.malloc.hugetlb",))
    assert environment(plain)["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    assert environment(without)["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1"


def test_the_small_cube_keeps_the_rule():
    config = small(with_update(REFERENCE, rate=0.5))
    assert config.lattice.update.rate == 0.5
    assert config.lattice.grid != REFERENCE.lattice.grid


def rows() -> dict[str, dict]:
    """What `timing.measure` returns, of round numbers."""
    shared = {"steps": 11, "compile_seconds": 1.0, "samples_per_second_quartiles": [9.0, 11.0], "peak_memory_bytes": 2**30}
    work = {kind: {"batch": 32, "seconds": 0.5, "samples_per_second": 64.0, **shared} for kind in headline.WORK}
    gflops = {"counted_gflops": 60.0, "executed_gflops": 30.0}
    return {f"reference {kind}": row | gflops for kind, row in work.items()} | {
        "dense": {"batch": 32, "seconds": 0.1, "counted_gflops": 120.0, **shared}
    }


def saved(**changes: float) -> dict:
    """A report of `--what main`."""
    measured = {
        "config": REFERENCE.as_dict(),
        "machine": {"processor": "a processor", "cores": 2, "memory_bytes": 2**34, "versions": {"jax": "0"}},
        "turns": 5,
        "date": "a day",
        "command": "a command",
        "load_average_before": 0.0,
    }
    return headline.headline(rows()) | {"main": {"rows": rows(), "measured": measured}} | changes


def test_a_report_has_the_figures_that_others_read():
    found = headline.headline(rows())
    assert set(compare.HEADLINE) <= found.keys()
    assert found["latency_ms"] == 500
    assert found["roofline_fraction"] == 0.5
    assert found["executed_roofline_fraction"] == 0.25


def test_a_ratio_above_one_is_better_whatever_the_figure():
    new = saved(train_samples_per_second=128.0, latency_ms=250.0, peak_memory_bytes=2**31)
    found = compare.ratios(new, saved())
    assert found["train_samples_per_second"] == 2
    assert found["latency_ms"] == 2
    assert found["peak_memory_bytes"] == 0.5
    assert found["forward_samples_per_second"] == 1


def test_what_became_slower_is_named_and_a_slower_machine_is_not():
    new = saved(train_samples_per_second=32.0, dense_gflops=12.0)
    assert compare.too_slow(compare.ratios(new, saved()), 0.9) == ["train_samples_per_second"]
    assert compare.too_slow(compare.ratios(new, saved()), 0.5) == []


def test_runs_of_different_workloads_do_not_compare_and_of_different_engines_do():
    other = copy.deepcopy(saved())
    other["main"]["measured"]["config"]["lattice"]["engine"] = "scan"
    compare.ratios(other, saved())
    other["main"]["measured"]["config"]["training"]["batch_size"] = 8
    with pytest.raises(InputError, match=r"training\.batch_size: 8 and 32"):
        compare.ratios(other, saved())


def test_a_report_without_the_main_section_does_not_compare():
    with pytest.raises(InputError, match="no train_samples_per_second"):
        compare.ratios({}, saved())


def test_the_page_is_renewed_between_its_marks_alone():
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.renew(page, saved())
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    assert "| reference training | 32 x 11 | 64.0 (9.00 to 11.0) | 500 ms | 60.0 | 30.0 | 50 % | 1.00 GiB | 1.00 s |" in once
    assert report.renew(once, saved()) == once
    with pytest.raises(InputError, match="no place"):
        report.renew("nothing", saved())


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """benchmarks/throughput.py in this process; its exit code."""
    import runpy

    from program import launcher_memory

    tunables = ":".join(f"{name}={value}" for name, value in launcher_memory().items())
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    monkeypatch.setattr(sys, "argv", ["throughput.py", *map(str, arguments)])
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        runpy.run_path(str(ROOT / "benchmarks" / "throughput.py"), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(("minimum", "code"), [(0.9, 1), (0.4, 0)])
def test_the_program_exits_with_one_below_the_minimum_ratio(monkeypatch, capsys, tmp_path, minimum, code):
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    new.write_text(json.dumps(saved(train_samples_per_second=32.0)))
    old.write_text(json.dumps(saved()))
    assert run(monkeypatch, "--what", "none", "--json", new, "--compare", old, "--minimum-ratio", minimum) == code
    assert "0.500" in capsys.readouterr().out


MEASURED = ROOT / "benchmarks" / "results" / "throughput.json"


@pytest.fixture
def nothing_measured(monkeypatch):
    """No process may be started to measure in."""

    def start(*arguments: object):
        raise AssertionError("a case was started")

    monkeypatch.setattr(Worker, "__init__", start)


@pytest.mark.usefixtures("nothing_measured")
@pytest.mark.parametrize("section", ["batch", "ablation", "deferral", "growth"])
def test_a_section_that_has_no_headline_is_not_compared(monkeypatch, capsys, tmp_path, section):
    saved_run = tmp_path / "saved.json"
    saved_run.write_text(json.dumps(saved()))
    assert run(monkeypatch, "--what", section, "--json", saved_run, "--compare", saved_run) == 2
    assert f"--compare with --what {section}" in capsys.readouterr().err
    assert json.loads(saved_run.read_text()) == json.loads(json.dumps(saved()))


@pytest.mark.usefixtures("nothing_measured")
@pytest.mark.parametrize("section", ["none", "growth"])
def test_a_profile_needs_the_section_that_makes_it(monkeypatch, capsys, tmp_path, section):
    assert run(monkeypatch, "--what", section, "--json", MEASURED, "--profile", tmp_path) == 2
    assert f"--profile with --what {section}" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_measured")
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--quick"], "training.batch_size: 8 and 32"),
        (["--config.lattice.steps", "12"], "lattice.steps: 12 and 11"),
    ],
)
def test_another_workload_is_refused_before_it_is_measured(monkeypatch, capsys, arguments, found):
    assert run(monkeypatch, "--what", "main", *arguments, "--compare", MEASURED) == 2
    assert found in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_measured")
def test_a_saved_run_without_headline_is_refused_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    saved_run = tmp_path / "saved.json"
    saved_run.write_text(json.dumps({"growth": {}}))
    assert run(monkeypatch, "--compare", saved_run) == 2
    assert "no train_samples_per_second" in capsys.readouterr().err


def test_the_reference_compares_with_the_committed_run():
    compare.require_comparable(REFERENCE.as_dict(), json.loads(MEASURED.read_text()))


def grown(values, rows: list[dict]) -> dict:
    """A report of `--what growth` along one axis, as older runs stored it."""
    axis = {"label": "cells a side", "values": values, "seconds": [row["seconds"] for row in rows], "rows": rows}
    return {"growth": {"rows": {"side": axis | {"expected": 99, "reason": "none"}}, "measured": saved()["main"]["measured"]}}


def test_exponents_of_operations_are_those_of_the_rows_and_recomputing_is_told():
    rows = [
        {"seconds": side**2.5, "counted_operations": 5 * side**3, "executed_operations": 2 * side**2, "recomputes": side > 4}
        | {"cell_updates": 6 - side, "cell_updates_at_most": 5}
        for side in (1, 2, 5)
    ]
    text = report.sections(grown([1, 2, 5], rows))["growth"]
    assert "| 2.50 | 2.50 | 3.00 | 2.00 | 2.00 |" in text
    assert "at 5 the forward pass is computed twice" in text
    assert "of all cells 1.00 act a step at 1, 0.20 at 5" in text
    assert "99" not in text
    assert "none" not in text


def test_operations_of_several_cores_are_those_of_one():
    rows = [
        {"seconds": 1 / cores, "counted_operations": 8, "executed_operations": 4, "recomputes": False}
        | {"cell_updates": 1, "cell_updates_at_most": 2}
        for cores in (1, 2)
    ]
    axis = {"label": "cores", "values": [1, 2], "seconds": [1.0, 0.5], "rows": rows}
    found = {"growth": {"rows": {"cores": axis}, "measured": saved()["main"]["measured"]}}
    assert "| -1.00 | -1.00 | -1.00 | -1.00 | -1.00 |" in report.sections(found)["growth"]


def test_rows_with_fewer_turns_are_named_in_new_reports_and_in_old_ones():
    new = {"this": {"turns": 25, "seconds_of_repeats": [1.0]}, "A": {"turns": 2, "seconds_of_repeats": [1.0] * 9}}
    old = {"this": {"seconds_of_repeats": [1.0]}, "B": {"once": True, "seconds_of_repeats": [1.0]}}
    told = report.fewer_turns([new, old], 5)
    assert told.endswith("A 2 turns; B 1 turn.")
    assert report.fewer_turns([new], 2) == ""


def test_the_program_of_the_default_gives_the_noise_and_what_lies_within():
    program = {"engine": "native", "recomputes": False}
    ratios = {
        "default": 1,
        "default, again": 0.96,
        "lattice.remat never": 1.01,
        "lattice.weight_gradients deferred": 0.9,
        "lattice.devices 1": 0.98,
    }
    told = report.noise({name: program | {"ratio": ratio} for name, ratio in ratios.items()})
    assert "`default, again` (0.96) and `lattice.remat never` (1.01) are the very program of the default" in told
    assert "noise: 0.04." in told
    assert "No farther from 1: `lattice.devices 1`;" in told
    assert report.noise({"default": program | {"ratio": 1}}) == ""


def test_the_default_is_measured_against_itself():
    assert next(iter(versus.settings(REFERENCE).items())) == ("default, again", Case("training", REFERENCE))


@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_the_dense_product_is_of_the_workloads_numbers(monkeypatch, numbers):
    monkeypatch.setattr(workload, "_DENSE_SIDES", (32,))
    config = with_lattice(REFERENCE, precision=numbers)
    built = workload.dense(Case("dense", config), workload.Text(np.zeros(0), np.zeros(0), None))
    assert built.figures["numbers"] == numbers
    assert built.measure() > 0


def test_the_report_says_what_the_dense_product_was_of():
    found = copy.deepcopy(saved())
    assert report.dense_product(found) == "dense float32 product"
    found["main"]["rows"]["dense"]["numbers"] = "float32"
    found["main"]["measured"]["machine"]["devices"] = ["NVIDIA H100 80GB HBM3"]
    assert report.dense_product(found) == "dense float32 product, as XLA multiplies by default,"
    found["main"]["rows"]["dense"]["numbers"] = "bfloat16"
    assert report.dense_product(found) == "dense bfloat16 product"


def test_peers_without_torch_end_with_what_to_install(monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    assert run(monkeypatch, "--what", "peers") == 2
    assert "pip install -r benchmarks/requirements.txt" in capsys.readouterr().err
