"""Sections of the report after the paper: words of reflection, pass@k, distilled models."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_fakes import PROTOCOL, model_figures

from r1kit.figures import ModelFigures
from r1kit.report import sections
from r1kit.report.document import Document, Figure, Section, Table, html
from r1kit.report.paper_distillation import PUBLISHED, distillation_table
from r1kit.report.reflection import FEWEST_TOKENS, FILES, reflection_curve
from r1kit.report.run import Measured, Roles, Run
from r1kit.stages.model_figures import summarise
from r1kit.types import Completion, Problem, Rollout, Verdict

ROLES = Roles("base", "zero", "final", "student", "distil", None)


def write_step(run: Path, stage: str, step: int, lines: list[Any]) -> None:
    file = run / "samples" / stage / f"step_{step:06d}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def measured(name: str, pass_k: dict[int, float] | None = None) -> Measured:
    figures = replace(model_figures(0.5), pass_k=pass_k or {})
    return Measured(name, name, figures, PROTOCOL)


def run_of(folder: Path, models: list[Measured], stages: tuple[Any, ...] = ()) -> Run:
    return Run(folder, {}, {}, stages, [], models, [], {})


def test_words_are_counted_whole_in_any_case_and_per_thousand_tokens(tmp_path: Path) -> None:
    write_step(tmp_path, "zero", 0, [{"text": "Wait, but no.\nWAIT! checkers butter", "length": 40}] * 2)
    write_step(
        tmp_path, "zero", 3, [{"text": "fine", "length": FEWEST_TOKENS}, {"text": "check", "length": 50}]
    )
    write_step(tmp_path, "zero", 4, [{"text": "wait", "length": FEWEST_TOKENS - 1}])
    assert reflection_curve(tmp_path, "zero") == [(1.0, 1000 * 6 / 80), (4.0, 10.0)]
    assert reflection_curve(tmp_path, "other") == []


def test_odd_lines_are_left_out(tmp_path: Path) -> None:
    odd = [
        "{",
        "[1]",
        "null",
        {"text": 4, "length": 9},
        {"text": "wait"},
        {"text": "wait", "length": -5},
        "[" * 4000,
    ]
    write_step(tmp_path, "zero", 0, [*odd, {"text": "wait", "length": 100}])
    assert reflection_curve(tmp_path, "zero") == [(1.0, 10.0)]


def test_of_a_long_training_some_files_are_read_with_the_first_and_the_last(tmp_path: Path) -> None:
    for step in range(FILES + 50):
        write_step(tmp_path, "zero", step, [{"text": "wait", "length": 100}])
    curve = reflection_curve(tmp_path, "zero")
    assert len(curve) == FILES and (curve[0][0], curve[-1][0]) == (1.0, FILES + 50.0)


class Even:
    """A task on which even answers are right."""

    name = "even"

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return Verdict("correct" if int(answer or 1) % 2 == 0 else "wrong")


def rollouts(right: int, of: int, number: int) -> list[Rollout]:
    asked = Problem(f"p{number}", "even", "?", "0")
    completion = Completion(np.arange(3, dtype=np.int32), np.zeros(3, dtype=np.float32), "stop")
    answers = ["2"] * right + ["1"] * (of - right)
    return [
        Rollout(asked, i, completion.token_ids, completion, "", None, a, number)
        for i, a in enumerate(answers)
    ]


def test_pass_at_k_is_the_share_of_all_sets_of_k_samples_with_a_right_one() -> None:
    groups = [rollouts(0, 6, 0), rollouts(1, 6, 1), rollouts(4, 6, 2)]
    figures: ModelFigures = summarise(groups, {"even": Even()})  # type: ignore[dict-item]
    assert list(figures.pass_k) == [1, 2, 4, 6]
    for k, value in figures.pass_k.items():
        by_sets = [
            np.mean([any(i < right for i in chosen) for chosen in itertools.combinations(range(6), k)])
            for right in (0, 1, 4)
        ]
        assert value == pytest.approx(float(np.mean(by_sets)))
    assert figures.pass_k[1] == pytest.approx(figures.overall.pass_1)
    assert figures.pass_k[6] == pytest.approx(figures.overall.pass_n)


def test_curves_of_pass_at_k_are_shown_where_there_are_some(tmp_path: Path) -> None:
    models = [measured("base", {1: 0.1, 2: 0.2, 4: 0.3}), measured("zero", {1: 0.5, 2: 0.6, 4: 0.7})]
    (block,) = sections.pass_at_k(run_of(tmp_path, models), ROLES)
    assert isinstance(block, Figure)
    assert block.numbers.rows == [["1", "10.0", "50.0"], ["2", "20.0", "60.0"], ["4", "30.0", "70.0"]]
    assert sections.pass_at_k(run_of(tmp_path, [measured("base"), measured("zero", {1: 0.5})]), ROLES) == []


def test_a_distilled_student_stands_above_the_papers() -> None:
    table = distillation_table([(measured("distil"), "student")])
    assert isinstance(table, Table) and len(table.rows) == 1 + len(PUBLISHED)
    assert table.rows[0][0] == "**distil** from student" and table.rows[0][2].startswith("50.0")
    known = {row[0]: row[2:] for row in table.rows[1:]}
    assert known["R1-Distill-Qwen-32B"] == ["72.6", "83.3", "94.3", "62.1", "57.2"]
    assert known["R1-Distill-Qwen-1.5B"] == ["28.9", "52.7", "83.9", "33.8", "16.9"]
    assert {len(row) for row in table.rows} == {len(table.header)}
    page = html(Document("t", "s", [], [Section("a", [table])]))
    assert "<script" not in page and "LiveCodeBench" in page


def test_a_run_without_a_distilled_student_has_no_such_table(tmp_path: Path) -> None:
    assert not any(
        isinstance(block, Table) and "paper" in block.caption
        for block in sections.student(run_of(tmp_path, [measured("base")]), ROLES)
    )
