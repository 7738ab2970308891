"""Augmentation as a stage: each kind, what is dropped and why, parents, and the verifier."""

import json
from pathlib import Path

import pytest
from scripted import context, endpoint
from small_world import model_directory

from r1kit.config import ConfigError
from r1kit.stages.augment import Augment
from r1kit.tasks import load_tasks


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


def row_file(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(file: Path):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


PROBLEMS = [
    {"question": f"Tom has {n} pens and buys {n + 20} more at the shop. How many pens has Tom?",
     "answer": f"Tom has {n} + {n + 20} = {2 * n + 20} pens.\n#### {2 * n + 20}"}
    for n in range(30, 36)
]  # fmt: skip
HELD_OUT = [{"question": "What is seven plus eight, and then minus two?", "answer": "13"}]


@pytest.fixture
def tasks(tmp_path):
    train = row_file(tmp_path / "train.jsonl", PROBLEMS)
    held_out = row_file(tmp_path / "held_out.jsonl", HELD_OUT)
    return {"pens": {"kind": "dataset", "train": train, "held_out": held_out}}


def augmented(ctx, tasks, **keys):
    Augment(tasks=tasks, **keys).run(ctx)
    report = json.loads((ctx.out / "report.json").read_text())
    for own in report["kinds"].values():
        assert own["asked"] == own["kept"] + sum(own["dropped"].values())  # nothing is lost without a reason
    return read(ctx.out / "problems.jsonl"), read(ctx.out / "data.jsonl"), report["kinds"]


def test_numbers_and_names_are_new_problems_that_the_verifier_accepts(tmp_path, base, tasks):
    problems, rows, kinds = augmented(context(tmp_path, base), tasks, kinds={"numbers": 3, "names": 1})
    assert kinds["names"] == {"asked": 6, "kept": 6, "dropped": {}}
    assert kinds["numbers"]["kept"] >= 12 and len(problems) == len(rows) == kinds["numbers"]["kept"] + 6
    parents = {p.id for p in load_tasks(tasks)["pens"][0].problems("train")}
    assert {row["parent"] for row in problems} <= parents and len({row["prompt"] for row in problems}) == len(
        problems
    )
    again = load_tasks({"new": {"kind": "dataset", "train": str(tmp_path / "out/problems.jsonl")}})["new"][0]
    for problem in again.problems("train"):
        assert again.check(problem, f"\\boxed{{{problem.answer}}}").outcome == "correct"
    for row in (row for row in problems if row["kind"] == "numbers"):
        a, b = (int(word) for word in row["prompt"].split() if word.isdigit())
        assert row["answer"] == str(a + b) and row["solution"] == f"Tom has {a} + {b} = {a + b} pens."
    for problem, row in zip(problems, rows, strict=True):
        assert (
            row["completion"]
            == f"<think>{problem['solution']}</think>The answer is \\boxed{{{problem['answer']}}}."
        )
        assert row["parent"] == problem["parent"]


def test_the_same_command_gives_the_same_rows(tmp_path, base, tasks):
    first, _, _ = augmented(
        context(tmp_path / "a", base) if (tmp_path / "a").mkdir() is None else None, tasks
    )
    (tmp_path / "b").mkdir()
    second, _, _ = augmented(context(tmp_path / "b", base), tasks)
    assert first == second


def writer(request):
    """Paraphrases in words, translates into Chinese and back, and is wrong in known ways."""
    text = request["messages"][0]["content"]
    body = text.partition("\n\n")[2]
    if "31" in body:
        return ""
    if text.startswith("Write the problem"):
        return (
            body.replace("32", "33").replace("buys", "gets") if "32" in body else body.replace("buys", "gets")
        )
    if "into Chinese" in text:
        digits = [word for word in body.replace(".", " ").split() if word.isdigit()]
        return (
            f"汤姆有{digits[0]}支笔，又买了{digits[1]}支。一共有多少支笔？"
            if len(digits) == 2
            else f"汤姆有 {' + '.join(digits[:2])} = {digits[2]} 支笔。"
        )
    digits = "".join(c if c.isdigit() else " " for c in body).split()
    return f"Tom owns {digits[0]} pens; then he gets {digits[1]} pens. What number of pens has he?"


def test_a_writer_paraphrases_translates_and_translates_back(tmp_path, base, tasks):
    kinds = {"paraphrase": 1, "back_translation": 1, "translation": 1}
    with endpoint(writer) as (address, calls):
        problems, _, counts = augmented(
            context(tmp_path, base), tasks, kinds=kinds, writer={"endpoint": address, "model": "w"}
        )
    assert counts["paraphrase"]["dropped"] == {"no reply": 1, "other numbers than its parent": 1}
    assert counts["back_translation"]["dropped"] == {"no reply": 1} == counts["translation"]["dropped"]
    by_kind = {kind: [row for row in problems if row["kind"] == kind] for kind in kinds}
    assert all("gets" in row["prompt"] for row in by_kind["paraphrase"]) and len(by_kind["paraphrase"]) == 4
    assert all(
        row["prompt"].startswith("Tom owns") and row["language"] == "en"
        for row in by_kind["back_translation"]
    )
    for row in by_kind["translation"]:
        assert (
            row["prompt"].startswith("汤姆有")
            and row["solution"].startswith("汤姆有")
            and row["language"] == "zh"
        )
    asked = [request["messages"][0]["content"] for _, request in calls]
    assert sum("into English" in text for text in asked) == 5  # no text came back of one
    assert len(asked) == 6 + 6 + 5 + 6 + 6


def test_a_text_in_another_language_or_of_its_parent_is_dropped(tmp_path, base, tasks):
    def same(request):
        body = request["messages"][0]["content"].partition("\n\n")[2]
        return (
            body
            if "30" in body
            else "汤姆有笔，买了笔，一共有几支？ " + " ".join(w for w in body.split() if w.isdigit())
        )

    with endpoint(same) as (address, _):
        problems, _, counts = augmented(
            context(tmp_path, base),
            tasks,
            kinds={"paraphrase": 1},
            writer={"endpoint": address, "model": "w"},
        )
    assert problems == []
    assert counts["paraphrase"]["dropped"] == {
        "the text of its parent or of another row": 1,
        "words of another language than en": 5,
    }


def test_evaluations_are_kept_out(tmp_path, base, tasks):
    new = "Tom gets 50 pens on top of the 30 pens that he has got already; what is his number of pens?"
    file = row_file(tmp_path / "test.jsonl", [{"question": new.replace("?", "? Think!"), "answer": "80"}])

    def say(request):
        body = request["messages"][0]["content"].partition("\n\n")[2]
        first, second = (word for word in body.split() if word.isdigit())
        return new if first == "30" else f"{second} pens come to the {first} pens of Tom: how many?"

    for files, kept in (([file], 5), ([], 6)):
        folder = tmp_path / f"run{kept}"
        folder.mkdir()
        with endpoint(say) as (address, _):
            problems, _, counts = augmented(
                context(folder, base), tasks, kinds={"paraphrase": 1}, decontaminate=files,
                writer={"endpoint": address, "model": "w"},
            )  # fmt: skip
        assert len(problems) == kept
        assert counts["paraphrase"]["dropped"].get("ten words in a row of an evaluation", 0) == 6 - kept


def test_a_solver_has_to_solve_what_a_writer_wrote(tmp_path, base, tasks):
    def solve(prompt, index):
        numbers = [int(word) for word in prompt.replace("｜", " ").split() if word.isdigit()]
        total = sum(numbers[:2]) + (0 if index == 2 and 33 not in numbers else 1)
        return f"<think>I add.</think>{total}"

    def reword(request):
        return request["messages"][0]["content"].partition("\n\n")[2].replace("buys", "gets")

    with endpoint(reword) as (address, _):
        problems, _, counts = augmented(
            context(tmp_path, base, solve), tasks, kinds={"paraphrase": 1}, solver="@base", max_tokens=64,
            writer={"endpoint": address, "model": "w"},
        )  # fmt: skip
    assert len(problems) == 5 and counts["paraphrase"]["dropped"] == {"not solved by the solver": 1}


PROGRAMS = [
    {"text": "Write a function add_all that adds the numbers of a list.",
     "code": "def add_all(numbers):\n    total = 0\n    start = 1\n    for one in numbers:\n"
             "        total += one\n    return total",
     "test_list": ["assert add_all([1, 2]) == 3", "assert add_all([]) == 0"]},
    {"text": "Write a function names_of that reads its own names.",
     "code": "def names_of(number):\n    return sorted(locals())",
     "test_list": ["assert names_of(1) == ['number']"]},
]  # fmt: skip


def test_code_is_mutated_and_its_tests_run_again(tmp_path, base):
    train = row_file(tmp_path / "train.jsonl", PROGRAMS)
    held_out = row_file(
        tmp_path / "held_out.jsonl", [{**PROGRAMS[0], "text": "Write a function add_all, again."}]
    )
    tasks = {"code": {"kind": "dataset", "train": train, "held_out": held_out, "check": "program"}}
    problems, rows, counts = augmented(context(tmp_path, base), tasks, kinds={"code": 1})
    assert counts["code"]["kept"] == 1
    assert counts["code"]["dropped"] == {"no local name and no independent statement": 1}
    assert "total" not in problems[0]["reference"] and "def add_all(" in problems[0]["reference"]
    assert rows[0]["completion"] == f"<think></think>```python\n{problems[0]['reference']}\n```"
    again = load_tasks({"c": {**tasks["code"], "train": str(tmp_path / "out/problems.jsonl")}})
    task = again["c"][0]
    (problem,) = task.problems("train")
    assert task.check(problem, rows[0]["completion"].partition("</think>")[2]).outcome == "correct"


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"kinds": {"paraphrase": 1}}, "name the model that writes"),
        ({"kinds": {"numbers": 0}}, "from 1 on"),
        ({"kinds": {}}, "kinds"),
        ({"kinds": {"rhymes": 1}}, "kinds"),
        ({"to": "fr"}, "no language of en, zh"),
        ({"writer": {"endpoint": "file:///etc/passwd", "model": "w"}}, "endpoint"),
        (
            {"writer": {"endpoint": "http://127.0.0.1:1/v1", "model": "w", "key_variable": "sk-1 2"}},
            "key_variable",
        ),
    ],
)
def test_settings_that_make_no_sense_are_errors(keys, said):
    with pytest.raises(ConfigError, match=said):
        Augment.parse({"tasks": {"chain": 1.0}, **keys}, "augment")
