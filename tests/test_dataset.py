"""Data sets from files: columns, gold answers, bad rows, splits that share nothing, and what the stages make
of them."""
# ruff: noqa: E501 - one case, one entry

import gzip
import json
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from public_data import DATA, holds_all

from r1kit.chat import Chat, parse
from r1kit.config import ConfigError, R1kitError
from r1kit.data.corpus import solved_documents
from r1kit.data.curation import readable, repeats
from r1kit.data.mixture import Mixture
from r1kit.data.rewriters import prose
from r1kit.stages.cold_start import ColdStart, written_solutions
from r1kit.stages.model_figures import consensus
from r1kit.stages.models import fits
from r1kit.stages.r1_zero import R1Zero
from r1kit.tasks import Dataset, load_tasks
from r1kit.tasks.documents import Layout
from r1kit.tasks.overlap import GRAM, fingerprint, without_contaminated, without_duplicates, words
from r1kit.tokenizer import Tokenizer
from r1kit.types import Completion, Problem, Rollout

needs_data = pytest.mark.skipif(not holds_all(DATA), reason="the public data sets are not here")

Row = dict[str, Any]


def write(file: Path, rows: Sequence[Row | str]) -> str:
    """Write rows; a text is a line as it is."""
    file.write_text(
        "".join(
            (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows
        ),
        encoding="utf-8",
    )
    return str(file)


def numbered(count: int, **more: Any) -> list[Row]:
    return [{"question": f"How much is {n} and {n}?", "answer": str(2 * n), **more} for n in range(count)]


def rollout(problem: Problem, text: str, index: int = 0) -> Rollout:
    parsed = parse(text) or (None, None)
    return Rollout(
        problem,
        index,
        np.zeros(1, dtype=np.int32),
        Completion(np.zeros(3, dtype=np.int32), np.zeros(3), "stop"),
        text,
        *parsed,
    )


# --- columns and gold answers
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"question": "Q", "answer": "6*2=<<6*2=12>>12\n#### 12"}, "Q", "12"),
        ({"problem": "Q", "solution": "So $\\boxed{\\frac{1}{2}}$.", "level": 3}, "Q", "\\frac{1}{2}"),
        ({"problem": "Q", "solution": "long", "answer": "7"}, "Q", "7"),
        ({"prompt": "Q", "problem": "other", "answer": 7}, "Q", "7"),
        ({"prompt": "Q", "ground_truth": "7"}, "Q", "7"),
        (
            {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}], "answer": "7"},
            "Q",
            "7",
        ),
        (
            {
                "prompt": [{"role": "user", "content": "Q"}],
                "reward_model": {"style": "rule", "ground_truth": "7"},
                "data_source": "x",
            },
            "Q",
            "7",
        ),
    ],
)
def test_known_layouts_are_read_without_being_told(tmp_path, row, prompt, answer):
    problem = Dataset("d", held_out=write(tmp_path / "d.jsonl", [row])).problems("held_out")[0]
    assert (problem.prompt, problem.answer, problem.task) == (prompt, answer, "d")
    assert {key: value for key, value in problem.columns.items() if key not in ("solution", "messages")} == {
        k: v for k, v in row.items() if k != "solution"
    }


SYSTEM = {"role": "system", "content": "Answer in French."}
ASKED, SAID = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
AGAIN = {"role": "user", "content": "And 3+3?"}


@pytest.mark.parametrize(
    ("prompt", "text", "context"),
    [
        ("2+2?", "2+2?", None),
        ([ASKED], "2+2?", None),
        ([SYSTEM, ASKED], "2+2?", (SYSTEM,)),
        ([ASKED, SAID, AGAIN], "And 3+3?", (ASKED, SAID)),
        ([SYSTEM, ASKED, SAID, AGAIN], "And 3+3?", (SYSTEM, ASKED, SAID)),
        ([{"role": "developer", "content": SYSTEM["content"]}, {"role": "human", "content": "2+2?"}], "2+2?", (SYSTEM,)),
        ([{"from": "system", "value": SYSTEM["content"]}, {"from": "human", "value": "2+2?"}], "2+2?", (SYSTEM,)),
        ([{"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]}], "2+2?", None),
    ],
)  # fmt: skip
def test_the_turns_before_a_prompt_are_kept(tmp_path, prompt, text, context):
    row = {"prompt": prompt, "answer": "4"}
    (problem,) = Dataset("d", held_out=write(tmp_path / "d.jsonl", [row])).problems("held_out")
    before = context if isinstance(prompt, str) else context or ()  # a conversation of one turn is one
    assert (problem.prompt, problem.columns.get("messages")) == (text, before)
    whole = {
        "messages": prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}],
        "answer": "4",
    }
    (again,) = Dataset("d", held_out=write(tmp_path / "m.jsonl", [whole])).problems("held_out")
    assert (again.prompt, again.columns.get("messages"), again.id) == (text, context or (), problem.id)


def test_problems_that_differ_in_the_system_turn_only_are_two(tmp_path):
    other = {"role": "system", "content": "Answer in German."}
    rows = [{"prompt": [turn, ASKED], "answer": "4"} for turn in (SYSTEM, other, SYSTEM)]
    task = Dataset("d", held_out=write(tmp_path / "d.jsonl", rows))
    assert [p.columns["messages"] for p in task.problems("held_out")] == [(SYSTEM,), (other,)]
    assert len({p.id for p in task.problems("held_out")}) == 2 and "1 duplicates left out" in task.about()


@pytest.mark.parametrize(
    "gold", [float("nan"), "nan", "NaN", "-nan", "None", "null", "N/A", " n/a ", "", " "]
)
@pytest.mark.parametrize("check", ["math", "exact", "choice"])
def test_a_gold_answer_that_stands_for_a_missing_value_is_refused(tmp_path, gold, check):
    rows = [{"prompt": "P", "answer": "A"}, {"prompt": "Q", "answer": gold}]
    with pytest.raises(R1kitError, match=r"d\.jsonl:2: column 'answer'") as error:
        Dataset("d", held_out=write(tmp_path / "d.jsonl", rows), check=check).problems("held_out")
    assert "remove the row" in str(error.value) or "is no choice" in str(error.value)


@pytest.mark.parametrize("gold", ["$NaN$", "$-$", "np.nan"])
def test_what_stands_for_no_number_is_refused_in_dollars_too(tmp_path, gold):
    file = write(tmp_path / "d.jsonl", [{"prompt": "Q", "answer": gold}])
    with pytest.raises(R1kitError, match=r"d\.jsonl:1: column 'answer': .* stands for no answer"):
        Dataset("d", held_out=file).problems("held_out")


@pytest.mark.parametrize("gold", ["nano", "0", "none of the primes", "Nancy", "n"])
def test_answers_that_only_resemble_a_missing_value_are_read(tmp_path, gold):
    file = write(tmp_path / "d.jsonl", [{"prompt": "Q", "answer": gold}])
    assert [p.answer for p in Dataset("d", held_out=file, check="exact").problems("held_out")] == [gold]


def test_a_prompt_with_two_answers_is_an_error_that_names_both_rows(tmp_path):
    rows = [
        {"prompt": "How much is a half?", "answer": "0.5"},
        *({"prompt": f"P{n}", "answer": "1"} for n in range(60)),
    ]
    same = {"prompt": "how much is a  half?", "answer": "\\frac{1}{2}"}
    other = {"prompt": "How much is a half?", "answer": "0.25"}
    file = tmp_path / "d.jsonl"
    assert len(Dataset("d", held_out=write(file, [*rows, same])).problems("held_out")) == 61
    with pytest.raises(
        R1kitError, match=r"d\.jsonl:62: the prompt of row 1 with another answer \('0.25'; there '0.5'\)"
    ):
        Dataset("d", held_out=write(file, [*rows, other])).problems("held_out")
    task = Dataset("d", held_out=str(file), bad_rows="quarantine")
    assert "How much is a half?" not in [p.prompt for p in task.problems("held_out")]
    assert len(task.problems("held_out")) == 60 and "2 bad rows in" in task.about()
    aside = [json.loads(line) for line in (tmp_path / "d.jsonl.bad.jsonl").read_text().splitlines()]
    assert [row["line"] for row in aside] == [62, 1]


def test_integers_of_any_length_are_read(tmp_path):
    digits = "9" * 5000 + "7"
    write(
        tmp_path / "d.jsonl",
        [f'{{"prompt": "Q", "tests": [{{"args": [-{digits}], "expected": {digits}}}], "entry_point": "f"}}'],
    )
    task = Dataset("d", held_out=str(tmp_path / "d.jsonl"), check="program")
    (problem,) = task.problems("held_out")
    verdicts = task.check_batch([problem] * 2, ["def f(x): return -x", "def f(x): return -x - 1"])
    assert [verdict.outcome for verdict in verdicts] == ["correct", "wrong"]
    with pytest.raises(R1kitError, match="an integer of 300000 digits"):
        Dataset(
            "e", held_out=write(tmp_path / "e.jsonl", ['{"prompt": "Q", "answer": ' + "1" * 300_000 + "}"])
        ).problems("held_out")


def test_columns_are_named_in_the_recipe_and_what_was_taken_is_said(tmp_path):
    file = write(
        tmp_path / "d.jsonl",
        [{"q": f"Q{n}", "meta": {"gold": n}, "n": n, "level": f"Level {n}"} for n in range(3)],
    )
    task = Dataset("d", held_out=file, prompt="q", answer="meta.gold", id="n", difficulty="level")
    assert [(p.id, p.answer, p.difficulty) for p in task.problems("held_out")] == [
        ("d/0", "0", 0.0),
        ("d/1", "1", 1.0),
        ("d/2", "2", 2.0),
    ]
    assert "q -> meta.gold" in task.about() and "3 held out problems" in task.about()


def test_worked_solutions_are_kept_without_calculator_notes_and_final_answer(tmp_path):
    gsm = {"question": "Q", "answer": "She has 6*2 = <<6*2=12>>12 eggs.\n#### 12"}
    bare = {"question": "R", "answer": "12"}
    boxed = {"question": "S", "answer": "3", "solution": "It is $\\boxed{3}$."}
    found = Dataset("d", held_out=write(tmp_path / "d.jsonl", [gsm, bare, boxed])).problems("held_out")
    assert [p.columns.get("solution") for p in found] == [
        "She has 6*2 = 12 eggs.",
        None,
        "It is $\\boxed{3}$.",
    ]


def test_answers_are_checked_by_value_by_letter_or_by_text(tmp_path):
    def outcomes(check: str, gold: str, *answers: str | None) -> list[str]:
        task = Dataset(
            "d", held_out=write(tmp_path / f"{check}.jsonl", [{"prompt": "Q", "answer": gold}]), check=check
        )
        problem = task.problems("held_out")[0]
        alone = [task.check(problem, answer).outcome for answer in answers]
        assert alone == [verdict.outcome for verdict in task.check_batch([problem] * len(answers), answers)]
        return alone  # type: ignore[return-value]

    right, wrong = "correct", "wrong"
    assert outcomes("math", "\\frac{1}{2}", "0.5", "\\boxed{\\frac12}", "The answer is 1/2.", "2", None) == [
        right,
        right,
        right,
        wrong,
        wrong,
    ]
    assert outcomes("choice", "(B)", "B", "The answer is (B).", "\\boxed{B}", "A", None) == [
        right,
        right,
        right,
        wrong,
        wrong,
    ]
    assert outcomes("exact", "ab  c", " ab c ", "\\boxed{ab c}", "abc", "", None) == [
        right,
        right,
        wrong,
        wrong,
        wrong,
    ]


def test_equal_answers_vote_together(tmp_path):
    task = Dataset("d", held_out=write(tmp_path / "d.jsonl", numbered(1)))
    assert (
        len(
            {
                task.vote_key(text)
                for text in ("1000", "1,000", "\\boxed{1000}", "The answer is $1{,}000$.", "1000.0", "2000/2")
            }
        )
        == 1
    )
    assert len({task.vote_key(text) for text in ("1", "2", "1/2", "\\frac{1}{2}", "x")}) == 4
    problem = Problem("p", "d", "Q", "1000")
    group = [
        rollout(problem, f"<think>.</think>{text}", i) for i, text in enumerate(("7", "1,000", "1000", "8"))
    ]
    assert consensus(group, [0.0, 1.0, 1.0, 0.0], task.vote_key) == 1.0


# --- rows that cannot be used
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line", "message"),
    [
        ({}, '{"question": "a"', r"d\.jsonl:3: not JSON"),
        ({}, "[1]", r"d\.jsonl:3: a row must be an object"),
        (
            {},
            '{"question": "a"}',
            r"d\.jsonl:3: column 'answer' is missing or not a text; the row has: question",
        ),
        ({}, '{"question": " ", "answer": "1"}', r"d\.jsonl:3: column 'question' is empty"),
        ({}, '{"question": "a", "answer": " "}', r"d\.jsonl:3: column 'answer': no gold answer"),
        (
            {},
            '{"question": "a", "answer": "one line\\nand another"}',
            r"d\.jsonl:3: .*end it with #### ANSWER or \\boxed",
        ),
        (
            {},
            '{"question": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], '
            '"answer": "1"}',
            "one user turn, then one assistant turn",
        ),
        ({"check": "choice"}, '{"question": "a", "answer": "K"}', r"d\.jsonl:3: .*'K' is no choice"),
        (
            {"difficulty": "level"},
            '{"question": "a", "answer": "A", "level": "hard"}',
            "'hard' holds no number",
        ),
        ({"id": "n"}, '{"question": "a", "answer": "A"}', "column 'n' is missing"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_fix(tmp_path, options, line, message):
    good = [{"question": f"Q{n}", "answer": "A", "level": 1, "n": n} for n in range(2)]
    with pytest.raises(R1kitError, match=message) as error:
        Dataset("d", held_out=write(tmp_path / "d.jsonl", [*good, line]), **options).problems("held_out")
    assert "tasks.d.bad_rows: quarantine" in str(error.value)


def test_bad_rows_can_be_written_aside_up_to_a_twentieth(tmp_path):
    rows = numbered(60)
    rows[5:5] = ['{"question": "torn', {"question": "no answer"}]  # type: ignore[list-item]
    file = tmp_path / "d.jsonl"
    task = Dataset("d", held_out=write(file, rows), bad_rows="quarantine")
    assert len(task.problems("held_out")) == 60 and "2 bad rows in" in task.about()
    aside = [json.loads(line) for line in (tmp_path / "d.jsonl.bad.jsonl").read_text().splitlines()]
    assert (
        [row["line"] for row in aside] == [6, 7]
        and aside[0]["row"] == '{"question": "torn'
        and "d.jsonl:7" in aside[1]["error"]
    )
    write(file, [*numbered(10), "{"])
    with pytest.raises(
        R1kitError, match=r"1 of 11 rows cannot be used, more than 5%; the first: .*d\.jsonl:11"
    ):
        task.problems("held_out")


def test_files_that_are_not_json_lines_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, message in (
        ("x.parquet", r"r1kit\[data\]"),
        ("open-r1/some-set", "hub"),
        ("none.jsonl", "no such file"),
        (str(tmp_path), "a folder"),
    ):
        with pytest.raises(R1kitError, match=message):
            Dataset("d", train=name).problems("train")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(R1kitError, match="no rows"):
        Dataset("d", train="empty.jsonl").problems("train")
    (tmp_path / "odd.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(
        R1kitError,
        match=r"no column for the prompt \(prompt, problem, question\); the row has: text\. Say which: "
        r"prompt: COLUMN",
    ):
        Dataset("d", train="odd.jsonl").problems("train")


def test_options_are_checked_with_the_recipe_and_files_when_they_are_read(tmp_path):
    for options, message in (
        ({"train": "x.jsonl", "answr": "a"}, "did you mean 'answer'"),
        ({}, "needs train: FILE.jsonl, held_out: FILE.jsonl, or both"),
        ({"train": "x.jsonl", "check": "maths"}, "check"),
        ({"train": "x.jsonl", "language": "xx"}, "unknown language 'xx'"),
        ({"train": "x.jsonl", "weight": "much"}, "the weight must be a number"),
    ):
        with pytest.raises(ConfigError, match=message):
            R1Zero.parse({"stage": "r1_zero", "tasks": {"d": {"kind": "dataset", **options}}}, "recipe")
    assert R1Zero.parse(
        {"stage": "r1_zero", "tasks": {"d": {"kind": "dataset", "train": "not-there.jsonl"}}}, "recipe"
    ).tasks
    with pytest.raises(ConfigError, match="did you mean 'dataset'"):
        ColdStart.parse({"stage": "cold_start", "tasks": {"d": {"kind": "datset"}}}, "recipe")
    with pytest.raises(ConfigError, match="there is a task 'd' already"):
        load_tasks({"d": {"kind": "dataset", "train": "x.jsonl"}, "folder/d.jsonl": 1})


# --- splits
# ---------------------------------------------------------------------------------------------------------


def test_without_a_held_out_file_an_eighth_is_held_out_whatever_the_order(tmp_path):
    rows = numbered(800)
    first = Dataset("d", train=write(tmp_path / "a.jsonl", rows))
    random.Random(0).shuffle(rows)
    again = Dataset("e", train=write(tmp_path / "b.jsonl", rows))
    held = {p.prompt for p in first.problems("held_out")}
    assert held == {p.prompt for p in again.problems("held_out")} and 70 < len(held) < 130
    assert len(first.problems("train")) == 800 - len(held) and not held & {
        p.prompt for p in first.problems("train")
    }


def test_ids_are_stable_and_duplicates_and_changed_files_are_noticed(tmp_path):
    file = tmp_path / "d.jsonl"
    task = Dataset(
        "d", held_out=write(file, [*numbered(3), {"question": "how  much is 1 AND 1?", "answer": "2"}])
    )
    ids = [p.id for p in task.problems("held_out")]
    assert len(ids) == 3 and "1 duplicates left out" in task.about()
    write(file, list(reversed(numbered(5))))
    assert [p.id for p in task.problems("held_out")][:1:-1] == ids
    zipped = tmp_path / "d.jsonl.gz"
    zipped.write_bytes(gzip.compress(file.read_bytes()))
    assert [p.id for p in Dataset("d", held_out=str(zipped)).problems("held_out")] == [
        p.id for p in task.problems("held_out")
    ]
    write(file, [{"question": "a", "answer": "1", "n": 4}, {"question": "b", "answer": "1", "n": 4}])
    with pytest.raises(R1kitError, match="two problems have the id '4'"):
        Dataset("d", held_out=str(file), id="n").problems("held_out")


def test_what_is_evaluated_is_not_trained_on(tmp_path):
    long = "one two three four five six seven eight nine ten eleven"
    held = write(
        tmp_path / "held.jsonl",
        [{"prompt": "Is 3+4 seven?", "answer": "1"}, {"prompt": f"Say: {long}!", "answer": "1"}],
    )
    other = write(tmp_path / "other.jsonl", [{"problem": "known elsewhere", "solution": "\\boxed{1}"}])
    nine = "one two three four five six seven eight nine"
    prompts = [
        "is 3+4  SEVEN?",
        "Is 3*4 seven?",
        f"Then {long.upper()} again",
        nine,
        "known elsewhere",
        "new",
    ]
    train = write(tmp_path / "train.jsonl", [{"prompt": prompt, "answer": "1"} for prompt in prompts])
    task = Dataset("d", train=train, held_out=held, decontaminate=(other,))
    assert [p.prompt for p in task.problems("train")] == ["Is 3*4 seven?", nine, "new"]
    assert "3 of train left out" in task.about()
    assert len(Dataset("d", train=train, held_out=held, limit=1).problems("train")) == 1


@given(
    st.lists(st.lists(st.sampled_from("ab"), max_size=16), max_size=6),
    st.lists(st.lists(st.sampled_from("ab"), max_size=16), max_size=4),
)
def test_contamination_is_a_shared_run_of_ten_words_or_the_same_text(train, held):
    problems = [Problem(str(i), "d", " ".join(text), "1") for i, text in enumerate(train)]
    texts = [" ".join(text) for text in held]

    def known(prompt: str) -> bool:
        own = prompt.split()
        runs = [" ".join(own[start : start + GRAM]) for start in range(len(own) - GRAM + 1)]
        return any(prompt == text or any(f" {run} " in f" {text} " for run in runs) for text in texts)

    assert without_contaminated(problems, texts) == [p for p in problems if not known(p.prompt)]
    kept = without_duplicates(problems)
    assert [p.prompt for p in kept] == list(dict.fromkeys(p.prompt for p in problems if p in kept))
    assert {fingerprint(p.prompt) for p in kept} == {fingerprint(p.prompt) for p in problems}


def test_chinese_characters_are_words_and_full_width_is_half_width():
    assert words("他有１２本书, OK?") == ["他", "有", "12", "本", "书", "ok"]
    known = "小明有十二本书又买了三本现在有几本"
    assert (
        without_contaminated(
            [Problem("1", "d", f"问：{known}？", "1"), Problem("2", "d", known[:9], "1")], [known]
        )[0].id
        == "2"
    )


@needs_data
def test_the_public_files_are_read_whole_and_their_own_answers_are_right():
    gsm8k = Dataset("gsm8k", train=str(DATA / "gsm8k_train.jsonl"), held_out=str(DATA / "gsm8k_test.jsonl"))
    assert (len(gsm8k.problems("held_out")), len(gsm8k.problems("train"))) == (1319, 7473 - 11)
    raw = [json.loads(line) for line in (DATA / "gsm8k_test.jsonl").read_text().splitlines()]
    assert [p.answer for p in gsm8k.problems("held_out")] == [row["answer"].split("#### ")[1] for row in raw]
    assert all(p.columns["solution"] and "<<" not in p.columns["solution"] for p in gsm8k.problems("train"))
    math500 = Dataset("math500", held_out=str(DATA / "math500_test.jsonl"), difficulty="level")
    problems = math500.problems("held_out")
    assert len(problems) == 500 and {p.difficulty for p in problems} == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert {
        v.outcome
        for v in math500.check_batch(problems, [f"So it is $\\boxed{{{p.answer}}}$." for p in problems])
    } == {"correct"}
    cmath = Dataset("cmath", train=str(DATA / "cmath_test.jsonl"), language="zh", difficulty="reasoning_step")
    assert (
        len(cmath.problems("train")) + len(cmath.problems("held_out")) == 600
        and cmath.problems("train")[0].language == "zh"
    )
    for name, count in (("aime24", 30), ("amc23", 40)):
        assert len(Dataset(name, held_out=str(DATA / f"{name}_test.jsonl")).problems("held_out")) == count


# --- what the stages make of them
# -----------------------------------------------------------------------------------------------


def test_a_corpus_of_solutions_shows_every_training_problem_once_an_epoch(tmp_path):
    rows = [{"question": f"Q{n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(50)]
    problems = Dataset("d", held_out=write(tmp_path / "d.jsonl", rows)).problems("held_out")
    tagged = Layout(direct=0.0, chat_layout=1.0, exact_tags=1.0, broken_tags=0.0)
    stream = list(islice(solved_documents(problems, 3, tagged), 100))
    expected = {
        f"<｜User｜>Q{n}?<｜Assistant｜><think>It is {n}.</think><answer>{n}</answer>" for n in range(50)
    }
    assert set(stream[:50]) == set(stream[50:]) == expected and stream[:50] != stream[50:]
    assert all("It is" not in text for text in islice(solved_documents(problems, 3, Layout(direct=1.0)), 50))


def test_readable_means_one_language_no_loops_no_code_no_endless_paragraph():
    good = "First I add 3 and 4. That makes 7, so she has seven eggs."
    assert readable(good, "en", 0.99)
    assert not readable("First 我们 add 三 and four", "en", 0.99) and not readable("", "en", 0.99)
    assert not readable(f"{good} ```print(7)```", "en", 0.99)
    assert not readable(
        " ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400)), "en", 0.99
    )
    loop = "so we add the two numbers again and get seven. "
    assert not repeats(loop * 3) and repeats(loop * 4) and not readable(loop * 4, "en", 0.99)


def test_prose_gets_a_summary_that_the_task_still_accepts(tmp_path):
    halves = Dataset("d", held_out=write(tmp_path / "d.jsonl", [{"prompt": "Q", "answer": "\\frac{1}{2}"}]))
    braces = Dataset(
        "e", held_out=write(tmp_path / "e.jsonl", [{"prompt": "Q", "answer": "f{x}"}]), check="exact"
    )
    half, brace = halves.problems("held_out")[0], braces.problems("held_out")[0]
    rollouts = [
        rollout(half, "<think>Half of one is a half.</think><answer>\\frac12</answer>"),
        rollout(half, "<think>A half.</think>It is $\\boxed{0.5}$."),
        rollout(half, "<think>一半。</think>0.5"),
        rollout(brace, "<think>It is so.</think>f{x}"),
    ]
    assert prose({"d": halves, "e": braces}, 0.99)(rollouts) == [
        ("Half of one is a half.", "The answer is \\boxed{\\frac12}."),
        ("A half.", "It is $\\boxed{0.5}$."),
        None,
        ("It is so.", "f{x}"),  # a box around braces is not read back, so there is none
    ]


def test_written_solutions_become_cold_start_rows(tmp_path):
    rows = [{"question": f"Q{n}", "answer": f"It is {n}.\n#### {n}" if n % 2 else str(n)} for n in range(40)]
    tasks = load_tasks(
        {
            "d": {
                "kind": "dataset",
                "train": write(tmp_path / "d.jsonl", rows),
                "held_out": write(tmp_path / "h.jsonl", numbered(1)),
            }
        }
    )
    found = written_solutions(tasks, 8, 1)
    assert (
        len(set(found)) == 8
        and found == written_solutions(tasks, 8, 1)
        and written_solutions(tasks, 0, 1) == []
    )
    assert all(
        text == f"<think>It is {prompt[1:]}.</think>The answer is \\boxed{{{prompt[1:]}}}."
        for prompt, text in found
    )
    assert len(written_solutions(tasks, 99, 1)) == 20


def test_prompts_that_do_not_fit_are_left_out_and_counted(tmp_path):
    rows = [
        *numbered(30),
        {"question": "word " * 60, "answer": "1"},
        {"question": "longer " * 500, "answer": "1"},
    ]
    tasks = load_tasks(
        {
            "d": {
                "kind": "dataset",
                "train": write(tmp_path / "d.jsonl", rows),
                "held_out": write(tmp_path / "h.jsonl", [rows[0]]),
            }
        }
    )
    chat = Chat(Tokenizer.train([row["question"] for row in rows], 400))
    for room in (3, 12, 40, 80, 10_000):
        short = [p for p in tasks["d"][0].problems("train") if len(chat.prompt_ids(p)) <= room]
        assert [p for p in tasks["d"][0].problems("train") if fits(chat, room)(p)] == short
        if short:
            mixture = Mixture(tasks, "train", 1, fits(chat, room))
            assert {p.id for p in mixture.draw(len(short))} == {p.id for p in short}
            assert mixture.left_out == ({"d": 31 - len(short)} if len(short) < 31 else {})
        else:
            with pytest.raises(ConfigError, match="all 31 prompts are too long"):
                Mixture(tasks, "train", 1, fits(chat, room))
