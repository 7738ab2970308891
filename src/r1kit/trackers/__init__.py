"""Hand the metrics of a run to a tracker: TensorBoard, Weights & Biases or trackio.

A tracker reads the run's folder like every other view of it. ``r1kit export --to tensorboard RUN`` does it
once; with ``track: [tensorboard]`` in a recipe a process of its own does it while the run goes on
(process.py), so a tracker that raises, hangs or ends cannot stop a run. Each package is imported in one file,
when it is used. Everything is written below RUN/tracking, and nothing leaves the machine unless the recipe
says ``online: true``. Only numbers are handed over: metrics, and the numbers of a stage's configuration."""

from r1kit.trackers.settings import KINDS, TrackConfig
from r1kit.trackers.tracker import Tracker, Training, Writer

__all__ = ["KINDS", "TrackConfig", "Tracker", "Training", "Writer"]
