"""The lessons of docs/tutorial/ run in their tiny form, and their exercises are graded: unfinished, right and
wrong."""

import ast
import os
import re
from pathlib import Path

import pytest
from forked import Forked

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/tutorial"
LESSONS = sorted(FOLDER.glob("[0-9]*.py"))

# Run as a program of its own, as a reader does; then the checks that it defines are given the answers.
GRADED = """
import runpy, sys
sys.path[:0] = sys.argv[2:4]
import answers
names = runpy.run_path(sys.argv[1], run_name="__main__")
for check in sorted(name for name in names if name.startswith("check_") and name != "check_math"):
    exercise = check.removeprefix("check_")
    names[check](getattr(answers, exercise))
    print("right", exercise)
    for wrong, hint in answers.WRONG[exercise]:
        try:
            names[check](wrong)
        except AssertionError as error:
            print("refused" if hint in str(error) else f"other hint: {error}", wrong.__name__, hint)
        else:
            print("accepted a wrong answer:", wrong.__name__)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the lessons of this module share their run, as those of a reader do."""
    return tmp_path_factory.mktemp("lessons")


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_a_lesson_runs_and_its_exercise_is_graded(lesson: Path, runs: Path, forked: Forked) -> None:
    environment = {**os.environ, "R1KIT_LESSON": "tiny", "R1KIT_LESSON_RUNS": str(runs)}
    done = forked.run("-c", GRADED, lesson, FOLDER, ROOT / "tests/lessons", environment=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    exercises = re.findall(r"^def check_(\w+)", lesson.read_text(encoding="utf-8"), re.MULTILINE)
    assert exercises, "a lesson ends with an exercise"
    assert sum(line.startswith("Exercise, not done yet: write ") for line in lines) == len(exercises)
    assert [line for line in lines if line.startswith("right ")] == [f"right {name}" for name in exercises]
    assert sum(line.startswith("refused") for line in lines) >= 3
    assert not [line for line in lines if line.startswith(("accepted a wrong", "other hint"))], done.stdout


def test_every_lesson_is_in_the_list_and_nothing_else() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d\d_\w+\.py)\)", page) == [file.name for file in LESSONS]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_a_lesson_opens_as_a_notebook_and_contains_no_answer(lesson: Path) -> None:
    text = lesson.read_text(encoding="utf-8")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    assert len(cells) > 6
    for cell in cells[1:]:
        if cell.startswith(" [markdown]"):
            assert all(line.startswith("#") or not line for line in cell.splitlines()[1:])
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    exercises = [name.removeprefix("check_") for name in functions if name.startswith("check_")]
    assert exercises
    for name in exercises:
        documentation, only = functions[name].body
        assert isinstance(documentation, ast.Expr) and isinstance(only, ast.Raise)
