"""The whole recipe in seconds: every stage through the command line, killed and continued, and each of its
errors in one message."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forked
from safetensors.torch import load_file
from small_world import model_directory
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1kit.chat import Chat
from r1kit.commands.cli import main
from r1kit.engine.native import NativeEngine
from r1kit.model.huggingface import load_pretrained
from r1kit.stages import STAGES as TABLE
from r1kit.tasks import Procedural
from r1kit.tokenizer import Tokenizer
from r1kit.types import Sampling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1700)]  # a busy machine is slow, not broken
ROOT = Path(__file__).parents[1]
MODELS = (
    "pretrain",
    "r1_zero",
    "cold_start",
    "reasoning_rl",
    "sft",
    "alignment_rl",
    "student_base",
    "distill",
)
STAGES = (
    *MODELS[:4],
    "rejection_sampling",
    "sft",
    "reward_models",
    "alignment_rl",
    "student_base",
    "distill",
    "evaluate",
)


# A model that has learned next to nothing never earns a rule's reward, and then nothing is trained: this
# reward always differs. Where a file "kill" lies next to it, it kills the process at its third
# call.
LIVELY = """\
import os, signal
from pathlib import Path
calls = []
def even(completions, completion_ids):
    calls.append(len(completions))
    trap = Path(__file__).with_name("kill")
    if len(calls) == 3 and trap.exists():
        trap.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return [sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]
"""


@dataclass(frozen=True)
class Nano:
    """The nano recipe with a lively reward in its RL stages, in a folder of its own."""

    folder: Path
    forked: Forked

    def __post_init__(self) -> None:
        (self.folder / "lively.py").write_text(LIVELY)
        own = f"'{self.folder}/lively.py:even': 1.0"
        rules = {
            "r1_zero": "accuracy: 1.0, format: 0.1",
            "reasoning_rl": "accuracy: 1.0, format: 0.1, language: 1.0",
            "alignment_rl": "accuracy: 1.0, format: 0.1, language: 1.0",
        }
        stages = "".join(
            f"  {name}: {{preflight: off, rewards: {{{rule}, {own}}}}}\n" for name, rule in rules.items()
        )
        (self.folder / "nano.yaml").write_text(f"extends: {ROOT / 'recipes/nano.yaml'}\nstages:\n{stages}")

    def run(self, out: Path, *words: str) -> tuple[int, str]:
        """(exit code, what it printed) of the command line."""
        command = ("-m", "r1kit", "run", self.folder / "nano.yaml", "--out", out, *words)
        ended = self.forked.run(*command, environment={**os.environ, "COLUMNS": "140"})
        return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory, forked: Forked) -> Nano:
    return Nano(tmp_path_factory.mktemp("nano"), forked)


@pytest.fixture(scope="module")
def finished(nano: Nano) -> Path:
    """The folder of one whole run."""
    code, output = nano.run(nano.folder / "run")
    assert code == 0 and "all stages are done" in output, output
    return nano.folder / "run"


def weights(out: Path, stage: str) -> bytes:
    return (out / "stages" / stage / "model/model.safetensors").read_bytes()


def steps(out: Path, stage: str) -> list[int]:
    if not (out / "metrics.jsonl").exists():
        return []
    rows = [
        json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines() if line.endswith("}")
    ]
    return [row["step"] for row in rows if row["stage"] == stage and "part" not in row]


def test_every_stage_leaves_what_it_promises(finished: Path) -> None:
    for stage in STAGES:
        folder = finished / "stages" / stage
        record = json.loads((folder / "stage.json").read_text())
        assert record["seconds"] > 0
        left = {path.name for path in folder.iterdir()} - {"stage.json"}
        assert left <= set(TABLE[record["stage"]].writes)
        assert (folder / "model/config.json").is_file() == (stage in MODELS)
        assert not list(folder.glob("train_state*")) and not list(folder.glob("**/.*.tmp"))
    for stage in ("cold_start", "rejection_sampling", "distill"):
        assert (finished / "stages" / stage / "data.jsonl").is_file()
    for judge in ("helpful", "safety"):
        assert (finished / "stages/reward_models" / judge / "value_head.safetensors").is_file()
    facts = json.loads((finished / "stages/alignment_rl/report.json").read_text())
    assert facts["steps_without_preference"] > 0 < facts["steps_with_preference"]
    evaluated = json.loads((finished / "stages/evaluate/report.json").read_text())["models"]
    assert set(evaluated) == {"base", *MODELS} - {"pretrain"} and all(
        0 <= figures["overall"]["pass@1"] <= 1 for figures in evaluated.values()
    )
    assert all(
        (finished / name).stat().st_size > 500
        for name in ("report.md", "report.html", "report.json", "metrics.jsonl")
    )


def test_the_log_has_one_row_a_step_with_what_the_paper_plots(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    zero = [row for row in rows if row["stage"] == "r1_zero"]
    assert [row["step"] for row in zero] == list(range(len(zero))) and len(zero) > 2
    for name in (
        "reward/mean",
        "reward/accuracy/mean",
        "reward/format/mean",
        "completions/mean_length",
        "policy/entropy",
        "optim/grad_norm",
    ):
        assert all(name in row for row in zero), name
    assert {row.get("part") for row in rows if row["stage"] == "reward_models"} == {"helpful", "safety"}
    losses = [row["loss"] for row in rows if row["stage"] == "pretrain"]
    assert losses[-1] < losses[0] - 0.3
    assert any("mtp_loss" in row for row in rows if row["stage"] == "pretrain")


def test_a_second_call_does_nothing_and_says_so(nano: Nano, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("stages/**/*")}
    code, output = nano.run(finished)
    assert code == 0 and "all stages are done already; nothing to do" in output and "begins" not in output
    assert {path: path.stat().st_mtime_ns for path in finished.glob("stages/**/*")} == before


def test_a_run_that_was_killed_in_r1_zero_ends_with_the_very_same_models(
    nano: Nano, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (nano.folder / "kill").touch()
    code, output = nano.run(out, "--from", "r1_zero")
    assert code == -signal.SIGKILL, output
    assert (out / "stages/r1_zero.partial/train_state").is_dir() and steps(out, "r1_zero") == [0, 1]
    code, output = nano.run(out)
    assert code == 0 and "r1_zero: continues" in output and "pretrain: done" in output, output
    for stage in MODELS:
        assert weights(out, stage) == weights(finished, stage), stage
    assert weights(out, "r1_zero") != weights(
        out, "pretrain"
    )  # something was learned, so something could have differed
    assert steps(out, "r1_zero") == steps(finished, "r1_zero")


@pytest.mark.parametrize("stage", MODELS)
def test_every_stages_model_is_one_of_transformers(finished: Path, stage: str) -> None:
    folder = finished / "stages" / stage / "model"
    ours, theirs = (
        load_pretrained(folder).eval(),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
    )
    own: Tokenizer = Tokenizer.load(folder)
    other: Any = AutoTokenizer.from_pretrained(folder)
    for problem in Procedural("word", 16).problems("held_out"):
        prompt = Chat(own).prompt_ids(problem)
        messages = [{"role": "user", "content": problem.prompt}]
        tokens_BT = other.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        assert tokens_BT[0].tolist() == prompt.tolist()
        with torch.no_grad():
            torch.testing.assert_close(
                ours.logits(ours(tokens_BT).hidden_BTD), theirs(tokens_BT).logits, atol=1e-4, rtol=1e-4
            )
            found = theirs.generate(tokens_BT, max_new_tokens=12, do_sample=False, pad_token_id=own.pad_id)[
                0, len(prompt) :
            ]
        greedy = (
            NativeEngine(ours, [own.eos_id])
            .generate([prompt], Sampling(max_tokens=12, temperature=0.0))[0][0]
            .token_ids
        )
        assert own.decode(greedy) == other.decode(found, skip_special_tokens=True)


def test_the_judges_keep_their_scalar_heads(finished: Path) -> None:
    for judge in ("helpful", "safety"):
        folder = finished / "stages/reward_models" / judge
        model = load_pretrained(folder)
        assert model.value_head is not None
        assert torch.equal(
            model.value_head.weight, load_file(folder / "value_head.safetensors")["value_head.weight"]
        )
        AutoModelForCausalLM.from_pretrained(folder)


# Errors: a small recipe on a fresh model, so that nothing has to be trained first.
RECIPE = """\
name: small
runtime: {kind: local, processes: 1}
stages:
  - {stage: sft, name: first, init: MODEL, data: [good.jsonl], training: {epochs: 1}}
"""
SECOND = "  - {stage: sft, name: second, init: '@first', data: [own.jsonl], training: {epochs: 1}}\n"
RAISING = """\
from r1kit.types import Problem
class Raising:
    name = "raising"
    def problems(self, split): return [Problem(str(i), "raising", "1+1?", "2") for i in range(4)]
    def check(self, problem, answer): raise KeyError("no such table")
"""


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a recipe's text in an empty folder by the command line's own entry: (exit code, output, error)."""
    model_directory(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    Path("good.jsonl").write_text('{"prompt": "1+1?", "completion": "2"}\n')

    def run(text: str, *words: str) -> tuple[int, str, str]:
        Path("small.yaml").write_text(text.replace("MODEL", "base"))
        monkeypatch.setattr(sys, "argv", ["r1kit", "run", "small.yaml", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_typo_names_the_key_and_the_nearest_right_one_before_anything_starts(
    call: Callable[..., tuple[int, str, str]],
) -> None:
    for wrong, message in (
        ("trainin: {epochs: 1}", "unknown key 'trainin': did you mean 'training'?"),
        ("training: {epoch: 1}", "unknown key 'epoch': did you mean 'epochs'?"),
        ("training: {epochs: 0}", "greater than 0"),
    ):
        code, _, error = call(RECIPE.replace("training: {epochs: 1}", wrong))
        assert code == 2 and message in error and "first" in error and "Traceback" not in error
        assert not Path("runs").exists()
    code, _, error = call(RECIPE.replace("stage: sft", "stage: sfft"))
    assert code == 2 and "did you mean 'sft'" in error
    code, _, error = call(RECIPE + SECOND.replace("@first", "@frist"))
    assert code == 2 and "first" in error and "frist" in error
    code, _, error = call(RECIPE + "  - {stage: r1_zero, init: MODEL, tasks: {chian: 1}}\n")
    assert code == 2 and "did you mean 'chain'" in error


def test_a_missing_file_and_a_malformed_row_are_named_and_nothing_is_lost(
    call: Callable[..., tuple[int, str, str]],
) -> None:
    code, _, error = call(RECIPE + SECOND)
    assert code == 2 and "stages.second.data.0: own.jsonl: no such file" in error
    assert "small.yaml:5: " in error and not list(Path("runs").glob("*/stages/*"))  # before the first stage
    Path("own.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": \n')
    code, _, error = call(RECIPE + SECOND)
    assert (
        code == 1
        and "stage 'second' failed" in error
        and "own.jsonl:2: not JSON" in error
        and "correct or remove the line" in error
    )
    assert (
        "Finished and kept: first" in error
        and "Fix the cause, then rerun" in error
        and "Traceback" not in error
    )
    kept = weights(Path("runs/small"), "first")
    Path("own.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    code, output, _ = call(RECIPE + SECOND)
    assert code == 0 and "first: done" in output and "all stages are done" in output
    assert weights(Path("runs/small"), "first") == kept != weights(Path("runs/small"), "second")


def test_a_folder_that_cannot_be_written_is_an_error_before_any_work(
    call: Callable[..., tuple[int, str, str]],
) -> None:
    Path("file").write_text("")
    code, _, error = call(RECIPE, "--out", "file/run")
    assert (
        code == 2
        and "file/run cannot be written" in error
        and "--out DIR" in error
        and "Traceback" not in error
    )


def test_a_task_that_raises_stops_the_run_with_its_own_error(
    call: Callable[..., tuple[int, str, str]],
) -> None:
    Path("mine.py").write_text(RAISING)
    grpo = "grpo: {steps: 1, problems: 2, group: 2, max_tokens: 4, beta: 0.0, updates_per_rollout: 1}"
    code, _, error = call(
        RECIPE
        + "  - {stage: r1_zero, init: MODEL, tasks: {'mine.py:Raising': 1}, GRPO}\n".replace("GRPO", grpo)
    )
    assert (
        code == 1
        and "stage 'r1_zero' failed" in error
        and "could not be judged" in error
        and "KeyError: 'no such table'" in error
    )
    assert "Finished and kept: first" in error and "mine.py" in error


def test_the_models_directory_must_be_one(call: Callable[..., tuple[int, str, str]]) -> None:
    Path("empty").mkdir()
    code, _, error = call(RECIPE.replace("MODEL", "empty"))
    assert code == 2 and "empty/config.json: not found" in error and "Traceback" not in error
