"""Which tracker a configuration means, and whether its package is there."""

import importlib.util
from pathlib import Path

from r1kit.config import ConfigError
from r1kit.trackers.settings import Kind, TrackConfig
from r1kit.trackers.tracker import TRACKING, Tracker


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
