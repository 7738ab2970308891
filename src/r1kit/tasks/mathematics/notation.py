"""How an answer is written: one spelling for every sign, numbers, prose, brackets.

Nothing here knows what an answer means; ``tidy`` only reduces many spellings to one.
"""

import re
import unicodedata
from functools import lru_cache

from r1kit.tasks.mathematics.units import UNITS, normal_unit

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(ord("！"), ord("～") + 1) if chr(code) not in "，；："}
_SYMBOLS = {
    "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "−": "-", "–": "-", "—": "-",
    "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "∪": "\\cup ", "∈": "\\in ", "°": "^\\circ ",
    "，": ",", "、": ",", "；": ";", "：": ":", "½": "\\frac12", "¼": "\\frac14", "¾": "\\frac34",
    "⅓": "\\frac13", "⅔": "\\frac23", "θ": "\\theta ", "±": "\\pm ", "∅": "\\emptyset ", "√": "\\sqrt ",
    "**": "^", "\\varnothing": "\\emptyset ", "\\leq": "\\le ", "\\geq": "\\ge ", "\\lt": "<", "\\gt": ">",
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\colon": ":",
    "\\lbrace": "\\{", "\\rbrace": "\\}", "\\uppi": "\\pi ",
    "\\leqslant": "\\le ", "\\geqslant": "\\ge ", "⩽": "\\le ",
    "⩾": "\\ge ", "≦": "\\le ", "≧": "\\ge ", "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\ne": "\\neq ",
}  # fmt: skip
_SPACING = re.compile(
    r"(?<!\\)\\[,;:!>]|(?<!\\)\\ "
    r"|~|\\(?:displaystyle|textstyle|quad|qquad|limits|left|right|bigl?|bigr|Bigl?|Bigr|biggl?|biggr|middle"
    r"|hspace\{[^}]*\})(?![A-Za-z])"
)
_SIGN_WORDS = re.compile(
    "|".join(
        re.escape(word) + ("(?![A-Za-z])" if word[-1].isalpha() else "")
        for word in sorted(_SYMBOLS, key=len, reverse=True)
    )
)
_THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:,|\{,\}|[\u2009\u202f\u00a0])\d{3})+)(?!\d)")
_TEXT_COMMANDS = re.compile(
    r"\\(?:textbf|textrm|textsf|texttt|textit|textup|textmd|textsl|textnormal|emph)(?=\s*\{)"
)
_QUOTE_PAIRS = (
    ('"', '"'), ("'", "'"), ("＂", "＂"), ("”", "”"), ("″", "″"),
    ("``", "''"), ("``", '"'), ("`", "'"), ("“", "”"), ("„", "“"), ("„", "”"), ("‘",
    "’"), ("「", "」"),
    ("『", "』"), ("«", "»"), ("»", "«"), ("‹", "›"), ("《", "》"), ("&quot;", "&quot;"),
)  # fmt: skip
_QUOTE_BEGINS = tuple(sorted({begin for begin, _ in _QUOTE_PAIRS}))
_QUOTED_WORDS = re.compile(r"(\\text\s*\{\s*)([^{}]*?)(\s*\})")
_UNFINISHED = re.compile(r",\s*(?:\.{2,}|…)[.,; ]*$")  # 1, 2, ...
_DOLLAR_SPAN = re.compile(r"\\?[$€£¥￥]|(?<!\\)\\[()\[\]]|\\textdollar")


@lru_cache(maxsize=50_000)
def tidy(text: str) -> str:
    """Bring an answer into a common form: half-width, one spelling for each sign, no spacing commands, no
    dollar signs."""
    text = without_quotes(text.strip(" \t\n*_")).strip(" \t\n`*_")
    if "\\\\" in text and "\\begin" not in text:  # commands that were escaped twice
        text = re.sub(r"\\\\(?=[A-Za-z]{2})", r"\\", text)
    if "\\text" in text or "\\emph" in text:
        text = _TEXT_COMMANDS.sub(r"\\text", text)
        text = _QUOTED_WORDS.sub(lambda m: m[1] + without_quotes(m[2]) + m[3], text)
    if not text.isascii():
        text = ascii_digits(text.replace("\u3000", " ").translate(_HALF_WIDTH))
        text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub(r"(?<=\d),\s*\\!\s*(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"(?<=\d)(?:\\[,!;: ]|\{,\}|[~\u2009\u202f\u00a0])(?=\d{3}(?!\d))", ",", text)
    text = re.sub(
        r"^\s*\$?([-+]?)\\\$\s*(\d[\d,]*(?:\.\d+)?|\.\d+)\s*\$?\s*\.?$", r"\1\2 \\text{dollar}", text
    )
    text = _DOLLAR_SPAN.sub("", text)
    text = _SPACING.sub(" ", text)
    text = _SIGN_WORDS.sub(lambda m: _SYMBOLS[m[0]], text)
    text = re.sub(
        r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|rm|bf|operatorname|textnormal)\s*\{\s*(and|or|及|和"
        r"|或)\s*\}",
        " , ",
        text,
    )
    text = re.sub(r"(?<=[\d})])\s+(?:and|or|和|或)\s+(?=[-\\(\d])", " , ", text)
    text = re.sub(r"\^\{?\s*\\circ\s*\}?", "\\\\degree ", text)
    text = re.sub(r"[ \t\n]+", " ", text).strip()
    text = re.sub(r"^[`*_ ]*(.*?)[`*_ ]*$", r"\1", text)
    if _UNFINISHED.search(text):
        return text
    return re.sub(r"(?<![\w)}])!+$", "", text.rstrip(".。;, ")).strip()


def without_quotes(text: str) -> str:
    """The text without a pair of quotation marks around all of it."""
    bare = text.rstrip(".,。，")
    if not bare.startswith(_QUOTE_BEGINS):
        return text
    for begin, end in _QUOTE_PAIRS:
        inner = bare[len(begin) : len(bare) - len(end)]
        if (
            bare.startswith(begin)
            and bare.endswith(end)
            and inner.strip()
            and begin not in inner
            and end not in inner
        ):
            return inner.strip()
    return text


def is_plain_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(?:\.\d+)?", text) is not None


def says_more(text: str) -> bool:
    """Whether a text contains words within LaTeX that a lenient reader would skip: 5 \\text{ or more}."""
    return re.search(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit)\s*\{[^}]*[A-Za-z]{2}", text) is not None


def is_prose(text: str) -> bool:
    """Whether a text contains words that are neither LaTeX, a function, a unit nor a single variable."""
    bare = re.sub(r"\\(?:begin|end)\s*\{\w+\}|\\(?:text|mathrm|textbf|mbox)\{[^}]*\}|\\[A-Za-z]+", " ", text)
    words = re.findall(r"[A-Za-z]{2,}", bare)
    return (
        len([word for word in words if word.lower() not in FUNCTION_NAMES and normal_unit(word) not in UNITS])
        >= 2
    )


FUNCTION_NAMES = frozenset(
    [
        "sqrt",
        "pi",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "ln",
        "log",
        "exp",
        "arcsin",
        "arccos",
        "arctan",
        "or",
        "and",
    ]
)


BOX = re.compile(r"\\(?:f?boxed|fbox)(?![A-Za-z])\s*")


def boxed(text: str) -> list[tuple[int, int, str]]:
    """All ``\\boxed{...}`` of a text: begin, end and content, braces balanced. An unclosed box is none."""
    found = []
    position = 0
    while (match := BOX.search(text, position)) is not None:
        begin = match.end()
        if text[begin : begin + 1] != "{":
            bare = re.match(r"[\w.]+", text[begin:])
            if bare:
                found.append((match.start(), begin + bare.end(), bare.group()))
            position = begin + bare.end() if bare else begin
            continue
        depth, end = 0, begin
        for end in range(begin, len(text)):
            depth += (text[end] == "{" and text[end - 1] != "\\") - (
                text[end] == "}" and text[end - 1] != "\\"
            )
            if depth == 0:
                break
        if depth:
            return found
        found.append((match.start(), end + 1, text[begin + 1 : end].strip()))
        position = end + 1
    return found


def brackets_match(text: str) -> bool:
    """Whether the last character closes the first bracket."""
    depth = 0
    for place, character in enumerate(text):
        if character == "\\":
            continue
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def nesting(text: str) -> int:
    """How deep the brackets of a text are nested."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def split_outside(text: str, separator: str) -> list[str]:
    """Split a text at a separator that stands outside all brackets."""
    pieces, depth, begin, place = [], 0, 0, 0
    while place < len(text):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
        if (
            depth == 0
            and text.startswith(separator, place)
            and not text[place + len(separator) : place + len(separator) + 1].isalpha()
            * separator[0:1].startswith("\\")
        ):
            pieces.append(text[begin:place])
            begin = place + len(separator)
        place += 1
    return [*pieces, text[begin:]]


def drop_thousands(text: str) -> str:
    """Take the separators out of numbers such as 1,234,567."""
    if "," in text and not re.search(r"[()\[\]]|\\\{", text):
        whole = _THOUSANDS.fullmatch(re.sub(r"[^\d,]", "", text)) if not re.search(r",\s", text) else None
        if whole or re.search(r"\d{1,3}(,\d{3})+\.\d", text):
            return _THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    return text


def ascii_digits(text: str) -> str:
    """The text with the digits of other scripts (٤٢, ४२) as ASCII digits."""
    if text.isascii():
        return text
    return re.sub(r"[^\x00-\x7f]", lambda m: str(unicodedata.digit(m[0])) if m[0].isdecimal() else m[0], text)
