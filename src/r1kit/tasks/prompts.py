"""General prompts from your own files: problems without an answer that a rule could check.

In a recipe: ``{assistant: {kind: prompts, train: general.jsonl, held_out: general_test.jsonl}}``. A row is
``{"prompt": ...}``, or a conversation in ``messages`` that ends with the user, or with the assistant's
written answer; the turns before the last one of the user are kept in ``columns["messages"]``
(r1kit.tasks.turns). ``response`` or ``completion`` is a written answer, which cold start, rejection sampling
and distillation can train on. All columns of the row reach rewards and judges in ``Problem.columns``;
``kind`` (for instance "forbidden", a prompt to be refused) and ``language`` are understood.

What is evaluated is never trained on: without ``held_out`` an eighth of the prompts is held out by a hash of
their text, and training prompts that are in the held-out file, or share ten words in a row with one of its
prompts, are left out (r1kit.tasks.overlap)."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from r1kit.config import InputError, R1kitError
from r1kit.jsonl import column, first_error, is_null_like, read_usable
from r1kit.language import scripts_of
from r1kit.tasks.overlap import Frame, without_contaminated, without_duplicates
from r1kit.tasks.splits import SplitFiles, Splits, counts_of, hold_out, rows_of
from r1kit.tasks.task import stamp_of
from r1kit.tasks.turns import Context, columns_with, is_conversation, read_prompt, read_turns
from r1kit.types import Problem, Verdict

CONVERSATIONS = ("messages", "conversations")
PROMPTS = ("prompt", "question", "instruction")
RESPONSES = ("response", "completion")


class PromptsConfig(SplitFiles):
    """The options of a prompts task in a recipe.

    ``prompt`` and ``response`` name the columns; by default the first of PROMPTS and RESPONSES that the row
    has. ``language`` is that of rows without a column ``language``."""

    prompt: str | None = None
    response: str | None = None


class Prompts:
    """A task of general prompts from JSON Lines files; see PromptsConfig for ``options``. Files are read when
    problems are first needed, and again when they have changed."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.config = PromptsConfig.parse(options, f"tasks.{name}")

    def problems(self, split: str) -> Sequence[Problem]:
        """The prompts of "train" or "held_out". Raises R1kitError naming file, line and fix for what cannot
        be read."""
        return self._splits().of(self.name, split)

    def size(self, split: str) -> float | None:
        """About how many problems a split has, by the rows of its file."""
        return rows_of(self.config, split)

    def input_errors(self) -> Iterator[InputError]:
        """What is wrong with the files as their first rows show: missing, another format, no such column."""
        config = self.config
        for key, file in (("train", config.train), ("held_out", config.held_out)):
            if file is not None and (error := _first_error(self.name, config, file)):
                yield (key,), error

    def about(self) -> str:
        """One line: prompts by split, their files, and how many have a written answer."""
        return self._splits().about

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """General prompts are scored by reward models and judges: no rule can check an answer."""
        return Verdict("unverifiable", "general prompts are scored by judges, not by rules")

    def write_responses(self, count: int, rng: random.Random) -> list[tuple[Problem, str]]:
        """At most ``count`` training prompts that have a written answer, each once."""
        answered = [
            (problem, response)
            for problem in self.problems("train")
            if (response := _response(problem)) is not None
        ]
        return rng.sample(answered, min(count, len(answered)))

    def _splits(self) -> Splits:
        files = [file for file in (self.config.train, self.config.held_out) if file is not None]
        return _read_splits(self.name, self.config, tuple(stamp_of(file) for file in files))


def _response(problem: Problem) -> str | None:
    """The row's written answer, with its ``thinking`` where there is one; None for a row without."""
    response = problem.columns.get("response")
    if not isinstance(response, str) or response.lstrip().startswith("<think>"):
        return response
    thinking = problem.columns.get("thinking")
    return f"<think>{thinking if isinstance(thinking, str) else ''}</think>{response}"


@lru_cache(maxsize=32)
def _read_splits(name: str, config: PromptsConfig, stamps: tuple[tuple[str, int, int], ...]) -> Splits:
    """Read the files once, however many stages need them; ``stamps`` change with the files."""
    found: dict[str, list[Problem]] = {}
    frame = Frame.of([])
    if config.held_out is not None:
        found["held_out"] = _read_file(name, config, config.held_out)
    if config.train is not None:
        train = _read_file(name, config, config.train)
        if config.held_out is None:
            train, found["held_out"] = hold_out(train)
        else:
            frame = Frame.of([problem.prompt for problem in train])
            train = without_contaminated(train, [problem.prompt for problem in found["held_out"]], frame)
        found["train"] = train
    limited = {split: problems[: config.limit] for split, problems in found.items()}
    about = _about(name, limited, stamps)
    return Splits(limited, f"{about}; {frame}" if frame.prompts else about)


def _about(
    name: str, splits: Mapping[str, Sequence[Problem]], stamps: tuple[tuple[str, int, int], ...]
) -> str:
    answered = sum("response" in problem.columns for problems in splits.values() for problem in problems)
    files = " and ".join(Path(path).name for path, _, _ in stamps)
    return f"{name}: {counts_of(splits)} prompts of {files}, {answered} with a written answer"


def _read_file(name: str, config: PromptsConfig, file: str) -> list[Problem]:
    """All usable rows of a file as problems, each prompt once."""

    def use(path: Path, number: int, row: dict[str, Any]) -> Problem:
        return _problem(name, config, path, number, row)

    path = Path(file).expanduser()
    problems = read_usable(path, use, config.bad_rows)
    if not problems:
        raise R1kitError(f'{path}: no rows; a row is an object such as {{"prompt": ...}}')
    return without_duplicates(problems)


def _first_error(name: str, config: PromptsConfig, file: str) -> str | None:
    return first_error(Path(file).expanduser(), partial(_problem, name, config), config.bad_rows)


def _problem(name: str, config: PromptsConfig, path: Path, number: int, row: dict[str, Any]) -> Problem:
    prompt, context, response = _turns(config, path, number, row)
    if not prompt.strip() or is_null_like(prompt):
        raise R1kitError(f"{path}:{number}: the prompt is empty; write it or remove the row")
    language = row.get("language") or config.language
    try:
        scripts_of(language)
    except (ValueError, TypeError) as error:
        raise R1kitError(f"{path}:{number}: column 'language': {error}") from None
    text = prompt + (json.dumps(context, sort_keys=True) if context else "")
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    asked = [row.get(name) for name in (config.prompt, *CONVERSATIONS, *PROMPTS) if name]
    conversational = any(map(is_conversation, asked))
    kept = columns_with(context, row, conversational)
    columns = {**kept, **({} if response is None else {"response": response})}
    return Problem(f"{name}/{key}", name, prompt, None, language, columns=columns)


def _turns(
    config: PromptsConfig, path: Path, number: int, row: dict[str, Any]
) -> tuple[str, Context, str | None]:
    """(prompt, turns before it, written answer or None) of a row."""
    whole = next((name for name in CONVERSATIONS if name in row), None)
    if config.prompt is None and whole is not None:
        turns = read_turns(path, number, whole, row[whole])
        if len(turns) > 1 and turns[-1]["role"] == "assistant":
            return *read_prompt(path, number, whole, turns[:-1]), turns[-1]["content"]
        return *read_prompt(path, number, whole, turns), None
    wanted = config.prompt or next((key for key in PROMPTS if key in row), "prompt")
    written = config.response or next((key for key in RESPONSES if row.get(key) is not None), None)
    context: Context = ()
    if is_conversation(row.get(wanted)):
        prompt, context = read_prompt(path, number, wanted, row[wanted])
    else:
        prompt = column(path, number, row, wanted)
    return prompt.strip(), context, None if written is None else _response_text(path, number, row, written)


def _response_text(path: Path, number: int, row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not is_conversation(value):
        return column(path, number, row, name)
    return one_turn(path, number, name, value, "assistant")


def one_turn(path: Path, number: int, name: str, turns: Any, role: str) -> str:
    """The text of a conversation's only turn, which is of ``role``. Raises R1kitError for more turns than
    that, or none."""
    found = read_turns(path, number, name, turns)
    if len(found) != 1 or found[0]["role"] != role:
        said = ", ".join(turn["role"] for turn in found)
        raise R1kitError(
            f"{path}:{number}: column {name!r}: one {role} turn can be read here, not {said}; remove the "
            "other turns, or the row"
        )
    return found[0]["content"]
