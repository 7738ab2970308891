"""Check answers to mathematical problems: the final answer, outside the thinking, against the gold answer.

A false positive teaches a model to cheat, a false negative only costs signal, so doubt is decided against the
answer. Three steps, the third only if the second cannot decide:

1. Take the final answer of the response (``extraction``).
2. Read both sides (``answers``) and compare them exactly (``agreement``, ``expressions``).
3. Ask math-verify, in a confined process that is killed when its time is over (``checker_pool``).

A gold answer that cannot be read makes the problem ``unverifiable``; it never makes an answer right.
"""

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from r1kit.tasks.mathematics.agreement import has_large_numbers, same_answer, same_text
from r1kit.tasks.mathematics.answers import Answer, read_answer
from r1kit.tasks.mathematics.checker_pool import ANSWER_SECONDS, checkers, compare_elsewhere
from r1kit.tasks.mathematics.expressions import NotUnderstood, TooLarge, Undecided
from r1kit.tasks.mathematics.extraction import CHOICE, final_answer, gold_fault, gold_text
from r1kit.tasks.mathematics.notation import boxed, is_plain_number, is_prose, nesting, says_more, tidy
from r1kit.types import Outcome, Verdict

__all__ = [
    "boxed",
    "check_math",
    "check_math_batch",
    "compare",
    "final_answer",
    "gold_fault",
    "gold_text",
    "read_gold",
    "tidy",
]

LONGEST_ANSWER = 1000
_IS_OPEN = re.compile(r"\\[lc]?dots(?![A-Za-z])|\.\.\.|…|[?？]")  # math-verify reads past it
DEEPEST_ANSWER = 30


def check_math(gold: str, response: str) -> Verdict:
    """Judge a response to a problem whose gold answer is ``gold`` (LaTeX or plain text; a worked solution is
    unwrapped).

    Only the text after ``</think>`` counts, an ``<answer>`` is unwrapped, and of several answers the last one
    counts; alternatives ("3 or 4") are wrong if the gold answer is a single one. ``unverifiable``: the gold
    answer cannot be read; ``failed``: math-verify gave no verdict. Returns within a second, from any thread.
    Raises nothing, whatever the response is."""
    return judge(gold, response, patient=False)


def check_math_batch(golds: Sequence[str], responses: Sequence[str], threads: int = 4) -> list[Verdict]:
    """Judge many responses, in order. Those that need math-verify wait for its checkers in parallel, however
    busy the machine is and however often a checker is killed; only a comparison that itself takes too long is
    ``failed``."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda gold, response: judge(gold, response, patient=True), golds, responses))


def judge(gold: str, response: str, patient: bool) -> Verdict:
    """Judge one response. ``patient``: wait longer than a second for math-verify if its checkers are busy or
    being replaced."""
    deadline = time.monotonic() + ANSWER_SECONDS
    gold = gold_text(gold)
    if len(gold) > LONGEST_ANSWER:
        return Verdict("unverifiable", "the gold answer is too long")
    fault = gold_fault(gold)
    if fault is not None:
        return Verdict("unverifiable", fault)
    said = final_answer(response, bool(CHOICE.fullmatch(gold)))
    if said is None:
        return Verdict("wrong", "no final answer")
    if len(said) > LONGEST_ANSWER or nesting(said) > DEEPEST_ANSWER:
        return Verdict("wrong", "the final answer is too long or nested too deep")
    try:
        return compare(gold, said, deadline, patient)
    except TooLarge as error:
        return Verdict("wrong", f"the answer cannot be computed: {error}")


def compare(gold: str, said: str, deadline: float, patient: bool = False) -> Verdict:
    """Compare two answers by ``deadline``. Raises TooLarge if the given answer is too large to compute."""
    if is_plain_number(tidy(gold)):
        if tidy(gold) == tidy(said):
            return Verdict("correct")
    elif "\\" in gold:
        checkers()  # they start in the background, so that one is ready when it is needed
    if same_text(tidy(gold), tidy(said)):
        return Verdict("correct")
    try:
        known = read_gold(gold)
    except TooLarge as error:
        return Verdict("unverifiable", f"the gold answer cannot be computed: {error}")
    if known is not None:
        try:
            return (
                Verdict("correct")
                if same_answer(known, read_answer(said))
                else Verdict("wrong", "another value")
            )
        except TooLarge:
            raise
        except Undecided as error:
            return Verdict("unverifiable", f"neither equality nor a difference can be proven: {error}")
        except NotUnderstood:
            # An answer that only a more lenient reader can read must at least be LaTeX.
            if (
                known.kind == "words"
                or _IS_OPEN.search(said)
                or "\\" not in tidy(said)
                or is_prose(said)
                or says_more(tidy(said))
            ):
                return Verdict("wrong", "not an answer of this kind")
    if _IS_OPEN.search(gold):
        return Verdict("unverifiable", "the gold answer has an ellipsis, and the answer is not the same text")
    if has_large_numbers(gold) or has_large_numbers(said):
        # math-verify compares floats, to which small differences are nothing.
        outcome: Outcome = "unverifiable" if known is None else "wrong"
        return Verdict(outcome, "numbers too large for a comparison by math-verify")
    verdict = compare_elsewhere(tidy(gold), tidy(said), deadline, patient)
    if verdict.outcome == "unverifiable" and known is not None:
        return Verdict("wrong", "the answer cannot be read")  # the gold answer can
    return verdict


@lru_cache(maxsize=50_000)
def read_gold(gold: str) -> Answer | None:
    """Read a gold answer; None if it cannot be read. Cached. Raises TooLarge."""
    try:
        return read_answer(gold)
    except TooLarge:
        raise
    except NotUnderstood:
        return None
