"""What the parts of chaos.py share: processes that do a piece of work, commands of r1kit in them, the
contents of a run's folder, and counts of outcomes."""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What an undisturbed run does not repeat: times, the machine's state, and what is made from them.
TIMES = ("env.json", "finished.json", "lock", "run.lock", "report.md", "report.html", "report.json")
# Of a record: no times, and no hashes of files with times.
COMPARED = ("stage", "name", "config", "seed", "files", "setting", "outputs")


@dataclass
class Tally:
    """The outcomes of the kills, errors or damages of one kind."""

    what: str
    where: str = ""
    done: int = 0
    identical: int = 0
    recovered: int = 0
    refused: int = 0
    wrong: int = 0

    def count(self, done: int, outcome: str) -> None:
        self.done += done
        setattr(self, outcome, getattr(self, outcome) + done)

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.done}, identical: {self.identical}, "
            f"recovered with a warning: {self.recovered}, refused with a reason: {self.refused}, "
            f"wrong: {self.wrong}"
        )


def print_totals(tallies: Sequence[Tally]) -> int:
    """Print the sums by kind; return how many were wrong."""
    for what in dict.fromkeys(tally.what for tally in tallies):
        found = [tally for tally in tallies if tally.what == what]
        names = ("done", "identical", "recovered", "refused", "wrong")
        print(Tally(what, "", *(sum(getattr(tally, name) for tally in found) for name in names)))
    return sum(tally.wrong for tally in tallies)


def fork(work: Callable[[], None], output: Path) -> int:
    """Do ``work`` in a process group of its own, with its output in a file. Returns the process's id."""
    sys.stdout.flush()
    sys.stderr.flush()
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
        if isinstance(ended.code, str):
            print(ended.code)
        code = 1 if isinstance(ended.code, str) else int(ended.code or 0)
    except Exception:
        traceback.print_exc()
    finally:
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def r1kit(*words: str) -> None:
    """Run a command of r1kit in this process, as the command line does."""
    from r1kit.commands.cli import main

    sys.argv = ["r1kit", *words]
    main()


def run_recipe(recipe: Path, out: Path) -> None:
    """Run a recipe in this process, as the command line does."""
    r1kit("run", str(recipe), "--out", str(out))


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


def wait_or_end(pid: int, seconds: float) -> int | None:
    """As ``wait``; a process group that still runs after ``seconds`` is killed, and the answer is None."""
    code = wait(pid, seconds)
    if code is None:
        os.killpg(pid, signal.SIGKILL)
        wait(pid, None)
    return code


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder by its path; a link counts as what it points to."""
    found = {}
    for place, _, names in os.walk(folder, followlinks=True):
        for path in (Path(place, name) for name in names):
            name = path.relative_to(folder).as_posix()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    return found


def fingerprint(run_dir: Path) -> dict[str, str]:
    """SHA-256 by name of everything that a run writes, without times: models, data, reports of stages,
    rollouts, records, the recipe, metrics. A file that cannot be read counts with its bytes.

    Metrics count stage by stage: a stage that is done once more adds its rows after those of later stages."""
    found = {name: digest for name, digest in contents(run_dir).items() if name not in TIMES}
    for name in [name for name in found if name.endswith("stage.json")]:
        try:
            record = json.loads((run_dir / name).read_text(encoding="utf-8"))
            found[name] = _hash({key: record.get(key) for key in COMPARED})
        except (OSError, ValueError, AttributeError):
            continue
    try:
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = sorted((json.loads(line) for line in lines), key=lambda row: str(row.get("stage")))
        found["metrics.jsonl"] = _hash([{k: v for k, v in row.items() if not _is_time(k)} for row in rows])
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        pass
    return found


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The names whose fingerprints differ."""
    return [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]


def import_everything() -> None:
    """Import what commands need, once, for all forked processes. Nothing of it is used before a fork."""
    import r1kit.commands.chat
    import r1kit.commands.export
    import r1kit.report.report
    import r1kit.runs.execute
    import r1kit.runs.verify
    import r1kit.runtime
    import r1kit.stages

    assert r1kit.runs.execute and r1kit.report.report and r1kit.runtime and r1kit.stages
    assert r1kit.commands.chat and r1kit.commands.export and r1kit.runs.verify


def _is_time(name: str) -> bool:
    return name == "time" or name.startswith("time/")


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
