"""Write files atomically (to a temporary name, flushed to the disk, then renamed), remove and hash them.

Nothing is written through a link, and nothing is removed behind one: a run's folder may come from someone
else, and a link in it could lead to any file of the user."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from r1kit.config import ConfigError, R1kitError

POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
LONGEST_JSON = 200_000_000  # bytes of a JSON file of a checkpoint; the largest tokenizers have a tenth
PRIVATE = 0o600  # the mode of files that hold commands, which may contain passwords
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)
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


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` when the block ends: a reader, even after a crash, sees the
    old content or the new one. ``mode`` is reduced by the umask.

    The temporary name is random and opened exclusively, so nothing that is there is written through or
    overwritten. Raises R1kitError where ``path`` is a link or a folder."""
    refuse_odd(path)
    temporary = temporary_name(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with naming(path), os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace the file's content by ``text`` (``replacing``)."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace the file's content by ``content`` (``replacing``)."""
    with replacing(path, mode) as file:
        file.write(content)


def temporary_name(path: Path) -> Path:
    """A name next to ``path`` that no other process uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def is_temporary(name: str) -> bool:
    """Whether ``temporary_name`` makes such names: what a killed process leaves behind."""
    return _TEMPORARY.fullmatch(name) is not None


def refuse_odd(path: Path) -> None:
    """Raise R1kitError where ``path`` is there and is no file."""
    if (found := odd(path, stat.S_ISREG)) is not None:
        raise R1kitError(f"{path}: {found}, where r1kit writes a file; nothing was changed. Move it away")


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing. Raises R1kitError where one of them is there
    and is no folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        for place in reversed((folder, *folder.parents)):
            if not place.is_dir() and (found := odd(place, stat.S_ISDIR)) is not None:
                raise R1kitError(
                    f"{place}: {found}, where r1kit has a folder; nothing was changed. Move it away"
                ) from None
        raise


def odd(path: Path, expected: Callable[[int], bool]) -> str | None:
    """What ``path`` is where it is there and its mode is not the ``expected`` one; None otherwise."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if expected(mode):
        return None
    if stat.S_ISLNK(mode):
        return f"a link to {os.readlink(path)}"
    return (
        "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a pipe, socket or device"
    )


def odd_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every link, pipe, socket and device in a folder, at any depth, and what it is; links are not
    followed."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from odd_below(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry.path), odd(Path(entry.path), stat.S_ISREG) or "gone"


def open_to_append(path: Path) -> IO[bytes]:
    """The file, opened without a buffer to add to its end.

    A file that has another name elsewhere (a hard link) is copied first, so that only this name's content
    changes. Raises R1kitError where ``path`` is a link or no file."""
    refuse_odd(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0)
    if os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        write_bytes(path, path.read_bytes())
        file = os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0)
    return file


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
    """Remove a folder with all that it holds, if it is there; links in it are removed and not followed.
    Raises R1kitError for a link in the folder's place. Errors name the folder."""
    _refuse_no_folder(folder)
    try:
        shutil.rmtree(folder)  # by descriptors of folders, so it follows no link
    except FileNotFoundError:
        if folder.exists():
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def remove_at_once(folder: Path) -> None:
    """Remove a folder atomically: it is renamed first, so a reader, even after a crash, sees the whole folder
    or none."""
    _refuse_no_folder(folder)
    for stale in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        if is_temporary(stale.name):
            remove_tree(stale)
    gone = temporary_name(folder)
    folder.rename(gone)
    remove_tree(gone)


def _refuse_no_folder(folder: Path) -> None:
    if (found := odd(folder, stat.S_ISDIR)) is not None:
        raise R1kitError(f"{folder}: {found}, where r1kit has a folder; nothing was removed. Move it away")


def remove_named(folder: Path, names: re.Pattern[str]) -> None:
    """Remove the files of a folder, at any depth, whose whole name matches, then the folders that are
    empty. Links are not followed."""
    _refuse_no_folder(folder)
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            if names.fullmatch(name) or is_temporary(name):
                Path(place, name).unlink()
        with contextlib.suppress(OSError):  # it holds something else
            Path(place).rmdir()


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes have left directly in a folder under temporary names."""
    with contextlib.suppress(FileNotFoundError):
        for path in [Path(entry.path) for entry in os.scandir(folder) if is_temporary(entry.name)]:
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)


def pointer_error(path: Path) -> str | None:
    """What is wrong with a file that git-lfs has not brought yet; None for any other file."""
    with path.open("rb") as file:
        if not file.read(max(map(len, POINTERS))).startswith(POINTERS):
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
    except ConfigError:
        raise
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
