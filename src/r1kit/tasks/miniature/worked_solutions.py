"""Worked solutions in words: steps rendered in English, in Chinese, mixed, with re-checks, in the raw or in
the readable style.

The pretraining corpus writes its solutions with this page, and the cold start's rewriter (the paper's
"convert into a readable format", section 2.3.1 of DeepSeek-R1 v1) reads a model's raw thinking back into
steps and writes them again in one language."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

LANGUAGES = ("en", "zh")

_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "first": ("first", "start with", "begin with"), "next": ("then", "next", "after that"),
        "last": ("so", "so we get", "the result is"), "check": ("check", "let me verify"),
        "fine": ("right", "good"), "wrong": ("wait", "no wait"),
    },
    "zh": {
        "first": ("先算", "首先", "开始"), "next": ("再算", "然后", "接着"),
        "last": ("所以", "因此得到", "结果是"), "check": ("检查", "验算"),
        "fine": ("对", "正确"), "wrong": ("等等", "不对"),
    },
}  # fmt: skip
_COMMA = {"en": ", ", "zh": "，"}

_READABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "first": ("I start with {}. ",),
        "next": ("Then I find {}. ", "Next I get {}. "),
        "last": ("So the answer is {}.",),
    },
    "zh": {
        "first": ("我先算{}。",),
        "next": ("然后我算{}。", "接着得到{}。"),
        "last": ("所以答案是{}。",),
    },
}

_EQUATION = re.compile(r"[0-9a-z()*+\-/]+(?:=[0-9a-z()*+\-/]+)+")
_CHECK_WORDS = tuple(word for language in LANGUAGES for word in _WORDS[language]["check"])
_WAIT_WORDS = tuple(word for language in LANGUAGES for word in _WORDS[language]["wrong"])


@dataclass(frozen=True, slots=True)
class Worked:
    """A solution: equations such as "12+35=47" in order, the final answer, and a re-check equation of the
    last step."""

    steps: tuple[str, ...]
    answer: str
    check: str


def other(language: str) -> str:
    return "zh" if language == "en" else "en"


def write_raw(
    work: Worked,
    language: str,
    rng: random.Random,
    switch: float = 0.0,
    recheck: bool = False,
    slip_at: int | None = None,
    slip: str = "",
) -> str:
    """Thinking as a base corpus has it: bare steps with connectives, changing language with probability
    ``switch`` before each step.

    ``slip_at``: before that step a wrong equation ``slip`` is written and taken back ("wait").
    """
    text, current = "", language
    for index, step in enumerate(work.steps):
        if rng.random() < switch:
            current = other(current)
        words = _WORDS[current]
        lead = rng.choice(words["first"] if index == 0 else words["next"])
        if index == slip_at:
            text += (
                _join(lead, slip, current)
                + _COMMA[current]
                + _join(rng.choice(words["wrong"]), step, current)
                + _COMMA[current]
            )
        else:
            text += _join(lead, step, current) + _COMMA[current]
    if rng.random() < switch:
        current = other(current)
    words = _WORDS[current]
    if recheck:
        text += (
            _join(rng.choice(words["check"]), work.check, current)
            + _COMMA[current]
            + rng.choice(words["fine"])
            + _COMMA[current]
        )
    return text + _join(rng.choice(words["last"]), work.answer, current)


def write_readable(steps: Sequence[str], answer: str, language: str, rng: random.Random) -> str:
    """Thinking in the cold start's style: whole sentences, first person, one language. It ends with the
    answer, unless that is as long as a program, which the summary alone gives."""
    words = _READABLE[language]
    text = words["first"][0].format(steps[0]) if steps else ""
    for step in steps[1:]:
        text += rng.choice(words["next"]).format(step)
    return text.rstrip() if " " in answer else text + words["last"][0].format(answer)


def read_steps(thinking: str) -> list[str]:
    """The equations of a thinking in order, without those that were taken back ("wait") and without
    re-checks."""
    steps: list[str] = []
    for match in _EQUATION.finditer(thinking):
        lead = thinking[max(0, match.start() - 16) : match.start()].rstrip()
        if lead.endswith(_CHECK_WORDS):
            continue
        if lead.endswith(_WAIT_WORDS) and steps:
            steps.pop()
        steps.append(match.group())
    return steps


_SUM = re.compile(r"(\d+)([+\-*/])(\d+)=(\d+)")


def holds(equation: str) -> bool:
    """Whether an equation of two numbers is true; division is without remainder. What is not such an equation
    is not judged (True)."""
    match = _SUM.fullmatch(equation)
    if match is None:
        return True
    a, sign, b, result = int(match[1]), match[2], int(match[3]), int(match[4])
    if sign == "/":
        return b > 0 and a // b == result
    return {"+": a + b, "-": a - b, "*": a * b}[sign] == result


def rechecks(thinking: str) -> bool:
    """Whether the thinking re-checks a result."""
    return any(word in thinking for word in _CHECK_WORDS)


def takes_back(thinking: str) -> bool:
    """Whether the thinking takes a step back ("wait"): the paper's reflection words in miniature."""
    return any(word in thinking for word in _WAIT_WORDS)


def _join(lead: str, body: str, language: str) -> str:
    return f"{lead} {body}" if language == "en" else f"{lead}{body}"


def works_out(thinking: str) -> bool:
    """Whether the thinking works the problem out, step by step."""
    return bool(read_steps(thinking))


HABITS = {"worked": works_out, "recheck": rechecks, "step_back": takes_back}
