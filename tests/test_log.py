"""The log: one row per step, whatever was interrupted; few lines on a screen that is no terminal."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from r1kit.log import PLAIN_LINES_PER_STAGE, Log, duration, prompt_text
from r1kit.seeds import derive_seed


def quiet() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def printed(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_each_step_is_one_row_with_its_metrics(tmp_path):
    log = Log(tmp_path, "r1_zero", quiet())
    log.step(0, 2, {"reward/mean": 0.25, "policy/loss": math.nan})
    log.step(1, 2, {"reward/mean": np.float32(0.5), "tokens": 640})  # type: ignore[dict-item]
    first, second = rows(tmp_path)
    assert first["stage"] == "r1_zero" and first["step"] == 0 and first["reward/mean"] == 0.25
    assert first["policy/loss"] is None
    assert second["reward/mean"] == 0.5 and second["tokens"] == 640
    assert second["time"] >= first["time"] > 1.7e9


def test_resumed_stage_replaces_the_steps_it_repeats_and_nothing_else(tmp_path):
    other, first = Log(tmp_path, "pretrain", quiet()), Log(tmp_path, "r1_zero", quiet())
    for step in range(5):
        other.step(step, 5, {"loss": 9.0})
        first.rollouts(step, [{"text": f"first {step}"}])
        first.step(step, 10, {"loss": 1.0})
    again = Log(tmp_path, "r1_zero", quiet())
    for step in range(3, 6):
        again.rollouts(step, [{"text": f"again {step}"}])
        again.step(step, 10, {"loss": 2.0})
    mine = [(row["step"], row["loss"]) for row in rows(tmp_path) if row["stage"] == "r1_zero"]
    assert mine == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert sum(row["stage"] == "pretrain" for row in rows(tmp_path)) == 5
    texts = [
        json.loads(path.read_text())["text"] for path in sorted((tmp_path / "samples/r1_zero").iterdir())
    ]
    assert texts == ["first 0", "first 1", "first 2", "again 3", "again 4", "again 5"]


def test_torn_last_line_is_dropped(tmp_path):
    log = Log(tmp_path, "sft", quiet())
    for step in range(3):
        log.step(step, 9, {"loss": 1.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[:-9])
    Log(tmp_path, "sft", quiet()).step(2, 9, {"loss": 3.0})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(0, 1.0), (1, 1.0), (2, 3.0)]


def test_parts_of_a_stage_count_their_own_steps(tmp_path):
    log = Log(tmp_path, "reward_models", quiet())
    for name in ("helpful", "safety"):
        part = log.part(name)
        part.rollouts(0, [{"text": name}])
        for step in range(2):
            part.step(step, 2, {"loss": 1.0})
    assert [(row["part"], row["step"]) for row in rows(tmp_path)] == [
        ("helpful", 0),
        ("helpful", 1),
        ("safety", 0),
        ("safety", 1),
    ]
    assert (tmp_path / "samples/reward_models/safety/step_000000.jsonl").exists()
    log.forget()
    assert rows(tmp_path) == [] and not (tmp_path / "samples/reward_models").exists()


def test_step_given_twice_is_an_error(tmp_path):
    log = Log(tmp_path, "sft", quiet())
    log.step(1, 9, {})
    with pytest.raises(ValueError, match="step 1 after step 1"):
        log.step(1, 9, {})


@pytest.mark.parametrize("total", [1, 7, 1000])
def test_plain_screen_gets_about_twenty_lines_and_the_last_step(tmp_path, total):
    console = quiet()
    log = Log(tmp_path, "pretrain", console)
    for step in range(total):
        log.step(step, total, {"loss": 3.0, "not/shown": 1.0})
    lines = printed(console).splitlines()
    assert min(total, PLAIN_LINES_PER_STAGE) <= len(lines) <= PLAIN_LINES_PER_STAGE + 1
    assert f"{total}/{total}" in lines[-1] and "took" in lines[-1]
    assert "loss 3.000" in lines[0] and "not/shown" not in lines[0]


def test_terminal_gets_one_line_that_is_redrawn(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Log(tmp_path, "pretrain", console) as log:
        for step in range(50):
            log.step(step, 50, {"loss": 3.0})
    assert printed(console).count("\n") <= 2
    assert "50/50" in printed(console)


def test_rollouts_are_kept_whole_and_shown_on_request(tmp_path):
    console = quiet()
    record = {
        "prompt": "2+2?",
        "text": "<think>[b]四[/b]</think>\n4",
        "reward": 1.0,
        "ids": np.arange(3),
        "finish": "stop",
    }
    path = Log(tmp_path, "r1_zero", console).rollouts(
        12, [record, {"prompt": "x", "text": "never shown"}], show=1
    )
    assert path == tmp_path / "samples/r1_zero/step_000012.jsonl"
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert kept[0] == {**record, "ids": [0, 1, 2]} and len(kept) == 2
    assert "<think>[b]四[/b]</think>" in printed(console) and "never shown" not in printed(console)


def test_rollouts_are_shown_at_few_steps_and_cannot_steer_the_terminal(tmp_path):
    console = quiet()
    log = Log(tmp_path, "r1_zero", console, show_rollouts=1)
    for step in range(120):
        log.rollouts(step, [{"text": f"text {step}\x1b[2J."}, {"text": "second"}])
    shown = [line.split()[1] for line in printed(console).splitlines() if line.strip().startswith("text ")]
    assert [word.split("\\u001b")[0] for word in shown] == ["0", "10", "20", "50", "100"]
    assert "\x1b" not in printed(console) and "second" not in printed(console)


def test_all_turns_of_a_prompt_are_kept_by_role_and_the_last_one_is_shown(tmp_path):
    turns = [{"role": "system", "content": "In French."}, {"role": "user", "content": "2+2?"}]
    console = quiet()
    path = Log(tmp_path, "r1_zero", console).rollouts(0, [{"prompt": turns, "text": "4"}], show=1)
    assert "In French." not in printed(console) and "2+2?" in printed(console)
    assert json.loads(path.read_text())["prompt"] == turns
    assert prompt_text(turns) == "[system] In French.\n[user] 2+2?" and prompt_text("2+2?") == "2+2?"


def test_durations_read_as_people_say_them():
    assert [duration(seconds) for seconds in (0.44, 59.2, 200, 3599.7, 7505)] == [
        "0.4 s",
        "59 s",
        "3 min 20 s",
        "1 h 0 min",
        "2 h 5 min",
    ]


def test_derived_seeds_are_stable_over_processes_and_keep_parts_apart():
    assert derive_seed(0, "r1_zero") == 5717632237382605360  # sha256 of '[0, "r1_zero"]', by sha256sum
    assert (
        len(
            {
                derive_seed(*parts)
                for parts in [(1, "23"), ("1", 23), (12, "3"), (123,), ("123",), (np.int64(1), 23)]
            }
        )
        == 6
    )
    code = "from r1kit.seeds import derive_seed; print(derive_seed(7, 'a', 3))"
    assert int(subprocess.check_output([sys.executable, "-c", code])) == derive_seed(7, "a", 3) < 2**63
