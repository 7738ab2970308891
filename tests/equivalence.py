"""Pairs of answers that are the same, or nearly but not, by construction: one generator a kind.

A generator takes a random.Random and returns ``Pair``s; half of them, about, are near misses. Nothing here
reads or computes with r1kit: equal pairs are rewritten by an identity, near misses differ in one number,
sign, bracket or letter."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Two answers; ``one_way``: only the second is an answer to the first."""

    kind: str
    gold: str
    said: str
    same: bool
    one_way: bool = False


def frac(above: object, below: object) -> str:
    return f"\\frac{{{above}}}{{{below}}}"


def large(rng: random.Random) -> Iterator[Pair]:
    """Kind A: far beyond what floats can hold, or less apart than they can show."""
    n, k, p = rng.randrange(700, 3000), rng.randrange(1, 4), rng.choice([2, 3, 5, 7, 10])
    forms = [
        lambda n: frac(1, f"{n}!"),
        lambda n: f"{p}^{{-{n}}}",
        lambda n: frac(1, f"{p}^{{{n}}}"),
        lambda n: f"1-{frac(1, f'{p}^{{{n}}}')}",
        lambda n: f"1-{frac(1, f'{n}!')}",
        lambda n: frac(f"{p}^{{{n}}}-1", f"2\\cdot {p}^{{{n}}}"),
        lambda n: f"0.{rng_digit}^{{{n}}}",  # type: ignore[has-type]
        lambda n: f"e^{{-{n}}}",
        lambda n: frac("\\pi", f"10^{{{n}}}"),
        lambda n: f"\\sqrt{{2}}+10^{{-{n}}}",
        lambda n: f"{n}!+{p}",
        lambda n: f"\\binom{{{2 * n}}}{{{n}}}",
    ]
    rng_digit = rng.randrange(1, 10)
    form = rng.choice(forms)
    yield Pair("large", form(n), form(n + k), False)
    yield Pair("large", f"{n}!", f"{n}!{rng.choice('+-')}{k}", False)
    yield Pair("large", f"1-{p}^{{-{n}}}", f"1+{p}^{{-{n}}}", False)
    m = rng.randrange(200, 2000)
    yield Pair("large", f"\\binom{{{2 * m}}}{{{m}}}", frac(f"{2 * m}!", f"{m}!^2"), True)
    yield Pair("large", frac(1, f"{n}!"), frac(n + 1, f"{n + 1}!"), True)
    yield Pair("large", f"{p}^{{-{2 * n}}}", frac(1, f"{p * p}^{{{n}}}"), True)
    yield Pair("large", f"1-{frac(1, f'{p}^{{{n}}}')}", frac(f"{p}^{{{n}}}-1", f"{p}^{{{n}}}"), True)
    yield Pair("large", f"e^{{-{n}}}", frac(1, f"e^{{{n}}}"), True)


def pieces(rng: random.Random) -> Iterator[Pair]:
    """Kind B: absolute values, roots of squares, floors and ceilings with kinks far from zero."""
    x, a = rng.choice("xtanyk"), rng.choice([rng.randrange(4, 60), rng.randrange(100, 5000)])
    c, m = rng.randrange(2, 9), rng.randrange(20, 300)
    yield Pair("pieces", f"|{x}-{a}|", f"{a}-{x}", False)
    yield Pair("pieces", f"|{x}+{a}|", f"{x}+{a}", False)
    yield Pair("pieces", f"\\sqrt{{({x}-{a})^2}}", f"{a}-{x}", False)
    yield Pair("pieces", f"\\left|{c}{x}-{a}\\right|", f"{a}-{c}{x}", False)
    yield Pair("pieces", f"{x}^2+|{x}-{a}|", f"{x}^2-{x}+{a}", False)
    yield Pair("pieces", f"|({x}-{a})({x}-{a + 1})|", f"({x}-{a})({x}-{a + 1})", False)
    yield Pair("pieces", f"\\lfloor {x}/{m} \\rfloor", f"\\lfloor {x}/{2 * m} \\rfloor", False)
    yield Pair("pieces", f"\\lceil {frac(x, m)} \\rceil", f"\\lceil {frac(x, m + 10)} \\rceil", False)
    yield Pair("pieces", f"|{x}-{a}|+|{x}-{a + c}|", f"2{x}-{2 * a + c}", False)
    yield Pair("pieces", f"|{x}-{a}|", f"|{a}-{x}|", True)
    yield Pair("pieces", f"\\sqrt{{({x}-{a})^2}}", f"|{x}-{a}|", True)
    yield Pair("pieces", f"\\left|{c}{x}-{c * a}\\right|", f"{c}|{a}-{x}|", True)
    yield Pair("pieces", f"\\sqrt[3]{{({x}-{a})^3}}", f"{x}-{a}", True)
    yield Pair("pieces", f"|{x}-{a}|+|{x}-{a + c}|", f"|{a + c}-{x}|+|{a}-{x}|", True)
    yield Pair("pieces", f"\\lceil {frac(x, m)} \\rceil", f"-\\lfloor -{frac(x, m)} \\rfloor", True)
    yield Pair(
        "pieces", f"\\lfloor {frac(f'{x}+{m}', m)} \\rfloor", f"\\lfloor {frac(x, m)} \\rfloor+1", True
    )
    yield Pair("pieces", f"|{x}-{a}|^2", f"{x}^2-{2 * a}{x}+{a * a}", True)


def domains(rng: random.Random) -> Iterator[Pair]:
    """Kind C: over the real numbers."""
    m, n = rng.sample("abmnxyuv", 2)
    p, q, c = rng.choice([3, 5, 7]), rng.choice([3, 5, 7]), rng.randrange(2, 9)
    yield Pair("domains", f"\\sqrt{{{c}/{m}}}", frac(f"\\sqrt{{{c}}}", f"\\sqrt {m}"), True)
    yield Pair("domains", f"{m}^{{{p}/2}}", f"\\sqrt{{{m}^{p}}}", True)
    yield Pair("domains", f"\\sqrt[{q}]{{{m}^2}}", f"{m}^{{2/{q}}}", True)
    yield Pair("domains", f"\\sqrt{{{m}{n}}}", f"\\sqrt{{{m}}}\\sqrt{{{n}}}", True)
    yield Pair("domains", f"\\sqrt{{{frac(m, n)}}}", frac(f"\\sqrt{{{m}}}", f"\\sqrt{{{n}}}"), True)
    yield Pair("domains", f"\\ln({m}^{c})-\\ln {m}", f"{c - 1}\\ln {m}", True)
    yield Pair("domains", f"\\sqrt {m} - {c}", f"\\sqrt {m} + {c}", False)
    yield Pair("domains", f"|{m}|+{c}", f"{m}+{c}", False)
    yield Pair("domains", f"\\sqrt{{{m}^2}}", m, False)
    yield Pair("domains", f"{m}^{{{p}/2}}", f"\\sqrt{{{m}^{p + 1}}}", False)
    yield Pair("domains", f"\\sqrt{{{m}+{n}}}", f"\\sqrt{{{m}}}+\\sqrt{{{n}}}", False)
    yield Pair("domains", f"\\sqrt[{q}]{{{m}^2}}", f"-{m}^{{2/{q}}}", False)


UPRIGHT = ("\\mathrm{%s}", "\\text{%s}", "\\operatorname{%s}", "\\mathrm{ %s }")


def upright(rng: random.Random) -> Iterator[Pair]:
    """Kind D: constants and variables set upright."""
    a, b, style = rng.randrange(2, 30), rng.randrange(2, 9), rng.choice(UPRIGHT)
    forms = [
        "%s^{b}",
        "\\frac{%s+a}{b}",
        "1-\\frac{a}{%s^2}",
        "a%s^{-b}",
        "%s",
        "\\ln(%s^{b})+%s",
        "\\sqrt{%s}+a",
    ]
    for symbol, form in (
        ("e", rng.choice(forms)),
        ("i", "a+b%s"),
        ("x", "a%s"),
        ("x", "%s^2+a"),
        ("n", "a%s+b"),
    ):

        def shown(letter: str, a: int = a, b: int = b, form: str = form) -> str:
            text = form.replace("a", "A").replace("b", "B").replace("frAc", "frac")
            return text.replace("%s", letter).replace("A", str(a)).replace("B", str(b))

        set_upright = style % symbol
        yield Pair("upright", shown(symbol), shown(set_upright), True)
        if "a" in form.replace("\\frac", ""):
            yield Pair("upright", shown(symbol), shown(set_upright, a + 1), False)
        else:
            yield Pair("upright", shown(symbol), shown(set_upright) + "+1", False)


def real(rng: random.Random) -> str:
    return rng.choice(["\\mathbb{R}", "\\mathbb R", "(-\\infty,\\infty)", "(-\\infty,+\\infty)"])


def sets(rng: random.Random) -> Iterator[Pair]:
    """Kind J: one set of real numbers in several forms."""
    a = rng.randrange(-9, 9)
    b, x = a + rng.randrange(1, 9), rng.choice("xyt")
    without_a = [
        f"{x} \\ne {a}", f"{x} \\neq {a}", f"(-\\infty,{a})\\cup({a},\\infty)",
        f"\\mathbb{{R}}\\setminus\\{{{a}\\}}", f"{x}\\in\\mathbb{{R}}\\setminus\\{{{a}\\}}",
        f"{x}<{a} \\text{{ or }} {x}>{a}", f"\\{{{x} \\mid {x} \\neq {a}\\}}",
        f"({a},\\infty)\\cup(-\\infty,{a})", f"{x} != {a}",
    ]  # fmt: skip
    near = [
        f"{x}={a}",
        f"{x}\\ne {b}",
        f"(-\\infty,{a}]\\cup({a},\\infty)",
        f"(-\\infty,{a})",
        f"{a}",
        f"\\mathbb{{R}}\\setminus\\{{{b}\\}}",
        real(rng),
    ]
    one, other = rng.sample(without_a, 2)
    yield Pair("sets", one, other, True)
    yield Pair("sets", one, rng.choice(near), False)
    r = rng.randrange(1, 9)
    low, high = a - r, a + r
    inner = f"{x}-{a}" if a > 0 else f"{x}+{-a}" if a else x
    inside = [f"|{inner}|<{r}", f"({low},{high})", f"{low}<{x}<{high}", f"\\{{{x} : {low}<{x}<{high}\\}}"]
    one, other = rng.sample(inside, 2)
    yield Pair("sets", one, other, True)
    yield Pair(
        "sets",
        one,
        rng.choice(
            [f"|{inner}|\\le {r}", f"[{low},{high})", f"|{inner}|<{r + 1}", f"{low}<{x}", f"|{inner}|>{r}"]
        ),
        False,
    )
    outside = [f"|{inner}|\\ge {r}", f"(-\\infty,{low}]\\cup[{high},\\infty)",
               f"{x}\\le {low} \\text{{ or }} {x}\\ge {high}",
               f"\\mathbb{{R}}\\setminus({low},{high})"]  # fmt: skip
    one, other = rng.sample(outside, 2)
    yield Pair("sets", one, other, True)
    yield Pair(
        "sets",
        one,
        rng.choice([f"|{inner}|>{r}", f"({low},{high})", f"[{low},{high}]", f"{x}\\ge {high}"]),
        False,
    )
    two = [f"\\mathbb{{R}}\\setminus\\{{{a},{b}\\}}", f"{x}\\ne {a}, {x} \\ne {b}", f"{x} \\neq {b}, {a}",
           f"(-\\infty,{a})\\cup({a},{b})\\cup({b},\\infty)"]  # fmt: skip
    one, other = rng.sample(two, 2)
    yield Pair("sets", one, other, True)
    yield Pair(
        "sets",
        one,
        rng.choice([f"{x}\\ne {a}", f"({a},{b})", f"{x}={a}, {x}={b}", f"\\{{{a},{b}\\}}"]),
        False,
    )


def objects(rng: random.Random) -> Iterator[Pair]:
    """Kind J: points, matrices, functions, lines."""
    a, b, c, d = (rng.randrange(-20, 20) for _ in range(4))
    b += a == b
    names = rng.choice(["xy", "ab", "mn", "pq"])
    named = ", ".join(f"{name}={value}" for name, value in zip(names, (a, b), strict=True))
    swapped = ", ".join(f"{name}={value}" for name, value in zip(names, (b, a), strict=True))
    yield Pair("objects", named, f"({a},{b})", True)
    yield Pair("objects", named, f"({names[0]},{names[1]})=({a},{b})", True)
    yield Pair("objects", f"({a},{b})", swapped, False)
    yield Pair("objects", named, f"({b},{a})", False)
    yield Pair("objects", named, swapped, False)
    matrix = "\\begin{pmatrix}%d&%d\\\\%d&%d\\end{pmatrix}"
    yield Pair("objects", matrix % (a, b, c, d), f"[[{a},{b}],[{c},{d}]]", True)
    yield Pair("objects", matrix % (a, b, c, d), f"[[{a}, {b}], [{c}, {d + 1}]]", False)
    k, tail = (
        rng.randrange(2, 30),
        rng.choice(
            [
                " \\text{ for all } x",
                ", \\forall x \\in \\mathbb{R}",
                "\\quad(x\\in\\mathbb{R})",
                " \\text{ for all real } x",
                ", x \\in \\mathbb{R}",
            ]
        ),
    )
    yield Pair("objects", f"f(x)={k}x", f"f(x)={k}x{tail}", True)
    yield Pair("objects", f"f(x)={k}x{tail}", f"f(x)={k + 1}x", False)
    yield Pair("objects", f"{k}x-y+{abs(a) + 1}=0", f"y = {k}x + {abs(a) + 1}", True)
    yield Pair("objects", f"{k}x-y+{abs(a) + 1}=0", f"y = {k}x - {abs(a) + 1}", False)
    yield Pair("objects", f"{a},{b},{c + 50}", f"${{{c + 50},{a},{b}}}$", True)
    yield Pair("objects", f"{a},{b},{c + 50}", f"${{{c + 51},{a},{b}}}$", False)


UNITS = (("hours", "minutes", 60), ("feet", "inches", 12), ("minutes", "seconds", 60), ("days", "hours", 24),
         ("pounds", "ounces", 16), ("meters", "centimeters", 100), ("years", "months", 12))  # fmt: skip


def numbers(rng: random.Random) -> Iterator[Pair]:
    """Kind K: numbers and quantities as written."""
    value = rng.randrange(1000, 10**9)
    spaced = f"{value:,}".replace(",", rng.choice([" ", "~", "\\,", "\\ ", "{,}"]))
    yield Pair("numbers", str(value), spaced, True)
    yield Pair("numbers", spaced, str(value + 10 ** rng.randrange(3)), False)
    digits, power = f"{rng.randrange(1, 10)}.{rng.randrange(10, 99)}", rng.randrange(10, 30)
    shown = f"{digits} \\times 10^{{{power}}}"
    yield Pair("numbers", shown, f"{digits} x 10^{power}", True)
    yield Pair("numbers", shown, f"{digits}e{power}", True)
    yield Pair("numbers", shown, f"{digits} x 10^{power - 1}", False)
    large_unit, small_unit, size = rng.choice(UNITS)
    whole, rest = rng.randrange(1, 20), rng.randrange(1, size)
    written = f"{whole} \\text{{ {large_unit} }} {rest} \\text{{ {small_unit}}}"
    yield Pair("numbers", written, f"{whole} {large_unit} {rest} {small_unit}", True)
    yield Pair("numbers", written, f"{whole * size + rest} \\text{{ {small_unit}}}", True)
    yield Pair("numbers", written, f"{whole * size + rest + 1} \\text{{ {small_unit}}}", False)
    yield Pair(
        "numbers",
        written,
        f"{whole} {large_unit} {rest % (size - 1) + 1 + (rest == rest % (size - 1) + 1)} {small_unit}",
        False,
    )
    yield Pair(
        "numbers",
        written,
        f"{whole}.{rest:02d} {large_unit}",
        size == 100 or rest / size == float(f".{rest:02d}"),
    )


def named(rng: random.Random) -> Iterator[Pair]:
    """Quantities with names, identities, both signs, texts that stand there."""
    v, w, a = rng.randrange(1, 99), rng.randrange(1, 99), rng.randrange(2, 20)
    w += v == w
    left = rng.choice(
        [
            "|PQ|",
            f"f({a})",
            "\\cos A",
            "\\frac{AB}{CD}",
            "P(A)",
            "|\\vec{a}|",
            "\\angle ABC",
            "S_{\\triangle ABC}",
        ]
    )
    yield Pair("named", f"{left}={frac(v, 100)}", frac(v, 100), True, one_way=True)
    yield Pair("named", f"{left}={frac(v, 100)}", frac(w, 100), False)
    yield Pair("named", f"{left} = {v}", f"{left}={v}.0", True)
    yield Pair("named", f"{left} = {v}", f"{left}={w}", False)
    yield Pair("named", f"{v}", f"x+y={v}", False)
    yield Pair("named", f"(x+{a})^2=x^2+{2 * a}x+{a * a}", f"x^2+{2 * a}x+{a * a}=(x+{a})^2", True)
    yield Pair("named", "\\sin^2 x+\\cos^2 x=1", "\\sin^2 x+\\cos^2 x=1", True)
    yield Pair("named", "\\sin^2 x+\\cos^2 x=1", f"\\sin^2 x+{a}\\cos^2 x=1", False)
    both = frac(f"{v} \\pm \\sqrt{{{a}}}", w)
    yield Pair("named", both, both, True)
    alternatives = ", ".join(frac(f"{v}{sign}\\sqrt{{{a}}}", w) for sign in "-+")
    yield Pair("named", both, alternatives, True)
    yield Pair("named", both, frac(f"{v}+\\sqrt{{{a}}}", w), False)


def texts(rng: random.Random) -> Iterator[Pair]:
    """Golds that cannot be read, answered by their very text, space aside; a near miss may be undecided."""
    v, w = rng.sample(range(1, 99), 2)
    conic = f"{frac('x^2', v)}+{frac('y^2', w)}=1"
    yield Pair("texts", f"x={v} 是方程的根", f"x = {v} 是方程的根", True)
    yield Pair("texts", f"x={v} 是方程的根", f"x = {w} 是方程的根", False)
    yield Pair("texts", f"{conic} (x>0)", f"{conic}(x > 0)", True)
    yield Pair("texts", f"{conic} (x>0)", f"{conic}(x<0)", False)


def values(rng: random.Random) -> Iterator[Pair]:
    """Ordinary values and expressions, rewritten by identities."""
    a, b, c, n = (rng.randrange(2, 12) for _ in range(4))
    x = rng.choice("xyzt")
    yield Pair("values", f"({x}+{a})({x}-{b})", f"{x}^2+({a - b}){x}-{a * b}", True)
    yield Pair("values", f"({x}+{a})({x}-{b})", f"{x}^2+({a - b}){x}-{a * b + 1}", False)
    yield Pair("values", frac(a, b), frac(-a * c, -b * c), True)
    yield Pair("values", frac(a, b), frac(a * c + 1, b * c), False)
    yield Pair("values", f"\\sqrt{{{a * a * b}}}", f"{a}\\sqrt{b}" if b < 10 else f"{a}\\sqrt{{{b}}}", True)
    yield Pair("values", f"\\sqrt{{{a * a * b}}}", f"{a + 1}\\sqrt{{{b}}}", False)
    yield Pair("values", f"\\sqrt{{{a + b}+2\\sqrt{{{a * b}}}}}", f"\\sqrt{{{a}}}+\\sqrt{{{b}}}", True)
    yield Pair("values", f"\\sqrt{{{a + b}+2\\sqrt{{{a * b}}}}}", f"\\sqrt{{{a}}}+\\sqrt{{{b + 1}}}", False)
    yield Pair("values", f"\\ln {a**n}", f"{n}\\ln {a}", True)
    yield Pair("values", f"\\ln {a**n}", f"{n + 1}\\ln {a}", False)
    yield Pair("values", f"\\sin {2 * a}{x}", f"2\\sin {a}{x}\\cos {a}{x}", True)
    yield Pair("values", f"\\sin {2 * a}{x}", f"2\\sin {a}{x}\\cos {a + 1}{x}", False)
    yield Pair("values", f"{frac(1, x)}-{frac(1, f'{x}+{a}')}", frac(a, f"{x}({x}+{a})"), True)
    yield Pair("values", f"{frac(1, x)}-{frac(1, f'{x}+{a}')}", frac(a, f"{x}({x}-{a})"), False)
    yield Pair("values", f"(n+{a})!", f"(n+{a})(n+{a - 1})!", True)
    yield Pair("values", f"(n+{a})!", f"(n+{a - 1})(n+{a - 1})!", False)
    yield Pair("values", f"{a}^{{{x}+{n}}}", f"{a**n}\\cdot {a}^{x}", True)
    yield Pair("values", f"{a}^{{{x}+{n}}}", f"{a**n + 1}\\cdot {a}^{x}", False)


KINDS: dict[str, Callable[[random.Random], Iterator[Pair]]] = {
    "large": large, "pieces": pieces, "domains": domains, "upright": upright, "sets": sets,
    "objects": objects, "numbers": numbers, "named": named, "texts": texts, "values": values,
}  # fmt: skip


def pairs(seed: int, rounds: int) -> list[Pair]:
    """Pairs of every kind, without repetitions: ``rounds`` calls of each generator."""
    rng = random.Random(seed)
    return list(dict.fromkeys(pair for kind in KINDS.values() for _ in range(rounds) for pair in kind(rng)))
