"""Values of mathematical expressions as people write them, in LaTeX, plain text or a mixture.

Two expressions are the same if they have the same value: exactly (fractions) if they are rational, to 25 of
40 digits if they contain roots, pi or functions, and at three fixed points if they contain variables (a
nonzero analytic function does not vanish at three points that were not chosen for it). Python never evaluates
a text, and every operation is bounded: a number may have ``LARGEST_BITS`` bits, an exponent or factorial some
hundreds. A larger one raises ``TooLarge``; a text that is not understood raises ``NotUnderstood``."""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath  # type: ignore[import-untyped]

Number = Any  # Fraction, or a real or complex number of _context
Node = tuple[Any, ...]

POINTS = 3
LARGEST_BITS = 4096
LARGEST_EXPONENT = 512
LARGEST_FACTORIAL = 200
LARGEST_ROOT = 64
LONGEST = 400

_context = mpmath.MPContext()
_context.dps = 40


class NotUnderstood(ValueError):  # noqa: N818
    """The text is not an expression that can be read here."""


class TooLarge(NotUnderstood):
    """The expression's value is too large to compute here."""


@dataclass(frozen=True, slots=True)
class Expression:
    """The values of an expression at ``POINTS`` points (at one point if it has no variables), and its
    variables."""

    values: tuple[Number, ...]
    names: frozenset[str]

    def at(self, point: int) -> Number:
        """The value at a point."""
        return self.values[point if self.names else 0]


@lru_cache(maxsize=50_000)
def read_expression(text: str) -> Expression:
    """Read an expression. Raises NotUnderstood, or TooLarge."""
    if len(text) > LONGEST:
        raise NotUnderstood("too long")
    try:
        tree = _Reader(text).whole()
        names = frozenset(_names(tree))
        return Expression(tuple(_value(tree, point) for point in range(POINTS if names else 1)), names)
    except (ZeroDivisionError, ArithmeticError, ValueError, RecursionError, IndexError) as error:
        if isinstance(error, NotUnderstood):
            raise
        raise NotUnderstood(f"{type(error).__name__}: {error}") from None


def same(one: Expression, other: Expression) -> bool:
    """Whether two expressions have the same value."""
    points = range(POINTS if one.names or other.names else 1)
    return all(same_number(one.at(point), other.at(point)) for point in points)


def same_number(one: Number, other: Number) -> bool:
    """Whether two numbers are equal: exactly if both are fractions, else to 25 digits."""
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    one, other = _inexact(one), _inexact(other)
    return bool(abs(one - other) <= _context.mpf(10) ** -25 * max(abs(one), abs(other)))


def proportional(one: tuple[Expression, Expression], other: tuple[Expression, Expression]) -> float | None:
    """The constant c with (a - b) = c (a' - b') for two equations or inequalities; None if there is none."""
    ratios = []
    for point in range(POINTS):
        above = _subtract(one[0].at(point), one[1].at(point))
        below = _subtract(other[0].at(point), other[1].at(point))
        if same_number(below, Fraction(0)) or abs(_inexact(below)) < 1e-20 or abs(_inexact(above)) < 1e-20:
            return None
        ratios.append(_divide(above, below))
    if not all(same_number(ratio, ratios[0]) for ratio in ratios[1:]):
        return None
    first = _inexact(ratios[0])
    return None if isinstance(first, _context.mpc) and first.imag else float(first.real)


_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?[eE][+-]?\d{1,3}(?![\w.])|\d+(?:\.\d*)?|\.\d+)"
    r"|(?P<command>\\[A-Za-z]+|\\[{}|])|(?P<char>\S))"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\overline|\\dot|\\bar)\{?(\d+)\}?")
_WORDS = {
    "sqrt": "\\sqrt", "pi": "\\pi", "sin": "\\sin", "cos": "\\cos", "tan": "\\tan", "cot": "\\cot",
    "sec": "\\sec", "csc": "\\csc", "ln": "\\ln", "log": "\\log", "exp": "\\exp", "arcsin": "\\arcsin",
    "arccos": "\\arccos", "arctan": "\\arctan", "binom": "\\binom", "abs": "\\abs", "theta": "\\theta",
    "alpha": "\\alpha", "beta": "\\beta",
}  # fmt: skip
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon theta lambda mu rho sigma phi omega tau varphi psi eta zeta kappa chi xi "
    "nu varepsilon Omega Delta Phi Theta"
)
_GREEK = frozenset("\\" + name for name in _GREEK_NAMES.split())
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "\\sin": _context.sin, "\\cos": _context.cos, "\\tan": _context.tan, "\\cot": _context.cot,
    "\\sec": _context.sec, "\\csc": _context.csc, "\\ln": _context.ln, "\\exp": _context.exp,
    "\\arcsin": _context.asin, "\\arccos": _context.acos, "\\arctan": _context.atan, "\\sinh": _context.sinh,
    "\\cosh": _context.cosh, "\\tanh": _context.tanh,
}  # fmt: skip
_ATOM_COMMANDS = {"\\frac", "\\sqrt", "\\pi", "\\binom", "\\log", "\\abs", *_GREEK, *_FUNCTIONS}
_TIMES, _OVER = ("*", "\\cdot", "\\times", "\\ast"), ("/", "\\div")
_CLOSING = {"(": ")", "{": "}", "[": "]", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}


class _Reader:
    """A recursive-descent reader of one expression."""

    def __init__(self, text: str) -> None:
        text = _REPEATING.sub(lambda m: _repeating_decimal(*m.groups()), text)
        text = re.sub(
            r"(?<![\\A-Za-z])(" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")(?![A-Za-z])",
            lambda m: _WORDS[m[1]] + " ",
            text,
        )
        self.tokens: list[str] = []
        self.numbers: set[int] = set()
        position = 0
        text = text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise NotUnderstood("no token")
            if match["number"] is not None:
                self.numbers.add(len(self.tokens))
            self.tokens.append(match["number"] or match["command"] or match["char"])
            position = match.end()
        self.place = 0
        self.open_bars = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise NotUnderstood(f"expected {expected or 'more'}, found {token or 'the end'}")
        self.place += 1
        return token

    def whole(self) -> Node:
        tree = self.sum()
        if self.peek():
            raise NotUnderstood(f"unexpected {self.peek()!r}")
        return tree

    def sum(self) -> Node:
        tree = self.product()
        while self.peek() in ("+", "-"):
            tree = (self.take(), tree, self.product())
        return tree

    def product(self) -> Node:
        tree = self.signed()
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                tree = ("*", tree, self.signed())
            elif token in _OVER:
                self.take()
                tree = ("/", tree, self.signed())
            elif self.starts_atom():
                tree = (
                    self.mixed_number(tree)
                    if self.place in self.numbers and self.place - 1 in self.numbers
                    else ("*", tree, self.power())
                )
            else:
                return tree

    def mixed_number(self, whole: Node) -> Node:
        """The rest of a mixed number such as ``2 1/3`` after its whole part: a number, a slash, a number."""
        numerator = self.number()
        if self.peek() != "/" or self.place + 1 not in self.numbers or whole[0] != "number":
            raise NotUnderstood("two numbers side by side")
        self.take()
        return ("+", whole, ("/", numerator, self.number()))

    def signed(self) -> Node:
        if self.peek() in ("+", "-"):
            return self.signed() if self.take() == "+" else ("negative", self.signed())
        return self.power()

    def power(self) -> Node:
        mixed = (
            self.place in self.numbers
            and self.place + 1 < len(self.tokens)
            and self.tokens[self.place + 1] == "\\frac"
        )
        base = self.atom()
        if mixed and base[1].denominator == 1:
            fraction = self.atom()
            if fraction[1][0] == fraction[2][0] == "number":
                return ("+", base, fraction)
            return ("*", base, fraction)
        while self.peek() == "!":
            self.take()
            base = ("!", base)
        if self.peek() == "^":
            self.take()
            sign = self.peek() == "-" and bool(self.take())
            exponent = self.atom(single=True)
            return ("^", base, ("negative", exponent) if sign else exponent)
        return base

    def starts_atom(self) -> bool:
        token = self.peek()
        if token == "|":
            return not self.open_bars
        return self.place in self.numbers or token in _CLOSING or token.isalpha() or token in _ATOM_COMMANDS

    def number(self) -> Node:
        if self.place not in self.numbers:
            raise NotUnderstood("a number was expected")
        return ("number", Fraction(self.take()))

    def atom(self, single: bool = False) -> Node:
        """One factor. ``single``: an argument without braces in LaTeX, which is one digit or one token."""
        token = self.peek()
        if self.place in self.numbers:
            if single and len(token) > 1 and token.isdigit():
                self.tokens[self.place] = token[1:]
                return ("number", Fraction(token[0]))
            return self.number()
        self.take()
        if token in _CLOSING:
            inner = self.sum()
            self.take(_CLOSING[token])
            return inner if token in "({[" or token == "\\{" else (token, inner)
        if token == "|":
            self.open_bars += 1
            inner = self.sum()
            self.take("|")
            self.open_bars -= 1
            return ("abs", inner)
        if token == "\\frac":
            return ("/", self.atom(single=True), self.atom(single=True))
        if token == "\\binom":
            return ("binom", self.atom(single=True), self.atom(single=True))
        if token == "\\sqrt":
            index: Node = ("number", Fraction(2))
            if self.peek() == "[":
                self.take()
                index = self.sum()
                self.take("]")
            return ("root", self.atom(single=True), index)
        if token == "\\pi":
            return ("pi",)
        if token == "\\abs":
            return ("abs", self.atom())
        if token in _FUNCTIONS or token == "\\log":
            return self.function(token)
        if (token.isalpha() and token.isascii()) or token in _GREEK:
            return self.variable(token)
        raise NotUnderstood(f"unexpected {token!r}")

    def variable(self, token: str) -> Node:
        if self.peek() == "_":
            self.take()
            if self.peek() == "{":
                self.take()
                subscript = ""
                while self.peek() != "}":
                    subscript += self.take()
                self.take()
            else:
                subscript = self.take()
            return ("name", f"{token}_{subscript}")
        return {"e": ("e",), "i": ("i",)}.get(token, ("name", token))

    def function(self, token: str) -> Node:
        base: Node | None = None
        if token == "\\log" and self.peek() == "_":
            self.take()
            base = self.atom(single=True)
        exponent: Node | None = None
        if self.peek() == "^":
            self.take()
            exponent = self.atom(single=True)
        if self.peek() in _CLOSING or self.peek() == "|":
            argument = self.atom()
        else:
            argument = self.signed()
            while (
                self.starts_atom()
                and self.peek() not in _FUNCTIONS
                and self.peek() not in ("\\log", "(", "|")
            ):
                argument = ("*", argument, self.power())
        if token == "\\log":
            tree: Node = ("/", ("call", "\\ln", argument), ("call", "\\ln", base or ("number", Fraction(10))))
        else:
            if exponent == ("negative", ("number", Fraction(1))):  # sin^{-1} is arcsin
                token, exponent = "\\arc" + token[1:], None
            if token not in _FUNCTIONS:
                raise NotUnderstood(f"no function {token}")
            tree = ("call", token, argument)
        return ("^", tree, exponent) if exponent is not None else tree


def _repeating_decimal(whole: str, fixed: str, repeated: str) -> str:
    value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
    value += Fraction(int(repeated), 10 ** len(fixed) * (10 ** len(repeated) - 1))
    return f"({value.numerator}/{value.denominator})"


def _names(tree: Node) -> list[str]:
    if tree[0] == "name":
        return [tree[1]]
    return [name for part in tree[1:] if isinstance(part, tuple) for name in _names(part)]


@lru_cache(maxsize=1000)
def _place(name: str, point: int) -> Fraction:
    """The value of a variable at a point: a fraction between 1/2 and 3, determined by its name, negative at
    the second point."""
    digest = hashlib.sha256(f"{name}|{point}".encode()).digest()
    size = Fraction(1, 2) + Fraction(int.from_bytes(digest[:3], "big"), 2**24) * Fraction(5, 2)
    return -size if point == 1 else size  # |x| is not x


def _value(tree: Node, point: int) -> Number:
    kind = tree[0]
    if kind == "number":
        return _bounded(tree[1])
    if kind == "name":
        return _place(tree[1], point)
    if kind in ("pi", "e", "i"):
        return {"pi": _context.pi, "e": _context.e, "i": _context.j}[kind] * 1
    parts = [_value(part, point) for part in tree[1:] if isinstance(part, tuple)]
    if kind == "call":
        return _FUNCTIONS[tree[1]](_inexact(parts[0]))
    return _bounded(_OPERATIONS[kind](*parts))


def _bounded(value: Number) -> Number:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > LARGEST_BITS:
            raise TooLarge("a number of too many digits")
    elif not _context.isfinite(value):
        raise NotUnderstood("not finite")
    return value


def _inexact(value: Number) -> Any:
    return _context.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _add(a: Number, b: Number) -> Number:
    return a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else _inexact(a) + _inexact(b)


def _subtract(a: Number, b: Number) -> Number:
    return a - b if isinstance(a, Fraction) and isinstance(b, Fraction) else _inexact(a) - _inexact(b)


def _multiply(a: Number, b: Number) -> Number:
    return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else _inexact(a) * _inexact(b)


def _divide(a: Number, b: Number) -> Number:
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else _inexact(a) / _inexact(b)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, Fraction):
        if abs(exponent) > LARGEST_EXPONENT:
            raise TooLarge("a power with a large exponent")
        if exponent.denominator == 1:
            if isinstance(base, Fraction):
                size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent)
                if size > LARGEST_BITS:
                    raise TooLarge("a power of too many digits")
                return base**exponent.numerator
            return base**exponent.numerator
        if isinstance(base, Fraction) and base >= 0 and exponent.denominator <= LARGEST_ROOT:
            return _root(_power(base, Fraction(exponent.numerator)), Fraction(exponent.denominator))
    elif abs(exponent) > LARGEST_EXPONENT:
        raise TooLarge("a power with a large exponent")
    return _inexact(base) ** _inexact(exponent)


def _root(base: Number, index: Number) -> Number:
    if not isinstance(index, Fraction) or index.denominator != 1 or not 1 <= index <= LARGEST_ROOT:
        raise NotUnderstood("a root with such an index")
    degree = index.numerator
    if isinstance(base, Fraction):
        if base < 0 and degree % 2 == 1:
            return _negative(_root(-base, index))
        if base >= 0:
            above, below = _whole_root(base.numerator, degree), _whole_root(base.denominator, degree)
            if above is not None and below is not None:
                return Fraction(above, below)
            return _context.root(_inexact(base), degree)
    return _context.root(_inexact(base), degree)


def _whole_root(number: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(number)
    elif number.bit_length() < 1000:
        root = round(float(_context.root(_context.mpf(number), degree))) if number.bit_length() < 150 else 0
    else:
        return None
    return root if root**degree == number else None


def _negative(value: Number) -> Number:
    return -value


def _absolute(value: Number) -> Number:
    return abs(value)


def _factorial(value: Number) -> Number:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise NotUnderstood("the factorial of a number that is not whole")
    if value > LARGEST_FACTORIAL:
        raise TooLarge("a large factorial")
    return Fraction(math.factorial(value.numerator))


def _choose(n: Number, k: Number) -> Number:
    if not all(isinstance(x, Fraction) and x.denominator == 1 and 0 <= x <= 2000 for x in (n, k)):
        raise NotUnderstood("such a binomial coefficient")
    return Fraction(math.comb(n.numerator, k.numerator))


def _floor(value: Number) -> Number:
    return Fraction(math.floor(value if isinstance(value, Fraction) else value.real))


def _ceiling(value: Number) -> Number:
    return Fraction(math.ceil(value if isinstance(value, Fraction) else value.real))


_OPERATIONS: dict[str, Callable[..., Number]] = {
    "+": _add, "-": _subtract, "*": _multiply, "/": _divide, "^": _power, "root": _root,
    "negative": _negative, "abs": _absolute, "!": _factorial, "binom": _choose, "\\lfloor": _floor,
    "\\lceil": _ceiling,
}  # fmt: skip
