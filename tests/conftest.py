"""Fixtures that several files share."""

import os
from collections.abc import Iterator

import pytest

from r1kit.runtime.local import LocalConfig, LocalRuntime

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the hub


@pytest.fixture
def two() -> Iterator[LocalRuntime]:
    """A runtime of two processes, which samples in float32."""
    runtime = LocalRuntime(LocalConfig(processes=2, engine_precision="float32"))
    yield runtime
    runtime.close()
