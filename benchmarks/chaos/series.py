"""Many cases of mutations.py, shared among workers that were forked after all imports; their outcomes, counts
by kind, and what was wrong."""

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.mutations import Mutator, Outcome, as_json
from chaos.runs import Tally, fork, wait
from chaos.targets import cases
from chaos.world import Moment, World


def mutations(
    world: World,
    folder: Path,
    numbers: Sequence[int],
    seed: int,
    workers: int,
    moments: Sequence[Moment] = (),
    until_wrong: bool = False,
) -> list[Outcome]:
    """Continue these moments without damage, and work on the cases of these numbers; print what is wrong,
    with the command that repeats it. ``until_wrong``: begin no case after one that is wrong."""
    wanted = {(number, "") for number in numbers} | {(-1, moment.name) for moment in moments}
    done = {_name(outcome) for outcome in _begin(world, folder, seed)}
    numbers = [number for number in numbers if (number, "") not in done]
    moments = [moment for moment in moments if (-1, moment.name) not in done]
    shutil.copy(world.folder / "compiler", folder / "compiler")
    running = []
    for worker in range(workers):
        mutator = functools.partial(_Worker, world, folder, seed, worker, until_wrong)
        own, continued = list(numbers[worker::workers]), list(moments[worker::workers])
        work = functools.partial(_start, mutator, continued, own)
        running.append(fork(work, folder / f"worker_{worker}.txt"))
    shown = 0
    while running:
        running = [pid for pid in running if wait(pid, 0.0) is None]
        found = _read(folder)
        for outcome in found[shown:]:
            if outcome.verdict == "wrong":
                print(f"  {outcome}\n    again: {_again(outcome, world, seed)}", flush=True)
        shown = len(found)
        time.sleep(0.2)
    found = [outcome for outcome in _read(folder) if _name(outcome) in wanted]
    ended_early = until_wrong and any(outcome.verdict == "wrong" for outcome in found)
    if len(found) < len(wanted) and not ended_early:
        texts = [file.read_text(encoding="utf-8")[-2000:] for file in folder.glob("worker_*.txt")]
        raise SystemExit("\n".join(["a worker stopped:", *texts]))
    return found


def _begin(world: World, folder: Path, seed: int) -> list[Outcome]:
    """Make the folder, or go on in it where it has outcomes of this code and seed; return these."""
    series, head = folder / "series.txt", f"{(world.folder / 'code.txt').read_text(encoding='utf-8')} {seed}"
    if not (series.exists() and series.read_text(encoding="utf-8") == head):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        series.write_text(head, encoding="utf-8")
    for place in folder.glob("place_*"):
        shutil.rmtree(place)
    return _read(folder)


def _name(outcome: Outcome) -> tuple[int, str]:
    return outcome.number, outcome.moment if outcome.number < 0 else ""


def tallies(outcomes: Sequence[Outcome], world: World) -> list[Tally]:
    """Counts by kind of what was damaged."""
    found: dict[str, Tally] = {}
    ending = "" if world.label == "1 process" else f", {world.label}"
    for outcome in sorted(outcomes, key=lambda outcome: outcome.kind):
        tally = found.setdefault(outcome.kind, Tally("mutations", f"{outcome.kind}{ending}"))
        tally.count(1, outcome.verdict)
    return list(found.values())


def _again(outcome: Outcome, world: World, seed: int) -> str:
    chosen = f"--case {outcome.number}" if outcome.number >= 0 else f"--moment {outcome.moment}"
    part = "--only mutations " if world.kind == "local" else ""
    return f"python benchmarks/chaos.py {part}{chosen} --seed {seed} {world.words}"


class _Worker:
    """Works in a place of its own; adds outcomes to a file that all workers share, keeps what is wrong."""

    def __init__(self, world: World, folder: Path, seed: int, number: int, until_wrong: bool) -> None:
        self.world, self.folder, self.seed, self.until_wrong = world, folder, seed, until_wrong
        self.mutator = Mutator(world, folder / f"place_{number}")

    def work(self, moments: Sequence[Moment], numbers: Sequence[int]) -> None:
        """Continue the moments, then do the cases."""
        for moment in moments:
            self._note(self.mutator.continued(moment), f"continued_{moment.name}")
        for case in cases(self.world, self.seed, numbers):
            if self.until_wrong and (self.folder / "wrong").is_dir():
                return
            self._note(self.mutator.work(case), f"case_{case.number}")

    def _note(self, outcome: Outcome, name: str) -> None:
        if outcome.verdict == "wrong":
            kept = self.folder / "wrong" / name
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            for part in ("run", "outside", "output.txt"):
                path = self.mutator.place / part
                if path.is_dir():
                    shutil.copytree(path, kept / part, symlinks=True)
                elif path.exists():
                    shutil.copy(path, kept / part)
        with (self.folder / "outcomes.jsonl").open("a", encoding="utf-8") as file:
            os.write(file.fileno(), f"{as_json(outcome)}\n".encode())  # one call: workers do not mix


def _start(worker: Callable[[], _Worker], moments: Sequence[Moment], numbers: Sequence[int]) -> None:
    worker().work(moments, numbers)


def _read(folder: Path) -> list[Outcome]:
    file = folder / "outcomes.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]
