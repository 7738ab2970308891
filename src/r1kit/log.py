"""The log of a run: one row per step in ``metrics.jsonl``, rollouts as text in ``samples/``, one progress
line per stage on the screen.

A row is {"stage", "step", "time", metric: value, ...}; metrics are named ``group/name`` (reward/mean,
completions/mean_length, policy/loss; docs list them). A step has exactly one row however often the run was
interrupted: the first row that a resumed stage writes replaces what the interrupted attempt had written from
that step on. Where the disk is full, rows wait in memory until there is space; no training state is saved,
and no stage ends, before its rows are on the disk."""

import errno
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from r1kit.config import R1kitError
from r1kit.console import PrintableConsole
from r1kit.files import make_folder, open_to_append, remove_named, sync, write_whole
from r1kit.health import HealthWatch
from r1kit.interruption import Interruption
from r1kit.log_files import METRICS, SAMPLES, LogMark, kept_damages, mark_log, read_metrics, whole_rows
from r1kit.records import KEPT, LOG_MARKS, read_typed, sealed_text, stage_folder
from r1kit.terminal import one_line, printable

# What the progress line shows, in this order, where a stage reports it: (metric, word on the screen).
HEADLINES = (
    ("loss", "loss"),
    ("policy/loss", "loss"),
    ("reward/mean", "reward"),
    ("reward/accuracy/mean", "accuracy"),
    ("reward/format/mean", "format"),
    ("lang/target_ratio", "language"),
    ("completions/mean_length", "length"),
    ("accuracy", "accuracy"),
    ("progress", "done"),
)
WATCHED = ("watch/last_pass_1", "watch/pass_1")  # shown until the next measurement
STEP_FILE = re.compile(r"step_(\d{6,})\.jsonl")  # the names of rollout files
_SHOWN_LINES = 8  # of a sample's prompt
PLAIN_LINES_PER_STAGE = 20  # where the output is not a terminal


class Log:
    """The log of one stage of one run.

    ``console`` is where the screen's lines go; on a terminal one line is redrawn, elsewhere about twenty
    plain lines are written per stage. Use it as a context manager, so that the last line stays on the screen.
    """

    def __init__(
        self,
        run_dir: Path,
        stage: str,
        console: Console | None = None,
        part: str = "",
        show_rollouts: int = 0,
        interruption: Interruption | None = None,
        check_place: Callable[[], None] = lambda: None,
    ) -> None:
        self.interruption, self.check_place = interruption or Interruption(), check_place
        self.run_dir = run_dir
        self.stage = stage
        self.console = console or PrintableConsole()
        self.part_name = part
        self.show_rollouts = show_rollouts
        self._begun = False
        self._waiting: list[str] = []
        self._ended = False
        self._last_step: int | None = None
        self._first: tuple[int, float] | None = None
        self._line = ""
        self._watched = ""
        self._printed = -1
        self._live: Live | None = None
        self._health = HealthWatch(stage, part)
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        self.interruption.deferred = False
        self._stop_live()

    def part(self, name: str) -> "Log":
        """A log for one part of the stage that counts its own steps (the helpful and the safety reward model,
        say)."""
        self.close()
        shown, stop = self.show_rollouts, self.interruption
        return Log(self.run_dir, self.stage, self.console, name, shown, stop, self.check_place)

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one finished step (0 <= step < total) and refresh the progress line.

        Raises ValueError when a step is recorded twice by the same log.
        """
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(
                f"stage {self.stage}: step {step} after step {self._last_step}; use log.part(name) for "
                "a count of its own"
            )
        self._begin(step)
        self._first = self._first or (step, time.monotonic())
        self._last_step = step
        row = {
            **self._key(),
            "step": step,
            "time": round(time.time(), 3),
            **{name: _number(value) for name, value in metrics.items()},
        }
        self._waiting.append(json.dumps(row) + "\n")
        self._write_waiting()
        self._warn(row)
        self._ended = step + 1 >= total
        self._show_progress(step, total, metrics)

    def save_point(self, due: bool, save: Callable[..., None], *arguments: Any) -> None:
        """Call ``save(*arguments)`` after a step where that is ``due``, or where the run is to stop; then
        stop (KeyboardInterrupt).

        The rows of the steps so far are written to the disk first, because a state that is ahead of its log
        would leave a gap."""
        if due or self.interruption.asked:
            self.sync()
            save(*arguments)
        # The loop calls this after every step, so an interruption can wait for the next call.
        self.interruption.deferred = not self._ended
        self.interruption.stop_if_asked()

    def sync(self) -> None:
        """Wait until all rows are on the disk. Raises R1kitError where they cannot be written."""
        self.check_place()
        if (error := self._write_waiting()) is not None:
            why = error.strerror or str(error)
            raise R1kitError(
                f"{self.metrics_file}: {len(self._waiting)} rows could not be written: {why}; free "
                "space or repair the disk"
            )
        if self.metrics_file.exists():
            sync(self.metrics_file)
            self._keep_marks()

    def check_kept(self) -> None:
        """Check what an earlier attempt of the stage logged. Raises R1kitError naming what is damaged."""
        marks = read_typed(LogMark, self._marks_file, "Redo the stage with --from.")
        if marks is not None and (found := list(kept_damages(self.run_dir, self.stage, marks))):
            raise R1kitError("\n".join([*found, "Bring back a copy, or redo the stage with --from."]))

    def info(self, text: str) -> None:
        """Print one line for the user."""
        self.console.print(Text(one_line(f"  {text}")))

    def rollouts(self, step: int, records: Iterable[Mapping[str, Any]], show: int | None = None) -> Path:
        """Keep one step's rollouts, one JSON object a line. Returns the file.

        The first ``show`` are printed as text; by default the log's ``show_rollouts``, at steps 0, 10, 20,
        50, 100, 200 and so on."""
        self._begin(step)
        rows = [dict(record) for record in records]
        self.check_place()
        path = self.samples_dir / f"step_{step:06d}.jsonl"
        make_folder(path.parent)
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False, default=_plain) + "\n" for row in rows))
        if show is None:
            show = self.show_rollouts if _is_landmark(step) else 0
        for row in rows[:show]:
            self._show_rollout(step, row)
        return path

    def truncate_from(self, step: int) -> None:
        """Remove this stage's rows and rollouts of ``step`` and later, and a torn last line. Raises
        R1kitError naming a line that is damaged."""
        key = self._key()
        lines = read_metrics(self.metrics_file)
        kept = []
        for line, row in whole_rows(self.metrics_file):
            mine = all(row.get(name) == value for name, value in key.items()) and ("part" in row) == (
                "part" in key
            )
            if not (mine and row["step"] >= step):
                kept.append(line.content)
        if len(kept) != len(lines):
            write_whole(self.metrics_file, b"".join(kept).decode())
        for path in self.samples_dir.glob("step_*.jsonl"):
            number = STEP_FILE.fullmatch(path.name)
            if number and int(number[1]) >= step:
                path.unlink()

    def forget(self) -> None:
        """Remove all that this stage has ever logged, its parts and damaged lines included, and nothing else.
        Raises R1kitError naming a damaged line that may be another stage's."""
        lines = read_metrics(self.metrics_file)
        kept = [line for line in lines if not line.torn and not line.is_of(self.stage)]
        for line in kept:
            if line.row is None:
                raise R1kitError(line.error)
        if len(kept) != len(lines):
            write_whole(self.metrics_file, b"".join(line.content for line in kept).decode())
        remove_named(self.run_dir / SAMPLES / self.stage, STEP_FILE)

    def close(self) -> None:
        """Leave the last progress line on the screen. Raises R1kitError where rows could not be written."""
        self.interruption.deferred = False
        if self._waiting:
            self.sync()
        self._stop_live()

    @property
    def metrics_file(self) -> Path:
        return self.run_dir / METRICS

    @property
    def samples_dir(self) -> Path:
        return self.run_dir / SAMPLES / self.stage / self.part_name

    def _write_waiting(self) -> OSError | None:
        """Append the rows that wait. Where the disk refuses, the file is left as it was, and the error is
        returned."""
        if not self._waiting:
            return None
        self.check_place()
        content = "".join(self._waiting).encode()
        try:
            with open_to_append(self.metrics_file) as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    if file.write(content) < len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    os.ftruncate(file.fileno(), size)
                    raise
        except OSError as error:
            if len(self._waiting) == 1:
                print(
                    f"r1kit: warning: {self.metrics_file}: {error.strerror}; rows wait in memory until "
                    "they can be written",
                    file=sys.stderr,
                )
            return error
        self._waiting.clear()
        return None

    def _begin(self, step: int) -> None:
        if not self._begun:
            self._keep_marks(step)
            self.truncate_from(step)
            for _, row in whole_rows(self.metrics_file) if step else ():
                if self._is_mine(row):
                    self._health.feed(row)
            self._begun = True

    def _is_mine(self, row: Mapping[str, Any]) -> bool:
        return bool(row["stage"] == self.stage and row.get("part", "") == self.part_name)

    def _warn(self, row: Mapping[str, Any]) -> None:
        """Print what the rules of r1kit.health find in a row, each rule once; the training itself prints the
        others."""
        for sign in self._health.feed(row):
            if sign.rule.printed and sign.rule.name not in self._warned:
                self._warned.add(sign.rule.name)
                self.info(f"warning: {sign.in_words()}")

    @property
    def _marks_file(self) -> Path:
        return stage_folder(self.run_dir, self.stage).partial / KEPT / LOG_MARKS

    def _keep_marks(self, before: int | None = None) -> None:
        """Mark what has been logged, so that a resumed attempt notices damage; of this part only the steps
        before ``before``, where those after it are about to be replaced."""
        if self._marks_file.parents[1].is_dir():
            make_folder(self._marks_file.parent)
            marks = mark_log(self.run_dir, self.stage, self.part_name, before)
            write_whole(self._marks_file, sealed_text(marks.model_dump()))

    def _key(self) -> dict[str, str]:
        return {"stage": self.stage, "part": self.part_name} if self.part_name else {"stage": self.stage}

    def _show_progress(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._line = self._progress_line(step, total, metrics)
        last = step + 1 >= total
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False, transient=False)
                self._live.start()
            self._live.update(Text(self._line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            share = step * PLAIN_LINES_PER_STAGE // max(total, 1)
            if last or share > self._printed:
                self._printed = share
                self.console.print(Text(self._line), soft_wrap=True)
        if last:
            self.close()

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _progress_line(self, step: int, total: int, metrics: Mapping[str, float]) -> str:
        label = f"{self.stage}/{self.part_name}" if self.part_name else self.stage
        line = f"  {label:<20} {step + 1:>5}/{total}"
        for name, word in HEADLINES:
            if name in metrics:
                line += f"  {word} {_short(metrics[name])}"
        for name in WATCHED:
            if name in metrics:
                error = metrics[f"{name}_stderr"]
                self._watched = f"  held-out {_short(metrics[name])} ± {_short(error)}"
                break
        line += self._watched
        assert self._first is not None
        first, started = self._first
        elapsed = time.monotonic() - started
        if step + 1 >= total:
            return f"{line}  took {duration(elapsed)}"
        # The first step's own time is unknown: the clock starts when it has ended.
        return (
            f"{line}  left {duration(elapsed / (step - first) * (total - step - 1))}"
            if step > first
            else line
        )

    def _show_rollout(self, step: int, row: Mapping[str, Any]) -> None:
        numbers = [
            f"  {name} {_short(row[name])}" for name in ("reward", "advantage") if row.get(name) is not None
        ]
        heading = f"  step {step}" + "".join(numbers)
        texts = [last_question(row["prompt"])] if row.get("prompt") else []
        texts += [prompt_text(row["text"])] if row.get("text") else []
        texts = [printable(text) for text in texts]
        body = "\n".join(f"    {line}" for text in texts for line in text.splitlines())
        self.console.print(Text(f"{heading}\n{body}", style="dim"), soft_wrap=True)


def duration(seconds: float) -> str:
    """A span of time for people: 8 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def prompt_text(prompt: Any) -> str:
    """A prompt as readers see it: its text, or all turns of a conversation, each after its role."""
    if not isinstance(prompt, list):
        return str(prompt)
    return "\n".join(f"[{turn['role']}] {turn['content']}" for turn in prompt)


def last_question(prompt: Any) -> str:
    """What the console shows of a prompt: of a conversation its last turn, of a long text its last lines,
    where the question is; worked examples before it are the same in every sample."""
    text = str(prompt[-1]["content"]) if isinstance(prompt, list) and prompt else prompt_text(prompt)
    lines = text.splitlines()
    if len(lines) <= _SHOWN_LINES:
        return text
    return "\n".join([f"[{len(lines) - _SHOWN_LINES} lines before]", *lines[-_SHOWN_LINES:]])


def _is_landmark(step: int) -> bool:
    digits = str(step)
    return step == 0 or (step >= 10 and digits[0] in "125" and not digits[1:].strip("0"))


def _number(value: float) -> float | None:
    # JSON has no NaN; null is what plotting programs read as a gap.
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if isinstance(value, int) else number


def _short(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _plain(value: Any) -> Any:
    """Numpy and torch values as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"{type(value).__name__} cannot be kept in samples/: give numbers, text, lists or mappings"
    )
