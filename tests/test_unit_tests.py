"""Unit tests written by a model: what it writes is only input, and two filters decide what stays."""

import json
from types import SimpleNamespace

import pytest
from scripted import endpoint

from r1kit.config import R1kitError
from r1kit.stages import unit_tests
from r1kit.stages.unit_tests import UnitTests, agreed_tests, read_inputs, read_program, rejecting_tests
from r1kit.types import Verdict

RIGHT = "def f(x):\n    return abs(x)"
ALSO_RIGHT = "def f(x):\n    return x if x > 0 else -x"
WRONG = "def f(x):\n    return x"


def test_inputs_are_read_from_a_reply_and_nothing_is_evaluated():
    assert read_inputs("Sure: [[1], [-2]] there") == [[1], [-2]]
    assert read_inputs("[[1], 5, [2]]") == [[1], [2]]
    assert read_inputs('As said in [1]:\n```json\n[[1, "]"], [2, "["]]\n```\nSee [note].') == [
        [1, "]"],
        [2, "["],
    ]
    for junk in ("", "[", "no", "{}", "[__import__('os')]", "[" * 100_000, "[[NaN]]", "[1, 2]", "[[1], [2]"):
        assert read_inputs(junk) == []


def test_programs_are_read_from_a_reply():
    assert read_program("```python\nx = 1\n```\nor better\n```\ny = 2\n```") == "y = 2\n"
    assert read_program("def f(x): return x") == "def f(x): return x"


def test_only_inputs_on_which_the_solutions_agree_stay():
    inputs = [[1], [-2], [1], ["a"], [0]]
    agreed = [{"args": [1], "expected": 1}, {"args": [-2], "expected": 2}, {"args": [0], "expected": 0}]
    assert agreed_tests([RIGHT, ALSO_RIGHT], inputs, "f", 1.0) == agreed
    assert agreed_tests([RIGHT, ALSO_RIGHT, WRONG], [[-2]], "f", 1.0) == []
    assert agreed_tests([RIGHT, ALSO_RIGHT, WRONG], [[-2]], "f", 0.6) == [{"args": [-2], "expected": 2}]
    assert agreed_tests([], [[1]], "f", 1.0) == []


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("(x,)", ()),
        ("{x}", ()),
        ("float('nan')", ()),
        ("{1: x}", ()),
        ("'{x}'", ("{x}",)),
        ("2 ** 80", (2**80,)),
        ("{'a': [x, None]}", ({"a": [3, None]},)),
        ("x / 4", (0.75,)),
        ("[[], {'b': {}}]", ([[], {"b": {}}],)),
        ("object()", ()),
        ("1 / 0", ()),
    ],
)
def test_only_results_that_a_data_file_holds_exactly_become_tests(result, expected):
    tests = agreed_tests([f"def f(x): return {result}"], [[3]], "f", 1.0)
    assert [test["expected"] for test in json.loads(json.dumps(tests))] == list(expected)
    assert [test.get("tolerance") for test in tests] == [
        1e-6 if isinstance(value, float) else None for value in expected
    ]


def test_tests_must_reject_what_is_known_to_be_wrong():
    weak, strong = [{"args": [n], "expected": n} for n in range(9)], {"args": [-2], "expected": 2}
    assert rejecting_tests([strong], [WRONG], "f", 5) == [strong]
    assert rejecting_tests(weak, [WRONG], "f", 5) == []
    assert rejecting_tests([*weak, strong], [WRONG, "def f(x): raise ValueError"], "f", 3) == [
        weak[0],
        weak[1],
        strong,
    ]
    assert (
        rejecting_tests([*weak, strong], ["def f(x) return", "import time\ntime.sleep(9)"], "f", 2, 0.2)
        == weak[:2]
    )
    assert rejecting_tests(weak, [], "f", 4) == weak[:4]


def test_a_program_that_could_not_be_judged_stops_the_stage(monkeypatch):
    monkeypatch.setattr(unit_tests, "run_programs", lambda *_, **__: [Verdict("failed", "sandbox: gone")])
    with pytest.raises(R1kitError, match="sandbox: gone"):
        rejecting_tests([{"args": [1], "expected": 1}], [WRONG], "f", 1)


def run(tmp_path, rows, **options):
    """Run the stage over rows; what it wrote, its report, what it said."""
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = []
    ctx = SimpleNamespace(
        out=tmp_path,
        path=lambda name: tmp_path / name,
        seed=0,
        identities=(),
        log=SimpleNamespace(info=said.append, check_place=int),
    )
    UnitTests(problems="problems.jsonl", model="m", **options).run(ctx)
    written = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    return written, json.loads((tmp_path / "report.json").read_text()), said


def test_the_stage_writes_the_problems_that_pass_both_filters(tmp_path):
    rows = [
        {"prompt": "absolute value", "entry_point": "f", "solutions": [RIGHT, ALSO_RIGHT], "wrong": [WRONG]},
        {"prompt": "weakly tested", "entry_point": "f", "solutions": [RIGHT], "wrong": [RIGHT]},
        {"prompt": "says nothing", "entry_point": "f", "solutions": [RIGHT]},
    ]

    def reply(request):
        return (
            "no idea"
            if request["messages"][0]["content"].endswith("says nothing")
            else "<think>[[9]]</think>[[1], [-2], [0]]"
        )

    with endpoint(reply) as (url, seen):
        written, report, said = run(tmp_path, rows, endpoint=url)
    assert [row["prompt"] for row in written] == ["absolute value"]
    assert written[0]["tests"] == [
        {"args": [1], "expected": 1},
        {"args": [-2], "expected": 2},
        {"args": [0], "expected": 0},
    ]
    assert said == ["1 of 3 problems have tests that their solutions agree on and that wrong programs fail"]
    assert (report["problems"], report["kept"], report["tests"], report["without_wrong_programs"]) == (
        3,
        1,
        3,
        0,
    )
    assert {path for path, _ in seen} == {"/v1/chat/completions"}
    assert sorted(request["seed"] for _, request in seen) == [0, 0, 0, 1, 1, 1]


def test_solutions_that_a_row_lacks_are_sampled_and_the_majority_decides(tmp_path):
    solutions = {0: RIGHT, 1: ALSO_RIGHT, 2: WRONG, 3: "I cannot", 4: f"```python\n{RIGHT}\n```"}

    def reply(request):
        return (
            '[[1], [-2], [-3], ["a"]]'
            if request["messages"][0]["content"].startswith("Write inputs")
            else solutions[request["seed"]]
        )

    rows = [{"prompt": "absolute value", "entry_point": "f", "wrong": [WRONG]}]
    with endpoint(reply) as (url, _):
        written, _, _ = run(tmp_path, rows, endpoint=url, sampled_solutions=5, agreement=0.6)
        assert run(tmp_path, rows, endpoint=url, sampled_solutions=5, agreement=0.9)[0] == []
    assert [test["expected"] for test in written[0]["tests"]] == [1, 2, 3]
    assert len(written[0]["solutions"]) == 5


def test_an_endpoint_that_fails_now_and_then_is_asked_again_and_one_that_is_down_stops_the_stage(tmp_path):
    rows = [{"prompt": "absolute value", "entry_point": "f", "solutions": [RIGHT]}]
    troubles = iter([500, 503])
    with endpoint(lambda _: next(troubles, "[[1], [2], [3]]")) as (url, seen):
        assert len(run(tmp_path, rows, endpoint=url, samples=1)[0]) == 1
    assert len(seen) == 3
    with endpoint(lambda _: 404) as (url, _), pytest.raises(R1kitError, match="is the server up"):
        run(tmp_path, rows, endpoint=url, samples=1)


def test_a_row_without_what_is_needed_is_named(tmp_path):
    with pytest.raises(R1kitError, match=r"jsonl:1: no column solutions; a row has prompt"):
        run(tmp_path, [{"prompt": "p", "entry_point": "f"}])
