"""Scratch folders of jobs in tiers without namespaces: one a job, empty at its start, removed at its end.

In namespaces the kernel bounds a job's /tmp. Here the zygote looks at the folders now and then, and a job
whose folder holds more than a /tmp could is killed. What a job makes may be hostile: folders that are deep,
closed, or symbolic links to elsewhere. So no link is followed, and a tree is removed without descending into
it."""

import contextlib
import itertools
import os
import time

WATCH_SECONDS = 0.05
LARGEST_BYTES, MOST_ENTRIES, DEEPEST = 64 << 20, 10_000, 64


class Folders:
    """The scratch folders below ``parent``, by the number of their job."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.jobs: set[int] = set()
        self.watched = time.monotonic()

    def path(self, job: int) -> str:
        """The folder of a job."""
        return f"{self.parent}/{job}"

    def make(self, job: int) -> None:
        """Make a job's folder. Raises OSError."""
        os.mkdir(self.path(job), 0o700)
        self.jobs.add(job)

    def remove(self, job: int) -> None:
        """Remove a job's folder, once the job has ended."""
        self.jobs.discard(job)
        remove_tree(self.path(job))

    def too_full(self) -> list[int]:
        """The jobs whose folders hold too much; looks at most every WATCH_SECONDS."""
        if time.monotonic() - self.watched < WATCH_SECONDS:
            return []
        found = [job for job in self.jobs if is_too_full(self.path(job))]
        self.watched = time.monotonic()
        return found


def is_too_full(folder: str) -> bool:
    """Whether a folder holds more than LARGEST_BYTES or MOST_ENTRIES, or is deeper than DEEPEST."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return min(_left(descriptor, (LARGEST_BYTES, MOST_ENTRIES), DEEPEST)) < 0
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _left(descriptor: int, left: tuple[int, int], depth: int) -> tuple[int, int]:
    """How many bytes and entries of ``left`` a folder does not use; negative where it uses more, or where it
    holds a folder that cannot be read."""
    size, entries = left
    if depth == 0:
        return -1, -1
    with os.scandir(descriptor) as found:
        for entry in found:
            entries -= 1
            if min(size, entries) < 0:
                break
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                size, entries = _without(entry, descriptor, (size, entries), depth)
    return size, entries


def _without(entry: "os.DirEntry[str]", parent: int, left: tuple[int, int], depth: int) -> tuple[int, int]:
    if not entry.is_dir(follow_symlinks=False):
        # The blocks that the file uses: a long file may be sparse.
        return left[0] - entry.stat(follow_symlinks=False).st_blocks * 512, left[1]
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        inner = os.open(entry.name, flags, dir_fd=parent)
    except FileNotFoundError:
        raise
    except OSError:
        return -1, -1
    try:
        return _left(inner, left, depth - 1)
    finally:
        os.close(inner)


def remove_tree(folder: str) -> None:
    """Remove a folder and what it holds, however deep: inner folders are first moved up into ``folder``. What
    cannot be removed stays."""
    names = itertools.count()
    before: list[str] = []
    while (inner := _remove_files(folder)) and inner != before:
        for path in inner:
            for below in _remove_files(path):
                with contextlib.suppress(OSError):
                    os.rename(below, f"{folder}/r1kit-{next(names)}")
            with contextlib.suppress(OSError):
                os.rmdir(path)
        before = inner
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _remove_files(folder: str) -> list[str]:
    """Remove what is no folder in ``folder``; return its folders, opened for what comes next."""
    inner = []
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    inner.append(entry.path)
                else:
                    os.unlink(entry.path)
    return sorted(inner)
