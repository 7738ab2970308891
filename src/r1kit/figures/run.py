"""The figures of a whole run: the report.json in the run's folder, for programs."""

from collections.abc import Mapping
from dataclasses import dataclass

from r1kit.figures.evaluation import STRICT, ModelFigures, Protocol


@dataclass(frozen=True, slots=True)
class StageFigures:
    """One stage: its kind and name, its model's folder from the run's (None without a model), its time, and
    the figures of its model with their protocol (None where no stage evaluated it)."""

    __pydantic_config__ = STRICT

    stage: str
    name: str
    model: str | None
    seconds: float | None
    figures: ModelFigures | None
    protocol: Protocol | None


@dataclass(frozen=True, slots=True)
class RunFigures:
    """The stages in the recipe's order, the time of all, the largest memory of any, and the models that were
    compared with one another, by title and name."""

    __pydantic_config__ = STRICT

    seconds: float
    peak_rss_mb: float | None
    stages: tuple[StageFigures, ...]
    controls: Mapping[str, Mapping[str, ModelFigures]]
