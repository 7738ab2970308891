"""The recipe of chaos.py, its undisturbed runs, and copies of a run's folder as a kill would leave it.

``prepare`` runs the recipe with two seeds. At chosen moments (a state was saved, sampled rollouts were kept,
a model was exported, a stage finished) the run's folder is copied. An audit hook of Python sees every rename,
which is how r1kit makes a file or folder valid; the copy is made at the next call that opens a file. So a
moment is exactly what SIGKILL would leave there. All paths of the recipe are relative to its folder, so
copies can be continued in any place."""

import json
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.runs import fork, r1kit, wait

RECIPE = Path(__file__).parent / "recipe"
SEEDS = (0, 1)  # of the undisturbed runs: what is damaged, and where foreign files come from
RL_STAGES = {"r1_zero": "pretrain", "reasoning_rl": "cold_start", "alignment_rl": "sft"}  # stage: its init
LIMIT_S = 1200.0

# What the command says about the runtime, by its kind.
RUNTIMES = {
    "local": "runtime.processes={n}",
    "fsdp": "runtime={{kind: fsdp, learners: {n}, engine_precision: float32, deadline_s: 120}}",
    "ray": "runtime={{kind: ray, learners: {n}, engines: {n}, engine_precision: float32, deadline_s: 120}}",
}

# A compiler that compiles each source once: kernels that are missing are compiled again, hundreds of times.
COMPILER = """\
#!/bin/sh
[ "$1" = --version ] && exec g++ --version
for word; do case $word in *.cpp) source=$word;; esac; last=$word; done
known={store}/$(basename "$source").so
[ -f "$known" ] || g++ "$@" || exit 1
[ -f "$known" ] && exec cp "$known" "$last"
cp "$last" "$known.$$" && mv "$known.$$" "$known"
"""


@dataclass(frozen=True)
class Moment:
    """A copy of a run's folder. ``working``: the stage that was at work, or the next one; "" when the run had
    finished."""

    name: str
    seed: int
    working: str
    folder: Path


@dataclass(frozen=True)
class World:
    """A folder with the recipe, the moments of its undisturbed runs, and the kernels that they used.
    ``kind``: of the runtime."""

    folder: Path
    processes: int
    kind: str = "local"

    @property
    def label(self) -> str:
        """The runtime in words."""
        if self.kind == "ray":
            return f"Ray, {self.processes} learners and {self.processes} engines"
        several = f"{self.processes} process{'es' * (self.processes > 1)}"
        return several if self.kind == "local" else f"{self.kind}, {several}"

    @property
    def words(self) -> str:
        """The options of chaos.py that choose this world."""
        return f"--processes {self.processes}" if self.kind == "local" else f"--only {self.kind}"

    @property
    def store(self) -> Path:
        """Where moments are kept."""
        return self.folder / "moments"

    @property
    def kernels(self) -> Path:
        """The compiled kernels, as r1kit's cache holds them."""
        return self.folder / "cache"

    def command(self, seed: int = 0) -> list[str]:
        """The words of the command that runs the recipe, in a folder made by ``place``."""
        return ["run", "every_stage.yaml", f"seed={seed}", RUNTIMES[self.kind].format(n=self.processes)]

    def place(self, folder: Path) -> Path:
        """Make a folder in which the recipe can be run."""
        shutil.copytree(RECIPE, folder)
        write_data(folder)
        shutil.copytree(self.kernels, folder / "cache")
        (folder / "temporary").mkdir()
        return folder

    def moments(self, seed: int = 0) -> list[Moment]:
        """The moments of a run, by name."""
        found = json.loads((self.store / f"{seed}.json").read_text(encoding="utf-8"))
        return [Moment(n, seed, stage, self.store / str(seed) / n) for n, stage in sorted(found.items())]

    def seeds(self) -> list[int]:
        """The seeds of its undisturbed runs."""
        return [seed for seed in SEEDS if (self.store / f"{seed}.json").exists()]

    def finished(self, seed: int = 0) -> Path:
        """The undisturbed run's folder, finished."""
        return self.store / str(seed) / "finished"

    def after(self, stage: str) -> Path:
        """The undisturbed run's folder when this stage had just finished."""
        return self.store / "0" / f"after_{stage}"


def inside(place: Path, work: Callable[[], None]) -> Callable[[], None]:
    """``work`` in the folder ``place``, with its kernels and temporary files there."""

    def there() -> None:
        os.chdir(place)
        os.environ |= {
            "XDG_CACHE_HOME": str(place / "cache"),
            "TMPDIR": str(place / "temporary"),
            "CXX": str(place.parent / "compiler"),
            "COLUMNS": "1000",  # messages in one line
        }
        work()

    return there


def prepare(folder: Path, processes: int, seeds: Sequence[int] = SEEDS, kind: str = "local") -> World:
    """Run the recipe undisturbed with these seeds and keep the moments; nothing to do where ``folder`` has
    them. Raises SystemExit where a run fails, or where an RL stage has not changed its model."""
    from r1kit.runs.provenance import code_hash

    world = World(folder, processes, kind)
    if (folder / "code.txt").exists():
        if (folder / "code.txt").read_text(encoding="utf-8") != code_hash():
            raise SystemExit(
                f"{folder}: made by other source code of r1kit; remove it, or keep another folder"
            )
        return world
    folder.mkdir(parents=True)
    world.kernels.mkdir()
    (folder / "compiled").mkdir()
    (folder / "compiler").write_text(COMPILER.format(store=folder / "compiled"), encoding="utf-8")
    (folder / "compiler").chmod(0o755)
    wait(fork(lambda: _store_kernels(folder / "compiled"), folder / "kernels.txt"), None)
    for seed in seeds:
        place = world.place(folder / f"undisturbed_{seed}")
        output = folder / f"undisturbed_{seed}.txt"
        keeper = _Keeper(place / "run", world.store / str(seed))
        code = wait(fork(inside(place, lambda: _kept_run(world, keeper)), output), LIMIT_S)  # noqa: B023
        if code != 0:
            raise SystemExit(f"the undisturbed run failed:\n{output.read_text(encoding='utf-8')}")
        shutil.copytree(place / "run", world.finished(seed), symlinks=True)
        if seed == SEEDS[0]:
            shutil.rmtree(world.kernels)
            shutil.copytree(place / "cache", world.kernels)
        _note_moments(world, seed)
    require_learning(world.finished())
    (folder / "code.txt").write_text(code_hash(), encoding="utf-8")
    return world


def _store_kernels(store: Path) -> None:
    """Put the kernels that this machine has where the compiler looks first. In a process of its own: what it
    has loaded, its forks would not look for."""
    from r1kit.engine import compiled
    from r1kit.model import compile_kernels, fused

    for source in (compiled.SOURCE, fused.SOURCE):
        found, _ = compile_kernels.in_use(source)
        if found is not None:
            (store / f"{source.name}.so").write_bytes(found.content)


def require_learning(run: Path) -> None:
    """Raise SystemExit where the model of an RL stage is that of its init: kills and damages of such a stage
    would prove nothing about its updates."""
    for stage, init in RL_STAGES.items():
        models = [(run / "stages" / name / "model/model.safetensors").read_bytes() for name in (stage, init)]
        if models[0] == models[1]:
            raise SystemExit(f"{stage}: its model is that of {init}, so the stage has learned nothing")


def at_rename(react: Callable[[Path], None]) -> None:
    """Call ``react`` with the new name of whatever this process renames, once that is done, in the main
    thread; for the rest of the process."""
    waiting: list[tuple[str, str]] = []
    busy = False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal busy
        if busy or not (
            event in ("open", "os.listdir", "os.scandir") or event.startswith(("os.", "shutil."))
        ):
            return
        if threading.current_thread() is not threading.main_thread():
            return
        busy = True
        done = [new for old, new in waiting if os.path.lexists(new) and not os.path.lexists(old)]
        waiting.clear()
        for new in done:
            react(Path(new))
        if event == "os.rename":
            old, new = (os.path.abspath(os.fspath(str(name))) for name in arguments[:2])
            waiting.append((old, new))
        busy = False

    sys.addaudithook(hook)


def until_finished(stage: str) -> None:
    """End this process, with exit code 0, as soon as the stage has its final name."""

    def end(new: Path) -> None:
        if new.name == stage and new.parent.name == "stages":
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    at_rename(end)


class _Keeper:
    """Copies the run's folder at moments."""

    def __init__(self, run: Path, to: Path) -> None:
        self.run, self.to = run, to
        self.names: dict[str, str] = {}

    def react(self, new: Path) -> None:
        """Copy the run's folder if this rename makes a moment."""
        if self.run not in new.parents or ".partial" in new.name:
            return
        parts = new.relative_to(self.run).parts
        if parts[0] != "stages":
            return
        stage = parts[1].removesuffix(".partial")
        if len(parts) == 2:
            self._keep(f"after_{stage}", stage)
        elif new.parent.name == "train_state" and len(list(new.parent.glob("step_*"))) >= 2:
            self._keep("-".join((stage, *parts[2:-2], "state")), stage)
        elif new.parent.name == "sampled" or new.name in ("model", "init", "helpful", "safety"):
            self._keep("-".join((stage, *(part.partition(".")[0] for part in parts[2:]))), stage)
        elif new.name == "stage.json" and '"finished"' in new.read_text(encoding="utf-8"):
            self._keep(f"{stage}-record", stage)

    def _keep(self, name: str, stage: str) -> None:
        if name not in self.names:
            self.names[name] = stage
            shutil.copytree(self.run, self.to / name, symlinks=True)


def _kept_run(world: World, keeper: _Keeper) -> None:
    at_rename(keeper.react)
    try:
        r1kit(*world.command(int(keeper.to.name)))
    finally:
        (keeper.to.parent / f"{keeper.to.name}.kept").write_text(json.dumps(keeper.names), encoding="utf-8")


def _note_moments(world: World, seed: int) -> None:
    """Write which stage is at work at each moment; after a stage that is the next one of the recipe."""
    kept = json.loads((world.store / f"{seed}.kept").read_text(encoding="utf-8"))
    order = [stage for name, stage in kept.items() if name.startswith("after_")]
    following = dict(zip(order, [*order[1:], ""], strict=True))
    found = {name: following[stage] if name.startswith("after_") else stage for name, stage in kept.items()}
    found = {name: stage for name, stage in found.items() if stage} | {"finished": ""}
    (world.store / f"{seed}.json").write_text(json.dumps(found), encoding="utf-8")


def write_data(folder: Path) -> None:
    """Write the recipe's data: short texts, so that a model learns within seconds where an answer ends."""
    chance = random.Random(0)
    sums = [(chance.randint(0, 63), chance.randint(0, 16)) for _ in range(1500)]
    texts = [f"What is {a} + {b}?<think>I add the two numbers.</think>{a + b}" for a, b in sums]
    written = [{"prompt": f"Say {n}.", "completion": f"<think>Yes.</think>{n}"} for n in range(64)]
    kinds = ("open", "forbidden")
    questions = [{"prompt": f"Where is {n}?", "kind": kinds[n % 2]} for n in range(48)]
    _write(folder / "texts.jsonl", ({"text": text} for text in texts))
    _write(folder / "written.jsonl", written)
    _write(folder / "questions.jsonl", questions)


def _write(file: Path, rows: Iterator[dict[str, str]] | list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
