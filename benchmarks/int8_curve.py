"""The learning curves of recipes/int8.yaml: rollouts in 8 bits next to bfloat16, as a table.

    python benchmarks/int8_curve.py [--runs runs] [--steps 20] [--last 8]

Runs are found by name, int8-bfloat16-0 and so on. A cell is the mean over the last so many of a
run's first steps, then over the seeds, with the least and the most of them."""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

COLUMNS = {
    "right": "reward/accuracy/mean",
    "reward": "reward/mean",
    "format": "reward/format/mean",
    "length": "completions/mean_length",
    "gap of engine and learner": "sampling/logp_gap_mean",
}


def curve(run: Path, key: str) -> list[float]:
    rows = (json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row[key] for row in rows if row.get("stage") == "r1_zero" and key in row]


def cell(runs: Sequence[Path], key: str, steps: int, last: int) -> str:
    ends = [statistics.fmean(values[-last:]) for run in runs if (values := curve(run, key)[:steps])]
    if not ends:
        return "–"
    return f"{statistics.fmean(ends):.3f} ({min(ends):.3f}..{max(ends):.3f})"


def main(words: Sequence[str] | None = None) -> None:
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--runs", type=Path, default=Path("runs"))
    line.add_argument("--steps", type=int, default=20)
    line.add_argument("--last", type=int, default=8)
    arguments = line.parse_args(words)
    print(f"| rollouts in | seeds | {' | '.join(COLUMNS)} |\n|---|---:|{'---:|' * len(COLUMNS)}")
    for precision in ("bfloat16", "int8"):
        runs = sorted(arguments.runs.glob(f"int8-{precision}-*"))
        cells = [cell(runs, key, arguments.steps, arguments.last) for key in COLUMNS.values()]
        print(f"| {precision} | {len(runs)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
