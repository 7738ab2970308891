"""Files that are there whole or not at all: written to a temporary name, flushed to the disk, renamed."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace the file by ``text``; whoever reads it, even after a crash, sees the old text or the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def rename_whole(folder: Path, name: Path) -> None:
    """Give a finished folder its final name, so that it survives a power cut under that name."""
    folder.rename(name)
    descriptor = os.open(name.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
