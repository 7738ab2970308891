"""Read the text of a mathematical expression, in LaTeX, plain text or a mixture, as a tree.

A node is a tuple: its kind, then its parts: ``("number", Fraction)``, ``("name", "x")``, ``("pi",)``,
``("+", a, b)``, ``("^", base, exponent)``, ``("root", radicand, index)``, ``("call", "\\sin", argument)`` and
so on. Python never evaluates a text."""

import re
from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]

LONGEST = 400


class NotUnderstood(ValueError):  # noqa: N818
    """The text is not an expression that can be read here."""


class TooLarge(NotUnderstood):
    """The expression's value is too large to compute here."""


def read_tree(text: str) -> Node:
    """Read an expression as a tree. Raises NotUnderstood."""
    if len(text) > LONGEST:
        raise NotUnderstood("too long")
    try:
        return _Reader(text).whole()
    except (ZeroDivisionError, ArithmeticError, ValueError, RecursionError, IndexError) as error:
        if isinstance(error, NotUnderstood):
            raise
        raise NotUnderstood(f"{type(error).__name__}: {error}") from None


def names_in(tree: Node) -> frozenset[str]:
    """The variables of a tree."""
    if tree[0] == "name":
        return frozenset([tree[1]])
    return frozenset().union(*(names_in(part) for part in tree[1:] if isinstance(part, tuple)))


def subtrees(tree: Node) -> list[Node]:
    """A tree and all trees in it, the innermost first."""
    inner = [node for part in tree[1:] if isinstance(part, tuple) for node in subtrees(part)]
    return [*inner, tree]


_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?[eE][+-]?\d{1,3}(?![\w.])|\d+(?:\.\d*)?|\.\d+)"
    r"|(?P<command>\\[A-Za-z]+|\\[{}|])|(?P<char>\S))"
)
_DOTTED = re.compile(r"(?<=[\d.])\\dot\{?(\d)\}?(\d*)\\dot\{?(\d)\}?")  # dots on the first and the last digit
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\overline|\\dot|\\bar)\{?(\d+)\}?")
_WORDS = {
    "sqrt": "\\sqrt", "pi": "\\pi", "sin": "\\sin", "cos": "\\cos", "tan": "\\tan", "cot": "\\cot",
    "sec": "\\sec", "csc": "\\csc", "ln": "\\ln", "log": "\\log", "exp": "\\exp", "arcsin": "\\arcsin",
    "arccos": "\\arccos", "arctan": "\\arctan", "binom": "\\binom", "abs": "\\abs", "theta": "\\theta",
    "max": "\\max", "min": "\\min", "lg": "\\log", "alpha": "\\alpha", "beta": "\\beta",
}  # fmt: skip
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon theta lambda mu rho sigma phi omega tau varphi psi eta zeta kappa chi xi "
    "nu varepsilon Omega Delta Phi Theta"
)
_GREEK = frozenset("\\" + name for name in _GREEK_NAMES.split())
_FUNCTION_NAMES = "sin cos tan cot sec csc ln exp arcsin arccos arctan sinh cosh tanh"
_FUNCTIONS = frozenset("\\" + name for name in _FUNCTION_NAMES.split())
_ATOM_COMMANDS = {
    "\\frac",
    "\\sqrt",
    "\\pi",
    "\\binom",
    "\\log",
    "\\abs",
    "\\max",
    "\\min",
    *_GREEK,
    *_FUNCTIONS,
}
_TIMES, _OVER = ("*", "\\cdot", "\\times", "\\ast"), ("/", "\\div")
_CLOSING = {"(": ")", "{": "}", "[": "]", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}


class _Reader:
    """A recursive-descent reader of one expression."""

    def __init__(self, text: str) -> None:
        text = _DOTTED.sub(r"\\overline{\1\2\3}", text)
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
        if token in ("\\max", "\\min"):
            return self.extreme("+" if token == "\\max" else "-")
        if token == "\\abs":
            return ("abs", self.atom())
        if token in _FUNCTIONS or token == "\\log":
            return self.function(token)
        if (token.isalpha() and token.isascii()) or token in _GREEK:
            return self.variable(token)
        raise NotUnderstood(f"unexpected {token!r}")

    def extreme(self, sign: str) -> Node:
        """max(a, b) is (a + b + |a - b|) / 2, and min(a, b) has a minus."""
        closing = _CLOSING[self.take()]
        tree = self.sum()
        while self.peek() == ",":
            self.take()
            other = self.sum()
            distance = ("abs", ("-", tree, other))
            tree = ("/", (sign, ("+", tree, other), distance), ("number", Fraction(2)))
        self.take(closing)
        return tree

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
