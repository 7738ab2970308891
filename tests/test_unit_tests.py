"""Unit tests written by a model: what it writes is only input, and two filters decide what stays."""

import json
from types import SimpleNamespace

from r1kit.stages import unit_tests
from r1kit.stages.unit_tests import UnitTests, agreed_tests, read_inputs, rejects_all

RIGHT = "def f(x):\n    return abs(x)"
ALSO_RIGHT = "def f(x):\n    return x if x > 0 else -x"
WRONG = "def f(x):\n    return x"


def test_inputs_are_read_from_a_reply_and_nothing_is_evaluated():
    assert read_inputs("Sure: [[1], [-2]] there") == [[1], [-2]]
    assert read_inputs("[[1], 5, [2]]") == [[1], [2]]
    for junk in ("", "[", "no", "{}", "[__import__('os')]", "[" * 100_000):
        assert read_inputs(junk) == []


def test_only_inputs_on_which_the_solutions_agree_stay():
    inputs = [[1], [-2], [1], ["a"], [0]]
    agreed = [{"args": [1], "expected": 1}, {"args": [-2], "expected": 2}, {"args": [0], "expected": 0}]
    assert agreed_tests([RIGHT, ALSO_RIGHT], inputs, "f", 1.0) == agreed
    assert agreed_tests([RIGHT, ALSO_RIGHT, WRONG], [[-2]], "f", 1.0) == []
    assert agreed_tests([RIGHT, ALSO_RIGHT, WRONG], [[-2]], "f", 0.6) == [{"args": [-2], "expected": 2}]
    assert agreed_tests(["def f(x): return (x,)"], [[1]], "f", 1.0) == []


def test_tests_must_reject_what_is_known_to_be_wrong():
    assert rejects_all([{"args": [-2], "expected": 2}], [WRONG], "f")
    assert not rejects_all([{"args": [2], "expected": 2}], [WRONG], "f")


def test_the_stage_writes_the_problems_that_pass_both_filters(tmp_path, monkeypatch):
    rows = [{"prompt": "absolute value", "entry_point": "f", "solutions": [RIGHT, ALSO_RIGHT], "wrong": [WRONG]},
            {"prompt": "weakly tested", "entry_point": "f", "solutions": [RIGHT], "wrong": [RIGHT]}]  # fmt: skip
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(unit_tests, "complete_chat", lambda *_: "<think>hm</think>[[1], [-2], [0]]")
    said = []
    ctx = SimpleNamespace(out=tmp_path, path=lambda name: tmp_path / name, seed=0, log=SimpleNamespace(info=said.append))
    UnitTests(problems="problems.jsonl", endpoint="http://localhost", model="m").run(ctx)
    written = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in written] == ["absolute value"]
    assert written[0]["tests"][1] == {"args": [-2], "expected": 2}
    assert said == ["1 of 2 problems have tests that their solutions agree on and that wrong programs fail"]
