"""The letter that a response to a multiple-choice problem chooses."""

import re

from r1kit.tasks.mathematics.phrases import ANSWER_WORDS, DOUBT, LABEL, OR, REFUSES

CHOICE = re.compile(
    r"\s*\$?\s*(?:\\(?:text|mathrm|textbf|mathbf|textrm|textsf|texttt"
    r"|textit)\{)?\s*\(?([A-J])\)?\s*\}?\s*\$?\.?\s*"
)
_TEXT_COMMAND = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|textrm|textsf|texttt|textit|mbox|boxed)\s*\{|[{}$\"“”]"
)
_NAMES = rf"{ANSWER_WORDS}|\b(?:options?|choices?|pick|choose|select|go with)\b|选项?|选择"
_STATED = re.compile(
    rf"(?:{_NAMES})\W{{0,8}}(?:(?:is|are)(?:\s+(?:therefore|thus|then|hence|clearly|indeed|\w+ly)\b)?|as"
    rf"|would be|must be|为|是|es|est|ist|è|é|är|er"
    r"|는|은|は|:|：)?\W{0,8}(?:(?:option|choice)\W{0,3})?"
    r"([A-Ja-j])(?![A-Za-z'’]|\)?\s*(?:,|、|and\b|or\b)\s*\(?[A-J]\b"
    r"|\)?\W{0,4}\s?(?:is|was|are|must be)\s*(?:clearly |also )?(?:n[o'’]?t\b|wrong|incorrect|false"
    r"|impossible))"
    r"|\b(?:right|correct|best|true)(?:\s+one)?\s*(?:is|:)\s*\(?([A-J])(?![A-Za-z'’])",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"(?<![A-Za-z])([A-J])\)?\W{0,4}\s(?:is|was|must be|seems)\s+(?:clearly\s+)?"
    r"(?:(?:the|my|our)\s+)?(?!not|wrong|incorrect)"
    r"(?:[a-z]+\s+)?(?:answer|option|choice|correct|right|one)\b"
)
_IN_BOX = re.compile(
    rf"\s*(?:the\s+)?(?:(?:correct|right|final|best)\s+)?(?:{_NAMES})?\s*(?:is|是|为|:"
    rf"|：)?\s*\(?([A-J])\)?\s*[.。]?\s*",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"(?<![A-Za-z])(?:[B-J]|(?<=or )A|A(?= or\b))(?![A-Za-z])")


def letter_in_box(content: str) -> str:
    """The letter in a box such as ``\\text{Option D}``; anything else as it is."""
    bare = _IN_BOX.fullmatch(_TEXT_COMMAND.sub("", content))
    return bare[1] if bare and bare[1].isupper() else content


def chosen_letter(text: str) -> str | None:
    """The letter that a text without a box chooses; None if it names several, or none."""
    text = _TEXT_COMMAND.sub("", text).strip()
    if not text:
        return None
    last = text.splitlines()[-1].strip()
    label = LABEL.match(last)
    if label and len(rest := last[label.end() :].strip(" .()*")) == 1 and rest in "ABCDEFGHIJ":
        return rest
    if REFUSES.search(last):
        return None
    named = set(_LETTERS.findall(last))
    if len(named) > 1 and not re.search(_NAMES, last, re.IGNORECASE):
        return None
    hedged = len(named) > 1 and (OR.search(last) or DOUBT.search(last))
    for place in (last, text):
        letters = {(one or other).upper() for one, other in _STATED.findall(place) if one != "a"}
        letters |= set(_SUBJECT.findall(place))
        if len(letters) == 1 and not hedged:
            return str(letters.pop())
        if len(letters) > 1 or hedged:
            return None
    whole = re.fullmatch(r"\W*([A-J])(?:\W.*)?", last) if len(last) < 200 else None
    alone = len(last.strip("().*$ ")) == 1 or last.strip("*$ (")[1:2] in ").:、．"
    return whole[1] if whole and alone else None
