"""R1 in 10 CPU-minutes: run a recipe, count its seconds of processor time, measure its model on the fixed
held-out problems, and write a row of docs/record.md.

    python benchmarks/record.py [RECIPE] [KEY=VALUE ...] [--out RUN]     # make record
    python benchmarks/record.py --tiny --page FILE                      # in seconds, for the test: no entry

The rules stand in docs/record.md. User and system time of the command `r1kit run` and of all its processes is
counted; the measurement afterwards is not."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/record.md"
BUDGET_S = 600.0
BEGIN, END = "<!-- entries -->", "<!-- /entries -->"
HEAD = (
    "| pass@1 | CPU-seconds | recipe | seed | commit | machine | date |\n|---:|---:|---|---:|---|---|---|\n"
)
NONE = "| not measured yet | | | | | | |\n"
MEASURED = ("--tasks", "reasoning", "--limit", "52", "--n", "4", "--max-tokens", "112")
SMALLEST = ("--tasks", "reasoning", "--limit", "1", "--n", "1", "--max-tokens", "8")


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    pass_1: float
    stderr: float
    cpu_s: float
    recipe: str
    seed: int
    commit: str
    machine: str
    date: str

    def row(self) -> str:
        """The entry as a line of Markdown."""
        score = f"{self.pass_1:.3f} ± {self.stderr:.3f}"
        return (
            f"| {score} | {self.cpu_s:.0f} | `{self.recipe}` | {self.seed} | {self.commit} "
            f"| {self.machine} | {self.date} |\n"
        )


class RefusedError(Exception):
    """The run is no entry; the text says which rule it breaks."""


def child_seconds() -> float:
    """User and system seconds of all processes that this one has started and waited for, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def r1kit(*words: str) -> str:
    """Run r1kit in a process of its own; return what it printed. Raises RefusedError where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "r1kit", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RefusedError(f"r1kit {' '.join(words)} ended with exit code {done.returncode}")
    return done.stdout


def commit_of(root: Path, clean: bool) -> str:
    """The revision of a checkout. Raises RefusedError where there are changes that are not committed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout

    if clean and git("status", "--porcelain", "--untracked-files=no").strip():
        raise RefusedError(
            "there are changes that are not committed: commit them, so that the row names its code"
        )
    return git("rev-parse", "--short", "HEAD").strip()


def check(out: Path, cpu_s: float | None, budget_s: float = BUDGET_S) -> None:
    """Raise RefusedError where a run cannot be an entry: its folder was there before (``cpu_s`` None), or it
    took more than the budget."""
    if cpu_s is None:
        if out.exists():
            raise RefusedError(
                f"{out} is there already, so its time was not counted: name another folder with --out"
            )
    elif cpu_s > budget_s:
        raise RefusedError(
            f"{cpu_s:.0f} CPU-seconds are more than the budget of {budget_s:.0f}: no row was written"
        )


def measure(recipe: str, changes: Sequence[str], out: Path, tiny: bool) -> Entry:
    """Run, count, measure. Raises RefusedError where it is no entry."""
    check(out, None)
    commit = commit_of(ROOT, clean=not tiny)
    before = child_seconds()
    r1kit("run", recipe, *changes, "--out", str(out))
    cpu_s = child_seconds() - before
    check(out, cpu_s)
    resolved = json.loads(r1kit("show", str(out / "recipe.yaml"), "--json"))
    last = [
        stage["name"] for stage in resolved["stages"] if (out / "stages" / stage["name"] / "model").is_dir()
    ][-1]
    shown = json.loads(r1kit("eval", str(out), "--stage", last, *(SMALLEST if tiny else MEASURED), "--json"))
    (figures,) = shown["models"].values()
    cores = os.cpu_count()
    return Entry(
        pass_1=figures["overall"]["pass@1"],
        stderr=figures["overall"]["pass@1_stderr"] or 0.0,
        cpu_s=cpu_s,
        recipe=" ".join([recipe, *changes]),
        seed=resolved["seed"],
        commit=commit,
        machine=f"{cores} cores, {processor()}",
        date=datetime.now(UTC).date().isoformat(),
    )


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def written(page: str, entry: Entry) -> str:
    """The page with the entry in its table, the best first. Raises RefusedError where there is no table."""
    before, begin, rest = page.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise RefusedError(f"the page has no {BEGIN} ... {END}")
    rows = [line + "\n" for line in table.splitlines() if line.startswith("| ") and line[2].isdigit()]
    rows = sorted([*rows, entry.row()], key=lambda row: -float(row.split()[1]))
    return f"{before}{BEGIN}\n{HEAD}{''.join(rows)}{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="R1 in 10 CPU-minutes: run, count, measure, write a row.")
    parser.add_argument("recipe", nargs="?", default="recipes/record.yaml")
    parser.add_argument("changes", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    if given.tiny and given.page.resolve() == PAGE:
        parser.error("--tiny is no entry: name another page with --page")
    changes = list(given.changes)
    if given.tiny:
        changes += ["stages.pretrain.model.preset=nano", "stages.pretrain.tokens=4000", "stages.r1_zero=null"]
    out = given.out or ROOT / "runs" / f"record-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    try:
        entry = measure(given.recipe, changes, out.resolve(), given.tiny)
        given.page.write_text(written(given.page.read_text(encoding="utf-8"), entry), encoding="utf-8")
    except RefusedError as reason:
        print(f"no entry: {reason}", file=sys.stderr)
        return 1
    print(entry.row(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
