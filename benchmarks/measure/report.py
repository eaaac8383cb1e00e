"""A report as Markdown: tables of what was measured, for the console's reader and for `benchmarks/README.md`.

Contract: pure functions of a report's plain values. `sections` gives Markdown by section; `renew` puts it between two markers
of a document and leaves the rest alone.
"""

from collections.abc import Iterable, Mapping, Sequence

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
    told = (
        f"Training reaches {percent(report['roofline_fraction'])} of the dense float32 product's rate on counted operations; "
        f"{goal} reaches {percent(share)} of the historical {HISTORICAL} samples/s (an RTX 5090, one lattice step a sample)."
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
    if "one rule" in rows:
        text += f"\n\nOne rule shared by all cells:\n\n{versus_table(rows['one rule'])}"
        text += "\n\nCAX's is another rule of the same size, trained on the surface reconstruction alone; so is ours here."
    return text + "\n\n![Samples a second beside the peers](results/throughput_peers.png)"


def _ablation(report: Mapping) -> str:
    rows = report["ablation"]["rows"]
    training, forward = versus_table(rows["training"]), versus_table(rows["forward"])
    return f"Each setting switched alone; training:\n\n{training}\n\nForward, batch as above:\n\n{forward}"


def _deferral(report: Mapping) -> str:
    return (
        "`lattice.weight_gradients`: a cell's matrix gradients in one product over all its firings and samples, or at every "
        f"firing; each pair in turns, ratios to the first of it.\n\n{versus_table(report['deferral']['rows'])}"
    )


def _growth(report: Mapping) -> str:
    lines = [
        (
            axis["label"],
            f"{axis['values'][0]} to {axis['values'][-1]}",
            f"{duration(axis['seconds'][0])} to {duration(axis['seconds'][-1])}",
            "" if axis["exponent"] is None else f"{axis['exponent']:.2f}",
            "" if axis["last_exponent"] is None else f"{axis['last_exponent']:.2f}",
            f"{axis['expected']:g}",
            axis["reason"],
        )
        for axis in report["growth"]["rows"].values()
    ]
    header = "setting", "range", "training step", "exponent", "at its end", "of counted operations", "why"
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
