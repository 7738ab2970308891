"""The pages in a real browser: ``r1kit ui`` in a process of its own, and Debian's Chromium without a screen.

    with served_pages([run]) as address, chromium() as browser, visitor(browser, address) as page:
        page.goto(f"{address}/label")

``visitor`` refuses every request that leaves the machine and every error of the page's own scripts."""

import http.client
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from waiting import wait_until

from r1kit.model.kernel_cache import cache_folder

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_S = 120  # a busy machine


def missing() -> str:
    """What the browser tests lack here, with the fix; "" where nothing is missing."""
    if find_spec("nicegui") is None:
        return "the extra ui is not installed (make ui)"
    if find_spec("playwright") is None:
        return "the driver is not installed: pip install 'r1kit[browser]'"
    if executable() is None:
        return "no Chromium: apt-get install chromium, or name one in R1KIT_CHROMIUM"
    return ""


def executable() -> str | None:
    """The browser's program."""
    named = os.environ.get("R1KIT_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a screen."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not run as root; the pages are this machine's own.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable(), args=[*options, "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visitor(browser: Any, address: str, **context: Any) -> Iterator[Any]:
    """A page of a visitor of his own. Raises AssertionError at the end for requests to elsewhere and for
    errors in the page's scripts. ``context``: viewport, color_scheme and such."""
    opened = browser.new_context(**context)
    faults: list[str] = []

    def route(request: Any) -> None:
        if request.request.url.startswith((address, "data:", "blob:")):
            request.continue_()
        else:
            faults.append(f"asked {request.request.url}")
            request.abort()

    opened.route("**/*", route)
    page = opened.new_page()
    page.set_default_timeout(START_S * 1000)
    page.on("pageerror", lambda error: faults.append(f"error in the page: {error}"))
    try:
        yield page
    finally:
        opened.close()
    assert not faults, faults


@contextmanager
def served_pages(runs: Sequence[Path], cache: Path, log: Path) -> Iterator[str]:
    """``r1kit ui`` on a free port: its address. ``cache`` is for its index, ``log`` for what it writes."""
    bring_kernels(cache)
    command = [sys.executable, "-m", "r1kit", "ui", *map(str, runs), "--port", "0", "--no-browser"]
    # NiceGUI serves nothing where it believes that it is itself tested.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as written:
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=written, text=True)
        try:
            yield _address(server, log)
        finally:
            server.terminate()
            server.wait(timeout=60)


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served_files(folder: Path) -> Iterator[str]:
    """The files of a folder on a free port: its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def bring_kernels(cache: Path) -> None:
    """Copy the kernels that this user has compiled to a cache of one's own, which saves half a minute."""
    own, there = cache_folder(), cache / "r1kit"
    there.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in own.glob("*.so*") if own is not None else ():
        if not (there / file.name).exists():
            shutil.copy2(file, there / file.name)


def _address(server: "subprocess.Popen[str]", log: Path) -> str:
    """The address that the server prints, once it answers."""
    assert server.stdout is not None
    ready, _, _ = select.select([server.stdout], [], [], START_S)
    line = server.stdout.readline() if ready else ""
    assert "http://" in line, f"r1kit ui did not start: {line}{log.read_text()}"
    address = line[line.index("http://") :].split()[0].rstrip("/")
    _wait_for(address, server, log)
    return address


def _wait_for(address: str, server: "subprocess.Popen[str]", log: Path) -> None:
    def answers() -> bool:
        assert server.poll() is None, f"r1kit ui has ended: {log.read_text()}"
        with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)) as connection:
            try:
                connection.request("GET", "/")
                return connection.getresponse().status == 200
            except OSError:
                return False

    wait_until(answers, "r1kit ui answers")
