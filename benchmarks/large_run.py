"""A run of 1,000,000 rollouts and 100,000 rows of metrics: how fast its pages open, how they go from page to
page, and what memory their process needs (docs/ui.md). The run is made in a temporary folder.

    python benchmarks/large_run.py [--rollouts N] [--rows N] [--keep FOLDER]

Times are by the clock, from the click to what a person sees, in headless Chromium (extra browser). Each is
measured twice: while the index is made, and when it is there."""

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from driving import chromium, missing, served_pages, visitor

A_FILE = 32  # rollouts of a step, as training keeps them
STAGES = ("r1_zero", "reasoning_rl")
METRICS = (
    "reward/mean", "reward/accuracy/mean", "reward/format/mean", "reward/zero_std_groups", "policy/entropy",
    "policy/loss", "policy/clipped", "sampling/logp_gap_mean", "completions/mean_length",
    "completions/max_length", "completions/clipped_ratio", "optim/grad_norm", "time/rollout", "time/reward",
    "time/update", "tokens",
)  # fmt: skip
PAGES = 20  # pages of rollouts, one after another
WORDS = ("first", "then", "the", "sum", "of", "carry", "times", "equals", "answer", "check", "again", "wait")


def make_run(folder: Path, rollouts: int, rows: int) -> None:
    """Write a run of two stages: its recipe, metrics and samples."""
    folder.mkdir(parents=True)
    recipe = ["name: large", "stages:", "- {stage: pretrain, name: base}"]
    recipe += [
        f"- {{stage: {stage}, name: {stage}, init: '@base', grpo: {{steps: {rows}}}}}" for stage in STAGES
    ]
    (folder / "recipe.yaml").write_text("\n".join(recipe) + "\n")
    chance = random.Random(0)
    with (folder / "metrics.jsonl").open("w") as file:
        for row in range(rows):
            stage, step = STAGES[row * len(STAGES) // rows], row % (rows // len(STAGES))
            values = {name: round(chance.random(), 4) for name in METRICS}
            file.write(json.dumps({"stage": stage, "step": step, "time": 1e9 + row, **values}) + "\n")
    files = rollouts // A_FILE
    for number in range(files):
        stage = STAGES[number * len(STAGES) // files]
        place = folder / "samples" / stage / f"step_{number:06d}.jsonl"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(_lines(number, chance)))


def _lines(number: int, chance: random.Random) -> Iterator[str]:
    for place in range(A_FILE):
        right = float(chance.random() < 0.5)
        thought = " ".join(chance.choices(WORDS, k=30))
        problem = chance.randrange(20_000)
        needle = " zebra" if number % 997 == 0 and place == 0 else ""
        row = {
            "problem": f"mul/{problem}", "task": "mul", "prompt": f"What is {problem} times 7?",
            "group": place // 8, "index": place % 8, "finish": "stop", "length": 40,
            "text": f"<think>{thought}{needle}</think><answer>{problem * 7}</answer>",
            "answer": str(problem * 7), "truth": str(problem * 7), "advantage": right - 0.5,
            "reward": right + 0.1, "parts": {"accuracy": right, "format": 1.0},
        }  # fmt: skip
        yield json.dumps(row) + "\n"


@contextmanager
def peak_memory(found: dict[str, float]) -> Iterator[Callable[[], float]]:
    """The memory of the process of the pages, in MB: what it is now, and in ``found`` the most at the end."""
    (process,) = [
        one
        for one in psutil.Process().children(recursive=True)
        if "ui" in one.cmdline() and "r1kit" in one.cmdline()
    ]
    yield lambda: process.memory_info().rss / 1e6
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    found["memory, most (MB)"] = int(peak[1]) * 1024 / 1e6 if peak else 0.0


def timed(found: dict[str, float], what: str, work: Callable[[], Any]) -> None:
    begun = time.perf_counter()
    work()
    found[what] = time.perf_counter() - begun


def measure(run: Path, cache: Path, when: str) -> dict[str, float]:
    """Open the board and the rollouts, go through pages, filter and search."""
    found: dict[str, float] = {}
    log = cache.parent / "ui.log"
    with served_pages([run], cache, log) as address, chromium() as browser, peak_memory(found) as memory:
        with visitor(browser, address) as page:
            timed(found, "board: its first curves (s)", lambda: _open_board(page, address))
        with visitor(browser, address) as page:
            timed(found, "rollouts: the first page (s)", lambda: _open_rollouts(page, address))
            if when == "with its index":
                _go_on(page, found)
            else:
                timed(found, "until all is indexed and read (s)", lambda: _wait_for_index(page, address))
        found["memory, at the end (MB)"] = memory()
    return found


def _open_board(page: Any, address: str) -> None:
    page.goto(address)
    page.locator(".r1-chart canvas").first.wait_for()


def _open_rollouts(page: Any, address: str) -> None:
    page.goto(f"{address}/rollouts")
    page.locator("[role=button].r1-card").first.wait_for()


def _wait_for_index(page: Any, address: str) -> None:
    """Until the page says that it counts all, and the board that it has read all rows."""
    while True:
        page.goto(f"{address}/rollouts")
        page.get_by_text(re.compile("of .* rollouts")).wait_for()
        if "indexed so far" not in page.inner_text("body"):
            break
        page.wait_for_timeout(5000)  # while a page opens, reading is slow
    before = ""
    page.goto(address)
    while before != (now := page.get_by_text("rows of metrics").inner_text()):
        before = now
        page.wait_for_timeout(3000)


def _go_on(page: Any, found: dict[str, float]) -> None:
    cards = "document.querySelectorAll('[role=button].r1-card').length"
    slowest = 0.0
    for _ in range(PAGES):
        before, begun = page.evaluate(cards), time.perf_counter()
        page.get_by_role("button", name="more").click()
        page.wait_for_function(f"{cards} > {before}")
        slowest = max(slowest, time.perf_counter() - begun)
    found[f"the slowest of {PAGES} next pages (s)"] = slowest
    field = page.get_by_label("reward from")

    def narrow() -> None:
        field.fill("1")
        page.wait_for_function(f"{cards} < 30")

    timed(found, "a filter by reward, with 0.5 s in which typing may go on (s)", narrow)
    field.fill("")

    def search() -> None:
        page.get_by_label("search text").fill("zebra")
        page.get_by_label("search text").press("Enter")
        page.get_by_text("of the files searched").wait_for()

    timed(found, "a search: its first answer (s)", search)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="make the run here, or take the one that is here")
    given = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        run = given.keep or Path(folder) / "large"
        if not run.exists():
            make_run(run, given.rollouts, given.rows)
        print(f"{given.rollouts:,} rollouts, {given.rows:,} rows of metrics; load {os.getloadavg()[0]:.1f}")
        for when in ("without an index", "with its index"):
            for what, value in measure(run, Path(folder) / "cache", when).items():
                print(f"{when:<17}  {what}: {value:.2f}", flush=True)


if __name__ == "__main__":
    main()
