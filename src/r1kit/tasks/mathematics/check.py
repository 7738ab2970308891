"""Check answers to mathematical problems: what was said last, outside the thinking, against the gold answer.

A false positive teaches a model to cheat and a false negative only costs signal, so doubt is decided against
the answer. Three steps, each only where the one before cannot tell:

1. take the final answer of the response (``r1kit.tasks.mathematics.extraction``); 2. read both sides
(``r1kit.tasks.mathematics.answers``) and compare them exactly (``r1kit.tasks.mathematics.agreement``,
``r1kit.tasks.mathematics.expressions``); 3. ask math-verify, in a locked-in process that is killed when the
time is over (``r1kit.tasks.mathematics.checker_pool``).

A gold answer that nobody can read makes the problem ``unverifiable``; it never makes an answer right.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from r1kit.tasks.mathematics.agreement import agree
from r1kit.tasks.mathematics.answers import Answer, read_answer
from r1kit.tasks.mathematics.checker_pool import ANSWER_SECONDS, checkers, compare_elsewhere
from r1kit.tasks.mathematics.expressions import NotUnderstood, TooLarge
from r1kit.tasks.mathematics.extraction import CHOICE, final_answer, gold_text
from r1kit.tasks.mathematics.notation import boxed, is_plain_number, is_prose, nesting, says_more, tidy
from r1kit.types import Verdict

__all__ = [
    "boxed",
    "check_math",
    "check_math_batch",
    "compare",
    "final_answer",
    "gold_text",
    "read_gold",
    "tidy",
]

LONGEST_ANSWER = 1000
DEEPEST_ANSWER = 30


def check_math(gold: str, response: str) -> Verdict:
    """Judge a response to a problem whose gold answer is ``gold`` (LaTeX or plain text; a worked solution is
    unwrapped).

    Only what follows ``</think>`` counts, an ``<answer>`` is unwrapped, and of several answers the last one
    counts, unless they are offered side by side ("3 or 4") against a gold answer that is one.
    ``unverifiable``: nobody can read the gold answer; ``failed``: math-verify could not tell. Done within a
    second, from any thread. Never raises for what a response says."""
    return judge(gold, response, patient=False)


def check_math_batch(golds: Sequence[str], responses: Sequence[str], threads: int = 4) -> list[Verdict]:
    """Judge many responses, in order. Those that need math-verify wait side by side until its checkers have
    told, however busy the machine is and however often a checker is killed; only a comparison that itself
    takes too long has ``failed``."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda gold, response: judge(gold, response, patient=True), golds, responses))


def judge(gold: str, response: str, patient: bool) -> Verdict:
    """Judge one response. ``patient``: wait for math-verify longer than a second where its checkers are busy
    or being replaced."""
    deadline = time.monotonic() + ANSWER_SECONDS
    gold = gold_text(gold)
    if len(gold) > LONGEST_ANSWER:
        return Verdict("unverifiable", "the gold answer is too long")
    if not tidy(gold):
        return Verdict("unverifiable", "the gold answer is empty")
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
    """Compare two answers by ``deadline``. Raises TooLarge where the said one is beyond computing."""
    if is_plain_number(tidy(gold)):
        if tidy(gold) == tidy(said):
            return Verdict("correct")
    elif "\\" in gold:
        checkers()  # they start in the background: by the time that one is needed, it is ready
    known = read_gold(gold)
    if known is not None:
        try:
            return (
                Verdict("correct") if agree(known, read_answer(said)) else Verdict("wrong", "another value")
            )
        except TooLarge:
            raise
        except NotUnderstood:
            # What can be read only by a more lenient reader must at least be LaTeX.
            if known.kind == "words" or "\\" not in tidy(said) or is_prose(said) or says_more(tidy(said)):
                return Verdict("wrong", "not an answer of this kind")
    verdict = compare_elsewhere(tidy(gold), tidy(said), deadline, patient)
    if verdict.outcome == "unverifiable" and known is not None:
        return Verdict("wrong", "the answer cannot be read")  # the gold answer can
    return verdict


@lru_cache(maxsize=50_000)
def read_gold(gold: str) -> Answer | None:
    """Read a gold answer, once."""
    try:
        return read_answer(gold)
    except NotUnderstood:
        return None
