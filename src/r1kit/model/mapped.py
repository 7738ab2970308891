"""Memory of weights that lie in files."""

import ctypes
import functools
import mmap
import sys
from typing import Any

from torch import Tensor

_PAGE_OUT = 21  # MADV_PAGEOUT of Linux 5.4: pages that are unchanged on the disk are read again when needed


@functools.cache
def _advise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    call = ctypes.CDLL(None).madvise
    call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return call


def give_back(tensor: Tensor) -> None:
    """Give the memory of a tensor back to the system as far as it can be read again: a tensor whose numbers
    are those of a file keeps its values and takes no memory until it is used. Nothing is lost: where the
    system cannot do that, nothing happens."""
    advise = _advise()
    if advise is None or tensor.device.type != "cpu":
        return
    storage = tensor.untyped_storage()
    first = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (storage.data_ptr() + storage.nbytes() - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        advise(first, length, _PAGE_OUT)
