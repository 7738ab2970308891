"""Run a recipe: each stage once, in order.

A stage works in ``stages/<name>.partial``, which is renamed to its final name when the stage has finished.
The stage's record (r1kit.records) says what the result depends on and what files it consists of. Finished
stages are kept and interrupted ones resume. A stage whose configuration or inputs have changed stops the run
before any file is changed (survey.py)."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.text import Text

from r1kit.addresses import without_secrets
from r1kit.config import R1kitError
from r1kit.console import make_console
from r1kit.files import PRIVATE, disk_error, naming, remove_at_once, sync_tree, write_whole
from r1kit.interruption import Interruption
from r1kit.log import Log, duration
from r1kit.log_files import log_damages, mark_log
from r1kit.marks import FileMark, seal_lines
from r1kit.recipe.inputs import check_inputs, fetch_models, slower_models
from r1kit.recipe.layers import Layers
from r1kit.recipe.recipe import Recipe, resolved
from r1kit.recipe.uses import sends_of
from r1kit.records import (
    KEPT,
    NOTES,
    SAMPLED,
    STATES,
    UPDATES,
    DamageError,
    StageFolder,
    StageRecord,
    check_model,
    damages,
    mark_outputs,
    note_prompts,
    refuse_foreign,
    sealed_text,
    stage_folder,
)
from r1kit.runs.fingerprint import end_damages, forget_finished
from r1kit.runs.memory import MemoryWatch
from r1kit.runs.provenance import environment, named_files, setting, versions
from r1kit.runs.run_folder import check_folder, forget, locked, make_writable, sweep
from r1kit.runs.survey import Standing, State, allow, identity_of, refuse_changes, survey
from r1kit.runs.verify import finished_damages, raise_damages
from r1kit.runtime import LostError
from r1kit.stages.kept import kept_marks
from r1kit.stages.stage import Context, Stage, WaitingError, with_located_tasks
from r1kit.terminal import printable
from r1kit.trackers.process import Followers


class StageError(R1kitError):
    """A stage failed. Finished stages are kept; the text says how to continue."""


class InterruptedRunError(R1kitError):
    """The user or the system stopped the run (Ctrl-C, SIGTERM). The text says how to continue."""

    exit_code = 130


class WaitingRunError(R1kitError):
    """A stage waits for a person. The text says for what, and how to continue."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a run: its folder, and for every stage its state when the run began and the seconds it
    took."""

    run_dir: Path
    states: Mapping[str, State]
    seconds: Mapping[str, float]


def run(
    recipe: Recipe,
    *,
    fresh: bool = False,
    redo_from: str | None = None,
    allow_change: bool = False,
    command: str = "r1kit run RECIPE",
    console: Console | None = None,
    show_rollouts: int = 1,
    layers: Layers | None = None,
) -> Summary:
    """Run every stage that is not done yet, then write the report.

    ``fresh`` empties the run's folder and starts over. ``redo_from`` redoes that stage, the stages that read
    it, and later stages whose configuration has changed. ``allow_change`` accepts changes and records them.
    ``command`` continues the run, for messages and env.json. With ``layers`` (recipe.layers) errors name the
    line of the recipe. Raises ConfigError before any work (a changed stage, a missing input, a folder that
    cannot be written or is held by another process), StageError, WaitingRunError, InterruptedRunError."""
    recipe.runtime.follow()
    console = console or make_console()
    run_dir = recipe.run_dir
    if redo_from is not None:
        recipe.stage(redo_from)
    check_folder(run_dir, fresh)
    make_writable(run_dir)
    with locked(run_dir) as check_place:
        sweep(run_dir)
        if fresh:
            _check_outside(recipe, layers, [stage.name for stage in recipe.stages], console)
            _start_over(recipe, console)
        standings = _survey(recipe, redo_from, allow_change)
        refuse_changes(run_dir, standings)
        _check_finished(run_dir, standings, redo_from, console)
        waiting = [entry.stage.name for entry in standings if entry.state != "done"]
        _check_outside(recipe, layers, waiting, console)
        for line in slower_models(recipe, waiting):
            console.print(Text(line))
        new = [stage_folder(run_dir, entry.stage.name) for entry in standings if entry.state == "new"]
        refuse_foreign(new)
        if any(standing.state != "done" for standing in standings):
            forget_finished(run_dir)
        for folder in new:
            folder.remove()
        sends = _announce(recipe, standings, console)
        _note_beginning(recipe, environment(command, sends))
        with _trackers(recipe, console), Interruption() as interruption, contextlib.ExitStack() as stack:
            stages = _Stages(recipe, console, show_rollouts, stack, interruption, check_place)
            seconds = stages.run(standings, command)
        _write_report(run_dir, console, check_place)
    return Summary(run_dir, {entry.stage.name: entry.state for entry in standings}, seconds)


def _trackers(recipe: Recipe, console: Console) -> Followers:
    """What hands the metrics to the recipe's trackers while the run goes on."""
    return Followers(recipe.track, recipe.run_dir, lambda line: console.print(Text(line)))


def _start_over(recipe: Recipe, console: Console) -> None:
    """Remove the run in the recipe's folder, and print which files are left."""
    run_dir = recipe.run_dir
    if left := forget(run_dir, [stage.name for stage in recipe.stages]):
        names = printable(", ".join(left[:10])) + (f" and {len(left) - 10} more" if len(left) > 10 else "")
        console.print(Text(f"{run_dir}: left, not written by r1kit: {names}"))


def _note_beginning(recipe: Recipe, noted: Mapping[str, Any]) -> None:
    """Write env.json, by which a run is recognised, and then the recipe."""
    write_whole(recipe.run_dir / "env.json", sealed_text(dict(noted)), PRIVATE)
    text = yaml.safe_dump(resolved(recipe), sort_keys=False, allow_unicode=True)
    write_whole(recipe.run_dir / "recipe.yaml", seal_lines(text), PRIVATE)


def _check_outside(recipe: Recipe, layers: Layers | None, names: Sequence[str], console: Console) -> None:
    """Convert and download the models that these stages name, and check all that they read from outside."""
    fetch_models(recipe, layers, names, lambda text: console.print(Text(text)))
    check_inputs(recipe, layers, names)


def _announce(recipe: Recipe, standings: Sequence[Standing], console: Console) -> list[dict[str, Any]]:
    """Print where the stages that are not done will send texts, and with the key of which variable, before
    the first request. Return the same for env.json: names, no keys."""
    waiting = [standing.stage.model_dump() for standing in standings if standing.state != "done"]
    sends = sends_of({"stages": waiting})
    for sent in sends:
        console.print(Text(sent.in_words()))
        if warning := sent.warning():
            console.print(Text(f"warning: {warning}"))
    return [sent.as_dict() for sent in sends]


def _survey(recipe: Recipe, redo_from: str | None, allow_change: bool) -> list[Standing]:
    standings = survey(recipe, redo_from)
    changed = [standing for standing in standings if standing.state == "changed"]
    if not allow_change or not changed:
        return standings
    forget_finished(recipe.run_dir)
    for standing in changed:
        allow(recipe, standing)
    return survey(recipe, redo_from)


def _check_finished(
    run_dir: Path, standings: Sequence[Standing], redo_from: str | None, console: Console
) -> None:
    """Hash the results and logs of the stages that are done. Raises DamageError naming each file that is
    damaged. Where the user redoes a stage, damage elsewhere is a warning: every stage hashes its inputs."""
    done = [standing.stage.name for standing in standings if standing.state == "done"]
    found = [damage for name in done for damage in finished_damages(run_dir, name)]
    if len(done) == len(standings):
        found += [damage for damage in end_damages(run_dir) if damage not in found]
    if not found:
        return
    if redo_from is None:
        raise_damages(run_dir, found)
    for damage in found:
        console.print(Text(f"warning: {damage}"))


class _Stages:
    """The stages of one run: the folders of finished stages, and the runtime, which is started for the first
    unfinished stage."""

    def __init__(
        self,
        recipe: Recipe,
        console: Console,
        show_rollouts: int,
        stack: contextlib.ExitStack,
        interruption: Interruption,
        check_place: Callable[[], None],
    ) -> None:
        self.check_place = check_place
        self.recipe, self.console, self.show_rollouts = recipe, console, show_rollouts
        self.stack, self.interruption = stack, interruption
        self.outputs: dict[str, Path] = {}
        self.checked: set[str] = set()
        self.runtime: Any = None

    def run(self, standings: Sequence[Standing], command: str) -> dict[str, float]:
        """Run what is not done, in recipe order, where every stage comes after its inputs. Returns the
        seconds of every stage."""
        seconds = {}
        for standing in standings:
            stage = standing.stage
            folder = stage_folder(self.recipe.run_dir, stage.name)
            if standing.state == "done":
                record = folder.finished()
                seconds[stage.name] = record.seconds if record is not None else 0.0
            else:
                finished = list(self.outputs)
                with (
                    _explained(stage.name, finished, self.recipe.run_dir, command, self.check_place),
                    self.interruption.outlasting(),
                ):
                    self._check_inputs(stage)
                    seconds[stage.name] = self._run_through_losses(stage, standing.state)
                    self.interruption.stop_if_asked()
            self.console.print(Text(f"{stage.name}: done ({duration(seconds[stage.name])})"))
            self.outputs[stage.name] = folder.final
        return seconds

    def _check_inputs(self, stage: Stage) -> None:
        """Hash the inputs of a stage again, exported models included. Raises DamageError naming a file that
        differs from what was written."""
        for name in named_files(stage.model_dump(mode="json")):
            if (model := Path(name).expanduser()).is_dir():
                check_model(model)
        for name in stage.inputs():
            folder = stage_folder(self.recipe.run_dir, name)
            record = folder.finished() if name not in self.checked else None
            if record is not None and (found := list(damages(folder.final, record))):
                listed = "\n  ".join(found)
                raise DamageError(
                    f"its input @{name} is damaged:\n  {listed}\nBring back a copy, or redo that stage with "
                    f"--from {name}."
                )
            self.checked.add(name)

    def _run_through_losses(self, stage: Stage, state: State) -> float:
        """Run one stage; where a process of the runtime is lost, continue from the last saved state on a new
        runtime, as often as the recipe allows."""
        for _ in range(self.recipe.runtime.most_restarts()):
            try:
                return self._run_stage(stage, state)
            except LostError as loss:
                self.console.print(
                    Text(
                        f"warning: {loss}. {stage.name} continues from its last saved state on new processes"
                    )
                )
                self.runtime.close()
                self.runtime, state = None, "continue"
                self.interruption.stop_if_asked()
        return self._run_stage(stage, state)

    def _run_stage(self, stage: Stage, state: State) -> float:
        """Run one stage in its partial folder and give that its final name. Returns its seconds, earlier
        attempts included."""
        if self.runtime is None:
            self.runtime = self._start_runtime()
        self.console.print(
            Text(f"{stage.name}: {'continues' if state == 'continue' else 'begins'}"), style="bold"
        )
        run_dir, folder = self.recipe.run_dir, stage_folder(self.recipe.run_dir, stage.name)
        log = Log(
            run_dir,
            stage.name,
            self.console,
            show_rollouts=self.show_rollouts,
            interruption=self.interruption,
            check_place=self.check_place,
        )
        self.check_place()
        record = folder.begun()
        if record is None:
            identity = dict(identity_of(self.recipe, stage))
            record = StageRecord(**identity, setting=setting(self.recipe.runtime), started=_now())
            log.forget()
            folder.begin(record)
        if record.finished is not None and (lost := next(_lost(folder, record), None)):
            self.console.print(Text(f"warning: {lost}; the stage is done again"))
            record = record.model_copy(update={"finished": None, "outputs": {}, "log": None})
            log.forget()
            folder.remove()
            folder.begin(record)
        if record.finished is None:
            record = record.model_copy(update={"attempts": record.attempts + 1})
            folder.write(record)
            out = folder.partial
            owners, outputs = record.owners(), dict(self.outputs)
            ctx = Context(run_dir, stage.name, out, record.seed, self.runtime, log, outputs, owners)
            log.check_kept()
            record = _work(stage, ctx, folder, record)
            self.check_place()
            folder.write(record)
        folder.finish()
        return record.seconds

    def _start_runtime(self) -> Any:
        # Imported only when a stage runs, because it imports torch.
        from r1kit.runtime import start

        for line in self.recipe.runtime.kernel_notes():
            self.console.print(Text(f"warning: {line}"))
        runtime = start(self.recipe.runtime)
        self.stack.callback(runtime.close)
        return runtime


def _lost(folder: StageFolder, record: StageRecord) -> Iterator[str]:
    """What is wrong with a stage that has finished, but whose folder has not got its final name yet."""
    yield from damages(folder.partial, record)
    if record.log is not None:
        yield from log_damages(folder.partial.parents[1], folder.name, record.log)


def _work(stage: Stage, ctx: Context, folder: StageFolder, record: StageRecord) -> StageRecord:
    """Call the stage and return its finished record. The time of a failed attempt is recorded and added to
    the next one's."""
    began = time.monotonic()
    try:
        with naming(ctx.out), MemoryWatch() as watch, ctx.log:
            with_located_tasks(stage, ctx.path).run(ctx)
        note_prompts(ctx.out / "model", record.config.get("talk"))
        ctx.log.sync()
        kept = kept_marks(ctx.out)
        _sweep(ctx.out)
        sync_tree(ctx.out)  # files reach the disk before the record that lists them
    except BaseException:
        with contextlib.suppress(OSError, R1kitError):  # the disk, or the folder's place, may be what failed
            ctx.log.check_place()
            seconds = round(record.seconds + time.monotonic() - began, 3)
            folder.write(record.model_copy(update={"seconds": seconds}))
        raise
    results = {
        "seconds": round(record.seconds + time.monotonic() - began, 3),
        "peak_rss_mb": round(max(watch.peak_mb, record.peak_rss_mb or 0.0), 1),
        "versions": versions(),
        "outputs": _outputs(ctx, stage, kept),
        "log": mark_log(ctx.run, ctx.name),
        "finished": _now(),
    }
    return record.model_copy(update=results)


def _outputs(ctx: Context, stage: Stage, kept: Mapping[str, Mapping[str, FileMark]]) -> dict[str, FileMark]:
    """The marks of what the stage wrote; a warning names other files in its folder. Raises DamageError where
    a model is no longer as it was written."""
    found = mark_outputs(ctx.out, stage.writes)
    for folder, marks in kept.items():
        notes = f"{folder}/{NOTES}"
        for name in [name for name in found if name.startswith(f"{folder}/") and name != notes]:
            if name not in marks:
                del found[name]
        for name in marks.keys() - {notes}:
            if found.get(name) != marks[name]:
                raise DamageError(
                    f"{ctx.out / name}: changed since the stage wrote it; rerun, and it is made again"
                )
    for name in sorted({*mark_outputs(ctx.out)} - {*found}):
        ctx.log.info(f"warning: {ctx.out / name}: not written by the stage, and not in its record; it stays")
    return found


def _now() -> float:
    return round(time.time(), 3)


def _sweep(folder: Path) -> None:
    """Remove training states, other unfinished work and temporary files of a stage that has its result."""
    for pattern in (STATES, SAMPLED, KEPT, ".*.tmp"):
        for path in list(folder.rglob(pattern)):
            if pattern == STATES and UPDATES in path.relative_to(folder).parts:
                continue  # r1kit why starts from it: a result
            if path.is_dir() and not path.is_symlink():
                remove_at_once(path)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(
    name: str, finished: Sequence[str], run_dir: Path, command: str, check_place: Callable[[], None]
) -> Iterator[None]:
    """Turn an exception of a stage into one message: what happened, what is kept, how to continue."""
    kept = f"Finished and kept: {', '.join(finished)}." if finished else "No stage was finished before it."
    rerun = f"{kept} Fix the cause, then rerun:\n  {command}"
    try:
        yield
    except KeyboardInterrupt:
        continue_with = f"{kept} Continue with:\n  {command}"
        raise InterruptedRunError(f"interrupted in stage {name!r}. {continue_with}") from None
    except WaitingError as waiting:
        raise WaitingRunError(
            f"stage {name!r} waits: {waiting}\n{kept} Continue with:\n  {command}"
        ) from None
    except R1kitError as error:
        raise StageError(f"stage {name!r} failed: {error}\n{rerun}") from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        whole = _keep_traceback(run_dir / "logs" / f"{name}.txt", check_place)
        where = f"({frame.filename}:{frame.lineno}; {whole})"
        what = disk_error(error) or without_secrets(f"{type(error).__name__}: {error} {where}")
        raise StageError(f"stage {name!r} failed: {what}\n{rerun}") from error


def _keep_traceback(file: Path, check_place: Callable[[], None]) -> str:
    """Write the traceback of what is being handled to a file; return the words that say where it is."""
    try:
        check_place()
        file.parent.mkdir(exist_ok=True)
        write_whole(file, without_secrets(traceback.format_exc()), PRIVATE)
    except (OSError, R1kitError) as error:
        return f"the traceback could not be written: {getattr(error, 'strerror', None) or error}"
    return f"whole traceback: {file}"


def _write_report(run_dir: Path, console: Console, check_place: Callable[[], None]) -> None:
    from r1kit.report import warnings, write  # only when a run ends: commands that run nothing do without

    check_place()
    page = write(run_dir)
    for sentence in warnings(run_dir):
        console.print(Text(f"warning: {sentence}"))
    console.print(Text(f"report: {page}"))
