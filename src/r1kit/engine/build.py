"""The engine's kernels, compiled at first use (model/build.py). Where they cannot run decoding goes through PyTorch."""

import ctypes
from pathlib import Path

from r1kit.model import build
from r1kit.model.build import KernelsUnavailableError

__all__ = ["SOURCE", "KernelsUnavailableError", "library"]

SOURCE = Path(__file__).parent / "kernels" / "engine.cpp"


def library() -> ctypes.CDLL:
    """The loaded kernels, compiled if they have not been. Raises KernelsUnavailableError."""
    return build.library(SOURCE)
