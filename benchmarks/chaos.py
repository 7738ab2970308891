"""Kill r1kit at any moment, any number of times, and compare the result with an undisturbed run.

    python benchmarks/chaos.py                  50 kills at random times, then kills and disk errors at every
                                                system call of a save and of a hand-over
    python benchmarks/chaos.py --kills 10 --no-calls --processes 1

Random kills: the nano recipe through every stage. At seeded random times SIGKILL goes to the whole process
group or to one of its processes; the run is started again until it is done. The models, data, rollouts and
metrics (without times) of every round must have the SHA-256 of the undisturbed run's, and nothing may be left
behind in the system. Attempts are forked from a process that has imported everything, so kills hit the work
and not the imports. Kills and errors at system calls: chaos_calls.py. Exits with 1 if any result differs."""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from chaos_calls import disturb
from chaos_runs import Tally, differences, fingerprint, fork, print_totals, run_recipe, wait

ROOT = Path(__file__).resolve().parents[1]
ATTEMPTS = 400  # of one round; a run that makes no progress counts as wrong
GONE_WITHIN_S = 20.0

# A nearly untrained model earns no reward by rules, and then there would be no training that could differ.
REWARD = (
    "def odd(completions, completion_ids):\n    return [sum(i % 2 for i in ids) / len(ids) for ids in "
    "completion_ids]\n"
)
RECIPE = """\
extends: {nano}
runtime: {{processes: {processes}}}
stages:
  pretrain: {{training: {{save_every: 3}}}}
  r1_zero:
    rewards: {{'{reward}': 1.0}}
    grpo: {{steps: 6, updates_per_rollout: 2, save_every: 1, beta: 0.01, reference_refresh: 2}}
  reasoning_rl: {{rewards: {{'{reward}': 1.0}}, grpo: {{steps: 4, save_every: 2}}}}
  sft: {{training: {{save_every: 1}}}}
  alignment_rl: {{rewards: {{'{reward}': 1.0}}, grpo: {{steps: 4, save_every: 1}}}}
  student_base: {{training: {{save_every: 1}}}}
"""


def note(tallies: Sequence[Tally], page: Path) -> None:
    """Write the figures between the marks of the page."""
    rows = [
        f"| {tally.where} | {tally.done} {tally.what} | {tally.identical} | {tally.refused} | {tally.wrong} |"
        for tally in tallies
    ]
    table = "\n".join(["| | | identical | refused with a reason | wrong |", "|---|---|---|---|---|", *rows])
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- chaos -->\n")
    page.write_text(
        f"{before}<!-- chaos -->\n{table}\n<!-- /chaos -->{rest.partition('<!-- /chaos -->')[2]}",
        encoding="utf-8",
    )


def members(pid: int) -> list[psutil.Process]:
    """All processes that descend from this one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def left_behind(processes: list[psutil.Process]) -> list[str]:
    """The processes that outlive their parent; they are killed."""
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN_S)
    found = []
    for process in alive:
        try:
            found.append(f"process {process.pid} {' '.join(process.cmdline())[:80]}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return found


class Chaos:
    """Rounds of one recipe, compared with its undisturbed run."""

    def __init__(self, folder: Path, processes: int, seed: int) -> None:
        self.folder, self.random = folder, random.Random(f"chaos/{processes}/{seed}")
        folder.mkdir(parents=True)
        (folder / "temporary").mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "temporary")
        (folder / "reward.py").write_text(REWARD)
        self.recipe = folder / "chaos.yaml"
        self.recipe.write_text(
            RECIPE.format(
                nano=ROOT / "recipes/nano.yaml", processes=processes, reward=f"{folder}/reward.py:odd"
            )
        )
        self.shared_memory = set(os.listdir("/dev/shm"))
        began = time.monotonic()
        code = wait(
            fork(lambda: run_recipe(self.recipe, folder / "undisturbed"), folder / "undisturbed.txt"), None
        )
        if code != 0:
            raise SystemExit(f"the undisturbed run failed:\n{(folder / 'undisturbed.txt').read_text()}")
        self.seconds = time.monotonic() - began
        self.wanted = fingerprint(folder / "undisturbed")

    def elsewhere(self) -> list[str]:
        """What differs in a second undisturbed run, by the command line in another folder and with another
        hash seed."""
        out = self.folder / "elsewhere"
        environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-m", "r1kit", "run", str(self.recipe), "--out", str(out)]
        ended = subprocess.run(
            command,
            cwd=self.folder / "temporary",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode != 0:
            raise SystemExit(f"the run elsewhere failed:\n{ended.stderr}")
        return differences(fingerprint(out), self.wanted)

    def round(self, number: int, most: int) -> tuple[int, str, str]:
        """Kill a run at most ``most`` times until it is done: (kills, outcome, details)."""
        out, kills, left = self.folder / f"round_{number}", 0, []
        for attempt in range(ATTEMPTS):
            output = self.folder / f"round_{number}_{attempt}.txt"
            pid = fork(lambda: run_recipe(self.recipe, out), output)
            code = wait(pid, self.random.uniform(0.0, self.seconds / 4)) if kills < most else wait(pid, None)
            alone = False
            if code is None:
                processes = members(pid)
                alone = bool(processes) and self.random.random() < 0.3
                kills += 1
                code = self._kill(pid, processes, alone)
                left += left_behind(processes)
            if code == 0:
                return self._judged(out, kills, left)
            if code != -signal.SIGKILL and not (alone and "the same command continues" in output.read_text()):
                said = output.read_text()
                refused = code > 0 and "Traceback" not in said and "r1kit: " in said
                return (
                    kills,
                    "refused" if refused else "wrong",
                    f"attempt {attempt} ended with {code}{' of one process' * alone}: {said[-600:]}",
                )
        return kills, "wrong", f"not done after {ATTEMPTS} attempts"

    def _kill(self, pid: int, processes: list[psutil.Process], alone: bool) -> int:
        if not alone:
            os.killpg(pid, signal.SIGKILL)
            return wait(pid, None) or 0
        victim = self.random.choice(sorted(processes, key=lambda process: process.pid))
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
        ended = wait(pid, 240.0)
        if ended is None:  # it neither continued nor stopped
            os.killpg(pid, signal.SIGKILL)
            wait(pid, None)
            return 99
        return ended

    def _judged(self, out: Path, kills: int, left: list[str]) -> tuple[int, str, str]:
        different = differences(fingerprint(out), self.wanted)
        left += [
            f"/dev/shm/{name}"
            for name in set(os.listdir("/dev/shm")) - self.shared_memory
            if name.startswith(("torch", "psm", "r1kit"))
        ]
        left += [
            f"temporary {name}" for name in os.listdir(self.folder / "temporary") if name.startswith("r1kit")
        ]
        shutil.rmtree(self.folder / "temporary")
        (self.folder / "temporary").mkdir()
        if different or left:
            return kills, "wrong", f"different: {different[:12]}; left behind: {left[:6]}"
        shutil.rmtree(out)
        return kills, "identical", ""


def random_kills(folder: Path, kills: int, processes: int, seed: int, tally: Tally) -> Path:
    """Run rounds until ``kills`` are done. Returns the folder of the undisturbed run."""
    chaos = Chaos(folder, processes, seed)
    print(
        f"{processes} process(es): undisturbed in {chaos.seconds:.1f} s, {len(chaos.wanted)} fingerprints",
        flush=True,
    )
    different = chaos.elsewhere()
    print(f"  with another hash seed, in another folder: {different[:12] or 'identical'}", flush=True)
    tally.wrong += bool(different)
    done, number = 0, 0
    while done < kills:
        killed, outcome, details = chaos.round(number, kills - done)
        tally.count(killed, outcome)
        print(f"  round {number}: {killed} kills, {outcome} {details}", flush=True)
        done, number = done + max(killed, 1), number + 1
    return folder / "undisturbed"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="random kills, over all --processes")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2], help="how many processes the runs have"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-calls", action="store_true", help="leave out kills and errors at system calls")
    parser.add_argument("--every", type=int, default=1, help="take every n-th system call of a hand-over")
    parser.add_argument("--keep", type=Path, help="a new folder for all runs, which is kept")
    options = parser.parse_args()
    # Imported once, here, for all attempts; nothing of it is used before a fork.
    import torch._dynamo  # the first optimizer imports it

    import r1kit.report.report
    import r1kit.runs.execute
    import r1kit.runtime
    import r1kit.stages

    assert torch._dynamo and r1kit.runs.execute and r1kit.report.report and r1kit.runtime and r1kit.stages
    tallies = []
    folder = options.keep or Path(
        tempfile.mkdtemp(prefix="chaos-")
    )  # not TemporaryDirectory: a forked attempt would remove it as it ends
    try:
        for processes in options.processes:
            tallies.append(
                Tally(
                    "kills",
                    f"at random, {processes} process{'es, all or one of them' if processes > 1 else ''}",
                )
            )
            kills = -(-options.kills // len(options.processes))
            finished = random_kills(
                folder / f"processes_{processes}", kills, processes, options.seed, tallies[-1]
            )
        if not options.no_calls:
            tallies += disturb(finished / "stages/pretrain/model", folder / "calls", options.every)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if sys.argv[1:] == []:
        note(tallies, ROOT / "docs/reliability.md")
    sys.exit(print_totals(tallies))


if __name__ == "__main__":
    main()
