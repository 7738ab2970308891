"""Find the one final answer of a response, outside the thinking.

Only the text after ``</think>`` counts, and ``<answer>`` is unwrapped. Then, in this order:

1. a final line or statement that names itself the answer ("A: 9", "#### 9", "Final answer: 9", "The answer is
   9"), if it stands after the last box;
2. the last box, or the list of the boxes side by side with it (``boxes``);
3. the last labelled line or statement, if no later sentence has a value (``statements``);
4. the value of the last sentence (``values``).

docs/verifiers.md has an example of each side of every rule. A response may have any length and content: only
a bounded part at its end is searched with patterns that may take more than linear time."""

import re

from r1kit.tasks.mathematics.boxes import boxed_answer
from r1kit.tasks.mathematics.choices import CHOICE, chosen_letter, letter_in_box
from r1kit.tasks.mathematics.golds import gold_fault, gold_text
from r1kit.tasks.mathematics.layout import without_marks
from r1kit.tasks.mathematics.notation import BOX, ascii_digits, boxed
from r1kit.tasks.mathematics.sentence_values import alike
from r1kit.tasks.mathematics.statements import corrected_answer, stated_answer

__all__ = ["CHOICE", "alike", "final_answer", "gold_fault", "gold_text", "outside_thinking"]

LONGEST_END = 10_000  # characters searched, from the end of the text after the thinking
MOST_TAGS = 20
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_THINK_OPENS, _THINK_CLOSES = re.compile(r"<think>", re.IGNORECASE), re.compile(r"</think>", re.IGNORECASE)


def final_answer(response: str, choice: bool = False) -> str | None:
    """The final answer of a response; None if it has none. ``choice``: the answer is a letter."""
    text = outside_thinking(response)
    if text is None:
        return None
    text = _untagged(text)
    if text is None:
        return None
    text = ascii_digits(text[-LONGEST_END:])
    boxes = boxed(text)
    if BOX.search(text, boxes[-1][1] if boxes else 0):
        return None  # a box that was never closed
    if boxes:
        return _with_boxes(text, boxes, choice)
    text = without_marks(text).strip()
    if not text:
        return None
    if choice:
        return text if CHOICE.fullmatch(text) else chosen_letter(text)
    return stated_answer(text)


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


def _with_boxes(text: str, boxes: list[tuple[int, int, str]], choice: bool) -> str | None:
    """The answer of a text with boxes: a statement of the answer after the last box, else the boxes."""
    answer = boxed_answer(text, boxes)
    if choice:
        return answer if answer is None else letter_in_box(answer)
    after = text[boxes[-1][1] :]
    corrected = corrected_answer(without_marks(after)) if len(after) > 3 else None
    return corrected if corrected is not None and (answer is None or not alike(answer, corrected)) else answer
