"""``r1kit export --to tensorboard|wandb|trackio RUN``: hand a run's metrics to a tracker, once or as they
come."""

import os
import select
import sys
from pathlib import Path

from r1kit.config import ConfigError
from r1kit.log_files import METRICS
from r1kit.trackers import KINDS, TrackConfig
from r1kit.trackers.choice import make_tracker
from r1kit.trackers.rows import Sender
from r1kit.trackers.tracker import TRACKING


def is_tracker(to: str) -> bool:
    """Whether ``--to`` names a tracker; ./wandb is a folder."""
    return to in KINDS


def export_metrics(run_dir: Path, kind: str, project: str, online: bool, follow: bool) -> str:
    """Hand the metrics of a run to a tracker; with ``follow`` until standard input is closed. Returns what
    was done in words. Raises ConfigError where there are none, or the package is missing."""
    config = TrackConfig.parse({"kind": kind, "project": project, "online": online}, "export")
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder")
    if not follow and not (run_dir / METRICS).is_file():
        raise ConfigError(f"{run_dir}: no {METRICS}, so no metrics; name a run's folder")
    sender = Sender(run_dir, make_tracker(config, run_dir))
    if follow:
        sender.follow(input_has_ended)
    else:
        sender.send_new()
        sender.close()
    where = (
        f"sent to {kind}" if online and kind != "tensorboard" else f"written to {run_dir / TRACKING / kind}"
    )
    return f"{sender.sent:,} rows {where}; {_SHOW[kind].format(folder=run_dir / TRACKING / kind)}"


def input_has_ended(seconds: float) -> bool:
    """Wait so long, or until standard input is closed; whether it is."""
    ready, _, _ = select.select([sys.stdin.fileno()], [], [], seconds)
    return bool(ready) and not os.read(sys.stdin.fileno(), 4096)


_SHOW = {
    "tensorboard": "tensorboard --logdir {folder} shows them",
    "wandb": "wandb sync {folder}/wandb/offline-run-* sends what was written offline",
    "trackio": "TRACKIO_DIR={folder} trackio show displays what was written",
}
