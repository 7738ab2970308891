"""What a lag of the engine costs: the rewards of recipes/lag.yaml, lag by lag and seed by seed.

    r1kit run recipes/lag.yaml "runtime={kind: ray, learners: 2, engines: 2}" --out runs/lag
    python benchmarks/lag.py runs/lag

A number is the mean reward of the last updates. Lags are compared with lag 0 seed by seed, as a difference
with the 95 % interval of Student's t; "within noise" says that the interval contains 0."""

import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LAST = 10  # updates that are averaged
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}  # 95 %, by degrees of freedom
NAME = re.compile(r"lag(\d+)_(\w+)")


def rewards(run: Path) -> dict[int, dict[str, float]]:
    """The mean reward of the last updates by lag and seed."""
    rows: dict[tuple[int, str], list[float]] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if (match := NAME.fullmatch(row["stage"])) and "reward/mean" in row:
            rows.setdefault((int(match[1]), match[2]), []).append(row["reward/mean"])
    found: dict[int, dict[str, float]] = {}
    for (lag, seed), values in sorted(rows.items()):
        found.setdefault(lag, {})[seed] = statistics.fmean(values[-LAST:])
    return found


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """The mean difference over the seeds that both have, and half of its 95 % interval (nan for one seed)."""
    deltas = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    mean = statistics.fmean(deltas)
    if len(deltas) < 2:
        return mean, math.nan
    return mean, STUDENT[len(deltas) - 1] * statistics.stdev(deltas) / math.sqrt(len(deltas))


def table(found: Mapping[int, Mapping[str, float]]) -> list[str]:
    """The table's lines."""
    lines = ["| lag | reward of the last 10 updates, by seed | mean | against lag 0 |", "|---|---|---|---|"]
    for lag, by_seed in found.items():
        mean, half = difference(by_seed, found[0])
        verdict = "within noise" if abs(mean) <= half else "beyond noise"
        against = "" if lag == 0 else f"{mean:+.3f} ± {half:.3f}, {verdict}"
        each = ", ".join(f"{value:.3f}" for value in by_seed.values())
        lines.append(f"| {lag} | {each} | {statistics.fmean(by_seed.values()):.3f} | {against} |")
    return lines


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 1:
        raise SystemExit("usage: python benchmarks/lag.py RUN")
    found = rewards(Path(arguments[0]))
    if 0 not in found:
        raise SystemExit(f"{arguments[0]}: no stage named lag0_...: it is no run of recipes/lag.yaml")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
