"""The report, on a made-up run whose numbers are known."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from figure_fakes import PROTOCOL, evaluation, model_figures

from r1kit.config import ConfigError
from r1kit.figures import Example, Habit, RunFigures, read, write
from r1kit.records import PREFERRED_KINDS, find_stage_with_model
from r1kit.report import report, sections
from r1kit.report.charts import Bars, Line, bar_chart, line_chart, smooth, ticks
from r1kit.report.document import Document, Listing, Paragraph, Section, Table, html, markdown
from r1kit.report.run import Measured, find_roles, read_run
from r1kit.report.sentences import say_checking, say_length, split_length, verdict

NEVER = Habit(0.0, None, None)
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


FACTS: dict[str, dict[str, Any]] = {
    "pretrain": {"steps": 12345, "tokens": 6_000_000, "loss": 1.25},
    "alignment_rl": {"steps_without_preference": 14, "steps_with_preference": 34},
    "distill": {"rows": 4300, "too_long": 0, "loss": 0.5, "optim/grad_norm": 0.25},
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "mini"
    models = {name: f"@{'pretrain' if name == 'base' else name}" for name in SCORES}
    stages = [*STAGES, ("evaluate", "evaluate", {"models": models}, 40.0)]
    for place, (kind, name, config, seconds) in enumerate(stages):
        put_stage(
            folder, kind, name, config, seconds, started=place, finished=place + 1, peak_rss_mb=900 + place
        )
        if kind != "evaluate":
            put(folder, name, "model/config.json", {"model_type": "deepseek_v3"})
        if kind in FACTS:
            put(folder, name, "report.json", FACTS[kind])
    measured = {name: model_figures(score) for name, score in SCORES.items()}
    habits = {"worked": Habit(0.2, 0.5, 50.0), "recheck": Habit(0.06, 0.5, 60.0), "step_back": NEVER}
    measured["base"] = model_figures(SCORES["base"], habits, direct=0.1, length=22.0)
    habits = {"worked": Habit(0.9, 0.9, 48.0), "recheck": Habit(0.01, 0.65, 60.0), "step_back": NEVER}
    measured["r1_zero"] = model_figures(SCORES["r1_zero"], habits, direct=0.07, length=45.0)
    examples = tuple(Example(f"3+{n}=?", "7", "chain", {"base": EVIL, "r1_zero": "ok"}) for n in range(3))
    write(folder / "stages/evaluate/report.json", replace(evaluation(measured), examples=examples))
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


def put_stage(
    folder: Path, kind: str, name: str, config: dict[str, Any], seconds: float, **more: Any
) -> None:
    blank = {"seed": 0, "inputs": {}, "files": {}, "setting": {}, "outputs": {}, "finished": 1.0}
    record = {**blank, "stage": kind, "name": name, "config": config, "seconds": seconds, **more}
    put(folder, name, "stage.json", record)


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
    assert set(zero) == {"stage", "name", "model", "seconds", "figures", "protocol"}
    assert zero["model"] == "stages/r1_zero/model" and zero["figures"]["direct"] == 0.07
    overall = ["pass@1", "pass@1_stderr", "pass@n", "cons@n", "format", "language", "length", "problems"]
    assert sorted(zero["figures"]["overall"]) == sorted(overall)
    assert zero["figures"]["overall"]["pass@1"] == 0.82 and zero["protocol"]["n"] == PROTOCOL.n
    assert found["stages"][0]["figures"]["overall"]["pass@1"] == 0.12
    assert found["stages"][-1]["model"] is None and found["stages"][-1]["figures"] is None
    assert found["controls"] == {}
    assert read(RunFigures, run_dir / "report.json") == report.summarise(read_run(run_dir))


def test_the_report_links_to_the_findings_where_its_run_is_inside_the_checkout(run_dir: Path) -> None:
    page, text = (run_dir / "report.html"), (run_dir / "report.md")
    report.write(run_dir)
    assert "docs/findings.md in r1kit's repository" in text.read_text()
    assert "<a " not in page.read_text() and "](" not in text.read_text()
    checkout = run_dir.parent
    (checkout / "docs").mkdir()
    (checkout / "docs" / "findings.md").write_text("# Findings")
    report.write(run_dir)
    assert "<a " not in page.read_text()  # another project's page of that name
    (checkout / "recipes" / "findings").mkdir(parents=True)
    report.write(run_dir)
    (target,) = re.findall(r'<a href="([^"]*)">', page.read_text())
    assert (run_dir / target).resolve() == checkout / "docs" / "findings.md"
    assert f"[docs/findings.md](<{target}>)" in text.read_text()
    nested = checkout / "runs" / "of me"
    nested.mkdir(parents=True)
    run_dir.rename(nested / "mini")
    report.write(nested / "mini")
    (target,) = re.findall(r'<a href="([^"]*)">', (nested / "mini" / "report.html").read_text())
    assert (nested / "mini" / target).resolve() == checkout / "docs" / "findings.md"


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
    assert "code\\|&lt;b> (52 problems)" in text


def test_the_stage_table_holds_every_model_and_task(run_dir: Path) -> None:
    report.write(run_dir)
    lines = (run_dir / "report.md").read_text(encoding="utf-8").splitlines()
    header = next(line for line in lines if "| base | r1_zero |" in line)
    chain = next(line for line in lines if line.startswith("| chain"))
    assert header.count("|") == chain.count("|") == 2 + len(SCORES)
    assert chain.startswith(
        "| chain (52 problems) | 12.0 ± 2.0<br>22.0 | 82.0 ± 2.0<br>92.0 | 83.0 ± 2.0<br>93.0 | **84.0 ± "
        "2.0**<br>94.0 | 5.0 ± 2.0<br>15.0"
    )
    assert PROTOCOL.in_words() in lines
    assert any(line.startswith("| answers without thinking (4 samples) | 10.0 | 7.0 | – |") for line in lines)
    assert any(line.startswith("| general prompts (4 samples) | 50.0 |") for line in lines)


def test_the_report_is_a_pure_function_of_the_folder(run_dir: Path) -> None:
    def written() -> list[bytes]:
        report.write(run_dir)
        return [(run_dir / f"report.{ending}").read_bytes() for ending in ("md", "html", "json")]

    assert written() == written()


def test_parts_are_found_from_what_stages_started_from(run_dir: Path) -> None:
    roles = find_roles(read_run(run_dir))
    assert (roles.base, roles.zero, roles.final) == ("pretrain", "r1_zero", "alignment_rl")
    assert (roles.student, roles.distilled, roles.student_rl) == ("student_base", "distill", "student_rl")


@pytest.mark.parametrize("count", range(1, len(PREFERRED_KINDS) + 1))
def test_the_final_model_is_the_one_that_chat_chooses(tmp_path: Path, count: int) -> None:
    kinds = PREFERRED_KINDS[-count:]
    for place, kind in enumerate(reversed(kinds)):
        put_stage(tmp_path, kind, kind, {}, 1.0, finished=place)
        put(tmp_path, kind, "model/config.json", {})
    assert find_roles(read_run(tmp_path)).final == find_stage_with_model(tmp_path, None).name == kinds[0]


def test_a_control_has_no_role_but_the_best_student_by_rl(run_dir: Path) -> None:
    late = {"init": "@reasoning_rl", "seed_of": "alignment_rl"}
    put_stage(run_dir, "alignment_rl", "hacking", late, 1.0, finished=99)
    put_stage(
        run_dir, "r1_zero", "worse", {"init": "@student_base", "seed_of": "student_rl"}, 1.0, finished=99
    )
    put_stage(run_dir, "evaluate", "controls", {"models": {"w": "@worse"}}, 1.0, finished=100)
    controls = evaluation({"w": model_figures(0.01)}, {"worse": ("w",)})
    write(run_dir / "stages/controls/report.json", controls)
    roles = find_roles(read_run(run_dir))
    assert (roles.final, roles.student_rl) == ("alignment_rl", "student_rl")


def test_the_words_follow_from_the_numbers(run_dir: Path) -> None:
    report.write(run_dir)
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    # sqrt(.012^2 + .012^2) = .017
    assert (
        "from 12.0 ± 1.2 % (base) to 82.0 ± 1.2 % (r1_zero): +70.0 points, standard error 1.7: more" in text
    )
    assert "compared with r1_zero: +2.0 points, standard error 1.7: within noise" in text
    assert "Made to answer without thinking, r1_zero scores 7.0 % instead of 82.0 %" in text
    assert "distillation reaches 3.5 times as much" in text
    assert "the policy exploits the reward models" in text
    assert f"r1kit chat {run_dir}\n" in text
    assert (
        "| pretrain | pretrain | – | 5 min 0 s | 900 | steps 12,345<br>tokens 6,000,000<br>loss 1.25 |"
        in text
    )
    assert "rows 4,300<br>too long 0<br>loss 0.5 |" in text  # not the optimizer's metrics


def measured(name: str, pass_1: float = 0.5, habits: dict[str, Habit] | None = None, **more: Any) -> Measured:
    return Measured(name, name, model_figures(pass_1, habits, **more), PROTOCOL)


def test_the_growth_of_length_is_split_exactly() -> None:
    # 20 % worked at 50 tokens and 80 % at 15 make 22; 90 % at 48 and 10 % at 18 make 45.
    base = measured("base", habits={"worked": Habit(0.2, 0.5, 50.0)}, length=22.0)
    zero = measured("zero", habits={"worked": Habit(0.9, 0.5, 48.0)}, length=45.0)
    said = " ".join(say_length(base, zero))
    assert "Of these +23.0 tokens, +24.5 come from" in said
    assert "-1.8 from shorter workings, and +0.3 from" in said
    assert "mainly because the model works problems out more often" in said
    uncounted = " ".join(say_length(measured("base", length=22.0), measured("zero", length=45.0)))
    assert "the reason is not known" in uncounted and "mainly" not in uncounted


def test_the_terms_of_the_split_add_up_whatever_the_numbers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        w0, w1 = rng.uniform(size=2)
        a0, a1, b0, b1 = rng.uniform(5, 80, size=4)
        length0, length1 = w0 * a0 + (1 - w0) * b0, w1 * a1 + (1 - w1) * b1
        terms = split_length(length0, length1, Habit(w0, 0.5, a0), Habit(w1, 0.5, a1))
        assert sum(terms) == pytest.approx(length1 - length0)
        assert terms == pytest.approx(((w1 - w0) * (a0 - b0), w1 * (a1 - a0), (1 - w1) * (b1 - b0)))


def test_a_base_that_works_nothing_out_takes_the_other_models_length_of_workings() -> None:
    base = measured("base", habits={"worked": NEVER}, length=10.0)
    zero = measured("zero", habits={"worked": Habit(0.5, 0.5, 60.0)}, length=34.0)
    # (.5 - 0)(60 - 10) + .5 (60 - 60) + .5 (8 - 10) = 25 + 0 - 1 = 24
    assert "+25.0 come from working the problem out more often" in " ".join(say_length(base, zero))
    neither = measured("zero", habits={"worked": NEVER}, length=34.0)
    assert "Neither model works" in " ".join(say_length(base, neither))


def test_checking_is_reported_without_a_claim_about_its_cause() -> None:
    base = measured("base", habits={"recheck": Habit(0.06, 0.5, 50.0)})
    zero = measured("zero", 0.8, habits={"recheck": Habit(0.01, 0.6, 50.0)})
    said = " ".join(say_checking(base, zero))
    assert said.startswith("Self-checking shrinks: 6.0 %") and "does not show what checking" in said
    assert "60.0 % are right; of all its responses, 80.0 %" in said
    assert say_checking(base, measured("zero")) == []


def test_habits_of_the_users_own_are_lines_of_the_table(run_dir: Path) -> None:
    found = read_run(run_dir)
    models = {m.name: replace(m.figures, habits={"hums": Habit(0.25, None, 12.0)}) for m in found.models}
    write(run_dir / "stages/evaluate/report.json", evaluation(models))
    report.write(run_dir)
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    assert "| hums, % | 25.0 |" in text and "| of these, right, % | – |" in text
    assert "the reason is not known" in text and "Self-checking" not in text


def test_a_difference_below_two_standard_errors_is_noise() -> None:
    assert verdict(0.85, 0.80, 0.02, 0.02) == "+5.0 points, standard error 2.8: within noise"
    assert verdict(0.86, 0.80, 0.02, 0.02) == "+6.0 points, standard error 2.8: more than noise"
    assert "may be noise" in verdict(0.9, 0.1, None, 0.02)
    assert verdict(0.5, 0.5, 0.02, 0.02) == "no difference"


def test_what_was_not_measured_is_one_honest_line(tmp_path: Path) -> None:
    put_stage(tmp_path, "pretrain", "pretrain", {}, 3.0)
    put(tmp_path, "pretrain", "report.json", FACTS["pretrain"])
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for line in (
        "No stage of this run was evaluated",
        "no R1-Zero stage",
        "no controls",
        "no finished model",
        "no evaluation of a distilled student",
    ):
        assert line in text
    assert "nan" not in text and "None" not in text
    assert json.loads((tmp_path / "report.json").read_text())["controls"] == {}


def test_an_empty_folder_and_an_evaluation_with_nothing_optional_still_give_a_report(tmp_path: Path) -> None:
    report.write(tmp_path)
    put_stage(tmp_path, "evaluate", "x", {}, 1.0)
    bare = replace(model_figures(0.0, general=None, pass_1_stderr=None), tasks={}, by_difficulty=())
    protocol = replace(PROTOCOL, direct_n=None, general=None)
    write(tmp_path / "stages/x/report.json", replace(evaluation({"odd": bare}), protocol=protocol))
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "nan" not in text and "None" not in text and "| **all tasks: pass@1** | 0.0 |" in text


def test_a_figure_that_the_report_does_not_know_is_an_error_and_no_dash(run_dir: Path) -> None:
    file = run_dir / "stages/evaluate/report.json"
    file.write_text(file.read_text().replace('"pass@1":', '"accuracy":', 1))
    with pytest.raises(ConfigError, match=rf"{file}: models\.base\.overall\.pass@1: missing"):
        report.write(run_dir)
    put(run_dir, "distill", "report.json", {"lines": 4300, "too_long": 0})
    file.write_text(file.read_text().replace('"accuracy":', '"pass@1":', 1))
    with pytest.raises(ConfigError, match=r"distill/report\.json: rows: missing"):
        report.write(run_dir)


def test_a_stage_of_the_users_own_reports_whatever_numbers_it_has(tmp_path: Path) -> None:
    put_stage(tmp_path, "mine.py:Mine", "mine", {}, 3.0)
    put(tmp_path, "mine", "report.json", {"rows": 1234, "share": 0.51239, "words": "no number", "yes": True})
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| rows 1,234<br>share 0.5124 |" in text


def test_controls_are_compared_side_by_side_and_measured_apart(run_dir: Path) -> None:
    put_stage(run_dir, "evaluate", "controls", {"models": {"coin": "@coin", "base": "@pretrain"}}, 1.0)
    models = {"coin": model_figures(0.086, general=0.25), "base": model_figures(0.5)}
    write(run_dir / "stages/controls/report.json", evaluation(models, {"a coin": ("base", "coin")}))
    report.write(run_dir)
    lines = (run_dir / "report.md").read_text(encoding="utf-8").splitlines()
    assert "| coin | 8.6 ± 1.2 | 90.0 | 60.0 | 25.0 | 45.0 |" in lines
    assert not any("coin" in line for line in lines if line.startswith(("|  | base |", "| chain")))
    found = read(RunFigures, run_dir / "report.json")
    assert list(found.controls["a coin"]) == ["base", "coin"]
    assert found.stages[0].figures is not None and found.stages[0].figures.overall.pass_1 == 0.12


def test_models_measured_differently_are_not_compared(run_dir: Path) -> None:
    put_stage(run_dir, "evaluate", "again", {"models": {"late": "@alignment_rl"}}, 1.0, finished=20)
    other = replace(evaluation({"late": model_figures(0.5)}), protocol=replace(PROTOCOL, n=4))
    write(run_dir / "stages/again/report.json", other)
    report.write(run_dir)
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    assert (
        "under different protocols" in text and "\nlate: Protocol: 104 held-out problems, 4 samples" in text
    )
    assert "| all tasks: cons@n |" in text


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


def test_lines_with_which_all_problems_begin_are_shown_once():
    lead = "Answer with a number.\nQ: 1+1?\nA: 2"
    shared, problems = sections.fold([f"{lead}\nQ: {n}+3?\nA:" for n in range(3)])
    assert shared == lead and problems[2] == "[3 shared lines]\nQ: 2+3?\nA:"
    for kept in (
        ["Q: 1+1?\nA:", "Q: 2+1?\nA:"],  # nothing shared
        ["Be brief.\n1+1?", "Be brief.\n2+1?"],  # one line is shorter than what would replace it
        [f"{lead}\nQ: 1+3?"],  # nothing to compare with
        [],
    ):
        assert sections.fold(kept) == ("", kept)
    same, problems = sections.fold([lead, lead])  # the last line stays: a problem is never empty
    assert same == "Answer with a number.\nQ: 1+1?" and problems == ["[2 shared lines]\nA: 2"] * 2


def test_worked_examples_appear_once_in_the_section_of_examples(tmp_path):
    lead = "Some worked examples.\nQ: 1+1? A: 2"
    found = tuple(Example(f"{lead}\nQ: {n}+3?", "7", "chain", {"base": "ok"}) for n in range(3))
    run = SimpleNamespace(examples=found)
    text = markdown(Document("r", "", [], [Section("Examples", sections.examples(run, None))]))
    assert text.count("Q: 1+1? A: 2") == 1 and all(f"Q: {n}+3?" in text for n in range(3))
