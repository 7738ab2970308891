"""The conversation of a page as one file: JSON for programs, Markdown for readers.

In Markdown every text of a model or a data set stands in a fence that is longer than any in the text, so it
stays a text there too."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from r1kit.terminal import printable
from r1kit.types import Problem
from r1kit.web.talk_answers import Answer

FORMAT = 1
_FENCE = re.compile(r"`{3,}")


@dataclass(eq=False, slots=True)
class Exchange:
    """A question and its answers, a model each. ``problem`` is the one that was picked, where its text was
    not changed; ``follows``: whether it continues the conversation before it."""

    question: str
    problem: Problem | None
    follows: bool
    answers: list[Answer] = field(default_factory=list)


def as_json(run: str, exchanges: Sequence[Exchange]) -> bytes:
    """The conversation for programs: questions, answers with their numbers, settings and verdicts."""
    content = {"r1kit_talk": FORMAT, "run": run, "exchanges": [_exchange(one) for one in exchanges]}
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode(errors="replace")


def as_markdown(run: str, exchanges: Sequence[Exchange]) -> bytes:
    """The conversation for readers."""
    lines = [f"# Talk with the models of {_inline(run)}", ""]
    for number, exchange in enumerate(exchanges, 1):
        more = " (continues the conversation)" if exchange.follows else ""
        lines += [f"## Question {number}{more}", "", *_fenced(exchange.question)]
        if exchange.problem is not None:
            lines += [
                f"Problem {_inline(exchange.problem.id)} of the task {_inline(exchange.problem.task)}.",
                "",
            ]
        for answer in exchange.answers:
            lines += [f"### {_inline(answer.talker.title)}", "", f"{_inline(in_words(answer))}.", ""]
            if answer.thinking:
                lines += ["Thinking:", "", *_fenced(answer.thinking)]
            lines += [*(["Answer:", ""] if answer.thinking else []), *_fenced(answer.text or "(none)")]
            if verdict := verdict_in_words(answer):
                lines += ["Verdict:", "", *_fenced(verdict)]
    return "\n".join(lines).encode(errors="replace")


def in_words(answer: Answer) -> str:
    """State, tokens, seconds and settings of an answer."""
    settings = answer.settings
    words = [f"{answer.state}: {answer.error}" if answer.error else answer.state]
    if answer.tokens:
        words.append(f"{answer.tokens:,} tokens in {time_in_words(answer.seconds)}")
    return ", ".join([*words, f"seed {settings.seed}, temperature {settings.temperature:g}"])


def time_in_words(seconds: float) -> str:
    """Seconds, or milliseconds where they are few."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def verdict_in_words(answer: Answer) -> str:
    """What the task's check said, with its reason; "" where it was not asked."""
    judged = answer.judged
    if judged is None:
        return ""
    words = judged.outcome + (f": {judged.reason}" if judged.reason else "")
    if judged.truth is not None and judged.outcome != "correct":
        words += f"\nright answer: {judged.truth}"
    return words


def _exchange(exchange: Exchange) -> dict[str, Any]:
    problem = exchange.problem
    picked = None if problem is None else {"task": problem.task, "id": problem.id, "answer": problem.answer}
    return {
        "question": exchange.question,
        "problem": picked,
        "follows": exchange.follows,
        "answers": [_answer(answer) for answer in exchange.answers],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "model": answer.talker.stage,
        "kind": answer.talker.kind,
        **asdict(answer.settings),
        "state": answer.state,
        "error": answer.error,
        "thinking": answer.thinking,
        "text": answer.text,
        "thinking_tokens": answer.thinking_tokens,
        "tokens": answer.tokens,
        "thinking_seconds": round(answer.thinking_seconds, 3),
        "seconds": round(answer.seconds, 3),
        "verdict": None if answer.judged is None else asdict(answer.judged),
    }


def _fenced(text: str) -> list[str]:
    fence = "`" * max([2, *(len(found[0]) for found in _FENCE.finditer(text))]) + "`"
    return [f"{fence}text", printable(text), fence, ""]


def _inline(text: str) -> str:
    """A name within a line: no mark of Markdown or HTML counts in it."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|&-])", r"\\\1", " ".join(printable(text).split()))
