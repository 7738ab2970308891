"""Kinds of damage to a file or folder, each a function of its path and of chance. What a kind cannot do to a
path (cut lines of a file without lines, say) it leaves undone."""

import hashlib
import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.runs import contents

FLIPS = 16  # bits, where many are flipped
TEXTS = (".json", ".jsonl", ".yaml", ".md", ".html", ".txt", ".jinja", ".sha256", "")


@dataclass(frozen=True)
class Source:
    """Where damage comes from: chance, other files or folders of the same kind, and a folder outside the run
    that links may point to."""

    chance: random.Random
    others: Sequence[Path]
    outside: Path


Damage = Callable[[Path, Source], None]


def flip(path: Path, source: Source) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[source.chance.randrange(len(content))] ^= 1 << source.chance.randrange(8)
        path.write_bytes(content)


def flip_many(path: Path, source: Source) -> None:
    """Flip bits in many places; in a library among its constants, so that they change results."""
    content = bytearray(path.read_bytes())
    begin, end = _constants(bytes(content)) if path.suffix == ".so" else (0, len(content))
    for _ in range(FLIPS if content else 0):
        content[source.chance.randrange(begin, end)] ^= 1 << source.chance.randrange(8)
    path.write_bytes(content)


def empty(path: Path, source: Source) -> None:
    """Leave a file of no bytes, as a power cut does."""
    path.write_bytes(b"")


def halve(path: Path, source: Source) -> None:
    """Cut the file in its middle."""
    os.truncate(path, path.stat().st_size // 2)


def shorten(path: Path, source: Source) -> None:
    """Cut the last byte."""
    os.truncate(path, max(0, path.stat().st_size - 1))


def append(path: Path, source: Source) -> None:
    """Add bytes at the end."""
    with path.open("ab") as file:
        file.write(source.chance.choice((b"\0", b"\n", b"{}\n", b"x" * 64, b"\xff\xfe")))


def edit(path: Path, source: Source) -> None:
    """Replace one digit, so that a text stays well-formed; in numbers that are not a file's times."""
    content = path.read_bytes()
    places = [match.start() for match in re.finditer(rb"[0-9]", content)]
    if path.suffix in TEXTS and places:
        place = source.chance.choice(places)
        digit = source.chance.choice([d for d in b"123456789" if d != content[place]])
        path.write_bytes(content[:place] + bytes([digit]) + content[place + 1 :])


def rename_key(path: Path, source: Source) -> None:
    """Change a letter within the name of a key."""
    content = path.read_bytes()
    places = [match.end(1) - 1 for match in re.finditer(rb'"?([A-Za-z_]{3,})"?: ', content)]
    if path.suffix in TEXTS and places:
        place = source.chance.choice(places)
        path.write_bytes(
            content[:place] + (b"q" if content[place] != b"q"[0] else b"z") + content[place + 1 :]
        )


def lose_line(path: Path, source: Source) -> None:
    """Remove one line."""
    _change_lines(path, lambda lines, n: [*lines[:n], *lines[n + 1 :]], source)


def double_line(path: Path, source: Source) -> None:
    """Repeat one line."""
    _change_lines(path, lambda lines, n: [*lines[:n], lines[n], *lines[n:]], source)


def swap_lines(path: Path, source: Source) -> None:
    """Exchange two lines that follow each other."""
    _change_lines(path, lambda lines, n: [*lines[:n], *lines[n : n + 2][::-1], *lines[n + 2 :]], source)


def lose_rest(path: Path, source: Source) -> None:
    """Remove the last lines."""
    _change_lines(path, lambda lines, n: lines[: max(1, n)], source)


def become_list(path: Path, source: Source) -> None:
    """Replace a JSON object by another JSON value."""
    if path.suffix == ".json":
        path.write_text(source.chance.choice(("{}", "[]", "null", "[1]", '"x"', "1e999", "NaN")))


def foreign(path: Path, source: Source) -> None:
    """Put another file or folder of the same kind in its place: of another part, stage, step or run."""
    if source.others:
        other = source.chance.choice(source.others)
        remove(path)
        if other.is_dir():
            shutil.copytree(other, path)
        else:
            shutil.copyfile(other, path)


def delete(path: Path, source: Source) -> None:
    """Remove it."""
    remove(path)


def link(path: Path, source: Source) -> None:
    """Move it outside the run and leave a link to it."""
    outside = source.outside / path.name
    shutil.move(path, outside)
    path.symlink_to(outside)


def link_elsewhere(path: Path, source: Source) -> None:
    """Replace it by a link to something else of the same form, outside the run."""
    outside = source.outside / f"precious_{path.name}"
    if path.is_dir():
        outside.mkdir()
        (outside / "precious.txt").write_text("precious")
    else:
        outside.write_text("precious")
    remove(path)
    path.symlink_to(outside)


def link_nowhere(path: Path, source: Source) -> None:
    """Replace it by a link to a name that is not there."""
    remove(path)
    path.symlink_to(source.outside / "nothing_here")


def folder(path: Path, source: Source) -> None:
    """Replace a file by a folder, a folder by a file."""
    is_folder = path.is_dir()
    remove(path)
    if is_folder:
        path.write_text("")
    else:
        path.mkdir()


def stranger(path: Path, source: Source) -> None:
    """Add a file that r1kit did not write to a folder."""
    (path / "stranger.bin").write_bytes(b"\0" * 8)


LINKS = {"link": link, "link elsewhere": link_elsewhere, "link to nothing": link_nowhere}
OF_FILES: Mapping[str, Damage] = {
    "one bit": flip,
    "bits": flip_many,
    "empty": empty,
    "half": halve,
    "last byte": shorten,
    "append": append,
    "digit": edit,
    "key": rename_key,
    "lose line": lose_line,
    "double line": double_line,
    "swap lines": swap_lines,
    "lose rest": lose_rest,
    "other JSON": become_list,
    "foreign": foreign,
    "delete": delete,
    "folder": folder,
    **LINKS,
}
OF_FOLDERS: Mapping[str, Damage] = {
    "foreign": foreign,
    "delete": delete,
    "folder": folder,
    "stranger": stranger,
    **LINKS,
}


def remove(path: Path) -> None:
    """Remove a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _change_lines(path: Path, change: Callable[[list[bytes], int], list[bytes]], source: Source) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if path.suffix in TEXTS and len(lines) > 1:
        path.write_bytes(b"".join(change(lines, source.chance.randrange(len(lines) - 1))))


def _constants(content: bytes) -> tuple[int, int]:
    """Begin and end of a library's read-only data (the section .rodata of a 64-bit ELF file); of the whole
    file if it has none."""
    if content[:4] != b"\x7fELF":
        return 0, len(content)
    table, size, count, names = (
        struct.unpack_from("<Q", content, 0x28)[0],
        *struct.unpack_from("<HHH", content, 0x3A),
    )
    sections = [struct.unpack_from("<IIQQQQ", content, table + size * n) for n in range(count)]
    texts = sections[names][4]
    for name, _, _, _, begin, length in sections:
        if content[texts + name : texts + name + 8] == b".rodata\0":
            return begin, begin + length
    return 0, len(content)


def describe(path: Path) -> str:
    """What is there, for comparing before and after: the content, where a link leads, or the kind."""
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return json.dumps(contents(path))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "nothing"
