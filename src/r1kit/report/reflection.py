"""How often completions of a training contain words of reflection (DeepSeek-R1, arXiv 2501.12948v2,
supplement C.2: they become five to seven times as frequent while R1-Zero trains).

Counted are the paper's ten words in the rollouts that the training has kept, per 1,000 tokens, since longer
completions have more words of every kind."""

import json
from collections.abc import Iterator
from pathlib import Path

from r1kit.figures.reflection import reflection_words
from r1kit.log import STEP_FILE
from r1kit.log_files import SAMPLES
from r1kit.report.charts import Point

FILES = 200  # of a training, spread evenly, so that a report of a long run is made in seconds
FEWEST_TOKENS = 50  # of a step, for a share of them


def reflection_curve(run_dir: Path, stage: str) -> list[Point]:
    """(step, words of reflection per 1,000 tokens) of a stage's kept rollouts, steps counted from 1."""
    points = []
    for step, file in _spread(run_dir / SAMPLES / stage):
        words = tokens = 0
        for text, length in _rollouts(file):
            words, tokens = words + len(reflection_words(text)), tokens + length
        if tokens >= FEWEST_TOKENS:
            points.append((float(step + 1), 1000.0 * words / tokens))
    return points


def _spread(folder: Path) -> list[tuple[int, Path]]:
    """The files of a training's rollouts, by step; of many some, the first and the last among them."""
    found = sorted(
        (int(matched[1]), file)
        for file in folder.glob("step_*.jsonl")
        if (matched := STEP_FILE.fullmatch(file.name)) and file.is_file() and not file.is_symlink()
    )
    if len(found) <= FILES:
        return found
    return [found[round(place * (len(found) - 1) / (FILES - 1))] for place in range(FILES)]


def _rollouts(file: Path) -> Iterator[tuple[str, int]]:
    """Text and tokens of each rollout of a file; a line that is none is left out."""
    for line in file.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        text, length = (row.get("text"), row.get("length")) if isinstance(row, dict) else (None, None)
        if isinstance(text, str) and isinstance(length, int) and length > 0:
            yield text, length
