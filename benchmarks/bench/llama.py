"""llama.cpp at the same work, on two models: SmolLM2-135M-Instruct, whose weights r1kit reads from the folder
that models/get.py makes of a GGUF file, and llama.cpp from the file itself, or from its own conversion of it;
and the 30m model of the other lines, which is written as a GGUF file in float32 and converted by llama.cpp.

A line is two processes on one core in turns: r1kit in one precision, llama.cpp in one, and so many rows of at
most 64 sampled tokens, eight to a prompt of 64 tokens. The lengths of r1kit's completions are imposed on
llama.cpp, as on every peer."""

import json
import math
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import r1kit
from bench.models import NEVER, make
from bench.page import DASH, replace_marked, table
from bench.peers import PEERS, PeerError, python_of, versions
from bench.race import START_SECONDS, Measured, Side, SideError, Spread, race, ratios
from bench.results import machine, record, revision, stamp
from bench.work import SHAPES
from r1kit.files import write_whole
from r1kit.model.config import ModelConfig
from r1kit.model.config_json import read_config

OPEN, CLOSE = "<!-- llama -->", "<!-- /llama -->"
MODELS = Path(__file__).parents[2] / "models"
NAME = "SmolLM2-135M-Instruct"
FOLDER, GGUF = MODELS / NAME, MODELS / f"{NAME}.Q4_1.gguf"
SMALL = "30m"
SOURCE = Path(r1kit.__file__).parents[1]
ROWS, GROUP, PROMPT, NEW = (1, 16, 64), 8, 64, 64
SAME_CLASS, SMALLEST = 1.5, 2.0  # wanted: at 16 and 64 rows; against 4 bits at one row
FIRST_WORD = 20  # ids below are special tokens


@dataclass(frozen=True, slots=True)
class Pair:
    """A model, r1kit in one precision, llama.cpp in one, and so many rows."""

    model: str
    own: str
    other: str
    rows: int

    @property
    def name(self) -> str:
        return f"{self.model}/{self.own}/{self.other}/{self.rows}"

    @property
    def wanted(self) -> float | None:
        """The least ratio that is wanted."""
        if self.other == "q4_1":
            return SMALLEST if self.rows == 1 else None
        return SAME_CLASS if self.rows > 1 else None


# The same class of precision side by side, and the file as it is next to r1kit's 8 bits.
PAIRS = tuple(
    Pair(model, own, other, rows)
    for model in (NAME, SMALL)
    for own, other in (("bfloat16", "bf16"), ("int8", "q8_0"), ("int8", "q4_1"))
    for rows in ROWS
)


def files_of(pair: Pair, out: Path) -> tuple[Path, Path]:
    """The pair's model as a folder and as a GGUF file. Raises PeerError."""
    if pair.model == NAME:
        return FOLDER, GGUF
    try:
        from bench.gguf_file import write_gguf  # needs the package gguf
    except ImportError as error:
        raise PeerError(f"{pair.model} cannot be written as a GGUF file: {error}") from None
    config = ModelConfig.parse(SHAPES[SMALL], f"shape {SMALL}")
    folder = make(out / "models" / f"{SMALL}-{config.vocab_size}-endless", config, NEVER)
    return folder, write_gguf(folder, out / "models" / f"{SMALL}-F32.gguf")


def order_of(pair: Pair, folder: Path, gguf: Path, scratch: Path) -> dict[str, Any]:
    """What both sides are started with."""
    group = min(pair.rows, GROUP)
    drawn, vocabulary = random.Random("llama"), read_config(folder).vocab_size
    prompts = [
        [drawn.randrange(FIRST_WORD, vocabulary) for _ in range(PROMPT)] for _ in range(pair.rows // group)
    ]
    return {
        "kind": "rollout", "cores": 1, "folder": str(folder), "gguf": str(gguf), "scratch": str(scratch),
        "prompts": prompts, "group": group, "new_tokens": NEW,
    }  # fmt: skip


def measure(
    pair: Pair, out: Path, python: Path, core: Sequence[int], repeats: int
) -> dict[str, list[Measured]]:
    """Both sides in turns. Raises SideError and PeerError."""
    order = order_of(pair, *files_of(pair, out), out / "scratch")
    sides: dict[str, Side] = {}
    try:
        for name, runs, script, paths in (
            ("r1kit", Path(sys.executable), "side_r1kit.py", [SOURCE]),
            ("llama", python, "side_llama.py", []),
        ):
            sides[name] = Side(runs, script, core, out / "logs" / f"{name}.log", paths, 1)
            precision = pair.own if name == "r1kit" else pair.other
            sides[name].ask({**order, "precision": precision}, START_SECONDS)
        measured, failed = race(sides, repeats, int(time.time()) % 100_000)
    finally:
        for side in sides.values():
            side.close()
    if failed:
        raise SideError(f"llama.cpp: {failed['llama']}")
    return measured


def compare(
    out: Path, peers: Path, repeats: int, resume: bool, minutes: float | None, page: Path | None
) -> bool:
    """Measure every pair and write the page; where something is missing, print what and how to get it, and
    measure nothing. Return whether all is measured."""
    if missing := [str(path) for path in (FOLDER, GGUF) if not path.exists()]:
        commands = "`python models/get.py` and `python models/get.py --gguf`"
        print(f"llama.cpp is left out: {' and '.join(missing)} missing; {commands} bring them")
        return True
    try:
        python = python_of(PEERS["llama"], peers)
    except PeerError as error:
        print(f"llama.cpp is left out: llama-cpp-python cannot be installed: {error}")
        return True
    (out / "logs").mkdir(parents=True, exist_ok=True)
    file, until = out / "llama.json", time.monotonic() + 60 * minutes if minutes is not None else math.inf
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if content.get("machine") != machine():
        content = {"machine": machine(), "pairs": {}}
    content["versions"] = versions(PEERS["llama"], python)
    core = sorted(os.sched_getaffinity(0))[-1:]
    for pair in PAIRS:
        if resume and content["pairs"].get(pair.name, {}).get("revision") == revision():
            continue
        if time.monotonic() >= until:
            return False
        load = os.getloadavg()[0]
        measured = measure(pair, out, python, core, repeats)
        content["pairs"][pair.name] = kept(measured) | {"load": round(load, 1), **stamp()}
        write_whole(file, json.dumps(content, indent=1, sort_keys=True) + "\n")
        print(f"llama {pair.name}: {' | '.join(row_of(pair, content['pairs'][pair.name]))}")
    if page is not None:
        print(replace_marked(page, OPEN, CLOSE, compose(content)))
    return True


def kept(measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """What the file holds of a pair: rates, memory and the ratio, with every repeat."""
    return {
        "ratio": ratios(measured["r1kit"], measured["llama"], 1).json(),
        "sides": {
            name: {
                "rate": Spread.of([each.rate(1) for each in found]).json(),
                "peak_mb": round(max(each.peak_mb for each in found)),
                "repeats": [record(each) for each in found],
            }
            for name, found in measured.items()
        },
    }


def row_of(pair: Pair, found: Mapping[str, Any]) -> list[str]:
    """A line of the table."""
    own, other, ratio = found["sides"]["r1kit"], found["sides"]["llama"], found["ratio"]
    reached = "reached" if pair.wanted and ratio["median"] >= pair.wanted else "**missed**"
    return [
        pair.model, f"{pair.own}, {pair.other}", str(pair.rows), f"{own['rate']['median']:,.0f}",
        f"{other['rate']['median']:,.0f}",
        f"**{ratio['median']:.2f}** ({ratio['least']:.2f}..{ratio['most']:.2f})",
        f"{reached} ({pair.wanted:g})" if pair.wanted else DASH, f"{own['peak_mb']:,}",
        f"{other['peak_mb']:,}",
    ]  # fmt: skip


def compose(content: Mapping[str, Any]) -> str:
    """The text between the marks."""
    pairs: Mapping[str, Any] = content.get("pairs", {})
    if not pairs:
        return "Not measured yet."
    dates, loads = (
        sorted({each["date"] for each in pairs.values()}),
        [each["load"] for each in pairs.values()],
    )
    named = ", ".join(f"{name} {version}" for name, version in content["versions"].items() if name != "torch")
    repeats = min(len(each["sides"]["llama"]["repeats"]) for each in pairs.values())
    said = (
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {content['machine']['processor']}; "
        f"{named}; source revision {', '.join(dict.fromkeys(each['revision'] for each in pairs.values()))}; "
        f"{repeats} pairs; load average when a line began: {min(loads):.1f} to {max(loads):.1f}. "
        f"A prompt of {PROMPT} tokens for {GROUP} rows, at most {NEW} tokens a row, one core."
    )
    header = [
        "model", "r1kit's precision, llama.cpp's", "rows", "r1kit tok/CPU-s", "llama.cpp tok/CPU-s", "ratio",
        "wanted", "r1kit peak MB", "llama.cpp peak MB",
    ]  # fmt: skip
    rows = [row_of(pair, pairs[pair.name]) for pair in PAIRS if pair.name in pairs]
    return said + "\n\n" + table(header, rows)
