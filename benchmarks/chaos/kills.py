"""Kill a run at random times until it is done, and compare it with the undisturbed run.

A round is one run. At seeded random times one of these happens to it: SIGKILL to the whole process group or
to one of its processes, SIGTERM or SIGINT, SIGSTOP with SIGCONT after a while. In some rounds the disk is too
small at first. The same command is given again until the run is done. Then all files must be those of the
undisturbed run, and nothing may be left behind in the system. Attempts are forked from a process that has
imported everything, so kills hit the work and not the imports.

On Ray (clusters.py) the driver, a learner, an engine, one of Ray's own processes or all that compute are
killed; after a learner or an engine the run goes on by itself. No process may listen outside this machine."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from chaos.clusters import actors, left_of, listening_outside, sessions_of
from chaos.runs import Tally, differences, fingerprint, fork, r1kit, wait
from chaos.world import LIMIT_S, World, inside

ATTEMPTS = 400  # of one round; a run that makes no progress counts as wrong
GONE_WITHIN_S = 60.0
ENDS_WITHIN_S = 240.0  # after one process was killed, or a signal asked to stop
SIZES = ("400k", "900k", "2m", "3500k")  # of a disk that is too small
INTERRUPTED = 130

# What happens, and how often.
EVENTS = {"kill all": 12, "kill one": 4, "terminate": 2, "interrupt": 2, "stop": 2}
RAY_EVENTS = {
    "kill driver": 4, "kill LearnerActor": 4, "kill EngineActor": 4, "kill all": 3, "kill one": 1,
    "terminate": 1, "interrupt": 1, "stop": 1,
}  # fmt: skip
PASSING = ("kill LearnerActor", "kill EngineActor")  # the run goes on by itself


@dataclass(frozen=True)
class Round:
    """The result of a round."""

    kills: int
    outcome: str
    details: str = ""


class Killer:
    """Rounds of one world's recipe."""

    def __init__(self, world: World, folder: Path, seed: int) -> None:
        self.world, self.folder, self.seed = world, folder, seed
        folder.mkdir(parents=True)
        self.wanted = fingerprint(world.finished())
        self.shared_memory = set(os.listdir("/dev/shm"))
        began = time.monotonic()
        self.chance = random.Random()
        self.place = folder
        measured = self.round(-1, 0)
        if measured.outcome != "identical":
            raise SystemExit(f"a second undisturbed run is {measured.outcome}: {measured.details}")
        self.seconds = time.monotonic() - began

    def round(self, number: int, most: int) -> Round:
        """Disturb a run at most ``most`` times until it is done."""
        whose = self.world.processes if self.world.kind == "local" else self.world.kind
        self.chance = random.Random(f"kills/{whose}/{self.seed}/{number}")
        self.place = self.world.place(self.folder / f"round_{number}")
        (self.folder / "compiler").unlink(missing_ok=True)
        shutil.copy(self.world.folder / "compiler", self.folder / "compiler")
        on_small_disk = number % 5 == 4 and _mount(self.place / "run", self.chance.choice(SIZES))
        try:
            found = self._attempts(most, on_small_disk)
        finally:
            if on_small_disk:
                subprocess.run(["umount", str(self.place / "run")], check=False)
        if found.outcome == "identical":
            shutil.rmtree(self.place)
        return found

    def _attempts(self, most: int, on_small_disk: bool) -> Round:
        kills, left = 0, []
        for attempt in range(ATTEMPTS):
            output = self.place / f"attempt_{attempt}.txt"
            pid = fork(inside(self.place, lambda: r1kit(*self.world.command())), output)
            code, events, found = self._attempt(pid, most - kills)
            kills += len(events)
            left += found
            said = output.read_text(encoding="utf-8", errors="replace")
            if code == 0:
                return self._judged(kills, left)
            if on_small_disk and code == 1 and "No space left on device" in said and "Traceback" not in said:
                subprocess.run(["mount", "-o", "remount,size=200m", str(self.place / "run")], check=True)
                on_small_disk = False
                kills += 1
            elif not events or not _expected(events[-1], code, said):
                words = f"attempt {attempt}, {events or 'undisturbed'}, ended with {code}: {said[-600:]}"
                return Round(kills, "wrong", words)
        return Round(kills, "wrong", f"not done after {ATTEMPTS} attempts")

    def _attempt(self, pid: int, most: int) -> tuple[int | None, list[str], list[str]]:
        """Let events happen to a run, at most so many, until it ends or one of them ends it: the exit code,
        None where it hangs, the events, and what was left behind or listened elsewhere."""
        events: list[str] = []
        wrong: list[str] = []
        processes: dict[int, psutil.Process] = {}
        sessions: set[str] = set()
        while True:
            seconds = self.chance.uniform(0.0, self.seconds / 4) if len(events) < most else LIMIT_S
            code = wait(pid, seconds)
            if code is not None or len(events) >= most:
                break
            weights = RAY_EVENTS if self.world.kind == "ray" else EVENTS
            events.append(self.chance.choices(list(weights), list(weights.values()))[0])
            processes |= {process.pid: process for process in _members(pid)}
            now = list(processes.values())
            wrong += listening_outside(now)
            sessions |= sessions_of(now)
            code = self._disturb(pid, events[-1], now)
            if events[-1] not in PASSING:
                break
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            wait(pid, None)
        if events:
            wrong += _left_behind(list(processes.values())) + left_of(sessions, GONE_WITHIN_S)
        return code, events, wrong

    def _disturb(self, pid: int, event: str, processes: list[psutil.Process]) -> int | None:
        """Let the event happen; the exit code, None where the run goes on, as it does after some, or
        hangs."""
        if event in PASSING or event == "kill one":
            some = actors(processes, event.removeprefix("kill ")) if event in PASSING else processes
            if some:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.chance.choice(sorted(some, key=lambda process: process.pid)).kill()
            if event in PASSING:
                return None
        elif event in ("terminate", "interrupt"):
            os.kill(pid, signal.SIGTERM if event == "terminate" else signal.SIGINT)
        elif event == "stop":
            os.killpg(pid, signal.SIGSTOP)
            time.sleep(self.chance.uniform(0.1, 1.0))
            os.killpg(pid, signal.SIGCONT)
        else:
            for process in actors(processes, "") if event == "kill all" else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            os.killpg(pid, signal.SIGKILL)
        return wait(pid, LIMIT_S if self.world.kind == "ray" else ENDS_WITHIN_S)

    def _judged(self, kills: int, left: list[str]) -> Round:
        different = differences(fingerprint(self.place / "run"), self.wanted)
        new = set(os.listdir("/dev/shm")) - self.shared_memory
        left += [f"/dev/shm/{name}" for name in new if name.startswith(("torch", "r1kit"))]
        left += [n for n in os.listdir(self.place / "temporary") if n.startswith("r1kit")]
        if different or left:
            return Round(kills, "wrong", f"different: {different[:12]}; left behind: {left[:6]}")
        return Round(kills, "identical")


def random_kills(world: World, folder: Path, kills: int, seed: int, only: int | None = None) -> Tally:
    """Run rounds until ``kills`` are done, or only the round of that number."""
    tally = Tally("kills", f"at random, {world.label}{', all or one of them' * (world.processes > 1)}")
    killer = Killer(world, folder, seed)
    print(f"{world.label}: undisturbed in {killer.seconds:.1f} s", flush=True)
    number = only or 0
    while tally.done < kills:
        found = killer.round(number, kills - tally.done)
        tally.count(max(found.kills, 1), found.outcome)
        print(f"  round {number}: {found.kills} kills, {found.outcome} {found.details}", flush=True)
        if found.outcome == "wrong":
            part = "--only kills " if world.kind == "local" else ""
            again = f"{part}--round {number} --seed {seed} {world.words}"
            print(f"  again: python benchmarks/chaos.py {again}; kept: {killer.place}", flush=True)
        if only is not None:
            break
        number += 1
    return tally


def _expected(event: str, code: int | None, said: str) -> bool:
    """Whether an attempt ended as it should after an event: killed, stopped with exit code 130, or, where one
    process died, with a message how to continue. A signal before the command has its own handler ends it as
    any program: SIGTERM with its number, SIGINT as an exception, which ``fork`` does not print."""
    if event in ("kill all", "kill driver"):
        return code == -signal.SIGKILL
    if event == "kill one" or event in PASSING:
        continues = "Fix the cause, then rerun" in said or "the same command continues" in said
        return code == -signal.SIGKILL or (code == 1 and continues and "Traceback" not in said)
    if event == "terminate" and code == -signal.SIGTERM:  # before r1kit's own handler was there
        return ": begins" not in said and ": done" not in said
    if event == "interrupt" and code == 1 and not said:
        return True
    return event in ("terminate", "interrupt") and code == INTERRUPTED and "Traceback" not in said


def _mount(folder: Path, size: str) -> bool:
    """Put a small file system at the folder; False where this is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _members(pid: int) -> list[psutil.Process]:
    """All processes that descend from this one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _left_behind(processes: list[psutil.Process]) -> list[str]:
    """The processes that outlive their parent; they are killed. Zombies that wait for their parent, the
    system's first process, do not count."""
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN_S)
    found = []
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid} {' '.join(process.cmdline())[:80]}")
                process.kill()
    return found
