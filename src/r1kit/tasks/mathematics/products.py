"""Products of powers of whole numbers, pi and e by their prime factors, however large they are.

By the unique factorisation of whole numbers (and because a power of pi or of e with a rational exponent is
transcendental) two products are equal only if the exponents are."""

from fractions import Fraction
from functools import lru_cache

from r1kit.tasks.mathematics.syntax import Node, NotUnderstood
from r1kit.tasks.mathematics.values import Evaluation

Factors = dict[int | str, Fraction]

LARGEST_FACTORIAL = 200_000
LARGEST_DIVISOR = 1000


def same_product(one: Node, other: Node) -> bool | None:
    """Whether two products are equal; None if one is no product that can be factored."""
    try:
        left, right = _factors(one), _factors(other)
    except NotUnderstood:
        return None
    difference = {key for key in {*left, *right} if left.get(key, 0) != right.get(key, 0)}
    return None if {"pi", "e"} <= difference else not difference


def _factors(tree: Node) -> Factors:
    """The exponents of a product, by prime number, "pi", "e", and "-" for a sign. Raises NotUnderstood."""
    kind = tree[0]
    if kind == "number":
        return _combined(_whole_factors(tree[1].numerator), _whole_factors(tree[1].denominator), -1)
    if kind in ("pi", "e"):
        return {kind: Fraction(1)}
    if kind in ("*", "/"):
        return _combined(_factors(tree[1]), _factors(tree[2]), 1 if kind == "*" else -1)
    if kind == "negative":
        return _combined(_factors(tree[1]), {"-": Fraction(1)}, 1)
    if kind == "abs":
        return {key: value for key, value in _factors(tree[1]).items() if key != "-"}
    if kind in ("^", "root"):
        exponent = Evaluation({}, 64, real=True).value(tree[2])
        if not isinstance(exponent, Fraction) or (kind == "root" and not exponent):
            raise NotUnderstood("an exponent that is not rational")
        return _raised(_factors(tree[1]), exponent if kind == "^" else 1 / exponent)
    if kind == "!":
        return dict(_factorial_factors(_small_whole(tree[1])))
    if kind == "binom":
        n, k = _small_whole(tree[1]), _small_whole(tree[2])
        if k > n:
            raise NotUnderstood("zero has no factors")
        below = _combined(_factorial_factors(k), _factorial_factors(n - k), 1)
        return _combined(_factorial_factors(n), below, -1)
    raise NotUnderstood("no product")


def _combined(one: Factors, other: Factors, sign: int) -> Factors:
    result = dict(one)
    for key, exponent in other.items():
        result[key] = result.get(key, Fraction(0)) + sign * exponent
    if "-" in result:
        result["-"] %= 2
    return result


def _raised(factors: Factors, exponent: Fraction) -> Factors:
    if factors.get("-") and exponent.denominator % 2 == 0:
        raise NotUnderstood("an even root of a negative number")
    result = {key: value * exponent for key, value in factors.items() if key != "-"}
    if factors.get("-"):
        result["-"] = Fraction(exponent.numerator % 2)
    return result


def _whole_factors(number: int) -> Factors:
    if number < 1:
        raise NotUnderstood("zero has no factors")
    result: Factors = {}
    for divisor in (2, *range(3, LARGEST_DIVISOR, 2)):
        while number % divisor == 0:
            result[divisor] = result.get(divisor, Fraction(0)) + 1
            number //= divisor
    if number >= LARGEST_DIVISOR**2:
        raise NotUnderstood("a number that is not factored here")
    return result if number == 1 else {**result, number: Fraction(1)}


def _small_whole(tree: Node) -> int:
    value = Evaluation({}, 64, real=True).value(tree)
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= LARGEST_FACTORIAL:
        raise NotUnderstood("no small whole number")
    return value.numerator


@lru_cache(maxsize=8)
def _factorial_factors(number: int) -> Factors:
    """The factors of ``number``! by Legendre's formula."""
    sieve = bytearray([1]) * (number + 1)
    result: Factors = {}
    for prime in range(2, number + 1):
        if sieve[prime]:
            sieve[prime * prime :: prime] = bytes(len(range(prime * prime, number + 1, prime)))
            power, count = prime, 0
            while power <= number:
                count += number // power
                power *= prime
            result[prime] = Fraction(count)
    return result
