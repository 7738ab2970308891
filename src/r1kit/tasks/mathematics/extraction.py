"""Find the one final answer of a response, outside the thinking.

Only the text after ``</think>`` counts; ``<answer>`` is unwrapped; then the last box counts, else the
statement of the last sentence. A response that offers several alternatives has no final answer. A response
may have any length and content: only a bounded part at its end is searched with patterns that may take more
than linear time."""

import re

from r1kit.tasks.mathematics.agreement import same_answer
from r1kit.tasks.mathematics.answers import read_answer
from r1kit.tasks.mathematics.expressions import NotUnderstood
from r1kit.tasks.mathematics.notation import BOX, boxed, is_prose, tidy

CHOICE = re.compile(r"\s*\$?\s*(?:\\(?:text|mathrm|textbf|mathbf)\{)?\s*\(?([A-J])\)?\s*\}?\s*\$?\.?\s*")
LONGEST_END = 10_000  # characters searched, from the end of the text after the thinking
LONGEST_SENTENCE = 1_000
MOST_TAGS = 20
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_THINK_OPENS, _THINK_CLOSES = re.compile(r"<think>", re.IGNORECASE), re.compile(r"</think>", re.IGNORECASE)
_STATED = re.compile(
    r"(?:answer|result)\s*(?:\*\*)?\s*(?:is|are|was|equals|:|=|：)\s*(?:\*\*)?\s*:?"
    r"|(?:答案|结果|答)\s*(?:是|为|等于|应为|：|:)+|####|(?:therefore|thus|hence|so)\b[^.\n]{0,80}?(?:\bis\b|\bare\b|=)",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:or|either|maybe|perhaps|possibly|alternatively|might|unless|could be)\b|或者?|也许|可能|要么",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:\bnot|n't|\bnever|\bno longer|\bisnt|不是|不等于|并非|≠|\\ne(?:q)?)\s*(?:equal(?: to)?|be|the)?\s*$",
    re.IGNORECASE,
)
_BOUND_BEFORE = re.compile(
    r"(?:at least|at most|more than|less than|fewer than|greater than|至少|至多|超过|大于|小于)\W*$",
    re.IGNORECASE,
)
_BOUND_AFTER = re.compile(r"\W*(?:or (?:more|less|fewer|greater)|at (?:least|most))\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?\s*(?:\\?%)?")
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_JOINS = re.compile(r"[\s$,;.、]*(?:\band\b|\\text\{\s*and\s*\}|和|以及|及)?[\s$,;、]*")
_UNSEEN = re.compile(r"\\[hv]?phantom\s*\{[^{}]*$")
_SAME_NAME = re.compile(r"\s*([A-Za-z])\s*=")
_GOLD_MARK = "####"


def gold_text(gold: str) -> str:
    """The answer in a gold text: the text after ``####`` (GSM8K), the last box of a solution, else all of
    it."""
    if _GOLD_MARK in gold:
        return gold.rpartition(_GOLD_MARK)[2].strip()
    boxes = boxed(gold)
    return boxes[-1][2] if boxes else gold.strip()


def final_answer(response: str, choice: bool = False) -> str | None:
    """The final answer of a response; None if it has none. ``choice``: the answer is a letter."""
    text = outside_thinking(response)
    if text is None:
        return None
    text = _untagged(text)
    if text is None:
        return None
    text = text[-LONGEST_END:]
    boxes = boxed(text)
    if boxes:
        return _boxed_answer(text, boxes)
    if BOX.search(text):
        return None  # a box that was never closed
    text = text.strip()
    if not text:
        return None
    if choice:
        return text if CHOICE.fullmatch(text) else _stated_choice(text)
    return _stated(text)


def outside_thinking(response: str) -> str | None:
    """The text after the thinking; the whole response if there is none; None if the thinking never ends."""
    text = response[max((closes.end() for closes in _THINK_CLOSES.finditer(response)), default=0) :]
    return None if _THINK_OPENS.search(text) else text


def _untagged(text: str) -> str | None:
    """The content of ``<answer>..</answer>``, or the text itself without tags; None for tags that do not
    pair, or pairs with different contents."""
    tags = [match for match, _ in zip(_ANSWER_TAG.finditer(text), range(MOST_TAGS + 1), strict=False)]
    if not tags:
        return text
    if len(tags) > MOST_TAGS or [tag[1] for tag in tags] != ["", "/"] * (len(tags) // 2):
        return None
    contents = {
        text[opens.end() : closes.start()].strip()
        for opens, closes in zip(tags[::2], tags[1::2], strict=True)
    }
    return contents.pop() if len(contents) == 1 else None


def _boxed_answer(text: str, boxes: list[tuple[int, int, str]]) -> str | None:
    """The last box, joined with its neighbours if each item of a list has a box; None for alternatives."""
    settled = [boxes[-1][2]]
    for (_, end, content), (begin, _, following) in zip(
        reversed(boxes[:-1]), reversed(boxes[1:]), strict=True
    ):
        between = text[end:begin]
        if alike(content, following):
            continue
        if len(between) < 30 and _JOINS.fullmatch(between):
            settled.insert(0, content)
        elif len(between) < 200 and _HEDGE.search(between):
            return None
        else:
            break
    before = text[max(0, boxes[-1][0] - 100) : boxes[-1][0]]
    if _UNSEEN.search(before) or _NEGATED.search(before.rstrip(" $\\([{")):
        return None
    return ",".join(settled)


def alike(one: str, other: str) -> bool:
    """Whether two answers are the same, as far as r1kit's own reader can decide."""
    if one == other or len(one) + len(other) > LONGEST_SENTENCE:
        return one == other
    if tidy(one) == tidy(other):
        return True
    try:
        return same_answer(read_answer(one), read_answer(other))
    except NotUnderstood:
        return False


def _stated_choice(text: str) -> str | None:
    """The chosen letter in a text without a box."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{", "", text)
    last = text.splitlines()[-1]
    if (
        not re.search(r"(?:answer|option|choice|答案|选)", last, re.IGNORECASE)
        and len(set(re.findall(r"\b[B-H]\b", last))) > 1
    ):
        return None
    for place in (last, text):
        stated = re.findall(
            r"(?:answer|option|choice|答案|选项?|选择)\W{0,8}(?:is|are|as|为|是|:|：)?\W{0,8}([A-J])\b",
            place,
            re.IGNORECASE,
        )
        letters = {letter.upper() for letter in stated}
        if len(letters) == 1 and not (_HEDGE.search(last) and len(set(re.findall(r"\b[B-J]\b", last))) > 1):
            return str(letters.pop())
        if len(letters) > 1:
            return None
    whole = re.fullmatch(r"\W*([A-J])(?:\W.*)?", last) if len(last) < 200 else None
    return (
        whole[1]
        if whole and (len(last.strip("().*$ ")) == 1 or last.strip("*$ (")[1:2] in ").:、．")
        else None
    )


def _stated(text: str) -> str | None:
    """What a text without a box states: after its last "answer is", else its last line, its last formula or
    its last number."""
    marks = list(_STATED.finditer(text))
    line = text.splitlines()[-1].strip()
    if marks:
        after = text[marks[-1].end() :].strip()
        line = after.splitlines()[0].strip() if after else ""
    elif "\n" not in text and len(text) <= 200 and not is_prose(text):
        return text
    sentences = [
        part
        for part in re.split(r"(?<=[^\d\\][.。!！?？])\s+|(?<=\d\.)\s+(?=[A-Z])|。", line)
        if part.strip()
    ]
    sentence = (sentences[0] if marks else sentences[-1]).strip() if sentences else ""
    if marks and not is_prose(sentence):
        return sentence or None
    sentence = sentence[-LONGEST_SENTENCE:]
    found = list(_MATH_SPAN.finditer(sentence)) or list(_NUMBER.finditer(sentence))
    if not found:
        return sentence if marks and len(sentence) <= 60 else None
    standing = [
        match for match in found if not _NEGATED.search(sentence[max(0, match.start() - 40) : match.start()])
    ]
    if not standing or (
        len({tidy(_content(match)) for match in standing}) > 1 and (_HEDGE.search(sentence) or marks)
    ):
        return None
    chosen = standing[-1]
    if _BOUND_BEFORE.search(sentence[: chosen.start()]) or _BOUND_AFTER.match(sentence[chosen.end() :]):
        return None
    return _values_of_one_name(sentence, standing) or _content(chosen)


def _content(match: re.Match[str]) -> str:
    """What stands between the dollars of a formula; a number itself."""
    return next((group for group in match.groups() if group), match.group())


def _values_of_one_name(sentence: str, found: list[re.Match[str]]) -> str | None:
    """``$x=1$ and $x=2$``: the formulas at the end of a sentence that give one variable several values, as a
    list."""
    joined = [_content(found[-1])]
    name = _SAME_NAME.match(joined[0])
    for match, following in zip(reversed(found[:-1]), reversed(found[1:]), strict=True):
        between, other = sentence[match.end() : following.start()], _SAME_NAME.match(_content(match))
        if not (name and other and name[1] == other[1] and len(between) < 30 and _JOINS.fullmatch(between)):
            break
        joined.insert(0, _content(match))
    return ", ".join(joined) if len(joined) > 1 else None
