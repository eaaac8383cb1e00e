"""A report as Markdown: tables of what was measured, for the console's reader and for `benchmarks/README.md`.

Contract: pure functions of a report's plain values. `sections` gives Markdown by section; `renew` puts it between two markers
of a document and leaves the rest alone.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lattice_jax.errors import InputError

BEGIN, END = "<!-- throughput: begin (benchmarks/throughput.py --write) -->", "<!-- throughput: end -->"
HISTORICAL = 67.6
"""Trained samples a second of the historical system on an RTX 5090, one lattice step a sample."""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three significant digits, in full."""
    if value == 0 or value != value:
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def duration(seconds: float) -> str:
    """Seconds, or milliseconds where they are few."""
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000 * seconds)} ms"


def percent(share: float) -> str:
    """A share of one."""
    return f"{100 * share:.0f} %"


def gibibytes(size: int) -> str:
    """Memory."""
    return f"{size / 2**30:.2f} GiB"


def rate(row: Mapping) -> str:
    """Samples a second with their quartiles."""
    low, high = row["samples_per_second_quartiles"]
    return f"{number(row['samples_per_second'])} ({number(low)} to {number(high)})"


def where(measured: Mapping) -> str:
    """What a section was measured on, and how."""
    machine, lattice = measured["machine"], measured["config"]["lattice"]
    grid, training = lattice["grid"], measured["config"]["training"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {gibibytes(machine['memory_bytes'])}; {versions}. Cube "
        f"{grid['depth']} x {grid['height']} x {grid['width']}, {lattice['steps']} steps, update rate "
        f"{lattice['update']['rate']:g}, batch {training['batch_size']} unless said otherwise. Medians (quartiles) of "
        f"{measured['turns']} alternating turns; load average before {measured['load_average_before']:.2f}, "
        f"{measured['date']}. `{measured['command']}`"
    )


def dense_product(report: Mapping) -> str:
    """What all rates are set against; float32 where the report doesn't say."""
    numbers = report["main"]["rows"]["dense"].get("numbers", "float32")
    accelerated = report["main"]["measured"]["machine"].get("devices", ["cpu"]) != ["cpu"]
    # NVIDIA's units for matrices round float32 to TF32 there.
    return f"dense {numbers} product" + (", as XLA multiplies by default," if accelerated and numbers == "float32" else "")


def _main(report: Mapping) -> str:
    section = report["main"]
    rows, dense = section["rows"], report["dense_gflops"]
    lines = []
    for name, row in rows.items():
        if name == "dense":
            shown = (
                "",
                "",
                duration(row["seconds"]),
                number(row["counted_gflops"]),
                "",
                "100 %",
                gibibytes(row["peak_memory_bytes"]),
            )
        else:
            shown = (
                f"{row['batch']} x {row['steps']}",
                rate(row),
                duration(row["seconds"]),
                number(row["counted_gflops"]),
                number(row["executed_gflops"]),
                percent(row["counted_gflops"] / dense),
                gibibytes(row["peak_memory_bytes"]),
            )
        lines.append((name, *shown, duration(row["compile_seconds"])))
    header = (
        "",
        "batch x steps",
        "samples/s",
        "time",
        "counted GFLOP/s",
        "executed GFLOP/s",
        "of the dense product",
        "peak memory",
        "compiling",
    )
    goal = "phase-3 training" if "phase-3 training" in rows else "reference training"
    share = rows[goal]["samples_per_second"] / HISTORICAL
    executed = rows["reference training"]["executed_gflops"] / dense
    told = (
        f"Training reaches {percent(report['roofline_fraction'])} of the rate of the {dense_product(report)} on counted "
        f"operations and {percent(executed)} on executed ones; {goal} reaches {percent(share)} of the historical {HISTORICAL} "
        "samples/s (an RTX 5090, one lattice step a sample)."
    )
    return f"{markdown_table(header, lines)}\n\n{told}"


def _batch(report: Mapping) -> str:
    rows = report["batch"]["rows"]
    forward = {(row["cores"], row["batch"]): row for row in rows["forward"]}
    lines = []
    for row in rows["training"]:
        answered = forward[row["cores"], row["batch"]]
        figures = rate(row), duration(row["seconds"]), number(row["counted_gflops"]), rate(answered)
        lines.append((f"{row['batch']}", f"{row['cores']}", *figures, gibibytes(row["peak_memory_bytes"])))
    header = "batch", "cores", "trained samples/s", "training step", "counted GFLOP/s", "forward samples/s", "peak memory"
    return markdown_table(header, lines) + "\n\n![Samples a second over batch sizes](results/throughput_batch.png)"


def versus_table(rows: Mapping[str, Mapping]) -> str:
    """Rows that were each measured in turns with the default."""
    lines = []
    for name, row in rows.items():
        difference = f"{row['difference']:.0e}" if "difference" in row else ""
        rated = rate(row), f"{row['ratio']:.3g}", f"{1 / row['ratio']:.3g}"
        compiling = duration(row["compile_seconds"]) if row["compile_seconds"] else ""
        lines.append((name, f"{row['batch']}", *rated, gibibytes(row["peak_memory_bytes"]), compiling, difference))
    header = "", "batch", "samples/s", "ratio", "slower by", "peak memory", "compiling", "difference"
    return markdown_table(header, lines)


def _turns(row: Mapping) -> int | None:
    """How often the row took its turn, where that is known: of rows without that figure, those of one repeat a turn."""
    return row.get("turns", len(row["seconds_of_repeats"]) if row.get("once") else None)


def fewer_turns(tables: Iterable[Mapping[str, Mapping]], most: int) -> str:
    """A sentence on rows that took fewer turns than the section's `most`; empty where there are none."""
    told = [
        f"{name} {turns} turn{'s' * (turns > 1)}"
        for rows in tables
        for name, row in rows.items()
        if (turns := _turns(row)) is not None and turns < most
    ]
    return f"\n\nFewer turns than the others: {'; '.join(told)}." if told else ""


def recomputing(rows: Mapping[str, Mapping]) -> str:
    """A sentence on rows whose backward pass computes the forward one again; empty where there are none."""
    again = [name for name, row in rows.items() if row.get("recomputes")]
    if not again:
        return ""
    return (
        f" Computed again in the backward pass (`lattice.remat`) is the forward pass of {' and '.join(again)}; the others keep "
        "what it computed, compiled PyTorch as its compiler chooses."
    )


def _peers(report: Mapping) -> str:
    rows = report["peers"]["rows"]
    text = versus_table(rows["own weights"]) + (
        "\n\nEvery row is a whole training step from the same parameters, texts, losses and update rate, timed in turns with "
        "this lattice on the same cores. *Difference*: the largest in loss and gradients on a small cube, checked before "
        "timing. *lax.scan*: the package's own `engine scan`, which defines the lattice: XLA's autodiff of one `lax.scan` over "
        "the step, with adjoints by hand for the neighbour sums and the products; on two virtual devices the cells are "
        "sharded. *PyTorch*: `peers/torch_lattice.py`, which gets its masks ready-made; by plain autograd, and with the "
        "adjoint of the neighbour sums written by hand. *A module a cell*: `peers/per_cell_modules.py`, measured at 1 and 2 "
        "lattice steps and continued along their line."
    )
    text += recomputing(rows["own weights"])
    if "one rule" in rows:
        text += f"\n\nOne rule shared by all cells:\n\n{versus_table(rows['one rule'])}"
        text += "\n\nCAX's is another rule of the same size, trained on the surface reconstruction alone; so is ours here."
    text += fewer_turns(rows.values(), report["peers"]["measured"]["turns"])
    return text + "\n\n![Samples a second beside the peers](results/throughput_peers.png)"


def _program(name: str, row: Mapping) -> tuple:
    """What tells training programs apart that differ in `lattice.remat` and `lattice.weight_gradients` alone.

    Rows of before `defers` was recorded are of batch 32, where gradients wait only if they are told to.
    """
    return row["engine"], row["recomputes"], row.get("defers", name == "lattice.weight_gradients deferred")


def noise(rows: Mapping[str, Mapping]) -> str:
    """How far the default's own program is from the default, and the rows that are no farther; empty where none is that."""
    settings = "default, again", "lattice.remat ", "lattice.weight_gradients "
    default = _program("default", rows["default"])
    same = [name for name, row in rows.items() if name.startswith(settings) and _program(name, row) == default]
    if not same:
        return ""
    distance = {name: abs(row["ratio"] - 1) for name, row in rows.items() if name != "default"}
    width = max(distance[name] for name in same)
    within = [f"`{name}`" for name in distance if name not in same and distance[name] <= width]
    ratios = " and ".join(f"`{name}` ({rows[name]['ratio']:.3g})" for name in same)
    return (
        f"At this batch size {ratios} {'are' if len(same) > 1 else 'is'} the very program of the default, so how far "
        f"{'they are' if len(same) > 1 else 'it is'} from 1 is the table's noise: {width:.2g}. "
        + (f"No farther from 1: {', '.join(within)}; what these gain or cost the table doesn't tell." if within else "")
    ).rstrip()


def _ablation(report: Mapping) -> str:
    rows = report["ablation"]["rows"]
    training, forward = versus_table(rows["training"]), versus_table(rows["forward"])
    told = f"{training}\n\n{noise(rows['training'])}".rstrip()
    return f"Each setting switched alone; training:\n\n{told}\n\nForward, batch as above:\n\n{forward}"


def _deferral(report: Mapping) -> str:
    return (
        "`lattice.weight_gradients`: a cell's matrix gradients in one product over all its firings and samples, or at every "
        f"firing; each pair in turns, ratios to the first of it.\n\n{versus_table(report['deferral']['rows'])}"
    )


def exponent(values: Sequence[float], costs: Sequence[float]) -> float | None:
    """The slope of log costs against log values; None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


_GROWS = {
    "batch": "every step reads all weights and updates them, whatever the batch: memory sets the time of small batches, "
    "products that of large ones",
    "steps": "light reaches only part of the cube in the first steps, and all of it later, so a longer pass fires more cells a "
    "step; the update of the weights, which comes once, works the other way",
    "side": "the cells grow with the cube of it, but the lattice steps stay, and light needs one for every layer: in a deeper "
    "cube fewer cells act before the end; small cubes fit the caches, but pay as much for each call",
    "hidden": "the three large matrices grow with it; perception, memory and the state do not",
    "cores": "operations are those of one core, and dividing them over all gives -1; cores share one memory, and wait for each "
    "other twice a lattice step",
}
"""Why time grows otherwise than the counted operations do, by setting."""


def grows(name: str, axis: Mapping) -> str:
    """Why, and what the rows say of it: the share of cells that act, and where the forward pass is computed twice."""
    values, rows = axis["values"], axis["rows"]
    told = [_GROWS[name]]
    first, last = (row["cell_updates"] / row["cell_updates_at_most"] for row in (rows[0], rows[-1]))
    if f"{first:.2f}" != f"{last:.2f}":
        told.append(f"of all cells {first:.2f} act a step at {values[0]}, {last:.2f} at {values[-1]}")
    again = [f"{value}" for value, row in zip(values, rows, strict=True) if row["recomputes"]]
    if 0 < len(again) < len(rows):
        told.append(
            f"**at {', '.join(again)} the forward pass is computed twice** (`lattice.remat`: memory is too little to keep it), "
            "which adds to the exponents at the end, of time and of executed operations"
        )
    return "; ".join(told)


def _exponents(values: Sequence[float], costs: Sequence[float]) -> tuple[str, str]:
    """Over all values and between the last two, as shown."""
    slopes = exponent(values, costs), exponent(values[-2:], costs[-2:])
    return tuple("" if slope is None else f"{slope:.2f}" for slope in slopes)


def _growth(report: Mapping) -> str:
    lines = []
    for name, axis in report["growth"]["rows"].items():
        values, rows = axis["values"], axis["rows"]
        # However many cores, the operations of a step stay the same; a core's are what its time can be set against.
        parts = values if name == "cores" else [1] * len(values)
        counted, executed = (
            [row[f"{kind}_operations"] / part for row, part in zip(rows, parts, strict=True)]
            for kind in ("counted", "executed")
        )
        spans = f"{values[0]} to {values[-1]}", f"{duration(axis['seconds'][0])} to {duration(axis['seconds'][-1])}"
        slopes = *_exponents(values, axis["seconds"]), _exponents(values, counted)[0], *_exponents(values, executed)
        lines.append((axis["label"], *spans, *slopes, grows(name, axis)))
    header = "setting", "range", "training step", "exponent", "at its end", "of counted operations"
    header = *header, "of executed operations", "at their end", "why"
    return markdown_table(header, lines) + "\n\n![Growth of the cost](results/throughput_growth.png)"


_TITLES = {
    "main": ("Throughput", _main),
    "batch": ("Batch size and cores", _batch),
    "peers": ("Beside other implementations", _peers),
    "ablation": ("What each setting gains", _ablation),
    "deferral": ("When weight gradients are added up", _deferral),
    "growth": ("Growth", _growth),
}


def sections(report: Mapping) -> dict[str, str]:
    """Markdown of each section that the report has."""
    found = {name: (title, write) for name, (title, write) in _TITLES.items() if name in report}
    return {
        name: f"### {title}\n\n{write(report)}\n\n{where(report[name]['measured'])}\n" for name, (title, write) in found.items()
    }


def renew(document: str, report: Mapping) -> str:
    """The document with the report between its markers."""
    if BEGIN not in document or END not in document:
        raise InputError("the page has no place for the report", expected=f"the lines {BEGIN} and {END}", fix="add them")
    before, rest = document.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n" + "\n".join(sections(report).values()) + END + after
