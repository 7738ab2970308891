"""The pictures of docs/ui.md: every page of ``r1kit ui``, light and dark, wide and narrow, of a finished run.

    python benchmarks/pictures.py [RUN] [--only PAGE] [--to FOLDER]

Needs the extras ui and browser, and Chromium. A picture is docs/pictures/PAGE-MODE[-narrow].png; look at each
before it is committed."""

import argparse
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from driving import chromium, missing, served_pages, visitor

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
LARGEST = 150_000  # bytes of a picture
SIZES = {"": (1280, 960), "-narrow": (400, 860)}


def board(page: Any, address: str) -> None:
    """The board with its first curves."""
    page.goto(f"{address}/?stage=r1_zero")
    page.locator(".r1-chart canvas").first.wait_for()


def rollouts(page: Any, address: str) -> None:
    """A group side by side."""
    page.goto(f"{address}/rollouts?stage=r1_zero&step=10")
    cards = page.get_by_role("button").filter(has_text="r1_zero, step")
    wrong = cards.filter(has_text="accuracy 0")
    cards.first.wait_for()
    (wrong if wrong.count() else cards).first.click()
    page.get_by_text("rollouts of a problem").wait_for()


def talk(page: Any, address: str) -> None:
    """Three models and a problem, with the verdicts."""
    page.goto(f"{address}/talk")
    page.get_by_label("seed").fill("3")
    page.locator(".r1-models").get_by_text("arrow_drop_down").click()
    for model in ("pretrain", "r1_zero"):
        page.get_by_role("option", name=re.compile(rf"^{model}\b")).click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="random problem").click()
    page.get_by_text("its check will judge").wait_for()
    page.get_by_role("button", name="ask", exact=True).click()
    page.wait_for_function("() => document.querySelectorAll('.r1-verdict').length === 3")


PAGES: dict[str, Callable[[Any, str], None]] = {"board": board, "rollouts": rollouts, "talk": talk}


def take(browser: Any, address: str, name: str, to: Path) -> None:
    """The four pictures of a page. Raises SystemExit for one that is too large."""
    for mode in ("light", "dark"):
        for suffix, (width, height) in SIZES.items():
            size = {"width": width, "height": height}
            with visitor(browser, address, viewport=size, color_scheme=mode) as page:
                PAGES[name](page, address)
                page.wait_for_timeout(1500)  # charts, fonts and scrolling
                file = to / f"{name}-{mode}{suffix}.png"
                page.screenshot(path=file)
            smaller(file)
            print(f"{file}: {file.stat().st_size:,} bytes")
            if file.stat().st_size > LARGEST:
                sys.exit(f"{file} has more than {LARGEST:,} bytes")


def smaller(file: Path) -> None:
    """Write a picture again with the best compression, where that is smaller."""
    data = file.read_bytes()
    parts, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        parts.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    packed = zlib.compress(zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT")), 9)
    found = data[:8]
    for kind, body in [parts[0], (b"IDAT", packed), (b"IEND", b"")]:
        found += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    if len(found) < len(data):
        file.write_bytes(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/mini"))
    parser.add_argument("--only", choices=PAGES)
    parser.add_argument("--to", type=Path, default=PICTURES)
    given = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    given.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with served_pages([given.run], place / "cache", place / "log") as address, chromium() as browser:
            for name in [given.only] if given.only else PAGES:
                take(browser, address, name, given.to)


if __name__ == "__main__":
    main()
