"""The test columns of public data sets: each layout judges a right and a wrong program."""
# ruff: noqa: E501 - one case, one entry

import base64
import io
import json
import pickle
import zlib

import pytest

from r1kit.config import R1kitError
from r1kit.tasks import Dataset

ADD = "def add(a, b):\n    return a + b"
SUB = "def add(a, b):\n    return a - b"
SOLUTION = (
    "class Solution:\n    def add(self, a: int, b: Optional[int] = 0) -> int:\n        return a {sign} b"
)
SUM = "print(sum(map(int, input().split())))"
PAIR = "print(input().split()[0])"
IN_OUT = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}
STDIN = [
    {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
    {"input": "3 4\n", "output": "7\n", "testtype": "stdin"},
]
FUNCTIONAL = [
    {"input": "1\n2", "output": "3", "testtype": "functional"},
    {"input": "3\n4", "output": "7", "testtype": "functional"},
]


def compressed(tests):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


LAYOUTS = {
    "APPS": ({"question": "Q", "input_output": IN_OUT}, SUM, PAIR),
    "APPS, lists of lines": ({"question": "Q", "input_output": {"inputs": [["1 2"]], "outputs": [["3"]]}}, SUM, PAIR),
    "APPS as text": ({"question": "Q", "input_output": json.dumps(IN_OUT)}, SUM, PAIR),
    "APPS, a function": ({"question": "Q", "input_output": json.dumps(CALLS)}, ADD, SUB),
    "APPS, results in lists": ({"question": "Q", "input_output": {**CALLS, "outputs": [[3], [7]]}}, ADD, SUB),
    "TACO": ({"question": "Q", "input_output": json.dumps(CALLS), "starter_code": "def add(a, b):\n\t"}, ADD, SUB),
    "TACO, a class": ({"question": "Q", "input_output": json.dumps(CALLS)}, SOLUTION.format(sign="+"), SOLUTION.format(sign="-")),
    "PRIME": ({"prompt": [{"role": "user", "content": "Q"}], "reward_model": {"style": "rule", "ground_truth": json.dumps(IN_OUT)}}, SUM, PAIR),
    "PRIME, a function": ({"prompt": "Q", "reward_model": {"ground_truth": json.dumps(CALLS)}}, ADD, SUB),
    "verl, asserts": ({"prompt": "Q", "reward_model": {"ground_truth": json.dumps(["assert add(1, 2) == 3"])}}, ADD, SUB),
    "LiveCodeBench": ({"question_content": "Q", "public_test_cases": json.dumps(STDIN[:1]), "private_test_cases": json.dumps(STDIN)}, SUM, PAIR),
    "LiveCodeBench, compressed": ({"question_content": "Q", "public_test_cases": json.dumps([]), "private_test_cases": compressed(STDIN)}, SUM, PAIR),
    "LiveCodeBench, a method": (
        {"question_content": "Q", "public_test_cases": json.dumps(FUNCTIONAL), "private_test_cases": compressed(FUNCTIONAL),
         "metadata": json.dumps({"func_name": "add"}), "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        "},
        SOLUTION.format(sign="+"), SOLUTION.format(sign="-")),
    "open-r1": ({"problem": "Q", "verification_info": {"language": "python", "test_cases": [{"input": "1 2\n", "output": "3\n", "fn_name": None, "type": "stdin_stdout"}]}}, SUM, PAIR),
    "open-r1 as text": ({"problem": "Q", "verification_info": str({"test_cases": [{"input": "1 2\n", "output": "3\n", "type": "stdin_stdout"}]})}, SUM, PAIR),
    "open-r1, a function": ({"problem": "Q", "verification_info": json.dumps({"test_cases": [{"input": [1, 2], "output": [3], "fn_name": "add", "type": "function_call"}]})}, ADD, SUB),
    "DeepCoder": ({"problem": "Q", "tests": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin_stdout"}])}, SUM, PAIR),
    "DeepCoder, a function": ({"problem": "Q", "tests": json.dumps(FUNCTIONAL), "metadata": {"func_name": "add"}}, ADD, SUB),
    "HumanEval": (
        {"prompt": 'def helper(a):\n    return a + 1\n\n\ndef add(a, b):\n    """Add."""\n', "canonical_solution": "    return a + b\n", "entry_point": "add",
         "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert helper(candidate(3, 4)) == 8\n"}, ADD, SUB),
    "HumanEval+": (
        {"prompt": 'def add(a, b):\n    """Add."""\n', "canonical_solution": "    return a + b\n", "entry_point": "add",
         "test": "import numpy as np\n\ndef assertion(out, exp, atol):\n    exact = out == exp\n    if atol == 0 and isinstance(exp, float):\n        atol = 1e-6\n    if not exact and atol != 0:\n"
                 "        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n    else:\n        assert exact\n\n\ndef check(candidate):\n    inputs = [[1, 2], [3, 4]]\n    results = [3, 7.0000001]\n"
                 "    for inp, exp in zip(inputs, results):\n        assertion(candidate(*inp), exp, 0)\n"}, ADD, SUB),
    "MBPP": ({"text": "Q", "code": ADD, "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "", "challenge_test_list": []}, ADD, SUB),
    "MBPP+": (
        {"prompt": "Q", "code": ADD, "test_imports": [], "test_list": ["assert add(1, 1) == 2", "assert add(2, 0) == 2"],
         "test": "import numpy as np\nfrom math import inf\n\ndef assertion(out, exp, atol):\n    assert out == exp\n\ninputs = [[1, 2]]\nresults = [3]\n"
                 "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(add(*inp), exp, 0)\n"}, ADD, SUB),
    "AceCode": ({"question": "Q", "test_cases": ["assert add(1, 2) == 3", "assert add(3, 4) == 7"]}, ADD, SUB),
    "CodeContests": (
        {"description": "Q", "public_tests": {"input": ["1 2\n"], "output": ["3\n"]}, "private_tests": {"input": [], "output": []},
         "generated_tests": {"input": ["3 4\n"], "output": ["7\n"]}, "time_limit": {"seconds": 2, "nanos": 500_000_000}, "memory_limit_bytes": 256_000_000}, SUM, PAIR),
    "Codeforces": ({"description": "Q", "official_tests": [{"input": "1 2\n", "output": "3\n"}], "examples": [{"input": "3 4\n", "output": "7\n"}], "time_limit": 2.0, "memory_limit": 256.0,
                    "generated_checker": None, "input_mode": "stdio"}, SUM, PAIR),
    "LeetCode": (
        {"prompt": "import random\nfrom typing import *\n", "query": "Q", "problem_description": "Q", "entry_point": "Solution().add", "starter_code": "class Solution:\n    def add(self, a, b):\n        ",
         "test": "def check(candidate):\n    assert candidate(a = 1,b = 2) == 3\n    assert candidate(a = 3,b = 4) == 7\n"}, SOLUTION.format(sign="+"), SOLUTION.format(sign="-")),
    "LeetCode examples": (
        {"query": "Q", "entry_point": "Solution().add", "input_output": [{"input": "a = 1, b = 2", "output": "3"}, {"input": "a = 3, b = 4", "output": "7"}]},
        SOLUTION.format(sign="+"), SOLUTION.format(sign="-")),
}  # fmt: skip


def judged(tmp_path, row, *answers, **options):
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    task = Dataset("d", held_out=str(tmp_path / "d.jsonl"), check="program", **options)
    (problem,) = task.problems("held_out")
    return problem, task.check_batch(
        [problem] * len(answers), [f"So:\n```python\n{text}\n```" for text in answers]
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_judges_a_right_and_a_wrong_program(tmp_path, name):
    row, right, wrong = LAYOUTS[name]
    problem, verdicts = judged(tmp_path, row, right, wrong)
    assert [verdict.outcome for verdict in verdicts] == ["correct", "wrong"], verdicts
    assert verdicts[1].reason.startswith("wrong_answer"), verdicts[1]
    assert "3\n" not in problem.prompt.replace("3 4\n", "")


def test_what_a_layout_says_besides_tests_is_used(tmp_path):
    contest, _ = judged(tmp_path, LAYOUTS["CodeContests"][0])
    assert (
        contest.columns["time_limit_s"],
        contest.columns["memory_limit_mb"],
        len(contest.columns["tests"]),
    ) == (2.5, 244, 2)
    forces, _ = judged(tmp_path, LAYOUTS["Codeforces"][0])
    assert (
        forces.columns["time_limit_s"],
        forces.columns["memory_limit_mb"],
        len(forces.columns["tests"]),
    ) == (2.0, 256, 2)
    method, _ = judged(tmp_path, LAYOUTS["LiveCodeBench, a method"][0])
    assert "class Solution:\n    def add(self" in method.prompt and len(method.columns["tests"]) == 4
    plus, _ = judged(tmp_path, LAYOUTS["HumanEval+"][0])
    assert plus.answer == 'def add(a, b):\n    """Add."""\n    return a + b\n'


@pytest.mark.parametrize(
    ("returned", "expected", "right"),
    [("(1, 2)", [1, 2], True), ("[1, 2]", [1, 2], True), ("[2, 1]", [1, 2], False), ("2.0", 2, True), ("2.5", 2, False), ("{1: 2}", {"1": 2}, True),
     ("{'1': 2}", {"1": 2}, True), ("{1: 3}", {"1": 2}, False), ("[5]", [5], True), ("5", [5], True), ("[[5]]", [5], False), ("True", 1, False), ("'2'", 2, False),
     ("[(1, 2), (3, 4)]", [[1, 2], [3, 4]], True), ("{1, 2}", [1, 2], False), ("10**400", 1.5, False)],
)  # fmt: skip
def test_values_are_compared_as_json_holds_them(tmp_path, returned, expected, right):
    row = {"question": "Q", "input_output": {"fn_name": "f", "inputs": [[]], "outputs": [expected]}}
    _, (verdict,) = judged(tmp_path, row, f"def f():\n    return {returned}")
    assert (verdict.outcome == "correct") is right


ANY_PAIR = """
import sys
names = sys.argv[1:]
whole, right, printed = (open(name).read().split() for name in names)
ok = len(printed) == len(right) and sum(map(int, printed)) == int(whole[0])
print(1 if ok else 0)
"""
SPLIT = {
    "description": "Q",
    "examples": [{"input": "5\n", "output": "2 3\n"}],
    "generated_tests": 3,
    "input_mode": "stdio",
}


@pytest.mark.parametrize("column", ["generated_checker", "checker", "checker_code"])
def test_a_checker_in_python_accepts_every_right_output(tmp_path, column):
    row = {**SPLIT, "official_tests": [{"input": "9\n", "output": "4 5\n"}], column: ANY_PAIR}
    answers = (
        "print(1, int(input()) - 1)",
        "print(2, 3)",
        "print(4, int(input()) - 3)",
        "print(int(input()))",
    )
    problem, verdicts = judged(tmp_path, row, *answers)
    assert [verdict.outcome for verdict in verdicts] == ["correct", "wrong", "wrong", "wrong"]
    assert [len(verdict.tests) for verdict in verdicts] == [2, 2, 1, 1]
    assert len(problem.columns["tests"]) == 2  # the number in generated_tests is no test
    _, (compared,) = judged(tmp_path, {**row, column: None}, answers[0])
    assert compared.outcome == "wrong"


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"checker": '#include "testlib.h"\nint main(int argc, char* argv[]) { quitf(_ok, ""); }'}, "the checker in column checker is written in C++"),
     ({"generated_checker": "#include <bits/stdc++.h>\nusing namespace std;"}, "written in C++"), ({"checker": "for i in"}, "is no Python (SyntaxError"),
     ({"checker": "import sys\nprint(eval(open(sys.argv[3]).read()) == 1)"}, "could execute what a program prints (eval)"),
     ({"checker": "from pickle import load\nprint(1)"}, "could execute what a program prints (pickle)"),
     ({"generated_checker": ANY_PAIR, "input_mode": "file"}, "a named file"), ({"output_mode": "file"}, "a named file"), ({"interaction_format": "Ask."}, "interactive"),
     ({"checker": ANY_PAIR, "examples": None, "tests": [{"args": [1], "expected": 2}], "entry_point": "f"}, "a checker judges what a program prints")],
)  # fmt: skip
def test_what_no_checker_can_judge_here_is_unverifiable_and_says_why(tmp_path, more, reason):
    _, verdicts = judged(tmp_path, {**SPLIT, **more}, "print(2, 3)", "print(0)")
    assert {verdict.outcome for verdict in verdicts} == {"unverifiable"}
    assert reason in verdicts[0].reason


def test_a_checker_that_is_no_text_is_an_error_of_the_file(tmp_path):
    with pytest.raises(R1kitError, match="column checker is a Python script as a text"):
        judged(tmp_path, {**SPLIT, "checker": {"type": "wcmp"}}, "print(2, 3)")


class Harm:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Harm()), pickle.dumps([1]), pickle.dumps(["a"]), pickle.dumps({"a": "b"}), pickle.dumps(3), b"", b"junk", b"\x80\x04.",
     pickle.dumps("a")[:-1], pickle.dumps(io.StringIO)],
)  # fmt: skip
def test_nothing_but_a_text_is_unpickled(tmp_path, capfd, content):
    text = base64.b64encode(zlib.compress(content)).decode()
    with pytest.raises(
        R1kitError,
        match=r"d\.jsonl:1: column 'private_test_cases'.*(neither JSON nor base64|no list in JSON)",
    ):
        judged(tmp_path, {"question_content": "Q", "private_test_cases": text})
    assert "unpickled" not in capfd.readouterr().out


def test_compressed_tests_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("r1kit.tasks.test_layouts.LARGEST_TESTS", 1000)
    with pytest.raises(R1kitError, match="MB of tests"):
        judged(tmp_path, {"question_content": "Q", "private_test_cases": compressed(STDIN * 1000)})


@pytest.mark.parametrize(
    ("tests", "message"),
    [({"cases": 1}, r"column 'tests': it is JSON, an object with the keys cases, .*write \[\{\"args\""),
     ('{"a": 1, "b": 2}', "it is JSON, an object with the keys a, b"), ([{"in": 1, "out": 2}], "it is JSON, a list of objects with the keys in, out"),
     ({"inputs": ["1"], "outputs": []}, "inputs and outputs are lists of one length"), ({"inputs": "1", "outputs": "2"}, "inputs and outputs are lists"),
     ([{"input": "1", "output": "2", "testtype": "functional"}], "tests of functions need an entry_point")],
)  # fmt: skip
def test_an_unknown_layout_is_named_with_the_shape_to_write(tmp_path, tests, message):
    with pytest.raises(R1kitError, match=message):
        judged(tmp_path, {"prompt": "Q", "tests": tests})


def test_a_tolerance_of_the_row_holds_for_what_is_printed(tmp_path):
    row = {"prompt": "Q", "tests": [{"stdin": "", "stdout": "0.333333333333\n"}], "tolerance": 1e-6}
    assert [v.outcome for v in judged(tmp_path, row, "print(0.333333)", "print(0.34)")[1]] == [
        "correct",
        "wrong",
    ]
    strict = {**row, "tolerance": None}
    assert [v.outcome for v in judged(tmp_path, strict, "print(0.333333)")[1]] == ["wrong"]
    with pytest.raises(R1kitError, match="tolerance must be a number of at least 0"):
        judged(tmp_path, {**row, "tolerance": "small"})


def test_several_functions_are_named_in_one_column(tmp_path):
    row = {
        "prompt": "Q",
        "entry_point": ["pack", "unpack"],
        "tests": "assert unpack(pack('aab')) == 'aab'\nassert pack('aab') == [('a', 2), ('b', 1)]",
    }
    right = "import itertools\ndef pack(s): return [(k, len(list(g))) for k, g in itertools.groupby(s)]\ndef unpack(p): return ''.join(k * n for k, n in p)"
    problem, verdicts = judged(
        tmp_path, row, right, "def pack(s): return s\ndef unpack(s): return s", "def pack(s): return s"
    )
    assert [verdict.outcome for verdict in verdicts] == ["correct", "wrong", "wrong"]
    assert problem.prompt == "Q\n\nName it `pack` and `unpack`."
