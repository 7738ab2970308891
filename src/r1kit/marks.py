"""Marks: the size and SHA-256 that a file had when it was written, and JSON objects that hold their own hash.

``hash_once`` remembers a hash for as long as a file's size, times and inode stay, within one process: what a
command reads several times is hashed once. Nothing is remembered on the disk."""

import functools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from r1kit.config import Config
from r1kit.files import hash_file, hash_text

OWN_HASH = "sha256"  # the key of an object's own hash

_COMMENT = f"# {OWN_HASH}: "
_SETTLED_S = 2.0  # a file that changed within this time may change again without another time stamp
_SERIAL_BYTES = 16e6  # up to this size threads gain nothing


class FileMark(Config):
    """Size and SHA-256 of a file when it was written."""

    bytes: int
    sha256: str


def hash_once(path: Path) -> str:
    """The SHA-256 of a file. It is computed once per process while the file stays as it is."""
    found = path.stat()
    if time.time() - max(found.st_mtime, found.st_ctime) < _SETTLED_S:
        return hash_file(path)
    return _hash(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@functools.cache
def _hash(path: Path, *_: int) -> str:
    return hash_file(path)


def hash_all(paths: Sequence[Path]) -> list[str]:
    """``hash_once`` of each file, several at a time where they are large."""
    if sum(path.stat().st_size for path in paths) < _SERIAL_BYTES:
        return [hash_once(path) for path in paths]
    with ThreadPoolExecutor(max(1, min(8, len(os.sched_getaffinity(0)), len(paths)))) as threads:
        return list(threads.map(hash_once, paths))


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its path in it, in order."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def mark_file(path: Path) -> FileMark:
    """The mark of a file."""
    return FileMark(bytes=path.stat().st_size, sha256=hash_once(path))


def mark_files(folder: Path, ignored: Iterable[str] = ()) -> dict[str, FileMark]:
    """The mark of every file below a folder, by its path in it."""
    left_out = set(ignored)
    paths = {name: path for name, path in files_below(folder).items() if name not in left_out}
    hashes = hash_all(list(paths.values()))
    return {
        name: FileMark(bytes=path.stat().st_size, sha256=digest)
        for (name, path), digest in zip(paths.items(), hashes, strict=True)
    }


def mark_damages(folder: Path, marks: Mapping[str, FileMark], writer: str) -> Iterator[str]:
    """What is wrong with the marked files of a folder, each with its name. ``writer``: what wrote them."""
    whole = []
    for name, mark in marks.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing"
        elif (size := path.stat().st_size) != mark.bytes:
            yield f"{path}: {size} bytes, {mark.bytes} were written"
        else:
            whole.append((path, mark))
    for (path, mark), digest in zip(whole, hash_all([path for path, _ in whole]), strict=True):
        if digest != mark.sha256:
            yield f"{path}: its SHA-256 is not that of what {writer} wrote"


def hash_tree(folder: Path) -> str:
    """One hash for the names and contents of all files below a folder."""
    paths = files_below(folder)
    hashes = hash_all(list(paths.values()))
    return hash_text("".join(f"{name} {digest}\n" for name, digest in zip(paths, hashes, strict=True)))


def seal_lines(text: str) -> str:
    """A text with its own hash in a comment at the end."""
    return f"{text}{_COMMENT}{hash_text(text)}\n"


def lines_damage(text: str) -> str | None:
    """What is wrong with a text of ``seal_lines``; None where it is whole, or has no hash."""
    own, comment, digest = text.rpartition(_COMMENT)
    if comment and digest.strip() != hash_text(own):
        return "its hash is not that of its text"
    return None


def hash_object(data: Mapping[str, Any]) -> str:
    """The SHA-256 of an object's canonical JSON (sorted keys, no spaces, ASCII), without its own hash."""
    own = {key: value for key, value in data.items() if key != OWN_HASH}
    return hash_text(json.dumps(own, sort_keys=True, separators=(",", ":")))


def seal(data: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its own hash at the end."""
    return {**data, OWN_HASH: hash_object(data)}


def seal_damage(data: Mapping[str, Any]) -> str | None:
    """What is wrong with the own hash of an object; None where it fits. An object without one is damaged."""
    if OWN_HASH not in data:
        return f"{OWN_HASH}: this key is needed"
    if data[OWN_HASH] != hash_object(data):
        return f"{OWN_HASH}: not the hash of the other keys, so one of them is not as it was written"
    return None
