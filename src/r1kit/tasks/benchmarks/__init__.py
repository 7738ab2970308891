"""Benchmarks of the paper, a task file each: where the rows are, which columns are read, the prompt, how an
answer is checked, how many samples, and the paper's scores.

``math500.yaml`` in this folder is the shortest example; a file of your own is named with its path. No data
comes with r1kit: rows are read from a local file (``--data FOLDER``) or from the hub, with the package
datasets."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]
from pydantic import Field, field_validator

from r1kit.config import Config, ConfigError, suggest
from r1kit.files import hash_text
from r1kit.language import scripts_of

FOLDER = Path(__file__).parent
SUFFIX = ".yaml"
PAPER_TOKENS, PAPER_TEMPERATURE, PAPER_TOP_P = 32_768, 0.6, 0.95  # DeepSeek-R1, version 1, section 3

# What the paper's table has and r1kit does not measure, and why.
EXCLUDED = {
    "swe_bench_verified": "an agent has to work in the repositories' own containers (the paper: Agentless)",
    "aider_polyglot": "it edits files with aider in six languages, whose compilers have to be installed",
    "frames": "its questions need pages from the web",
    "cluewsc": "its zero-shot prompt is not published",
    "c_simpleqa": "its judge's prompt is in Chinese and not in the paper",
}

CheckName = Literal["math", "choice", "spans", "judged", "instructions", "program", "pairwise", "refusal"]
Metric = Literal["pass@1", "F1", "prompt strict", "rating", "LC win rate"]


class Source(Config):
    """A data set on the hub. ``config: "*"`` is all of its configurations."""

    hub: str
    config: str | None = None
    split: str = "test"


class Columns(Config):
    """The columns of a row; of several names the first that the row has. Dots lead into inner objects and
    lists. ``context`` comes before the question; errors are clustered by ``cluster``; without ``id`` a
    problem is named by the hash of its text."""

    question: str | list[str]
    answer: str | list[str]
    id: str | list[str] | None = None
    difficulty: str | None = None
    category: str | None = None
    cluster: str | None = None
    context: str | None = None


class Choices(Config):
    """Where the choices of a question are: in one column that is a list, in a column each, or a right one
    and wrong ones, whose order is then a hash of the question."""

    list: str | None = None
    columns: Sequence[str] | None = None
    right: str | None = None
    wrong: Sequence[str] = ()


class Range(Config):
    """Texts from ``since`` on and before ``before``, such as dates (2024-08-01)."""

    since: str = ""
    before: str = "~"


class Limits(Config):
    """Of programs: seconds and MB for each test, and in contests how many samples are handed in."""

    seconds: float = Field(10.0, gt=0)
    memory_mb: int = Field(512, ge=16)
    attempts: int = Field(8, ge=1)


class Card(Config):
    """A task file. ``prompt`` holds {question}, {choices}, {context} or the name of any column in braces.
    ``only`` keeps the rows whose column has one of the values, or lies in a range. ``k`` samples for each
    problem are the default; ``paper`` has scores in percent (of the rating: points) by model, ``paper_k`` the
    paper's k where it is printed."""

    name: str
    title: str
    suites: tuple[str, ...] = ()
    source: Source | None = None
    files: tuple[str, ...]
    columns: Columns
    only: dict[str, list[str] | Range] = {}
    choices: Choices | None = None
    language: str = "en"
    prompt: str
    check: CheckName
    metric: Metric = "pass@1"
    k: int = Field(1, ge=1)
    limits: Limits = Limits()
    paper: dict[str, float] = {}
    paper_k: int | None = None
    note: str = ""

    @field_validator("language")
    @classmethod
    def _language_is_known(cls, language: str) -> str:
        scripts_of(language)
        return language

    @field_validator("prompt")
    @classmethod
    def _prompt_has_the_question(cls, prompt: str) -> str:
        if "{question}" not in prompt:
            raise ValueError("the prompt needs {question}, which is replaced by the row's question")
        return prompt

    def digest(self) -> str:
        """A hash of what decides a score: columns, choice of rows, prompt, check and limits."""
        read = {"columns", "only", "choices", "language", "prompt", "check", "limits", "metric"}
        return hash_text(self.model_dump_json(include=read))


@cache
def names() -> tuple[str, ...]:
    """The benchmarks that come with r1kit."""
    return tuple(sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}")))


def suites() -> dict[str, tuple[str, ...]]:
    """The benchmarks of each suite: r1 is the paper's table of results."""
    found: dict[str, list[str]] = {}
    for name in names():
        for suite in load_card(name).suites:
            found.setdefault(suite, []).append(name)
    return {suite: tuple(members) for suite, members in sorted(found.items())}


@cache
def load_card(name: str) -> Card:
    """The task file of this name, or of your own (FILE.yaml). Raises ConfigError with the fix."""
    if name.endswith(SUFFIX):
        file = Path(name).expanduser()
    elif name in EXCLUDED:
        raise ConfigError(f"benchmark {name}: not measured here: {EXCLUDED[name]}")
    elif name in names():
        file = FOLDER / f"{name}{SUFFIX}"
    else:
        hint = suggest(name, names(), f"known: {', '.join(names())}; your own is FILE.yaml")
        raise ConfigError(f"no benchmark {name!r}: {hint}")
    try:
        plain: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{file}: a task file is a mapping with title, files, columns, prompt, check")
    return Card.parse({"name": file.stem, **plain}, str(file))


def chosen(suite: str | None, benchmarks: Sequence[str]) -> list[Card]:
    """The cards of a suite and of the benchmarks that are named, each once. Raises ConfigError."""
    known = suites()
    if suite is not None and suite not in known:
        raise ConfigError(f"no suite {suite!r}: {suggest(suite, known)}")
    members = known[suite] if suite is not None else ()
    return [load_card(name) for name in dict.fromkeys([*members, *benchmarks])]
