"""Checker programs: where several outputs are right, a data set's own Python script says whether one is.

It is run as open-r1's ``generated_checker`` is, as ``checker.py input.txt correct_output.txt
solution_output.txt``, in a confined job of its own, with fresh copies of the three texts. It prints its
score and nothing else: 1 is right; 0, and a part of 1, is wrong. Or it prints nothing and calls
``sys.exit``: 0 is right, 1 and 2 are wrong (testlib's codes), if it does not accept an empty output too.

Everything else is the checker's failure, and so ``unverifiable``: an exception, another text or number, no
end in time. A checker is a stranger's program, and it reads what a program printed: neither may turn the
other's fault into a verdict. So a checker that would execute that text (``eval``, ``exec``, pickles) is not
run: a program could print its own score."""

import ast
import itertools
import re
import warnings
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from r1kit.sandbox.job_roles import NORMAL_END, RAISED
from r1kit.sandbox.scripts import BYTE_ORDER_MARK, Finished, Script, run_to_end
from r1kit.sandbox.zygote_handle import ZygoteHandle, died_by_itself
from r1kit.types import Outcome

CHECKER_SECONDS = 10.0  # of processor time, whatever the limit of the programs that it checks
CHECKER_MEGABYTES = 1024

_FOREIGN = re.compile(r"^\s*#\s*include\b|\btestlib\.h\b|^\s*(?:int|signed|auto)\s+main\s*\(", re.MULTILINE)
_SCORE = re.compile(rb"[+-]?\d{1,9}(?:\.\d{0,20})?")
_WRONG_CODES = (1, 2)
_EXECUTING = frozenset(("eval", "exec", "pickle", "marshal", "shelve", "dill", "cloudpickle", "runpy"))


def checker_fault(text: str) -> str:
    """Why a text is no checker that can be run; empty if it is one."""
    if _FOREIGN.search(text):
        return "is written in C++ (testlib), and only checkers in Python are run"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(text.removeprefix(BYTE_ORDER_MARK))))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"is no Python ({type(error).__name__}: {str(error)[:80]})"
    executing = sorted(_EXECUTING & set(itertools.chain.from_iterable(map(_names, nodes))))
    return f"could execute what a program prints ({', '.join(executing)})" if executing else ""


def _names(node: ast.AST) -> list[str]:
    """The builtins and modules that a part of a script names."""
    if isinstance(node, ast.Import):
        return [name.name.partition(".")[0] for name in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").partition(".")[0], *(name.name for name in node.names)]
    return [node.id] if isinstance(node, ast.Name) else []


def judge_output(
    checker: str, test: Mapping[str, Any], printed: bytes, zygote: ZygoteHandle
) -> tuple[Outcome, str]:
    """(outcome, reason) of what a program printed for a test. Raises WorkerLost."""
    texts = [test[name].removeprefix(BYTE_ORDER_MARK) for name in ("stdin", "stdout")]
    given = [text.encode("utf-8", "surrogateescape") for text in texts]
    outcome, reason, by_code = _asked(checker, [*given, printed], zygote)
    if outcome != "correct" or not by_code or not printed.strip():
        return outcome, reason
    if _asked(checker, [*given, b""], zygote)[0] == "correct":
        return "unverifiable", "checker: it accepts an empty output too"
    return outcome, reason


def _asked(checker: str, texts: list[bytes], zygote: ZygoteHandle) -> tuple[Outcome, str, bool]:
    """(outcome, reason, whether the exit status said so) of one run of a checker."""
    backstop = 2 * CHECKER_SECONDS
    script = Script("checker", checker, texts, CHECKER_SECONDS, CHECKER_MEGABYTES, backstop)
    ran = run_to_end(script, zygote)
    if not ran.in_time:
        return "unverifiable", f"checker: more than {CHECKER_SECONDS:g} s", False
    if ran.ended.code < 0:
        died_by_itself(ran.ended, backstop)
        return "unverifiable", f"checker: ended by signal {-ran.ended.code}", False
    if ran.ended.code == RAISED:
        return "unverifiable", f"checker: {ran.complaint or 'an exception'}"[:400], False
    said = ran.output.strip()
    outcome = _by_score(said, ran.ended.code) if said else _by_code(ran.ended.code)
    if outcome is None:
        return "unverifiable", _unclear(ran, said), False
    shown = f"the checker's score is {said.decode()}" if said else "the checker rejects it"
    return outcome, "" if outcome == "correct" else f"wrong_answer: {shown}", not said


def _by_score(said: bytes, code: int) -> Outcome | None:
    """The outcome that a printed score stands for; None for what is no score."""
    score = Decimal(said.decode()) if _SCORE.fullmatch(said) else None
    ended_well = code in (0, NORMAL_END)
    if score is None or not 0 <= score <= 1 or not (ended_well or (score == 0 and code in _WRONG_CODES)):
        return None
    return "correct" if score == 1 else "wrong"


def _by_code(code: int) -> Outcome | None:
    return "correct" if code == 0 else "wrong" if code in _WRONG_CODES else None


def _unclear(ran: Finished, said: bytes) -> str:
    code = "" if ran.ended.code in (0, NORMAL_END) else f" and exited with {ran.ended.code}"
    shown = repr(said[:60].decode(errors="replace")) if said else "nothing"
    return f"checker: it printed {shown}{code}; a score is 1 or 0, and nothing else"
