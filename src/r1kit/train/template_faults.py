"""What the parser of the template (chat.parse) saw in a rollout, in words: why there is no answer."""

from r1kit.chat import is_visible
from r1kit.types import Rollout

FOLLOWED = "the template is followed"
OPENED, CLOSED = "<think>", "</think>"
BEGUN, ENDED = "<answer>", "</answer>"


def what_parser_saw(rollout: Rollout) -> str:
    """Why a rollout has no answer, or FOLLOWED where it has one. The first fault from left to right, except
    that a completion without an end is that in the first place."""
    if rollout.answer is not None:
        return FOLLOWED
    if rollout.completion.finish == "length":
        return "cut off at max_tokens"
    text = rollout.text.strip()
    if not text.startswith(OPENED):
        return f"no {OPENED} at the beginning"
    thinking, closed, rest = text.removeprefix(OPENED).partition(CLOSED)
    if not closed:
        return f"no {CLOSED}"
    if OPENED in thinking or OPENED in rest or CLOSED in rest:
        return "more than one thinking"
    if not is_visible(rest):
        return f"nothing after {CLOSED}"
    return _answer_fault(rest.strip())


def _answer_fault(rest: str) -> str:
    """What is wrong with what stands after the thinking."""
    before, begun, inner = rest.partition(BEGUN)
    answer, ended, after = inner.partition(ENDED)
    if begun and before.strip():
        return f"text before {BEGUN}"
    if begun and not ended:
        return f"no {ENDED}"
    if begun and after.strip():
        return f"text after {ENDED}"
    if begun and not is_visible(answer):
        return "an empty answer"
    return "another tag of the template, or a special token"
