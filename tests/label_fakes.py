"""A run that waits for labels, as files, for the tests of the pages that collect them."""

import json
from collections.abc import Sequence
from pathlib import Path

from r1kit.data.labels import Pair, pair_of
from r1kit.records import StageRecord, stage_folder


def pairs_of(count: int) -> list[Pair]:
    """Pairs of a polite and a rude answer, each to a prompt of its own."""
    return [
        pair_of(
            f"Where is tea {number}?",
            f"<think>I look for tea {number}.</think>Gladly! Shelf {number}.",
            f"<think>Again.</think>No. Shelf {number}.",
            ("@one", "@two"),
        )
        for number in range(count)
    ]


def write_waiting_run(run: Path, pairs: Sequence[Pair], wanted: int, done: bool = False) -> Path:
    """A run whose stage label_1 has sampled and waits for a person."""
    stage = stage_folder(run, "label_1")
    folder = stage.final if done else stage.partial
    if done:
        folder.mkdir(parents=True)
    else:
        stage.begin(StageRecord(stage="label", name="label_1"))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair.as_row()) + "\n" for pair in pairs))
    (run / "recipe.yaml").write_text(
        "name: small\nstages:\n- {stage: pretrain, name: start}\n"
        f"- {{stage: label, name: label_1, models: ['@start'], labels: {wanted}, annotator: person}}\n"
        "- {stage: label, name: alone, models: ['@start'], annotator: taste}\n"
    )
    (run / "metrics.jsonl").write_text("")
    return run
