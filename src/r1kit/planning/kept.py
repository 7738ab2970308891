"""What was measured on this machine, remembered: rates.json in r1kit's cache, under a hash of processor,
versions, r1kit's own code and everything that was measured."""

import functools
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from r1kit.files import hash_file, hash_text, write_whole
from r1kit.model.kernel_cache import cache_folder, make_folder

Measured = TypeVar("Measured")


def measured_once(
    asked: Mapping[str, Any], source: Path, measure: Callable[[], Measured],
    to_plain: Callable[[Measured], Any], from_plain: Callable[[Any], Measured],
) -> Measured:  # fmt: skip
    """What ``measure``, whose code is in ``source``, finds, measured at most once for what is ``asked``;
    without a place for the cache, each time."""
    machine = [_processor(), os.cpu_count(), torch.__version__, _code(source)]
    key, kept = hash_text(json.dumps([machine, asked], sort_keys=True)), _Kept.at()
    try:
        return from_plain(kept.read()[key])
    except (KeyError, TypeError, ValueError):
        found = measure()
        kept.put(key, to_plain(found))
        return found


@functools.cache
def _code(source: Path) -> str:
    """One hash for the code whose speed is measured, and for how it is measured."""
    package = Path(__file__).parents[1]
    files = (file for part in ("engine", "model", "train") for file in (package / part).rglob("*"))
    measured = sorted(file for file in files if file.suffix in (".py", ".cpp", ".h"))
    hashed = (f"{file.relative_to(package)} {hash_file(file)}\n" for file in (source, *measured))
    return hash_text("".join(hashed))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


@dataclass(frozen=True, slots=True)
class _Kept:
    """The file; without a place for it nothing is kept."""

    file: Path | None

    @classmethod
    def at(cls) -> "_Kept":
        folder = cache_folder()
        return cls(None if folder is None else folder / "rates.json")

    def read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8")) if self.file else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def put(self, key: str, plain: Any) -> None:
        if self.file is None:
            return
        try:
            make_folder(self.file.parent)
            write_whole(self.file, json.dumps({**self.read(), key: plain}))
        except OSError:  # only a measurement is lost
            return
