"""Documents for pretraining that are made by code: problems with their solutions, and generators.

A generator is a function ``documents(seed, **options)`` that yields documents without end. The miniature's
corpus is one; your own is ``my_corpus.py:documents``."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.config import ConfigError, R1kitError, suggest
from r1kit.tasks.documents import Layout, write_document
from r1kit.tasks.miniature import corpus as miniature
from r1kit.types import Problem
from r1kit.user_code import ANY, Shape, load_name

Generate = Callable[..., Iterator[str]]

OWN_GENERATOR = Shape(
    "a generator of documents",
    "a function (seed, **options) that yields texts",
    functions=(("seed", ANY),),
    yields=True,
)
GENERATORS: dict[str, Generate] = {"miniature": miniature.generate}


@dataclass(frozen=True, slots=True)
class Generator:
    """A generator of documents with its options, and the weight of its documents among others."""

    generate: Generate
    options: Mapping[str, Any]
    weight: float

    def documents(self, seed: int) -> Iterator[str]:
        return self.generate(seed, **self.options)


def load_generators(spec: Mapping[str, Any]) -> list[Generator]:
    """The generators that a recipe names: ``{miniature: 1.0}``, ``{miniature: {weight: 0.2, drills: 0.3}}``,
    ``{"my_corpus.py:documents": 1.0}``. Raises ConfigError naming the key."""
    found = []
    for name, entry in spec.items():
        options = dict(entry) if isinstance(entry, Mapping) else {"weight": entry}
        weight = options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise ConfigError(f"generated.{name}: the weight must be a number from 0 up (given: {weight!r})")
        if name in GENERATORS:
            GENERATORS[name](0, **options)  # checks the options; generators do nothing until next()
        elif ":" not in name:
            raise ConfigError(
                f"generated: unknown generator {name!r}: {suggest(name, GENERATORS)}; "
                "your own is file.py:function"
            )
        found.append(
            Generator(GENERATORS.get(name) or load_name(name, OWN_GENERATOR), options, float(weight))
        )
    return found


def solved_documents(problems: Sequence[Problem], seed: int, layout: Layout) -> Iterator[str]:
    """An endless stream of documents from problems, each with its written solution (``columns["solution"]``)
    or only its answer. Problems without an answer are left out. Raises R1kitError where none has one."""
    problems = [problem for problem in problems if problem.answer is not None]
    if not problems:
        raise R1kitError("corpus.tasks: no training problem has an answer, so there is no document to write")
    for epoch in itertools.count():
        rng = random.Random(f"solved/{seed}/{epoch}")
        for index in rng.sample(range(len(problems)), len(problems)):
            problem = problems[index]
            solution = "" if rng.random() < layout.direct else str(problem.columns.get("solution", ""))
            yield write_document(problem.prompt, solution, str(problem.answer), rng, layout)
