"""The miniature's reasoning tasks: problems drawn by chance, two languages, worked solutions, exact checks.

Five arithmetic tasks (all intermediate values in 0..99, so that single facts can be learned by a model of a
million parameters while a whole problem cannot be memorised) and one programming task whose answers are real
Python programs, really executed. A problem is held out by a hash of its parameters, in both languages at
once: nothing evaluated was ever seen in a corpus, SFT or RL."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from r1kit.config import R1kitError
from r1kit.sandbox import run_programs
from r1kit.tasks.miniature.worked_solutions import LANGUAGES, Worked
from r1kit.tasks.task import is_held_out, single_answer, vote_key
from r1kit.types import Problem, Verdict

Parameters = tuple[int | str, ...]
Slip = Callable[
    [int], int
]  # what a step's result becomes when written down; the identity except for the corpus's noise
LIMIT = 99


class Kind(Protocol):
    """One kind of problem: how it is drawn, asked and solved; ``identity`` is what makes it the same problem
    (7*8+9 is 8*7+9)."""

    name: str

    def draw(self, rng: random.Random) -> Parameters: ...

    def identity(self, parameters: Parameters) -> Parameters: ...

    def ask(self, parameters: Parameters, language: str) -> str: ...

    def solve(self, parameters: Parameters, slip: Slip) -> Worked: ...


def exact(value: int) -> int:
    """The slip that never slips."""
    return value


class Chain:
    """12+35-8: three to five terms, solved from left to right."""

    name = "chain"

    def draw(self, rng: random.Random) -> Parameters:
        total = rng.randint(1, 60)
        terms: list[int] = [total]
        for _ in range(rng.choice((2, 2, 3, 3, 4))):
            low, high = max(-total, -50), min(LIMIT - total, 50)
            term = 0
            while term == 0:
                term = rng.randint(low, high)
            terms.append(term)
            total += term
        return tuple(terms)

    def identity(self, parameters: Parameters) -> Parameters:
        return parameters

    def ask(self, parameters: Parameters, language: str) -> str:
        expression = str(parameters[0]) + "".join(f"{int(t):+d}" for t in parameters[1:])
        return f"Compute {expression}." if language == "en" else f"计算{expression}。"

    def solve(self, parameters: Parameters, slip: Slip) -> Worked:
        total, steps, check = int(parameters[0]), [], ""
        for term in map(int, parameters[1:]):
            result = slip(total + term)
            steps.append(f"{total}{term:+d}={result}")
            check = f"{result}{-term:+d}={total}"
            total = result
        return Worked(tuple(steps), str(total), check)


class Multiply:
    """7*8+9 and 7*8-9."""

    name = "mul"

    def draw(self, rng: random.Random) -> Parameters:
        a = rng.randint(2, 12)
        b = rng.randint(2, min(12, LIMIT // a))
        c = 0
        while c == 0:
            c = rng.randint(max(-a * b, -50), min(LIMIT - a * b, 50))
        return a, b, c

    def identity(self, parameters: Parameters) -> Parameters:
        return (*sorted(map(int, parameters[:2])), parameters[2])

    def ask(self, parameters: Parameters, language: str) -> str:
        a, b, c = map(int, parameters)
        return f"Compute {a}*{b}{c:+d}." if language == "en" else f"计算{a}*{b}{c:+d}。"

    def solve(self, parameters: Parameters, slip: Slip) -> Worked:
        a, b, c = map(int, parameters)
        product = slip(a * b)
        total = slip(product + c)
        return Worked(
            (f"{a}*{b}={product}", f"{product}{c:+d}={total}"), str(total), f"{total}{-c:+d}={product}"
        )


class Equation:
    """5*x+7=3*x+15: collect, subtract, divide."""

    name = "eq"

    def draw(self, rng: random.Random) -> Parameters:
        while True:
            a, k, x, b = rng.randint(2, 9), rng.randint(1, 8), rng.randint(1, 12), rng.randint(1, 50)
            e = (a - k) * x + b
            if a > k and e <= LIMIT:
                return a, b, k, e

    def identity(self, parameters: Parameters) -> Parameters:
        return parameters

    def ask(self, parameters: Parameters, language: str) -> str:
        a, b, k, e = parameters
        return f"Solve {a}*x+{b}={k}*x+{e}." if language == "en" else f"解方程{a}*x+{b}={k}*x+{e}。"

    def solve(self, parameters: Parameters, slip: Slip) -> Worked:
        a, b, k, e = map(int, parameters)
        factor, rest = slip(a - k), slip(e - b)
        root = slip(rest // max(factor, 1))
        return Worked(
            (f"{a}-{k}={factor}", f"{e}-{b}={rest}", f"{rest}/{factor}={root}"),
            str(root),
            f"{factor}*{root}={rest}",
        )


class Modulo:
    """(45+38) mod 7: sum, quotient, product, remainder."""

    name = "mod"

    def draw(self, rng: random.Random) -> Parameters:
        a = rng.randint(5, 80)
        return a, rng.randint(5, LIMIT - a) if a < LIMIT - 5 else 5, rng.randint(3, 9)

    def identity(self, parameters: Parameters) -> Parameters:
        return (*sorted(map(int, parameters[:2])), parameters[2])

    def ask(self, parameters: Parameters, language: str) -> str:
        a, b, m = parameters
        return f"What remains of {a}+{b} divided by {m}?" if language == "en" else f"{a}+{b}除以{m}余几？"

    def solve(self, parameters: Parameters, slip: Slip) -> Worked:
        a, b, m = map(int, parameters)
        total = slip(a + b)
        quotient = slip(total // m)
        product = slip(m * quotient)
        rest = slip(total - product)
        steps = (
            f"{a}+{b}={total}",
            f"{total}/{m}={quotient}",
            f"{m}*{quotient}={product}",
            f"{total}-{product}={rest}",
        )
        return Worked(steps, str(rest), f"{product}+{rest}={total}")


_PEOPLE = {
    "en": ("Tom", "Ann", "Bob", "Eva", "Max", "Lea"),
    "zh": ("小明", "小红", "小华", "小李", "小王", "小张"),
}
_THINGS = {
    "en": ("apples", "books", "pens", "cups", "coins", "cards"),
    "zh": ("苹果", "书", "笔", "杯子", "硬币", "卡片"),
}


class Story:
    """Has a things, gets b bags of c, gives d away; then shares the rest with e, or not."""

    name = "word"

    def draw(self, rng: random.Random) -> Parameters:
        while True:
            a, b, c = rng.randint(2, 40), rng.randint(2, 9), rng.randint(2, 9)
            total = a + b * c
            if total > LIMIT:
                continue
            d = rng.randint(1, total - 1)
            shares = [e for e in range(2, 10) if (total - d) % e == 0 and total - d >= e]
            e = rng.choice(shares) if shares and rng.random() < 0.4 else 1
            return a, b, c, d, e, rng.randrange(6), rng.randrange(6)

    def identity(self, parameters: Parameters) -> Parameters:
        return parameters[:5]

    def ask(self, parameters: Parameters, language: str) -> str:
        a, b, c, d, e, who, what = map(int, parameters)
        name, things = _PEOPLE[language][who], _THINGS[language][what]
        if language == "en":
            share = f" The rest is shared by {e}. How many for each?" if e > 1 else " How many are left?"
            return f"{name} has {a} {things}, buys {b} bags of {c} and gives {d} away.{share}"
        share = f"剩下的{e}人平分。每人几个？" if e > 1 else "还剩几个？"
        return f"{name}有{a}个{things}，又买了{b}袋，每袋{c}个，送出{d}个。{share}"

    def solve(self, parameters: Parameters, slip: Slip) -> Worked:
        a, b, c, d, e = map(int, parameters[:5])
        bought = slip(b * c)
        total = slip(a + bought)
        left = slip(total - d)
        steps = [f"{b}*{c}={bought}", f"{a}+{bought}={total}", f"{total}-{d}={left}"]
        if e == 1:
            return Worked(tuple(steps), str(left), f"{left}+{d}={total}")
        each = slip(left // e)
        return Worked((*steps, f"{left}/{e}={each}"), str(each), f"{e}*{each}={left}")


class Program:
    """Find f from f(1), f(2), f(3) and write it in Python: f is k*x+b or k*x*x+b."""

    name = "code"
    probes = (0, 4, 5, 7, 11)  # the hidden tests: inputs that the prompt does not show

    def draw(self, rng: random.Random) -> Parameters:
        if rng.random() < 0.6:
            k = rng.randint(1, 20)
            return 1, k, rng.randint(0, LIMIT - 3 * k)
        k = rng.randint(1, 7)
        return 2, k, rng.randint(0, LIMIT - 9 * k)

    def value(self, parameters: Parameters, x: int) -> int:
        degree, k, b = map(int, parameters)
        return k * x * (x if degree == 2 else 1) + b

    def identity(self, parameters: Parameters) -> Parameters:
        return parameters

    def ask(self, parameters: Parameters, language: str) -> str:
        one, two, three = (self.value(parameters, x) for x in (1, 2, 3))
        facts = f"f(1)={one},f(2)={two},f(3)={three}"
        return f"Write a program for {facts}." if language == "en" else f"写程序：{facts}。"

    def solve(self, parameters: Parameters, slip: Slip) -> Worked:
        one, two, three = (self.value(parameters, x) for x in (1, 2, 3))
        low, high = slip(two - one), slip(three - two)
        bend = slip(high - low)  # 0 where f is a line, twice the factor where it is a parabola
        steps = [f"{two}-{one}={low}", f"{three}-{two}={high}", f"{high}-{low}={bend}"]
        factor, power = low, "x"
        if int(parameters[0]) == 2:
            factor, power = slip(bend // 2), "x*x"
            steps.append(f"{bend}/2={factor}")
        constant = slip(one - factor)
        steps.append(f"{one}-{factor}={constant}")
        program = f"def f(x):return {factor}*{power}+{constant}"
        return Worked(tuple(steps), program, f"{factor}+{constant}={one}")


KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Chain(), Multiply(), Equation(), Modulo(), Story(), Program())
}

_NUMBER = re.compile(r"-?\d{1,6}")


@dataclass
class Procedural:
    """A task over one kind: ``train`` and ``held_out`` problems, half English, half Chinese, unique, in a
    fixed order.

    ``size`` bounds the train split; the held-out split is an eighth of it. A numeric answer must be the
    number alone or one box with it."""

    name: str
    size: int = 6000

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    def problems(self, split: str) -> Sequence[Problem]:
        if split not in ("train", "held_out"):
            raise R1kitError(f"task {self.name}: no split {split!r}; it has train and held_out")
        return _draw_split(self.name, self.size, split == "held_out")

    def vote_key(self, answer: str) -> str | None:
        """Numbers that are equal vote together, however they are written; programs by their text."""
        said = single_answer(answer)
        return (
            str(int(said))
            if said is not None and self.name != "code" and _NUMBER.fullmatch(said)
            else vote_key(answer)
        )

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return self.check_batch([problem], [answer])[0]

    def check_batch(self, problems: Sequence[Problem], answers: Sequence[str | None]) -> list[Verdict]:
        """Judge many answers; programs run together in the sandbox, where the expected values never go."""
        if self.name == "code":
            return _check_programs(problems, answers)
        return [_check_number(problem, answer) for problem, answer in zip(problems, answers, strict=True)]


@lru_cache(maxsize=64)
def _draw_split(name: str, size: int, held_out: bool) -> tuple[Problem, ...]:
    """The problems of a split. All stages use the same ones, and kinds that run out of problems take long
    to draw."""
    kind, rng = KINDS[name], random.Random(f"{name}/{'held_out' if held_out else 'train'}")
    wanted = max(1, size // 8) if held_out else size
    seen: set[tuple[Parameters, str]] = set()
    found: list[Problem] = []
    for _ in range(40 * size):  # small kinds run out of problems before `wanted`
        drawn = kind.draw(rng), rng.choice(LANGUAGES)
        if drawn not in seen and is_held_out(name, *kind.identity(drawn[0])) == held_out:
            found.append(make_problem(kind, *drawn))
        if len(found) == wanted:
            break
        seen.add(drawn)
    return tuple(found)


def make_problem(kind: Kind, parameters: Parameters, language: str) -> Problem:
    work = kind.solve(parameters, exact)
    key = ",".join(map(str, parameters))
    return Problem(
        id=f"{kind.name}/{key}/{language}",
        task=kind.name,
        prompt=kind.ask(parameters, language),
        answer=work.answer,
        language=language,
        difficulty=float(len(work.steps)),
        columns={"parameters": parameters},
    )


def _check_number(problem: Problem, answer: str | None) -> Verdict:
    if answer is None:
        return Verdict("wrong", "the template was not followed")
    said = single_answer(answer)
    if said is None or not _NUMBER.fullmatch(said):
        return Verdict("wrong", "the answer is not one number")
    return Verdict("correct") if int(said) == int(str(problem.answer)) else Verdict("wrong", "another number")


def _check_programs(problems: Sequence[Problem], answers: Sequence[str | None]) -> list[Verdict]:
    verdicts: list[Verdict] = [Verdict("wrong", "the template was not followed")] * len(problems)
    jobs: dict[tuple[str, str], list[int]] = {}
    for index, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
        said = None if answer is None else single_answer(answer)
        if said is None:
            continue
        jobs.setdefault((problem.id, said), []).append(index)
    if jobs:
        kind = KINDS["code"]
        assert isinstance(kind, Program)
        batch = []
        for (_, program), places in jobs.items():
            parameters = problems[places[0]].columns["parameters"]
            batch.append(
                (program, [{"args": [x], "expected": kind.value(parameters, x)} for x in kind.probes])
            )
        for places, verdict in zip(
            jobs.values(),
            run_programs(batch, kind="function", entry_point="f", time_limit_s=2.0),
            strict=True,
        ):
            for index in places:
                verdicts[index] = verdict
    return verdicts
