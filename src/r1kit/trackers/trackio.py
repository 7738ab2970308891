"""trackio: a run for each training in a local SQLite file, which ``trackio show`` displays."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1kit.trackers.tracker import Training, Writer

_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # where trackio sends to, by environment


class Trackio:
    """Writes to ``folder``; ``online`` sends to the space or server that trackio's own variables name."""

    def __init__(self, folder: Path, project: str, online: bool) -> None:
        self.project = project
        if not online:  # read when trackio is imported
            os.environ["TRACKIO_DIR"] = str(folder.resolve())
            for name in _ELSEWHERE:
                os.environ.pop(name, None)

    def open(self, training: Training) -> Writer:
        import trackio

        trackio.init(
            project=self.project,
            name=f"{training.run}/{training.name}",
            group=training.run,
            config=dict(training.numbers),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return _Run(trackio)


class _Run:
    def __init__(self, package: Any) -> None:
        self._package = package

    def log(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        self._package.log({**metrics, "seconds": seconds}, step=step)

    def close(self) -> None:
        self._package.finish()
