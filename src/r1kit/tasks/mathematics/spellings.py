"""Spellings of an answer that are rewritten before it is read: upright letters, numbers with spaces,
scientific notation, quantifiers.

``notation.tidy`` treats what concerns every text; this is about what a whole answer means."""

import re

_UPRIGHT = re.compile(
    r"\\(?:mathrm|text|textrm|operatorname|mathit|mathnormal|mathsf|mathbf|textit|rm)\s*\{\s*([a-z]|\\pi)\s*\}"
    r"|\{\s*\\rm\s+([a-z])\s*\}"
)
_UNIT_LETTERS = frozenset("mgtshl")
_SCIENTIFIC = re.compile(r"(?<=\d)\s*(?:[xX*]|\\times|\\cdot)\s*10\s*\^\s*(?:\(?(-?\d+)\)?(?![\d}])|(?=\{))")
_SPACED = re.compile(r"([-+]?\d{1,3})((?: \d{3})+)(?=(?:\.\d+)?(?:\s*\\(?:text|mathrm|%)|\s*[A-Za-z%]|$))")
_REALS = r"(?:\\mathbb\s*\{?\s*R\s*\}?|\\mathbf\s*\{?\s*R\s*\}?|\\R(?![A-Za-z])|ℝ|R)"
_NAMES = r"[a-z](?:\s*,\s*[a-z])*"
_QUANTIFIER = re.compile(
    r"\s*[,;(]?\s*(?:\\text\s*\{\s*)?(?:for\s+(?:all|any|every|each)|\\forall|∀)\s*(?:real)?\s*(?:numbers?)?\s*\}?"
    rf"\s*(?:{_NAMES})?\s*(?:\\in\s*{_REALS})?\s*(?:\}})?\s*\)?\s*$"
    rf"|\s*[,;(]\s*{_NAMES}\s*\\in\s*{_REALS}\s*\)?\s*$"
)
_FUNCTION = re.compile(r"\s*[A-Za-z]\w*\s*\(\s*[a-z](?:\s*,\s*[a-z])*\s*\)\s*=")
_UNEQUAL = re.compile(r"≠|(?<=[A-Za-z])\s*!=|\s+!=\s*|\\not\s*=")
_COMMA_IN_BRACES = re.compile(r"(?<=\d)\{,\}(?=\d)")
_GROUPS_WITH_POINTS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:[.\u00a0\u202f ]\d{3})+(?!\d|\.\d)")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d+)(?!\d|[.,]\d)")
_NEXT_RELATION = re.compile(r"(?<=[\w})])\s+(?:or|and)\s+(?=[a-z]\s*(?:[<>=]|\\(?:le|ge|neq)(?![A-Za-z])))")


def rewrite(text: str) -> str:
    """Rewrite a tidied answer."""
    if text.isdigit():
        return text
    text = _UPRIGHT.sub(_upright, text)
    text = _SCIENTIFIC.sub(lambda m: f"\\times 10^{{{m[1]}}}" if m[1] else "\\times 10^", text)
    text = _UNEQUAL.sub("\\\\neq ", text)
    text = _NEXT_RELATION.sub(" , ", text)
    spaced = _SPACED.match(text)
    if spaced:
        text = spaced[0].replace(" ", "") + text[spaced.end() :]
    return _QUANTIFIER.sub("", text) if _FUNCTION.match(text) else text


def _upright(match: re.Match[str]) -> str:
    """An upright letter is that letter; m, g, t, s, h and l are units unless they stand where no unit
    can."""
    letter = match[1] or match[2]
    before = match.string[: match.start()].rstrip()
    if letter in _UNIT_LETTERS and before and before[-1] not in "+-*/^(=,{[|<>":
        return match[0]
    return f" {letter} "


def with_decimal_points(text: str) -> str:
    """A text in which a comma marks the decimals (3,14; 1.234,5; 1 234,5) in the spelling that is read
    elsewhere: 3.14, 1234.5. A comma before a space, or in a longer row (1,2,3), separates."""
    text = _COMMA_IN_BRACES.sub(",", text)
    text = _GROUPS_WITH_POINTS.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    return _DECIMAL_COMMA.sub(r"\1.\2", text)
