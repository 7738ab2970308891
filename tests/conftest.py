"""Fixtures that several files share, and how the tests are shared among processes (pytest -n)."""

import functools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Forked

from r1kit.runtime.local import LocalConfig, LocalRuntime

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the hub
# The tests start some hundred processes. Where compiled files may not be kept, each of them would compile all
# modules of r1kit again, which is half of what it costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts what follows `&` with Ctrl-C ignored; the tests of interruptions would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The files that take longest come first, so that no process ends long after the others.
LONGEST = (
    "test_chaos", "test_fsdp", "test_ray_run", "test_nano", "test_recipes", "test_off_policy", "test_ray",
    "test_preferences_stage", "test_prompt_settings", "test_planning_world", "test_gate", "test_sandbox",
    "test_math_workers", "test_programs", "test_recipe_run", "test_reliability_faults", "test_cli",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))  # otherwise as they were


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one process, so that what they share is made once."""
    from xdist.scheduler import LoadFileScheduling  # an option of the tests

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@functools.cache
def has_pages(file: Path) -> bool:
    """Whether a file of tests may use NiceGUI's simulated user, itself or through the fakes of pages."""
    text = file.read_text(encoding="utf-8")
    return "nicegui" in text or "web_fakes" in text or "talk_fakes" in text


@pytest.fixture(autouse=True)
def modules_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    """NiceGUI's simulated user takes the modules of its pages, and the packages above them, out of
    ``sys.modules``. Later tests would then import r1kit once more, next to the one they hold."""
    if not has_pages(request.path):
        yield
        return
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "r1kit"}
    yield
    sys.modules.update(ours)


@pytest.fixture
def two() -> Iterator[LocalRuntime]:
    """A runtime of two processes, which samples in float32."""
    runtime = LocalRuntime(LocalConfig(processes=2, engine_precision="float32"))
    yield runtime
    runtime.close()


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """Programs in processes of their own that start at once."""
    programs = Forked(tmp_path_factory.mktemp("forked"))
    yield programs
    programs.close()
