"""A run's folder: check that it is writable, lock it for one process, and remove r1kit's files from it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from r1kit.config import ConfigError
from r1kit.files import naming, remove_tree
from r1kit.records import stage_folders
from r1kit.runs.fingerprint import FILE as FINISHED_FILE

REPORTS = ("report.md", "report.html", "report.json")
MADE_HERE = ("stages", "samples", "logs", "metrics.jsonl", "recipe.yaml", "env.json", *REPORTS, FINISHED_FILE)


def make_writable(run_dir: Path) -> None:
    """Make the folder where it is missing. Raises ConfigError where it cannot be written."""
    try:
        (run_dir / "stages").mkdir(parents=True, exist_ok=True)
        probe = run_dir / "stages/.writable"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(
            f"out: {run_dir} cannot be written: {why}; choose another folder with --out DIR"
        ) from None


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run's folder for this process; the system frees it however the process ends. Raises
    ConfigError where another process holds it."""
    with (run_dir / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"{run_dir}: another process (id {holder}) works on this run: wait for it or stop it, or "
                "choose another folder with --out DIR"
            ) from None
        with naming(run_dir / "lock"):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        yield


def forget(run_dir: Path) -> None:
    """Remove the files that r1kit writes into a run's folder, and no others."""
    for folder in stage_folders(run_dir):
        folder.remove()
    for name in MADE_HERE:
        path = run_dir / name
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
