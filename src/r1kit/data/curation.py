"""Which of a model's own solutions are readable enough to train on.

DeepSeek-R1 (Nature version, supplement B.3.2 and B.3.3) keeps correct solutions that a person can read: no
mixed languages, no repetition, no long paragraphs, no code blocks. Its thresholds were not published; these
are ours. Training problems that occur in an evaluation are removed in r1kit.tasks.overlap."""

from collections import Counter

from r1kit.chat import is_visible
from r1kit.language import language_share
from r1kit.tasks.overlap import words

LONGEST_PARAGRAPH = 300  # words
RUN = 8  # words in a row
RUNS_ALLOWED = 3  # how often the same run may occur


def readable(thinking: str, language: str, purity: float) -> bool:
    """Whether a thinking is in one language (at least the share ``purity`` of its words), without
    repetitions, code blocks and long paragraphs. One of signs and numbers alone is in every language; an
    empty one is not readable."""
    return why_unreadable(thinking, language, purity) is None


def why_unreadable(thinking: str, language: str, purity: float) -> str | None:
    """The first filter that a thinking does not pass, in words; None for a readable one."""
    if not is_visible(thinking):
        return "no thinking"
    if "```" in thinking:
        return "a code block"
    share = language_share(thinking, language)
    if share is not None and share < purity:
        return f"words of another language than {language}"
    if repeats(thinking):
        return "repetitions"
    if any(len(words(paragraph)) > LONGEST_PARAGRAPH for paragraph in thinking.split("\n")):
        return f"a paragraph of more than {LONGEST_PARAGRAPH} words"
    return None


def repeats(text: str) -> bool:
    """Whether the same eight consecutive words occur more than three times."""
    found = words(text)
    runs = Counter(zip(*(found[start:] for start in range(RUN)), strict=False))
    return max(runs.values(), default=0) > RUNS_ALLOWED
