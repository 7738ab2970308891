"""What the tests of the pages share: a browser, a nano recipe that trains while they run, a run whose models
write slowly, and the server of both. A page's test asks for ``open_page``:

    def test_labels_are_given_by_keyboard(open_page):
        page = open_page("/label", run="slow")
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from driving import bring_kernels, chromium, missing, served_pages, visitor
from waiting import wait_until
from web_fakes import HOSTILE, rollout, write_samples

RECIPES = Path(__file__).parents[2] / "recipes"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests, with the reason, where a browser or its driver is missing."""
    reason = missing()
    if "PYTEST_XDIST_WORKER" in os.environ:
        reason = "driven apart, so that only one recipe trains next to them: make test-pages"
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for training and pages, with the kernels that were compiled already."""
    folder = tmp_path_factory.mktemp("cache")
    bring_kernels(folder)
    return folder


@pytest.fixture(scope="session")
def training(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a nano recipe that trains as long as the tests run: its third RL stage has many steps."""
    folder = tmp_path_factory.mktemp("training")
    recipe, run = folder / "long.yaml", folder / "nano"
    recipe.write_text(
        f"name: long\nextends: {RECIPES / 'nano.yaml'}\nstages:\n  reasoning_rl: {{grpo: {{steps: 5000}}}}\n"
    )
    command = [sys.executable, "-m", "r1kit", "run", str(recipe), "--out", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or (run / "recipe.yaml").exists(), "the recipe starts")
        assert process.poll() is None, f"the recipe has ended: {(folder / 'log').read_text()}"
        yield run
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose models are slow enough to be stopped while they write, one whose answers begin with hostile
    text, and a hostile rollout."""
    from talk_fakes import finish_stage, talking_run

    wider = {"preset": "mini", "width": 512, "layers": 8, "max_positions": 8192}
    run = talking_run(tmp_path_factory.mktemp("slow") / "slow", "{mul: 1}", **wider)
    finish_stage(run, "hostile", "sft", 1500.0, opening=HOSTILE, **wider)
    write_samples(run, "zero", 9, [rollout(HOSTILE, 0, 0.0, text=f"<think>{HOSTILE}</think>{HOSTILE}")])
    return run


@pytest.fixture(scope="session")
def address(
    training: Path, slow: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where the pages of both runs are."""
    folder = tmp_path_factory.mktemp("pages")
    with served_pages([training, slow], cache, folder / "log") as found:
        yield found
    written = (folder / "log").read_text()
    assert "Traceback" not in written, written


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser without a screen."""
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open a page as a new visitor: ``open_page("/talk", run="nano")``."""
    with ExitStack() as stack:

        def opened(path: str, context: dict[str, Any] | None = None, **keys: str) -> Any:
            page = stack.enter_context(visitor(browser, address, **(context or {})))
            page.goto(f"{address}{path}?{urlencode(keys)}")
            return page

        yield opened
