"""Words of reflection in a text (DeepSeek-R1, arXiv 2501.12948v2, supplement C.2: they become five to seven
times as frequent while R1-Zero trains)."""

import re

WORDS = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
_WORDS = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)


def reflection_words(text: str) -> list[str]:
    """The paper's words in a text, in small letters, as often as they occur."""
    return [word.lower() for word in _WORDS.findall(text)]
