"""What happens to memory that is freed: kept for the next use, or returned to the system."""

import contextlib
import ctypes


def keep_memory(largest: int = 1 << 30, one_heap: bool = False) -> None:
    """Make glibc keep freed memory, until ``return_memory``, instead of returning it to the system. Otherwise
    large tensors are mapped and cleared again at every use, which takes three times as long as the softmax
    over the vocabulary that uses them. Tensors of ``largest`` bytes are returned all the same; ``one_heap``:
    all threads share what is kept. Without glibc this does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in (
            (-3, largest),
            (-1, -1),
            (-2, 1 << 26),
            *(((-8, 1),) if one_heap else ()),
        ):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (never), M_TOP_PAD, M_ARENA_MAX
            libc.mallopt(option, value)


def return_memory() -> None:
    """Return what ``keep_memory`` keeps. Without glibc this does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
