"""The schemas of public data sets: what each row is taken for, and what its columns become."""

from pathlib import Path

import pytest

from r1kit.config import ConfigError, R1kitError
from r1kit.data.corpora import document_of, normal
from r1kit.data.schemas import SCHEMAS, recognise, schema_named
from r1kit.data.sources import read_pairs

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be brief."}
UNIT = '[{"input": "1\\n", "output": "2\\n", "testtype": "stdin"}]'

# name of the schema, a row as the data set has it, the columns that it becomes
ROWS = [
    ("text", {"text": "A b", "meta": 1}, {"text": "A b"}),
    ("text", {"content": "def f(): pass", "size": 3}, {"text": "def f(): pass"}),
    ("text", {"raw_content": "A b", "source": "cc"}, {"text": "A b"}),
    ("prompt_completion", {"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b"}),
    (
        "prompt_completion",
        {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
        {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
    ),
    ("messages", {"messages": [USER, ASSISTANT], "source": "x"}, {"messages": [USER, ASSISTANT]}),
    ("messages", {"prompt": "Hi", "messages": [USER, ASSISTANT]}, {"messages": [USER, ASSISTANT]}),
    (
        "messages",
        {"messages": [USER, ASSISTANT], "system": "Be brief."},
        {"messages": [SYSTEM, USER, ASSISTANT]},
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "id": "1"},
        {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    ),
    (
        "preference",
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ),
    (
        "preference",  # UltraFeedback: the prompt stands in a column and in both conversations
        {
            "prompt": "Hi",
            "chosen": [USER, ASSISTANT],
            "rejected": [USER, {"role": "assistant", "content": "What?"}],
        },
        {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
    ),
    (
        "unpaired",
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "a", "completion": "b", "label": True},
    ),
    (
        "safe",
        {"prompt": "a", "response": "b", "safe": False},
        {"prompt": "a", "completion": "b", "safe": False},
    ),
    (
        "alpaca",
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"prompt": "Add\n\n1 2", "completion": "3"},
    ),
    (
        "alpaca",
        {"instruction": "Greet", "input": "", "output": "Hi", "text": "Below is"},
        {"prompt": "Greet", "completion": "Hi"},
    ),
    (
        "alpaca",
        {"instruction": "Hi", "output": "Hello", "system": "Be brief."},
        {"prompt": [SYSTEM, USER], "completion": "Hello"},
    ),
    ("answered", {"question": "a", "response": "b"}, {"prompt": "a", "completion": "b"}),
    (
        "verl",
        {
            "data_source": "gsm8k",
            "prompt": [USER],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "72"},
        },
        {"problem": [USER], "answer": "72"},
    ),
    (
        "verl_tests",
        {"prompt": [USER], "reward_model": {"ground_truth": '{"inputs": ["1"], "outputs": ["2"]}'}},
        {"problem": [USER], "tests": '{"inputs": ["1"], "outputs": ["2"]}'},
    ),
    (
        "open_r1",
        {"problem": "1+1", "solution": "It is 2.", "answer": "2", "generations": ["x"], "uuid": "u"},
        {"problem": "1+1", "answer": "2", "solution": "It is 2."},
    ),
    (
        "math",
        {"problem": "1+1", "level": "Level 1", "type": "Algebra", "solution": "So $\\boxed{2}$."},
        {"problem": "1+1", "answer": "So $\\boxed{2}$."},
    ),
    (
        "gsm8k",
        {"question": "1+1", "answer": "1+1=<<1+1=2>>2\n#### 2"},
        {"problem": "1+1", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    ),
    ("problem", {"question": "1+1", "answer": "2"}, {"problem": "1+1", "answer": "2"}),
    (
        "tests",  # APPS and TACO
        {
            "question": "Double",
            "solutions": '["print(2)"]',
            "input_output": '{"inputs": ["1"]}',
            "starter": "",
        },
        {"problem": "Double", "input_output": '{"inputs": ["1"]}', "solution": '["print(2)"]'},
    ),
    (
        "tests",  # LiveCodeBench
        {"question_title": "D", "question_content": "Double", "public_test_cases": UNIT, "metadata": "{}"},
        {"problem": "Double", "public_test_cases": UNIT, "metadata": "{}"},
    ),
    (
        "humaneval",
        {
            "task_id": "H/0",
            "prompt": "def f():",
            "entry_point": "f",
            "canonical_solution": " return 1",
            "test": "def check(c): assert c() == 1",
        },
        {
            "problem": "def f():",
            "test": "def check(c): assert c() == 1",
            "entry_point": "f",
            "solution": " return 1",
        },
    ),
    (
        "tests",  # MBPP
        {"task_id": 1, "text": "Double x", "code": "def f(x): ...", "test_list": ["assert f(1) == 2"]},
        {"problem": "Double x", "test_list": ["assert f(1) == 2"], "solution": "def f(x): ..."},
    ),
    (
        "tests",  # CodeContests
        {"description": "Double", "public_tests": {"input": ["1"], "output": ["2"]}, "source": 2},
        {"problem": "Double", "public_tests": {"input": ["1"], "output": ["2"]}},
    ),
    ("prompt", {"prompt": "a"}, {"prompt": "a"}),
]


@pytest.mark.parametrize(("name", "row", "columns"), ROWS, ids=[f"{i}-{r[0]}" for i, r in enumerate(ROWS)])
def test_a_row_is_recognised_and_gets_r1kits_columns(name, row, columns):
    found = recognise(row)
    assert found is not None and found.name == name
    assert normal(Path("f.jsonl"), 1, found, row) == columns


def test_every_schema_has_a_row_here():
    assert {name for name, _, _ in ROWS} == set(SCHEMAS)


@pytest.mark.parametrize("row", [{}, {"label": 1}, {"chosen": "a"}, {"messages": "no turns"}])
def test_other_rows_are_not_recognised(row):
    assert recognise(row) is None


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (
            "alpaca",
            {"instruction": "a", "output": None},
            r"f:3: column 'completion' is missing or not a text",
        ),
        ("alpaca", {"text": "a"}, r"f:3: the file was taken for alpaca .* this row has: text"),
        ("text", {"text": "  "}, r"f:3: the text is empty"),
        ("text", {"text": "NaN"}, r"f:3: the text is empty"),
        ("text", {"text": {"inner": "a"}}, r"f:3: column 'text' is missing or not a text"),
        ("messages", {"messages": [USER, USER, ASSISTANT]}, r"f:3: .*two of one role follow each other"),
        ("messages", {"messages": [USER]}, r"f:3: .*ends with an assistant turn"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": None}, r"f:3: column 'rejected'"),
        ("unpaired", {"prompt": "a", "completion": "b", "label": "yes"}, r"f:3: column 'label'"),
        ("gsm8k", {"question": "", "answer": "#### 1"}, r"f:3: the problem is empty"),
        ("problem", {"question": "a", "answer": "N/A"}, r"f:3: the answer is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_row_and_column(name, row, message):
    with pytest.raises(R1kitError, match=message):
        normal(Path("f"), 3, schema_named(name), row)


def test_an_unknown_schema_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"unknown schema 'alpacca'.*alpaca"):
        schema_named("alpacca")


def test_fine_tuning_reads_rows_of_alpaca_and_sharegpt():
    row = {"instruction": "Add", "input": "1 2", "output": "3"}
    assert read_pairs(Path("f"), 1, row) == [("Add\n\n1 2", "3")]
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    assert read_pairs(Path("f"), 1, {"conversations": turns}) == [("Hi", "Hello")]


def test_the_document_of_a_row_has_all_its_texts_in_order():
    assert document_of({"messages": [SYSTEM, USER, ASSISTANT]}) == "Be brief.\nHi\nHello"
    assert document_of({"answer": "2", "problem": "1+1", "solution": "So 2"}) == "1+1\nSo 2\n2"
