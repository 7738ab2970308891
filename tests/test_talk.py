"""The playground without a page: its models, answers, problems, verdicts and files."""

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from talk_fakes import STAGES, broken_once, finish_stage, slowly, talking_run
from web_fakes import HOSTILE

from r1kit.config import R1kitError
from r1kit.serve.errors import ApiError
from r1kit.serve.served import Served
from r1kit.tasks import load_tasks
from r1kit.types import Problem, Sampling
from r1kit.web.talk_answers import Answer, Settings, body_of, give
from r1kit.web.talk_models import LIMITS, ModelPool, Talker, load_served, main_result, talkers
from r1kit.web.talk_problems import Judged, RunTasks
from r1kit.web.talk_share import Exchange, as_json, as_markdown

QUESTION = "What is 3 + 4?"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_run(tmp_path_factory.mktemp("talk") / "run")


def in_pool(work: Any, **options: Any) -> Any:
    """The result of ``work(pool)`` in an event loop of its own."""

    async def working() -> Any:
        pool = ModelPool(**options)
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(working())


def loads(talker: Talker) -> Served:
    """In float32, so that the engine's own completions are the same to the last bit."""
    return Served.load(talker.folder, talker.stage, Sampling(max_tokens=8), LIMITS, None, "float32")


def answered(run: Path, settings: Settings, problem: Problem | None = None, stage: str = "zero") -> Answer:
    talker = next(one for one in talkers(run) if one.stage == stage)
    answer = Answer(talker, settings)
    question = QUESTION if problem is None else problem.prompt

    async def work(pool: ModelPool) -> None:
        await give(answer, pool, [("user", question)], problem, RunTasks({"stages": [{"tasks": {"mul": 1}}]}))

    in_pool(work, load=loads)
    return answer


def test_the_models_are_those_of_finished_stages_inside_the_run(run: Path, tmp_path: Path) -> None:
    assert [(one.stage, one.title) for one in talkers(run)] == [
        ("base", "base (base)"),
        ("zero", "zero (R1-Zero)"),
        ("student", "student (student)"),
    ]
    main = main_result(talkers(run))
    assert main is not None and main.stage == "zero"  # a student is chosen only by name
    other = talking_run(tmp_path / "other")
    model = other / "stages" / "zero" / "model"
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    (other / "stages" / "base" / "stage.json").write_text("{")
    assert [one.stage for one in talkers(other)] == ["student"]
    assert talkers(tmp_path) == [] and main_result([]) is None


def test_an_answer_is_what_the_engine_samples_with_its_seed(run: Path) -> None:
    for seed, temperature in ((5, 0.8), (6, 0.0)):
        answer = answered(run, Settings(seed, temperature, 12))
        served = loads(answer.talker)
        prompt = served.chat.turn_ids([("user", QUESTION)])
        sampling = Sampling(temperature=temperature, max_tokens=12)
        (expected,) = served.engine.generate([prompt], sampling, [seed])[0]
        assert answer.text == served.tokenizer.decode(expected.token_ids)
        assert answer.tokens == len(expected.token_ids) == 12 and answer.state == "cut off"
        assert answer.completion("length").token_ids.tolist() == expected.token_ids.tolist()
        assert answer.is_over and answer.seconds >= answer.thinking_seconds == 0.0


def test_what_is_wrong_with_a_question_is_said_in_its_answer(run: Path) -> None:
    for settings, fault in (
        (Settings(1, 2.5, 4), "temperature"),
        (Settings(2**65, 1.0, 4), "seed"),
        (Settings(1, 1.0, 0), "max_tokens"),
    ):
        answer = answered(run, settings)
        assert answer.state == "failed" and fault in answer.error and not answer.text
    with pytest.raises(ApiError, match="surrogate"):
        body_of([("user", "\ud800")], Settings(1))
    long = Problem("mul/1", "mul", "1 + " * 5000, "5")
    assert "context" in answered(run, Settings(1, 1.0, 4), long).error


def test_a_damaged_model_is_named_and_others_answer(tmp_path: Path) -> None:
    run = talking_run(tmp_path / "run")
    weights = run / "stages" / "zero" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    found = {one.stage: Answer(one, Settings(1, 1.0, 3)) for one in talkers(run)}

    async def work(pool: ModelPool) -> None:
        tasks = RunTasks({})
        for answer in found.values():
            await give(answer, pool, [("user", QUESTION)], None, tasks)
        assert [one.stage for one in pool.loaded] == ["base", "student"]  # a failed one keeps no place

    in_pool(work)
    assert found["zero"].state == "failed" and str(weights) in found["zero"].error
    assert found["base"].state == found["student"].state == "cut off"


def test_a_stopped_answer_frees_its_place_in_the_batch(run: Path) -> None:
    talker = talkers(run)[0]
    answer = Answer(talker, Settings(1, 1.0, 100))

    async def work(pool: ModelPool) -> None:
        async with pool.using(talker) as loaded:
            running = asyncio.ensure_future(give(answer, pool, [("user", QUESTION)], None, RunTasks({})))
            while not answer.tokens:
                await asyncio.sleep(0.005)
            assert loaded.batcher.running == pool.answers == 1
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            while pool.answers:
                await asyncio.sleep(0.005)
            before = answer.tokens
            await asyncio.sleep(0.05)
            assert answer.tokens == before

    in_pool(work, load=slowly)
    assert answer.state == "stopped" and answer.tokens < 100 and answer.is_over


@pytest.mark.parametrize("method", ["join", "step"])
def test_an_engine_that_raises_fails_its_answers_and_the_next_is_given(run: Path, method: str) -> None:
    talker = talkers(run)[0]
    found = [Answer(talker, Settings(1, 1.0, 3)) for _ in range(3)]

    async def work(pool: ModelPool) -> None:
        first = [give(answer, pool, [("user", QUESTION)], None, RunTasks({})) for answer in found[:2]]
        await asyncio.gather(*first)
        await give(found[2], pool, [("user", QUESTION)], None, RunTasks({}))

    in_pool(work, load=lambda one: broken_once(one, method))
    failed = [answer for answer in found if answer.state == "failed"]
    assert failed and found[2].state == "cut off" and found[2].tokens == 3
    assert all(answer.error == "the engine failed: ValueError: out of order" for answer in failed)


def test_the_model_used_longest_ago_makes_place_but_never_one_that_answers(run: Path) -> None:
    base, zero, student = talkers(run)

    async def work(pool: ModelPool) -> None:
        async with pool.using(base) as first:
            async with pool.using(zero):
                with pytest.raises(ApiError, match="2 models are answering"):
                    async with pool.using(student):
                        pass
            async with pool.using(student):
                assert pool.loaded == [base, student] and first.batcher.alive
            async with pool.using(base) as again:
                assert again is first
        async with pool.using(zero):
            assert pool.loaded == [base, zero]

    in_pool(work, most=2)


def test_a_model_is_loaded_once_for_all_who_wait_and_again_when_it_was_made_again(
    run: Path, tmp_path: Path
) -> None:
    calls: list[str] = []

    def counted(talker: Talker) -> Served:
        calls.append(talker.stage)
        return load_served(talker)

    async def work(pool: ModelPool) -> None:
        async def use(talker: Talker) -> object:
            async with pool.using(talker) as loaded:
                return loaded

        talker = talkers(run)[0]
        waiting = asyncio.ensure_future(use(talker))
        await asyncio.sleep(0)
        waiting.cancel()  # the loading goes on for others
        found = await asyncio.gather(*(use(talker) for _ in range(3)))
        assert len(set(map(id, found))) == 1 and calls == ["base"]
        remade = Talker(talker.stage, talker.kind, talker.folder, talker.finished + 1)
        assert await use(remade) is not found[0] and calls == ["base", "base"]

    in_pool(work, load=counted)


def test_the_verdict_is_the_tasks_own_check() -> None:
    tasks = RunTasks(
        {"stages": [{"tasks": {"mul": 1, "own.py:Chess": 1}}, "odd", {"prompts": {"general": 1}}]}
    )
    assert list(tasks.tasks) == ["mul", "general"]
    assert "own.py" in tasks.troubles["own.py:Chess"]
    problem = tasks.any("mul", "held_out", random.Random(1))
    assert problem.answer is not None

    def judged(one: Problem, answer: str | None) -> Judged:
        return asyncio.run(tasks.judge(rollout_of(one, answer)))

    assert judged(problem, problem.answer).outcome == "correct"
    wrong = judged(problem, "no number")
    (task, _) = load_tasks({"mul": 1})["mul"]
    assert (wrong.outcome, wrong.reason) == ("wrong", task.check(problem, "no number").reason)
    assert judged(problem, None).outcome == "wrong" and "template" in judged(problem, None).reason
    general = tasks.any("general", "train", random.Random(1))
    assert judged(general, "x").outcome == "unverifiable"
    with pytest.raises(R1kitError):
        RunTasks({"stages": [{"tasks": {"d": {"kind": "dataset", "train": "/no/file.jsonl"}}}]}).some(
            "d", "train"
        )


def rollout_of(problem: Problem, answer: str | None) -> Any:
    """A rollout as the check sees it."""
    return type("Parsed", (), {"problem": problem, "answer": answer})()


def test_a_check_that_fails_says_nothing_about_the_answer() -> None:
    class Broken:
        name = "mul"

        def problems(self, split: str) -> list[Problem]:
            return []

        def check(self, problem: Problem, answer: str | None) -> Any:
            raise RuntimeError("no checker")

    tasks = RunTasks({})
    tasks.tasks["mul"] = Broken()
    found = asyncio.run(tasks.judge(rollout_of(Problem("mul/1", "mul", "?", "1"), "1")))
    assert (found.outcome, found.reason) == ("failed", "RuntimeError: no checker")
    with pytest.raises(R1kitError, match="no problems"):
        tasks.any("mul", "train", random.Random(0))


def test_a_problem_is_asked_and_judged(run: Path) -> None:
    problem = RunTasks({"stages": [{"tasks": {"mul": 1}}]}).any("mul", "held_out", random.Random(3))
    answer = answered(run, Settings(4, 1.0, 6), problem)
    assert answer.judged is not None and answer.judged.outcome == "wrong"
    assert answer.judged.answer is None and answer.judged.truth == problem.answer


def test_problems_are_found_by_a_text_in_them() -> None:
    tasks = RunTasks({"stages": [{"tasks": {"mul": 1}}]})
    some = tasks.some("mul", "held_out")
    needle = some[5].prompt[3:12].upper()
    found = tasks.some("mul", "held_out", needle)
    assert some[5].id in {one.id for one in found}
    assert all(needle.lower() in (one.prompt + one.id).lower() for one in found)
    assert tasks.some("mul", "held_out", "no such text at all") == []


def exchange(text: str) -> Exchange:
    talker = Talker("zero", "r1_zero", Path("model"), 1.0)
    answer = Answer(talker, Settings(7, 0.5, 9), "done", f"thought {text}", text, 3, 8)
    answer.judged = Judged("wrong", text, "8", "7")
    return Exchange(text, Problem(f"mul/{text}", "mul", text, "7"), False, [answer])


def test_what_is_shared_as_json_is_whole() -> None:
    found = json.loads(as_json("mini", [exchange(HOSTILE)]))
    (one,) = found["exchanges"]
    assert found["run"] == "mini" and one["question"] == HOSTILE and one["problem"]["task"] == "mul"
    (answer,) = one["answers"]
    assert (answer["model"], answer["seed"], answer["temperature"], answer["max_tokens"]) == (
        "zero",
        7,
        0.5,
        9,
    )
    assert (answer["text"], answer["thinking"], answer["tokens"]) == (HOSTILE, f"thought {HOSTILE}", 8)
    assert answer["verdict"] == {"outcome": "wrong", "reason": HOSTILE, "answer": "8", "truth": "7"}


@pytest.mark.parametrize(
    "text", [HOSTILE, "```\n# owned\n```", "````\n[x](javascript:alert(1))", "a\r\n\x1b[31mb"]
)
def test_in_shared_markdown_a_text_of_a_model_stays_within_its_fence(text: str) -> None:
    outside, fence = [], ""
    for line in as_markdown("mini", [exchange(text)]).decode().split("\n"):
        opened = re.fullmatch(r"(`{3,})(text)?", line)
        if not fence and opened and opened[2]:
            fence = opened[1]
        elif fence and opened and not opened[2] and len(opened[1]) >= len(fence):
            fence = ""
        elif not fence:
            outside.append(line)
    assert not fence and any("zero" in line for line in outside)
    bare = re.sub(r"\\.", "", "\n".join(outside))
    assert not re.search(r"[<>\[\]`\x1b]", bare)
    assert all(
        line.startswith(("#", "Problem ", "Thinking:", "Answer:", "Verdict:", "done"))
        for line in outside
        if line
    )


def test_a_run_that_trains_gets_its_models_as_they_finish(tmp_path: Path) -> None:
    run = talking_run(tmp_path / "run")
    before = talkers(run)
    finish_stage(run, "later", "sft", 2000.0)
    assert talkers(run)[: len(before)] == before
    assert [one.stage for one in talkers(run)] == [*STAGES, "later"]
