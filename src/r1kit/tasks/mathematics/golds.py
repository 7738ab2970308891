"""The answer in a gold text, and gold texts that are none."""

import re

from r1kit.jsonl import NULL_LIKE
from r1kit.tasks.mathematics.boxes import boxes_side_by_side
from r1kit.tasks.mathematics.layout import without_marks
from r1kit.tasks.mathematics.notation import boxed, tidy
from r1kit.tasks.mathematics.statements import stated_answer

_GOLD_MARK = "####"
# Besides jsonl.NULL_LIKE: what people write where they have no answer.
_NULLS = NULL_LIKE | frozenset(
    ["nil", "pd.na", "np.nan", "#n/a", "na", "nat", "undefined", "-", "--", "?", "??", "???",
     "tbd", "todo", "unknown", "missing", "not available", "no answer", "proof", "see solution"]
)  # fmt: skip
_VERB = re.compile(
    r"\b(?:is|are|was|has|have|had|so|because|since|therefore|thus|hence|gets?|gives?|makes?|we|she|he"
    r"|they|answer)\b",
    re.IGNORECASE,
)
_OPEN_CLAIM = re.compile(
    r"\b(?:except|other than|any|all|every|each|such that|multiples?|greater|larger|smaller|less|more"
    r"|at least|at most|prove|proof"
    r"|show|shows|provided|unless|if|cannot|undefined|times|between)\b",
    re.IGNORECASE,
)
_HAN_SENTENCE = re.compile(r"(?=.*\d)(?:.*[一-鿿]){6}.*(?:[，,。]|共有|等于)")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def gold_text(gold: str) -> str:
    """The answer in a gold text: the text after ``####`` (GSM8K); the last box of a solution, or the list of
    those side by side; what a sentence states; else all of it."""
    if _GOLD_MARK in gold:
        return gold.rpartition(_GOLD_MARK)[2].strip()
    boxes = boxed(gold)
    if boxes:
        return ", ".join(boxes_side_by_side(gold, boxes))
    gold = gold.strip()
    return _read_sentence(gold) or gold if _is_sentence(gold) else gold


def gold_fault(gold: str) -> str | None:
    """Why a text cannot be a gold answer, with the fix; None if it can. ``gold`` is what ``gold_text``
    returned."""
    if gold.strip().strip("\"'").lower().removeprefix("$").removesuffix("$").strip() in _NULLS:
        fix = "write the answer (no solution: \\emptyset), or remove the row"
        return f"{gold.strip()!r} stands for no answer; {fix}"
    if _is_sentence(gold) and _read_sentence(gold) is None:
        return "a sentence without a final answer; end it with #### ANSWER or \\boxed{ANSWER}"
    if not tidy(gold):
        return "no gold answer; write it, or remove the row"
    return None


def _is_sentence(gold: str) -> bool:
    """Whether a gold text is a sentence with numbers or formulas in it rather than an answer."""
    if re.search(r"\d|\$", gold) is None:
        return False
    outside = re.sub(r"\$[^$]*\$|\\(?:text|mathrm|textbf|mbox|begin|end)\s*\{[^{}]*\}", " ", gold)
    words = len(_WORDS.findall(outside))
    return (
        words >= 6
        or (words >= 3 and _VERB.search(outside) is not None)
        or _HAN_SENTENCE.match(gold) is not None
    )


def _read_sentence(gold: str) -> str | None:
    """The answer that a gold sentence states; None for a claim such as "all numbers except 3"."""
    return None if _OPEN_CLAIM.search(gold) else stated_answer(without_marks(gold))
