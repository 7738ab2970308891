"""Mutated responses with an oracle that does not read them: what a random text ends in decides.

``decided`` puts an end of known meaning after a mutated text. The end gives one number, or gives none (two
boxes with "or", a denial), so no other number of the text may be called correct. ``absent`` asks for a number
whose digits occur nowhere in the text: brute force over all numbers of the text says that it is wrong."""

import random
import re
from collections.abc import Iterator

from answers_in_text import generate

PIECES = [
    "$", "$$", "\\[", "\\]", "\\(", "\\boxed{", "}", "{", "**", "*", "_", "`", "```", "\n", "\n\n", " or ", " and ", "not ",
    "\\frac{", "=", ":", "A: ", "#### ", "The answer is ", "。", "，", "或", "42", "7", "-", "/", ".", "<|endoftext|>", "<<",
    "'", '"', "\\begin{align}", "\\end{align}", "\\\\", "&", "\\text{", "(", ")", "step ", "\ud800", "\x00", "½", "٤", "if ",
    "<b>", "\\pm", "%", "is ", "so ", "also ", "I do not know. ", "\\phantom{", "\u200b", "١٢", "- ", "1. ",
]  # fmt: skip
# The end of a response and the number in it that is its answer.
ANSWERING = [
    "\n\nA: {}", "\n\n#### {}", "\n\nFinal answer: {}", "\n\nThe final answer is {}.", "\n\nAnswer: **{}**", "\n\n答案：{}",
    "\n\nSo we get the last result.\n\nThe answer is ${}$.",
]  # fmt: skip
NOT_ANSWERING = [
    "\n\n\\boxed{{{}}} or \\boxed{{{}}}", "\n\n$\\boxed{{{}}} \\quad \\text{{and}} \\quad \\boxed{{{}}}$",
    "\n\n\\boxed{{{}}}, or maybe \\boxed{{{}}}", "\n\n\\boxed{{{}}} for the first and \\boxed{{{}}} for the second",
]  # fmt: skip


def mutate(draw: random.Random, text: str, others: list[str]) -> str:
    """The text with one to four cuts, insertions or parts of other texts."""
    for _ in range(draw.randint(1, 4)):
        place, way = draw.randint(0, len(text)), draw.random()
        if way < 0.3:
            text = text[:place] + draw.choice(PIECES) + text[place:]
        elif way < 0.5:
            text = text[:place] + text[place + draw.randint(1, 6) :]
        elif way < 0.7:
            other = draw.choice(others)
            text = text[:place] + other[draw.randint(0, len(other)) :]
        elif way < 0.85:
            text = text + draw.choice(["\n", " "]) + draw.choice(others)
        else:
            text = text[:place] + draw.choice(PIECES) * draw.choice([1, 2, 50]) + text[place:]
    return text


def mutated(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """``count`` pairs of a gold number and a response that does not answer it."""
    draw = random.Random(seed)
    texts = [case.response for case in generate(2_000, seed)]
    texts = [text for text in texts if "think>" not in text]
    for number in range(count):
        text = mutate(draw, draw.choice(texts), texts)
        yield absent(draw, text) if number % 2 else decided(draw, text)


def absent(draw: random.Random, text: str) -> tuple[str, str]:
    """A number whose digits are nowhere in the text, and the text."""
    while True:
        gold = draw.randint(10_000, 99_999)
        if str(gold) not in re.sub(r"[^\d]", "", text):
            return str(gold), text


def decided(draw: random.Random, text: str) -> tuple[str, str]:
    """A number of the text, and the text with an end that answers another number, or nothing."""
    numbers = [number for number in re.findall(r"[0-9]{1,6}", text) if int(number) < 10**6] or ["5"]
    gold, last = draw.choice(numbers), str(draw.randint(1_000_001, 2_000_000))
    if draw.random() < 0.6:
        return gold, text + draw.choice(ANSWERING).format(last)
    return gold, text + draw.choice(NOT_ANSWERING).format(*draw.sample([gold, last], 2))
