"""Other numbers and other names in a solved word problem, its worked solution changed with them.

A worked solution is a list of equations, "48 / 2 = 24", in any words. Each number on the left of an equation
is a number of the problem, the result of an earlier equation, or a constant, and which of them it is follows
from its value. Where that is not clear (a value twice, or as a digit and as a word) nothing is changed: a
problem is left out rather than made wrong. New numbers are drawn for those of the problem that an equation
reads, all results are computed again as fractions, and each must be whole, positive and short where the old
one was."""

import ast
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from r1kit.tasks.word_problems import NAMES

DRAWS = 40  # of new numbers, before a problem is given up
PLACES = 100  # a new result has at most two decimals
# The end of a number: no letter and no further part of it follows, but the sign of a product may.
_ENDS = r"(?:(?![A-Za-z0-9_]|\.\d)|(?=[xX][\s\d$(]))"
_NUMBER = re.compile(
    rf"(?<![A-Za-z0-9_.,])\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?{_ENDS}|(?<![A-WYZa-wyz_\d.])\d+(?:\.\d+)?{_ENDS}"
)
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "·": "*", "x": "*", "X": "*"})
_TERM = r"\(*\s*\$?\d[\d,]*(?:\.\d+)?\s*\)*"
_EQUATION = re.compile(
    rf"(?P<left>-?{_TERM}(?:\s*(?:[-+*/×÷−·]|[xX](?=[\s\d$]))\s*{_TERM})+)\s*=\s*\$?(?P<right>-?\d[\d,]*(?:\.\d+)?)"
)
_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
_MORE_WORDS = {
    "half": 2,
    "twice": 2,
    "double": 2,
    "couple": 2,
    "pair": 2,
    "triple": 3,
    "thrice": 3,
    "quarter": 4,
}
_DOZEN = {"dozen": 12, "first": 1, "once": 1, "single": 1}
_SPOKEN = {word: number for number, word in enumerate(_WORDS)} | _MORE_WORDS | _DOZEN


# Constants that a solution may have although the problem does not write them, and what the problem then says.
_CONSTANTS = {
    2: r"\b(half|halves|twice|doubl\w*|both|couple|pair|square)\b|\bx2\b",
    3: r"\b(third|triple|thrice)s?\b",
    4: r"\b(quarter|fourth)s?\b",
    5: r"\bfifths?\b",
    7: r"\bweek",
    10: r"\b(decade|tenth|dime)",
    12: r"\b(dozen|year|month|annual|f(oo|ee)t)",
    24: r"\bday",
    30: r"\bmonth",
    52: r"\b(year|week)",
    60: r"\b(hour|minute)",
    100: r"%|\b(percent|cent|century|centi)",
    365: r"\b(year|annual)",
    1000: r"\b(kilo|thousand|k?m\b|kg\b|grams)",
}


_TWO_THINGS = "a number that could stand for two things"


class UnclearError(Exception):
    """Why a problem cannot be changed, in a few words that are counted."""


@dataclass(frozen=True, slots=True)
class Solved:
    """A problem with a worked solution and its answer, a number."""

    prompt: str
    solution: str
    answer: str


@dataclass(frozen=True, slots=True)
class Equation:
    """``left`` = ``right`` at [start, end) of a solution; the text on the left as it stands there."""

    left: str
    right: Fraction
    start: int
    end: int


def value_of(text: str) -> Fraction:
    """The number that a text writes, such as 1,200 or 0.5."""
    return Fraction(text.replace(",", "").replace("$", ""))


def numbers_in(text: str) -> list[Fraction]:
    """The numbers that a text writes in digits."""
    return [value_of(match[0]) for match in _NUMBER.finditer(text)]


def equations_in(solution: str) -> list[Equation]:
    """The equations of a solution."""
    return [
        Equation(match["left"].strip(), value_of(match["right"]), match.start(), match.end())
        for match in _EQUATION.finditer(solution)
    ]


def computed(expression: str) -> Fraction:
    """The value of an expression of numbers, signs and brackets. Raises UnclearError for another text."""
    plain = expression.translate(_SIGNS).replace(",", "").replace("$", "")
    try:
        return _value(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        raise UnclearError("an equation that cannot be computed") from None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(str(node.value))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left), _value(right)
            if isinstance(op, ast.Div):
                return a / b
            signs = {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}
            if type(op) in signs:
                return signs[type(op)]
    raise ValueError("no arithmetic")


def written(value: Fraction, like: str) -> str:
    """A number as ``like`` writes numbers: with or without commas."""
    if value.denominator == 1:
        return f"{value.numerator:,}" if "," in like else str(value.numerator)
    return f"{float(value):.2f}".rstrip("0").rstrip(".")


def check_equations(solution: str, answer: str) -> None:
    """Raises UnclearError where an equation is wrong, or the last one does not give the answer."""
    found = equations_in(solution)
    if not found:
        raise UnclearError("no equations in the solution")
    if any(computed(one.left) != one.right for one in found):
        raise UnclearError("an equation that is not right")
    try:
        gold = value_of(answer)
    except ValueError:
        raise UnclearError("an answer that is no number") from None
    if found[-1].right != gold:
        raise UnclearError("the last equation does not give the answer")


def other_numbers(solved: Solved, rng: random.Random) -> Solved:
    """The problem with other numbers. Raises UnclearError where it cannot be changed safely."""
    check_equations(solved.solution, solved.answer)
    free = _free_numbers(solved)
    for _ in range(DRAWS):
        new = {value: _other(value, rng) for value in free}
        changed = _with_numbers(solved, new)
        if changed is not None:
            return changed
    raise UnclearError("no other numbers found that keep the results whole")


def _free_numbers(solved: Solved) -> list[Fraction]:
    """The values of the problem that its equations read and that can be changed."""
    given = Counter(numbers_in(solved.prompt))
    spoken = _spoken_in(solved.prompt)
    _refuse_unknown(solved, set(given) | spoken)
    results: set[Fraction] = set()
    free: Counter[Fraction] = Counter()
    for equation in equations_in(solved.solution):
        for value in numbers_in(equation.left.translate(_SIGNS)):
            if value in given and (given[value] > 1 or value in results or value in spoken):
                raise UnclearError(_TWO_THINGS)
            if value in given and value.denominator == 1:
                free[value] += 1
        if equation.right in results or equation.right in free or equation.right in spoken:
            raise UnclearError(_TWO_THINGS)
        results.add(equation.right)
    hidden = any(count > 1 and int(value) in _CONSTANTS for value, count in free.items())
    if hidden or _spoken_in(solved.solution) & (set(free) | results):
        raise UnclearError(_TWO_THINGS)
    if not free:
        raise UnclearError("no number of the problem stands in an equation")
    return list(free)


def _spoken_in(text: str) -> set[Fraction]:
    """The numbers that a text writes as words."""
    return {Fraction(n) for word, n in _SPOKEN.items() if re.search(rf"\b{word}\b", text, re.IGNORECASE)}


def _refuse_unknown(solved: Solved, known: set[Fraction]) -> None:
    """Raise UnclearError where the solution has a number, or an equals sign, whose origin is not clear: it
    may have been computed in words, and would then stay as it is."""
    found = equations_in(solved.solution)
    if solved.solution.count("=") != len(found):
        raise UnclearError("an equation in other words")
    known = known | {one.right for one in found}
    for value in numbers_in(solved.solution.translate(_SIGNS)):
        says = _CONSTANTS.get(int(value), r"(?!)") if value.denominator == 1 else r"(?!)"
        if value not in known and not re.search(says, solved.prompt, re.IGNORECASE):
            raise UnclearError("a number of unknown origin")


def _other(value: Fraction, rng: random.Random) -> Fraction:
    """A whole number of about the same size: from half to twice, and for small ones up to five more."""
    low, high = max(2, int(value) // 2), max(int(value) * 2, int(value) + 5)
    return Fraction(rng.randint(low, high))


def _with_numbers(solved: Solved, new: Mapping[Fraction, Fraction]) -> Solved | None:
    """The problem with these numbers in the place of its own; None where a result would be of another
    kind, or two values would become equal."""
    values = dict(new)
    for equation in equations_in(solved.solution):
        result = computed(_mapped(equation.left, values))
        if not _of_one_kind(equation.right, result):
            return None
        values[equation.right] = result
    if len(set(values.values())) < len(values) or all(old == value for old, value in new.items()):
        return None
    answer = written(values[value_of(solved.answer)], solved.answer)
    changed = Solved(_mapped(solved.prompt, new), _mapped(solved.solution, values), answer)
    check_equations(changed.solution, changed.answer)
    return changed


def _of_one_kind(old: Fraction, new: Fraction) -> bool:
    """Whether a new result is positive, whole and short where the old one was."""
    if (old > 0) != (new > 0) or (old == 0) != (new == 0):
        return False
    return new.denominator == 1 if old.denominator == 1 else PLACES % new.denominator == 0


def _mapped(text: str, values: Mapping[Fraction, Fraction]) -> str:
    """A text with each of its numbers that has another value now."""

    def new(match: re.Match[str]) -> str:
        value = value_of(match[0])
        return written(values[value], match[0]) if value in values else match[0]

    return _NUMBER.sub(new, text)


def other_names(texts: Sequence[str], rng: random.Random) -> list[str]:
    """The texts with other first names, the same one for a name in all of them, with the same pronouns.
    Raises UnclearError where they have no name of the list."""
    whole = "\n".join(texts)
    used = [name for name in NAMES if re.search(rf"\b{name}\b", whole)]
    if not used:
        raise UnclearError("no name of the list")
    new = dict(_exchanged(used, rng))
    pattern = re.compile(rf"\b({'|'.join(used)})\b")
    return [pattern.sub(lambda match: new[match[1]], text) for text in texts]


def _exchanged(used: Sequence[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    taken = set(used)
    for name in used:
        choices = [other for other in NAMES if NAMES[other] == NAMES[name] and other not in taken]
        if not choices:
            raise UnclearError("no other name is left")
        chosen = rng.choice(choices)
        taken.add(chosen)
        yield name, chosen
