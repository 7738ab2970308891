"""What a tracker is, and how one is chosen."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from r1kit.config import ConfigError
from r1kit.trackers.settings import Kind, TrackConfig

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


def missing_package(kind: Kind) -> str | None:
    """The fix where the tracker's package is not installed; None where it is."""
    if importlib.util.find_spec(kind) is not None:
        return None
    return (
        f"the tracker {kind} is not installed: pip install {kind} (r1kit's extra: pip install 'r1kit[track]')"
    )


def make_tracker(config: TrackConfig, run_dir: Path) -> Tracker:
    """The tracker of a configuration, which writes below ``run_dir``. Raises ConfigError where its package is
    not installed."""
    if (fix := missing_package(config.kind)) is not None:
        raise ConfigError(fix)
    folder = run_dir / TRACKING / config.kind
    folder.mkdir(parents=True, exist_ok=True)
    project = config.project or run_dir.resolve().name
    # Each file imports one package; a user of one tracker has no other.
    if config.kind == "tensorboard":
        from r1kit.trackers.tensorboard import Board

        return Board(folder)
    if config.kind == "wandb":
        from r1kit.trackers.wandb import Wandb

        return Wandb(folder, project, config.online)
    from r1kit.trackers.trackio import Trackio

    return Trackio(folder, project, config.online)
