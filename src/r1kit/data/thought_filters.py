"""What a thinking must not be, to train the next model on it: in several languages, in chaotic paragraphs,
with long code (DeepSeek-R1, Nature version, supplement B.3.3; its thresholds were not published, these are
ours)."""

import re

from pydantic import Field

from r1kit.chat import parse
from r1kit.config import Config
from r1kit.data.curation import repeats
from r1kit.language import language_share
from r1kit.tasks.overlap import words

NO_THINKING = "no thinking"
_BLOCK = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_ORDINARY = re.compile(r"[\w\s.,;:!?'\"()\[\]{}+\-*/=<>^|$%&\\~#@·×÷≤≥≠≈√π。，；：！？“”‘’（）、—–]")
_LONGEST_WORD = 60  # letters and digits in a row


class ThoughtFilters(Config):
    """``purity``: the least share of the thinking's words in the prompt's language. ``paragraph``: words of a
    paragraph at most. ``ordinary``: the least share of a paragraph's characters that are letters, digits or
    common signs. ``code_lines``: lines of code in a thinking at most."""

    purity: float = Field(0.9, ge=0.0, le=1.0)
    paragraph: int = Field(300, ge=1)
    ordinary: float = Field(0.8, ge=0.0, le=1.0)
    code_lines: int = Field(5, ge=0)

    def why_not(self, thinking: str, language: str) -> str | None:
        """The first filter that a thinking does not pass, in words; None for one that passes all."""
        code = sum(len(block.strip().splitlines()) for block in _BLOCK.findall(thinking))
        if code > self.code_lines:
            return "long code"
        prose = _BLOCK.sub("", thinking)
        share = language_share(prose, language)
        if share is not None and share < self.purity:
            return "mixed languages"
        if repeats(prose):
            return "repetitions"
        if any(self._is_chaotic(paragraph) for paragraph in prose.split("\n")):
            return "chaotic paragraphs"
        return None

    def _is_chaotic(self, paragraph: str) -> bool:
        found = words(paragraph)
        if len(found) > self.paragraph or max(map(len, found), default=0) > _LONGEST_WORD:
            return True
        ordinary = len(_ORDINARY.findall(paragraph))
        return bool(paragraph.strip()) and ordinary < self.ordinary * len(paragraph)


def thinking_of(completion: str) -> str | None:
    """The thinking of a completion; None where it has none, or does not follow the template."""
    parsed = parse(completion)
    return parsed[0] if parsed and parsed[0].strip() else None


def language_of(prompt: str) -> str:
    """The language of a prompt whose row names none: Chinese where most of its words are, else English."""
    share = language_share(prompt, "zh")
    return "zh" if share is not None and share > 0.5 else "en"
