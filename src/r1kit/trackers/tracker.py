"""What a tracker is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

TRACKING = "tracking"  # folder of a run in which trackers write


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a run, as a tracker names it. ``numbers`` of its configuration, by key path."""

    run: str
    stage: str
    part: str
    numbers: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.part}" if self.part else self.stage


class Writer(Protocol):
    """Takes the metrics of one training."""

    def log(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """The finite metrics of a step; ``seconds`` since 1970."""
        ...

    def close(self) -> None: ...


class Tracker(Protocol):
    """Makes a writer for each training of a run."""

    def open(self, training: Training) -> Writer: ...
