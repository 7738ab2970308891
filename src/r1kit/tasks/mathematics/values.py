"""Values of trees at a point: exact fractions where possible, else balls.

A ball is a real or complex number with a bound on its error, so that a difference is proven, never guessed.
Every operation is bounded. In ``real`` mode only real numbers occur: an even root or a logarithm of a
negative number raises ``NotReal``, and an odd root or a power with an odd denominator is the real one, so
that ``\\sqrt[3]{x^2}`` and ``x^{2/3}`` agree. Otherwise roots, powers and logarithms are the principal
ones."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath  # type: ignore[import-untyped]

from r1kit.tasks.mathematics.syntax import Node, NotUnderstood, TooLarge

LARGEST_BITS = 1 << 17  # of an exact numerator or denominator
LARGEST_WORK = 200_000  # of the exact operations of one value, in squares of thousands of bits
LARGEST_MAGNITUDE = 1 << 40  # the binary logarithm of a ball
LARGEST_EXACT_FACTORIAL = 10_000
LARGEST_FACTORIAL = 1 << 34
LARGEST_FACTORIAL_BITS = 1024  # of the precision of a factorial that is not exact; more takes seconds
LARGEST_ROOT = 1000
LARGEST_ANGLE = 10_000  # the binary logarithm of the argument of a sine
_ZERO = -(1 << 60)  # the binary logarithm of zero, and of the error of an exact ball


class NotReal(NotUnderstood):
    """The value is not a real number, or not in the domain."""


class Singular(NotUnderstood):
    """A division by zero, or another point at which there is no value."""


class Imprecise(NotUnderstood):
    """More digits are needed."""


@dataclass(frozen=True, slots=True)
class Ball:
    """A number within 2**error of ``middle``, an mpf or mpc."""

    middle: Any
    error: int

    @property
    def magnitude(self) -> int:
        """An m with abs(middle) < 2**m; for a real one, also abs(middle) >= 2**(m - 1)."""
        return _magnitude(self.middle)

    @property
    def is_real(self) -> bool:
        return not hasattr(self.middle, "_mpc_")

    @property
    def may_be_zero(self) -> bool:
        return self.magnitude - 3 <= self.error


Value = Fraction | Ball


@lru_cache(maxsize=64)
def context_of(bits: int) -> Any:
    """An mpmath context of this precision, which is never changed afterwards, so that threads can share
    it."""
    context = mpmath.MPContext()
    context.prec = bits
    return context


def _magnitude(number: Any) -> int:
    parts = number._mpc_ if hasattr(number, "_mpc_") else (number._mpf_,)
    if any(not mantissa and exponent for _, mantissa, exponent, _ in parts):
        raise Singular("not finite")
    sizes = [exponent + bits if mantissa else _ZERO for _, mantissa, exponent, bits in parts]
    return max(sizes) + len(sizes) - 1 if max(sizes) != _ZERO else _ZERO


def _bit_size(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


class Evaluation:
    """Computes values of trees at one point with ``bits`` bits.

    ``scale`` grows to the largest binary logarithm, of either sign, of a number on the way. ``settled``: what
    cannot be distinguished from zero is zero; otherwise it raises Imprecise where that matters."""

    def __init__(self, point: Mapping[str, Fraction], bits: int, real: bool, settled: bool = False) -> None:
        self.point, self.bits, self.real, self.settled = point, bits, real, settled
        self.context = context_of(bits)
        self.scale = 0
        self.work = 0

    def value(self, tree: Node) -> Value:
        """The value. Raises NotReal, Singular, Imprecise, TooLarge, NotUnderstood."""
        kind = tree[0]
        if kind == "number":
            return self.exact(tree[1])
        if kind == "name":
            return self.point[tree[1]]
        if kind in ("pi", "e"):
            return self.ball(self.context.pi * 1 if kind == "pi" else self.context.e * 1, _ZERO)
        if kind == "i":
            return Ball(self.context.mpc(0, 1), _ZERO)
        if kind == "^" and tree[1] == ("e",):
            return self.exponential(self.value(tree[2]))
        if kind == "call":
            return self.call(tree[1], self.value(tree[2]))
        return _OPERATIONS[kind](self, *(self.value(part) for part in tree[1:]))

    def exact(self, value: Fraction) -> Value:
        """A fraction, as a ball once it has become too long."""
        size = _bit_size(value)
        if size < 64:
            return value
        self.scale = max(self.scale, abs(value.numerator.bit_length() - value.denominator.bit_length()))
        self.work += (size // 1000) ** 2 if value.denominator > 1 else size // 1000
        return value if size <= LARGEST_BITS and self.work <= LARGEST_WORK else self.inexact(value)

    def ball(self, middle: Any, error: int) -> Ball:
        """A ball whose middle has just been rounded."""
        magnitude = _magnitude(middle)
        if magnitude != _ZERO and abs(magnitude) > LARGEST_MAGNITUDE:
            raise TooLarge("a number of too many digits")
        error = max(error, magnitude - self.bits + 2) + 1
        if magnitude - 3 > error:  # else it may be zero, which has no scale
            self.scale = max(self.scale, abs(magnitude))
        return Ball(middle, error)

    def inexact(self, value: Value) -> Ball:
        if isinstance(value, Ball):
            return value
        return self.ball(self.context.mpf(value.numerator) / value.denominator, _ZERO)

    def nonzero(self, value: Value) -> Value:
        """A value that is certainly not zero, or exactly zero."""
        if isinstance(value, Ball) and value.may_be_zero:
            if value.middle == 0 and value.error <= _ZERO + 1:
                return Fraction(0)
            if not self.settled:
                raise Imprecise("it may be zero")
            return Fraction(0)
        return value

    def add(self, a: Value, b: Value) -> Value:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self.exact(a + b)
        one, other = self.inexact(a), self.inexact(b)
        return self.ball(one.middle + other.middle, max(one.error, other.error) + 1)

    def subtract(self, a: Value, b: Value) -> Value:
        return self.add(a, self.negative(b))

    def multiply(self, a: Value, b: Value) -> Value:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self.exact(a * b)
        if a == 0 or b == 0:
            return Fraction(0)
        one, other = self.inexact(a), self.inexact(b)
        error = max(one.magnitude + other.error, other.magnitude + one.error, one.error + other.error) + 2
        return self.ball(one.middle * other.middle, error)

    def divide(self, a: Value, b: Value) -> Value:
        b = self.nonzero(b)
        if b == 0:
            raise Singular("division by zero")
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self.exact(a / b)
        divisor = self.inexact(b)
        inverse = self.ball(1 / divisor.middle, divisor.error - 2 * divisor.magnitude + 5)
        return self.multiply(a, inverse)

    def negative(self, a: Value) -> Value:
        return -a if isinstance(a, Fraction) else Ball(-a.middle, a.error)

    def absolute(self, a: Value) -> Value:
        return abs(a) if isinstance(a, Fraction) else self.ball(abs(a.middle), a.error)

    def is_negative(self, value: Value) -> bool:
        """Whether a value is a negative real number; it must be exactly zero or certainly not zero."""
        if isinstance(value, Fraction):
            return value < 0
        return value.is_real and bool(value.middle < 0)

    def power(self, base: Value, exponent: Value) -> Value:
        base = self.nonzero(base)
        if base == 0:
            exponent = self.nonzero(exponent)
            if exponent == 0:
                return Fraction(1)
            if (isinstance(exponent, Ball) and not exponent.is_real) or self.is_negative(exponent):
                raise Singular("a power of zero")
            return Fraction(0)
        if isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                return self.whole_power(base, exponent.numerator)
            negative = self.is_negative(base)
            if exponent.denominator <= LARGEST_ROOT and not (negative and not self.real):
                root = self.root(base, Fraction(exponent.denominator))
                return self.whole_power(root, exponent.numerator)
        if self.real and self.is_negative(base):
            raise NotReal("a power of a negative number")
        return self.exponential(self.multiply(exponent, self.logarithm(base)))

    def whole_power(self, base: Value, exponent: int) -> Value:
        size = abs(exponent)
        if isinstance(base, Fraction):
            if base in (0, 1, -1) or _bit_size(base) * size <= LARGEST_BITS:
                return self.exact(base**exponent if abs(base) != 1 else base ** (exponent % 2))
            base = self.inexact(base)
        if size == 0:
            return Fraction(1)
        if (abs(base.magnitude) + 1) * size > LARGEST_MAGNITUDE * 2:
            raise TooLarge("a power of too many digits")
        if base.error + size.bit_length() + 3 > base.magnitude:
            raise Imprecise("a large power")
        middle = base.middle**exponent
        relative = base.error - base.magnitude + size.bit_length() + 4
        return self.ball(middle, _magnitude(middle) + max(relative, 4 - self.bits))

    def root(self, base: Value, index: Value) -> Value:
        if not isinstance(index, Fraction) or index.denominator != 1 or not 1 <= index <= LARGEST_ROOT:
            raise NotUnderstood("a root with such an index")
        degree, base = index.numerator, self.nonzero(base)
        if base == 0:
            return Fraction(0)
        if self.is_negative(base):
            if degree % 2:
                return self.negative(self.root(self.negative(base), index))
            if self.real:
                raise NotReal("an even root of a negative number")
            unit = Ball(self.context.root(self.context.mpc(-1, 0), degree), 2 - self.bits)
            return self.multiply(unit, self.root(self.negative(base), index))
        if isinstance(base, Fraction):
            above, below = _whole_root(base.numerator, degree), _whole_root(base.denominator, degree)
            if above is not None and below is not None:
                return Fraction(above, below)
        ball = self.inexact(base)
        middle = self.context.root(ball.middle, degree)
        return self.ball(middle, ball.error - ball.magnitude + _magnitude(middle) + 3)

    def exponential(self, value: Value) -> Value:
        if value == 0:
            return Fraction(1)
        ball = self.inexact(value)
        if ball.magnitude > 40:
            raise TooLarge("an exponential of too many digits")
        if ball.error > -3:
            raise Imprecise("an exponential")
        middle = self.context.exp(ball.middle)
        return self.ball(middle, _magnitude(middle) + ball.error + 2)

    def logarithm(self, value: Value) -> Value:
        value = self.nonzero(value)
        if value == 0:
            raise Singular("the logarithm of zero")
        if value == 1:
            return Fraction(0)
        if self.real and self.is_negative(value):
            raise NotReal("the logarithm of a negative number")
        ball = self.inexact(value)
        return self.ball(self.context.ln(ball.middle), ball.error - ball.magnitude + 4)

    def sine(self, value: Value) -> Value:
        return self.circular(value, self.context.sin)

    def cosine(self, value: Value) -> Value:
        return self.circular(value, self.context.cos)

    def circular(self, value: Value, function: Callable[[Any], Any]) -> Value:
        ball = self.inexact(value)
        if ball.magnitude > LARGEST_ANGLE:
            raise TooLarge("a large angle")
        growth = 0 if ball.is_real else int(min(abs(ball.middle.imag), 1 << 30)) * 2 + 2
        if growth > LARGEST_ANGLE or ball.error > 0:
            raise Imprecise("an angle")
        return self.ball(function(ball.middle), ball.error + growth + 1)

    def arcsine(self, value: Value, function: Callable[[Any], Any]) -> Value:
        ball = self.inexact(value)
        distance = 1 - abs(ball.middle)
        if value in (1, -1):
            return self.ball(function(ball.middle), _ZERO)
        if _magnitude(distance) - 3 <= ball.error:
            if not self.settled:
                raise Imprecise("an inverse sine near the end of its domain")
            return self.ball(function(self.context.sign(ball.middle)), _ZERO)
        if self.real and distance < 0:
            raise NotReal("an inverse sine of a number above 1")
        return self.ball(function(ball.middle), ball.error - min(0, _magnitude(distance)) // 2 + 3)

    def hyperbolic(self, name: str, value: Value) -> Value:
        up = self.exponential(value)
        if name == "\\tanh":
            square = self.multiply(up, up)
            return self.divide(self.subtract(square, Fraction(1)), self.add(square, Fraction(1)))
        down = self.divide(Fraction(1), up)
        both = self.add(up, down) if name == "\\cosh" else self.subtract(up, down)
        return self.multiply(both, Fraction(1, 2))

    def call(self, name: str, value: Value) -> Value:
        if name == "\\ln":
            return self.logarithm(value)
        if name == "\\exp":
            return self.exponential(value)
        if name in ("\\sinh", "\\cosh", "\\tanh"):
            return self.hyperbolic(name, value)
        if name == "\\arctan":
            ball = self.inexact(value)
            return self.ball(self.context.atan(ball.middle), ball.error + 2)
        if name in ("\\arcsin", "\\arccos"):
            return self.arcsine(value, self.context.asin if name == "\\arcsin" else self.context.acos)
        if value == 0:
            if name in ("\\cot", "\\csc"):
                raise Singular("division by zero")
            return Fraction(1) if name in ("\\cos", "\\sec") else Fraction(0)
        above, below = _CIRCULAR[name]
        over = getattr(self, above)(value) if above else Fraction(1)
        return self.divide(over, getattr(self, below)(value)) if below else over

    def factorial(self, value: Value) -> Value:
        if isinstance(value, Ball) and value.magnitude > 64:
            raise TooLarge("a large factorial")
        if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
            raise NotReal("the factorial of a number that is not whole")
        if value > LARGEST_FACTORIAL:
            raise TooLarge("a large factorial")
        number = value.numerator
        if number <= LARGEST_EXACT_FACTORIAL:
            return self.exact(Fraction(_factorial(number)))
        if self.bits > LARGEST_FACTORIAL_BITS:
            raise Imprecise("a large factorial")
        return self.ball(self.context.factorial(self.context.mpf(number)), _ZERO)

    def choose(self, n: Value, k: Value) -> Value:
        if not all(isinstance(x, Fraction) and x.denominator == 1 and x >= 0 for x in (n, k)):
            raise NotReal("such a binomial coefficient")
        assert isinstance(n, Fraction) and isinstance(k, Fraction)
        if k > n:
            return Fraction(0)
        lesser = min(k, n - k).numerator
        if min(lesser * n.numerator.bit_length(), n.numerator) <= LARGEST_BITS // 4:
            return self.exact(Fraction(math.comb(n.numerator, lesser)))
        below = self.multiply(self.factorial(k), self.factorial(n - k))
        return self.divide(self.factorial(n), below)

    def whole(self, value: Value, rounded: Callable[[Any], int]) -> Value:
        """The floor or ceiling of a real number."""
        if isinstance(value, Fraction):
            return Fraction(rounded(value))
        if not value.is_real:
            raise NotReal("a floor of a complex number")
        if value.magnitude > LARGEST_BITS:
            raise TooLarge("a floor of too many digits")
        if value.error < 0:
            number = _fraction(value.middle)
            size = Fraction(1, 1 << -value.error)
            low, high = rounded(number - size), rounded(number + size)
            if low == high:
                return Fraction(low)
            if self.settled:
                return Fraction(round(number))
        raise Imprecise("a floor")

    def floor(self, value: Value) -> Value:
        return self.whole(value, math.floor)

    def ceiling(self, value: Value) -> Value:
        return self.whole(value, math.ceil)

    def differ(self, one: Value, other: Value) -> bool:
        """Whether two values certainly differ."""
        if isinstance(one, Fraction) and isinstance(other, Fraction):
            return one != other
        difference = self.subtract(one, other)
        return difference != 0 and not (isinstance(difference, Ball) and difference.may_be_zero)


def _fraction(number: Any) -> Fraction:
    sign, mantissa, exponent, _ = number._mpf_
    whole = -int(mantissa) if sign else int(mantissa)
    return Fraction(whole << exponent) if exponent >= 0 else Fraction(whole, 1 << -exponent)


def _whole_root(number: int, degree: int) -> int | None:
    """The root of a whole number if it is whole."""
    if degree == 1 or number in (0, 1):
        return number
    if degree == 2:
        root = math.isqrt(number)
    else:
        size = number.bit_length()
        if size > 4096 or degree >= size:
            return None
        root = round(_fraction(context_of(size // degree + 64).root(number, degree)))
    return root if root**degree == number else None


@lru_cache(maxsize=64)
def _factorial(number: int) -> int:
    return math.factorial(number)


_CIRCULAR: dict[str, tuple[str, str]] = {
    "\\sin": ("sine", ""), "\\cos": ("cosine", ""), "\\tan": ("sine", "cosine"),
    "\\cot": ("cosine", "sine"), "\\sec": ("", "cosine"), "\\csc": ("", "sine"),
}  # fmt: skip
_OPERATIONS: dict[str, Callable[..., Value]] = {
    "+": Evaluation.add, "-": Evaluation.subtract, "*": Evaluation.multiply, "/": Evaluation.divide,
    "^": Evaluation.power, "root": Evaluation.root, "negative": Evaluation.negative,
    "abs": Evaluation.absolute, "!": Evaluation.factorial, "binom": Evaluation.choose,
    "\\lfloor": Evaluation.floor, "\\lceil": Evaluation.ceiling,
}  # fmt: skip
