"""Whether a stage's sources can have the rows that it needs, before hours are spent on them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from r1kit.config import InputError, R1kitError
from r1kit.jsonl import read_lines
from r1kit.stages.stage import Stage


def supply_errors(stage: Stage, stages: Sequence[Stage]) -> Iterator[InputError]:
    """What a stage lacks that says so (``files`` and ``shortage``, as the stage mixture): rows of files are
    counted, and stages write at most the rows of their plan."""
    shortage, files = getattr(stage, "shortage", None), getattr(stage, "files", None)
    if shortage is None or files is None:
        return
    counted = {file: most_rows(file, stages) for _, _, file in files()}
    if said := shortage(counted):
        yield ("rows",), said


def most_rows(file: str, stages: Sequence[Stage]) -> float | None:
    """How many rows a file has, or a stage that has not run writes at most; None where that is not known."""
    if file.startswith("@"):
        name = file[1:].partition("/")[0]
        writing = next((stage for stage in stages if stage.name == name), None)
        return None if writing is None else writing.plan().rows
    try:
        return float(sum(1 for _ in read_lines(Path(file).expanduser())))
    except R1kitError:
        return None  # check_inputs says that it cannot be read
