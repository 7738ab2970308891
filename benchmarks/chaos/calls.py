"""Kill a process, or let the disk fail, at every system call that changes the disk, in one save of training
state and in one hand-over between stages.

strace is attached to a process that waits. It sends SIGKILL on entry to the N-th call of a kind; or it makes
that call fail with ENOSPC or EIO, once, or together with every later one until the process ends. Then another
process finishes the work, and the result is compared. The calls are listed first and each is tried, so every
moment between two changes of the disk is covered. A process that meets an error may continue, or stop with a
message that names the file; a traceback counts as wrong. Without strace (Linux only) this part is skipped,
with a message.

    PYTHONPATH=benchmarks python -m chaos.calls MODEL [--every 10] [--only save] [--errors]

runs this part alone, on a model's folder."""

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.runs import (
    Tally,
    differences,
    fingerprint,
    fork,
    import_everything,
    print_totals,
    run_recipe,
    wait,
)

CALLS = (
    "write,pwrite64,writev,ftruncate,truncate,rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,"
    "rmdir,mkdir,mkdirat"
)
OPENS = "openat"  # can fail if it creates a file
SAVED, STEPS = 3, 5
OUT = "run"  # of every run of a work
RECIPE = """\
name: hand-over
runtime: {{kind: local, processes: 1}}
stages:
  - stage: sft
    name: first
    init: {model}
    data: [{data}]
    training: {{epochs: 1, batch_tokens: 24, save_every: 1}}
  - stage: sft
    name: second
    init: '@first'
    data: [{data}]
    training: {{epochs: 1, batch_tokens: 24, save_every: 1}}
"""


@dataclass(frozen=True)
class Work:
    """The work to disturb: ``do(out, ready)`` calls ``ready`` when strace may be attached; ``finish(out)`` is
    what a user does next; the result of ``read(out)`` must then be ``wanted``."""

    name: str
    folder: Path
    do: Callable[[Path, Callable[[], None]], None]
    finish: Callable[[Path], None]
    read: Callable[[Path], dict[str, str]]
    wanted: dict[str, str]

    def finished(self, out: Path) -> tuple[int | None, list[str], str]:
        """Finish the work; return the exit code, the differences, and the output."""
        said = self.folder / "finish.txt"
        code = wait(fork(lambda: self.finish(out), said), 600.0)
        return code, differences(self.read(out), self.wanted) if code == 0 else [], said.read_text()


def save(model: Path, folder: Path) -> Work:
    """The save of one step, in a training that continues from a state on the disk."""
    folder.mkdir(parents=True)

    def train(out: Path, until: int, before: Callable[[], None] = lambda: None) -> None:
        from r1kit.config import R1kitError
        from r1kit.model.huggingface import load_pretrained
        from r1kit.train import checkpoint
        from r1kit.train.learner import Learner, LearnerConfig
        from r1kit.train.objectives import CrossEntropy

        learner = Learner(load_pretrained(model), LearnerConfig(precision="float32"))
        try:
            start = learner.restore(out)["step"] if checkpoint.exists(out) else 0
            for step in range(start, until):
                learner.update(_rows(step), CrossEntropy(), 1.0)
                if step + 1 == SAVED:
                    before()
                learner.save(out, {"step": step + 1})
        except R1kitError as error:
            print(error)
            sys.exit(1)

    def states(out: Path) -> dict[str, str]:
        return {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in out.rglob("*")
            if path.is_file()
        }

    _run(lambda: train(folder / "undisturbed", STEPS), folder)
    _run(lambda: train(folder / "begun", SAVED - 1), folder)

    def disturbed(out: Path, ready: Callable[[], None]) -> None:
        shutil.copytree(folder / "begun", out)
        train(out, SAVED, ready)

    return Work(
        "save", folder, disturbed, lambda out: train(out, STEPS), states, states(folder / "undisturbed")
    )


def hand_over(model: Path, folder: Path) -> Work:
    """A run with two stages, of which the second starts from the model of the first."""
    folder.mkdir(parents=True)
    data, recipe = folder / "data.jsonl", folder / "recipe.yaml"
    data.write_text(
        "".join(
            json.dumps({"prompt": f"{number}+1?", "completion": str(number + 1)}) + "\n"
            for number in range(4)
        )
    )
    recipe.write_text(RECIPE.format(model=model, data=data))
    # In the place of the disturbed ones, because recipe.yaml names it.
    _run(lambda: run_recipe(recipe, folder / OUT), folder)

    def disturbed(out: Path, ready: Callable[[], None]) -> None:
        ready()
        run_recipe(recipe, out)

    return Work(
        "hand-over",
        folder,
        disturbed,
        lambda out: run_recipe(recipe, out),
        results,
        results(folder / OUT),
    )


def results(out: Path) -> dict[str, str]:
    """As ``fingerprint``, without the tracebacks of attempts that failed, which stay in logs/."""
    return {name: digest for name, digest in fingerprint(out).items() if not name.startswith("logs/")}


WORKS = {"save": save, "hand-over": hand_over}


def disturb(
    model: Path,
    folder: Path,
    every: int,
    only: Sequence[str] = tuple(WORKS),
    kinds: Sequence[str] = ("kills", "errors"),
) -> list[Tally]:
    """Kill, or let the disk fail, at every call of a save, and at each ``every``-th of a hand-over (or of the
    only work); return the outcomes."""
    tallies = []
    for name in only:
        work = WORKS[name](model, folder / name)
        step = every if name == "hand-over" or len(only) == 1 else 1
        for kind, disturbed in (("kills", kill_at_calls), ("errors", errors_at_calls)):
            if kind in kinds:
                tallies.append(
                    Tally(kind, f"at {'every call' if step == 1 else f'one call in {step}'} of a {name}")
                )
                for outcome in disturbed(work, step):
                    tallies[-1].count(1, outcome)
    return tallies


def kill_at_calls(work: Work, every: int) -> Iterator[str]:
    """The outcome of a kill at each call of a work."""
    points = [point for point in _listed(work) if point[0] != OPENS]
    wrong = []
    for call, number in points[::every]:
        out = work.folder / OUT
        shutil.rmtree(out, ignore_errors=True)
        code, said = _traced(["-e", f"inject={call}:signal=SIGKILL:when={number}"], out, work)
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"the traced process ended with {code}:\n{said[-800:]}")
        ended, different, text = work.finished(out)
        if ended or different:
            wrong.append((call, number, different[:5] or text[-400:]))
        yield "wrong" if ended or different else "identical"
    _report(work, "killed", points, every, wrong)


def errors_at_calls(work: Work, every: int) -> Iterator[str]:
    """The outcome of one error at each call of a work, and of a disk on which every call fails from there on;
    ENOSPC and EIO in turns."""
    points = _listed(work)
    wrong = []
    for place, (call, number) in list(enumerate(points))[::every]:
        before = Counter(name for name, _ in points[:place])
        later = {
            name: f"{before[name] + 1}+" for name, _ in points[place:] if name != OPENS
        }  # files can still be opened for reading
        for error, mode in zip(
            itertools.islice(itertools.cycle(("ENOSPC", "EIO")), place, None),
            ("once", "from there on"),
            strict=False,
        ):
            injected = {
                **(later if mode == "from there on" else {}),
                **({call: str(number)} if mode == "once" or call == OPENS else {}),
            }
            options = [
                word
                for name, when in injected.items()
                for word in ("-e", f"inject={name}:error={error}:when={when}")
            ]
            outcome, why = _met(work, options)
            if why:
                print(f"  {outcome}: {call} {number}, {error} {mode}: {why}", flush=True)
            if outcome == "wrong":
                wrong.append((call, number, error, mode))
            if outcome != "missed":
                yield outcome
    _report(work, "failed by the disk", points, every, wrong)


def _met(work: Work, options: Sequence[str]) -> tuple[str, str]:
    """The outcome of a work that met errors, and why it is not identical; "missed" if the error hit something
    that is not a file."""
    out = work.folder / OUT
    shutil.rmtree(out, ignore_errors=True)
    code, said = _traced(options, out, work)
    # The number of lookups in /proc varies, and so does the number of a later opening. And the error may hit
    # a file of an installed package, which no program can do without.
    if re.search("failed: (b')?/proc|Errno .*'[^']*/site-packages/", said):
        return "missed", ""
    if code != 0 and not _clear(code, said, work):
        return "wrong", f"ended with {code}: {said[-600:]}"
    ended, different, said = work.finished(out)
    if ended == 0:
        return ("wrong", f"different: {different[:5]}") if different else ("identical", "")
    return (
        ("refused", said[-600:])
        if _clear(ended, said, work)
        else ("wrong", f"could not be finished: {said[-600:]}")
    )


def _clear(code: int | None, said: str, work: Work) -> bool:
    """Whether a process stopped by itself and named a file, of the run or of what it reads."""
    named = re.search(
        re.escape(str(work.folder)) + rf"/({OUT}([ :]|/(?!logs/))|data\.jsonl)", said
    )  # a path in the lines of a traceback does not count
    return code is not None and code > 0 and "Traceback" not in said and named is not None


def _report(work: Work, what: str, points: Sequence[object], every: int, wrong: Sequence[object]) -> None:
    print(
        f"calls of a {work.name}: {what} at {len(points[::every])} of its {len(points)}, wrong: "
        f"{list(wrong) or 0}",
        flush=True,
    )


def _listed(work: Work) -> list[tuple[str, int]]:
    """The calls of a work that change the disk, in order: (name, the how many-th of that name); none without
    strace."""
    if shutil.which("strace") is None:
        print(f"calls of a {work.name}: skipped, strace is not installed", flush=True)
        return []
    listing, out = work.folder / "calls.txt", work.folder / "listed"
    shutil.rmtree(out, ignore_errors=True)
    code, said = _traced(["-o", str(listing)], out, work)
    if code != 0:
        raise SystemExit(f"the work failed under strace:\n{said[-800:]}")
    found, seen, first = [], Counter[str](), ""
    for thread, call, rest in re.findall(r"^(\d+) +(\w+)\((.*)$", listing.read_text(), re.MULTILINE):
        first = first or thread  # calls are counted by thread; the first thread is the main one
        if thread == first:
            seen[call] += 1
            if call != OPENS or re.search(r"O_(WRONLY|RDWR|CREAT)", rest):
                found.append((call, seen[call]))
    return found


def _traced(options: Sequence[str], out: Path, work: Work) -> tuple[int, str]:
    """Do the work in a process to which strace is attached when it is ready; return its exit code (negative:
    the signal) and its output.

    Its output goes through a socket, because calls on a socket are not among those that are disturbed."""
    wait_ready, report_ready = os.pipe()
    wait_go, report_go = os.pipe()
    reader, writer = socket.socketpair()

    def ready() -> None:
        os.write(report_ready, b"r")
        os.read(wait_go, 1)

    def through_socket() -> None:
        sys.stdout = sys.stderr = writer.makefile("w", buffering=1, encoding="utf-8")
        work.do(out, ready)

    pid = fork(through_socket, work.folder / "disturbed.txt")
    writer.close()
    os.close(report_ready)
    if not os.read(wait_ready, 1):
        wait(pid, None)
        raise SystemExit(
            f"the work ended before it began:\n{(work.folder / 'disturbed.txt').read_text()[-800:]}"
        )
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={CALLS},{OPENS}", *options, "-p", str(pid)]
    )
    while tracer.poll() is None and "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.005)
    os.write(report_go, b"g")
    said = b"".join(iter(lambda: reader.recv(1 << 16), b"")).decode()
    code = wait(pid, None) or 0
    tracer.wait()
    reader.close()
    for descriptor in (wait_ready, wait_go, report_go):
        os.close(descriptor)
    return code, said + (work.folder / "disturbed.txt").read_text()


def _run(work: Callable[[], None], folder: Path) -> None:
    if wait(fork(work, folder / "output.txt"), None) != 0:
        raise SystemExit(f"the undisturbed work failed:\n{(folder / 'output.txt').read_text()[-800:]}")


def _rows(step: int) -> list:  # type: ignore[type-arg]
    import numpy as np

    from r1kit.train.supervised import text_row, weighted

    random = np.random.default_rng(step)
    return weighted([text_row(random.integers(5, 200, 24)) for _ in range(4)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a small model of r1kit")
    parser.add_argument("--every", type=int, default=1, help="take every n-th call")
    parser.add_argument("--only", choices=WORKS, action="append", help="this work only")
    parser.add_argument("--errors", action="store_true", help="errors only, no kills")
    options = parser.parse_args()
    import_everything()
    folder = Path(tempfile.mkdtemp(prefix="calls-"))  # as in chaos.py
    try:
        kinds = ["errors"] if options.errors else ["kills", "errors"]
        tallies = disturb(
            options.model.absolute(), folder, options.every, options.only or tuple(WORKS), kinds
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(min(1, print_totals(tallies)))


if __name__ == "__main__":
    main()
