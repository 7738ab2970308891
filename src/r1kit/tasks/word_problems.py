"""Word problems of one or two steps in plain English, drawn from a seed: for a pretrained model that reads
English and calculates badly, such as one of 135 million parameters.

A problem is a form (one or two steps of arithmetic), numbers, and a story that asks for it. It is held out
by a hash of form and numbers. Names, things, the story and the order of the numbers do not count, so no
problem of one side is a problem of the other side in other words."""

import functools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from r1kit.config import ConfigError
from r1kit.tasks.task import is_held_out, single_answer
from r1kit.types import Problem, Verdict

LARGEST = (4, 1_000)  # what ``largest`` may be
SIZES = (1, 100_000)  # names and things alone make more stories
LARGEST_FACTOR = 12  # of products, whatever ``largest`` says: a multiplication table

Step = tuple[int, str, int, int]  # 3 + 4 = 7


@dataclass(frozen=True, slots=True)
class Form:
    """Steps of arithmetic on the numbers of a story; the first two numbers are factors where ``product``."""

    name: str
    steps: Callable[..., tuple[Step, ...]]
    stories: tuple[str, ...]
    product: bool = False

    @property
    def count(self) -> int:
        """How many numbers a story has."""
        return 3 if "c" in self.name else 2

    @property
    def count_steps(self) -> int:
        return sum(sign in "+-*" for sign in self.name)


def _then(first: Step, sign: str, number: int) -> tuple[Step, Step]:
    """A first step, and a second one that goes on from its result."""
    return first, _step(first[3], sign, number)


def _step(a: int, sign: str, b: int) -> Step:
    return a, sign, b, a + b if sign == "+" else a - b if sign == "-" else a * b


FORMS = (
    Form(
        "a+b",
        lambda a, b: (_step(a, "+", b),),
        (
            "{name} has {a} {things}. {other} gives {him} {b} more. How many {things} does {name} have now?",
            "There are {a} {things} in a basket. {name} puts in {b} more. How many {things} are there?",
        ),
    ),
    Form(
        "a-b",
        lambda a, b: (_step(a, "-", b),),
        (
            "{name} has {a} {things} and gives {b} to {other}. How many {things} does {name} have left?",
            "There are {a} {things} on a table. {name} takes {b} of them. How many {things} are left?",
        ),
    ),
    Form(
        "a*b",
        lambda a, b: (_step(a, "*", b),),
        ("{name} has {a} boxes with {b} {things} in each box. How many {things} does {name} have?",),
        product=True,
    ),
    Form(
        "a+b-c",
        lambda a, b, c: _then(_step(a, "+", b), "-", c),
        (
            "{name} has {a} {things}. {He} finds {b} more and gives {c} to {other}. How many {things} does "
            "{name} have now?",
            "There are {a} {things} in a basket. {name} puts in {b} more. Then {other} takes out {c}. How "
            "many {things} are in the basket?",
            "A shop has {a} {things} in the morning. It gets {b} more and sells {c}. How many {things} does "
            "the shop have in the evening?",
        ),
    ),
    Form(
        "a-b-c",
        lambda a, b, c: _then(_step(a, "-", b), "-", c),
        (
            "{name} has {a} {things}. {He} gives {b} to {other} and loses {c}. How many {things} does {name} "
            "have left?",
            "There are {a} {things} on a table. {name} takes {b} of them and {other} takes {c}. How many "
            "{things} are left?",
        ),
    ),
    Form(
        "a+b+c",
        lambda a, b, c: _then(_step(a, "+", b), "+", c),
        (
            "{name} has {a} {things}, {other} has {b}, and their friend has {c}. How many {things} do the "
            "three have together?",
            "{name} collects {a} {things} on Monday, {b} on Tuesday and {c} on Friday. How many {things} is "
            "that in all?",
        ),
    ),
    Form(
        "a*b+c",
        lambda a, b, c: _then(_step(a, "*", b), "+", c),
        (
            "{name} has {a} boxes with {b} {things} in each box, and {c} more {things} in a bag. How many "
            "{things} does {name} have in all?",
            "{name} buys {a} packs of {b} {things}. {other} gives {him} {c} more. How many {things} does "
            "{name} have?",
        ),
        product=True,
    ),
    Form(
        "a*b-c",
        lambda a, b, c: _then(_step(a, "*", b), "-", c),
        (
            "{name} buys {a} packs of {b} {things} and gives {c} {things} to {other}. How many {things} does "
            "{name} have left?",
            "There are {a} shelves with {b} {things} on each. {name} sells {c} of the {things}. How many "
            "{things} are left?",
        ),
        product=True,
    ),
    Form(
        "a+(a+b)",
        lambda a, b: (_step(a, "+", b), _step(a, "+", a + b)),
        (
            "{name} has {a} {things}. {other} has {b} {things} more than {name}. How many {things} do they "
            "have together?",
        ),
    ),
    Form(
        "a+(a-b)",
        lambda a, b: (_step(a, "-", b), _step(a, "+", a - b)),
        (
            "{name} has {a} {things}. {other} has {b} {things} fewer than {name}. How many {things} do they "
            "have together?",
        ),
    ),
)
HIS, HERS = ("He", "him"), ("She", "her")
NAMES = {
    **dict.fromkeys(("Adam", "Carlos", "Emil", "Hugo", "Ivan", "Kofi", "Liam", "Omar", "Ravi", "Tom"), HIS),
    **dict.fromkeys(("Anna", "Bea", "Chloe", "Dina", "Emma", "Lena", "Maria", "Nora", "Sara", "Yuki"), HERS),
}
THINGS = (
    "apples", "balls", "beads", "books", "buttons", "cards", "coins", "cookies", "eggs", "flowers", "keys",
    "lemons", "marbles", "oranges", "pears", "pencils", "pens", "plates", "shells", "stamps", "stickers",
    "stones", "toys",
)  # fmt: skip

_NUMBER = re.compile(r"(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?:\s+([a-z]+))?\.?", re.IGNORECASE | re.ASCII)


class WordProblems:
    """``size`` problems drawn from ``seed``, each of a number of ``steps`` by chance, with whole numbers from
    2 to ``largest`` and results from 1 up; about an eighth of them is held out. Their difficulty is the
    number of steps; column ``solution`` is the calculation."""

    def __init__(
        self, name: str, largest: int = 20, steps: Sequence[int] = (1, 2), size: int = 4_000, seed: int = 0
    ) -> None:
        for key, value, (least, most) in (("largest", largest, LARGEST), ("size", size, SIZES)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(
                    f"tasks.{name}: {key} must be a whole number from {least} to {most} (given: {value!r})"
                )
        if not steps or not set(steps) <= {1, 2}:
            raise ConfigError(f"tasks.{name}: steps must be [1], [2] or [1, 2] (given: {steps!r})")
        self.steps = sorted(set(steps))
        self.name, self.largest, self.size, self.seed = name, largest, size, seed

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split, "train" or "held_out"; the same on every call."""
        return self._splits[split == "held_out"]

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """Judge an answer: the number alone, or with the name of the things after it ("12 apples")."""
        said = None if answer is None else single_answer(answer)
        if said is None:
            return Verdict("wrong", "no answer" if answer is None else "several boxes")
        found = _NUMBER.fullmatch(said)
        if found is None:
            return Verdict("wrong", "not one number")
        things = problem.columns["things"]
        if found[2] is not None and found[2].lower() not in (things, things.removesuffix("s")):
            return Verdict("wrong", f"{found[2]}, not {things}")
        value = Fraction(found[1].replace(",", ""))
        if value == Fraction(str(problem.answer)):
            return Verdict("correct")
        return Verdict("wrong", f"{value}, not {problem.answer}")

    @functools.cached_property
    def _splits(self) -> tuple[list[Problem], list[Problem]]:
        parts: tuple[list[Problem], list[Problem]] = ([], [])
        for problem in self._drawn():
            parts[is_held_out("word_problems", *problem.columns["identity"])].append(problem)
        return parts

    def _drawn(self) -> Iterator[Problem]:
        rng = random.Random(f"word_problems/{self.seed}/{self.largest}")
        seen: set[str] = set()
        while len(seen) < self.size:
            wanted = rng.choice(self.steps)
            form = rng.choice([form for form in FORMS if form.count_steps == wanted])
            numbers = _numbers(form, self.largest, rng)
            steps = form.steps(*numbers)
            if min(result for *_, result in steps) < 1:
                continue
            story, things = _story(form, numbers, rng)
            if story not in seen:
                seen.add(story)
                yield self._problem(len(seen) - 1, form, numbers, steps, story, things)

    def _problem(
        self,
        place: int,
        form: Form,
        numbers: Sequence[int],
        steps: tuple[Step, ...],
        story: str,
        things: str,
    ) -> Problem:
        result = steps[-1][3]
        return Problem(
            f"{self.name}/{self.seed}/{place}",
            self.name,
            story,
            str(result),
            difficulty=float(len(steps)),
            columns={
                "identity": (form.name, *sorted(numbers)),
                "result": result,
                "things": things,
                "solution": ", ".join(f"{a} {sign} {b} = {c}" for a, sign, b, c in steps),
            },
        )


def _numbers(form: Form, largest: int, rng: random.Random) -> tuple[int, ...]:
    """Numbers from 2 to ``largest``; factors from 2 to LARGEST_FACTOR at most."""
    most = [
        min(largest, LARGEST_FACTOR) if form.product and place < 2 else largest for place in range(form.count)
    ]
    return tuple(rng.randint(2, one) for one in most)


def _story(form: Form, numbers: Sequence[int], rng: random.Random) -> tuple[str, str]:
    """A story that asks for the form, and the things that are counted in it."""
    name, other = rng.sample(sorted(NAMES), 2)
    things = rng.choice(THINGS)
    he, him = NAMES[name]
    letters = dict(zip("abc", numbers, strict=False))
    story = rng.choice(form.stories).format(name=name, other=other, things=things, He=he, him=him, **letters)
    return story, things
