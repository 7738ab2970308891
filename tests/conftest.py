"""Fixtures that several files share."""

from collections.abc import Iterator

import pytest

from r1kit.runtime.local import LocalConfig, LocalRuntime


@pytest.fixture
def two() -> Iterator[LocalRuntime]:
    """A runtime of two processes, which samples in float32."""
    runtime = LocalRuntime(LocalConfig(processes=2, engine_precision="float32"))
    yield runtime
    runtime.close()
