"""Data sets whose answers are programs: what rows say about their tests, MBPP's columns, verdicts in batches,
and a reward over them."""

import json
from pathlib import Path

import numpy as np
import pytest
from public_data import DATA
from small_world import learner_config, model, quiet_log, tokenizer

from r1kit.chat import Chat, parse
from r1kit.config import R1kitError
from r1kit.data.mixture import Mixture
from r1kit.engine.native import NativeEngine
from r1kit.rewards import score
from r1kit.rewards.reward import WeightedReward
from r1kit.rewards.rules import accuracy
from r1kit.rewards.speed import speed
from r1kit.tasks import Dataset, load_tasks
from r1kit.tasks.programs import read_program
from r1kit.train.grpo import GRPO, GRPOConfig
from r1kit.train.learner import Learner
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Policy
from r1kit.types import Completion, Rollout

FUNCTION = {
    "prompt": "Add one with f.",
    "entry_point": "f",
    "tests": [{"args": [1], "expected": 2}, {"args": [-1], "expected": 0}],
}
STDIO = {
    "prompt": "Print one more.",
    "tests": [{"stdin": "1\n", "stdout": "2\n"}, {"stdin": "-1\n", "stdout": "0\n"}],
}
ASSERTS = {"prompt": "Add one with f.", "tests": "assert f(1) == 2\nassert f(-1) == 0"}
ADD = "def f(x):\n    return x + 1"


def task_over(folder, rows, **options):
    file = folder / "programs.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return Dataset("mine", held_out=str(file), check="program", **options)


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nThat is it.", "x = 1\n"),
        ("```python\nx = 1\n```\nor better\n```py\nx = 2\n```\nwhich prints\n```\n2\n```", "x = 2\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("1. So:\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1\n"),
        ("```python\nx = 1", "x = 1\n"),
    ],
)
def test_the_program_is_the_last_block_of_python_or_the_whole_answer(answer, program):
    assert read_program(answer) == program


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [
        (FUNCTION, ADD, "def f(x): return 2"),
        (ASSERTS, ADD, "def f(x): return 2"),
        (STDIO, "print(int(input()) + 1)", "print(2)"),
    ],
)
def test_all_kinds_of_tests_judge_answers(tmp_path, row, right, wrong):
    task = task_over(tmp_path, [row])
    (problem,) = task.problems("held_out")
    verdicts = task.check_batch([problem] * 4, [f"```python\n{right}\n```", wrong, right, None])
    assert [verdict.outcome for verdict in verdicts] == ["correct", "wrong", "correct", "wrong"]
    assert verdicts[0].tests and verdicts[3].tests == ()


def test_limits_come_from_the_row_else_from_the_recipe(tmp_path):
    rows = [
        {**FUNCTION, "prompt": "f: slow", "time_limit_s": 0.2},
        {**FUNCTION, "prompt": "f: large", "memory_limit_mb": 64},
        FUNCTION,
    ]
    task = task_over(tmp_path, rows, time_limit_s=3, memory_limit_mb=256)
    problems = task.problems("held_out")
    assert [(p.columns["time_limit_s"], p.columns["memory_limit_mb"]) for p in problems] == [
        (0.2, 256),
        (3.0, 64),
        (3.0, 256),
    ]
    loop = task.check_batch(
        problems[:2], ["def f(x):\n    while True: pass", "def f(x):\n    bytes(100 << 20)\n    return x + 1"]
    )
    assert [verdict.reason.partition(":")[0] for verdict in loop] == ["timeout", "memory"]


def test_the_rows_that_unit_tests_writes_are_read_as_they_are(tmp_path):
    row = {"prompt": "Double with f.", "entry_point": "f", "solutions": ["def f(x): return 2 * x"], "wrong": ["def f(x): return x"],
           "tests": [{"args": [3], "expected": 6}, {"args": [0.5], "expected": 1.0, "tolerance": 1e-6}]}  # fmt: skip
    task = task_over(tmp_path, [row])
    (problem,) = task.problems("held_out")
    assert problem.answer == row["solutions"][0]
    assert [v.outcome for v in task.check_batch([problem] * 2, [*row["solutions"], *row["wrong"]])] == [
        "correct",
        "wrong",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "tests": []}, "there are no tests"),
        ({"prompt": "p", "tests": " "}, "there are no tests"),
        ({"prompt": "p", "tests": [1]}, "tests are a text, or a list"),
        ({"prompt": "p", "tests": [{"args": [1], "expected": 2}]}, "need an entry_point"),
        ({"prompt": "p", "entry_point": "f", "tests": [{"args": [1]}]}, "test 0 lacks expected"),
        ({"prompt": "p", "entry_point": "f(", "tests": [{"args": [1], "expected": 1}]}, "no name of a function"),
        ({"prompt": "p", "tests": [{"stdin": "1", "stdout": 2}]}, "stdin and stdout must be texts"),
        ({"prompt": "p", "tests": "assert f(1) =="}, "not Python"),
        ({"prompt": "p", "tests": "assert f(1) == g(2)"}, "which of f, g is the entry point"),
        ({"prompt": "p", "tests": "assert f(1) == 2", "time_limit_s": 0}, "time_limit_s is a number above 0"),
        ({"prompt": "p", "tests": "assert f(1) == 2", "reference_seconds": "fast"}, "reference_seconds is a number above 0"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named_by_file_and_line(tmp_path, row, message):
    with pytest.raises(R1kitError, match=message) as error:
        task_over(tmp_path, [ASSERTS, row]).problems("held_out")
    assert "programs.jsonl:2: column 'tests'" in str(error.value)


def test_a_file_without_tests_says_which_columns_were_looked_for(tmp_path):
    with pytest.raises(
        R1kitError, match=r"programs.jsonl:1: no column for the answer \(tests, test, test_list, "
    ):
        task_over(tmp_path, [{"prompt": "p", "answer": "1"}]).problems("held_out")


def test_human_evals_check_function_and_columns_named_in_the_recipe(tmp_path):
    row = {
        "q": "def f(x):\n    ...",
        "meta": {"check": "def check(candidate):\n    assert candidate(1) == 2"},
        "entry_point": "f",
    }
    task = task_over(tmp_path, [row], prompt="q", answer="meta.check")
    (problem,) = task.problems("held_out")
    assert problem.prompt == row["q"]
    assert [v.outcome for v in task.check_batch([problem] * 2, [ADD, "def f(x): return x"])] == [
        "correct",
        "wrong",
    ]


@pytest.mark.skipif(not (DATA / "mbpp.jsonl").exists(), reason="MBPP is not here")
def test_mbpp_needs_no_conversion_and_shows_no_expected_value(tmp_path):
    lines = (DATA / "mbpp.jsonl").read_text().splitlines()
    wanted = [json.loads(line) for line in (*lines[:3], lines[125], *lines[400::150])]
    tuned = [{**row, "test_setup_code": "limit = 10**9"} if row["task_id"] == 1 else row for row in wanted]
    task = task_over(tmp_path, tuned)
    problems = task.problems("held_out")
    assert (
        "min_cost([[1, 2, 3], [4, 8, 2], [1, 5, 3]], 2, 2)" in problems[0].prompt
        and "== 8" not in problems[0].prompt
    )
    assert problems[3].columns["entry_point"] == "sum"
    solved = task.check_batch(problems, [f"```python\n{row['code']}\n```" for row in wanted])
    assert [v.outcome for v in solved] == ["correct"] * len(wanted)
    broken = [
        f"{row['code']}\n{p.columns['entry_point']} = lambda *a, **k: 'another value'"
        for row, p in zip(wanted, problems, strict=True)
    ]
    assert [v.outcome for v in task.check_batch(problems, broken)] == ["wrong"] * len(wanted)


def rollout(problem, answer, index):
    text = f"<think>hm</think>{answer}"
    return Rollout(  # type: ignore[misc]
        problem,
        index,
        np.zeros(1, dtype=np.int32),
        Completion(np.zeros(3, dtype=np.int32), np.zeros(3), "stop"),
        text,
        *parse(text),
    )


def test_accuracy_and_speed_are_rewards_over_such_rows(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({**FUNCTION, "reference_seconds": 1e-3}) + "\n")
    spec = {"mine": {"kind": "dataset", "held_out": str(tmp_path / "p.jsonl"), "check": "program"}}
    tasks = {name: task for name, (task, _) in load_tasks(spec).items()}
    (problem,) = tasks["mine"].problems("held_out")
    slow = (
        "import time\ndef f(x):\n    end = time.process_time() + 0.02\n    while time.process_time() < "
        "end: pass\n    return x + 1"
    )
    rollouts = [
        rollout(problem, answer, index) for index, answer in enumerate((ADD, "def f(x): return 0", slow))
    ]
    rewards = [WeightedReward("accuracy", 1.0, accuracy(tasks)), WeightedReward("speed", 1.0, speed(tasks))]
    parts = [found.parts for found in score(rollouts, rewards)]
    assert [part["accuracy"] for part in parts] == [1.0, 0.0, 1.0]
    assert parts[0]["speed"] > 0.5 and parts[1]["speed"] == 0.0 and 0 < parts[2]["speed"] < 0.1


class Scripted(NativeEngine):
    """An engine that says, in turn, what it is given to say."""

    def generate(self, prompts, sampling, seeds=None, done=None):
        texts = [f"<think>hm</think>{program}" for program in (ADD, "def f(x):\n    return x", "no program")]
        ids = [
            np.append(tokenizer().encode(text, special=True), tokenizer().eos_id).astype(np.int32)
            for text in texts
        ]
        said = [
            Completion(own, np.full(len(own), -1.0, dtype=np.float32), "stop", self.version) for own in ids
        ]
        return [[said[index % len(said)] for index in range(sampling.n)] for _ in prompts]


def test_reinforcement_learning_steps_on_the_verdicts_of_programs(tmp_path):
    rows = [{**FUNCTION, "prompt": f"{word} one with f."} for word in ("Add", "Give", "Return")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    tasks = load_tasks({"mine": {"kind": "dataset", "train": str(tmp_path / "p.jsonl"), "check": "program"}})
    learner = Learner(model(), learner_config(context=192, learning_rate=1e-2))
    before = [tensor.clone() for tensor in learner.model.state_dict().values()]
    policy = Policy(learner, Scripted(model(), [tokenizer().eos_id]), Chat(tokenizer()), None)
    reward = WeightedReward("accuracy", 1.0, accuracy({name: task for name, (task, _) in tasks.items()}))
    config = GRPOConfig(
        steps=1, problems=2, group=3, max_tokens=96, updates_per_rollout=1, beta=0.0, gate_problems=0
    )
    algorithm = GRPO(config, policy, [reward])
    train(algorithm, Mixture(tasks, "train", 5), 7, quiet_log(tmp_path), tmp_path)
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["reward/accuracy/mean"] == pytest.approx(1 / 3)
    assert any(
        (old != new).any() for old, new in zip(before, learner.model.state_dict().values(), strict=True)
    )


def test_the_rows_on_the_page_about_ones_own_are_read_and_judge(tmp_path):
    page = (Path(__file__).parents[1] / "docs/how-to/data.md").read_text()
    rows = page.partition("```json\n")[2].partition("```")[0].splitlines()
    task = task_over(
        tmp_path, [row.replace('"prompt": "', f'"prompt": "{place}: ') for place, row in enumerate(rows)]
    )
    problems = task.problems("held_out")
    assert [problem.columns["kind"] for problem in problems] == ["function", "stdio", "asserts"]
    assert [v.outcome for v in task.check_batch(problems, [ADD, "print(int(input()) + 1)", ADD])] == [
        "correct"
    ] * 3
