"""Stages take what they need by name from the recipe: tasks, rewriters, general prompts, documents."""

import ast
import io
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scripted import context, endpoint
from small_world import model_directory, tokenizer

from r1kit.chat import Chat
from r1kit.config import ConfigError, R1kitError
from r1kit.data.corpus import load_generators
from r1kit.data.rewriters import REWRITE_PROMPT, ModelRewriter, read_rewritten, write_request
from r1kit.log import Log
from r1kit.stages.cold_start import ColdStart
from r1kit.stages.distill import Distill, with_general
from r1kit.stages.general import general_rows, load_general
from r1kit.stages.pretrain import Pretrain
from r1kit.stages.rejection_sampling import RejectionSampling
from r1kit.stages.sampling import correct
from r1kit.stages.sft import training_row
from r1kit.stages.stage import Context
from r1kit.tasks import load_tasks
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.types import Completion, Problem, Rollout

STAGES = Path(__file__).parents[1] / "src/r1kit/stages"
STILL_CLOSED = {"alignment_rl.py", "evaluate.py", "reward_models.py"}


def test_no_stage_knows_the_miniature() -> None:
    for file in STAGES.glob("*.py"):
        if file.name in STILL_CLOSED:
            continue
        text = file.read_text(encoding="utf-8")
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        assert "miniature" not in "".join(line for line in text.splitlines() if "import" in line), file.name
        assert not names & {"Procedural", "General", "KINDS", "REASONING"}, file.name


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def rows_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


@pytest.fixture
def sums(tmp_path: Path) -> dict[str, Any]:
    """A task of sums: "n+1?" with n from 10 to 29, of which the tests' policy solves all but 13."""
    rows = [{"prompt": f"{n}+1?", "answer": str(n + 1)} for n in range(10, 30)]
    held_out = write(tmp_path / "held_out.jsonl", [{"prompt": "1+2?", "answer": "3"}])
    return {"sums": {"kind": "dataset", "train": write(tmp_path / "train.jsonl", rows), "held_out": held_out}}


def solve(prompt: str, index: int) -> str:
    number = int(prompt.partition("+")[0])
    return f"<think>I add one to {number} and see.</think>{number + (0 if number == 13 else 1)}"


def again(ctx: Context) -> Context:
    """The context of a further attempt in the same folder."""
    return replace(ctx, log=Log(ctx.run, "stage", Console(file=io.StringIO())))


def cold_start(ctx: Context, sums: dict[str, Any], **options: Any) -> list[dict[str, str]]:
    """The rows that a cold start from twenty solved sums trains on."""
    stage = ColdStart(
        init="@base", rollouts_from=["@base"], tasks=sums, problems=200, samples=1, training={"epochs": 0.05},
        learner={"context": 128}, **options,
    )  # fmt: skip
    stage.run(ctx)
    return rows_of(ctx.out)


def test_the_default_rewriter_keeps_readable_prose(tmp_path: Path, base: Path, sums: dict[str, Any]) -> None:
    rows = cold_start(context(tmp_path, base, solve), sums)
    solved = {n for n in range(10, 30) if n != 13}
    assert {row["prompt"]: row["completion"] for row in rows} == {
        f"{n}+1?": f"<think>I add one to {n} and see.</think>The answer is \\boxed{{{n + 1}}}."
        for n in solved
    }


REWRITER = """
def shorten(rollouts):
    made = []
    for r in rollouts:
        number = int(r.problem.prompt.partition("+")[0])
        wrong, tagged, dropped = number == 10, number == 11, number == 12
        summary = "77" if wrong else "</think>12" if tagged else r.answer
        made.append(None if dropped else (f"One more than {number}.", summary))
    return made

def too_few(rollouts):
    return []

def texts(rollouts):
    return ["a text"] * len(rollouts)

constant = 3
"""


def test_a_rewriter_of_ones_own_is_checked_again_by_the_task(
    tmp_path: Path, base: Path, sums: dict[str, Any]
) -> None:
    (tmp_path / "mine.py").write_text(REWRITER)
    rows = cold_start(context(tmp_path, base, solve), sums, rewriter=f"{tmp_path}/mine.py:shorten")
    assert {row["prompt"]: row["completion"] for row in rows} == {
        f"{n}+1?": f"<think>One more than {n}.</think>{n + 1}" for n in range(14, 30)
    }


def test_what_a_rewriter_returns_is_checked(tmp_path: Path, base: Path, sums: dict[str, Any]) -> None:
    (tmp_path / "mine.py").write_text(REWRITER)
    ctx = context(tmp_path, base, solve)
    with pytest.raises(R1kitError, match=r"too_few: 0 results for 19 rollouts; return one for each"):
        cold_start(ctx, sums, rewriter=f"{tmp_path}/mine.py:too_few")
    with pytest.raises(R1kitError, match=r"a result is \(thinking, summary\) or None, not str: 'a text'"):
        cold_start(ctx, sums, rewriter=f"{tmp_path}/mine.py:texts")


@pytest.mark.parametrize(
    ("rewriter", "said"),
    [
        ("pros", "unknown rule 'pros': did you mean 'prose'"),
        ("@sft", r"unknown rule '@sft'.* a model is \{model: \"@sft\"\}"),
        ({"endpoint": "http://x/v1"}, "rewriter: model: this key is needed"),
        (
            {"model": "m", "endpont": "http://x/v1"},
            "rewriter: unknown key 'endpont': did you mean 'endpoint'",
        ),
        (
            {"model": "m", "prompt": "Write it again: {thinking}"},
            r"must contain \{question\} and \{thinking\}",
        ),
        ("no_such_file.py:f", "no_such_file.py: no such file"),
    ],
)
def test_a_rewriter_that_is_not_there_is_an_error_of_the_recipe(rewriter: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ColdStart.parse({"tasks": {"chain": 1}, "rewriter": rewriter}, "recipe")


def rewritten(prompt: str) -> str:
    """What a good rewriter replies to REWRITE_PROMPT about a sum."""
    number = int(prompt.partition("Question:\n")[2].partition("+")[0])
    return f"### Thinking\nI go on from {number}.\n### Summary\nIt is \\boxed{{{number + 1}}}."


def reply(prompt: str) -> str:
    """Good replies, but for 10 (wrong), 11 (another form), 12 (unreadable), 14 (only a thought)."""
    text = rewritten(prompt)
    return (
        text.replace("\\boxed{11}", "\\boxed{12}")
        .replace("### Thinking\nI go on from 11", "Sure: I go on from 11")
        .replace("I go on from 12.", "我从十二开始。")
        .replace("### Summary\nIt is \\boxed{15}.", "### Summary\n")
    )


GOOD = {f"{n}+1?": f"<think>I go on from {n}.</think>It is \\boxed{{{n + 1}}}." for n in range(15, 30)}


@pytest.mark.parametrize("thinks", [False, True])
def test_a_model_of_the_run_rewrites(tmp_path: Path, base: Path, sums: dict[str, Any], thinks: bool) -> None:
    asked: list[str] = []

    def script(prompt: str, index: int) -> str:
        if "Draft:" not in prompt:
            return solve(prompt, index)
        asked.append(prompt)
        return f"<think>How do I put it?</think>{reply(prompt)}" if thinks else reply(prompt)

    model = model_directory(tmp_path / "long", max_positions=4096)
    ctx = replace(context(tmp_path, base, script), outputs={"base": base, "writer": model})
    rows = cold_start(ctx, sums, rewriter={"model": "@writer", "max_tokens": 512})
    assert {row["prompt"]: row["completion"] for row in rows} == GOOD
    assert len(asked) == 19 and all(
        "I add one to" in prompt and "{thinking}" not in prompt for prompt in asked
    )
    # An interrupted stage has the replies on the disk.
    asked.clear()
    assert (
        cold_start(again(ctx), sums, rewriter={"model": "@writer", "max_tokens": 512}) == rows and not asked
    )


def test_a_request_that_does_not_fit_is_left_out_and_counted(
    tmp_path: Path, base: Path, sums: dict[str, Any]
) -> None:
    ctx = context(tmp_path, base, solve)
    assert cold_start(ctx, sums, rewriter={"model": "@base", "max_tokens": 400}, allow_empty=True) == []
    said = " ".join(ctx.log.console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "19 of 19 requests left out: the request to @base and a reply of max_tokens 400" in said


def test_an_endpoint_rewrites_and_its_replies_are_kept(
    tmp_path: Path, base: Path, sums: dict[str, Any]
) -> None:
    def replies(request: dict[str, Any]) -> str:
        return f"<think>hm</think>{reply(request['messages'][0]['content'])}"

    ctx = context(tmp_path, base, solve)
    with endpoint(replies) as (url, seen):
        rewriter = {"endpoint": url, "model": "writer", "temperature": 0.3, "max_tokens": 99}
        rows = cold_start(ctx, sums, rewriter=rewriter)
        assert {row["prompt"]: row["completion"] for row in rows} == GOOD
        assert len(seen) == 19 and len({body["seed"] for _, body in seen}) == 19
        assert all(
            (body["model"], body["temperature"], body["max_tokens"]) == ("writer", 0.3, 99)
            for _, body in seen
        )
        assert cold_start(again(ctx), sums, rewriter=rewriter) == rows and len(seen) == 19
        cold_start(again(ctx), sums, rewriter={**rewriter, "temperature": 0.4})
        assert len(seen) == 38  # another question


def test_the_prompt_of_ones_own_gets_question_thinking_and_answer() -> None:
    problem = Problem("a", "t", "How many {thinking}?", "3")
    one = Rollout(
        problem, 0, np.zeros(1), Completion(np.zeros(1), np.zeros(1), "stop"), "", "two {answer}", "3"
    )
    config = ModelRewriter(model="m", prompt="Q {question} T {thinking} A {answer}")
    assert write_request(config, one) == "Q How many {thinking}? T two {answer} A 3"
    assert all(name in REWRITE_PROMPT for name in ("{question}", "{thinking}", "{answer}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("### Thinking\nI see.\n### Summary\nIt is 3.", ("I see.", "It is 3.")),
        ("Sure.\n## thinking:\n I see. \nSo.\n\n## summary:\nIt is\n3.\n", ("I see. \nSo.", "It is\n3.")),
        ("### Thinking\nI see.\n### Summary\n", None),
        ("### Summary\nIt is 3.\n### Thinking\nI see.", None),
        ("### Thinking\n我看。\n### Summary\nIt is 3.", None),
        ("", None),
    ],
)
def test_replies_are_read_in_the_form_that_the_prompt_asks_for(
    text: str, expected: tuple[str, str] | None
) -> None:
    assert read_rewritten(text, "en", 0.99) == expected


def test_equal_problems_of_two_sources_are_judged_apart() -> None:
    tasks = load_tasks({"chain": {"size": 20}})
    problem = tasks["chain"][0].problems("train")[0]
    done = Completion(np.zeros(1), np.zeros(1), "stop")
    right, wrong = (
        Rollout(problem, 0, np.zeros(1), done, "", "", answer) for answer in (str(problem.answer), "no")
    )
    assert correct([[right], [wrong], [right]], tasks) == [[right], [], [right]]


def test_general_prompts_come_from_a_file_in_the_share_that_is_configured(
    tmp_path: Path, base: Path, sums: dict[str, Any]
) -> None:
    rows = [{"prompt": f"Say {n}", "response": f"{n}!"} for n in range(40)]
    file = write(tmp_path / "talk.jsonl", [*rows, {"prompt": "Say nothing"}])
    found = cold_start(context(tmp_path, base, solve), sums, general=file, general_share=0.24)
    talk = {row["prompt"]: row["completion"] for row in found if row["prompt"].startswith("Say")}
    assert len(found) - len(talk) == 19 and len(talk) == 6  # 6 of 25
    assert all(text == f"<think></think>{prompt[4:]}!" for prompt, text in talk.items())


def test_without_general_prompts_there_are_none_and_the_log_says_so(
    tmp_path: Path, base: Path, sums: dict[str, Any]
) -> None:
    ctx = context(tmp_path, base, solve)
    RejectionSampling(init="@base", tasks=sums, problems=200, samples=1, general_share=0.5).run(ctx)
    assert len(rows_of(ctx.out)) == 19
    said = " ".join(ctx.log.console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "19 kept; 0 general rows (no general: is given)" in said


def test_general_rows_are_shared_out_by_weight(tmp_path: Path) -> None:
    spec = {
        name: {
            "kind": "prompts",
            "weight": weight,
            "train": write(
                tmp_path / f"{name}.jsonl", [{"prompt": f"{name}{n}", "response": "x"} for n in range(99)]
            ),
        }
        for name, weight in (("a", 3), ("b", 1))
    }
    rows = general_rows(load_general(spec), 80, 0.2, 1)
    assert [sum(prompt.startswith(name) for prompt, _ in rows) for name in "ab"] == [15, 5]
    few = {
        "c": {
            "kind": "prompts",
            "train": write(tmp_path / "c.jsonl", [{"prompt": f"c{n}"} for n in range(9)]),
        }
    }
    with pytest.raises(
        ConfigError, match="no row of task 'c' has a written answer; give its rows a column response"
    ):
        general_rows(load_general(few), 80, 0.2, 1)
    with pytest.raises(ConfigError, match="task 'chain' has no written answers to learn from"):
        general_rows(load_general("chain"), 80, 0.2, 1)
    with pytest.raises(ConfigError, match="did you mean 'general'"):
        ColdStart.parse({"tasks": {"chain": 1}, "general": "generall"}, "recipe")


@pytest.mark.parametrize("kind", [ColdStart, RejectionSampling])
def test_a_stage_that_samples_problems_has_no_tasks_of_its_own(kind: type[ColdStart]) -> None:
    with pytest.raises(ConfigError, match=r"recipe: tasks: name the tasks .*tasks: \{gsm8k: \{kind: dataset"):
        kind.parse({}, "recipe")


def test_a_student_may_learn_from_general_prompts_alone(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ConfigError, match=r"name what the teacher answers: tasks: .*, general: .*, or both"):
        Distill.parse({}, "recipe")
    long = "word " * 400
    file = write(tmp_path / "talk.jsonl", [{"prompt": f"Say {n}"} for n in range(20)] + [{"prompt": long}])
    asked: list[str] = []

    def script(prompt: str, index: int) -> str:
        asked.append(prompt)
        return "<think>a</think>hello" if "7" in prompt else "hello"

    ctx = context(tmp_path, base, script)
    Distill(student="@base", teacher="@base", general=file, samples=1, training={"epochs": 0.1}).run(ctx)
    found = {row["prompt"] for row in rows_of(ctx.out)}
    assert found and found <= {"Say 7", "Say 17"} and len(asked) > 10 and long.strip() not in asked
    alone = with_general({}, load_general(file))
    assert [weight for _, weight in alone.values()] == [1.0]


def test_a_file_that_another_stage_wrote_may_hold_the_general_prompts(tmp_path: Path, base: Path) -> None:
    write(base / "data.jsonl", [{"prompt": f"Say {n}"} for n in range(20)])
    ctx = context(tmp_path, base, lambda prompt, index: "<think>a</think>hello")
    stage = Distill(student="@base", teacher="@base", general="@base/data.jsonl", training={"epochs": 0.1})
    assert stage.inputs() == ["base"]
    stage.run(ctx)
    assert len(rows_of(ctx.out)) > 10


@pytest.mark.parametrize("opening", ["", "<think>\n", "<think>"])
def test_a_response_is_trained_on_behind_the_opening_that_its_prompt_ends_with(opening: str) -> None:
    chat = Chat(tokenizer(), "chat", opening)
    problem = Problem("", "", "1+1?", None)
    sampled = f"{opening}I add.</think>2"  # as a rollout's text is
    row = training_row(chat, "1+1?", sampled)
    prompt = chat.prompt_ids(problem)
    assert row.token_ids[: len(prompt)].tolist() == prompt.tolist()
    assert row.token_ids[len(prompt) :].tolist() == chat.response_ids("I add.</think>2").tolist()
    assert row.mask.tolist() == [False] * len(prompt) + [True] * (len(row.token_ids) - len(prompt))
    # A rewritten response has the tag without the line break.
    tagged = training_row(chat, "1+1?", "<think>I add.</think>2")
    if opening:
        assert tagged.token_ids.tolist() == row.token_ids.tolist()
    # One without the opening is trained on as a whole, behind a prompt without it.
    bare = training_row(chat, "1+1?", "2")
    start = chat.prompt_ids(problem, opening="")
    assert bare.token_ids.tolist() == [*start.tolist(), *chat.response_ids("2").tolist()]


GENERATOR = """
def documents(seed, word="a"):
    number = 0
    while True:
        yield f"{word} {seed} {number}"
        number += 1
"""


def test_documents_are_generated_by_name_or_by_code_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GENERATOR)
    mine = f"{tmp_path}/mine.py:documents"
    first, own = load_generators(
        {"miniature": {"weight": 0.2, "drills": 0.9}, mine: {"weight": 3, "word": "b"}}
    )
    assert (first.weight, own.weight) == (0.2, 3.0)
    assert list(islice(own.documents(5), 2)) == ["b 5 0", "b 5 1"]
    assert list(islice(first.documents(5), 20)) == list(islice(documents(5, CorpusMix(drills=0.9)), 20))
    with pytest.raises(
        ConfigError, match=r"generated\.miniature: unknown key 'drill': did you mean 'drills'"
    ):
        load_generators({"miniature": {"drill": 0.5}})
    with pytest.raises(ConfigError, match="unknown generator 'minature': did you mean 'miniature'"):
        load_generators({"minature": 1.0})
    with pytest.raises(ConfigError, match=r"generated\.miniature: the weight must be a number from 0 up"):
        load_generators({"miniature": -1})
    with pytest.raises(ConfigError, match=r"recipe: corpus: name what to read: files: .*generated: "):
        Pretrain.parse({"model": {"preset": "nano"}, "tokens": 1}, "recipe")


def test_pretraining_reads_generated_documents_of_ones_own(tmp_path: Path, base: Path) -> None:
    (tmp_path / "mine.py").write_text(GENERATOR)
    ctx = context(tmp_path, base)
    corpus = {"generated": {f"{tmp_path}/mine.py:documents": {"word": "zebra"}}}
    Pretrain(
        model={"preset": "nano"}, tokens=2000, tokenizer=300, corpus=corpus,
        training={"batch_tokens": 500}, learner={"context": 64, "lines": 4},
    ).run(ctx)  # fmt: skip
    assert "zebra" in " ".join(json.loads((ctx.out / "model/tokenizer.json").read_text())["model"]["vocab"])
