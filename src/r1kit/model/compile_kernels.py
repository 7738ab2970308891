"""Kernels as a shared library: compiled at first use by the system's C++ compiler, and kept in a cache
(kernel_cache.py) under a hash of source, compiler, flags and processor.

The bytes that are loaded are the bytes that were hashed: a file of the cache is read once, compared with its
SHA-256, and loaded from a sealed copy in memory, so a change on the disk after the check has no effect. A
file that is damaged, or that another user can write, is compiled again, with a warning. Where the cache's
folder cannot be trusted or written, the kernels are compiled for this process and its helpers only.

If the processor has no AVX-512, or there is no compiler, ``library`` raises
KernelsUnavailableError with the reason, and callers use PyTorch."""

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r1kit.config import R1kitError
from r1kit.model import kernel_cache
from r1kit.model.kernel_cache import UntrustedError

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
)
_STARTS = 3  # of a compiler that a signal ends
_NAMED = "-Wl,-soname,"  # a library knows its name, so another one in its place is recognised
NEEDED = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
COMMON = Path(__file__).parent / "kernels" / "bfloat16.h"  # the one file that kernels of other folders read


class KernelsUnavailableError(R1kitError):
    """The kernels cannot run here; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Loaded kernels. ``name`` identifies what they were made from, ``content`` are their bytes with the hash
    ``sha256``; ``origin`` says where they came from, and ``kept`` whether the next process finds them."""

    library: ctypes.CDLL
    name: str
    content: bytes
    sha256: str
    origin: str
    kept: bool


@dataclass(frozen=True, slots=True)
class SharedKernels:
    """What a process gives its helpers, so that all of them run the same bytes."""

    source: Path
    name: str
    content: bytes


# The kernels of this process, by source: a library stays loaded until the process ends.
_loaded: dict[Path, Kernels] = {}


def library(source: Path) -> ctypes.CDLL:
    """The loaded kernels of ``source``, compiled with the other files of its folder unless they are in the
    cache. Raises KernelsUnavailableError."""
    return kernels(source).library


def kernels(source: Path) -> Kernels:
    """The kernels of ``source``, loaded once in this process. Raises KernelsUnavailableError."""
    if source not in _loaded:
        _loaded[source] = load(source)
    return _loaded[source]


def in_use(source: Path) -> tuple[Kernels | None, str]:
    """The kernels of ``source``; or None and the reason why there are none."""
    try:
        return kernels(source), ""
    except KernelsUnavailableError as error:
        return None, str(error)


def in_words(source: Path) -> tuple[Literal["kept", "not kept", "unavailable"], str]:
    """The state of the kernels of ``source`` for a user: whether the next process finds them, and their name,
    file, owner and hash; or why they do not run."""
    found, why = in_use(source)
    if found is None:
        return "unavailable", f"PyTorch, since {' '.join(why.split())[:300]}"
    return "kept" if found.kept else "not kept", f"{found.name}, SHA-256 {found.sha256[:12]}, {found.origin}"


def shared() -> list[SharedKernels]:
    """The kernels that this process has loaded, for ``adopt`` in its helpers."""
    return [SharedKernels(source, found.name, found.content) for source, found in _loaded.items()]


def adopt(given: Sequence[SharedKernels]) -> None:
    """Load the kernels of the process that started this one, whatever the cache holds now."""
    for one in given:
        origin = "from the process that started this one"
        _loaded[one.source] = _loaded_from(one.content, one.name, origin, kept=True)


def load(source: Path) -> Kernels:
    """Load the kernels of ``source`` from the cache, or compile and keep them. Raises
    KernelsUnavailableError."""
    flags = processor_flags()
    if missing := sorted(NEEDED - flags):
        raise KernelsUnavailableError(
            f"the kernels need {', '.join(missing)}, which this processor does not have"
        )
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise KernelsUnavailableError("there is no C++ compiler: install g++ or set CXX")
    try:
        name = f"{source.stem}-{_fingerprint(source, compiler, flags)}"
        folder, refusal = _usable_folder()
        if folder is None:
            warn(f"{refusal}; kernels are compiled for this command only")
            content = _compiled(source, compiler, name)
            return _loaded_from(content, name, f"compiled now, since {refusal}", kept=False)
        return _load_through(folder / f"{name}.so", source, compiler)
    except OSError as error:
        raise KernelsUnavailableError(f"{source.stem}: cannot be compiled or loaded: {error}") from None


def _load_through(file: Path, source: Path, compiler: str) -> Kernels:
    """Load a kernel file of the cache; where it is missing or cannot be used, compile it and keep it."""
    reason = ""
    try:
        if (content := kernel_cache.read_kernels(file, os.geteuid())) is not None:
            owner = kernel_cache.owner_name(file.stat().st_uid)
            return _loaded_from(content, file.stem, f"as recorded; {file} of {owner}", kept=True)
    except (UntrustedError, OSError) as error:
        reason = str(error)
    content = _compiled(source, compiler, file.stem)
    try:
        kernel_cache.keep_kernels(file, content)
    except (R1kitError, OSError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        refusal = "; ".join(filter(None, [reason, f"{file.parent} cannot be written ({why})"]))
        warn(f"{refusal}; kernels are compiled for this command only")
        return _loaded_from(content, file.stem, f"compiled now, since {refusal}", kept=False)
    if reason:
        warn(f"{reason}; compiled again")
    made = f"compiled now, since {reason}" if reason else "compiled now"
    origin = f"{made}; {file} of {kernel_cache.owner_name(os.geteuid())}"
    return _loaded_from(content, file.stem, origin, kept=True)


@functools.cache
def warn(text: str) -> None:
    """Print a warning on standard error, once in this process."""
    print(f"r1kit: warning: {text}", file=sys.stderr)


def _usable_folder() -> tuple[Path | None, str]:
    """The cache's folder, made where it is missing; or None and why it is not used."""
    folder = kernel_cache.cache_folder()
    if folder is None:
        return None, "this user has no home folder (set HOME or XDG_CACHE_HOME)"
    try:
        if error := kernel_cache.folder_error(folder, os.geteuid()):
            return None, error
        kernel_cache.make_folder(folder)
        error = kernel_cache.folder_error(folder, os.geteuid())
    except OSError as problem:
        return None, f"{folder} cannot be made or read ({problem.strerror or problem})"
    return (None, error) if error else (folder, "")


def _loaded_from(content: bytes, name: str, origin: str, kept: bool) -> Kernels:
    digest = hashlib.sha256(content).hexdigest()
    return Kernels(_open(content, name), name, content, digest, origin, kept)


def _open(content: bytes, name: str) -> ctypes.CDLL:
    """Load a library from its bytes: from a sealed file in memory, or, where the system refuses that, from a
    folder that only this user can read, which is removed at once."""
    try:
        # Stays open: the loader knows a library by its path, and a number used again is the same path.
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except OSError:
        with tempfile.TemporaryDirectory(prefix="r1kit-") as folder:
            path = Path(folder, f"{name}.so")
            path.write_bytes(content)
            return ctypes.CDLL(str(path))


def processor_flags() -> frozenset[str]:
    """The instructions that this processor has by /proc/cpuinfo; none where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(named, "").split())


def _fingerprint(source: Path, compiler: str, flags: frozenset[str]) -> str:
    version = _output_of([compiler, "--version"])
    content = hashlib.sha256("\n".join((version, *FLAGS, _NAMED, *sorted(flags))).encode())
    for file in sorted({*source.parent.iterdir(), COMMON}):
        content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()[:16]


def _compiled(source: Path, compiler: str, name: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="r1kit-") as folder:
        made = Path(folder, f"{name}.so")
        compile_source(source, compiler, made)
        return made.read_bytes()


def compile_source(source: Path, compiler: str, path: Path) -> None:
    """Compile ``source`` to the library ``path``, which holds its own name. Raises KernelsUnavailableError
    with the compiler's output."""
    _output_of([compiler, *FLAGS, _NAMED + path.name, str(source), "-o", str(path)])


def _output_of(command: list[str]) -> str:
    """What a compiler prints. One that a signal has ended is started again, because other kernels, or none,
    would give other numbers. Raises KernelsUnavailableError with its errors."""
    for _ in range(_STARTS):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode >= 0:
            break
    if result.returncode:
        raise KernelsUnavailableError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return result.stdout
