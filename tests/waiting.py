"""Waiting for what another process does. The limit is for a process that never does it: on a busy machine
everything takes long, so no test depends on how long."""

import time
from collections.abc import Callable

LIMIT_S = 240.0  # below the limit of a whole test (pyproject.toml)


def wait_until(reached: Callable[[], bool], what: str) -> None:
    """Return when ``reached`` is true. Raises AssertionError that names ``what`` where it never is."""
    end = time.monotonic() + LIMIT_S
    while not reached():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {LIMIT_S:.0f} s")
        time.sleep(0.02)
