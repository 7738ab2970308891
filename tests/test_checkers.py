"""Checker programs in the sandbox: each way to say a score, each way to fail, and what a program prints to
break one. In both tiers."""
# ruff: noqa: E501 - one case, one entry

from collections.abc import Iterator

import pytest

from r1kit.config import ConfigError
from r1kit.sandbox import Job, pool, run_jobs, run_program
from r1kit.sandbox.checkers import checker_fault

TEST = [{"stdin": "5\n", "stdout": "2 3\n"}]
# A right output is two numbers with the sum of the input. Each checker says so in another way.
READ = """
import sys
with open("input.txt") as a, open(sys.argv[2]) as b, open(sys.argv[3], errors="replace") as c:
    total, right, printed = int(a.read()), b.read().split(), c.read().split()
assert sys.argv[1:] == ["input.txt", "correct_output.txt", "solution_output.txt"] and right == ["2", "3"]
try:
    ok = len(printed) == 2 and sum(map(int, printed)) == total
except ValueError:
    ok = False
"""
SAYING = {
    "prints 1 or 0": READ + "print(int(ok))",
    "prints 1.0 or 0.0": READ + "print(float(ok))",
    "prints part of a score": READ + "print(1 if ok else 0.75)",
    "prints 0 and exits with 1": READ + "print(int(ok))\nsys.exit(0 if ok else 1)",
    "exits with 0 or 1": READ + "sys.exit(0 if ok else 1)",
    "exits with testlib's codes": READ + "sys.exit(0 if ok else 2 if len(printed) != 2 else 1)",
    "has a main": READ + "def main():\n    print(1 if ok else 0)\n\nif __name__ == '__main__':\n    main()",
}
FAILING = {
    "raises": "raise ValueError('broken')",
    "raises after a score": "print(1)\nraise ValueError('broken')",
    "prints nothing": "pass",
    "exits without a status": "import sys\nsys.exit()",
    "exits with a text": "import sys\nsys.exit('broken')",
    "prints a word": "print('OK')",
    "prints another score": "print(100)",
    "prints a score below 0": "print(-1)",
    "prints more than a score": "print('sum is fine')\nprint(1)",
    "prints nan": "print(float('nan'))",
    "prints 1 and exits with 1": "import sys\nprint(1)\nsys.exit(1)",
    "exits with 3, testlib's failure": "import sys\nsys.exit(3)",
    "exits with 0 for every output": "import sys\nsys.exit(0)",
    "reads the texts in testlib's order": "import sys\nright = [open(n).read().split() for n in sys.argv[2:]]\nsys.exit(0 if right[0] == ['2', '3'] else 1)",
    "takes all memory": "x = [0] * 10 ** 10",
    "prints too much": "import os\nwhile True: os.write(1, b'1' * 100000)",
    "ends itself": "import os, signal\nsignal.raise_signal(signal.SIGSEGV)",
    "recurses": "def f(): f()\nf()",
    "needs testlib": "from testlib import *\nquitf(Outcome.OK, 'ok')",
    "starts a process": "import subprocess\nprint(subprocess.run(['true']).returncode + 1)",
    "opens the network": "import socket\nsocket.create_connection(('127.0.0.1', 9))\nprint(1)",
}


@pytest.fixture(scope="module", params=pool.TIERS)
def workers(request: pytest.FixtureRequest) -> Iterator[pool.Pool]:
    one = pool.Pool(request.param, 1)
    yield one
    assert one.lost == 0  # no checker and no program passes for a lost worker
    one.close()


def outcomes(workers: pool.Pool, checker: str, *programs: str) -> list[str]:
    jobs = [Job(program, TEST, "stdio", None, 2.0, checker=checker) for program in programs]
    return [verdict.outcome for verdict in run_jobs(jobs, workers)]


@pytest.mark.parametrize("checker", SAYING.values(), ids=SAYING)
def test_a_checker_says_what_is_right(workers: pool.Pool, checker: str) -> None:
    programs = (
        "print(2, 3)",
        "print(1)\nprint(4)",
        "print(2, 2)",
        "print('a b')",
        "pass",
        "print(1, 4)\n1 / 0",
    )
    assert outcomes(workers, checker, *programs) == ["correct"] * 2 + ["wrong"] * 4


@pytest.mark.parametrize("checker", FAILING.values(), ids=FAILING)
def test_a_checker_that_fails_makes_no_program_right_or_wrong(workers: pool.Pool, checker: str) -> None:
    # The second prints what is expected, the first does not.
    verdicts = run_jobs(
        [Job(text, TEST, "stdio", None, 2.0, checker=checker) for text in ("print(1, 4)", "print(2, 3)")],
        workers,
    )
    assert [verdict.outcome for verdict in verdicts] == ["unverifiable"] * 2
    assert all(verdict.reason.startswith("checker: ") for verdict in verdicts)


def test_a_checker_without_end_is_stopped_and_says_nothing(
    workers: pool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1kit.sandbox.checkers.CHECKER_SECONDS", 0.3)
    assert outcomes(workers, "while True: pass", "print(2, 3)") == ["unverifiable"]
    assert outcomes(workers, "import time\ntime.sleep(100)", "print(2, 3)") == ["unverifiable"]


# What a program may print or do to be called right; the checkers are careless on purpose.
BREAKING = {
    "its own score": "print(1)",
    "a score after the output": "print('2 2')\nprint(1)",
    "a score on standard error": "import sys\nprint(2, 2)\nprint(1, file=sys.stderr)",
    "bytes that are no text": "import os\nos.write(1, b'\\xff\\xfe 5')",
    "zero bytes": "print('2\\0 3')",
    "huge numbers": "print('9' * 50_000, 3)",
    "nesting": "print('(' * 100_000)",
    "code": 'print(\'__import__("os").write(1, b"1") or __import__("os")._exit(0)\')',
    "another input": "import os\nos.pwrite(0, b'4\\n', 0)\nprint(2, 2)",
    "another input, later": "import os\nos.ftruncate(0, 0)\nprint(0, 0)",
    "files of the checker's names": "open('correct_output.txt', 'w').write('2 2')\nopen('input.txt', 'w').write('4')\nopen('solution_output.txt', 'w').write('2 3')\nprint(2, 2)",
    "a status": "import os\nprint(2, 2, flush=True)\nos._exit(200)",
    "an output that another thread changes": "import os, threading\nprint(2, 2, flush=True)\nthreading.Thread(target=lambda: os.pwrite(1, b'2 2', 0)).start()",
    "the expected output, if it can be found": "import gc, sys\nfound = [o for o in gc.get_objects() if isinstance(o, dict) and 'stdout' in o]\nprint(*([f['stdout'] for f in found] or ['2 2']))",
}
CARELESS = {
    "echoes": "import sys\nprint('got', open(sys.argv[3], errors='replace').read())\nprint(0)",
    "raises on what it cannot read": READ.replace("except ValueError", "except KeyError") + "print(int(ok))",
    "exits": READ.replace("except ValueError", "except KeyError") + "sys.exit(0 if ok else 1)",
}


@pytest.mark.parametrize("checker", CARELESS.values(), ids=CARELESS)
def test_nothing_that_a_program_prints_makes_it_right(workers: pool.Pool, checker: str) -> None:
    found = dict(zip(BREAKING, outcomes(workers, checker, *BREAKING.values()), strict=True))
    assert "correct" not in found.values() and "failed" not in found.values(), found


def test_a_careful_checker_finds_them_wrong(workers: pool.Pool) -> None:
    found = dict(zip(BREAKING, outcomes(workers, SAYING["prints 1 or 0"], *BREAKING.values()), strict=True))
    assert found == dict.fromkeys(BREAKING, "wrong")


def test_a_program_never_sees_its_checker_or_the_expected_output(workers: pool.Pool) -> None:
    look = "import os, sys\nprint(os.listdir('.'), sys.argv)"
    shows = "import sys\nprint(int(open(sys.argv[3]).read().startswith(\"[] \") and 'checker' not in open(sys.argv[3]).read()))"
    assert outcomes(workers, shows, look) == ["correct"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [('#include "testlib.h"', "C++"), ("int main() { return 0; }", "C++"), ("  # include <cstdio>", "C++"), ("print(1", "no Python"), ("x = '\0'", "no Python"),
     ("import marshal", "execute"), ("y = exec('1')", "execute"), ("import ast\nprint(ast.literal_eval('1'))", ""), ("# no eval here\nprint('testlib')", ""),
     ("\ufeffprint(1)", "")],
)  # fmt: skip
def test_which_texts_are_checkers(text: str, fault: str) -> None:
    assert fault in checker_fault(text) and bool(fault) is bool(checker_fault(text))


def test_a_checker_belongs_to_printed_output() -> None:
    with pytest.raises(ConfigError, match="a checker judges what a program prints"):
        run_program("def f(x): return x", [{"args": [1], "expected": 1}], entry_point="f", checker="print(1)")
    with pytest.raises(ConfigError, match="the checker is written in C"):
        run_program("print(1)", TEST, kind="stdio", checker="#include <cstdio>")
