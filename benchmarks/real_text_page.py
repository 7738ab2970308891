"""Write what became of 200 MB of real text into docs/data.md, with a drawing, from a finished run of
recipes/real-text.yaml and the folder that data/real_text.py has filled:

    python benchmarks/real_text_page.py runs/real-text data/real-text"""

import argparse
import itertools
import json
import math
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_choice import PAGE, fill
from figures import framed

from r1kit.model.config_json import read_config
from r1kit.model.huggingface import load_pretrained
from r1kit.report.charts import Line, line_chart

FIGURE = Path(__file__).parents[1] / "docs/figures/real_text.svg"
SIZES = ("small", "middle", "large")


def report(run: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "stages" / stage / "report.json").read_text())
    return found


def parameters(run: Path, stage: str) -> int:
    """Parameters of a stage's model, embeddings counted once."""
    model = load_pretrained(run / "stages" / stage / "model")
    return sum(weight.numel() for weight in {id(p): p for p in model.parameters()}.values())


def curated(run: Path) -> list[str]:
    """What curation read, kept and dropped."""
    lines = ["| source | pages read | kept | MB of text kept | dropped |", "|---|---:|---:|---:|---|"]
    for name, found in report(run, "curate")["sources"].items():
        counts: Counter[str] = Counter()
        for reason, count in found["dropped"].items():
            counts["of other languages" if reason.startswith("language_") else reason] += count
        dropped = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        size = found["kept_characters"] / 1e6
        lines.append(f"| {name} | {found['read']} | {found['kept']} | {size:.1f} | {dropped} |")
    return lines


def scaling(run: Path) -> tuple[list[str], str]:
    """The table of held-out losses by size, and its drawing."""
    losses = report(run, "held_out_loss")["losses"]
    lines = [
        "| model | parameters | width x layers | tokens | held-out loss, nats a token |",
        "|---|---:|---|---:|---:|",
    ]
    points = []
    for name in SIZES:
        shape = read_config(run / "stages" / name / "model")
        count, loss = parameters(run, name), losses[name]["held_out"]
        tokens = report(run, name)["tokens"]
        lines.append(f"| {name} | {count:,} | {shape.width} x {shape.layers} | {tokens:,} | {loss:.3f} |")
        points.append((math.log10(count), loss))
    falls = all(one[1] > other[1] for one, other in itertools.pairwise(points))
    lines += [
        "",
        "The loss falls with size."
        if falls
        else "The loss does not fall with size at this number of tokens.",
    ]
    low = min(loss for _, loss in points)
    high = max(loss for _, loss in points)
    drawn = line_chart(
        "Held-out loss by size", [Line("held-out", points)], "log10 of parameters", "nats per token",
        y_range=(low - 0.1, high + 0.1),
    )  # fmt: skip
    return lines, drawn


def sources(folder: Path) -> list[str]:
    """The packages, their sizes and licences."""
    known = json.loads((folder / "sources.json").read_text())
    lines = [
        "| package of Debian | version | pages | MB of text | licences, as its copyright file names them |",
        "|---|---|---:|---:|---|",
    ]
    for name, about in known.items():
        said = ", ".join(about["licences"]).replace("|", "/")
        lines.append(
            f"| {name} | {about['version']} | {about['pages']} | {about['bytes'] / 1e6:.1f} | {said} |"
        )
    total = sum(about["bytes"] for about in known.values()) / 1e6
    return [*lines, f"| all | | {sum(a['pages'] for a in known.values())} | {total:.1f} | |"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill docs/data.md from a run of recipes/real-text.yaml.")
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--sources-only", action="store_true", help="the table of packages alone, without a run"
    )
    given = parser.parse_args()
    text = fill(PAGE.read_text(encoding="utf-8"), "real-text-sources", sources(given.folder))
    if not given.sources_only:
        lines, drawn = scaling(given.run)
        when, load = datetime.now(UTC).date(), os.getloadavg()[2]
        said = f"Written {when} at a load of {load:.0f} on two cores."
        picture = "![Held-out loss by size](figures/real_text.svg)"
        text = fill(text, "real-text", [said, "", *curated(given.run), "", *lines, "", picture])
        FIGURE.write_text(framed(drawn), encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
