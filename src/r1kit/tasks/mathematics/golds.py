"""The answer in a gold text, and gold texts that are none."""

import re

from r1kit.tasks.mathematics.layout import without_marks
from r1kit.tasks.mathematics.notation import boxed, tidy
from r1kit.tasks.mathematics.boxes import boxes_side_by_side
from r1kit.tasks.mathematics.statements import stated_answer

_GOLD_MARK = "####"
_NULLS = frozenset(
    ["nan", "none", "null", "nil", "n/a", "#n/a", "na", "<na>", "nat", "-", "--", "?", "??", "???", "tbd", "todo", "unknown",
     "missing", "not available", "no answer", "proof", "see solution", "undefined answer"]
)  # fmt: skip
_SENTENCE = re.compile(r"[A-Za-z]{2,}(?:[\s,]+\S+){3,}|[一-鿿]{2,}[，,].*\d")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def gold_text(gold: str) -> str:
    """The answer in a gold text: the text after ``####`` (GSM8K); the last box of a solution, or the list of
    those side by side; what a sentence states; else all of it."""
    if _GOLD_MARK in gold:
        return gold.rpartition(_GOLD_MARK)[2].strip()
    boxes = boxed(gold)
    if boxes:
        return ",".join(boxes_side_by_side(gold, boxes))
    gold = gold.strip()
    if _is_sentence(gold):
        return stated_answer(without_marks(gold)) or gold
    return gold


def gold_fault(gold: str) -> str | None:
    """Why a text cannot be a gold answer, with the fix; None if it can. ``gold`` is what ``gold_text``
    returned."""
    if gold.strip().strip("\"'").lower() in _NULLS:
        return f"{gold.strip()!r} stands for no answer; write the answer (no solution: \\emptyset), or remove the row"
    if _is_sentence(gold) and stated_answer(without_marks(gold)) is None:
        return "a sentence without a final answer; end it with #### ANSWER or \\boxed{ANSWER}"
    if not tidy(gold):
        return "no gold answer; write it, or remove the row"
    return None


def _is_sentence(gold: str) -> bool:
    """Whether a gold text is a sentence with numbers or formulas in it rather than an answer."""
    outside = re.sub(r"\$[^$]*\$|\\(?:text|mathrm|textbf|mbox|begin|end)\s*\{[^{}]*\}", " ", gold)
    return len(_WORDS.findall(outside)) >= 4 and re.search(r"\d|\$", gold) is not None
