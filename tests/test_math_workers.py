"""The processes that run math-verify: callers wait a second at most, and kills change no verdict."""

import contextlib
import json
import os
import random
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from copied_stages import copy_stage
from rich.console import Console

from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.runs.execute import run
from r1kit.sandbox.zygote_handle import WorkerLost
from r1kit.tasks.mathematics import check as mathematics
from r1kit.tasks.mathematics import checker_pool as checkers
from r1kit.tasks.mathematics.check import check_math, check_math_batch

KILLS = 6 if os.environ.get("R1KIT_ADVERSARIAL") == "full" else 3  # in a training
MOST_WORK = 10.0  # processor seconds of the caller for one answer, ten times what check_math promises

# Right and wrong pairs that r1kit's own reader leaves to math-verify.
HARD = [
    (r"\int_0^1 x\,dx", r"\boxed{\int_0^1 t\,dt}", "correct"),
    (r"\int_0^1 x\,dx", r"\boxed{\int_0^2 x\,dx}", "wrong"),
    (r"\sum_{k=1}^{4} k", r"\boxed{\sum_{j=1}^{4} j}", "correct"),
    (r"\sum_{k=1}^{4} k", r"\boxed{\sum_{k=1}^{5} k}", "wrong"),
]

MONSTERS = [
    ("12", r"\boxed{9^{9^9}}"),
    ("12", r"\boxed{9^{9^{9^{9^{9}}}}}"),
    (r"\int_0^1 x\,dx", r"\boxed{9^{9^{9^9}}}"),
    (r"\int_0^1 x\,dx", r"\boxed{((10!)!)!}"),
    (r"\int_0^1 x\,dx", r"\boxed{\prod_{i=1}^{10000000} i}"),
    (r"\int_0^1 x\,dx", r"\boxed{\sum_{n=1}^{10^{9}} \frac{1}{n^{1.0001}}}"),
    (r"\int_0^1 x\,dx", r"\boxed{\int_0^1 x^{x^{x}} \sin(x^x) dx}"),
    ("12", r"\boxed{" + r"\sqrt{1+" * 29 + "2" + "}" * 29 + "}"),
    (r"\sqrt{2}", r"\boxed{\sqrt[64]{\sqrt[63]{\sqrt[62]{2^{512}}}}}"),
    ("x", r"\boxed{(x+y+z+w)^{500}(x-y)^{500}}"),
    ("x^2", r"\boxed{" + "+".join(f"x^{{{n}}}" for n in range(120)) + "}"),
    ("12", "1" * 1_000_000),
    ("12", "1+" * 500_000 + "1"),
    ("12", "{" * 1_000_000),
    ("12", r"\boxed{" * 200_000),
    ("12", r"\boxed{12} or " * 80_000 + r"\boxed{13}"),
    ("12", "<answer>" * 120_000),
    ("12", "</think>" * 120_000),
    ("12", r"\(" * 500_000),
    ("12", r"answer is \[" * 80_000),
    ("12", "$" * 1_000_001),
    ("12", "so " * 330_000),
    ("12", "is not " * 140_000 + "12"),
    ("12", " " * 1_000_000 + "12 or 13"),
    ("12", "12," * 330_000),
    ("12", "a" * 1_000_000 + "!"),
    ("12", "答案是" * 330_000),
    ("B", "answer " * 140_000 + "A or B"),
    ("(1,2)", r"\boxed{(" + "1," * 450 + "2)}"),
    ("{1,2}", r"\boxed{\{" + r"\pm 1," * 120 + r"2\}}"),
    ("12", r"\boxed{" + "-" * 900 + "12}"),
    ("12", r"\boxed{" + "!" * 900 + "}"),
    ("12", r"\boxed{" + r"\frac" * 190 + "}"),
    ("12", r"\boxed{" + "1 2 " * 240 + "}"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _ready():
    assert checkers.wait_until_ready()


def test_what_needs_math_verify_gets_its_verdict():
    assert [
        verdict.outcome for verdict in check_math_batch([g for g, _, _ in HARD], [r for _, r, _ in HARD])
    ] == [o for _, _, o in HARD]


def test_no_monster_is_correct_or_costs_its_caller_much_work_with_eight_threads_at_once():
    def timed(case):
        begun = time.thread_time()
        verdict = check_math(*case)
        return time.thread_time() - begun, verdict

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(timed, MONSTERS))
    slow = [
        (round(seconds, 2), case[0], case[1][:40])
        for (seconds, _), case in zip(found, MONSTERS, strict=True)
        if seconds > MOST_WORK
    ]
    assert slow == []
    assert [
        case for (_, verdict), case in zip(found, MONSTERS, strict=True) if verdict.outcome == "correct"
    ] == []
    assert all(verdict.reason for _, verdict in found)


def test_a_monster_is_a_failure_that_says_so_and_the_next_answer_is_judged():
    asked = checkers.compare_elsewhere(
        r"\int_0^1 x\,dx", r"\prod_{i=1}^{10000000} i", time.monotonic() + 60, patient=True
    )
    assert asked.outcome == "failed" and asked.reason.startswith("timeout")
    assert check_math_batch([HARD[0][0]], [HARD[0][1]])[0].outcome == "correct"


@pytest.mark.parametrize(
    ("patient", "longest"), [(False, checkers.ANSWER_SECONDS), (True, checkers.PATIENT_SECONDS)]
)
@pytest.mark.parametrize("gives", ["nothing", "loss"])
def test_a_checker_without_an_answer_is_a_failure_after_a_bounded_wait_and_never_a_zero(
    monkeypatch, gives, patient, longest
):
    waits = []

    class Silent(Future):
        def result(self, timeout=None):
            waits.append(timeout)
            return super().result(0)

    class SilentCheckers:
        ready = threading.Event()
        trouble = "math-verify is still being loaded"

        def ask(self, gold, answer):
            word = Silent()
            if gives == "loss":
                word.set_exception(WorkerLost("killed"))
            return word

    monkeypatch.setattr(checkers, "checkers", SilentCheckers)
    check = (lambda gold, said: check_math_batch([gold], [said])[0]) if patient else check_math
    verdict = check(HARD[0][0], HARD[0][1])
    assert len(waits) == 1 and 0 <= waits[0] <= longest
    assert verdict.outcome == "failed" and verdict.reward is None
    assert verdict.reason.startswith("late" if gives == "nothing" else "lost")


@contextlib.contextmanager
def killing(seed: int, most: int, pause: float = 0.1):
    """Kill a zygote, then any zygote or job of one, one by one at random; yield the list of those killed."""
    chance, over, killed = random.Random(seed), threading.Event(), []

    def kill() -> None:
        while len(killed) < most and not over.wait(chance.uniform(pause / 10, pause)):
            victims = [
                process
                for checker in list(checkers.checkers().alive)
                for process in _family(checker.zygote.process.pid)[: None if killed else 1]
            ]
            if victims:
                killed.append(chance.choice(victims))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()


@pytest.mark.slow
def test_checkers_killed_at_random_change_no_verdict():
    golds, responses = (
        [g for g, _, _ in HARD] * 30,
        [r.replace("{1}", f"{{{n}}}") for n in range(30) for _, r, _ in HARD],
    )
    expected = check_math_batch(golds, responses)
    assert {verdict.outcome for verdict in expected} == {"correct", "wrong"}
    with killing(5, most=4) as killed:
        rounds = 0
        while rounds < 2 or (len(killed) < 4 and rounds < 300):
            assert check_math_batch(golds, responses) == expected
            rounds += 1
    assert len(killed) == 4
    assert checkers.checkers().lost > 0


# A nearly untrained model gives no answers, so this reward makes an answer from the sampled tokens, for
# math-verify to judge.
JUDGED = """\
from r1kit.tasks.mathematics.check import check_math_batch

def judged(completions, completion_ids):
    golds, responses = [], []
    for ids in completion_ids:
        for n in range(4):
            golds.append(f"\\\\int_0^{{{n + 1}}} x dx")
            responses.append(f"\\\\boxed{{\\\\int_0^{{{n + 1 + sum(ids) % (n + 2) % 2}}} t dt}}")
    verdicts = check_math_batch(golds, responses)
    assert all(verdict.reward is not None for verdict in verdicts), verdicts
    rewards = [verdict.reward for verdict in verdicts]
    return [sum(rewards[k : k + 4]) / 4 for k in range(0, len(rewards), 4)]
"""
RECIPE = """\
extends: {nano}
stages:
  pretrain: {{tokens: 8_000}}
  r1_zero: {{rewards: {{'{folder}/judged.py:judged': 1.0}}, grpo: {{steps: 2}}}}
"""


def train(folder: Path, out: Path) -> list[float]:
    """Run the recipe as far as r1_zero, in this process, and return the mean reward of every step."""
    recipe = build(read_layers(folder / "mathematics.yaml", [f"out={json.dumps(str(out))}"]))
    run(recipe, console=Console(file=(folder / "screen.txt").open("a")), show_rollouts=0)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["reward/mean"] for row in rows if row["stage"] == "r1_zero"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_checkers_killed_during_reinforcement_learning_change_no_reward_and_no_weight(tmp_path):
    (tmp_path / "judged.py").write_text(JUDGED)
    nano = Path(__file__).parents[1] / "recipes/nano.yaml"
    later = [
        stage.name
        for stage in build(read_layers(nano, [])).stages
        if stage.name not in ("pretrain", "r1_zero")
    ]
    recipe = RECIPE.format(nano=nano, folder=tmp_path) + "".join(f"  {name}: null\n" for name in later)
    (tmp_path / "mathematics.yaml").write_text(recipe)
    calm = train(tmp_path, tmp_path / "calm")
    copy_stage(tmp_path / "calm", "pretrain", tmp_path / "troubled")
    before = checkers.checkers().lost
    with killing(11, most=KILLS, pause=0.6) as killed:  # a zygote costs the loading of sympy
        troubled = train(tmp_path, tmp_path / "troubled")
    assert killed and checkers.checkers().lost > before
    ends = [
        (tmp_path / out / "stages/r1_zero/model/model.safetensors").read_bytes()
        for out in ("calm", "troubled")
    ]
    assert ends[0] == ends[1] != (tmp_path / "calm/stages/pretrain/model/model.safetensors").read_bytes()
    assert calm == troubled and min(calm) > 0 and max(calm) < 1


def _family(pid: int) -> list[int]:
    """A zygote and its jobs, as this process sees them."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def test_plain_answers_start_no_process(monkeypatch):
    monkeypatch.setattr(mathematics, "checkers", lambda: pytest.fail("a plain number needs no checker"))
    assert check_math("12", r"\boxed{12.0}").outcome == "correct"
    assert check_math("1,200", "The answer is 1200 apples.").outcome == "correct"
