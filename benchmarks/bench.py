"""Measure r1kit and its peers at the same work, in turn, and write the results.

    python benchmarks/bench.py [names ...] [--cores 1] [--quick] [--resume] [--minutes 8]

A name is the beginning of a ratio's name: ``rollout``, ``grpo/7m``, ``learner/7m/ragged/vs_hf``; ``lone``
asks for a single row, ``growth`` for how r1kit's cost grows, ``llama`` for llama.cpp, ``race`` for the time
to quality (benchmarks/race.py, with its own options). Without names everything is measured but the race.
Results are merged into OUT/bench.json; docs/performance.md is written from it. ``--quick`` only tries the
harness: tiny sizes, one repeat, results in OUT/quick.json, no page. ``--resume`` leaves out what was measured
with the same source, and with ``--minutes`` no further line begins after so many minutes, so the same
command, repeated, measures everything in parts. A line takes some minutes itself."""

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import race
from bench import llama
from bench.measurement import Bench
from bench.page import write_page
from bench.results import Results
from bench.work import FULL, QUICK, Size, Work, chosen

from r1kit.config import R1kitError

ALONE = ("lone", "growth")  # r1kit without peers
SEPARATE = ("llama", "race")  # parts with results and a place on the page of their own
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure r1kit and its peers at the same work.")
    parser.add_argument(
        "names", nargs="*", help="beginnings of ratios' names, or a part; everything but race unless given"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and one repeat, to try the harness out"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="results, models and logs (runs/bench)"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=None,
        help="folder of the peers' virtual environments, made if missing (OUT)",
    )
    parser.add_argument(
        "--cores",
        type=int,
        choices=(1, 2),
        default=None,
        help="only measurements on one core, or on two (both)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=None,
        metavar="N",
        help="measured pairs (3; with --quick 1); below 3 no page",
    )
    parser.add_argument("--resume", action="store_true", help="leave out what was measured with this source")
    parser.add_argument(
        "--minutes", type=float, default=None, help="begin no further line after so many minutes (all lines)"
    )
    return parser


def compare(works: Sequence[Work], bench: Bench, resume: bool, minutes: float | None) -> list[Work]:
    """Measure works, until so many minutes are over; return those that are left."""
    wanted = [work for work in works if not (resume and bench.results.has(work))]
    until = time.monotonic() + 60 * minutes if minutes is not None else math.inf
    for place, work in enumerate(wanted):
        if time.monotonic() >= until:
            return wanted[place:]
        bench.compare(work)
    return []


def lines(asked: argparse.Namespace, names: Sequence[str], size: Size) -> bool:
    """Measure the lines of the table that ``names`` begin, a lone row and the growth of the cost, and write
    their page. Return whether all is measured."""
    named = [name for name in names if name not in ALONE]
    works = chosen(named) if named or not names else []
    works = [work for work in works if asked.cores in (None, work.cores)]
    if names and not works and not set(names) & set(ALONE):
        raise R1kitError(f"no ratio's name begins with {' or '.join(names)}")
    out = asked.out.resolve()
    results = Results.open(out / ("quick.json" if asked.quick else "bench.json"), asked.quick)
    bench = Bench(out, (asked.peers or out).resolve(), size, sorted(os.sched_getaffinity(0)), results)
    bench.limits()
    if left := compare(works, bench, asked.resume, asked.minutes):
        print(f"bench: {len(left)} of {len(works)} lines are left: the same command with --resume continues")
        return False
    if not names or "lone" in names:
        bench.lone()
    if not names or "growth" in names:
        bench.growth()
    if not asked.quick and size.repeats >= FULL.repeats:
        print(write_page(PAGE, results))
    return True


def run_race(asked: argparse.Namespace) -> None:
    """The race with this command's options."""
    own = ["--out", str(asked.out / "race"), *(["--resume"] if asked.resume else [])]
    own += ["--peers", str(asked.peers)] if asked.peers is not None else []
    race.main([*own, *(["--minutes", str(asked.minutes)] if asked.minutes is not None else [])])


def main(words: Sequence[str] | None = None) -> None:
    """Measure what the command line names and write the results."""
    asked = command_line().parse_args(words)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    size = QUICK if asked.quick else FULL
    size = replace(size, repeats=asked.repeats or size.repeats)
    names = [name for name in asked.names if name not in SEPARATE]
    try:
        if (names or not asked.names) and not lines(asked, names, size):
            return
        if not asked.names or "llama" in asked.names:
            page = PAGE if size.repeats >= FULL.repeats and not asked.quick else None
            out = asked.out.resolve()
            if not llama.compare(
                out, (asked.peers or out).resolve(), size.repeats, asked.resume, asked.minutes, page
            ):
                print("bench: pairs with llama.cpp are left: the same command with --resume continues")
                return
        if "race" in asked.names:
            run_race(asked)
    except R1kitError as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
