"""Figures that stages measured: one frozen type for each kind of report.json, and the only code that reads
and writes it.

A stage fills in the type, ``write`` puts it into the stage's folder, and ``read`` gives the same type to the
report and to benchmarks. A figure with another name in the file is an error, not a missing value."""

from r1kit.figures.evaluation import (
    BY_NAME,
    DifficultyScores,
    Evaluation,
    Example,
    GeneralProtocol,
    GeneralScores,
    Habit,
    ModelFigures,
    Protocol,
    Scores,
)
from r1kit.figures.facts import FACTS
from r1kit.figures.json_file import REPORT, finite, read, to_json, write
from r1kit.figures.run import RunFigures, StageFigures
from r1kit.figures.silent import DOUBTS, PREFLIGHT, SILENT, SILENT_CAUSES, why_silent

__all__ = [
    "BY_NAME",
    "DOUBTS",
    "FACTS",
    "PREFLIGHT",
    "REPORT",
    "SILENT",
    "SILENT_CAUSES",
    "DifficultyScores",
    "Evaluation",
    "Example",
    "GeneralProtocol",
    "GeneralScores",
    "Habit",
    "ModelFigures",
    "Protocol",
    "RunFigures",
    "Scores",
    "StageFigures",
    "finite",
    "read",
    "to_json",
    "why_silent",
    "write",
]
