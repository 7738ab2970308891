"""A world of tiny programs for claims 25 to 27: functions of one number that a formula or a loop computes.

    python recipes/findings/programs.py        # writes program_problems.jsonl and program_held_out.jsonl

The corpus has right programs, programs that are off by one, and tables that only look up the examples of the
prompt; most loop where a formula would do, and half have what a linter finds. So reinforcement learning has
something to select from, by tests, by processor time and by the linter. Other documents are replies to the
request of the stage unit_tests: inputs on which a program is tested."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r1kit.stages.unit_tests import REQUEST_INPUTS
from r1kit.tasks.documents import Layout, write_document
from r1kit.tasks.task import is_held_out

NAME = "f"
PROBLEMS, HELD_OUT = 96, 60  # rows of the two files
LARGE = (100_000, 200_000, 300_000)  # inputs on which a loop takes milliseconds
LAYOUT = Layout(direct=0.0, chat_layout=0.8, exact_tags=0.6, boxed=0.0)
WRITTEN_TESTS = 0.08  # of the documents
OFF_BY_ONE, TABLE = 0.3, 0.25  # of the programs; the others are right
LOOP = 0.7  # of the programs that are no table
UNCLEAN = 0.5  # of all programs


@dataclass(frozen=True, slots=True)
class Task:
    """One function: ``kind`` of KINDS with the numbers ``k`` and ``b``."""

    kind: str
    k: int
    b: int

    @property
    def held_out(self) -> bool:
        return is_held_out("programs", self.kind, self.k, self.b)

    def value(self, n: int) -> int:
        """f(n)."""
        k, b = self.k, self.b
        return {
            "sum": k * n * (n - 1) // 2,
            "count": (n + k - 1) // k,
            "line": b + k * n,
            "squares": (n - 1) * n * (2 * n - 1) // 6 + k * n,
        }[self.kind]

    def examples(self) -> list[dict[str, object]]:
        """Two calls that the prompt shows, drawn by chance from the small numbers."""
        rng = random.Random(f"examples/{self.kind}/{self.k}/{self.b}")
        return [{"args": [n], "expected": self.value(n)} for n in sorted(rng.sample(range(7), 2))]

    def prompt(self) -> str:
        shown = ", ".join(f"f({e['args'][0]})={e['expected']}" for e in self.examples())  # type: ignore[index]
        text = {
            "sum": f"f(n) is the sum of {self.k}*i for i below n",
            "count": f"f(n) counts the multiples of {self.k} below n",
            "line": f"f(n) is {self.b} plus {self.k} added n times",
            "squares": f"f(n) is the sum of i*i+{self.k} for i below n",
        }[self.kind]
        return f"{text}. {shown}"


def draw(rng: random.Random) -> Task:
    kind = rng.choice(("sum", "count", "line", "squares"))
    return Task(kind, rng.randint(2, 60), rng.randint(1, 60) if kind == "line" else 0)


def formula(task: Task, right: bool) -> str:
    """The program without a loop; one that is off by one where it is not ``right``."""
    k, b = task.k, task.b
    found = {
        "sum": (f"{k}*n*(n-1)//2", f"{k}*n*(n+1)//2"),
        "count": (f"(n+{k - 1})//{k}", f"n//{k}"),
        "line": (f"{b}+{k}*n", f"{b}+{k}*(n-1)"),
        "squares": (f"(n-1)*n*(2*n-1)//6+{k}*n", f"n*(n+1)*(2*n+1)//6+{k}*n"),
    }[task.kind]
    return f"def f(n):\n return {found[not right]}"


def loop(task: Task, right: bool) -> str:
    """The program with a loop."""
    k, b = task.k, task.b
    start, body = {
        "sum": (0, f"{k}*i"),
        "count": (0, f"i%{k}==0"),
        "line": (b, f"{k}"),
        "squares": (0, f"i*i+{k}"),
    }[task.kind]
    return f"def f(n):\n t={start}\n for i in range({'n' if right else 'n+1'}):\n  t+={body}\n return t"


def table(task: Task) -> str:
    """The program that looks up the examples of the prompt."""
    shown = ",".join(f"{e['args'][0]}:{e['expected']}" for e in task.examples())  # type: ignore[index]
    return f"def f(n):\n return {{{shown}}}.get(n,0)"


def unclean(program: str, rng: random.Random) -> str:
    """The program with something that a linter finds: an import or a variable that nothing uses."""
    if rng.random() < 0.5:
        return f"import math\n{program}"
    return program.replace("def f(n):\n", "def f(n):\n m=n\n")


def written(task: Task, rng: random.Random) -> tuple[str, str]:
    """A program of the corpus and the words that it is introduced with."""
    chance = rng.random()
    if chance < TABLE:
        thinking, program = "a table", table(task)
    elif rng.random() < LOOP:
        thinking, program = "a loop", loop(task, chance >= TABLE + OFF_BY_ONE)
    else:
        thinking, program = "a formula", formula(task, chance >= TABLE + OFF_BY_ONE)
    return thinking, unclean(program, rng) if rng.random() < UNCLEAN else program


def inputs(rng: random.Random) -> list[list[int]]:
    """Calls that test a program: degenerate, small, usual and large ones."""
    found = [0, rng.randint(1, 9), rng.randint(1, 9), rng.randint(10, 99), rng.choice(LARGE)]
    return [[n] for n in dict.fromkeys(rng.sample(found, rng.randint(3, 5)))]


def documents(seed: int) -> Iterator[str]:
    """Endless documents; no problem that is held out is in them."""
    rng = random.Random(f"programs/{seed}")
    while True:
        task = draw(rng)
        if task.held_out:
            continue
        if rng.random() < WRITTEN_TESTS:
            request = REQUEST_INPUTS.format(name=NAME, prompt=task.prompt())
            reply = json.dumps(inputs(rng), separators=(",", ":"))
            yield write_document(request, "small and large", reply, rng, LAYOUT)
        else:
            thinking, program = written(task, rng)
            yield write_document(task.prompt(), thinking, program, rng, LAYOUT)


def rows(count: int, held_out: bool) -> list[dict[str, object]]:
    """Different problems. Those to train on have what the stage unit_tests needs: right and wrong programs;
    held-out ones have hidden tests."""
    rng = random.Random(f"rows/{held_out}")
    found: dict[Task, dict[str, object]] = {}
    while len(found) < count:
        task = draw(rng)
        if task.held_out != held_out:
            continue
        row: dict[str, object] = {"prompt": task.prompt(), "entry_point": NAME, "examples": task.examples()}
        if held_out:
            calls = [0, 1, task.k, rng.randint(7, 99), LARGE[-1]]
            row["tests"] = [{"args": [n], "expected": task.value(n)} for n in dict.fromkeys(calls)]
        else:
            row["solutions"] = [formula(task, True), loop(task, True)]
            row["wrong"] = [formula(task, False), loop(task, False), table(task)]
        found[task] = row
    return list(found.values())


FILES = {"program_problems.jsonl": (PROBLEMS, False), "program_held_out.jsonl": (HELD_OUT, True)}


def text_of(name: str) -> str:
    """What a file of FILES holds."""
    return "".join(json.dumps(row) + "\n" for row in rows(*FILES[name]))


if __name__ == "__main__":
    for name in FILES:
        Path(__file__).with_name(name).write_text(text_of(name), encoding="utf-8")
