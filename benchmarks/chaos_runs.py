"""What chaos.py and chaos_calls.py share: processes that do a piece of work, the fingerprint of a run, and
counts of outcomes."""

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Tally:
    """The outcomes of the kills, or of the errors, of one kind."""

    what: str
    where: str = ""
    done: int = 0
    identical: int = 0
    refused: int = 0
    wrong: int = 0

    def count(self, done: int, outcome: str) -> None:
        self.done += done
        setattr(self, outcome, getattr(self, outcome) + done)

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.done}, identical: {self.identical}, refused with a reason: {self.refused}, "
            f"wrong: {self.wrong}"
        )


def print_totals(tallies: Sequence[Tally]) -> int:
    """Print the sums, the kills last; return 1 if anything was wrong, else 0."""
    for what in ("errors", "kills"):
        found = [tally for tally in tallies if tally.what == what]
        if found:
            print(
                Tally(
                    what,
                    "",
                    *(
                        sum(getattr(tally, name) for tally in found)
                        for name in ("done", "identical", "refused", "wrong")
                    ),
                )
            )
    return int(any(tally.wrong for tally in tallies))


def fork(work: Callable[[], None], output: Path) -> int:
    """Do ``work`` in a process group of its own, with its output in a file. Returns the process's id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        work()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception:
        traceback.print_exc()
    finally:
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)


def run_recipe(recipe: Path, out: Path) -> None:
    """Run a recipe in this process, as the command line does."""
    from r1kit.commands.cli import main

    sys.argv = ["r1kit", "run", str(recipe), "--out", str(out)]
    main()


def wait(pid: int, seconds: float | None) -> int | None:
    """The exit code (negative: the signal); None if the process still runs after ``seconds``."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, 0 if deadline is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def fingerprint(run_dir: Path) -> dict[str, str]:
    """SHA-256 by name of everything that a run writes, without times: models, data, reports of stages,
    rollouts, records, metrics."""
    found = {}
    for path in sorted(
        p for folder in ("stages", "samples") for p in (run_dir / folder).rglob("*") if p.is_file()
    ):
        name, content = str(path.relative_to(run_dir)), path.read_bytes()
        if path.name == "stage.json":
            record = json.loads(content)
            content = json.dumps(
                {key: record.get(key) for key in ("stage", "name", "config", "seed", "outputs")}
            ).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        kept = {key: value for key, value in row.items() if key != "time" and not key.startswith("time/")}
        found[f"metrics.jsonl row {number}"] = hashlib.sha256(json.dumps(kept).encode()).hexdigest()
    return found


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The names whose fingerprints differ."""
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
