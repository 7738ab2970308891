"""Kill a process at every system call that changes the disk, in one save of training state and in one hand-over between stages.

strace is attached to a process that waits, and delivers SIGKILL on entering the N-th call of a kind; then the work is finished by another
process and compared. The calls are counted first, and every one of them is taken once, so every place between two changes of the disk is
visited. Without strace (it is Linux only) this part is left out, and that is said.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chaos import differences, fingerprint, fork, run_recipe, wait

CALLS = "write,pwrite64,writev,ftruncate,rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,rmdir,mkdir,mkdirat"
SAVED, STEPS = 3, 5
RECIPE = """\
name: hand-over
runtime: {{kind: local, processes: 1}}
stages:
  - {{stage: sft, name: first, init: {model}, data: [{data}], training: {{epochs: 1, batch_tokens: 24, save_every: 1}}}}
  - {{stage: sft, name: second, init: '@first', data: [{data}], training: {{epochs: 1, batch_tokens: 24, save_every: 1}}}}
"""


def calls_of_a_save(model: Path, folder: Path, every: int) -> Iterator[str]:
    """The outcome of a kill at each call of the save of one step, of a training that goes on from what is there."""
    folder.mkdir(parents=True)

    def train(out: Path, until: int, before: Callable[[], None] = lambda: None) -> None:
        from r1kit.model.huggingface import load_pretrained
        from r1kit.train import checkpoint
        from r1kit.train.learner import Learner, LearnerConfig
        from r1kit.train.objectives import CrossEntropy

        learner = Learner(load_pretrained(model), LearnerConfig(precision="float32"))
        start = learner.restore(out)["step"] if checkpoint.exists(out) else 0
        for step in range(start, until):
            learner.update(_rows(step), CrossEntropy(), 1.0)
            if step + 1 == SAVED:
                before()
            learner.save(out, {"step": step + 1})

    def states(out: Path) -> dict[str, str]:
        return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*") if path.is_file()}

    _run(lambda: train(folder / "undisturbed", STEPS), folder)
    wanted = states(folder / "undisturbed")
    _run(lambda: train(folder / "begun", SAVED - 1), folder)

    def killed(out: Path, ready: Callable[[], None]) -> None:
        shutil.copytree(folder / "begun", out)
        train(out, SAVED, ready)

    yield from _every_call("save", folder, killed, lambda out: train(out, STEPS), states, wanted, every)


def calls_of_a_hand_over(model: Path, folder: Path, every: int) -> Iterator[str]:
    """The outcome of a kill at each call of a run from the last step of a stage to the end of the next one's first."""
    folder.mkdir(parents=True)
    data, recipe = folder / "data.jsonl", folder / "recipe.yaml"
    data.write_text("".join(json.dumps({"prompt": f"{number}+1?", "completion": str(number + 1)}) + "\n" for number in range(4)))
    recipe.write_text(RECIPE.format(model=model, data=data))
    _run(lambda: run_recipe(recipe, folder / "undisturbed"), folder)

    def killed(out: Path, ready: Callable[[], None]) -> None:
        ready()
        run_recipe(recipe, out)

    yield from _every_call(
        "hand-over", folder, killed, lambda out: run_recipe(recipe, out), fingerprint, fingerprint(folder / "undisturbed"), every
    )


def _every_call(
    name: str,
    folder: Path,
    killed: Callable[[Path, Callable[[], None]], None],
    finish: Callable[[Path], None],
    read: Callable[[Path], dict[str, str]],
    wanted: dict[str, str],
    every: int,
) -> Iterator[str]:
    if shutil.which("strace") is None:
        print(f"calls of a {name}: left out, strace is not installed", flush=True)
        return
    counted = _traced(["-c", "-S", "calls", "-U", "calls,name", "-o", str(folder / "calls.txt")], folder / "counted", killed, folder)
    if counted != 0:
        raise SystemExit(f"the work failed under strace:\n{(folder / 'killed.txt').read_text()[-800:]}")
    lines = [line.split() for line in (folder / "calls.txt").read_text().splitlines()]
    points = [(words[1], number) for words in lines if len(words) == 2 and words[1] in CALLS.split(",") for number in range(1, int(words[0]) + 1)]
    wrong = []
    for call, number in points[::every]:
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        code = _traced(["-o", os.devnull, "-e", f"inject={call}:signal=SIGKILL:when={number}"], out, killed, folder)
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"the traced process ended with {code}:\n{(folder / 'killed.txt').read_text()[-800:]}")
        code = wait(fork(lambda out=out: finish(out), folder / "finish.txt"), 600.0)  # type: ignore[misc]
        different = differences(read(out), wanted) if code == 0 else [(folder / "finish.txt").read_text()[-400:]]
        if different:
            wrong.append((call, number, different[:5]))
        yield "wrong" if different else "identical"
    print(f"calls of a {name}: killed at {len(points[::every])} of its {len(points)}, wrong: {wrong or 0}", flush=True)


def _traced(options: list[str], out: Path, work: Callable[[Path, Callable[[], None]], None], folder: Path) -> int:
    """Do the work in a process that strace is attached to when it says that it is ready; its exit code (negative: the signal)."""
    told, tell = os.pipe()
    go, let_go = os.pipe()

    def ready() -> None:
        os.write(tell, b"r")
        os.read(go, 1)

    pid = fork(lambda: work(out, ready), folder / "killed.txt")
    os.read(told, 1)
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-e", f"trace={CALLS}", *options, "-p", str(pid)])
    while tracer.poll() is None and "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.005)
    os.write(let_go, b"g")
    code = wait(pid, None) or 0
    tracer.wait()
    for descriptor in (told, tell, go, let_go):
        os.close(descriptor)
    return code


def _run(work: Callable[[], None], folder: Path) -> None:
    if wait(fork(work, folder / "output.txt"), None) != 0:
        raise SystemExit(f"the undisturbed work failed:\n{(folder / 'output.txt').read_text()[-800:]}")


def _rows(step: int) -> list:  # type: ignore[type-arg]
    import numpy as np

    from r1kit.train.supervised import text_row, weighted

    random = np.random.default_rng(step)
    return weighted([text_row(random.integers(5, 200, 24)) for _ in range(4)])
