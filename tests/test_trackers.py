"""Trackers: what they get, that their packages read it back, and that none can stop a run."""

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from typer.testing import CliRunner

from r1kit.commands.cli import app
from r1kit.config import ConfigError
from r1kit.recipe.uses import uses_of
from r1kit.trackers import TrackConfig, Training, Writer
from r1kit.trackers.choice import make_tracker, missing_package
from r1kit.trackers.process import Followers, follow_command
from r1kit.trackers.rows import NewRows, Sender, numbers_of

ROWS = [
    {"stage": "zero", "step": 0, "time": 1000.5, "reward/mean": 0.25, "policy/loss": None},
    {"stage": "zero", "step": 1, "time": 1002.5, "reward/mean": 0.5, "policy/loss": 1.5},
    {"stage": "models", "part": "helpful", "step": 0, "time": 1003.0, "loss": 0.7},
]
RECIPE = "name: small\nstages:\n- {stage: r1_zero, name: zero, grpo: {steps: 10, beta: 0.5, kl: k3}}\n"


def write(run: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "recipe.yaml").write_text(RECIPE)
    return run


class Fake:
    """A tracker that notes what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[str, int, dict[str, float]]] = []
        self.closed: list[str] = []
        self.numbers: dict[str, Mapping[str, float]] = {}

    def open(self, training: Training) -> Writer:
        fake = self
        self.numbers[training.name] = training.numbers

        class Own:
            def log(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
                fake.got.append((training.name, step, dict(metrics)))

            def close(self) -> None:
                fake.closed.append(training.name)

        return Own()


def test_each_step_is_handed_over_once_with_its_finite_numbers(tmp_path: Path) -> None:
    run, fake = write(tmp_path / "run"), Fake()
    sender = Sender(run, fake)
    assert sender.send_new() == 3 and sender.send_new() == 0
    assert fake.got == [
        ("zero", 0, {"reward/mean": 0.25}),
        ("zero", 1, {"reward/mean": 0.5, "policy/loss": 1.5}),
        ("models.helpful", 0, {"loss": 0.7}),
    ]
    assert fake.closed == ["zero"]
    sender.close()
    assert fake.closed == ["zero", "models.helpful"]
    assert fake.numbers == {"zero": {"grpo.steps": 10, "grpo.beta": 0.5}, "models.helpful": {}}


def test_rows_that_are_written_later_come_later_also_from_a_replaced_file(tmp_path: Path) -> None:
    run, fake = write(tmp_path / "run", ROWS[:1]), Fake()
    sender = Sender(run, fake)
    assert sender.send_new() == 1
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[1])[:20])
        file.flush()
        assert sender.send_new() == 0  # half a line waits
        file.write(json.dumps(ROWS[1])[20:] + "\n")
    assert sender.send_new() == 1
    replaced = run / "new"  # as a resumed stage replaces the file, with the same numbers and more
    replaced.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:2], {**ROWS[1], "step": 2}]))
    replaced.rename(run / "metrics.jsonl")
    assert sender.send_new() == 1
    assert [step for _, step, _ in fake.got] == [0, 1, 2]


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "null", '{"stage": "../x", "step": 0, "a": 1}', '{"stage": "x", "step": -1}',
        '{"stage": "x", "step": true}', '{"stage": "x", "part": "a/b", "step": 0}', '{"stage": 3, "step": 0}',
        '{"stage": "x", "part": 4, "step": 0}', "\x00", "[" * 5000,
    ],
)  # fmt: skip
def test_a_line_that_is_no_row_is_left_out(tmp_path: Path, line: str) -> None:
    run = write(tmp_path / "run")
    content = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(line + "\n" + content)
    assert [row["step"] for row in NewRows(run / "metrics.jsonl")] == [0, 1, 0]


def test_numbers_of_a_configuration_never_include_texts(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    assert numbers_of(run, "zero") == {"grpo.steps": 10, "grpo.beta": 0.5}
    assert numbers_of(run, "other") == {} and numbers_of(tmp_path, "zero") == {}
    (run / "recipe.yaml").write_text("{ not yaml: [")
    assert numbers_of(run, "zero") == {}


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="pip install tensorboard")
def test_tensorboards_own_reader_finds_every_number_with_its_time(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = write(tmp_path / "run")
    for _ in range(2):  # the second time replaces the first
        found = CliRunner().invoke(app, ["export", str(run), "--to", "tensorboard"])
        assert found.exit_code == 0 and "3 rows" in found.stdout
    board = EventAccumulator(str(run / "tracking" / "tensorboard" / "zero")).Reload()
    assert sorted(board.Tags()["scalars"]) == ["policy/loss", "reward/mean"]
    assert [(e.step, e.wall_time, e.value) for e in board.Scalars("reward/mean")] == [
        (0, 1000.5, 0.25),
        (1, 1002.5, 0.5),
    ]
    other = EventAccumulator(str(run / "tracking" / "tensorboard" / "models.helpful")).Reload()
    assert other.Scalars("loss")[0].value == pytest.approx(0.7)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="pip install wandb")
def test_wandb_writes_its_files_offline(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    sender = Sender(run, make_tracker(TrackConfig(kind="wandb"), run))
    assert sender.send_new() == 3
    sender.close()
    files = sorted((run / "tracking" / "wandb").rglob("run-*.wandb"))
    assert len(files) == 2 and all(file.stat().st_size for file in files)
    assert b"reward/mean" in b"".join(file.read_bytes() for file in files)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="pip install trackio")
def test_trackio_keeps_every_number(tmp_path: Path, forked: Forked) -> None:
    import sqlite3

    run = write(tmp_path / "run")
    done = forked.run("-m", "r1kit", "export", run, "--to", "trackio")
    assert done.returncode == 0, done.stderr
    found = []
    for file in (run / "tracking" / "trackio").glob("*.db"):
        base = sqlite3.connect(file)
        found += [
            (step, json.loads(text)) for step, text in base.execute("SELECT step, metrics FROM metrics")
        ]
    assert sorted((step, row.get("reward/mean")) for step, row in found if "reward/mean" in row) == [
        (0, 0.25),
        (1, 0.5),
    ]


def followers(run: Path, said: list[str], script: str, grace_s: float = 20.0) -> Followers:
    """Followers whose process is a Python script; tensorboard stands for any kind."""
    return Followers(
        [TrackConfig(kind="tensorboard")],
        run,
        said.append,
        grace_s,
        lambda _, __: [sys.executable, "-c", script],
    )


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1kit.trackers.process.missing_package", lambda kind: None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("script", "grace_s", "warned"),
    [
        ("import sys; sys.stdin.read()", 20.0, ""),
        ("import sys; sys.stdin.read(); raise ValueError('at the end')", 20.0, "at the end"),
        ("import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(600)", 0.3, "did not end"),
    ],
)
def test_a_tracker_that_fails_or_hangs_at_the_end_gives_one_warning(
    tmp_path: Path, script: str, grace_s: float, warned: str
) -> None:
    said: list[str] = []
    with followers(tmp_path, said, script, grace_s):
        worked = sum(range(10))
    warnings = [line for line in said if line.startswith("warning: ")]
    assert worked == 45 and len(warnings) == int(bool(warned))
    assert all(warned in line and "r1kit export --to tensorboard" in line for line in warnings)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("script", "warned"),
    [
        ("raise SystemExit('no space')", "no space"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "exit code -11"),
    ],
)
def test_a_tracker_that_ends_early_gives_one_warning_at_once(
    tmp_path: Path, script: str, warned: str
) -> None:
    said: list[str] = []
    with followers(tmp_path, said, script):
        for _ in range(1000):
            if len(said) > 1:
                break
            time.sleep(0.02)
        assert len(said) == 2 and warned in said[1]
    assert len(said) == 2


@pytest.mark.usefixtures("installed")
def test_a_command_that_cannot_start_and_a_broken_console_stop_nothing(tmp_path: Path) -> None:
    def broken(line: str) -> None:
        raise OSError("closed")

    said: list[str] = []
    track = TrackConfig(kind="tensorboard")
    with Followers([track], tmp_path, said.append, 1.0, lambda _, __: [str(tmp_path / "no program")]):
        pass
    assert any(line.startswith("warning: track: tensorboard:") for line in said)
    with Followers([track], tmp_path, broken, 1.0, lambda _, __: [str(tmp_path / "no program")]):
        pass


def test_a_missing_package_is_one_warning_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said: list[str] = []
    with Followers([TrackConfig(kind="wandb")], tmp_path, said.append):
        pass
    assert len(said) == 1 and "pip install wandb" in said[0] and "export --to wandb" in said[0]
    assert missing_package("trackio") is not None
    with pytest.raises(ConfigError, match="pip install trackio"):
        make_tracker(TrackConfig(kind="trackio"), tmp_path)
    found = CliRunner().invoke(app, ["export", str(write(tmp_path / "run")), "--to", "tensorboard"])
    assert found.exit_code and "pip install tensorboard" in str(found.exception)


def test_a_tracker_sends_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    command = follow_command(TrackConfig(kind="wandb", project="p", online=True), tmp_path)
    assert command[1:4] == ["-m", "r1kit", "export"] and command[-2:] == ["--project=p", "--online"]
    assert "--online" not in follow_command(TrackConfig(kind="wandb"), tmp_path)


def test_a_recipe_says_what_leaves_the_machine() -> None:
    plain = uses_of({"track": ["tensorboard", {"kind": "wandb"}], "stages": []}).in_words()
    assert len(plain) == 2 and all("sends nothing" in line for line in plain)
    (online,) = uses_of({"track": [{"kind": "trackio", "online": True}], "stages": []}).in_words()
    assert "sends metrics" in online and "no texts" in online
    with pytest.raises(ValueError, match="project"):
        TrackConfig.model_validate({"kind": "wandb", "project": "../x"})


def test_a_folder_may_have_the_name_of_a_tracker(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    for words in (["--to", "./wandb", "--online"], ["--to", "tensorboard", "--dtype", "float32"]):
        found = CliRunner().invoke(app, ["export", str(run), *words])
        assert found.exit_code == 2
