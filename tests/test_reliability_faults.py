"""What goes wrong on a machine: a full disk, signals, things that hang; each with the message that the user
sees."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import recipe_fakes
import torch
from forked import Forked
from rich.console import Console
from small_world import Spied, model_directory, random_rows, same_weights
from waiting import LIMIT_S

from r1kit.config import R1kitError
from r1kit.files import open_to_append
from r1kit.interruption import Interruption
from r1kit.log import Log
from r1kit.train import checkpoint, supervised
from r1kit.train.supervised import SupervisedConfig
from r1kit.types import Row
from r1kit.watchdog import HungError, deadline

SAVING = SupervisedConfig(save_every=100)


def quiet(folder: Path, interruption: Interruption | None = None) -> Log:
    return Log(folder, "sft", Console(file=io.StringIO(), width=200), interruption=interruption)


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stream(start: int) -> Iterator[list[Row]]:
    return (random_rows(3, seed=step) for step in range(start, 1000))


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_saves_and_the_rest_is_bit_for_bit(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, stopped, resumed = Spied(), Spied(), Spied(seed=9)
    supervised.train(straight.learner, stream, 8, SAVING, quiet(tmp_path / "a"), folder(tmp_path / "a"))

    def signalled(start: int) -> Iterator[list[Row]]:
        for step, rows in enumerate(stream(start), start):
            if step == 5:  # within the sixth step
                os.kill(os.getpid(), number)
            yield rows

    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        supervised.train(
            stopped.learner, signalled, 8, SAVING, quiet(tmp_path / "b", interruption), folder(tmp_path / "b")
        )
    assert checkpoint.progress_of(tmp_path / "b")["step"] == 6 and steps_of(tmp_path / "b") == list(range(6))
    said = capsys.readouterr().err
    assert (
        f"{signal.Signals(number).name}: stopping when this step has ended and its state is saved; "
        "the same signal once more stops at once" in said
    )
    supervised.train(resumed.learner, stream, 8, SAVING, quiet(tmp_path / "b"), tmp_path / "b")
    assert same_weights(straight.model, resumed.model) and steps_of(tmp_path / "b") == list(range(8))


def folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def test_a_second_signal_and_one_outside_a_training_stop_at_once() -> None:
    with Interruption() as interruption:
        interruption.deferred = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    with Interruption(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_library_that_makes_an_error_of_an_interruption_is_interrupted() -> None:
    def library() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("not whole safetensors") from None

    with Interruption() as interruption, pytest.raises(KeyboardInterrupt), interruption.outlasting():
        library()
    # No signal came: the error is what it is.
    with Interruption() as quiet, pytest.raises(ValueError, match="damaged"), quiet.outlasting():
        raise ValueError("damaged")


# The disk


class FullDisk:
    """Lets the log grow by ``space`` bytes and no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.space = 10**9
        monkeypatch.setattr("r1kit.log.open_to_append", lambda path: Limited(open_to_append(path), self))


class Limited:
    def __init__(self, file: IO[bytes], disk: FullDisk) -> None:
        self.file, self.disk, self.fileno = file, disk, file.fileno

    def __enter__(self) -> "Limited":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> int:
        space, self.disk.space = self.disk.space, max(0, self.disk.space - len(content))
        if space == 0:
            raise OSError(28, os.strerror(28))
        return self.file.write(content[:space])


def test_rows_wait_while_the_disk_is_full_and_none_is_torn_or_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, log = FullDisk(monkeypatch), quiet(tmp_path)
    log.step(0, 9, {"loss": 1.0})
    disk.space = 20
    for step in (1, 2, 3):
        log.step(step, 9, {"loss": 1.0})
    assert steps_of(tmp_path) == [0]
    said = capsys.readouterr().err
    assert (
        said.count("warning") == 1 and "metrics.jsonl: No space left on device; rows wait in memory" in said
    )
    with pytest.raises(
        R1kitError, match=r"metrics\.jsonl: 3 rows could not be written: No space left on device; free space"
    ):
        log.save_point(True, lambda: pytest.fail("a state must not be saved ahead of its log"))
    disk.space = 10**9
    log.step(4, 9, {"loss": 1.0})
    assert steps_of(tmp_path) == list(range(5))
    saved = []
    log.save_point(True, lambda: saved.append(True))
    assert saved == [True]


def test_a_stage_does_not_end_with_rows_unwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    disk.space = 0
    with pytest.raises(R1kitError, match="2 rows could not be written"):
        log = quiet(tmp_path)
        log.step(0, 2, {})
        log.step(1, 2, {})


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="a small file system is mounted, which only root may"
)
def test_a_disk_that_is_really_full_loses_no_state_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        layer = torch.nn.Linear(100, 100)  # 40 kB
        for step in (1, 2):
            checkpoint.save(small, layer, [], {"step": step})
        (small / "other").write_bytes(bytes(180_000))
        with pytest.raises(
            checkpoint.StateError,
            match=r"step_00000003: the state could not be written: .*(No space left|os error 28)",
        ):
            checkpoint.save(small, layer, [], {"step": 3})
        assert sorted(path.name for path in (small / checkpoint.FOLDER).iterdir()) == [
            "step_00000001",
            "step_00000002",
        ]
        assert checkpoint.progress_of(small) == {"step": 2}
        (small / "other").unlink()
        checkpoint.save(small, layer, [], {"step": 3})
        assert checkpoint.progress_of(small) == {"step": 3}
    finally:
        subprocess.run(["umount", "-l", small], check=True)


WRITING = ("fsync", "replace", "rename", "mkdir")


@pytest.mark.parametrize("error", [28, 5])
@pytest.mark.parametrize("call", WRITING)
@pytest.mark.parametrize("place", range(4))
def test_an_error_at_any_write_of_a_save_leaves_the_state_before_it(
    call: str, place: int, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = torch.nn.Linear(2, 2)
    for step in (1, 2):
        checkpoint.save(tmp_path, layer, [], {"step": step})
    seen = 0
    genuine = getattr(os, call)

    def refused(*arguments: object, **options: object) -> object:
        nonlocal seen
        seen += 1
        if seen == place + 1:
            raise OSError(error, os.strerror(error))
        return genuine(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        try:
            checkpoint.save(tmp_path, layer, [], {"step": 3})
            message = None
        except (checkpoint.StateError, OSError) as raised:
            message = str(raised)
    found = checkpoint.progress_of(tmp_path)["step"]
    assert (found == 2 and message is not None and os.strerror(error) in message) or found == 3
    checkpoint.save(tmp_path, layer, [], {"step": 4})
    assert checkpoint.progress_of(tmp_path) == {"step": 4}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed; it has system calls fail"
)
def test_a_save_that_the_disk_refuses_somewhere_ends_with_the_same_bytes(
    tmp_path: Path, forked: Forked
) -> None:
    words = ("--errors", "--only", "save", "--every", "10")
    paths = str(Path(__file__).parents[1] / "benchmarks")
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)}
    model = model_directory(tmp_path / "model")
    ended = forked.run("-m", "chaos.calls", model, *words, environment=environment)
    if "Operation not permitted" in ended.stderr:
        pytest.skip("tracing a process is not allowed here")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.fullmatch(
        r"errors: (\d+), identical: (\d+), recovered with a warning: 0, refused with a reason: 0, wrong: 0",
        ended.stdout.splitlines()[-1],
    )
    assert found and found[1] == found[2] and int(found[1]) >= 4, ended.stdout


# What hangs


def test_a_reward_that_hangs_is_named_with_its_stack(capfd: pytest.CaptureFixture[str]) -> None:
    said = r"reward 'slow' has not returned \(waited 0.3 s; the stacks of all threads are above\)"
    with pytest.raises(HungError, match=said), deadline("reward 'slow' has not returned", 0.3):
        sleep_for_ever()
    assert "in sleep_for_ever" in capfd.readouterr().err
    with deadline("quick", 60.0):
        pass
    assert threading.active_count() < 50 and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def sleep_for_ever() -> None:
    time.sleep(1e6)


def test_what_hangs_outside_python_ends_the_process_and_says_what_it_was() -> None:
    code = (
        "import signal\nfrom r1kit import watchdog\nwatchdog.GRACE_S = 0.2\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
        "with watchdog.deadline('reward \\'deaf\\' has not returned', 0.2):\n    import time; "
        "time.sleep(1e6)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S)
    assert (
        ended.returncode == 1
        and "reward 'deaf' has not returned" in ended.stderr
        and "so this process ends" in ended.stderr
    )


# Locks


def test_the_lock_of_a_killed_process_is_no_obstacle_whoever_has_its_number_now(
    tmp_path: Path, forked: Forked
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").write_text(f"{os.getppid()}\n")  # a number that is alive, and another process's
    (tmp_path / "tiny.yaml").write_text("name: tiny\nstages: [{stage: write, name: base}]\n")
    ended = forked.run(recipe_fakes.__file__, "run", tmp_path / "tiny.yaml", "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_hash_seed_and_folder_change_nothing(tmp_path: Path) -> None:
    found = []
    text = (
        "name: tiny\nstages:\n  - {stage: write, name: base}\n  - {stage: write, name: last, init: "
        "'@base/data.jsonl'}\n"
    )
    for seed, elsewhere in (("0", "here"), ("12345", "there/below")):
        place = tmp_path / seed
        (place / elsewhere).mkdir(parents=True)
        (place / "tiny.yaml").write_text(text)
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
            "PYTHONHASHSEED": seed,
        }
        command = [
            sys.executable,
            recipe_fakes.__file__,
            "run",
            str(place / "tiny.yaml"),
            "--out",
            str(place / "run"),
        ]
        subprocess.run(
            command, check=True, capture_output=True, env=environment, cwd=place / elsewhere, timeout=LIMIT_S
        )
        records = [
            json.loads((place / "run/stages" / stage / "stage.json").read_text())
            for stage in ("base", "last")
        ]
        found.append([(record["config"], record["seed"], record["outputs"]) for record in records])
    assert found[0] == found[1]


def test_a_clock_that_jumps_changes_no_step_and_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([1e9, 1e9 + 3600, 1e9 - 3600, 1e9])
    log = quiet(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("r1kit.log.time.time", lambda: next(times))
        for step in range(4):
            log.step(step, 4, {"loss": 1.0})
    assert steps_of(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("torn", range(1, 60, 9))
def test_a_log_torn_at_any_byte_has_every_step_once_after_a_resume(torn: int, tmp_path: Path) -> None:
    log = quiet(tmp_path)
    for step in range(4):
        log.step(step, 6, {"loss": 1.0})
    content = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(content[:-torn])
    again = quiet(tmp_path)
    for step in range(3, 6):  # the state is never ahead of the rows on the disk
        again.step(step, 6, {"loss": 1.0})
    assert steps_of(tmp_path) == list(range(6))
