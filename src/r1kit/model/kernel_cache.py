"""The folder of compiled kernels, and which of its files are trusted: a kernel is code that r1kit runs.

    engine-0123456789abcdef.so         the kernels; the name is a hash of what they were made from
    engine-0123456789abcdef.so.sha256  their SHA-256 and that name, as sha256sum writes it

The hash protects from accidents: damage, a file cut short by a power cut, a file put in another's place. It
does not protect from a user who can write here, since that user can also write the hash. So folder and file
are used only if they, and every folder and link on the way to them, belong to this user or to root and can be
written by no one else. r1kit makes the folder with mode 0700."""

import hashlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from r1kit.config import R1kitError
from r1kit.files import PRIVATE, sync, write_bytes

LARGEST = 64 << 20  # bytes of a file that is read; compiled kernels have less than one megabyte
_ROOT = 0
_MOST_LINKS = 40  # on one path, as in Linux


class UntrustedError(R1kitError):
    """A file of the cache that must not be loaded; the message names it and gives the reason."""


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/r1kit, else ~/.cache/r1kit; None for a user without a home folder. A path that is not
    absolute is ignored, as the XDG standard asks."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if caches.is_absolute():
        return caches / "r1kit"
    try:
        home = Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # no entry for this user, as in many containers
        return None
    return home / ".cache/r1kit" if home.is_absolute() else None


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing, with mode 0700. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)


def folder_error(folder: Path, user: int) -> str | None:
    """Why another user than ``user`` (a number) and root can change what a path leads to; None where they
    cannot. Folders that are missing are not judged. Raises OSError for a path that cannot be followed."""
    for place in _places(folder):
        try:
            found = place.lstat()
        except FileNotFoundError:
            return None
        if found.st_uid not in (user, _ROOT):
            return f"{place} belongs to {owner_name(found.st_uid)}, not to {owner_name(user)}"
        if stat.S_ISLNK(found.st_mode):
            continue
        if not stat.S_ISDIR(found.st_mode):
            return f"{place} is no folder"
        # In a folder such as /tmp a user can rename and remove only own files.
        sticky = found.st_mode & stat.S_ISVTX and place != folder
        if found.st_mode & 0o022 and not sticky:
            return f"{place} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def read_kernels(file: Path, user: int) -> bytes | None:
    """The bytes of a kernel file, read once and compared with their hash; None where there is no file.
    Raises UntrustedError for a file that is damaged, has no hash, was made under another name, or can be
    written by other users."""
    content = _read_own(file, user)
    if content is None:
        return None
    marked = _read_own(hash_name(file), user)
    if marked is None:
        raise UntrustedError(f"{hash_name(file)} is missing")
    if marked != _mark(file, content):
        raise UntrustedError(f"{file} does not have the SHA-256 that {hash_name(file).name} gives")
    if file.name.encode() not in content:
        raise UntrustedError(f"{file} was made under another name")
    return content


def keep_kernels(file: Path, content: bytes) -> None:
    """Write a kernel file and its hash, each whole. The hash comes first: without the file it stands for
    nothing. Raises OSError, and R1kitError for a folder or a pipe in the place of one of them."""
    for place in (file, hash_name(file)):
        if place.is_symlink():
            place.unlink()
    write_bytes(hash_name(file), _mark(file, content), PRIVATE)
    write_bytes(file, content, PRIVATE)
    sync(file.parent)


def hash_name(file: Path) -> Path:
    """The file that holds the hash of a kernel file."""
    return file.with_name(f"{file.name}.sha256")


def owner_name(user: int) -> str:
    """A user's name; the number where the system knows no name."""
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"


def _mark(file: Path, content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {file.name}\n".encode()


def _read_own(file: Path, user: int) -> bytes | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "is a link" if file.is_symlink() else f"cannot be read ({error.strerror})"
        raise UntrustedError(f"{file} {why}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UntrustedError(f"{file} is no file")
        if found.st_uid not in (user, _ROOT):
            raise UntrustedError(f"{file} belongs to {owner_name(found.st_uid)}, not to {owner_name(user)}")
        if found.st_mode & 0o022:
            raise UntrustedError(f"{file} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})")
        if not 0 < found.st_size <= LARGEST:
            raise UntrustedError(f"{file} has {found.st_size} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            return opened.read(LARGEST)
    finally:
        os.close(descriptor)


def _places(path: Path) -> Iterator[Path]:
    """Every folder and link that the system passes on the way to what an absolute path names, in order."""
    place, links = Path("/"), 0
    yield place
    waiting = list(reversed(path.parts[1:]))
    while waiting:
        part = waiting.pop()
        if part == "..":
            place = place.parent
            continue
        place /= part
        yield place
        if place.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"{path}: too many links")
            target = Path(os.readlink(place))
            place = Path("/") if target.is_absolute() else place.parent
            waiting += [part for part in reversed(target.parts) if part != "/"]
