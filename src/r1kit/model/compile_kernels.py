"""Kernels as a shared library: compiled at first use by the system's C++ compiler, and cached under a hash of
source, compiler, flags and processor.

The cache is $XDG_CACHE_HOME/r1kit, else ~/.cache/r1kit. If the processor has no AVX-512 with bfloat16, or
there is no compiler, ``library`` raises KernelsUnavailableError with the reason, and callers use PyTorch."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from r1kit.config import R1kitError

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
NEEDED = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"})


class KernelsUnavailableError(R1kitError):
    """The kernels cannot run here; the message gives the reason."""


@functools.cache
def library(source: Path) -> ctypes.CDLL:
    """The loaded kernels of ``source``, compiled with the other files of its folder unless they are in the
    cache. Raises KernelsUnavailableError."""
    flags = _processor_flags()
    if missing := sorted(NEEDED - flags):
        raise KernelsUnavailableError(
            f"the kernels need {', '.join(missing)}, which this processor does not have"
        )
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise KernelsUnavailableError("there is no C++ compiler: install g++ or set CXX")
    path = _cache_folder() / f"{source.stem}-{_fingerprint(source, compiler, flags)}.so"
    try:
        if not path.exists():
            compile_source(source, compiler, path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelsUnavailableError(f"{path}: cannot be written or loaded: {error}") from None


def in_use(source: Path) -> tuple[str | None, str]:
    """The file name of the compiled kernels of ``source``, which identifies all that they were made from; or
    None and the reason why there are none."""
    try:
        return Path(library(source)._name).stem, ""
    except KernelsUnavailableError as error:
        return None, str(error)


def _processor_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1kit"


def _fingerprint(source: Path, compiler: str, flags: frozenset[str]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    content = hashlib.sha256("\n".join((version, *FLAGS, *sorted(flags))).encode())
    for file in sorted(source.parent.iterdir()):
        content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()[:16]


def compile_source(source: Path, compiler: str, path: Path) -> None:
    """Compile ``source`` to the library ``path``. Raises KernelsUnavailableError with the compiler's
    output."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may compile at once: each renames its own complete file to the final name.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, str(source), "-o", str(made)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise KernelsUnavailableError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
        made.replace(path)
