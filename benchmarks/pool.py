r"""The same job with a pool of states and without: held-out figures, diversity, and recovery after damage.

Contract: reads the summaries of runs that have ended and prints them side by side; with `--write` it renews
`benchmarks/results/pool.md` and `pool.json`. It computes nothing that a run did not report.

    bin/train --config configs/pool.py --workdir runs/pool
    bin/train --config configs/pool.py --config.pool.size=0 --config.pool.minimum-steps=0 --workdir runs/rest
    bin/train --config configs/phase3.py --workdir runs/phase3
    python benchmarks/pool.py "from the pool, 16 to 20 steps=runs/pool" "from rest, 20 steps=runs/rest" \
        "from rest, 16 steps (phase3)=runs/phase3" --write
"""

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
KEPT = ("held_out", "train", "pool", "recovery", "best_step", "steps", "lattice_steps", "seed", "data_hash", "versions")
KINDS = {"undamaged": "nothing", "sphere": "a sphere", "box": "a box", "half_cube": "half the cube"}


def read_run(argument: str) -> tuple[str, dict]:
    """Of NAME=WORKDIR the name, what is compared, and the settings that it was trained with."""
    name, _, workdir = argument.partition("=")
    try:
        summary, settings = (json.loads((Path(workdir) / file).read_text()) for file in ("summary.json", "config.json"))
        return name, {kept: summary[kept] for kept in KEPT} | {"settings": settings["pool"]}
    except (OSError, KeyError) as error:
        raise argparse.ArgumentTypeError(f"{argument!r} is no NAME=WORKDIR of a run that has ended: {error!r}") from error


def answers_table(runs: dict[str, dict]) -> list[str]:
    """One row for each run and number of questions before."""
    lines = ["| trained | questions before | held-out similarity | MRR | agreement | distance | effective rank | collapsed |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, run in runs.items():
        for row in run["pool"]["rounds"]:
            figures = [f"{row[field]:.3f}" for field in ("similarity", "mrr", "agreement", "distance")]
            figures += [f"{row['effective_rank']:.1f} of {run['pool']['questions']}", "yes" if row["collapsed"] else "no"]
            lines.append(f"| {name} | {row['questions_before']} | " + " | ".join(figures) + " |")
    return lines


def recovery_table(runs: dict[str, dict]) -> list[str]:
    """One row for each run and kind of damage, one column for every second step."""
    steps = max((run["recovery"]["steps"] for run in runs.values()), key=len)[::2]
    lines = ["| trained | cleared | share of the cells | " + " | ".join(f"{step}" for step in steps) + " |"]
    lines += ["|---" * (3 + len(steps)) + "|"]
    for name, run in runs.items():
        curves = run["recovery"]
        for kind, shown in KINDS.items():
            share = curves["cleared_share"].get(kind, 0)
            values = dict(zip(curves["steps"], curves[kind], strict=True))
            cells = [f"{values[step]:.3f}" if step in values else "" for step in steps]
            lines.append(f"| {name} | {shown} | {share:.0%} | " + " | ".join(cells) + " |")
    return lines


def page(runs: dict[str, dict]) -> str:
    """What the runs reported, as Markdown."""
    questions = next(iter(runs.values()))["recovery"]["questions"]
    looks = ", ".join(f"{run['best_step']} ({name})" for name, run in runs.items())
    lines = [
        *("# With a pool of states and without", ""),
        *("The commands are in `benchmarks/pool.py`; every figure is in [`pool.json`](pool.json).", ""),
        f"One seed each; the parameters are those of the best look, after so many training steps: {looks}.",
        "",
        *answers_table(runs),
        "",
        "Agreement is the mean cosine with the answers from the quiescent state; distance and effective rank are of the states",
        "that the questions left (`lattice/pool.py`). With questions before, each is answered from the state another one left.",
        *("", f"Mean cosine with the answer before the damage, for {questions} held-out questions, after so many steps:", ""),
        *recovery_table(runs),
    ]
    return "\n".join(lines) + "\n"


def main(runs: dict[str, dict], *, write: bool) -> None:
    """Print the page; with `write` keep it and the figures."""
    text = page(runs)
    print(text)
    if write:
        (RESULTS / "pool.json").write_text(json.dumps(runs, indent=1) + "\n")
        (RESULTS / "pool.md").write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="NAME=WORKDIR", type=read_run, nargs="+")
    parser.add_argument("--write", action="store_true", help="renew results/pool.json and results/pool.md")
    arguments = parser.parse_args()
    main(dict(arguments.runs), write=arguments.write)
