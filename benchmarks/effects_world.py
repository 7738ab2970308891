"""A world of one kind of problem, for experiments of seconds (benchmarks/data_effects.py): the sum or
difference of three numbers up to 9, in a corpus of problems, single facts and short stories; and five tasks
with answers in words about the same people and things.

A held-out eighth of the problems occurs in no document."""

import random
from collections.abc import Iterator, Sequence

from r1kit.tasks.documents import Layout, write_document
from r1kit.tasks.task import is_held_out, single_answer
from r1kit.tokenizer import ASSISTANT, USER
from r1kit.types import Problem, Verdict

NAME = "sums"
LARGEST = 9
LAYOUT = Layout(direct=0.5, chat_layout=0.7, exact_tags=0.5)
WRONG = 0.15  # of the solved documents: the last step is off by one or two
# In a file special tokens are text (tokenizer.py), so words mark the turns of a chat, as in effects.jinja.
ASKED, ANSWERED = "Question: ", "\nAnswer: "
PEOPLE = ("cook", "farmer", "sailor", "teacher", "baker", "driver", "painter", "doctor")
THINGS = ("apples", "nets", "books", "eggs", "nails", "brushes", "coins", "plates")


def draw(rng: random.Random) -> tuple[int, int, int]:
    """Three numbers whose sums from left to right stay between 0 and 18."""
    while True:
        first, second, third = (rng.randint(-LARGEST, LARGEST) for _ in range(3))
        first = abs(first)
        if second and third and 0 <= first + second <= 18 and 0 <= first + second + third <= 18:
            return first, second, third


def steps(numbers: tuple[int, int, int], slip: int = 0) -> tuple[str, int]:
    """The worked solution, and its answer; ``slip`` is added to the last result."""
    first, second, third = numbers
    half = first + second
    total = half + third + slip
    return f"{first}{second:+d}={half}, {half}{third:+d}={total}", total


def prompt_of(numbers: tuple[int, int, int]) -> str:
    first, second, third = numbers
    return f"Compute {first}{second:+d}{third:+d}."


def problem(numbers: tuple[int, int, int]) -> Problem:
    solution, total = steps(numbers)
    key = ",".join(map(str, numbers))
    return Problem(f"{NAME}/{key}", NAME, prompt_of(numbers), str(total), columns={"solution": solution})


class Sums:
    """The task: problems of a split by a hash of their numbers."""

    name = NAME

    def __init__(self, size: int = 600) -> None:
        self.size = size

    def problems(self, split: str) -> Sequence[Problem]:
        rng = random.Random(f"{NAME}/{split}")
        found: dict[str, Problem] = {}
        while len(found) < (self.size if split == "train" else self.size // 4):
            numbers = draw(rng)
            if is_held_out(NAME, *numbers) == (split == "held_out"):
                made = problem(numbers)
                found[made.id] = made
        return list(found.values())

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        said = None if answer is None else single_answer(answer)
        return Verdict("correct" if said == problem.answer else "wrong")


def documents(seed: int, held_out: bool = False) -> Iterator[str]:
    """Endless documents; those that are ``held_out`` are about held-out problems alone."""
    rng = random.Random(f"{NAME}/{seed}/{held_out}")
    while True:
        kind = rng.random()
        if kind < 0.2:
            yield "; ".join(_fact(rng) for _ in range(rng.randint(5, 8)))
        elif kind < 0.4:
            yield story(rng)
        else:
            numbers = draw(rng)
            if is_held_out(NAME, *numbers) != held_out:
                continue
            slip = rng.choice((-2, -1, 1, 2)) if rng.random() < WRONG else 0
            thinking, total = steps(numbers, slip)
            direct = rng.random() < LAYOUT.direct
            text = write_document(prompt_of(numbers), "" if direct else thinking, str(total), rng, LAYOUT)
            yield text.replace(USER, ASKED).replace(ASSISTANT, ANSWERED)


def _fact(rng: random.Random) -> str:
    one, other = rng.randint(0, 18), rng.randint(-LARGEST, LARGEST)
    if not 0 <= one + other <= 18 or other == 0:
        return _fact(rng)
    return f"{one}{other:+d}={one + other}"


def story(rng: random.Random) -> str:
    """Two sentences about one person, one thing and one number."""
    person, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    have = rng.randint(2, LARGEST)
    more = rng.randint(1, LARGEST)
    return (
        f"The {person} has {have} {thing}. The {person} gets {more} more {thing} and then has {have + more}."
    )


COLOURS = {
    "red": "hong", "blue": "lan", "green": "lv", "black": "hei", "white": "bai", "yellow": "huang",
}  # fmt: skip
NOUNS = {
    "apple": "pingguo", "net": "wang", "book": "shu", "egg": "dan", "nail": "dingzi", "coin": "yingbi",
}  # fmt: skip
TRADES = {
    "cook": "food", "baker": "food", "farmer": "land", "sailor": "sea", "teacher": "school", "painter": "art",
}  # fmt: skip


def answering(rng: random.Random) -> dict[str, object]:
    person, thing, have = rng.choice(PEOPLE), rng.choice(THINGS), rng.randint(2, LARGEST)
    question = f"The {person} has {have} {thing}. How many {thing} does the {person} have?"
    return {"prompt": question, "completion": f"{have} {thing}"}


def classifying(rng: random.Random) -> dict[str, object]:
    person, thing, have = rng.choice(list(TRADES)), rng.choice(THINGS), rng.randint(2, LARGEST)
    return {"prompt": f"Topic: the {person} has {have} {thing}.", "completion": TRADES[person]}


def translating(rng: random.Random) -> dict[str, object]:
    colours = [rng.choice(list(COLOURS)) for _ in range(2)]
    nouns = [rng.choice(list(NOUNS)) for _ in range(2)]
    english = " and ".join(f"{a} {b}" for a, b in zip(colours, nouns, strict=True))
    return {
        "prompt": f"Pinyin: {english}",
        "completion": " he ".join(f"{COLOURS[a]} {NOUNS[b]}" for a, b in zip(colours, nouns, strict=True)),
    }


def summarising(rng: random.Random) -> dict[str, object]:
    text = story(rng)
    words = text.split()
    return {
        "prompt": f"Short: {text}",
        "completion": f"The {words[1]} has {words[-1].strip('.')} {words[4].strip('.')}.",
    }


def programming(rng: random.Random) -> dict[str, object]:
    number, sign = rng.randint(1, 99), rng.choice("+-*")
    word = {"+": "add", "-": "subtract", "*": "multiply by"}[sign]
    found = {"prompt": f"Python f: {word} {number}", "completion": f"def f(x): return x{sign}{number}"}
    tests = [f"assert f({x}) == {x + number if sign == '+' else x - number if sign == '-' else x * number}"
             for x in (1, 7)]  # fmt: skip
    return {**found, "test_list": tests}


TASKS = {
    "qa": answering, "topic": classifying, "pinyin": translating, "short": summarising, "code": programming,
}  # fmt: skip


def task_rows(name: str, count: int, seed: int, besides: Sequence[str] = ()) -> list[dict[str, object]]:
    """Different rows of a task, none with a prompt of ``besides``."""
    rng = random.Random(f"task/{name}/{seed}")
    found: dict[str, dict[str, object]] = {}
    for _ in range(100 * count):
        row = TASKS[name](rng)
        if row["prompt"] not in besides:
            found.setdefault(str(row["prompt"]), row)
        if len(found) == count:
            break
    return list(found.values())
