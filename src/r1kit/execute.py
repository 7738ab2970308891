"""Run a recipe: each stage once, in order, whole or not at all.

A stage writes to ``stages/<name>.partial``, which takes its final name when the stage has finished, with ``stage.json`` beside the
result: the resolved configuration, the seed, and the hashes of the ``stage.json`` of its inputs. So a stage is *done* when a folder
of its name records the same configuration, seed and inputs; it *continues* when only a partial one does; it has *changed* when a
folder records anything else, and then nothing is touched until the user says what to redo.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.text import Text

from r1kit.config import ConfigError, R1kitError
from r1kit.files import rename_whole, write_whole
from r1kit.finished import FILE as FINISHED_FILE
from r1kit.finished import STAGE_FILE
from r1kit.log import Log, duration
from r1kit.memory import MemoryWatch
from r1kit.recipe import Recipe, resolved
from r1kit.seeds import derive_seed
from r1kit.stages.stage import Context, Stage

PACKAGES = ("r1kit", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "vllm", "ray")
REPORTS = ("report.md", "report.html", "report.json")
MADE_HERE = ("stages", "samples", "logs", "metrics.jsonl", "recipe.yaml", "env.json", *REPORTS, FINISHED_FILE)

State = Literal["done", "continue", "new", "changed"]
Record = dict[str, Any]


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
    command: str = "r1kit run RECIPE",
    console: Console | None = None,
    show_rollouts: int = 1,
) -> Summary:
    """Run every stage that is not done yet, then write the report.

    ``fresh`` forgets all that the run's folder holds; ``redo_from`` redoes that stage, those that read it, and later ones whose
    configuration has changed. ``command`` is what a user types to continue; it stands in messages and in env.json. Raises
    ConfigError before any work (a changed stage, an unwritable folder, a run that another process is at), StageError, and
    InterruptedRunError.
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
        _refuse_changes(run_dir, standings)
        for standing in standings:
            if standing.state == "new":
                _remove(run_dir, standing.stage.name)
        write_whole(run_dir / "recipe.yaml", yaml.safe_dump(resolved(recipe), sort_keys=False, allow_unicode=True))
        write_whole(run_dir / "env.json", json.dumps(environment(command), indent=2) + "\n")
        with _interruptible(), contextlib.ExitStack() as stack:
            _run_stages(recipe, standings, command, console, show_rollouts, stack)
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


def environment(command: str) -> dict[str, Any]:
    """What a reader needs to know to repeat the run."""
    return {
        "command": command,
        "arguments": sys.argv,
        "sandbox": os.environ.get("R1KIT_SANDBOX", "auto"),
        "versions": versions(),
        "git": _git_revision(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "started": round(time.time(), 3),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide a result; imports none of them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _stand(recipe: Recipe, stage: Stage, folder: Path) -> Standing:
    identity = _identity(recipe, stage, folder)
    final = read_record(folder / stage.name)
    record = final or read_record(_partial(folder / stage.name))
    if record is None:
        return Standing(stage, "new")
    differences = tuple(_differences(record, identity))
    if differences:
        return Standing(stage, "changed", differences)
    return Standing(stage, "done" if final else "continue")


def _identity(recipe: Recipe, stage: Stage, folder: Path) -> Record:
    """What a stage's result depends on. An input that is not finished has no hash yet."""
    inputs = {name: _hash_file(folder / name / STAGE_FILE) for name in stage.inputs()}
    return {
        "stage": stage.stage,
        "name": stage.name,
        "config": stage.model_dump(mode="json"),
        "seed": derive_seed(recipe.seed, stage.seed_of or stage.name),
        "inputs": inputs,
    }


def _differences(record: Record, identity: Record) -> Iterator[str]:
    old, new = _flat(record.get("config", {})), _flat(identity["config"])
    for key in [*old, *(key for key in new if key not in old)]:
        if old.get(key, _ABSENT) != new.get(key, _ABSENT):
            yield f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
    if record.get("seed") != identity["seed"]:
        yield "the recipe's seed"
    for name, digest in identity["inputs"].items():
        if name in record.get("inputs", {}) and record["inputs"][name] != digest:
            yield f"its input @{name} was made again" if digest else f"its input @{name} is not there"


_ABSENT = object()


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "(absent)"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()}


def _refuse_changes(run_dir: Path, standings: Sequence[Standing]) -> None:
    changed = [standing for standing in standings if standing.state == "changed"]
    if not changed:
        return
    lines = [f"  {standing.stage.name}: {difference}" for standing in changed for difference in standing.differences]
    choices = f"--from {changed[0].stage.name} redoes from there on, --fresh everything, --out DIR keeps it and begins another run."
    raise ConfigError("\n".join([f"{run_dir} was made with another recipe. Changed since:", *lines, choices]))


def _run_stages(
    recipe: Recipe, standings: Sequence[Standing], command: str, console: Console, show_rollouts: int, stack: contextlib.ExitStack
) -> None:
    """Run what is not done, in recipe order, where every stage comes after its inputs."""
    folder = recipe.run_dir / "stages"
    outputs: dict[str, Path] = {}
    runtime = None
    for standing in standings:
        name = standing.stage.name
        if standing.state == "done":
            record = read_record(folder / name) or {}
            console.print(Text(f"{name}: done ({duration(record.get('seconds', 0.0))})"))
        else:
            with _explained(name, list(outputs), recipe.run_dir, command):
                if runtime is None:
                    runtime = _open_runtime(recipe, stack)
                console.print(Text(f"{name}: {'continues' if standing.state == 'continue' else 'begins'}"), style="bold")
                log = Log(recipe.run_dir, name, console, show_rollouts=show_rollouts)
                seconds = _run_stage(recipe, standing, folder, outputs, runtime, log)
            console.print(Text(f"{name}: done ({duration(seconds)})"))
        outputs[name] = folder / name


def _run_stage(recipe: Recipe, standing: Standing, folder: Path, outputs: Mapping[str, Path], runtime: Any, log: Log) -> float:
    """Run one stage in its partial folder and give that its final name. Returns its seconds, earlier attempts included."""
    stage = standing.stage
    partial = _partial(folder / stage.name)
    record = read_record(partial) or _identity(recipe, stage, folder)
    if standing.state == "new":
        log.forget()
        partial.mkdir(parents=True)
    if "finished" not in record:
        record = {**record, "started": record.get("started", round(time.time(), 3)), "attempts": record.get("attempts", 0) + 1}
        _write_record(partial, record)
        record = _work(stage, Context(recipe.run_dir, stage.name, partial, record["seed"], runtime, log, dict(outputs)), record)
        _write_record(partial, record)
    rename_whole(partial, folder / stage.name)
    return float(record["seconds"])


def _work(stage: Stage, ctx: Context, record: Record) -> Record:
    """Call the stage; return its record, finished. The time of a failed attempt is kept for the next one to add to."""
    began = time.monotonic()
    before = record.get("seconds", 0.0)
    try:
        with MemoryWatch() as watch, ctx.log:
            stage.run(ctx)
    except BaseException:
        _write_record(ctx.out, {**record, "seconds": round(before + time.monotonic() - began, 3)})
        raise
    return {
        **record,
        "seconds": round(before + time.monotonic() - began, 3),
        "peak_rss_mb": round(max(watch.peak_mb, record.get("peak_rss_mb", 0.0)), 1),
        "versions": versions(),
        "finished": round(time.time(), 3),
    }


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
        file = run_dir / "logs" / f"{name}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(traceback.format_exc(), encoding="utf-8")
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno}; whole traceback: {file})"
        raise StageError(f"stage {name!r} failed: {what}\n{kept} Mend the cause, then continue with:\n  {command}") from error


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
        if folder.exists():
            shutil.rmtree(folder)


def _forget(run_dir: Path) -> None:
    """Remove what r1kit writes into a run's folder, and nothing else that may lie there."""
    for name in MADE_HERE:
        path = run_dir / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _make_writable(run_dir: Path) -> None:
    try:
        (run_dir / "stages").mkdir(parents=True, exist_ok=True)
        probe = run_dir / "stages" / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
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
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does. Signals can be set in the main thread only."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hash_file(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _git_revision() -> str | None:
    """The commit that r1kit's own source is at, with "+" when it is changed; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed.strip() else "")
