"""A run's folder: check that it may be written, lock it for one process, and remove r1kit's files from it.

A folder may come from someone else, or hold other work. So nothing in it is written or removed through a
link; a folder that holds other files under r1kit's names and no run is not used; and only what r1kit wrote is
removed: stages by their records, the other files by their names."""

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from r1kit.config import ConfigError, R1kitError
from r1kit.files import (
    PRIVATE,
    is_temporary,
    naming,
    odd,
    odd_below,
    remove_named,
    remove_temporary,
    remove_tree,
    temporary_name,
)
from r1kit.log import STEP_FILE
from r1kit.records import DamageError, refuse_foreign, stage_folder, stage_folders
from r1kit.runs.fingerprint import FILE as FINISHED_FILE
from r1kit.trackers.settings import KINDS
from r1kit.trackers.tracker import TRACKING

REPORTS = ("report.md", "report.html", "report.json")
FILES = ("metrics.jsonl", "recipe.yaml", "env.json", *REPORTS, FINISHED_FILE)
FOLDERS = ("stages", "samples", "logs")
LOCK = "lock"
_ENVIRONMENT = {"command", "versions"}  # keys of env.json
_HOLDER = re.compile(rb"\d{0,20}\n?")  # the content of a lock


def check_folder(run_dir: Path, fresh: bool = False) -> None:
    """Check, before anything is written, that r1kit may write into a folder, and with ``fresh`` that it may
    remove a run from it. Raises ConfigError for links and other odd files where those of a run belong, and in
    a folder without a run for files in their places, with ``fresh`` for any file."""
    found = [(run_dir / name, odd(run_dir / name, stat.S_ISREG)) for name in (*FILES, LOCK)]
    found += [(run_dir / name, odd(run_dir / name, stat.S_ISDIR)) for name in FOLDERS]
    wrong = [(path, what) for path, what in found if what is not None]
    for name in FOLDERS:
        if (run_dir / name).is_dir() and not (run_dir / name).is_symlink():
            wrong += odd_below(run_dir / name)
    if wrong:
        path, what = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ConfigError(
            f"{path}: {what}, where a run has its own file or folder{more}. r1kit follows no link in a run's "
            "folder; nothing was changed. Put the file itself there, or choose another folder with --out DIR"
        )
    if holds_run(run_dir):
        return
    if taken := list(_taken(run_dir)):
        raise ConfigError(
            f"{run_dir} holds no run of r1kit, but other files where a run's would be: "
            f"{', '.join(taken)}; nothing was changed. Choose another folder with --out DIR"
        )
    if fresh and run_dir.is_dir() and (left := _left(run_dir)):
        raise ConfigError(
            f"--fresh: {run_dir} holds no run of r1kit, but {', '.join(left[:5])}; nothing was changed. Run "
            "without --fresh, or choose another folder with --out DIR"
        )


def holds_run(run_dir: Path) -> bool:
    """Whether r1kit has run in the folder: it has an env.json or a stage's record that r1kit wrote."""
    try:
        found = json.loads((run_dir / "env.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and found.keys() >= _ENVIRONMENT:
        return True
    for folder in stage_folders(run_dir):
        with contextlib.suppress(DamageError):
            if folder.finished() is not None or folder.begun() is not None:
                return True
    return False


def make_writable(run_dir: Path) -> None:
    """Make the folder where it is missing. Raises ConfigError where it cannot be written."""
    try:
        (run_dir / "stages").mkdir(parents=True, exist_ok=True)
        probe = temporary_name(run_dir / "stages/writable")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
        probe.unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(
            f"out: {run_dir} cannot be written: {why}; choose another folder with --out DIR"
        ) from None


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[Callable[[], None]]:
    """Hold the run's folder for this process; the system frees it however the process ends. Yields the check
    that the folder is still in its place, for whoever writes into it. Raises ConfigError where another
    process holds it, and for a lock that r1kit did not write."""
    path, held = run_dir / LOCK, run_dir.stat()
    with os.fdopen(_open_lock(path), "r+b", buffering=0) as file:
        holder = file.read(64)
        if not _HOLDER.fullmatch(holder):
            raise ConfigError(
                f"{path}: not written by r1kit, whose lock is in this place; nothing was changed. Move it "
                "away, or choose another folder with --out DIR"
            )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{run_dir}: another process (id {holder.decode().strip() or 'unknown'}) works on this run: "
                "wait for it or stop it, or choose another folder with --out DIR"
            ) from None
        if os.fstat(file.fileno()).st_nlink == 1:  # a hard link is another file, too: its content stays
            with naming(path):
                os.ftruncate(file.fileno(), 0)
                os.pwrite(file.fileno(), f"{os.getpid()}\n".encode(), 0)
        yield lambda: check_place(run_dir, held)


def check_place(run_dir: Path, held: os.stat_result) -> None:
    """Raise R1kitError where the run's folder is no longer the one that this process holds, because it or a
    folder above it was moved or has become a link, and where a folder in it has become a link."""
    moved = None
    try:
        if not os.path.samestat(run_dir.stat(), held):
            moved = run_dir
    except OSError:
        moved = run_dir
    if moved is None:
        folders = [run_dir / name for name in FOLDERS]
        inner = [
            Path(entry.path) for folder in folders[:2] if folder.is_dir() for entry in os.scandir(folder)
        ]
        moved = next((path for path in (*folders, *inner) if path.is_symlink()), None)
    if moved is not None:
        raise R1kitError(
            f"{moved}: no longer the folder in which this run began (it, or a folder above it, was moved or "
            "has become a link); nothing is written there. Put the folder back, then rerun"
        )


def _open_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, PRIVATE)
        with contextlib.suppress(PermissionError):  # another user's: it can be locked all the same
            os.fchmod(descriptor, PRIVATE)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM):
            why = odd(path, stat.S_ISREG) or error.strerror
            raise ConfigError(
                f"{path}: cannot be opened ({why}); choose another folder with --out DIR"
            ) from None
        raise
    return descriptor


def sweep(run_dir: Path) -> None:
    """Remove the temporary files that killed processes have left in the folder of a run."""
    places = [run_dir, *(run_dir / name for name in FOLDERS), *run_dir.glob("stages/*")]
    for place in [*places, *(path for path in run_dir.glob("samples/**") if path.is_dir())]:
        if place.is_dir() and not place.is_symlink():
            remove_temporary(place)


def forget(run_dir: Path, names: Sequence[str] = ()) -> list[str]:
    """Remove the files that r1kit wrote into a run's folder, and no others. ``names`` are the stages that are
    to run. Returns what is left, by its path in the folder. Raises ConfigError, before anything is removed,
    where a stage's folder holds files that the stage did not write."""
    known = [folder for folder in stage_folders(run_dir) if folder.is_recorded()]
    new = [stage_folder(run_dir, name) for name in names if name not in {folder.name for folder in known}]
    refuse_foreign([*known, *new])
    stages = "|".join(re.escape(name) for name in {*names, *(folder.name for folder in known)})
    for folder in [*known, *new]:
        folder.remove()
    remove_named(run_dir / "samples", STEP_FILE)
    remove_named(run_dir / "logs", re.compile(rf"({stages})\.txt"))
    for kind in KINDS:  # what trackers wrote for r1kit
        if (written := run_dir / TRACKING / kind).is_dir() and not (run_dir / TRACKING).is_symlink():
            remove_tree(written)
    with contextlib.suppress(OSError):
        (run_dir / TRACKING).rmdir()
    for name in FILES:
        (run_dir / name).unlink(missing_ok=True)
    return _left(run_dir)


def _taken(run_dir: Path) -> Iterator[str]:
    """What is where a run's files would be, besides what an empty run's folder has."""
    yield from (name for name in FILES if (run_dir / name).exists())
    for name in FOLDERS:
        if (run_dir / name).is_dir() and not all(
            is_temporary(path.name) for path in (run_dir / name).iterdir()
        ):
            yield name


def _left(run_dir: Path) -> list[str]:
    """What a folder holds besides empty folders of a run and the lock: files of those folders one by one,
    others by their name."""
    found = []
    for path in sorted(run_dir.iterdir()):
        if path.name in FOLDERS:
            files = (inner for inner in path.rglob("*") if inner.is_symlink() or not inner.is_dir())
            found += sorted(inner.relative_to(run_dir).as_posix() for inner in files)
        elif path.name != LOCK and not is_temporary(path.name):
            found.append(path.name)
    return found
