"""The pictures of docs/ui.md: every page of ``r1kit ui``, light and dark, wide and narrow, of a finished run.

    python benchmarks/pictures.py [RUN] [--only PAGE] [--to FOLDER]

The pages for labels show a run that is made for them: it waits for people, and its pairs are answers that the
finished run gave in its trainings. Two annotators have begun; which side is better they decide by length.

Needs the extras ui and browser, and Chromium. A picture is docs/pictures/PAGE-MODE[-narrow].png; look at each
before it is committed."""

import argparse
import json
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from driving import chromium, missing, served_pages, visitor
from label_fakes import write_waiting_run

from r1kit.chat import parse
from r1kit.data.labels import LabelStore, Pair, judge, pair_of
from r1kit.records import label_file

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
LARGEST = 150_000  # bytes of a picture
SIZES = {"": (1280, 960), "-narrow": (400, 860)}


def board(page: Any, address: str) -> None:
    """The board with its first curves."""
    page.goto(f"{address}/?stage=r1_zero")
    page.locator(".r1-chart canvas").first.wait_for()


def rollouts(page: Any, address: str) -> None:
    """A group side by side, the tokens of its first rollout unfolded."""
    page.goto(f"{address}/rollouts?stage=r1_zero&step=10")
    cards = page.get_by_role("button").filter(has_text="r1_zero, step")
    wrong = cards.filter(has_text="accuracy 0")
    cards.first.wait_for()
    (wrong if wrong.count() else cards).first.click()
    page.get_by_text("rollouts of a problem").wait_for()
    tokens = page.get_by_text(re.compile(r"^tokens \("))
    if tokens.count():
        tokens.first.click()
        page.get_by_text("The redder").wait_for()


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


def label(page: Any, address: str) -> None:
    """A pair, blind, with the keys."""
    page.goto(f"{address}/label?annotator=ann")
    page.get_by_role("button", name="left is better").wait_for()


def label_unsafe(page: Any, address: str) -> None:
    """The second question after the key for unsafe: which side."""
    label(page, address)
    page.wait_for_timeout(1000)  # a key that comes sooner was meant for the pair before
    page.get_by_role("button", name="unsafe (5)").click()
    page.get_by_role("button", name="left is unsafe").wait_for()


def label_name(page: Any, address: str) -> None:
    """An annotator who has given no name yet."""
    page.goto(f"{address}/label")
    page.get_by_role("button", name="begin").wait_for()


def write(page: Any, address: str) -> None:
    """An answer that is corrected."""
    label(page, address)
    page.get_by_text("write a better answer").click()
    page.get_by_role("button", name="the left answer").click()
    page.get_by_role("button", name="save").wait_for()


PAGES: dict[str, Callable[[Any, str], None]] = {"board": board, "rollouts": rollouts, "talk": talk}
LABEL_PAGES: dict[str, Callable[[Any, str], None]] = {
    "label": label,
    "label-unsafe": label_unsafe,
    "label-name": label_name,
    "write": write,
}
WANTED, PAIRS_PER_GROUP = 60, 6  # labels that the run waits for


def pairs_of(run: Path) -> list[Pair]:
    """Pairs of different answers to an open general prompt that a run gave in its trainings, at most
    PAIRS_PER_GROUP of a group, the latest first."""
    answers: dict[tuple[str, str], dict[str, None]] = {}  # of a prompt, without repetitions
    for file in sorted((run / "samples").glob("*/*.jsonl"), key=lambda file: file.name, reverse=True):
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if row["problem"].startswith("general/open/") and parse(row["text"]):
                answers.setdefault((str(file), row["prompt"]), {})[row["text"]] = None
    pairs = [
        pair_of(prompt, one, other)
        for (_, prompt), texts in answers.items()
        for one, other in list(combinations(texts, 2))[:PAIRS_PER_GROUP]
    ]
    return list({pair.id: pair for pair in pairs}.values())


def waiting_run(run: Path, to: Path) -> Path:
    """A run that waits for labels, some of which are given. Raises SystemExit where a run has no pairs."""
    pairs = pairs_of(run)
    if not pairs:
        sys.exit(f"{run}/samples has no two answers to an open general prompt; take a run of mini.yaml")
    store = LabelStore(label_file(write_waiting_run(to, pairs, WANTED), "label_1"))
    for annotator, chosen in (("ann", pairs[:9]), ("ben", pairs[4:14])):
        for number, pair in enumerate(chosen):
            longer = "better" if len(pair.first) > len(pair.second) else "worse"
            store.add(judge(pair, annotator, "tie" if number % 5 == 4 else longer, number, 4.0))
    return to


def take(browser: Any, address: str, name: str, to: Path) -> None:
    """The four pictures of a page. Raises SystemExit for one that is too large."""
    for mode in ("light", "dark"):
        for suffix, (width, height) in SIZES.items():
            size = {"width": width, "height": height}
            with visitor(browser, address, viewport=size, color_scheme=mode) as page:
                (PAGES | LABEL_PAGES)[name](page, address)
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
    parser.add_argument("--only", choices=[*PAGES, *LABEL_PAGES])
    parser.add_argument("--to", type=Path, default=PICTURES)
    given = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    given.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        place = Path(folder)
        for pages in (PAGES, LABEL_PAGES):
            names = [name for name in pages if given.only in (None, name)]
            if not names:
                continue
            run = given.run if pages is PAGES else waiting_run(given.run, place / "feedback")
            with served_pages([run], place / "cache", place / "log") as address:
                for name in names:
                    take(browser, address, name, given.to)


if __name__ == "__main__":
    main()
