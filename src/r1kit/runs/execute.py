"""Run a recipe: each stage once, in order, whole or not at all.

A stage writes to ``stages/<name>.partial``, which takes its final name when the stage has finished, with ``stage.json`` beside the
result: what it depends on and what it consists of (provenance.py). So a stage is *done* when a folder of its name records the same
configuration, seed, inputs and files; it *continues* when only a partial one does, begun by the same code; it has *changed* when a
folder records anything else, and then nothing is touched until the user says what to redo, or that the change may stand.
"""

import contextlib
import fcntl
import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.text import Text

from r1kit.config import ConfigError, R1kitError
from r1kit.files import disk_trouble, hash_file, naming, remove_at_once, remove_tree, rename_whole, sync_tree, write_whole
from r1kit.runs.fingerprint import FILE as FINISHED_FILE
from r1kit.interruption import Interruption
from r1kit.log import Log, duration
from r1kit.runs.memory import MemoryWatch
from r1kit.runs.provenance import (
    ALLOWED_FILE,
    STAGE_FILE,
    Record,
    allowed_identities,
    damages,
    environment,
    identity_differences,
    marks,
    named_files,
    setting,
    setting_differences,
    versions,
)
from r1kit.recipe.recipe import Recipe, resolved
from r1kit.records import SAMPLED, STATES, identity_hash, owners
from r1kit.seeds import derive_seed
from r1kit.stages.stage import Context, Stage

REPORTS = ("report.md", "report.html", "report.json")
MADE_HERE = ("stages", "samples", "logs", "metrics.jsonl", "recipe.yaml", "env.json", *REPORTS, FINISHED_FILE)

State = Literal["done", "continue", "new", "changed"]


class StageError(R1kitError):
    """A stage failed. What is finished is kept; the text says how to continue."""


class InterruptedRunError(R1kitError):
    """The user or the system stopped the run (Ctrl-C, SIGTERM). The text says how to continue."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a stage stands before the run begins; ``differences`` tells what has changed since its folder was made."""

    stage: Stage
    state: State
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: its folder, and for every stage its state when the run began and the seconds that it took."""

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
) -> Summary:
    """Run every stage that is not done yet, then write the report.

    ``fresh`` forgets all that the run's folder holds; ``redo_from`` redoes that stage, those that read it, and later ones whose
    configuration has changed; ``allow_change`` lets what has changed stand, and records it. ``command`` is what a user types to
    continue; it stands in messages and in env.json. Raises ConfigError before any work (a changed stage, an unwritable folder, a run
    that another process is at), StageError, and InterruptedRunError.
    """
    console = console or Console()
    run_dir = recipe.run_dir
    if redo_from is not None:
        recipe.stage(redo_from)
    _make_writable(run_dir)
    with _locked(run_dir):
        if fresh:
            _forget(run_dir)
        standings = survey(recipe, redo_from)
        if allow_change:
            for standing in standings:
                if standing.state == "changed":
                    _allow(recipe, standing)
            standings = survey(recipe, redo_from)
        _refuse_changes(run_dir, standings)
        for standing in standings:
            if standing.state == "new":
                _remove(run_dir, standing.stage.name)
        write_whole(run_dir / "recipe.yaml", yaml.safe_dump(resolved(recipe), sort_keys=False, allow_unicode=True))
        write_whole(run_dir / "env.json", json.dumps(environment(command), indent=2) + "\n")
        with Interruption() as interruption, contextlib.ExitStack() as stack:
            _run_stages(recipe, standings, command, console, show_rollouts, stack, interruption)
        _write_report(run_dir, console)
    records = {stage.name: read_record(run_dir / "stages" / stage.name) or {} for stage in recipe.stages}
    return Summary(
        run_dir,
        {standing.stage.name: standing.state for standing in standings},
        {name: float(record.get("seconds", 0.0)) for name, record in records.items()},
    )


def survey(recipe: Recipe, redo_from: str | None = None) -> list[Standing]:
    """Say where every stage stands, touching nothing."""
    folder = recipe.run_dir / "stages"
    redone: set[str] = set()
    standings = []
    for stage in recipe.stages:
        standing = _stand(recipe, stage, folder)
        past = bool(redone) or stage.name == redo_from
        if stage.name == redo_from or redone & set(stage.inputs()) or (past and standing.state == "changed"):
            standing = Standing(stage, "new")
            redone.add(stage.name)
        standings.append(standing)
    return standings


def read_record(folder: Path) -> Record | None:
    """What a stage's folder records about itself (stage.json), None where there is none."""
    file = folder / STAGE_FILE
    try:
        record: Record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise R1kitError(f"{file}: not the JSON that r1kit wrote ({error}): remove that stage's folder to redo it") from None
    return record


def _stand(recipe: Recipe, stage: Stage, folder: Path) -> Standing:
    identity = _identity(recipe, stage, folder)
    final = read_record(folder / stage.name)
    record = final or read_record(_partial(folder / stage.name))
    if record is None:
        return Standing(stage, "new")
    differences = tuple(identity_differences(record, identity))
    if final is None:
        differences += tuple(setting_differences(record, setting(recipe.runtime)))
    elif differences and identity_hash(identity) in allowed_identities(folder / stage.name):
        differences = ()
    if differences:
        return Standing(stage, "changed", differences)
    return Standing(stage, "done" if final else "continue")


def _identity(recipe: Recipe, stage: Stage, folder: Path) -> Record:
    """What a stage's result depends on. An input that is not finished has no hash yet."""
    config = stage.model_dump(mode="json")
    records = {name: folder / name / STAGE_FILE for name in stage.inputs()}
    return {
        "stage": stage.stage,
        "name": stage.name,
        "config": config,
        "seed": derive_seed(recipe.seed, stage.seed_of or stage.name),
        "inputs": {name: hash_file(file) if file.exists() else None for name, file in records.items()},
        "files": named_files(config),
    }


def _allow(recipe: Recipe, standing: Standing) -> None:
    """Record that the user lets a change stand: beside a finished stage, or in the record of an unfinished one, which goes on as it is now."""
    folder = recipe.run_dir / "stages"
    identity = _identity(recipe, standing.stage, folder)
    final, partial = folder / standing.stage.name, _partial(folder / standing.stage.name)
    change = {"at": round(time.time(), 3), "differences": list(standing.differences)}
    if final.is_dir():
        known = json.loads((final / ALLOWED_FILE).read_text(encoding="utf-8")) if (final / ALLOWED_FILE).exists() else []
        write_whole(final / ALLOWED_FILE, json.dumps([*known, {**change, "identity": identity_hash(identity)}], indent=2) + "\n")
        return
    record = read_record(partial) or {}
    allowed = [*record.get("allowed", []), {**change, "identity": identity_hash(record)}]
    _write_record(partial, {**record, **identity, "setting": setting(recipe.runtime), "allowed": allowed})


def _refuse_changes(run_dir: Path, standings: Sequence[Standing]) -> None:
    changed = [standing for standing in standings if standing.state == "changed"]
    if not changed:
        return
    lines = [f"  {standing.stage.name}: {difference}" for standing in changed for difference in standing.differences]
    first = changed[0].stage.name
    choices = [
        f"--from {first} redoes from there on, --fresh everything, --out DIR keeps it and begins another run;",
        "--allow-change goes on with what is there and records that the change was allowed.",
    ]
    raise ConfigError("\n".join([f"{run_dir} was made with something else. Changed since:", *lines, *choices]))


def _run_stages(
    recipe: Recipe,
    standings: Sequence[Standing],
    command: str,
    console: Console,
    show_rollouts: int,
    stack: contextlib.ExitStack,
    interruption: Interruption,
) -> None:
    """Run what is not done, in recipe order, where every stage comes after its inputs."""
    folder = recipe.run_dir / "stages"
    outputs: dict[str, Path] = {}
    runtime, checked = None, set[str]()
    for standing in standings:
        name = standing.stage.name
        if standing.state == "done":
            record = read_record(folder / name) or {}
            console.print(Text(f"{name}: done ({duration(record.get('seconds', 0.0))})"))
        else:
            with _explained(name, list(outputs), recipe.run_dir, command):
                _check_inputs(standing.stage.inputs(), folder, checked)
                if runtime is None:
                    runtime = _open_runtime(recipe, stack)
                console.print(Text(f"{name}: {'continues' if standing.state == 'continue' else 'begins'}"), style="bold")
                log = Log(recipe.run_dir, name, console, show_rollouts=show_rollouts, interruption=interruption)
                seconds = _run_stage(recipe, standing, folder, outputs, runtime, log)
                interruption.stop_if_asked()
            console.print(Text(f"{name}: done ({duration(seconds)})"))
        outputs[name] = folder / name


def _check_inputs(names: Sequence[str], folder: Path, checked: set[str]) -> None:
    """Hash again what a stage is about to read. Raises R1kitError naming the file that is not as it was written."""
    for name in names:
        if name not in checked:
            found = list(damages(folder / name, (read_record(folder / name) or {}).get("outputs", {})))
            if found:
                listed = "\n  ".join(found)
                raise R1kitError(f"its input @{name} is damaged:\n  {listed}\nBring back a copy, or redo that stage with --from {name}.")
            checked.add(name)


def _run_stage(recipe: Recipe, standing: Standing, folder: Path, outputs: Mapping[str, Path], runtime: Any, log: Log) -> float:
    """Run one stage in its partial folder and give that its final name. Returns its seconds, earlier attempts included."""
    stage = standing.stage
    partial = _partial(folder / stage.name)
    record = read_record(partial) or {**_identity(recipe, stage, folder), "setting": setting(recipe.runtime)}
    if standing.state == "new":
        log.forget()
        partial.mkdir(parents=True)
    if "finished" not in record or any(damages(partial, record["outputs"])):
        record = {**record, "started": record.get("started", round(time.time(), 3)), "attempts": record.get("attempts", 0) + 1}
        _write_record(partial, record)
        record = _work(stage, Context(recipe.run_dir, stage.name, partial, record["seed"], runtime, log, dict(outputs), tuple(owners(partial))), record)
        _write_record(partial, record)
    rename_whole(partial, folder / stage.name)
    return float(record["seconds"])


def _work(stage: Stage, ctx: Context, record: Record) -> Record:
    """Call the stage; return its record, finished. The time of a failed attempt is kept for the next one to add to."""
    began = time.monotonic()
    before = record.get("seconds", 0.0)
    try:
        with naming(ctx.out), MemoryWatch() as watch, ctx.log:
            stage.run(ctx)
        ctx.log.sync()
        _sweep(ctx.out)
        sync_tree(ctx.out)  # what the record says is on the disk before the record is
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong may be the disk
            _write_record(ctx.out, {**record, "seconds": round(before + time.monotonic() - began, 3)})
        raise
    return {
        **record,
        "seconds": round(before + time.monotonic() - began, 3),
        "peak_rss_mb": round(max(watch.peak_mb, record.get("peak_rss_mb", 0.0)), 1),
        "versions": versions(),
        "outputs": marks(ctx.out),
        "finished": round(time.time(), 3),
    }


def _sweep(folder: Path) -> None:
    """Remove what training and interrupted writes have left: a stage that has its result keeps nothing else."""
    for pattern in (STATES, SAMPLED, ".*.tmp"):
        for path in list(folder.rglob(pattern)):
            if path.is_dir():
                remove_at_once(path)
            else:
                path.unlink(missing_ok=True)


def _write_record(folder: Path, record: Record) -> None:
    write_whole(folder / STAGE_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _explained(name: str, finished: Sequence[str], run_dir: Path, command: str) -> Iterator[None]:
    """Turn whatever stops a stage into one message: what happened, what is kept, how to continue."""
    kept = f"Finished and kept: {', '.join(finished)}." if finished else "No stage was finished before it."
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(f"interrupted in stage {name!r}. {kept} Continue with:\n  {command}") from None
    except R1kitError as error:
        raise StageError(f"stage {name!r} failed: {error}\n{kept} Mend the cause, then continue with:\n  {command}") from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        whole = _keep_traceback(run_dir / "logs" / f"{name}.txt")
        what = disk_trouble(error) or f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno}; {whole})"
        raise StageError(f"stage {name!r} failed: {what}\n{kept} Mend the cause, then continue with:\n  {command}") from error


def _keep_traceback(file: Path) -> str:
    """Write the traceback of what is being handled to a file; the words that say where it is."""
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as error:
        return f"the traceback could not be written: {error.strerror}"
    return f"whole traceback: {file}"


def _open_runtime(recipe: Recipe, stack: contextlib.ExitStack) -> Any:
    # Imported only when a stage is to run: it brings torch with it.
    runtime = import_module("r1kit.runtime").start(recipe.runtime)
    stack.callback(runtime.close)
    return runtime


def _write_report(run_dir: Path, console: Console) -> None:
    if util.find_spec("r1kit.report") is None:
        return
    path = import_module("r1kit.report").write(run_dir)
    console.print(Text(f"report: {path}"))


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _remove(run_dir: Path, stage: str) -> None:
    for folder in (run_dir / "stages" / stage, _partial(run_dir / "stages" / stage)):
        (folder / STAGE_FILE).unlink(missing_ok=True)  # without its record, half of a folder is not taken for anything
        remove_tree(folder)


def _forget(run_dir: Path) -> None:
    """Remove what r1kit writes into a run's folder, and nothing else that may lie there."""
    for record in run_dir.glob(f"stages/*/{STAGE_FILE}"):
        record.unlink()
    for name in MADE_HERE:
        path = run_dir / name
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


def _make_writable(run_dir: Path) -> None:
    try:
        (run_dir / "stages").mkdir(parents=True, exist_ok=True)
        probe = run_dir / "stages/.writable"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"out: {run_dir} cannot be written: {error.strerror or error}; choose another folder with --out DIR") from None


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Hold the run's folder for this process; the lock goes with the process, however that ends."""
    with (run_dir / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"{run_dir}: another process (id {holder}) is at this run: wait for it or stop it, or choose another folder with --out DIR"
            ) from None
        with naming(run_dir / "lock"):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        yield
