"""Weights & Biases: a run for each training, grouped by r1kit's run. Offline it writes files that ``wandb
sync`` sends later."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from r1kit.trackers.tracker import Training, Writer


class Wandb:
    """Writes to ``folder``; ``online`` sends as it goes."""

    def __init__(self, folder: Path, project: str, online: bool) -> None:
        self.folder, self.project, self.online = folder, project, online

    def open(self, training: Training) -> Writer:
        import wandb

        name = f"{training.run}/{training.name}"
        place = f"{self.folder.resolve()}/{training.name}"
        return _Run(
            wandb.init(
                project=self.project,
                group=training.run,
                name=name,
                id=sha256(place.encode()).hexdigest()[:16],  # a resumed run continues under its id
                resume="allow" if self.online else None,
                dir=str(self.folder),
                mode="online" if self.online else "offline",
                reinit="create_new",
                config=dict(training.numbers),
                save_code=False,
                settings=wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True),
            )
        )


class _Run:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        self._run.log({**metrics, "seconds": seconds}, step=step)

    def close(self) -> None:
        self._run.finish()
