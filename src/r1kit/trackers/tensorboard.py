"""TensorBoard: an event file for each training, with the times of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1kit.trackers.tracker import Training, Writer


class Board:
    """Writes to ``folder``/TRAINING. Event files that it wrote before are replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, training: Training) -> Writer:
        own = self.folder / training.name
        for old in own.glob("events.out.tfevents.*"):
            old.unlink()
        return _Events(own)


class _Events:
    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event: Any = Event
        self._summary: Any = Summary
        self._file: Any = EventFileWriter(str(folder), flush_secs=5)

    def log(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._file.add_event(self._event(wall_time=seconds, step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        self._file.close()
