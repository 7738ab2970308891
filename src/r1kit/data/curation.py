"""Which of a model's own solutions are readable enough to train on.

DeepSeek-R1 (Nature version, supplement B.3.2 and B.3.3) keeps correct solutions that a person can read: no
mixed languages, no repetition, no long paragraphs, no code blocks. Its thresholds were not published; these
are ours. Training problems that occur in an evaluation are removed in r1kit.tasks.overlap."""

from collections import Counter

from r1kit.language import language_share
from r1kit.tasks.overlap import words

LONGEST_PARAGRAPH = 300  # words
RUN = 8  # words in a row
RUNS_ALLOWED = 3  # how often the same run may occur


def readable(thinking: str, language: str, purity: float) -> bool:
    """Whether a thinking is in one language (at least the share ``purity`` of its words), without
    repetitions, code blocks and long paragraphs. A thinking without words is not readable."""
    if "```" in thinking or language_share(thinking, language) < purity:
        return False
    return not repeats(thinking) and all(
        len(words(paragraph)) <= LONGEST_PARAGRAPH for paragraph in thinking.split("\n")
    )


def repeats(text: str) -> bool:
    """Whether the same eight consecutive words occur more than three times."""
    found = words(text)
    runs = Counter(zip(*(found[start:] for start in range(RUN)), strict=False))
    return max(runs.values(), default=0) > RUNS_ALLOWED
