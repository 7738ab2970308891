"""Which boxes of a text are its answer."""

import re

from r1kit.tasks.mathematics.phrases import CONCLUDES, DOUBT, NEGATED_BEFORE, OR
from r1kit.tasks.mathematics.sentence_values import alike

Box = tuple[int, int, str]  # begin, end, content
_UNSEEN = re.compile(r"\\[hv]?phantom\s*\{[^{}]*$")
_SENTENCE_END = re.compile(r"[.!?][$*)\"'\]\\]*\s+(?=[A-Z一-鿿$\\*#])|[。！？]|\n\s*\n|(?<=[\w.,])\n")
_JOINED = re.compile(
    r"[\s$,;.、，；&]*(?:\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\}|和|以及|及|或)?[\s$,;、，；&]*"
)
_CONCLUSION = re.compile(
    r"=|\b(?:which|final|wait|actually|rather|correction|we get|we have|we find|we obtain)\b|[得到]",
    re.IGNORECASE,
)
_NAMED_NEXT = re.compile(r"[$\s]*(?:,|;|\band\b|&|\n)[$\s]*(?:and\s)?[\s$]*[A-Za-z](?:_\w)?\s*=[\s$]*")
_ANOTHER = re.compile(r"\b(?:also|another|second|other|alternatively|as well)\b|另", re.IGNORECASE)
_FAR = 200  # characters between two boxes beyond which the later one is a result of its own


def boxes_side_by_side(text: str, boxes: list[Box]) -> list[str]:
    """The contents of the last box and of those side by side with it, in order, equal ones once."""
    settled = [boxes[-1][2]]
    for (_, end, content), (begin, _, following) in zip(
        reversed(boxes[:-1]), reversed(boxes[1:]), strict=True
    ):
        if alike(content, following):
            continue
        if not _side_by_side(text[end:begin]):
            break
        settled.insert(0, content)
    return settled


def boxed_answer(text: str, boxes: list[Box]) -> str | None:
    """The answer of a text with boxes: the last box; a list of those side by side; None for alternatives, and
    for a box that is denied or cannot be seen."""
    for (_, end, content), (begin, _, following) in zip(
        reversed(boxes[:-1]), reversed(boxes[1:]), strict=True
    ):
        between = text[end:begin]
        if alike(content, following):
            continue
        if len(between) < _FAR and _alternatives(between):
            return None
        if not _side_by_side(between):
            break
    begin = boxes[-1][0]
    before = text[max(0, begin - 100) : begin]
    if _UNSEEN.search(before) or NEGATED_BEFORE.search(before.rstrip(" $\\([{")):
        return None
    return ", ".join(boxes_side_by_side(text, boxes))


def _side_by_side(between: str) -> bool:
    """Whether what stands between two boxes leads to no new result: no end of a sentence, no "so", no "="."""
    if len(between) >= _FAR:
        return False
    spaced = re.sub(
        r"\\q?quad(?![A-Za-z])|\\[,;: !]|~|\\\\|\\text(?=\s*\{)|[{}]|\\\[|\\\]|\\\(|\\\)", " ", between
    )
    if _JOINED.fullmatch(spaced):
        return True
    if _NAMED_NEXT.fullmatch(spaced):
        return True
    return not (CONCLUDES.search(between) or _CONCLUSION.search(between) or _SENTENCE_END.search(between))


def _alternatives(between: str) -> bool:
    """Whether what stands between two boxes offers the second instead of, or besides, the first."""
    if DOUBT.search(between):
        return True
    ends = [match.end() for match in _SENTENCE_END.finditer(between)]
    lead = between[ends[-1] :] if ends else between
    if CONCLUDES.search(lead):
        return False
    return OR.search(lead) is not None or (bool(ends) and _ANOTHER.search(lead) is not None)
