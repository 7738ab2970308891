"""Algorithms, engines and runtimes from files outside r1kit, and the types at these seams."""

import ast
import io
import json
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from small_world import (
    KilledError,
    Mortal,
    learner_config,
    model,
    model_directory,
    quiet_log,
    random_rows,
    same_weights,
    tokenizer,
)

from r1kit.chat import Chat
from r1kit.config import ConfigError
from r1kit.data.mixture import Mixture
from r1kit.engine import Engine
from r1kit.engine.native import NativeEngine
from r1kit.log import Log
from r1kit.recipe.recipe import load
from r1kit.rewards import WeightedReward
from r1kit.runs.provenance import setting
from r1kit.runtime import Runtime, RuntimeConfig, config_class
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.runtime.proxies import EngineProxy, LearnerProxy
from r1kit.stages.dpo import DPO
from r1kit.stages.pretrain import Pretrain
from r1kit.stages.r1_zero import R1Zero
from r1kit.stages.reasoning_rl import ReasoningRL
from r1kit.stages.sft import SFT
from r1kit.stages.stage import Context, Stage
from r1kit.tasks import load_tasks
from r1kit.train import checkpoint
from r1kit.train.advantage_rows import policy_row
from r1kit.train.agreement_gate import sample
from r1kit.train.grpo import GRPOConfig
from r1kit.train.learner import LearnerProtocol
from r1kit.train.objectives import CrossEntropy
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Policy
from r1kit.types import Problem, Rollout, Row, Sampling
from r1kit.user_code import load_file

ROOT = Path(__file__).parents[1]
PAGES = "".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs/how-to").glob("*.md")))
SHAPE = {"problems": 2, "group": 4, "max_tokens": 4, "updates_per_rollout": 1, "gate_problems": 2}
TASKS = {"chain": 1.0}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the how-to pages' files in it, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"^```python (\S+)\n(.*?)^```$", PAGES, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    return tmp_path


def even_ids(rollouts: Sequence[Rollout]) -> list[float | None]:
    return [float(np.mean(r.completion.token_ids % 2 == 0)) for r in rollouts]


def imitate(out: Path, steps: int, dies_at: int = -1, **keys: object) -> Mortal:
    """Train by the algorithm of docs/how-to/algorithm.md."""
    out.mkdir()
    learner = Mortal(model(init_std=0.05), learner_config(context=96, learning_rate=1e-2))
    learner.dies_at = dies_at
    return continued(out, learner, steps, **keys)


def continued(out: Path, learner: Mortal, steps: int, **keys: object) -> Mortal:
    policy = Policy(learner, NativeEngine(learner.model, [tokenizer().eos_id]), Chat(tokenizer()))
    config = load_file(Path("my_algo.py")).BestOfN(steps=steps, save_every=1, **{**SHAPE, **keys})
    algorithm = config.build(policy, [WeightedReward("even", 1.0, even_ids)], None)
    mixture = Mixture(load_tasks({"chain": {"weight": 1, "size": 40}}), "train", 5)
    train(algorithm, mixture, 7, quiet_log(out), out)
    return learner


@pytest.mark.slow
def test_an_algorithm_outside_r1kit_learns_and_a_killed_one_continues_bit_for_bit(files: Path) -> None:
    straight = imitate(files / "straight", 12, group=8, problems=4)
    rows = [json.loads(line) for line in (files / "straight/metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward/mean"] for row in rows]
    assert np.mean(rewards[:2]) < 0.65 < np.mean(rewards[-2:]) and straight.version == 12

    straight = imitate(files / "a", 4, updates_per_rollout=2, at_least=0.0)
    with pytest.raises(KilledError):
        imitate(files / "b", 4, dies_at=3, updates_per_rollout=2, at_least=0.0)
    assert checkpoint.progress_of(files / "b")["step"] == 2
    fresh = Mortal(model(init_std=0.05), learner_config(context=96, learning_rate=1e-2))
    resumed = continued(files / "b", fresh, 4, updates_per_rollout=2, at_least=0.0)
    assert same_weights(straight.model, resumed.model) and resumed.version == 4


def test_an_algorithms_own_keys_are_strict_and_survive_a_recipe(files: Path) -> None:
    own = {"algorithm": "my_algo.py:BestOfN", "at_least": 0.25, "steps": 3}
    stage = R1Zero.parse({"tasks": TASKS, "rl": own}, "recipe")
    assert stage.grpo is None and stage.algorithm.at_least == 0.25 and stage.plan().steps == 3  # type: ignore[attr-defined]
    assert R1Zero.parse(stage.model_dump(mode="json"), "recipe") == stage
    (files / "recipe.yaml").write_text(
        "name: own\nstages:\n  - stage: r1_zero\n    init: a-model\n"
        '    rl: {algorithm: "my_algo.py:BestOfN", atleast: 0.5}\n'
    )
    with pytest.raises(
        ConfigError, match=r"recipe\.yaml:5: .*rl.*unknown key 'atleast': did you mean 'at_least'"
    ):
        load(files / "recipe.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "dapo"}, r"name a class of your own as file\.py:Class .*given: 'dapo'"),
        ({"steps": 3}, r"name a class of your own as file\.py:Class .*given: None"),
        (
            {"algorithm": "my_rewards.py:brevity"},
            r"this is a function; an algorithm is a subclass of r1kit\.train\.rl_loop\.RLConfig",
        ),
        ({"algorithm": "my_algo.py:BestOfM"}, "did you mean 'BestOfN'"),
    ],
)
def test_what_is_no_algorithm_is_refused_with_the_recipe(given: object, message: str, files: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        R1Zero.parse({"rl": given}, "recipe")


@pytest.mark.parametrize("kind", [R1Zero, ReasoningRL])
def test_two_algorithms_given_together_are_an_error_that_names_both(kind: type[R1Zero], files: Path) -> None:
    blocks = {"grpo": {"steps": 1}, "ppo": {"steps": 2}, "rl": {"algorithm": "my_algo.py:BestOfN"}}
    for one, other in (("grpo", "ppo"), ("grpo", "rl"), ("ppo", "rl")):
        with pytest.raises(ConfigError, match=rf"{one} and {other} are given together.*{one}: null"):
            kind.parse({"tasks": TASKS, one: blocks[one], other: blocks[other]}, "recipe")
        alone = kind.parse({"tasks": TASKS, one: None, other: blocks[other]}, "recipe")
        assert alone.algorithm is getattr(alone, other) and alone.grpo is None
    for unset in ({}, {"grpo": None}):
        assert kind.parse({"tasks": TASKS, **unset}, "recipe").algorithm == GRPOConfig()
    with pytest.raises(ConfigError, match="tasks: name the tasks whose problems are sampled"):
        kind.parse({}, "recipe")


def logprobs_by_hand(prompt: np.ndarray, tokens: np.ndarray, temperature: float) -> np.ndarray:
    ids = np.concatenate([prompt, tokens]).astype(np.int64)
    with torch.no_grad():
        logits_TV = model().eval().logits(model().eval()(torch.from_numpy(ids[:-1])[None]).hidden_BTD)[0]
        found_TV = (logits_TV / temperature).log_softmax(-1)
    return found_TV[torch.arange(len(prompt) - 1, len(ids) - 1), torch.from_numpy(ids[len(prompt) :])].numpy()


@pytest.mark.slow
def test_a_runtime_samples_with_an_engine_of_ones_own_and_every_process_has_one(files: Path) -> None:
    directory = model_directory(files / "model")
    runtime = LocalConfig(engine="my_engine.py:Plain", processes=2).start()
    try:
        learner = runtime.learner(directory, learner_config(learning_rate=1e-2))
        engine = runtime.engine_of(learner)
        prompts, sampling = [np.arange(5, 5 + n) for n in (3, 9, 4)], Sampling(2, 0.7, max_tokens=6)
        reported: list[int] = []
        groups = engine.generate(prompts, sampling, [1, 2, 3], reported.extend)
        assert sorted(reported) == [0, 1, 2]
        for prompt, group in zip(prompts, groups, strict=True):
            for one in group:
                np.testing.assert_allclose(
                    one.logprobs, logprobs_by_hand(prompt, one.token_ids, 0.7), atol=1e-4
                )
        learner.update(random_rows(4), CrossEntropy(), 1.0)
        engine.load(learner.weights(), 3)
        assert {one.version for group in engine.generate(prompts, sampling) for one in group} == {3}
        assert engine.examine(np.arange(4), 1.0) == []
    finally:
        runtime.close()


def test_an_engine_is_named_by_its_file_and_its_content_in_a_stages_record(files: Path) -> None:
    config = LocalConfig(engine="my_engine.py:Plain")
    before = setting(config)["kernels"]["engine"]
    assert re.fullmatch(r"my_engine\.py:Plain [0-9a-f]{64}", before)
    (files / "my_engine.py").write_text((files / "my_engine.py").read_text() + "\n# changed\n")
    assert setting(config)["kernels"]["engine"] != before
    for engine, message in (
        ("vlm", r"unknown engine 'vlm': did you mean 'vllm'"),
        ("my_engine.py:Plan", "did you mean 'Plain'"),
        ("my_engine.py:np", "this is a module; an engine is a class with generate"),
    ):
        with pytest.raises(ConfigError, match=message):
            LocalConfig.parse({"engine": engine}, "runtime")


@pytest.mark.slow
def test_helper_processes_know_the_classes_of_ones_own_files(files: Path) -> None:
    """An objective of the user's goes to the helpers with every update, also where its file was imported
    after they were started."""
    directory = model_directory(files / "model")
    (files / "my_loss.py").write_text(
        textwrap.dedent("""
            from dataclasses import dataclass
            from r1kit.train.objectives import CrossEntropy

            @dataclass(frozen=True)
            class Doubled(CrossEntropy):
                def __call__(self, predictions, batch):
                    loss, statistics = super().__call__(predictions, batch)
                    return 2 * loss, statistics
        """)
    )
    rows = random_rows(6)
    runtime = LocalRuntime(LocalConfig(processes=2))
    try:
        learner = runtime.learner(directory, learner_config(learning_rate=0.0))
        plain = learner.update(rows, CrossEntropy(), 1.0)["loss"]
        doubled = learner.update(rows, load_file(Path("my_loss.py")).Doubled(), 1.0)["loss"]
        assert doubled == pytest.approx(2 * plain, rel=1e-5)
    finally:
        runtime.close()


def test_a_runtime_of_ones_own_is_read_by_a_recipe_and_started(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_directory(files / "a-model")
    (files / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "own",
                "runtime": {"kind": "my_runtime.py:Slurm", "processes": 1},
                "stages": [{"stage": "r1_zero", "init": "a-model", "tasks": TASKS}],
            }
        )
    )
    recipe = load(files / "recipe.yaml")
    assert recipe.runtime.kind == "my_runtime.py:Slurm" and recipe.runtime.resolved_processes() == 1
    (digest,) = setting(recipe.runtime)["kernels"].values()
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert setting(recipe.runtime)["runtime"]["processes"] == 3
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    runtime = recipe.runtime.start()
    assert isinstance(runtime, LocalRuntime) and runtime.size == 1
    runtime.close()
    for kind, message in (
        ("my_runtime.py:Slum", "did you mean 'Slurm'"),
        ("my_algo.py:BestOfN", "this is another class; a runtime is a subclass"),
        ("slurm", "unknown kind 'slurm': known: local, fsdp, ray"),
    ):
        with pytest.raises(ConfigError, match=message):
            config_class(kind)
        (files / "wrong.yaml").write_text(
            f'name: own\nruntime:\n  kind: "{kind}"\nstages:\n'
            "  - {stage: r1_zero, init: a-model, tasks: {chain: 1}}\n"
        )
        with pytest.raises(ConfigError, match=rf"wrong\.yaml:3: .*{message}"):
            load(files / "wrong.yaml")


# Types at the seams


def members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


def test_stages_use_a_runtime_only_as_its_protocol_says() -> None:
    """``Context.runtime`` has a type, so that mypy refuses what a runtime does not have; here the same is
    read from the source."""
    assert typing.get_type_hints(Context)["runtime"] is Runtime
    used: dict[str, set[str]] = {}
    for file in (ROOT / "src/r1kit/stages").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("ctx.runtime"):
                used.setdefault(node.attr, set()).add(file.name)
    assert len(used) >= 4 and set(used) <= members(Runtime), used


@pytest.mark.parametrize(
    ("protocol", "kinds"),
    [
        (Runtime, [LocalRuntime]),
        (Engine, [NativeEngine, EngineProxy]),
        (LearnerProtocol, [Mortal, LearnerProxy]),
    ],
)
def test_what_r1kit_has_itself_follows_the_protocols(protocol: type, kinds: list[type]) -> None:
    for kind in kinds:
        assert members(protocol) <= set(dir(kind)), kind


def test_every_runtime_says_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RuntimeConfig().kernels() == {} and RuntimeConfig().resolved_processes() == 1
    with pytest.raises(NotImplementedError):
        RuntimeConfig().start()


# Training states carry the stage's identity


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = model_directory(tmp_path / "base/model").parent
    rows = [{"prompt": "1+1", "completion": "<think>a</think>2"}] * 4
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"prompt": "1+1", "chosen": "<think>a</think>2", "rejected": "<think>a</think>3"}] * 4
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return folder


GRPO = {**SHAPE, "steps": 2, "save_every": 1, "beta": 0.0, "gate_problems": 0}
TRAINING = {"epochs": 1, "batch_tokens": 1, "save_every": 1}
STAGES: dict[str, Stage] = {
    "pretrain": Pretrain(
        model={"preset": "nano"},
        corpus={"generated": {"miniature": 1.0}},
        tokens=600,
        tokenizer=320,
        training={"batch_tokens": 200, "save_every": 1},
    ),
    "sft": SFT(init="@base", data=["@base/data.jsonl"], training=TRAINING),
    "dpo": DPO(init="@base", pairs="@base/pairs.jsonl", held_out="", dpo={"batch": 2, "save_every": 1}),
    "r1_zero": R1Zero(init="@base", tasks={"chain": {"size": 20}}, grpo=GRPO),
}


@pytest.fixture
def runtime() -> Iterator[LocalRuntime]:
    started = LocalRuntime(LocalConfig(processes=1))
    yield started
    started.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_marks_its_states_as_its_own_and_takes_no_others(
    name: str, base: Path, tmp_path: Path, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "discard", lambda directory: None)
    out = tmp_path / "out"
    out.mkdir()

    def run(*identities: str) -> None:
        log = Log(tmp_path, name, Console(file=io.StringIO()))
        STAGES[name].run(Context(tmp_path, name, out, 3, runtime, log, {"base": base}, identities))

    run("mine", "allowed")
    states = sorted((out / checkpoint.FOLDER).glob("step_*"))
    assert states and {json.loads((s / checkpoint.MANIFEST).read_text())["owner"] for s in states} == {"mine"}
    run("another", "mine")
    with pytest.raises(checkpoint.StateError, match="belongs to another run"):
        run("another")


def test_a_row_of_the_gate_is_the_row_that_an_update_trains_on() -> None:
    """The gate compares what the learner will compute: the same ids, mask and temperature."""
    learner = Mortal(model(), learner_config(context=320))
    sides = Policy(learner, NativeEngine(learner.model, [tokenizer().eos_id]), Chat(tokenizer()))
    (probe,) = sample(sides, [Problem("p", "sums", "1+1?", "2")], Sampling(1, 0.7, max_tokens=8), 3)
    rollout = Chat(tokenizer()).rollouts(probe.problem, probe.prompt_ids, [probe.completion])[0]
    expected: Row = policy_row(rollout, temperature=0.7)
    assert probe.row.temperature == 0.7 and probe.row.token_ids.tolist() == expected.token_ids.tolist()
    assert probe.row.mask.tolist() == expected.mask.tolist() and probe.row.mask.sum() == len(
        probe.completion.token_ids
    )
