"""Read an answer: its kind and its exact parts.

Numbers, units, percentages, expressions, tuples, sets, intervals, matrices, equations, inequalities, choices,
words. An answer that is not understood raises ``NotUnderstood``; nothing is guessed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from r1kit.tasks.mathematics.expressions import Expression, NotUnderstood, read_expression, same
from r1kit.tasks.mathematics.notation import (
    FUNCTION_NAMES,
    boxed,
    brackets_match,
    drop_thousands,
    is_plain_number,
    split_outside,
    tidy,
)
from r1kit.tasks.mathematics.numerals import chinese_number, english_number
from r1kit.tasks.mathematics.units import NOT_UNITS, SCALES, split_unit

Kind = Literal["value", "based", "sequence", "union", "matrix", "relation", "infinity", "words"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was understood. ``parts`` are its components; which fields count depends on ``kind``.

    value: ``expression``, ``unit``, ``percent``; based: ``text`` (digits), ``unit`` (base); sequence:
    ``text`` (its brackets, "" for a bare list); relation: ``text`` (=, <, \\le ..., one sign) and two parts;
    matrix: ``text`` (rows x columns); words: ``text``."""

    kind: Kind
    text: str = ""
    expression: Expression | None = None
    unit: str = ""
    percent: bool = False
    parts: tuple["Answer", ...] = ()


_PREFIX = re.compile(
    r"^(?:因此|所以|故|综上所述|综上|于是|则|即)\s*,?\s*"
    r"|^(?:the\s+)?(?:final\s+)?(?:answer|result|solution)s?\s*(?:is|are|:|=)+\s*"
    r"|^(?:答案|答|结果|共|一共|约|大约|等于|得)\s*(?:是|为|:|等于)*\s*"
    r"|^(?:therefore|thus|hence|so|approximately|about|roughly|\\approx|≈|=)\s*,?\s*",
    re.IGNORECASE,
)
_RELATIONS = re.compile(r"(\\(?:le|ge|neq|in|equiv)(?![A-Za-z])|<=|>=|<|>|=)")
_CIRCULAR = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_NAMED = re.compile(
    r"[a-zA-Z](?:_\{?\w+\}?)?|\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)"
    r"|[a-zA-Z]\s*(?:'|\^\{-1\})?\([a-zA-Z](?:,\s*[a-z])*\)|\\angle\s*[A-Z]+|[A-Z]{2,3}"
)
_MATRIX = re.compile(
    r"\\begin\s*\{([pbvBV]?matrix|array|smallmatrix)\}(?:\{[clr|]*\})?(.*)\\end\s*\{\1\}", re.DOTALL
)
_WRAPPED_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|rm|operatorname)\s*\{([^{}]*)\}")
_BASED = re.compile(
    r"([0-9A-Za-z]+)\s*_\s*\{?\s*(?:\\text\s*\{)?\s*(\w+)\s*\}*(?:\s*\(?base\s*\w+\)?)?"
    r"|([0-9A-Fa-f]+)\s*\(?\s*(?:in )?base\s*-?\s*(\w+)\)?"
)
_BASES = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "twelve": "12", "sixteen": "16",
}  # fmt: skip
_ENTITIES = frozenset(
    ["\\infty", "+\\infty", "-\\infty", "infinity", "+infinity", "-infinity", "+ \\infty", "- \\infty"]
)


_NULL_LIKE = frozenset("nan NaN NAN NaT None NONE null NULL Null N/A n/a #N/A NA <NA> nil undefined".split())


def is_null_like(text: str) -> bool:
    """Whether a gold text is how a table writes that there is no answer: NaN, None, N/A, null and the like.
    The word "none" and \\text{None} are answers."""
    return text.strip() in _NULL_LIKE


def read_answer(text: str) -> Answer:
    """Read an answer. Raises NotUnderstood, or TooLarge."""
    text = tidy(text)
    for _ in range(3):
        text = _PREFIX.sub("", text).strip()
    text = _without_box(text)
    if not text:
        raise NotUnderstood("the answer is empty")
    if is_plain_number(text):
        return Answer("value", expression=read_expression(text))
    return _read(text, 0)


def _without_box(text: str) -> str:
    boxes = boxed(text)
    return boxes[0][2] if len(boxes) == 1 and boxes[0][0] == 0 and boxes[0][1] == len(text) else text


def _read(text: str, depth: int) -> Answer:
    text = text.strip()
    if depth > 4 or not text:
        raise NotUnderstood("empty, or nested too deep")
    text = drop_thousands(text)
    text = re.sub(r"^\](?=[^()\[\]]*,[^()\[\]]*[)\]\[]$)", "(", text)  # ]1,2[ as it is written in French
    text = re.sub(r"^([(\[][^()\[\]]*,[^()\[\]]*)\[$", r"\1)", text)
    wrapped = _WRAPPED_WORDS.fullmatch(text)
    if wrapped and re.match(r"\s*[-+]?\d", wrapped[1]):
        return _read(wrapped[1], depth + 1)
    for reader in (
        _read_words,
        _read_infinity,
        _read_based,
        _read_matrix,
        _read_described,
        _read_union,
        _read_list,
        _read_relation,
        _read_bracketed,
    ):
        answer = reader(text, depth)
        if answer is not None:
            return answer
    return _read_value(text)


def _read_words(text: str, depth: int) -> Answer | None:
    """Words and choices: nothing but letters, and no expression."""
    unwrapped = re.sub(r"\s+", " ", _WRAPPED_WORDS.sub(r"\1", text)).strip(" .:")
    choice = re.fullmatch(r"\(?([A-J])(?:\)|\.|:|、)?(\s.*)?", unwrapped)
    if choice and re.search(r"\([A-J]\)|\b(?:or|and|either|maybe)\b|[或和]", choice[2] or ""):
        raise NotUnderstood("several choices")
    if choice and (len(unwrapped) == 1 or re.match(r"\([A-J]\)|[A-J][).:、]", unwrapped)):
        return Answer("words", choice[1].lower())
    if re.fullmatch(
        r"(?:\\emptyset|\\\{\s*\\\}|empty set|no solutions?|none|无解|空集)", unwrapped, re.IGNORECASE
    ):
        return Answer("words", "\\emptyset")
    wrapped = _WRAPPED_WORDS.fullmatch(text)
    if re.fullmatch(r"[A-Za-z][A-Za-z'’ \-]*", unwrapped) and (
        wrapped or re.search(r"[A-Za-z]{3,}", unwrapped)
    ):
        if (
            unwrapped.lower() in FUNCTION_NAMES
            or len(unwrapped.split()) > 8
            or NOT_UNITS.intersection({"or", "maybe"} & set(unwrapped.lower().split()))
        ):
            raise NotUnderstood("words that are not an answer")
        counted = english_number(unwrapped)
        if counted is not None:
            return Answer("value", expression=read_expression(f"({counted})"))
        return Answer("words", re.sub(r"^(?:an?|the) (?=\w)", "", re.sub(r"[\s\-]+", " ", unwrapped).lower()))
    if re.fullmatch(r"[一-鿿]+", text):
        number = chinese_number(text)
        if number is not None:
            return Answer("value", expression=read_expression(f"({number})"))
        return Answer("words", text)
    clock = re.fullmatch(r"(\d{1,2}:[0-5]\d)\s*(a\.?m\.?|p\.?m\.?)?", unwrapped, re.IGNORECASE)
    if clock:
        return Answer("words", clock[1].lstrip("0") + (clock[2] or "").lower().replace(".", ""))
    return None


def _read_infinity(text: str, depth: int) -> Answer | None:
    if text.lower() in _ENTITIES:
        return Answer("infinity", "-" if text.startswith("-") else "+")
    return None


def _read_based(text: str, depth: int) -> Answer | None:
    text = re.sub(
        r"_\s*\{?\s*\((\w+)\)\s*\}?",
        r"_{\1}",
        re.sub(r"^\(([0-9A-F]+)\)\s*_", r"\1_", _WRAPPED_WORDS.sub(r"\1", text)),
    )
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    digits, base = (match[1], match[2]) if match[1] else (match[3], match[4])
    base = _BASES.get(base.lower(), base)
    if (not digits[0].isdigit() and not (base.isdigit() and len(digits) > 1)) or not base.isdigit():
        return None  # x_1 is a variable
    return Answer("based", digits.upper().lstrip("0") or "0", unit=base)


def _read_matrix(text: str, depth: int) -> Answer | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [
        [cell.strip() for cell in row.split("&")]
        for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr", match[2])
        if row.strip()
    ]
    if len({len(row) for row in rows}) != 1:
        raise NotUnderstood("a matrix with uneven rows")
    if match[1] in ("vmatrix", "Vmatrix"):
        raise NotUnderstood("a determinant")
    return Answer(
        "matrix",
        f"{len(rows)}x{len(rows[0])}",
        parts=tuple(_read(cell, depth + 1) for row in rows for cell in row),
    )


def _read_union(text: str, depth: int) -> Answer | None:
    pieces = split_outside(text, "\\cup")
    if len(pieces) < 2:
        return None
    prefix = re.match(r"\s*[a-z]\s*\\in\s*", pieces[0])
    pieces[0] = pieces[0][prefix.end() :] if prefix else pieces[0]
    return Answer("union", parts=tuple(_read(piece, depth + 1) for piece in pieces))


def _read_list(text: str, depth: int) -> Answer | None:
    pieces = [part for piece in split_outside(text, ",") for part in split_outside(piece, ";")]
    pieces = [re.sub(r"^\s*(?:and|or|和|或)\b\s*", "", piece) for piece in pieces if piece.strip()]
    pieces = [both for piece in pieces for both in _both_signs(piece)]
    if len(pieces) < 2:
        return None
    # x = 1, 2: the name counts for all
    named = re.match(r"\s*([a-zA-Z])\s*=\s*(?=[^=]*$)", pieces[0])
    if named and not any("=" in piece for piece in pieces[1:]):
        pieces[0] = pieces[0][named.end() :]
    return Answer("sequence", "", parts=tuple(_read(piece, depth + 1) for piece in pieces))


def _both_signs(text: str) -> list[str]:
    sides = split_outside(text, "\\pm")
    return [sign.join(sides) for sign in ("+", "-")] if len(sides) == 2 else [text]


def _read_described(text: str, depth: int) -> Answer | None:
    """``{x | x > 2}``: read the relation."""
    builder = re.fullmatch(r"\\\{\s*[A-Za-z]\s*(?:\\mid(?![A-Za-z])|\||:)(.*)\\\}", text)
    if builder is None:
        return None
    described = _read(builder[1], depth + 1)
    if described.kind not in ("relation", "sequence", "union"):
        raise NotUnderstood("a set without a relation")
    return described


def _read_relation(text: str, depth: int) -> Answer | None:
    signs = _RELATIONS.findall(text)
    if not signs:
        return None
    sides = [side.strip() for side in _RELATIONS.split(text)[::2]]
    signs = [{"<=": "\\le", ">=": "\\ge"}.get(sign, sign) for sign in signs]
    if set(signs) == {"="} and all(sides):
        sides = _without_working(sides)
        if len(sides) == 1:
            return _read(sides[0], depth + 1)
        signs = signs[1 - len(sides) :]
    if signs == ["\\in"]:
        if not re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?)?", sides[0]):
            raise NotUnderstood("membership of something that is not a variable")
        return _read(sides[1], depth + 1)
    if "\\in" in signs or "\\equiv" in signs or len(signs) > 2 or not all(sides):
        raise NotUnderstood("an unsupported chain of relations")
    if len(signs) == 2:
        return _read_between(sides, signs, depth)
    if signs == ["="] and _NAMED.fullmatch(sides[0]):
        return Answer(
            "relation",
            "=",
            unit=re.sub(r"\s", "", sides[0]),
            parts=(_name(sides[0]), _read(sides[1], depth + 1)),
        )
    return Answer("relation", signs[0], parts=(_read(sides[0], depth + 1), _read(sides[1], depth + 1)))


def _without_working(sides: Sequence[str]) -> list[str]:
    """``1 + 1 = 2`` means 2, and ``x = 1 + 1 = 2`` means x = 2: of consecutive equal numbers only the last is
    kept."""
    kept = [sides[0]]
    for side in sides[1:]:
        try:
            before, value = _read_value(kept[-1]).expression, _read_value(side).expression
            if before and value and not before.names and not value.names and same(before, value):
                kept.pop()
        except NotUnderstood:
            pass
        kept.append(side)
    return kept


def _name(text: str) -> Answer:
    try:
        return _read_value(text)
    except NotUnderstood:
        return Answer("words", text)


def _read_between(sides: Sequence[str], signs: Sequence[str], depth: int) -> Answer:
    """``a < x \\le b``: the interval that it describes."""
    if signs[0] in (">", "\\ge"):
        sides, signs = sides[::-1], [{">": "<", "\\ge": "\\le"}.get(sign, "") for sign in reversed(signs)]
    if not all(sign in ("<", "\\le") for sign in signs) or not re.fullmatch(r"[A-Za-z]|\\theta", sides[1]):
        raise NotUnderstood("an unsupported chain of relations")
    brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    return Answer("sequence", brackets, parts=(_read(sides[0], depth + 1), _read(sides[2], depth + 1)))


def _read_bracketed(text: str, depth: int) -> Answer | None:
    match = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text, re.DOTALL)
    if match is None or not brackets_match(text):
        return None
    pieces = split_outside(match[2], ",")
    if len(pieces) < 2 and match[1] != "\\{":
        return None  # (x + 1) is an expression, and so is (5)
    pieces = [both for piece in pieces for both in _both_signs(piece)]
    return Answer(
        "sequence",
        (match[1] + match[3]).replace("\\", ""),
        parts=tuple(_read(piece, depth + 1) for piece in pieces),
    )


def _read_value(text: str) -> Answer:
    percent = re.fullmatch(r"(.*?)\s*(?:\\?%|percent|per cent|\\text\{\s*(?:percent|\\?%)\s*\})", text)
    if percent:
        return Answer("value", expression=read_expression(percent[1]), percent=True)
    ratio = re.fullmatch(r"\d+(?:\s*:\s*\d+)+", text)
    if ratio:
        terms = [Fraction(term) for term in text.split(":")]
        scale = next((term for term in terms if term), Fraction(1))
        return Answer(
            "sequence",
            ":",
            parts=tuple(Answer("value", expression=read_expression(f"({term / scale})")) for term in terms),
        )
    scaled = re.fullmatch(
        r"(.*\d)\s*(?:\\text\{\s*)?(thousand|million|billion|hundred|dozen|万|亿)\s*\}?\s*(.*)", text
    )
    if scaled:
        unit = split_unit("1 " + scaled[3])[1] if scaled[3] else ""
        return Answer("value", expression=read_expression(f"({scaled[1]})*{SCALES[scaled[2]]}"), unit=unit)
    if _CIRCULAR.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\\degree", r"(\1\\pi/180)", text)
    rest, unit = split_unit(text)
    return Answer(
        "value",
        expression=read_expression(rest.replace("\\degree", "").replace("\\{", "(").replace("\\}", ")")),
        unit=unit,
    )
