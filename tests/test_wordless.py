"""Text without words ("3 + 4 = 7") is of no language: neutral for figures, rewards and filters."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scripted import Script, context
from small_world import model_directory

from r1kit.config import R1kitError
from r1kit.data.curation import readable, why_unreadable
from r1kit.language import language_share
from r1kit.log import Log, last_question
from r1kit.rewards import load_rewards
from r1kit.stages.distill import Distill
from r1kit.stages.model_figures import summarise
from r1kit.stages.rejection_sampling import RejectionSampling
from r1kit.stages.sft import SFT
from r1kit.tasks import load_tasks
from r1kit.train.rollouts import Phase, describe
from r1kit.types import Completion, Problem, Rollout

WORDLESS = ("3 + 4 = 7", "12*3=36, 36-4=32", "$\\frac{1}{2}$", "x = 7", "2 > 1 ✓")
TASKS = {"chain": {"size": 200}}
BY_PROMPT = {p.prompt: p for p in load_tasks(TASKS)["chain"][0].problems("train")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("base") / "model", max_positions=512).parent


def rollout(thinking: str | None, language: str = "en", index: int = 0) -> Rollout:
    problem = Problem("p", "chain", "1+1?", "2", language)
    done = Completion(np.array([5]), np.array([-1.0]), "stop")
    return Rollout(problem, index, np.array([1]), done, "", thinking, None if thinking is None else "2")


@pytest.mark.parametrize("text", [*WORDLESS, "", " "])
@pytest.mark.parametrize("language", ["en", "zh", "ru"])
def test_a_text_without_words_has_no_language_share(text: str, language: str) -> None:
    assert language_share(text, language) is None


def test_a_text_with_words_of_another_language_has_the_share_0() -> None:
    assert language_share("我们相加", "en") == 0.0 and language_share("So we add", "zh") == 0.0
    assert language_share("3 + 4 = 7 so", "en") == 1.0


def test_the_language_reward_is_neutral_for_thinking_without_words() -> None:
    [reward] = load_rewards({"language": 1.0}, {})
    thoughts = [*WORDLESS, "So we add", "我们相加", "We add 我们", "", None, " \n"]
    values = reward.function([rollout(thought) for thought in thoughts])
    assert values == pytest.approx([1.0] * len(WORDLESS) + [1.0, 0.0, 2 / 3, 0.0, 0.0, 0.0])


def test_thinking_without_words_is_readable_and_every_refusal_has_a_reason() -> None:
    assert all(readable(thinking, language, 0.99) for thinking in WORDLESS for language in ("en", "zh"))
    assert why_unreadable("", "en", 0.9) == why_unreadable("\u200b", "en", 0.9) == "no thinking"
    assert why_unreadable("3+4 ```7```", "en", 0.9) == "a code block"
    assert why_unreadable("3 + 4 = 七", "en", 0.9) == "words of another language than en"
    loop = "1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 = 36\n"
    assert why_unreadable(loop * 5, "en", 0.9) == "repetitions"
    assert why_unreadable(" ".join(map(str, range(400))), "en", 0.9) == "a paragraph of more than 300 words"
    assert why_unreadable("So we add 3 and 4.", "en", 0.9) is None


def test_the_log_has_a_gap_where_no_thinking_has_words(tmp_path: Path) -> None:
    def language_of(*thoughts: str | None) -> float | None:
        return describe(Phase([[rollout(t, index=i) for i, t in enumerate(thoughts)]], [], 1, 1, 0.0)).get(
            "lang/target_ratio"
        )

    assert math.isnan(language_of(*WORDLESS) or 0.0)
    assert language_of("3 + 4 = 7", "So we add", "我们相加") == 0.5 and language_of(None) is None
    file = io.StringIO()
    with Log(tmp_path, "zero", Console(file=file, width=200)) as log:
        log.step(0, 2, {"lang/target_ratio": math.nan, "completions/mean_length": 7.0})
    assert "language -" in file.getvalue() and "length 7.000" in file.getvalue()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["lang/target_ratio"] is None


def test_an_evaluation_of_thinking_without_words_has_no_language_figure() -> None:
    tasks = {name: task for name, (task, _) in load_tasks(TASKS).items()}
    problem = tasks["chain"].problems("held_out")[0]

    def figures(thinking: str) -> float | None:
        done = Completion(np.array([5]), np.array([-1.0]), "stop")
        return summarise(
            [[Rollout(problem, 0, np.array([1]), done, "", thinking, str(problem.answer))]], tasks
        ).overall.language

    assert figures("3 + 4 = 7") is None
    assert figures("So we add" if problem.language == "en" else "我们相加") == 1.0


def sampled(tmp_path: Path, base: Path, script: Script, **keys: object) -> tuple[list[dict[str, str]], str]:
    """What rejection sampling keeps of scripted answers, and its log."""
    ctx = context(tmp_path, base, script)
    stage = RejectionSampling.parse({"init": "@base", "tasks": TASKS, "problems": 10, **keys}, "recipe")
    stage.run(ctx)
    lines = (ctx.out / "data.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], ctx.log.console.file.getvalue()  # type: ignore[attr-defined]


def test_rejection_sampling_keeps_thoughts_without_words(tmp_path: Path, base: Path) -> None:
    def script(prompt: str, index: int) -> str:
        return f"<think>3 + 4 = 7</think><answer>{BY_PROMPT[prompt].answer}</answer>"

    rows, log = sampled(tmp_path, base, script, samples=1)
    assert len(rows) == len({row["prompt"] for row in rows}) >= 9 and "warning" not in log


def test_a_stage_that_keeps_nothing_counts_the_losses_of_every_filter(tmp_path: Path, base: Path) -> None:
    def script(prompt: str, index: int) -> str:
        problem = BY_PROMPT[prompt]
        other = "我们相加" if problem.language == "en" else "So we add them"
        right = f"<answer>{problem.answer}</answer>"
        return (
            f"<think>{other}</think>{right}",
            f"<think>```7```</think>{right}",
            "<think>a</think>-77",
            "x",
        )[index]

    rows, log = sampled(tmp_path, base, script, samples=4)
    count = len({p for p in BY_PROMPT if p}) and int(log.split(" sampled")[0].split()[-1]) // 4
    assert rows == [] and f"{2 * count} correct, 0 kept" in log
    languages = sum(
        int(part.split()[0]) for part in log.split("left out: ")[1].split(", ") if "language" in part
    )
    assert languages == count
    assert f"{count} a code block" in log and f"{count} wrong" in log
    assert f"{count} not in the format" in log
    assert "warning: no sampled row is kept; lower purity" in log


def test_a_stage_that_keeps_some_says_what_it_left_out(tmp_path: Path, base: Path) -> None:
    def script(prompt: str, index: int) -> str:
        return f"<think>{index} + 4 = 7</think><answer>{BY_PROMPT[prompt].answer}</answer>"

    rows, log = sampled(tmp_path, base, script, samples=4, keep=1)
    assert f"left out: {3 * len(rows)} the same text, or more than keep a problem" in log


def test_a_training_without_rows_stops_unless_the_recipe_allows_it(tmp_path: Path, base: Path) -> None:
    (base / "data.jsonl").write_text("")
    for place, stage in enumerate(("sft", "distill")):
        keys = {"init": "@base", "data": ["@base/data.jsonl"]}
        if stage == "distill":
            keys = {"student": "@base", "teacher": "@base", "tasks": TASKS, "problems": 4}
        kind = SFT if stage == "sft" else Distill
        folder = tmp_path / stage
        folder.mkdir()
        ctx = context(folder, base, lambda prompt, index: "no idea")
        with pytest.raises(R1kitError, match="has no rows to train on"):
            kind.parse(keys, "recipe").run(ctx)
        kind.parse({**keys, "allow_empty": True}, "recipe").run(ctx)
        assert (ctx.out / "model/config.json").is_file(), place


def test_the_console_shows_the_question_and_not_the_examples_before_it(tmp_path: Path) -> None:
    shown = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+3?"},
    ]
    assert last_question(shown) == "2+3?" and last_question("2+3?") == "2+3?"
    baked = "\n".join(f"Q: {n}+1? A: {n + 1}" for n in range(30)) + "\nQ: 2+3?"
    said = last_question(baked)
    assert said.endswith("Q: 2+3?") and said.startswith("[23 lines before]") and "Q: 5+1?" not in said
    file = io.StringIO()
    with Log(tmp_path, "zero", Console(file=file, width=200), show_rollouts=2) as log:
        rows = [{"prompt": baked, "text": "A: 5", "reward": 1.0}, {"prompt": shown, "text": "5"}]
        kept = log.rollouts(0, rows)
    assert "Q: 2+3?" in file.getvalue() and "Q: 5+1?" not in file.getvalue()
    assert "1+1?" not in file.getvalue() and "A: 5" in file.getvalue()
    assert [json.loads(line)["prompt"] for line in kept.read_text().splitlines()] == [baked, shown]
