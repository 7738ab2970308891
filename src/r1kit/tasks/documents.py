"""Write a problem and its solution as a document for pretraining, and the sentence that summarises a
solution.

A base model should see the chat layout and the tags sometimes, and other layouts more often, so that
reinforcement learning can select between them."""

import random
from typing import Annotated

from pydantic import Field

from r1kit.config import Config
from r1kit.tokenizer import ASSISTANT, USER

Share = Annotated[float, Field(ge=0.0, le=1.0)]

_SUMMARY = {"en": "The answer is \\boxed{{{}}}.", "zh": "答案是\\boxed{{{}}}。"}


class Layout(Config):
    """How problems look as documents; each share is a probability per document."""

    direct: Share = 0.62  # the answer without its solution
    chat_layout: Share = 0.6  # the rest is plain text
    exact_tags: Share = 0.45  # of the chat layout: <think>..</think><answer>..</answer>
    broken_tags: Share = 0.15  # of the chat layout: tags missing or doubled; the remainder has none
    boxed: Share = 0.3  # of answers outside tags, where there is a sentence with the answer in a box


def write_document(
    prompt: str, thinking: str, answer: str, rng: random.Random, layout: Layout, boxed: str | None = None
) -> str:
    """One problem as a document: plain text, or a chat whose tags are right, broken or absent. Outside tags
    the answer may stand in the sentence ``boxed``."""
    said = boxed if boxed and rng.random() < layout.boxed else answer
    if rng.random() >= layout.chat_layout:
        stop = rng.choice((" ", "\n", "\nA: "))
        return f"{prompt}{stop}{thinking}{'. ' if thinking else ''}{said}"
    draw = rng.random()
    if draw < layout.exact_tags:
        body = f"<think>{thinking}</think><answer>{answer}</answer>"
    elif draw < layout.exact_tags + layout.broken_tags:
        body = rng.choice(
            (
                f"<think>{thinking}<answer>{answer}</answer>",
                f"{thinking}</think><answer>{answer}",
                f"<think>{thinking}</think>{answer}</answer>",
                f"<answer>{answer}</answer>",
                f"<think>{thinking}</think><answer>{answer}</answer><answer>{answer}</answer>",
            )
        )
    else:
        body = f"{thinking}{' ' if thinking else ''}{said}"
    return f"{USER}{prompt}{ASSISTANT}{body}"


def write_summary(answer: str, language: str) -> str:
    """The summary after the thinking: one sentence with the answer in a box; the box alone in a language
    without such a sentence here."""
    return _SUMMARY.get(language, "\\boxed{{{}}}").format(answer)
