"""What can be damaged in a run: every file and folder of every moment, by kind, and what has the same kind
elsewhere."""

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from chaos.damage import OF_FILES, OF_FOLDERS
from chaos.runs import contents
from chaos.world import Moment, World

# Kinds of which only a file of the same name may take the place, or that of another process's part.
SAME_NAME = (
    "states: tensors",
    "states: manifests",
    "states: texts",
    "weights",
    "model configurations",
    "tokenizers",
)


@dataclass(frozen=True)
class Target:
    """A file or folder by its path in the folder that the recipe runs in ("run/...", "cache/..."), at a
    moment."""

    moment: Moment
    name: str
    kind: str
    is_folder: bool = False

    @property
    def stage(self) -> str:
        """The stage in whose folder it is, "" for other files."""
        parts = PurePosixPath(self.name).parts
        return parts[2].removesuffix(".partial") if parts[:2] == ("run", "stages") else ""


@dataclass(frozen=True)
class Case:
    """One damage to one target, and the command that reads it. ``order``: the kinds of damage as they are
    tried, the first that changes something."""

    number: int
    target: Target
    order: tuple[str, ...]
    command: str


def kind_of(name: str) -> str:
    """The kind of a file by its path."""
    path = PurePosixPath(name)
    parts = path.parts
    if parts[0] == "cache":
        return "kernels"
    if "train_state" in parts:
        texts = "states: tensors" if path.suffix == ".safetensors" else "states: texts"
        return "states: manifests" if path.name == "manifest.json" else texts
    if "sampled" in parts:
        return "sampled chunks"
    if parts[1] == "samples":
        return "samples"
    if parts[1] == "stages":
        return _kind_in_stage(path)
    known = {"metrics.jsonl": "log", "run.lock": "lock"}
    return known.get(path.name, "report of the run" if path.stem == "report" else path.name)


def _kind_in_stage(path: PurePosixPath) -> str:
    if path.name == "stage.json":
        return "records of stages"
    if path.name == "report.json":
        return "reports of stages"
    if path.suffix == ".safetensors":
        return "weights"
    if path.name.startswith("tokenizer"):
        return "tokenizers"
    return "data of stages" if path.suffix == ".jsonl" else "model configurations"


def all_targets(world: World) -> dict[str, list[Target]]:
    """Every target by kind. A file that no stage reads next is a target of the finished run only."""
    found: dict[str, list[Target]] = {}
    for moment in world.moments():
        names = {f"run/{name}": False for name in contents(moment.folder)}
        names |= {f"run/{name}": True for name in _folders(moment.folder)}
        if moment.name == "r1_zero-state":
            names |= {f"cache/{name}": False for name in contents(world.kernels)}
        for name, is_folder in sorted(names.items()):
            target = Target(moment, name, "folders" if is_folder else kind_of(name), is_folder)
            if _is_read(world, target):
                found.setdefault(target.kind, []).append(target)
    return found


def cases(world: World, seed: int, numbers: Sequence[int]) -> Iterator[Case]:
    """The cases of a seed by number: kinds in turn, and within a kind every file in turn, in random order."""
    targets = all_targets(world)
    kinds = sorted(targets)
    for kind in kinds:
        random.Random(f"targets/{seed}/{kind}").shuffle(targets[kind])
    for number in numbers:
        chance = random.Random(f"case/{seed}/{number}")
        of_kind = targets[kinds[number % len(kinds)]]
        target = of_kind[number // len(kinds) % len(of_kind)]
        damages = sorted(OF_FOLDERS if target.is_folder else OF_FILES)
        order = tuple(chance.sample(damages, len(damages)))
        yield Case(number, target, order, chance.choice(commands(target)))


def numbers_of(world: World, count: int, kinds: Sequence[str] | None) -> list[int]:
    """The numbers of the first cases, of these kinds of targets where any are given. Raises SystemExit for a
    kind that is none."""
    known = sorted(all_targets(world)) if kinds else []
    if unknown := set(kinds or ()) - set(known):
        raise SystemExit(f"--kind {sorted(unknown)[0]}: the kinds are {', '.join(known)}")
    numbers = (n for n in itertools.count() if not kinds or known[n % len(known)] in kinds)
    return list(itertools.islice(numbers, count))


def commands(target: Target) -> list[str]:
    """The commands that read a target: what remains of the run, or all that reads a finished one."""
    if target.moment.working:
        return ["run"]
    found = ["run", "verify"]
    if target.stage and "/model" in target.name:
        found += ["export", "chat"]
    if target.kind in ("records of stages", "env.json", "reports of stages"):
        found += ["export"]
    if target.kind in ("log", "samples", "records of stages", "reports of stages", "report of the run"):
        found += ["report"]
    return found


class Donors:
    """Files and folders of the same kind, from every moment of every run, each content once."""

    def __init__(self, world: World) -> None:
        self._found: dict[str, dict[str, Path]] = {}
        for moment in (moment for seed in world.seeds() for moment in world.moments(seed)):
            for name, digest in contents(moment.folder).items():
                self._found.setdefault(_likeness(f"run/{name}"), {}).setdefault(digest, moment.folder / name)
            for name in _folders(moment.folder):
                path = moment.folder / name
                self._found.setdefault(_likeness_of_folder(name), {}).setdefault(str(path), path)
        for name, digest in contents(world.kernels).items():
            self._found.setdefault(_likeness(f"cache/{name}"), {})[digest] = world.kernels / name

    def of(self, target: Target, present: Path) -> list[Path]:
        """What could take the place of a target with another content."""
        inner = target.name.removeprefix("run/")
        likeness = _likeness_of_folder(inner) if target.is_folder else _likeness(target.name)
        now = describe_content(present)
        return [path for path in self._found.get(likeness, {}).values() if describe_content(path) != now]


def describe_content(path: Path) -> object:
    """What a file or folder holds, for a comparison."""
    return contents(path) if path.is_dir() else path.read_bytes()


def _likeness(name: str) -> str:
    kind, path = kind_of(name), PurePosixPath(name)
    whose = re.sub(r"\.\d{5}\.", ".", path.name)  # state.00001.safetensors is the part of one process
    return f"{kind}/{whose if kind in SAME_NAME else path.suffix}"


def _likeness_of_folder(name: str) -> str:
    path = PurePosixPath(name)
    if path.name.startswith("step_"):
        return "folder/state"
    if path.parts[0] == "stages" and len(path.parts) == 2:
        return f"folder/stage{'.partial' * path.name.endswith('.partial')}/{path.name}"
    return f"folder/{path.parts[0]}/{path.name}"


def _folders(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir())


def _is_read(world: World, target: Target) -> bool:
    """Whether the stage at work reads the target (its own folder, its inputs, the run's files), and all of
    it in a finished run. The files of a run as a whole count where a state was saved or a stage ended."""
    working = target.moment.working
    if not working:
        return True
    if target.name == "run/stages":
        return False
    if target.stage:
        return target.stage in (working, *_inputs(world, working))
    return target.moment.name.endswith("-state") or target.moment.name.startswith("after_")


def _inputs(world: World, stage: str) -> list[str]:
    record = json.loads((world.finished() / "stages" / stage / "stage.json").read_text(encoding="utf-8"))
    return list(record["inputs"])
