"""The sandbox: verdicts and their reasons, kinds of tests, and that a lost worker changes nothing."""
# ruff: noqa: E501 - one case, one entry

import ast
import builtins
import contextlib
import json
import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from public_data import DATA

from r1kit.config import ConfigError, R1kitError
from r1kit.report import sentences
from r1kit.report.document import markdown
from r1kit.report.report import compose
from r1kit.sandbox import Job, kernel, pool, probe, run_jobs, run_program, run_programs, zygote_handle
from r1kit.sandbox.channel import Channel, TimeLimit
from r1kit.sandbox.codec import CodecError, decode, encode
from r1kit.sandbox.comparison import matches, same_output
from r1kit.sandbox.leetcode import names_for
from r1kit.sandbox.programs import lint
from r1kit.sandbox.scratch import is_too_full, remove_tree
from r1kit.sandbox.tested_names import free_names

INCREMENT = "def f(x):\n    return x + 1"
ONE = [{"args": [1], "expected": 2}]


def verdict(program, tests, **options):
    return run_program(program, tests, **{"time_limit_s": 1.0, **options})


def test_a_right_program_is_correct_and_a_wrong_one_wrong():
    assert verdict(INCREMENT, [*ONE, {"args": [5], "expected": 6}], entry_point="f").tests == (
        "correct",
        "correct",
    )
    wrong = verdict(INCREMENT, [*ONE, {"args": [5], "expected": 7}], entry_point="f")
    assert (wrong.outcome, wrong.tests) == ("wrong", ("correct", "wrong"))


@pytest.mark.parametrize(
    ("program", "reason"),
    [("def f(x) return", "lint"), ("def f(x): raise ValueError('no')", "exception"), ("import sys; sys.exit(0)", "exception"),
     ("def f(x):\n while True: pass", "timeout"), ("def f(x): return bytearray(10**10)", "memory"), ("def f(x): return 3", "wrong_answer"),
     ("def g(x): return 2", "missing"), ("import os\ndef f(x): os._exit(0)", "killed"), ("1 / 0", "exception")],
)  # fmt: skip
def test_the_reason_says_how_a_program_failed(program, reason):
    result = verdict(program, ONE, entry_point="f", time_limit_s=0.5)
    assert result.outcome == "wrong"
    assert result.reason.partition(":")[0] == reason


@pytest.mark.parametrize(
    ("returned", "expected", "right"),
    [("1", 1, True), ("True", 1, False), ("1.0", 1, False), ("1", 1.0, False), ("'1'", 1, False), ("[1, 2]", [1, 2], True),
     ("(1, 2)", [1, 2], False), ("(1, 2)", (1, 2), True), ("{1: [2], 'a': None}", {"a": None, 1: [2]}, True), ("{1: 2}", {True: 2}, False),
     ("{3, 1}", {1, 3}, True), ("frozenset([1])", {1}, False), ("float('nan')", math.nan, True), ("float('nan')", 1.0, False),
     ("10**30", 10**30, True), ("b'x'", b"x", True), ("b'x'", "x", False), ("2+3j", 2 + 3j, True), ("None", None, True), ("''", None, False),
     ("{'b': 1, 'a': 2}", {"a": 2, "b": 1}, True), ("[[]]", [[]], True), ("[]", [[]], False), ("'\\u00e9'", "é", True)],
)  # fmt: skip
def test_results_are_compared_with_exact_types(returned, expected, right):
    assert (
        verdict(
            f"def f():\n    return {returned}", [{"args": [], "expected": expected}], entry_point="f"
        ).outcome
        == "correct"
    ) is right


@pytest.mark.parametrize(
    ("expected", "data", "tolerance", "right"),
    [(1.0, 1.0000001, 1e-6, True), (1.0, 1.1, 1e-6, False), (1.0, {"x": "nan"}, 1e-6, False), (1.0, {"x": "inf"}, 1e-6, False), (2, 2.0, 1e-9, True),
     (1e9, 1e9 + 1, 1e-6, True), ([1.0], [1.0000001], 1e-6, True), (1.0, True, 1e-6, False), (1.0, "1.0", 1e-6, False)],
)  # fmt: skip
def test_a_tolerance_is_for_numbers_and_never_accepts_nan(expected, data, tolerance, right):
    assert matches(expected, data, tolerance) is right


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -5, 2**100, 1.5, -math.inf, "é\ud800", b"\x00", (1, (2,)), [[], {}], {"a": 1, (1, 2): [3]}, {1, 2}, frozenset([3]), 2j, range(1, 9, 2),
     Decimal("1.20"), Fraction(1, 3), int, Ellipsis],
)  # fmt: skip
def test_plain_values_cross_unchanged(value):
    crossed = decode(encode(value))
    assert crossed == value
    assert type(crossed) is type(value)


def test_subclasses_are_flattened_and_objects_refused():
    class Sly(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    assert type(decode(encode(Sly(3)))) is int
    assert type(decode(encode(Counter("aab")))) is dict
    with pytest.raises(CodecError):
        encode(object())


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[",
        b'{"i":"zz"}',
        b'{"a":1,"b":2}',
        b'{"T":"eval"}',
        b'{"h":[0]}',
        b'{"d":[1]}',
        b"[" * 5000,
        b'{"at":["x","y"]}',
    ],
)
def test_what_is_no_message_is_refused(message):
    with pytest.raises(CodecError):
        decode(message)


def test_standard_input_and_output():
    tests = [{"stdin": "2\n3\n", "stdout": "5\n"}, {"stdin": "1\n1\n", "stdout": "2"}]
    assert verdict("print(int(input()) + int(input()))", tests, kind="stdio").outcome == "correct"
    assert verdict("print(5)", tests, kind="stdio").tests == ("correct", "wrong")
    assert verdict("while True: print('x' * 10**6)", tests, kind="stdio", time_limit_s=2.0).reason.partition(
        ":"
    )[0] in ("output", "exception", "timeout")


@pytest.mark.parametrize(
    ("expected", "printed", "tolerance", "same"),
    [
        (b"2.50", b"2.5", None, True), (b"3", b"3.0", None, True), (b"3.0\n", b"3\n", None, True), (b"0.0000001", b"1e-07", None, True), (b"0.5", b".5", None, True),
        (b"[2.50, 3]", b"[2.5, 3.0]", None, True), (b"-0.0", b"0.0", None, True), (b"1e3", b"1000", None, True), (b"+2.5", b"2.50", None, True),
        (b"0.333333333333", b"0.333333", None, False), (b"0.333333", b"0.34", None, False), (b"7", b"007", None, False), (b"7.0", b"07", None, False), (b"1.5 2", b"1.5  2", None, False),
        (b"0.333333", b"0.34", 1e-6, False), (b"0.333333333333", b"0.333333", 1e-6, True), (b"1.0 2.0", b"1.0000001 2.0", 1e-6, True), (b"1.0 2.0", b"1.0000001 2.1", 1e-6, False),
        (b"1000000.0", b"1000000.9", 1e-6, True), (b"1000000.0", b"1000001.1", 1e-6, False), (b"1000000", b"1000001", 1e-6, False), (b"3", b"2.9999999", 1e-6, True),
        (b"1.0", b"nan", 1e9, False), (b"1.0", b"inf", 1e9, False), (b"nan", b"nan", None, True), (b"a1.50", b"a1.5", None, False), (b"1.5", b"1.5\n1.5", None, False),
        (b"1e9999", b"1e-9999", 1e-6, False), (b"1e99999999", b"2e99999999", 1.0, False), (b"1." + b"0" * 3000, b"1", None, False), (b"0.1" + b"0" * 300, b"0.1", None, True),
    ],
)  # fmt: skip
def test_printed_decimals_are_compared_by_value(expected, printed, tolerance, same):
    assert same_output(expected, printed, tolerance) is same


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (b"1\n2\n", b"1 \n2", True),
        (b"1\n", b"1\n\n\n", True),
        (b"1\n2\n", b"1\n", False),
        (b"", b"x", False),
        (b"x", b"", False),
        (b"1 2", b"1  2", False),
    ],
)
def test_printed_lines_are_compared_whole(expected, printed, same):
    assert same_output(expected, printed) is same


@pytest.mark.parametrize(
    "tests",
    ["assert f(1) == 2", "import math\nassert math.isclose(f(1), 2)", "def check(candidate):\n    assert candidate(1) == 2", "def test_f():\n    assert f(1) == 2",
     "def test_f():\n    assert f(1) == 2\ntest_f()", "from unittest import TestCase\nclass T(TestCase):\n    def test(self):\n        self.assertEqual(f(1), 2)",
     "def helper(v): return v * 2\nassert f(1) == helper(1)", "for x in range(5):\n    assert f(x) == x + 1", "assert isinstance(f(1), int) and str(f(1)) == '2'",
     "try:\n    f('a')\nexcept TypeError:\n    pass\nelse:\n    assert False\nassert f(1) == 2", "assert sys.maxsize and f(1) == 2", "assert f(x=1) == 2"],
)  # fmt: skip
def test_assert_texts_of_many_styles_judge_a_function(tests):
    assert verdict(INCREMENT, tests, kind="asserts", entry_point="f").outcome == "correct"
    assert verdict("def f(x): return x + 2", tests, kind="asserts", entry_point="f").outcome == "wrong"


LEETCODE = """
class Solution:
    def addTwo(self, a: List[int], b: Optional[int] = None) -> int:
        self.calls = getattr(self, "calls", 0) + 1
        return sum(a) + (b or 0) + self.calls - 1
"""


@pytest.mark.parametrize("entry_point", ["addTwo", "Solution().addTwo", "Solution.addTwo"])
def test_a_method_of_solution_is_called_on_a_new_object_with_leetcodes_names(entry_point):
    tests = [{"args": [[1, 2]], "expected": 3}, {"args": [[1], 2], "expected": 3}]
    text = "def check(candidate):\n    assert candidate(a=[1, 2], b=3) == 6\n    assert candidate([1]) == 1"
    wrong = LEETCODE.replace("sum(a)", "len(a)")
    for program, outcome in ((LEETCODE, "correct"), (wrong, "wrong")):
        assert verdict(program, tests, entry_point=entry_point).outcome == outcome
        assert verdict(program, text, kind="asserts", entry_point=entry_point).outcome == outcome
    assert (
        verdict(
            LEETCODE, "s = Solution()\nassert s.addTwo([1, 2]) == 3", kind="asserts", entry_point="Solution"
        ).outcome
        == "correct"
    )


@pytest.mark.parametrize(
    ("program", "entry_point", "reason"),
    [("class Solution:\n    def other(self): return 1", "add", "missing"), ("class Solution:\n    add = 3", "Solution().add", "missing"),
     ("class Other:\n    def add(self): return 1", "Solution().add", "missing"), ("class Solution:\n    def __init__(self, n): pass\n    def add(self): return 1", "add", "exception"),
     ("def add(x: List[int] = None): return 1", "add", "exception"), ("class Solution:\n    def add(self): return pow(2, 3, 5)", "add", "wrong_answer"),
     ("def add(): return 1", "Solution().add", ""), ("class S:\n    def add(self): return 1", "S().add", ""),
     ("class Solution:\n    @staticmethod\n    def add(): return gcd(3, 2) + len(deque()) + inf * 0 if False else 1", "add", "")],
)  # fmt: skip
def test_what_is_a_method_and_what_leetcodes_names_are_for(program, entry_point, reason):
    found = verdict(program, [{"args": [], "expected": 1}], entry_point=entry_point)
    assert (found.outcome, found.reason.partition(":")[0]) == ("wrong" if reason else "correct", reason)


def test_leetcodes_names_replace_no_name_of_python():
    given = names_for("class Solution: pass")
    assert {
        "List",
        "Optional",
        "defaultdict",
        "heappush",
        "lru_cache",
        "gcd",
        "inf",
        "ListNode",
        "math",
        "re",
    } <= set(given)
    assert not set(given) & set(dir(builtins))
    assert names_for("class Other: pass\ns = 'class Solution'") == {}


TWO = "def double(x): return 2 * x\ndef tags(s): return set(s)"
TWO_TESTED = "assert double(3) == 6\nassert tags('aab') == {'a', 'b'}"


@pytest.mark.parametrize("entry_point", ["double", "tags", "double, tags", None])
def test_asserts_may_test_several_functions(entry_point):
    for program, outcome in (
        (TWO, "correct"),
        (f"{TWO}\ndef tags(s): return list(s)", "wrong"),
        (f"{TWO}\ndef double(x): return 7", "wrong"),
        (TWO.partition("\n")[0], "wrong"),
    ):
        assert verdict(program, TWO_TESTED, kind="asserts", entry_point=entry_point).outcome == outcome


@pytest.mark.parametrize(
    "tests",
    ["assert close(f(1), 2)", "assert f(1) == g(2)", "y = g(2)\nassert f(1) == y", "x = f(1)\nassert close(x, 2)", "assert all(map(g, [1])) and f(1) == 2",
     "for x in [f(1)]:\n    assert close(x, 2)", "assert [y for y in [f(1)] if close(y, 2)]", "def check(candidate):\n    assert close(candidate(1), 2)",
     "def test_f():\n    y = g(1)\n    assert y == f(1)", "if g(1):\n    assert f(1) == g(1)", "def helper(v):\n    return close(v, 2)\nassert helper(f(1))", "assert (z := g(2)) == f(1)"],
)  # fmt: skip
def test_no_function_of_a_program_judges_another(tests):
    judge_itself = "def f(x): return 9\ndef g(x): return 9\ndef close(a, b): return True"
    found = verdict(judge_itself, tests, kind="asserts", entry_point="f")
    assert found.outcome == "unverifiable" and "do not define it" in found.reason


def test_an_object_of_the_tests_that_cannot_be_sent_makes_them_unverifiable():
    tests = "class Node:\n    pass\nassert f(Node()) == 2"
    assert verdict(INCREMENT, tests, kind="asserts", entry_point="f").outcome == "unverifiable"


@pytest.mark.parametrize(
    ("program", "kind", "tests", "outcome"),
    [("print(10**6000)", "stdio", [{"stdin": "", "stdout": "1" + "0" * 6000}], "correct"), ("print(10**6000 + 1)", "stdio", [{"stdin": "", "stdout": "1" + "0" * 6000}], "wrong"),
     ("print(int(input()) % 7)", "stdio", [{"stdin": "9" * 6000, "stdout": str((pow(10, 6000, 7) - 1) % 7)}], "correct"), (f"print({'9' * 6000})", "stdio", [{"stdin": "", "stdout": "9" * 6000}], "correct"),
     ("def f(x): return 10**x", "function", [{"args": [6000], "expected": 10**6000}], "correct"), ("def f(x): return 10**x + 1", "function", [{"args": [6000], "expected": 10**6000}], "wrong"),
     ("def f(x): return x + 1", "function", [{"args": [10**6000], "expected": 10**6000}], "wrong"), ("def f(x): return int(str(10**x))", "asserts", f"assert f(6000) == 1{'0' * 6000}", "correct"),
     ("def f(x): return 10**400", "function", [{"args": [1], "expected": 1.5, "tolerance": 1e-6}], "wrong")],
)  # fmt: skip
def test_integers_may_have_any_number_of_digits(program, kind, tests, outcome):
    assert verdict(program, tests, kind=kind, entry_point="f").outcome == outcome


def test_further_right_results_are_accepted():
    tests = [{"args": [1], "expected": 2, "accepted": [3, "two"]}]
    assert [
        verdict(f"def f(x): return {v}", tests, entry_point="f").outcome for v in ("2", "3", "'two'", "4")
    ] == ["correct"] * 3 + ["wrong"]
    printed = [{"stdin": "", "stdout": "1", "accepted": ["2.50"]}]
    assert [verdict(f"print({v})", printed, kind="stdio").outcome for v in ("1", "2.5", "3")] == [
        "correct",
        "correct",
        "wrong",
    ]
    with pytest.raises(ConfigError, match="accepted must be a list"):
        verdict(INCREMENT, [{"args": [1], "expected": 2, "accepted": 3}], entry_point="f")


@pytest.mark.parametrize(
    ("kind", "tests"),
    [("function", ONE), ("asserts", "assert f(1) == 2"), ("stdio", [{"stdin": "", "stdout": "2"}])],
)
def test_a_program_that_sleeps_is_seen_by_the_clock(kind, tests):
    program = "import time\ndef f(x):\n    time.sleep(0.4)\n    return x + 1\nif __name__ == '__main__': print(f(1))"
    found = verdict(program, tests, kind=kind, entry_point="f", time_limit_s=5.0)
    assert found.outcome == "correct" and found.wall_seconds >= 0.4 > found.seconds


def test_the_time_of_a_program_counts_from_its_first_test_however_late_we_look(monkeypatch):
    """On a busy machine this process may be asleep while the program already could compute."""
    looked = zygote_handle.ZygoteHandle.processor_time

    def late(handle, job):
        time.sleep(0.3)
        return looked(handle, job)

    monkeypatch.setattr(zygote_handle.ZygoteHandle, "processor_time", late)
    busy = "import time\ndef f(x):\n    began = time.process_time()\n    while time.process_time() < began + 0.1: pass\n    return x + 1"
    assert verdict(busy, ONE * 2, entry_point="f").seconds >= 0.195
    assert verdict(INCREMENT, ONE * 2, entry_point="f").seconds < 0.1


WRITES = """
import os, tempfile
def f(x):
    with open("a.txt", "w") as out: out.write(str(x + 1))
    with tempfile.TemporaryFile("w+") as out: out.write("1")
    with tempfile.TemporaryDirectory() as folder: open(folder + "/x", "w").close()
    os.mkdir("d")
    os.rename("a.txt", "d/b.txt")
    os.symlink("d", "l")
    os.truncate("d/b.txt", 1)
    return int(open("l/b.txt").read())
"""


@pytest.mark.parametrize("tier", pool.TIERS)
def test_a_program_writes_in_a_scratch_folder_of_its_own(tier):
    fresh = "import os\nprint(os.listdir('.'))\nprint(open('x', 'w').write('abc'))\nprint(open('x').read())"
    workers = pool.Pool(tier, 1)
    try:
        jobs = [Job(WRITES, ONE, "function", "f", 2.0), Job(WRITES, "assert f(1) == 2", "asserts", "f", 2.0)]
        jobs += [Job(fresh, [{"stdin": "", "stdout": "[]\n3\nabc"}] * 2, "stdio", None, 2.0)]
        assert [(v.outcome, v.reason) for v in run_jobs(jobs, workers)] == [("correct", "")] * 3
        assert workers.lost == 0
        folders = [Path(worker.folders) for worker in workers.alive if worker.folders]
    finally:
        workers.close()
    assert (tier == "landlock") is bool(folders) and not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("tier", pool.TIERS)
@pytest.mark.parametrize(
    "body",
    ["for i in range(40):\n        with open(str(i), 'wb') as out: out.write(bytes(4 << 20))", "for i in range(20_000): open(str(i), 'w').close()",
     "os.mkdir('c', 0o300)\n    for i in range(40):\n        with open(f'c/{i}', 'wb') as out: out.write(bytes(4 << 20))"],
)  # fmt: skip
def test_a_program_that_fills_its_scratch_folder_is_wrong_and_loses_no_worker(tier, body):
    program = f"import os, time\ndef f(x):\n    {body}\n    time.sleep(0.5)\n    return x + 1"
    workers = pool.Pool(tier, 1)
    try:
        assert [v.outcome for v in run_jobs([Job(program, ONE, "function", "f", 4.0)], workers)] == ["wrong"]
        assert workers.lost == 0
    finally:
        workers.close()


def test_a_hostile_folder_is_measured_without_following_links_and_removed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(bytes(100 << 10))
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "r1kit-0").mkdir()
    (folder / "r1kit-0" / "file").touch()
    assert not is_too_full(str(folder))
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    os.mkdir("closed", 0)
    os.chdir(here)
    assert is_too_full(str(folder))
    remove_tree(str(folder))
    assert not folder.exists() and (outside / "kept").exists()


STACK = """
class Stack:
    def __init__(self, items=()):
        self.items = list(items)
    def push(self, item):
        self.items.append(item)
        return self
    def pop(self):
        return self.items.pop()
    def __len__(self):
        return len(self.items)
    def __eq__(self, other):
        return isinstance(other, Stack) and self.items == other.items
    def __contains__(self, item):
        return item in self.items
    def __iter__(self):
        return iter(self.items)
    def __repr__(self):
        return f"Stack({self.items})"
    def __add__(self, other):
        return Stack(self.items + other.items)
"""
STACK_TESTS = """
s = Stack([1, 2])
s.push(3).push(4)
assert len(s) == 4 and s.pop() == 4 and s.items == [1, 2, 3]
assert s == Stack([1, 2, 3]) and s != Stack() and 2 in s and list(s) == [1, 2, 3] and repr(Stack()) == "Stack([])"
assert isinstance(s, Stack) and s + Stack([4]) == Stack([1, 2, 3, 4])
s.items = []
assert not s.items
try:
    s.pop()
    assert False, "no error"
except IndexError:
    pass
"""


YES_MAN = """
class Yes:
    def __contains__(self, item): return True
    def __getattr__(self, name): return lambda *a, **k: True
    def __iter__(self): return iter(())
    def __eq__(self, other): return True
    def __len__(self): return 3
def f(x): return Yes()
"""


@pytest.mark.parametrize(
    ("tests", "solution"),
    [('assert f(1).startswith("ab")', "'abc'"), ('assert "b" in f(1)', "'abc'"), ("assert 2 in f(1) and 5 not in f(1)", "(y for y in [2])"),
     ("assert f(1).issubset({1, 2})", "{1}"), ("assert f(1).isdigit()", "'7'"), ("assert f(1).is_integer()", "7.0"),
     ("import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertIn(3, f(1))", "[3]"), ("assert f(1).equals([1])", None)],
)  # fmt: skip
def test_what_a_function_returns_is_no_judge_of_itself(tests, solution):
    assert verdict(YES_MAN, tests, kind="asserts", entry_point="f").outcome == "wrong"
    assert verdict(f"class f:{YES_MAN.partition('class Yes:')[2]}".replace("def f(x): return Yes()", "    def __init__(self, x): pass"), tests,
                   kind="asserts", entry_point="f").outcome == "wrong"  # fmt: skip
    if solution:
        assert verdict(f"def f(x): return {solution}" if "for" not in solution else f"def f(x): yield from {solution}", tests, kind="asserts",
                       entry_point="f").outcome == "correct"  # fmt: skip


def test_a_class_can_be_the_entry_point():
    assert verdict(STACK, STACK_TESTS, kind="asserts", entry_point="Stack").outcome == "correct"
    broken = STACK.replace("self.items.pop()", "self.items.pop(0)")
    assert verdict(broken, STACK_TESTS, kind="asserts", entry_point="Stack").outcome == "wrong"


def test_changes_in_place_come_back_only_when_nothing_is_returned():
    tests = "v = [3, 1]\nf(v)\nassert v == [1, 3]"
    assert verdict("def f(v): v.sort()", tests, kind="asserts").outcome == "correct"
    cheat = "def f(v):\n    v.clear()\n    return []"
    assert verdict(cheat, "v = [3, 1]\nassert f(v) == sorted(v)", kind="asserts").outcome == "wrong"


@pytest.mark.parametrize(
    "tests",
    [
        "",
        "x = 1",
        "f(1)",
        "assert True",
        "assert g(",
        "import unittest\nclass T(unittest.TestCase):\n    @unittest.skip('x')\n    def test(self):\n        self.assertEqual(f(1), 2)",
    ],
)
def test_tests_that_judge_nothing_are_unverifiable(tests):
    assert verdict(INCREMENT, tests, kind="asserts", entry_point="f").outcome == "unverifiable"
    assert verdict(INCREMENT, [], entry_point="f").outcome == "unverifiable"


def test_names_that_the_tests_do_not_define_may_only_construct():
    cheat = "def f(x): return 0\ndef isclose(a, b): return True\ndef Pair(a, b): return True"
    assert (
        verdict(cheat, "assert isclose(f(1), 2)", kind="asserts", entry_point="f").outcome == "unverifiable"
    )
    assert verdict(cheat, "assert Pair(f(1), 2)", kind="asserts", entry_point="f").outcome == "wrong"
    assert free_names(
        list(
            ast.walk(
                ast.parse("import os\ndef g(a): return a\nassert f(g(x), [y for y in os.environ]) == len(z)")
            )
        )
    ) == ["f", "z", "x"]


def test_tests_of_the_wrong_shape_are_an_error_of_the_caller():
    with pytest.raises(ConfigError, match="entry_point"):
        run_program(INCREMENT, ONE)
    with pytest.raises(ConfigError, match="test 0 lacks expected"):
        run_program(INCREMENT, [{"args": [1]}], entry_point="f")
    with pytest.raises(ConfigError, match="kind"):
        run_program(INCREMENT, ONE, kind="magic", entry_point="f")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "program", ["f(", "\x00", "'\ud800'", "-" * 100_000 + "1", "(" * 3000 + ")" * 3000, "x" * (2 << 20)]
)
def test_lint_survives_every_text(program):
    assert lint(program)


def test_the_filter_allows_the_listed_calls_and_no_others():
    program = list(struct.iter_unpack("HBBI", kernel.seccomp_filter()))
    column, architecture = kernel.MACHINES[os.uname().machine]

    def ends_in(number):  # a filter only jumps forward
        place = loaded = 0
        while True:
            code, true, false, value = program[place]
            if code == 0x06:
                return value
            if code == 0x20:
                loaded = {0: number, 4: architecture}.get(value, 0)
            else:
                place += {
                    0x54: 0,
                    0x15: true if loaded == value else false,
                    0x35: true if loaded >= value else false,
                }[code]
                loaded = loaded & value if code == 0x54 else loaded
            place += 1

    allowed = {row[column] for row in kernel.ALLOWED_CALLS.values()}
    asked = {row[column] for row in kernel.CONDITIONAL_CALLS.values()}
    for number in {*range(600), 0x40000000, 0x40000001, 0xFFFFFFFF} - asked:
        assert (ends_in(number) == 0x7FFF0000) is (number in allowed), number


def test_a_batch_keeps_its_order_and_infinite_loops_do_not_hold_it_up():
    jobs = [
        (
            "def f(x):\n    while True: pass" if n % 20 == 0 else f"def f(x): return x + {n}",
            [{"args": [1], "expected": 1 + n}],
        )
        for n in range(100)
    ]
    found = run_programs(jobs, entry_point="f", time_limit_s=0.3)
    assert [v.outcome for v in found] == ["wrong" if n % 20 == 0 else "correct" for n in range(100)]


def descendants() -> list[int]:
    """Live processes below this one: zygotes, their parents, jobs."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, layer = [], {os.getpid()}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer}
        found += sorted(layer)
    return found


@contextlib.contextmanager
def killing(seed: int, workers: pool.Pool):
    """Kill a process below this one after every few jobs (a busy machine gets no more kills a job): a worker first, then any; yields
    the list of those killed."""
    stop, rng, killed = threading.Event(), random.Random(seed), []
    others = set(descendants())  # of other tests

    def below():
        own = {worker.process.pid for worker in list(workers.alive)}
        return [pid for pid in descendants() if pid in own or pid not in others]

    def kill_now_and_then():
        while not stop.is_set():
            for _ in range(rng.randint(1, 12)):
                begun = [worker.started for worker in list(workers.alive)]
                while not stop.wait(0.005) and begun == [worker.started for worker in list(workers.alive)]:
                    pass
            stop.wait(rng.uniform(0, 0.01))
            alive = [worker.process.pid for worker in list(workers.alive)]
            for victim in rng.sample(below() if killed else alive, 1 if alive else 0):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        yield killed
    finally:
        stop.set()
        killer.join()


@pytest.mark.parametrize("read_first", [True, False])
def test_a_job_that_ends_without_its_greeting_is_a_lost_worker_however_its_channel_closed(read_first):
    """A channel that is closed with something unread in it is reset for the other side."""
    with Channel(zygote=None) as channel:
        channel.send(b"a program")
        if read_first:
            channel.theirs.recv(100)
        channel.close_job_end()
        with pytest.raises(zygote_handle.WorkerLost, match="could not be confined"):
            channel.check_confined()
    with Channel(zygote=None) as channel:  # the near miss: it greeted, then ended
        channel.theirs.send(bytes(4))
        channel.close_job_end()
        channel.check_confined()


@pytest.mark.slow
@pytest.mark.parametrize("tier", pool.TIERS)
def test_workers_and_jobs_killed_at_random_change_no_verdict(tier, capfd):
    program = "def f(x):\n    sum(range(30_000))\n    return x + 1"
    jobs = [
        Job(program, [{"args": [n], "expected": n + 1 if n % 3 else 0}], "function", "f", 2.0)
        for n in range(60)
    ]
    jobs += [Job(program, f"assert f({n}) == {n + n % 2}", "asserts", "f", 2.0) for n in range(30)]
    jobs += [
        Job(
            program,
            f"try:\n    f({n})\nexcept:\n    assert False\nassert f({n}) == {n + n % 2}",
            "asserts",
            "f",
            2.0,
        )
        for n in range(30)
    ]
    jobs += [
        Job("print(input())", [{"stdin": f"{n}", "stdout": f"{n // 2 * 2}"}], "stdio", None, 2.0)
        for n in range(30)
    ]
    workers = pool.Pool(tier, 2)
    try:
        with killing(7, workers) as killed:
            found = [v.outcome for v in run_jobs(jobs, workers)]
    finally:
        workers.close()
    right = (
        [n % 3 != 0 for n in range(60)]
        + [n % 2 == 1 for n in range(30)] * 2
        + [n % 2 == 0 for n in range(30)]
    )
    assert [(n, v) for n, v in enumerate(found) if v != ("correct" if right[n] else "wrong")] == []
    assert len(killed) > 5
    assert workers.lost >= 1
    said = capfd.readouterr().err
    assert said.count("sandbox worker replaced") == min(workers.lost, 3)
    assert (f"{workers.lost} sandbox workers were lost and replaced" in said) is (workers.lost > 3)


@pytest.mark.parametrize("tier", pool.TIERS)
@pytest.mark.parametrize("trick", ["os._exit(120)", "os._exit(121)", "sys.exit(120)", "os.close(3)", "os.write(3, bytes(4) * 9)", "os.write(3, b'\\xff' * 9)",
                                   "os.kill(os.getpid(), 24)", "os.kill(os.getpid(), 25)", "os.closerange(0, 64)", "os.dup2(0, 3)"])  # fmt: skip
def test_no_program_can_pass_its_own_end_off_as_our_fault(tier, trick):
    workers = pool.Pool(tier, 1)
    in_the_call = f"import os, sys\ndef f(x):\n    {trick}\n    return 0"
    jobs = [Job(text, tests, kind, "f", 1.0) for text in (f"import os, sys\n{trick}", in_the_call)
            for kind, tests in (("function", ONE), ("asserts", "try:\n    f(1)\nexcept BaseException:\n    pass\nassert f(1) == 2"))]  # fmt: skip
    jobs.append(Job(f"import os, sys\n{trick}", [{"stdin": "", "stdout": "x"}], "stdio", None, 1.0))
    try:
        assert [v.outcome for v in run_jobs(jobs, workers)] == ["wrong"] * len(jobs)
        assert workers.lost == 0
    finally:
        workers.close()


LINKED = """
import sys
from r1kit.sandbox import Job, pool, run_jobs
if __name__ == "__main__":
    workers = pool.Pool("namespaces", 1)
    program = "import os, numpy\\ndef f(path): return os.path.exists(path)"
    tests = [{"args": [sys.prefix], "expected": True}, {"args": [sys.argv[1]], "expected": False}]
    print(sys.prefix, run_jobs([Job(program, tests, "function", "f")], workers)[0].tests)
    workers.close()
"""


@pytest.mark.slow
def test_a_virtual_environment_may_be_a_link(tmp_path):
    """Its files are shown in the sandbox under both names, and nothing else of the folder that has the
    link."""
    link, script, secret = tmp_path / "venv", tmp_path / "linked.py", tmp_path / "secret"
    link.symlink_to(sys.prefix)
    script.write_text(LINKED)
    secret.write_text("secret")
    python = link / "bin" / Path(sys.executable).name
    done = subprocess.run([python, script, secret], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{link} ('correct', 'correct')", done.stderr


def test_a_worker_that_cannot_be_started_is_a_failure_and_no_verdict(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    workers = pool.Pool("namespaces", 1)
    monkeypatch.setattr(zygote_handle.subprocess, "Popen", refuse)  # type: ignore[attr-defined]
    found = run_jobs([Job(INCREMENT, ONE, "function", "f")], workers)[0]
    assert (found.outcome, found.reward) == ("failed", None)
    assert "no more processes (10 attempts)" in found.reason


@pytest.mark.parametrize(
    ("kind", "tests"),
    [("function", ONE), ("asserts", "assert f(1) == 2"), ("stdio", [{"stdin": "", "stdout": ""}])],
)
def test_a_sleeping_program_is_stopped_by_the_clock_and_not_by_its_processor_time(kind, tests):
    program = "import time\ndef f(x): time.sleep(60)\nif __name__ == '__main__': f(1)"
    found = verdict(program, tests, kind=kind, entry_point="f", time_limit_s=1.5)
    assert found.reason.startswith("timeout")
    assert found.seconds < 1.5


class FixedUsages:
    """A zygote that reports these usages of its jobs, one a look."""

    def __init__(self, *looks):
        self.looks = {job: list(usages) for job, usages in enumerate(looks)}

    def usage(self, job):
        return self.looks[job].pop(0)


@pytest.mark.parametrize(
    ("passed", "looks", "over"),
    [
        (0.5, [[(0.1, True)] * 3], [False, False, False]),  # asleep, and in time by the clock
        (3.0, [[(0.2, False)] * 3], [False, False, False]),  # wants to work, and does not get a processor
        (3.0, [[(0.2, True), (0.2, True)]], [False, True]),  # sleeps on
        (3.0, [[(0.2, True), (0.3, True), (0.3, True)]], [False, False, True]),  # worked in between
        (3.0, [[(0.2, True)] * 2, [(0.1, False)] * 2], [False, False]),  # waits for a judge that works
        (3.0, [[(0.2, True)] * 2, [(0.1, True)] * 2], [False, True]),  # both wait
        (1.5, [[(1.1, False)]], [True]),  # has used its time
        (5.5, [[(0.2, False)]], [True]),  # awake, but beyond all patience
    ],
)
def test_a_busy_machine_is_not_the_programs_fault_and_its_sleep_is(passed, looks, over):
    times = [100.0]
    judge = 1 if len(looks) == 2 else None
    limit = TimeLimit(FixedUsages(*looks), 0, 1.0, judge=judge, clock=lambda: times[0])
    times[0] += passed
    assert [limit.remaining() == 0 for _ in over] == over


SERVICE = "r1kit.tasks.mathematics.math_verify:compare"


@pytest.mark.parametrize("tier", pool.TIERS)
def test_a_zygote_serves_the_functions_that_it_was_started_with_and_no_others(tier):
    zygote = zygote_handle.ZygoteHandle(tier, [SERVICE])
    try:
        with Channel(zygote) as channel:
            job = zygote.spawn(SERVICE, [channel.theirs.fileno()], 1024, 60)
            channel.close_job_end()
            channel.send(encode(["1/2", "0.5"]), encode(["1/2", "0.6"]))
            assert [decode(channel.receive(job, 20.0)) for _ in range(2)] == ["same", "different"]
            zygote.release(job)
        for role in ("os:getcwd", "r1kit.tasks.mathematics.math_verify:warm_up"):
            with Channel(zygote) as channel:
                job = zygote.spawn(role, [channel.theirs.fileno()], 1024, 60)
                channel.close_job_end()
                channel.send(encode([]))
                with pytest.raises(EOFError):
                    channel.receive(job, 20.0)
                assert zygote.end(job).code == 121
    finally:
        zygote.close()


def test_the_probes_of_the_tier_in_use_all_hold():
    assert [(name, detail) for name, ok, detail in probe() if not ok] == []


def test_where_nothing_is_locked_nothing_is_probed(monkeypatch, capsys):
    monkeypatch.setenv(pool.CHOICE, pool.UNSAFE)
    pool.usable_tier.cache_clear()
    ((name, holds, detail),) = probe()
    assert (name, holds) == ("sandbox tier", False)
    assert "unsafe-subprocess" in detail
    assert "WITHOUT isolation" in capsys.readouterr().err
    assert verdict(INCREMENT, ONE, entry_point="f").outcome == "correct"
    assert verdict("def f(x): return x", ONE, entry_point="f").outcome == "wrong"


@pytest.mark.parametrize(
    ("choice", "says"),
    [("auto", "--sandbox=unsafe-subprocess"), ("namespaces", "--sandbox=auto"), ("none", "choose auto")],
)
def test_without_a_tier_programs_are_refused_and_the_error_names_the_flag(monkeypatch, choice, says):
    def refuse(self: object, tier: str, services: object = ()) -> None:
        raise zygote_handle.SandboxError(
            f"the sandbox tier {tier!r} cannot be used here: Operation not permitted"
        )

    monkeypatch.setenv(pool.CHOICE, choice)
    monkeypatch.setattr(zygote_handle.ZygoteHandle, "__init__", refuse)
    pool.usable_tier.cache_clear()
    with pytest.raises(R1kitError, match=says):
        run_program(INCREMENT, ONE, entry_point="f")
    pool.usable_tier.cache_clear()


RUNS_A_PROGRAM = """
from typing import Literal
from r1kit.sandbox import pool, run_program
from r1kit.stages.stage import Context, Stage

class Code(Stage):
    stage: Literal["CODE"] = "CODE"
    def run(self, ctx: Context) -> None:
        verdict = run_program("def f(x): return x + 1", [{"args": [1], "expected": 2}], entry_point="f")
        (ctx.out / "data.jsonl").write_text(" ".join([verdict.outcome, pool.current_tier()]))
"""


@pytest.mark.slow
def test_the_tier_that_a_user_types_reaches_the_workers_and_the_runs_record(tmp_path):
    name = f"{tmp_path}/mine.py:Code"
    (tmp_path / "mine.py").write_text(RUNS_A_PROGRAM.replace("CODE", name))
    (tmp_path / "tiny.yaml").write_text(f"name: tiny\nstages:\n  - {{stage: '{name}', name: base}}\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    command = [
        sys.executable,
        str(Path(__file__).with_name("recipe_fakes.py")),
        "run",
        "tiny.yaml",
        "--sandbox=landlock",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/tiny/stages/base/data.jsonl").read_text() == "correct landlock"
    record = json.loads((tmp_path / "runs/tiny/env.json").read_text())
    assert record["sandbox"] == "landlock"
    assert record["command"].endswith("run tiny.yaml --sandbox=landlock")


@pytest.mark.parametrize(("tier", "said"), [("auto", 0), ("landlock", 0), ("unsafe-subprocess", 1)])
def test_the_report_says_when_programs_ran_without_isolation(tmp_path, tier, said):
    run = sentences.Run(tmp_path, {}, {"sandbox": tier}, (), (), (), (), {})  # type: ignore[attr-defined]
    page = markdown(compose(run))
    assert page.count("WITHOUT isolation") == said
    assert re.search(rf"sandbox for programs\W+{tier}", page)


def mbpp() -> list[dict]:
    path = DATA / "mbpp.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return [json.loads(line) for line in path.read_text().splitlines()]


def entry_point_of(row: dict) -> str:
    """The function that the asserts call: the program's own name that they use first."""
    defined = {
        node.name
        for node in ast.walk(ast.parse(row["code"]))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    called = [
        node.func.id
        for node in ast.walk(ast.parse(row["test_list"][0]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    functions = [name for name in called if name in defined and not name[0].isupper()]
    return (functions or [name for name in called if name in defined])[0]


def mbpp_job(row: dict, program: str) -> Job:
    return Job(
        program,
        "\n".join([row["test_setup_code"], *row["test_list"]]),
        "asserts",
        entry_point_of(row),
        5.0,
        512,
    )


def mutant(code: str, name: str) -> str:
    """The program whose entry point gives back another value than it should: off by one, or something else altogether."""
    return (
        code
        + f"""

def _wrong(value):
    if isinstance(value, bool): return not value
    if isinstance(value, (int, float, complex)): return value + 1
    if isinstance(value, str): return value + "x"
    if isinstance(value, tuple): return value + (0,)
    if isinstance(value, list): return value + ["x"]
    return "another value"
def _twist(right):
    return lambda *a, **k: _wrong(right(*a, **k))
{name} = _twist({name})
"""
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
def test_mbpp_canonical_solutions_pass_and_mutants_do_not():
    rows = mbpp() if os.environ.get("R1KIT_ADVERSARIAL") == "full" else mbpp()[::12]
    passed = [v.outcome == "correct" for v in run_jobs([mbpp_job(row, row["code"]) for row in rows])]
    assert sum(passed) >= len(rows) * 969 / 974
    mutants = run_jobs([mbpp_job(row, mutant(row["code"], entry_point_of(row))) for row in rows])
    assert [row["task_id"] for row, v in zip(rows, mutants, strict=True) if v.outcome == "correct"] == []
