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
from r1kit.tasks.mathematics.quantities import read_quantity
from r1kit.tasks.mathematics.spellings import rewrite
from r1kit.tasks.mathematics.units import NOT_UNITS, SCALES, split_unit

Kind = Literal[
    "value", "quantity", "based", "sequence", "union", "intersection", "difference", "reals", "matrix",
    "relation", "infinity", "words",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was understood. ``parts`` are its components; which fields count depends on ``kind``.

    value: ``expression``, ``unit``, ``percent``; quantity: ``expression`` in the smallest unit of the
    dimension ``unit``; based: ``text`` (digits), ``unit`` (base); sequence: ``text`` (its brackets, "" for a
    bare list); union, intersection, difference: the sets in ``parts``; reals: all real numbers; relation:
    ``text`` (=, <, \\le ..., one sign) and two parts; matrix: ``text`` (rows x columns); words: ``text``."""

    kind: Kind
    text: str = ""
    expression: Expression | None = None
    unit: str = ""
    percent: bool = False
    parts: tuple["Answer", ...] = ()


_PREFIX = re.compile(
    r"^(?:因此|所以|故|综上所述|综上|于是|则|即)\s*,?\s*"
    r"|^(?:the\s+)?(?:final\s+)?(?:answer|result|solution)s?\s*(?:is|are|:|=)+\s*"
    r"|^(?:答案|答|结果|共|一共|约|大约|等于|得|占|共占)\s*(?:是|为|:|等于)*\s*"
    r"|^(?:∴|⇒|=>|\\(?:therefore|Rightarrow|implies)(?![A-Za-z]))\s*"
    r"|^(?:therefore|thus|hence|so|approximately|about|roughly|\\approx|≈|=)\s*,?\s*",
    re.IGNORECASE,
)
# "The line is y = 2x", not "the answer is not 5"
_SUBJECT = re.compile(
    r"^(?:the|an?|its?|their)\s+[A-Za-z' ]{1,60}\s(?:is|are|equals)\s*:?\s+"
    r"(?=\\?[\[({|]|\\[A-Za-z]|[-+]?\.?\d|[A-Za-z]\s*(?:\([a-z]\)\s*)?[-+=^<>\\])",
    re.IGNORECASE,
)
_RELATIONS = re.compile(r"(\\(?:le|ge|neq|in|equiv)(?![A-Za-z])|<=|>=|<|>|=)")
_CIRCULAR = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_NAMED = re.compile(
    r"[a-zA-Z](?:_\{?\w+\}?)?|\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)"
    r"|[a-zA-Z]\s*(?:'|\^\{-1\})?\([a-zA-Z](?:,\s*[a-z])*\)|\\angle\s*[A-Z]+|[A-Z]{2,3}"
)
_SEGMENT = (
    r"(?:\|\s*[A-Z]{2}\s*\||\\(?:overline|overrightarrow|vec|widehat|widetilde)\s*\{\s*[A-Z]{1,2}\s*\}"
    r"|[A-Z]{2})"
)
_ANGLE = r"(?:\\angle\s*)?(?:[A-Z]{1,3}|\\(?:alpha|beta|gamma|theta|phi|varphi))"
# What has a value of its own: |PQ|, f(2), \cos A, AB/CD, P(A|B), S_{\triangle ABC}, [ABC]
_QUANTITY = re.compile(
    rf"{_SEGMENT}|\\frac\s*\{{\s*{_SEGMENT}\s*\}}\s*\{{\s*{_SEGMENT}\s*\}}|{_SEGMENT}\s*[/:]\s*{_SEGMENT}"
    rf"|\\(?:sin|cos|tan|cot|sec|csc)\s*(?:\^\{{?2\}}?)?\s*[({{]?\s*{_ANGLE}\s*[)}}]?|m?\s*\\angle\s*[A-Z0-9]{{1,3}}"
    r"|[a-zA-Z](?:_\{?\w+\}?)?\s*'{0,2}\s*\(\s*[-+]?[\w.]+(?:\s*[|,]\s*[\w.]+)*\s*\)"
    r"|(?:\\text\{\s*)?[A-Za-z]\s*\}?_\s*\{?\s*(?:\\triangle\s*)?(?:\\text\{)?\s*[A-Za-z]+\s*\}{0,2}|\[\s*[A-Z]{3,6}\s*\]"
    r"|\|\s*(?:[a-z]|\\vec\s*\{?\s*[a-z]\s*\}?|\\(?:mathbf|bm)\{[a-z]\})\s*\|"
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


def read_answer(text: str) -> Answer:
    """Read an answer. Raises NotUnderstood, or TooLarge."""
    text = tidy(text)
    for _ in range(3):
        text = _PREFIX.sub("", text).strip()
    text = rewrite(_without_box(_SUBJECT.sub("", text))).strip()
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
    text = re.sub(r"^\{([^{}]*,[^{}]*)\}$", r"\1", text)  # ${3, 5, 9}$ shows a bare list
    wrapped = _WRAPPED_WORDS.fullmatch(text)
    if wrapped and re.match(r"\s*[-+]?\d", wrapped[1]):
        return _read(wrapped[1], depth + 1)
    for reader in (
        _read_quantity,
        _read_reals,
        _read_words,
        _read_infinity,
        _read_based,
        _read_matrix,
        _read_rows,
        _read_described,
        _read_sets,
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


def _read_quantity(text: str, depth: int) -> Answer | None:
    quantity = read_quantity(text) if text[-1:].isalpha() or text.endswith(("}", ".")) else None
    if quantity is None:
        return None
    return Answer("quantity", expression=read_expression(f"({quantity[1]})"), unit=quantity[0])


_REALS = re.compile(
    r"\\mathbb\s*\{?\s*R\s*\}?|\\mathbf\s*\{\s*R\s*\}|\\Bbb\s*\{?\s*R\s*\}?|\\R|ℝ|全体实数|实数集|任意实数"
    r"|(?:\\text\s*\{\s*)?(?:the set of )?(?:all )?real numbers\s*\}?",
    re.IGNORECASE,
)
_EXCEPT = re.compile(
    rf"({_REALS.pattern})\s*(?:-(?=\s*\\\{{)|,?\s*(?:\\text\s*\{{\s*)?(?:except|other than)"
    r"(?:\s+for)?\s*\}?)"
    r"\s*(?:[a-z]\s*=\s*)?(.+)",
    re.IGNORECASE,
)
_SET_OPERATIONS = {
    "\\setminus": "difference",
    "\\backslash": "difference",
    "\\cup": "union",
    "\\cap": "intersection",
}


def _read_reals(text: str, depth: int) -> Answer | None:
    """All real numbers, perhaps with exceptions."""
    if _REALS.fullmatch(text):
        return Answer("reals")
    match = _EXCEPT.fullmatch(text)
    if match is None:
        return None
    excepted = _read(match[2], depth + 1)
    if excepted.kind in ("value", "sequence") and excepted.text in ("", "{}"):
        excepted = Answer("sequence", "{}", parts=excepted.parts or (excepted,))
    return Answer("difference", parts=(Answer("reals"), excepted))


def _read_rows(text: str, depth: int) -> Answer | None:
    """A matrix as a list of rows: [[1, 2], [3, 4]]."""
    match = re.fullmatch(r"\[\s*(\[.*\])\s*\]", text, re.DOTALL)
    if match is None:
        return None
    rows = [row.strip() for row in split_outside(match[1], ",")]
    if not all(re.fullmatch(r"\[[^\[\]]*\]", row) for row in rows):
        return None
    cells = [split_outside(row[1:-1], ",") for row in rows]
    if len({len(row) for row in cells}) != 1:
        return None
    parts = tuple(_read(cell, depth + 1) for row in cells for cell in row)
    return Answer("matrix", f"{len(cells)}x{len(cells[0])}", parts=parts)


def _read_sets(text: str, depth: int) -> Answer | None:
    """Unions, intersections and differences of sets."""
    if "\\" not in text:
        return None
    prefix = re.match(r"\s*[a-z]\s*\\in(?![A-Za-z])\s*", text)
    bare = text[prefix.end() :] if prefix else text
    for sign, kind in _SET_OPERATIONS.items():
        pieces = split_outside(bare, sign)
        if len(pieces) > 1 and not (kind == "difference" and len(pieces) > 2):
            parts = tuple(_read(piece, depth + 1) for piece in pieces)
            return Answer(kind, parts=parts)  # type: ignore[arg-type]
    return None


def _read_list(text: str, depth: int) -> Answer | None:
    pieces = [part for piece in split_outside(text, ",") for part in split_outside(piece, ";")]
    pieces = [re.sub(r"^\s*(?:and|or|和|或)\b\s*", "", piece) for piece in pieces if piece.strip()]
    pieces = [both for piece in pieces for both in _both_signs(piece)]
    if len(pieces) < 2:
        return None
    # x = 1, 2 and x \neq 1, 2: the name counts for all
    named = re.match(r"\s*([a-zA-Z]|\(\s*[a-z]\s*(?:,\s*[a-z]\s*)+\))\s*(=|\\neq)\s*(?=[^=]*$)", pieces[0])
    if (
        named
        and named[1].startswith("(")
        and re.findall("[a-z]", named[1]) != sorted(named[1].strip("()").replace(",", " ").split())
    ):
        named = None
    if named and not any(_RELATIONS.search(piece) for piece in pieces[1:]):
        if named[2] == "=":
            pieces[0] = pieces[0][named.end() :]
        else:
            pieces[1:] = [named[0] + piece for piece in pieces[1:]]
    return Answer("sequence", "", parts=_points(tuple(_read(piece, depth + 1) for piece in pieces)))


def _points(parts: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Values of the same names again and again (p=5, q=2; p=7, q=2) as points: (5,2), (7,2)."""
    names = [part.unit if part.kind == "relation" and part.text == "=" else "" for part in parts]
    size = len(set(names))
    first = names[:size]
    if size < 2 or len(names) == size or "" in first or first != sorted(set(first)):
        return parts
    if names != first * (len(names) // size):
        return parts
    values = [part.parts[1] for part in parts]
    return tuple(
        Answer("sequence", "()", parts=tuple(values[place : place + size]))
        for place in range(0, len(values), size)
    )


def _both_signs(text: str) -> list[str]:
    """A text with \\pm as two: with the upper and with the lower signs. Sets are left to their members."""
    if not re.search(r"\\(?:pm|mp)(?![A-Za-z])", text) or re.match(r"\s*\\(?:\{|begin)", text):
        return [text]
    return [
        re.sub(r"\\mp(?![A-Za-z])", lower, re.sub(r"\\pm(?![A-Za-z])", upper, text))
        for upper, lower in (("+", "-"), ("-", "+"))
    ]


def _read_described(text: str, depth: int) -> Answer | None:
    """``{x | x > 2}``: read the relation."""
    builder = re.fullmatch(
        rf"\\\{{\s*[A-Za-z]\s*(?:\\in\s*(?:{_REALS.pattern})\s*)?(?:\\mid(?![A-Za-z])|\||:)(.*)\\\}}", text
    )
    if builder is None:
        return None
    described = _read(builder[1], depth + 1)
    if described.kind not in ("relation", "sequence", "union", "difference", "intersection"):
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
        if len(sides) > 2 and _NAMED.fullmatch(sides[0]) and all(map(_is_constant, sides[1:])):
            sides = [sides[0], sides[-1]]  # x = 1 + 1 = 3, with a slip on the way: x = 3
        signs = signs[1 - len(sides) :]
    if signs == ["\\in"]:
        if not re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?)?", sides[0]):
            raise NotUnderstood("membership of something that is not a variable")
        return _read(sides[1], depth + 1)
    if "\\in" in signs or "\\equiv" in signs or len(signs) > 2 or not all(sides):
        raise NotUnderstood("an unsupported chain of relations")
    if len(signs) == 2:
        return _read_between(sides, signs, depth)
    segment = signs == ["="] and re.fullmatch(_SEGMENT, sides[0])
    if segment or (signs == ["="] and _QUANTITY.fullmatch(sides[0]) and not _NAMED.fullmatch(sides[0])):
        # AB, |AB| and \overline{AB} are one length
        name = re.sub(r"[^A-Z]" if segment else r"\s", "", sides[0])
        return Answer("relation", "=", unit=name, parts=(Answer("words", name), _read(sides[1], depth + 1)))
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


def _is_constant(text: str) -> bool:
    try:
        expression = _read_value(text).expression
    except NotUnderstood:
        return False
    return expression is not None and not expression.names


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
    if match[1] == "\\{":
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
        r"(.*\d)\s*(?:\\text\{\s*)?(thousand|million|billion|trillion|hundred|dozen|万|亿)\s*\}?\s*(.*)", text
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
