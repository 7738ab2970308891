"""Countdown: reach a target with given numbers, each used exactly once, by + - * / and parentheses.

The problem of TinyZero (https://github.com/Jiayi-Pan/TinyZero), with the columns of its data set: ``nums``, a
list of whole numbers, and ``target``. Problems come from such a file, or are drawn from a seed. An answer is
computed exactly, as a fraction: nothing is evaluated as a program, and nothing is rounded."""

import ast
import functools
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from r1kit.config import ConfigError, InputError, R1kitError
from r1kit.jsonl import read_jsonl
from r1kit.tasks.task import is_held_out, single_answer
from r1kit.types import Problem, Verdict

QUESTION = (
    "Use each of the numbers {numbers} exactly once, with + - * / and parentheses, to make {target}. "
    "Answer with the expression only."
)
LONGEST_ANSWER = 200  # characters; an expression with every number once is far shorter
TRIES = 8  # attempts of a written response, unless the task says so
LARGEST_STEP = 200  # worked solutions try no product above this
OPERATORS = "+-*/"
REFUSED = "only whole numbers, + - * / and parentheses are allowed"

_ALLOWED = re.compile(r"[\d+\-*/()\s]*", re.ASCII)  # 0x1F and 1_0 are whole numbers for Python too
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-"})
Numbers = tuple[int, ...]


class Countdown:
    """``train`` and ``held_out`` are JSON Lines files with the columns ``nums`` and ``target``; without
    ``held_out`` an eighth of ``train`` is held out, by a hash of the numbers and the target. Without
    ``train``, ``size`` problems are drawn from ``seed``: of ``count`` numbers from 1 to ``largest``, with a
    target in ``targets`` that can be reached.

    ``question`` is the prompt, with {numbers} and {target}. With ``tries``, problems carry a worked solution
    (column ``solution``) of at most so many attempts, for a base model that is trained from random
    weights."""

    def __init__(
        self, name: str, train: str | None = None, held_out: str | None = None, count: int = 3,
        largest: int = 99, targets: Sequence[int] = (10, 100), size: int = 20_000, seed: int = 0,
        question: str = QUESTION, tries: int = 0,
    ) -> None:  # fmt: skip
        _check_options(name, count, largest, targets, size, question)
        self.name, self.train, self.held_out = name, train, held_out
        self.count, self.largest, self.targets = count, largest, (int(targets[0]), int(targets[1]))
        self.size, self.seed, self.question, self.tries = size, seed, question, tries
        if held_out is not None and train is None:
            raise ConfigError(f"tasks.{name}: held_out without train: name both files, or neither")

    def input_errors(self) -> Iterator[InputError]:
        """What is wrong with the files, as their first row shows."""
        for key, file in (("train", self.train), ("held_out", self.held_out)):
            if file is not None:
                try:
                    next(_rows(file), None)
                except R1kitError as error:
                    yield (key,), str(error)

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split, "train" or "held_out"; the same on every call."""
        return self._splits[split == "held_out"]

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """Judge an expression: it has to use the problem's numbers, each once, and to equal the target."""
        if answer is None:
            return Verdict("wrong", "no answer")
        text = single_answer(answer)
        if text is None:
            return Verdict("wrong", "several boxes")
        try:
            used, value = evaluate(text)
        except ValueError as error:
            return Verdict("wrong", str(error))
        numbers, target = problem.columns["nums"], problem.columns["target"]
        if Counter(used) != Counter(numbers):
            return Verdict("wrong", f"uses {sorted(used)}, not each of {sorted(numbers)} once")
        return Verdict("correct") if value == target else Verdict("wrong", f"equals {value}, not {target}")

    def write_responses(self, count: int, rng: random.Random) -> list[tuple[Problem, str]]:
        """``count`` training problems with a worked response each; fewer where there are fewer."""
        problems = self.problems("train")
        found: list[tuple[Problem, str]] = []
        for problem in rng.sample(problems, len(problems)):
            if len(found) == count:
                break
            thinking, answer = search(
                problem.columns["nums"], problem.columns["target"], rng, self.tries or TRIES
            )
            if answer:
                found.append((problem, f"<think>{thinking}</think><answer>{answer}</answer>"))
        return found

    @functools.cached_property
    def _splits(self) -> tuple[list[Problem], list[Problem]]:
        if self.train is None:
            source = f"{self.name}/{self.seed}"
            named = [(source, place, nums, goal) for place, (nums, goal) in enumerate(self._drawn())]
        else:
            named = _named(self.train)
        problems = [self._problem(f"{file}/{place}", nums, goal) for file, place, nums, goal in named]
        if self.held_out is not None:
            measured = [
                self._problem(f"{file}/{place}", nums, goal)
                for file, place, nums, goal in _named(self.held_out)
            ]
            keys = {_key(problem) for problem in measured}
            return [problem for problem in problems if _key(problem) not in keys], measured
        parts: tuple[list[Problem], list[Problem]] = ([], [])
        for problem in problems:
            parts[is_held_out("countdown", *_key(problem))].append(problem)
        return parts

    def _drawn(self) -> Iterator[tuple[Numbers, int]]:
        rng = random.Random(f"countdown/{self.seed}/{self.count}/{self.largest}")
        seen: set[tuple[Numbers, int]] = set()
        for _ in range(200 * self.size):
            if len(seen) == self.size:
                return
            numbers = tuple(rng.randint(1, self.largest) for _ in range(self.count))
            target = _reach(numbers, rng)
            key = tuple(sorted(numbers)), int(target or 0)
            if target is not None and self.targets[0] <= target <= self.targets[1] and key not in seen:
                seen.add(key)
                yield numbers, int(target)
        raise ConfigError(
            f"tasks.{self.name}: there are fewer than {self.size} different problems with these options; "
            f"lower size (to {len(seen)}) or raise largest"
        )

    def _problem(self, name: str, numbers: Numbers, target: int) -> Problem:
        asked = self.question.format(numbers=", ".join(map(str, numbers)), target=target)
        columns: dict[str, Any] = {"nums": numbers, "target": target}
        answer = ""
        if self.tries:
            rng = random.Random(f"{self.seed}/{numbers}/{target}")
            columns["solution"], answer = search(numbers, target, rng, self.tries)
        return Problem(
            name, self.name, asked, answer or None, difficulty=float(len(numbers)), columns=columns
        )


def evaluate(text: str) -> tuple[list[int], Fraction]:
    """The numbers that an expression uses, in order, and its exact value. Raises ValueError with the reason
    for anything but whole numbers, + - * / and parentheses, and for a division by zero."""
    if len(text) > LONGEST_ANSWER:
        raise ValueError(f"longer than {LONGEST_ANSWER} characters")
    written = text.translate(_SIGNS).strip()
    try:
        tree = ast.parse(written, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("not an expression") from None
    if not _ALLOWED.fullmatch(written):
        raise ValueError(REFUSED)
    used: list[int] = []
    try:
        return used, _value(tree.body, used)
    except ZeroDivisionError:
        raise ValueError("divides by zero") from None


def _value(node: ast.expr, used: list[int]) -> Fraction:
    """The value of a node; the numbers in it are added to ``used``."""
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            used.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, used)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _value(inner, used)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, used) + _value(right, used)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, used) - _value(right, used)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, used) * _value(right, used)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left, used) / _value(right, used)
    raise ValueError(REFUSED)


def search(numbers: Sequence[int], target: int, rng: random.Random, tries: int) -> tuple[str, str]:
    """A worked search and the expression it ends with, which is empty where ``tries`` attempts find nothing.

    Sums and differences are tried first, in a chance order, then products and exact quotients: "31+8=39,
    39-5=34 no; 31-8=23, 23+5=28 yes"."""
    attempts = list(_attempts(tuple(numbers)))
    rng.shuffle(attempts)
    attempts.sort(
        key=lambda attempt: sum(sign in "*/" for sign in attempt[2])
    )  # stable: chance within a kind
    right = next((place for place, attempt in enumerate(attempts) if attempt[1] == target), None)
    if right is None:
        return "", ""
    # A solution that stands far behind is moved forward: the tries before it are a chance selection.
    shown = attempts[:right]
    if len(shown) >= tries:
        shown = [shown[place] for place in sorted(rng.sample(range(len(shown)), rng.randrange(tries)))]
    lines = [f"{steps} no" for steps, _, _, _ in shown] + [f"{attempts[right][0]} yes"]
    return "; ".join(lines), attempts[right][3]


def _attempts(numbers: Numbers) -> Iterator[tuple[str, int, str, str]]:
    """Every way to combine the numbers two at a time with whole, positive and not too large results: the
    steps as text, the result, the operators, the expression."""
    seen: set[str] = set()

    def combine(
        terms: tuple[tuple[int, str], ...], steps: str, signs: str
    ) -> Iterator[tuple[str, int, str, str]]:
        if len(terms) == 1:
            value, expression = terms[0]
            if expression not in seen:
                seen.add(expression)
                yield steps, value, signs, expression.removeprefix("(").removesuffix(")")
            return
        for i, j in itertools.permutations(range(len(terms)), 2):
            (a, left), (b, right) = terms[i], terms[j]
            rest = tuple(term for place, term in enumerate(terms) if place not in (i, j))
            for sign in OPERATORS:
                result = _step(a, sign, b)
                if result is None or (sign in "+*" and i > j):
                    continue
                step = f"{steps}{', ' if steps else ''}{a}{sign}{b}={result}"
                yield from combine(((result, f"({left}{sign}{right})"), *rest), step, signs + sign)

    yield from combine(tuple((number, str(number)) for number in numbers), "", "")


def _step(a: int, sign: str, b: int) -> int | None:
    """The result of one step of a worked solution; None for one that it does not try."""
    if sign == "+":
        return a + b
    if sign == "-":
        return a - b if a > b else None
    if sign == "*":
        return a * b if min(a, b) > 1 and a * b <= LARGEST_STEP else None
    return a // b if b > 1 and a % b == 0 else None


def _reach(numbers: Numbers, rng: random.Random) -> int | None:
    """The result of combining the numbers by chance; None where a step gives no whole number from 1 on."""
    terms: list[Fraction] = [Fraction(number) for number in numbers]
    while len(terms) > 1:
        a, b = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
        sign = rng.choice(OPERATORS)
        value = a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b
        if value < 1 or value.denominator != 1:
            return None
        terms.append(value)
    return int(terms[0])


def _key(problem: Problem) -> tuple[object, ...]:
    return (*sorted(problem.columns["nums"]), problem.columns["target"])


def _named(file: str) -> list[tuple[str, int, Numbers, int]]:
    return [(Path(file).name, place, numbers, target) for place, (numbers, target) in enumerate(_rows(file))]


def _rows(file: str) -> Iterator[tuple[Numbers, int]]:
    """The problems of a file. Raises R1kitError naming file, line and column."""
    for number, row in read_jsonl(Path(file).expanduser()):
        yield _numbers(file, number, row), _whole(file, number, row, "target")


def _numbers(file: str, number: int, row: Mapping[str, Any]) -> Numbers:
    given = row.get("nums")
    if not isinstance(given, list) or len(given) < 2 or not all(_is_whole(one) for one in given):
        raise R1kitError(
            f"{file}:{number}: column nums must be a list of whole numbers (given: {given!r:.60})"
        )
    return tuple(given)


def _whole(file: str, number: int, row: Mapping[str, Any], column: str) -> int:
    given = row.get(column)
    if not _is_whole(given):
        raise R1kitError(f"{file}:{number}: column {column} must be a whole number (given: {given!r:.60})")
    return int(given)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_options(
    name: str, count: int, largest: int, targets: Sequence[int], size: int, question: str
) -> None:
    """Raise ConfigError for an option that no problem can satisfy."""
    for key, value, least in (("count", count, 2), ("largest", largest, 2), ("size", size, 1)):
        if not _is_whole(value) or value < least:
            raise ConfigError(
                f"tasks.{name}: {key} must be a whole number from {least} up (given: {value!r})"
            )
    if len(targets) != 2 or not all(_is_whole(one) for one in targets) or not 1 <= targets[0] <= targets[1]:
        raise ConfigError(
            f"tasks.{name}: targets must be the least and the greatest, as [10, 100] (given: {targets!r})"
        )
    try:
        asked = question.format(numbers="1, 2", target=3)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"tasks.{name}: question has other fields than {{numbers}} and {{target}}: {error}"
        ) from None
    if "1, 2" not in asked or "3" not in asked:
        raise ConfigError(f"tasks.{name}: question must contain {{numbers}} and {{target}}")
