"""The pre-flight: 24 made recipes get the right verdict, it changes no number of a training, it ends
within its time, and the command says the same as the run."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from preflight.made_recipes import CASES, Case, examine, make
from rich.console import Console
from small_world import KilledError, logged, model_directory, tokenizer
from typer.testing import CliRunner

from r1kit.chat import Chat
from r1kit.commands.cli import app
from r1kit.config import ConfigError
from r1kit.data.mixture import Mixture
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.rewards import load_rewards
from r1kit.runs.execute import StageError, run
from r1kit.runtime.local import LocalRuntime
from r1kit.stages.r1_zero import R1Zero
from r1kit.tasks import load_tasks
from r1kit.train import preflight
from r1kit.train.grpo import GRPOConfig
from r1kit.train.template_faults import FOLLOWED, what_parser_saw
from r1kit.types import Completion, Problem, Sampling


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("init") / "model", init_std=0.05)


def case(name: str) -> Case:
    return next(one for one in CASES if one.name == name)


# Verdicts


@pytest.mark.parametrize("one", CASES, ids=lambda one: f"{one.sort}: {one.name}")
def test_the_verdict_on_a_made_recipe(one: Case, tmp_path: Path, init: Path) -> None:
    found, shown = examine(make(one, tmp_path / one.name, init))
    assert (found.findings[0].kind if found.findings else None, found.hopeless) == (one.kind, one.hopeless)
    assert found.evidence.rollouts == 256
    assert ("warning: preflight:" in shown) == (one.kind is not None)


def test_there_are_eight_recipes_of_each_sort() -> None:
    assert [sum(one.sort == sort for one in CASES) for sort in ("broken", "hopeless", "fine")] == [8, 8, 8]


def test_a_broken_format_is_shown_with_what_the_parser_saw(tmp_path: Path, init: Path) -> None:
    _, shown = examine(make(case("goes_on"), tmp_path / "one", init))
    assert shown.count("text after </answer>: '<think>") == 3
    assert "the parser saw: 256 text after </answer>" in shown
    _, failed = examine(make(case("reward_raises"), tmp_path / "two", init))
    assert "the first failure: ValueError: no judge at that address" in failed


@pytest.mark.parametrize(
    ("text", "finish", "seen"),
    [
        ("<think>a</think><answer>4</answer>", "stop", FOLLOWED),
        ("<think>a</think>4", "stop", FOLLOWED),
        ("<think>a</think><answer>4</answer>", "length", "cut off at max_tokens"),
        ("4", "stop", "no <think> at the beginning"),
        ("So <think>a</think>4", "stop", "no <think> at the beginning"),
        ("<think>a", "stop", "no </think>"),
        ("<think>a<think>b</think>4", "stop", "more than one thinking"),
        ("<think>a</think>4</think>", "stop", "more than one thinking"),
        ("<think>a</think>  ", "stop", "nothing after </think>"),
        ("<think>a</think>so <answer>4</answer>", "stop", "text before <answer>"),
        ("<think>a</think><answer>4", "stop", "no </answer>"),
        ("<think>a</think><answer>4</answer> User: b", "stop", "text after </answer>"),
        ("<think>a</think><answer> </answer>", "stop", "an empty answer"),
        ("<think>a</think>4</answer>", "stop", "another tag of the template, or a special token"),
    ],
)
def test_what_the_parser_saw(text: str, finish: Any, seen: str) -> None:
    chat = Chat(tokenizer())
    ids = chat.response_ids(text) if finish == "stop" else tokenizer().encode(text)
    completion = Completion(ids, np.zeros(len(ids), np.float32), finish)
    (rollout,) = chat.rollouts(Problem("p", "t", "?", None), np.arange(2), [completion])
    assert what_parser_saw(rollout) == seen


# In a run


def recipe(folder: Path, init: Path, out: str = "run", **changes: Any) -> Path:
    """A recipe of one RL stage on a random model, with a reward that differs."""
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(
        "def first(rollouts):\n    return [float(sum(map(ord, r.text)) % 3) for r in rollouts]\n\n"
        "def equal(rollouts):\n    return [1.0] * len(rollouts)\n"
    )
    stage = {
        "stage": "r1_zero",
        "init": str(init),
        "tasks": {"chain": 1.0},
        "rewards": {f"{folder / 'own.py'}:first": 1.0},
        "grpo": {
            "steps": 4, "problems": 4, "group": 4, "updates_per_rollout": 1, "max_tokens": 8, "beta": 0.0,
            "save_every": 1,
        },
        "learner": {"context": 200, "lines": 4, "precision": "float32"},
        **changes,
    }  # fmt: skip
    written = {"name": "one", "out": str(folder / out), "runtime": {"processes": 1}, "stages": [stage]}
    file = folder / f"{out}.yaml"
    file.write_text(yaml.safe_dump(written, sort_keys=False))
    return file


def start(file: Path) -> str:
    """Run a recipe; what it printed."""
    shown = io.StringIO()
    layers = read_layers(file, [])
    run(build(layers), layers=layers, console=Console(file=shown, width=1000))
    return shown.getvalue()


def numbers(folder: Path) -> list[dict[str, Any]]:
    rows = logged(folder)
    return [
        {name: value for name, value in row.items() if not name.startswith(("preflight/", "time"))}
        for row in rows
    ]


def weights(folder: Path) -> bytes:
    return (folder / "stages/r1_zero/model/model.safetensors").read_bytes()


def test_a_training_has_the_same_numbers_with_and_without_its_preflight(tmp_path: Path, init: Path) -> None:
    shown = {mode: start(recipe(tmp_path, init, mode, preflight=mode)) for mode in ("off", "warn")}
    assert (
        "preflight: doubtful, cut off: 16 of 16 groups teach" in shown["warn"]
        and "preflight" not in shown["off"]
    )
    assert numbers(tmp_path / "off") == numbers(tmp_path / "warn")
    assert weights(tmp_path / "off") == weights(tmp_path / "warn")
    rows = [json.loads(line) for line in (tmp_path / "warn/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["preflight/rollouts"] == 64  # as many as the training samples, and no more
    assert rows[0]["preflight/hopeless"] == 0 and not any("preflight/groups" in row for row in rows[1:])
    assert "64 rollouts in 16 groups were sampled: cut off." in (tmp_path / "warn/report.md").read_text()


def test_stop_ends_a_stage_that_cannot_learn_and_only_such_a_stage(tmp_path: Path, init: Path) -> None:
    equal = {f"{tmp_path / 'own.py'}:equal": 1.0}
    with pytest.raises(StageError, match="nothing can be learned as it is: cut off: 6"):
        start(recipe(tmp_path, init, "stopped", preflight="stop", rewards=equal))
    assert not (tmp_path / "stopped/metrics.jsonl").exists()
    assert "hopeless, cut off" in start(recipe(tmp_path, init, "warned", preflight="warn", rewards=equal))
    assert "doubtful, cut off" in start(recipe(tmp_path, init, "learns", preflight="stop"))


def test_off_may_be_written_as_yaml_reads_it() -> None:
    tasks = {"tasks": {"chain": 1.0}}
    parsed = [
        R1Zero.parse(tasks | yaml.safe_load(f"preflight: {word}"), "r") for word in ("off", "on", "stop")
    ]
    assert [one.preflight for one in parsed] == ["off", "warn", "stop"]
    assert R1Zero.parse(tasks, "r").preflight == "warn"
    with pytest.raises(ConfigError, match="preflight"):
        R1Zero.parse({**tasks, "preflight": "maybe"}, "r")


def test_a_resumed_training_has_its_preflight_behind_it(
    tmp_path: Path, init: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(recipe(tmp_path, init, "whole"))
    learner = LocalRuntime.learner

    def mortal(self: LocalRuntime, *arguments: Any) -> Any:
        made: Any = learner(self, *arguments)
        update, done = made.update, []

        def dies(*given: Any) -> Any:
            done.append(1)
            if len(done) == 3:
                raise KilledError
            return update(*given)

        made.update = dies
        return made

    file = recipe(tmp_path, init, "killed")
    with monkeypatch.context() as patch, pytest.raises(StageError):
        patch.setattr(LocalRuntime, "learner", mortal)
        start(file)
    shown = start(file)
    assert "r1_zero: continues" in shown and "preflight" not in shown
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


# Its time


class Clock:
    """A clock that an engine moves on, in the place of the module time."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    monkeypatch.setattr(preflight, "time", found)
    yield found


def timed(clock: Clock, token_s: float, length: int, max_tokens: int) -> preflight.Preflight:
    """A pre-flight with an engine that takes ``token_s`` for each token of each completion and always writes
    ``length`` tokens, the last two groups of ten differently from the others."""

    def generate(
        prompts: Sequence[np.ndarray], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        size = min(length, sampling.max_tokens)
        clock.now += token_s * size * len(prompts) * sampling.n
        finish: Any = "stop" if size == length else "length"
        ids = [np.full(size, 65 + index, np.int32) for index in range(sampling.n)]
        return [[Completion(one, np.zeros(size, np.float32), finish) for one in ids] for _ in prompts]

    tasks = load_tasks({"chain": 1.0})
    config = GRPOConfig(steps=100, problems=8, group=8, max_tokens=max_tokens)
    engine: Any = SimpleNamespace(generate=generate)
    rewards = load_rewards({"format": 1.0}, {})
    return preflight.fly(
        engine, Chat(tokenizer()), Mixture(tasks, "train", 1), rewards, config, "grpo", seed=3
    )


def test_a_fast_engine_samples_256_rollouts(clock: Clock) -> None:
    found = timed(clock, 1e-5, 100, 200)
    assert (found.evidence.rollouts, found.shortened) == (256, None) and clock.now < 2


@pytest.mark.parametrize("token_s", [2e-3, 5e-3])
def test_a_slow_engine_samples_fewer_within_the_time(clock: Clock, token_s: float) -> None:
    found = timed(clock, token_s, 100, 100)
    assert 4 <= found.evidence.groups < 32 and found.shortened is None
    assert clock.now <= preflight.SECONDS


@pytest.mark.parametrize("token_s", [1e-4, 1e-2])
def test_where_no_group_fits_completions_are_cut_short_and_nothing_is_decided(
    clock: Clock, token_s: float
) -> None:
    found = timed(clock, token_s, 30_000, 32_768)
    assert clock.now <= preflight.SECONDS and found.shortened is not None and found.shortened < 10_000
    assert [(one.kind, one.hopeless) for one in found.findings] == [("undecided", False)]
    assert any(f"cut at {found.shortened} tokens" in line for line in found.lines())


# The command


def test_the_command_says_what_the_run_says_and_its_exit_code_whether_it_can_learn(
    tmp_path: Path, init: Path
) -> None:
    file = recipe(tmp_path, init)
    result = CliRunner().invoke(app, ["preflight", str(file), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)["r1_zero"]
    assert found["verdict"] == "cut off" and not found["hopeless"]
    start(file)
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    logged_figures = {
        name.removeprefix("preflight/"): value for name, value in row.items() if name.startswith("preflight/")
    }
    assert found["figures"] == logged_figures
    hopeless = recipe(tmp_path, init, "no", rewards={f"{tmp_path / 'own.py'}:equal": 1.0})
    assert CliRunner().invoke(app, ["preflight", str(hopeless)]).exit_code == 3
    assert not (tmp_path / "no").exists()  # nothing is written


def test_the_command_names_what_is_missing(tmp_path: Path, init: Path) -> None:
    file = recipe(tmp_path, init)
    found = CliRunner().invoke(app, ["preflight", str(file), "--stage", "r1_zer"])
    assert "no such RL stage in the recipe; did you mean 'r1_zero'" in str(found.exception)
    waiting = CliRunner().invoke(app, ["preflight", "recipes/nano.yaml", "--out", str(tmp_path / "none")])
    assert "no RL stage can be examined yet" in str(waiting.exception)
    assert "r1_zero reads @pretrain" in str(waiting.exception)
