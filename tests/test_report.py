"""The report, on a made-up run whose numbers are known."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from r1kit.report import report
from r1kit.report.charts import Bars, Line, bar_chart, line_chart, smooth, ticks
from r1kit.report.document import Document, Listing, Paragraph, Section, Table, html, markdown
from r1kit.report.sentences import Measured, cast, read_run, say_checking, say_length, verdict

EVIL = "</pre><script>alert('x')</script> ```\n**not bold** <think>3+4=7</think> 好"
# stage, name, config, seconds
STAGES: list[tuple[str, str, dict[str, Any], float]] = [
    ("pretrain", "pretrain", {}, 300.0),
    ("r1_zero", "r1_zero", {"init": "@pretrain"}, 200.0),
    ("reasoning_rl", "reasoning_rl", {"init": "@pretrain"}, 100.0),
    ("alignment_rl", "alignment_rl", {"init": "@reasoning_rl"}, 90.0),
    ("pretrain", "student_base", {}, 60.0),
    ("r1_zero", "student_rl", {"init": "@student_base"}, 50.0),
    ("distill", "distill", {"student": "@student_base", "teacher": "@alignment_rl"}, 50.0),
]
SCORES = {
    "base": 0.12,
    "r1_zero": 0.82,
    "reasoning_rl": 0.83,
    "alignment_rl": 0.84,
    "student_base": 0.05,
    "student_rl": 0.08,
    "distill": 0.28,
}


def figures(score: float, **more: Any) -> dict[str, Any]:
    tasks = {
        task: {"pass@1": score, "pass@1_stderr": 0.02, "cons@16": min(1.0, score + 0.1), "n": 52}
        for task in ("chain", "code|<b>")
    }
    return {
        "pass@1": score, "pass@1_stderr": 0.012, "pass@16": 0.99, "cons@16": min(1.0, score + 0.1), "format": 0.9, "language": 0.6,
        "length": 45.0, "general": 0.5, "general_stderr": math.nan, "tasks": tasks,
        "by_difficulty": {"3": {"pass@1": score, "length": 30, "n": 9}, "10": {"pass@1": score / 2, "length": 60, "n": 4}},
        "protocol": {"problems": 312, "n": 16, "temperature": 1.0, "top_p": 1.0, "max_tokens": 96}, **more,
    }  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "mini"
    models = {name: f"@{'pretrain' if name == 'base' else name}" for name in SCORES}
    stages = [*STAGES, ("evaluate", "evaluate", {"models": models}, 40.0)]
    for place, (kind, name, config, seconds) in enumerate(stages):
        record = {
            "stage": kind,
            "name": name,
            "config": config,
            "seconds": seconds,
            "started": place,
            "finished": place + 1,
            "peak_rss_mb": 900 + place,
        }
        put(folder, name, "stage.json", record | {"versions": {"torch": "2.13.0"}})
        if kind != "evaluate":
            put(folder, name, "model/config.json", {"model_type": "deepseek_v3"})
            put(folder, name, "report.json", {"steps": 12345, "loss": 1.25})
    measured = {name: figures(score) for name, score in SCORES.items()}
    measured["base"] |= {
        "length": 22.0,
        "worked_share": 0.2,
        "worked_length": 50.0,
        "recheck_share": 0.06,
        "direct": 0.1,
        "wait_share": 0.1,
    }
    measured["r1_zero"] |= {
        "length": 45.0, "worked_share": 0.9, "worked_length": 48.0, "recheck_share": 0.01, "recheck_accuracy": 0.65, "direct": 0.07,
    }  # fmt: skip
    examples = [
        {"problem": f"3+{n}=?", "answer": "7", "task": "chain", "outputs": {"base": EVIL, "r1_zero": "ok"}}
        for n in range(3)
    ]
    put(
        folder,
        "evaluate",
        "report.json",
        {
            "models": measured,
            "examples": examples,
            "controls": {"random_reward": {"pass@1": 0.086, "steps": 40}},
        },
    )
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(
            {"name": "mini", "seed": 7, "stages": [{"stage": k, "name": n} for k, n, _, _ in stages]}
        )
    )
    rows = [
        {
            "stage": name,
            "step": s,
            "time": s,
            "reward/accuracy/mean": s / 50,
            "completions/mean_length": 20 + s,
            "reward/language/mean": 0.5 + s / 100,
        }
        for name in ("r1_zero", "reasoning_rl")
        for s in range(40)
    ]
    rows += [
        {"stage": "alignment_rl", "step": s, "time": s, "watch/gold": 0.9 - s / 20, "watch/judges": s / 10}
        for s in range(10)
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "r1_ze'
    )
    return folder


def put(folder: Path, stage: str, name: str, content: Any) -> None:
    path = folder / "stages" / stage / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


class Checker(HTMLParser):
    """Collects tags, and demands that every one is closed in order."""

    VOID = ("meta", "rect", "line", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_json_has_exactly_the_promised_keys_and_values(run_dir: Path) -> None:
    assert report.write(run_dir) == run_dir / "report.md"
    found = json.loads(
        (run_dir / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    assert set(found) == {"seconds", "peak_rss_mb", "stages", "controls"}
    assert found["seconds"] == pytest.approx(890.0) and found["peak_rss_mb"] == 907
    assert [stage["name"] for stage in found["stages"]] == [name for _, name, _, _ in STAGES] + ["evaluate"]
    zero = found["stages"][1]
    assert (
        set(zero) == {"stage", "name", "model", "seconds", "eval"} and zero["model"] == "stages/r1_zero/model"
    )
    assert set(zero["eval"]) == {
        "pass@1",
        "pass@1_stderr",
        "cons@16",
        "format",
        "language",
        "length",
        "general",
        "tasks",
    }
    assert zero["eval"]["pass@1"] == 0.82 and found["stages"][0]["eval"]["pass@1"] == 0.12
    assert found["stages"][-1]["model"] is None and found["stages"][-1]["eval"] is None
    assert found["controls"] == {"random_reward": {"pass@1": 0.086, "steps": 40}}


def test_the_page_is_well_formed_loads_nothing_and_shows_model_output_letter_for_letter(
    run_dir: Path,
) -> None:
    report.write(run_dir)
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and "script" not in checker.seen and "b" not in checker.seen
    assert checker.seen.count("svg") == 6
    assert not re.search(r"""(src|href)=|url\(|@import""", page)
    assert (
        "&lt;/pre&gt;&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; ```\n**not bold** &lt;think&gt;3+4=7"
        in page
    )
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    assert f"````text\n{EVIL}\n````" in text
    assert "code\\|&lt;b> (n = 52)" in text


def test_the_stage_table_holds_every_model_and_task(run_dir: Path) -> None:
    report.write(run_dir)
    lines = (run_dir / "report.md").read_text(encoding="utf-8").splitlines()
    header = next(line for line in lines if "| base | r1_zero |" in line)
    chain = next(line for line in lines if line.startswith("| chain"))
    assert header.count("|") == chain.count("|") == 2 + len(SCORES)
    assert chain.startswith(
        "| chain (n = 52) | 12.0 ± 2.0<br>22.0 | 82.0 ± 2.0<br>92.0 | 83.0 ± 2.0<br>93.0 | **84.0 ± "
        "2.0**<br>94.0 | 5.0 ± 2.0<br>15.0"
    )
    assert any(line.startswith("Protocol: max tokens 96, n 16, problems 312") for line in lines)


def test_the_report_is_a_pure_function_of_the_folder(run_dir: Path) -> None:
    def written() -> list[bytes]:
        report.write(run_dir)
        return [(run_dir / f"report.{ending}").read_bytes() for ending in ("md", "html", "json")]

    assert written() == written()


def test_parts_are_found_from_what_stages_started_from(run_dir: Path) -> None:
    parts = cast(read_run(run_dir))
    assert (parts.base, parts.zero, parts.final) == ("pretrain", "r1_zero", "alignment_rl")
    assert (parts.student, parts.distilled, parts.student_rl) == ("student_base", "distill", "student_rl")


def test_the_words_follow_from_the_numbers(run_dir: Path) -> None:
    report.write(run_dir)
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    assert "takes base from 12.0 ± 1.2 % to 82.0 ± 1.2 % (+70.0 points, beyond noise)" in text
    assert "against r1_zero +2.0 points, within noise: standard error 1.7" in text
    assert "Made to answer without thinking, r1_zero scores 7.0 % instead of 82.0 %" in text
    assert "distillation reaches 3.5 times as much" in text
    assert "what exploiting a reward model looks like" in text
    assert f"r1kit chat {run_dir}\n" in text


def test_the_growth_of_length_is_split_exactly() -> None:
    # 20 % worked at 50 tokens and 80 % at 15 make 22; 90 % at 48 and 10 % at 18 make 45.
    base = Measured("base", "b", {"length": 22.0, "worked_share": 0.2, "worked_length": 50.0})
    zero = Measured("zero", "z", {"length": 45.0, "worked_share": 0.9, "worked_length": 48.0})
    told = " ".join(say_length(base, zero))
    assert (
        "Of these +23.0 tokens, +24.5 come from" in told
        and "-1.8 from workings getting shorter, and +0.3 from" in told
    )
    assert "mainly because the model chooses to work problems out" in told
    uncounted = " ".join(
        say_length(Measured("base", "b", {"length": 22.0}), Measured("zero", "z", {"length": 45.0}))
    )
    assert "no reason is given" in uncounted and "mainly" not in uncounted


def test_a_base_that_works_nothing_out_borrows_the_length_of_workings() -> None:
    base = Measured("base", "b", {"length": 10.0, "worked_share": 0.0})
    zero = Measured("zero", "z", {"length": 34.0, "worked_share": 0.5, "worked_length": 60.0})
    # (.5 - 0)(60 - 10) + .5 (60 - 60) + .5 (8 - 10) = 25 + 0 - 1 = 24
    assert "+25.0 come from writing the working out more often" in " ".join(say_length(base, zero))
    assert "Neither model works" in " ".join(
        say_length(base, Measured("zero", "z", {"length": 34.0, "worked_share": 0.0}))
    )


def test_checking_is_reported_without_a_claim_about_its_cause() -> None:
    base, zero = (
        Measured("base", "b", {"recheck_share": 0.06}),
        Measured("zero", "z", {"recheck_share": 0.01, "recheck_accuracy": 0.6, "pass@1": 0.8}),
    )
    told = " ".join(say_checking(base, zero))
    assert told.startswith("Self-checking shrinks: 6.0 %") and "no proof" in told
    assert say_checking(base, Measured("zero", "z", {})) == []


def test_a_difference_below_two_standard_errors_is_noise() -> None:
    assert "within noise: standard error 2.8" in verdict(0.85, 0.80, 0.02, 0.02)
    assert verdict(0.86, 0.80, 0.02, 0.02) == "+6.0 points, beyond noise"
    assert "nobody can tell" in verdict(0.9, 0.1, None, 0.02)


def test_what_was_not_measured_is_one_honest_line(tmp_path: Path) -> None:
    put(tmp_path, "pretrain", "stage.json", {"stage": "pretrain", "name": "pretrain", "seconds": 3.0})
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for line in (
        "No stage of this run was evaluated",
        "no R1-Zero stage",
        "no controls",
        "no finished model",
        "No student was distilled",
    ):
        assert line in text
    assert "nan" not in text and "None" not in text
    assert json.loads((tmp_path / "report.json").read_text())["controls"] == {}


def test_an_empty_folder_and_a_stage_without_numbers_still_give_a_report(tmp_path: Path) -> None:
    report.write(tmp_path)
    put(tmp_path, "x", "stage.json", {"stage": "evaluate", "name": "x", "seconds": 1.0})
    put(
        tmp_path,
        "x",
        "report.json",
        {"models": {"odd": {"pass@1": math.nan, "tasks": {}}}, "examples": [{"outputs": {}}]},
    )
    report.write(tmp_path)
    assert "nan" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_stage_that_evaluated_its_own_model_is_shown(tmp_path: Path) -> None:
    put(tmp_path, "sft", "stage.json", {"stage": "sft", "name": "sft", "seconds": 3.0})
    put(tmp_path, "sft", "report.json", {"rows": 10, "eval": figures(0.5)})
    report.write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["stages"][0]["eval"]["pass@1"] == 0.5


def test_smoothing_keeps_length_and_lines() -> None:
    points = [(float(x), 2.0 * x) for x in range(30)]
    assert np.allclose(smooth(points, 7), points)
    assert smooth([(0, 0), (1, 3), (2, 0)], 3)[1] == (1, 1.0)


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.0, 47.0) == [0, 10, 20, 30, 40, 50]
    for low, high in ((0.0, 0.0), (-3.0, 0.2), (0.97, 0.99), (1e-6, 3e-6), (5.0, 5.0)):
        found = ticks(low, high)
        assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 9


def test_charts_place_values_and_escape_names() -> None:
    drawn = line_chart(
        "a<b", [Line("x & y", [(0, 0.0), (10, 1.0), (11, math.nan)])], "step", "share", (), (0.0, 1.0)
    )
    assert (
        "M52.0 256.0L492.0 14.0" in drawn
        and "x &amp; y" in drawn
        and "a&lt;b" in drawn
        and "nan" not in drawn
    )
    bars = bar_chart("t", ["g", "h"], [Bars("s", [0.5, None], [0.1, None])], "y", (0.0, 1.0))
    assert 'height="121.0"' in bars and bars.count("<rect") == 2


def test_inline_marks_are_the_only_markup() -> None:
    document = Document(
        "t <x>",
        "s",
        ["**b** `c<d>`"],
        [
            Section(
                "h", [Table("k", ["", "v|w"], [["r", "<i>"]]), Paragraph("p"), Listing("l", [("a", "**x**")])]
            )
        ],
    )
    page = html(document)
    assert (
        "<strong>b</strong> <code>c&lt;d&gt;</code>" in page
        and "<pre>**x**</pre>" in page
        and "<i>" not in page
    )
    assert "| r | &lt;i> |" in markdown(document) and "v\\|w" in markdown(document)


def test_writing_a_report_needs_no_torch(run_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from r1kit import report; "
        f"report.write(Path({str(run_dir)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
