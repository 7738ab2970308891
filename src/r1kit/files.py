"""Write files atomically (to a temporary name, flushed to the disk, then renamed), and hash them."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError

POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST_JSON = 200_000_000  # bytes of a JSON file of a checkpoint; the largest tokenizers have a tenth
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def disk_error(error: BaseException) -> str | None:
    """The message for a full or broken disk: the file, why, and what to do; None for any other error."""
    if not (isinstance(error, OSError) and error.errno in _DISK):
        return None
    return f"{error.filename or 'a file'}: {error.strerror}; free space or repair the disk"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path of the file, or of its folder, to the errors of a full or broken disk that come without
    one."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: Path, text: str) -> None:
    """Replace the file's content by ``text`` atomically: a reader, even after a crash, sees the old text or
    the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    with naming(path), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def rename_whole(folder: Path, name: Path) -> None:
    """Give a finished folder its final name: whole, also after a power cut."""
    sync_tree(folder)
    folder.rename(name)
    sync(name.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until all that a folder holds is on the disk."""
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that it holds, if it is there. Errors name the folder."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def remove_at_once(folder: Path) -> None:
    """Remove a folder atomically: it is renamed first, so a reader, even after a crash, sees the whole folder
    or none."""
    gone = folder.with_name(f".{folder.name}.gone.tmp")
    remove_tree(gone)
    folder.rename(gone)
    remove_tree(gone)


def pointer_error(path: Path) -> str | None:
    """What is wrong with a file that git-lfs has not brought yet; None for any other file."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) != POINTER:
            return None
    return f"{path}: a git-lfs pointer, not the file itself; run: git -C {path.parent} lfs pull"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint. Raises ConfigError naming the file, what is wrong and the
    fix."""
    try:
        if error := pointer_error(path):
            raise ConfigError(error)
        if (size := path.stat().st_size) > LONGEST_JSON:
            raise ConfigError(f"{path}: {size} bytes; {LONGEST_JSON} are read, so this is another file")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); copy the file again") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: a JSON object is expected, not {found!r:.40}; copy the file again")
    return found


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
