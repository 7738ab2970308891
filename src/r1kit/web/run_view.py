"""A run as its files show it: going on, finished, interrupted, copied from elsewhere, or damaged.

Whether a process works on the run is read from the system's list of locks, so looking takes no lock. Where
that list is not there, or the run is on another machine, the time of its last row decides."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r1kit.config import R1kitError
from r1kit.health import QUIET_S, Sign, number, quiet_seconds
from r1kit.log import duration
from r1kit.records import StageFolder, stage_folder, stage_folders
from r1kit.web.metric_rows import MetricRows, Training
from r1kit.web.recipes import PlannedStage, planned_stages, recipe_of

State = Literal["done", "running", "interrupted", "failed", "waiting", "damaged"]
LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage of a run. ``step`` of ``steps`` are done (None: not known), ``left_s`` seconds are left,
    ``seconds`` and ``peak_mb`` are those of its record. ``result`` is what it made, in words; ``trouble`` is
    what is wrong with it."""

    planned: PlannedStage
    state: State
    step: int | None = None
    left_s: float | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    result: str = ""
    trouble: str = ""

    @property
    def name(self) -> str:
        return self.planned.name


@dataclass(slots=True)
class RunView:
    """What is known of a run. ``refresh`` looks again: its metrics grow, and the rest is read each time."""

    folder: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)
    stages: list[StageView] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    is_running: bool = False
    metrics: MetricRows = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = MetricRows(self.folder)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def refresh(self, most: int | None = None) -> bool:
        """Read what is new, at most ``most`` bytes of metrics. Returns whether there is more to read."""
        more = self.metrics.refresh(most)
        self.troubles = []
        try:
            self.recipe = recipe_of(self.folder)
        except R1kitError as error:
            self.troubles.append(str(error))
        if self.metrics.damaged:
            self.troubles.append(f"{self.metrics.file}: {self.metrics.damaged} lines cannot be read")
        self.is_running = self._is_running()
        self.stages = [self._stage(planned) for planned in self._planned()]
        self.troubles += [f"{stage.name}: {stage.trouble}" for stage in self.stages if stage.trouble]
        return more

    def signs(self) -> list[Sign]:
        """The health rules that fired, those of the latest training first."""
        return self.metrics.signs()[::-1]

    def quiet(self, now: float | None = None) -> str:
        """A warning where a run that goes on has logged nothing for long, else ""."""
        newest = self.metrics.newest()
        if not self.is_running or newest is None:
            return ""
        latest = self._latest()
        usual = (latest.step_seconds() if latest is not None else None) or 0.0
        quiet = quiet_seconds(newest, usual, time.time() if now is None else now)
        return "" if quiet is None else f"Nothing new for {duration(quiet)}. {_QUIET_CHANGE}"

    def _latest(self) -> Training | None:
        trainings = [one for one in self.metrics.trainings.values() if one.times]
        return max(trainings, key=lambda one: _time(one.times[-1]), default=None)

    def _planned(self) -> list[PlannedStage]:
        """The recipe's stages, then others that the folder has."""
        planned = planned_stages(self.recipe)
        known = {stage.name for stage in planned}
        there = [folder.name for folder in stage_folders(self.folder)]
        logged = [stage for stage, _ in self.metrics.trainings]
        others = dict.fromkeys(name for name in (*there, *logged) if name not in known)
        return planned + [PlannedStage(name, "", (), None) for name in others]

    def _stage(self, planned: PlannedStage) -> StageView:
        folder = stage_folder(self.folder, planned.name)
        own = [one for (stage, _), one in self.metrics.trainings.items() if stage == planned.name]
        step = max((one.steps[-1] + 1 for one in own), default=None)
        try:
            finished = folder.finished()
            begun = folder.begun() if finished is None else None
        except R1kitError as error:
            return StageView(planned, "damaged", step, trouble=str(error))
        if finished is not None:
            result = _result(folder.final, finished.stage)
            return StageView(
                planned, "done", step, seconds=finished.seconds, peak_mb=finished.peak_rss_mb, result=result
            )
        if planned.kind == "label" and not self.is_running and (folder.partial / "pairs.jsonl").is_file():
            return StageView(planned, "waiting", step, result="for people: the page Label")
        if begun is None and not own:
            return StageView(planned, "waiting")
        if self.is_running and self._is_current(folder):
            return StageView(planned, "running", step, self._left(planned, own, step))
        traceback = self.folder / "logs" / f"{planned.name}.txt"
        seconds = begun.seconds if begun is not None else None
        if traceback.is_file():
            return StageView(planned, "failed", step, seconds=seconds, trouble=f"failed: {_tail(traceback)}")
        return StageView(planned, "interrupted", step, seconds=seconds)

    def _is_current(self, folder: StageFolder) -> bool:
        """Whether this is the unfinished stage that was begun last."""
        partial = [one for one in stage_folders(self.folder) if one.partial.is_dir()]
        return bool(partial) and folder == max(partial, key=lambda one: _changed(one.partial))

    def _left(self, planned: PlannedStage, own: list[Training], step: int | None) -> float | None:
        if planned.steps is None or step is None or len(own) != 1:
            return None
        seconds = own[0].step_seconds()
        return None if seconds is None else max(0, planned.steps - step) * seconds

    def _is_running(self) -> bool:
        held = is_locked(self.folder / "lock")
        if held is not None:
            return held
        newest = self.metrics.newest()
        return newest is not None and time.time() - newest < QUIET_S


_QUIET_CHANGE = (
    "Try: look whether its process still works (top, nvidia-smi) and what its terminal says; the same "
    "command continues an interrupted run"
)


def is_locked(lock: Path) -> bool | None:
    """Whether a process holds a run's lock (flock); None where the system does not say."""
    try:
        found = lock.stat()
        lines = LOCKS.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None if not LOCKS.exists() else False
    except (OSError, UnicodeDecodeError):
        return None
    # The number of the inode alone: file systems in layers show other devices here than there.
    inode = f":{found.st_ino}"
    return any(word.endswith(inode) for line in lines if "FLOCK" in line for word in line.split())


def find_runs(folder: Path) -> list[Path]:
    """The runs in a folder, the one that changed last first."""
    try:
        found = [path for path in folder.iterdir() if looks_like_a_run(path)]
    except OSError:
        return []
    return sorted(found, key=lambda path: -max(_changed(path), _changed(path / "metrics.jsonl")))


def looks_like_a_run(folder: Path) -> bool:
    """Whether a folder has a file or folder of a run."""
    return any((folder / name).exists() for name in ("recipe.yaml", "metrics.jsonl", "stages", "samples"))


def _result(folder: Path, kind: str) -> str:
    """What a finished stage made, in words: of an evaluation the accuracy of each model."""
    report = _json(folder / "report.json")
    if kind == "evaluate":
        models = report.get("models")
        found = [
            f"{name} {value:.1%}"
            for name, model in (models.items() if isinstance(models, dict) else ())
            if (value := _pass_at_1(model)) is not None
        ]
        return "pass@1: " + ", ".join(found) if found else ""
    shown = [
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, found in report.items()
        if (value := number(found)) is not None and "/" not in name
    ]
    return ", ".join(shown[:3])


def _pass_at_1(model: Any) -> float | None:
    overall = model.get("overall") if isinstance(model, dict) else None
    return number(overall.get("pass@1", overall.get("pass_1"))) if isinstance(overall, dict) else None


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _tail(file: Path) -> str:
    """The last line of a traceback."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return str(file)
    return f"{lines[-1] if lines else ''} ({file})"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _time(value: float) -> float:
    return 0.0 if math.isnan(value) else value
