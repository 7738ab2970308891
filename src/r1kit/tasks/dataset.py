"""Problems from your own files: a task over JSON Lines, as ``{gsm8k: {kind: dataset, train: FILE, held_out:
FILE}}`` in a recipe.

A row has a prompt and a gold answer. Their columns are named in the recipe or taken from the first row
(``PROMPTS``, ``ANSWERS``; verl's ``reward_model.ground_truth`` is understood); ``about`` names the columns
that were read. A prompt may be a conversation that ends with the user: the turns before its last one, system
turns too, are kept in ``columns["messages"]`` (r1kit.tasks.turns), and problems that differ in them are two.
A gold answer may be a whole worked solution that ends in ``#### 72`` or a box; the working is then kept in
``columns["solution"]``, which pretraining uses.

What is evaluated is never trained on: without ``held_out`` an eighth of the problems is held out by a hash of
their text, and training problems that are in a held-out file, or share ten words in a row with one of its
problems, are left out (r1kit.tasks.overlap).

A gold answer that stands for a missing value (NaN, "None", "N/A") is a bad row, and so is a prompt that has
another answer in an earlier row: neither can be trusted.

With ``check: program`` the gold answer is a column of tests (``answer``, else the first of
r1kit.tasks.test_layouts.TESTS) that a program must pass."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from r1kit.config import InputError, KeyPath, R1kitError
from r1kit.jsonl import column, columns_of, first_error, is_null_like, parse_row, read_lines, write_jsonl
from r1kit.tasks.mathematics.check import boxed, check_math_batch, gold_fault, gold_text
from r1kit.tasks.mathematics.spellings import with_decimal_points
from r1kit.tasks.mathematics.votes import vote_key, vote_keys
from r1kit.tasks.overlap import Frame, prompt_key, without_contaminated
from r1kit.tasks.programs import ask_for_program, check_programs, program_columns, read_program
from r1kit.tasks.splits import SplitFiles, Splits, counts_of, hold_out, rows_of
from r1kit.tasks.task import single_answer, stamp_of
from r1kit.tasks.test_layouts import TESTS, has_tests, inner
from r1kit.tasks.turns import Context, columns_with, is_conversation, read_prompt
from r1kit.types import Problem, Verdict

PROMPTS = ("prompt", "problem", "question")
CONVERSATIONS = ("messages", "conversations")
PROGRAM_PROMPTS = (*PROMPTS, "text", "question_content", "description", "query", "problem_description")
ANSWERS = ("answer", "ground_truth", "solution")
BAD_ROWS_LIMIT = 0.05
LONGEST_GOLD = 300

_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's notes for a calculator: 48/2 = <<48/2=24>>24
_LETTER = re.compile(r"\(?([A-J])\)?\.?")

Check = Literal["math", "choice", "exact", "program"]


class DatasetConfig(SplitFiles):
    """The options of a data set in a recipe.

    ``decontaminate`` names further files whose problems are never trained on. ``check``: ``math`` compares
    mathematically, ``choice`` letters, ``exact`` texts free of spaces, ``program`` runs the answer against
    the row's tests, within ``time_limit_s`` and ``memory_limit_mb`` unless the row has such columns itself.
    ``decimal_comma``: gold answers and responses write 3,14 and 1.234,5 (``check: math``)."""

    decontaminate: tuple[str, ...] = ()
    prompt: str | None = None  # column; null: the first of the usual names that the file has
    answer: str | None = None  # column of the gold answer; null: as above
    id: str | None = None  # column of your own id; null: a hash of the prompt
    difficulty: str | None = None  # column of a number, for reports and curricula
    check: Check = "math"
    decimal_comma: bool = False
    time_limit_s: float = Field(5.0, gt=0)
    memory_limit_mb: int = Field(512, gt=0)

    @model_validator(mode="after")
    def _comma_is_mathematics(self) -> Self:
        if self.decimal_comma and self.check != "math":
            raise ValueError(f"decimal_comma has no effect with check: {self.check}; leave it out")
        return self


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a file are read; dots lead into inner objects."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One file as problems, with what was seen on the way."""

    path: Path
    columns: Columns
    problems: tuple[Problem, ...]
    rows: int
    bad: int
    duplicates: int

    def __str__(self) -> str:
        text = f"{self.rows} rows of {self.path.name} ({self.columns.prompt} -> {self.columns.answer})"
        text += f", {self.duplicates} duplicates left out" if self.duplicates else ""
        return text + (f", {self.bad} bad rows in {_quarantine(self.path)}" if self.bad else "")


class Dataset:
    """A task over JSON Lines files; see DatasetConfig for ``options``. The files are read when problems are
    first needed, and again when they have changed."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.config = DatasetConfig.parse(options, f"tasks.{name}")

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of "train" or "held_out". Raises R1kitError naming file, line and fix for what cannot
        be read."""
        return self._splits().of(self.name, split)

    def size(self, split: str) -> float | None:
        """About how many problems a split has, by the rows of its file."""
        return rows_of(self.config, split)

    def input_errors(self) -> Iterator[InputError]:
        """What is wrong with the files, as far as their first rows show: missing, another format, no such
        column, no gold answer."""
        config = self.config
        keys: dict[KeyPath, str | None] = {("train",): config.train, ("held_out",): config.held_out}
        keys |= {("decontaminate", place): file for place, file in enumerate(config.decontaminate)}

        def use(path: Path, number: int, row: dict[str, Any]) -> Problem:
            return _problem(self.name, config, _choose_columns(path, number, row, config), path, number, row)

        for key, file in keys.items():
            if file is not None and (error := first_error(Path(file).expanduser(), use, config.bad_rows)):
                yield key, error

    def about(self) -> str:
        """One line: files, columns, problems by split, and what was left out."""
        return self._splits().about

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        return self.check_batch([problem], [answer])[0]

    def check_batch(self, problems: Sequence[Problem], answers: Sequence[str | None]) -> list[Verdict]:
        """Judge many answers together: mathematical ones wait for math-verify's workers side by side,
        programs run on all cores."""
        if self.config.check == "program":
            return check_programs(problems, answers)
        golds = [str(problem.answer) for problem in problems]
        if self.config.check == "exact":
            return [_check_exact(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
        golds, given = _both(golds, answers)
        judged = iter(check_math_batch(golds, self._spelled(given)))
        return [
            Verdict("wrong", "the template was not followed") if answer is None else next(judged)
            for answer in answers
        ]

    def vote_key(self, answer: str) -> str | None:
        """Under which key an answer counts in a majority vote, from that answer alone."""
        if self.config.check == "program":
            return "".join(read_program(answer).split())
        if self.config.check == "exact":
            said = single_answer(answer)
            return None if said is None else "".join(said.split())
        (spelled,) = self._spelled([answer])
        return vote_key(spelled, choice=self.config.check == "choice")

    def vote_keys(self, answers: Sequence[str]) -> Sequence[str | None]:
        """Under which keys the answers of a group count in a majority vote: equal keys for answers that
        ``check`` would call the same."""
        if self.config.check in ("program", "exact"):
            return [self.vote_key(answer) for answer in answers]
        return vote_keys(self._spelled(answers), choice=self.config.check == "choice")

    def _spelled(self, answers: Sequence[str]) -> Sequence[str]:
        """Answers as they are checked: with decimal points."""
        return [with_decimal_points(answer) for answer in answers] if self.config.decimal_comma else answers

    def _splits(self) -> Splits:
        named = [
            name
            for name in (self.config.train, self.config.held_out, *self.config.decontaminate)
            if name is not None
        ]
        return _read_splits(self.name, self.config, tuple(stamp_of(name) for name in named))


def _both(golds: Sequence[str], answers: Sequence[str | None]) -> tuple[list[str], list[str]]:
    given = [(gold, answer) for gold, answer in zip(golds, answers, strict=True) if answer is not None]
    return [gold for gold, _ in given], [answer for _, answer in given]


def _check_exact(gold: str, answer: str | None) -> Verdict:
    said = None if answer is None else single_answer(answer)
    if said is None:
        return Verdict("wrong", "no single answer")
    return Verdict("correct") if said.split() == gold.split() else Verdict("wrong", "another text")


@lru_cache(maxsize=32)
def _read_splits(name: str, config: DatasetConfig, stamps: tuple[tuple[str, int, int], ...]) -> Splits:
    """Read a data set's files once, however many stages need them; ``stamps`` change with the files."""
    found: dict[str, Sequence[Problem]] = {}
    lines = []
    known: list[str] = []
    for file in config.decontaminate:
        known += [problem.prompt for problem in _read_file(name, config, Path(file).expanduser()).problems]
    if config.held_out is not None:
        reading = _read_file(name, config, Path(config.held_out).expanduser())
        found["held_out"] = reading.problems
        lines.append(f"held out: {reading}")
    if config.train is not None:
        reading = _read_file(name, config, Path(config.train).expanduser())
        train: Sequence[Problem] = reading.problems
        if config.held_out is None:
            train, found["held_out"] = hold_out(train)
        known += [problem.prompt for problem in found["held_out"]] if config.held_out is not None else []
        frame = Frame.of([problem.prompt for problem in train] if known else [])
        found["train"] = without_contaminated(train, known, frame) if known else train
        lines.insert(0, f"train: {reading}")
        if config.held_out is None:
            lines.append(f"held out: {len(found['held_out'])} of them by a hash of their text")
        lines += [str(frame)] if frame.prompts else []
        if len(found["train"]) < len(train):
            lines.append(
                f"{len(train) - len(found['train'])} of train left out: they are in held-out files, "
                "or share ten words in a row"
            )
    limited = {split: problems[: config.limit] for split, problems in found.items()}
    return Splits(limited, f"{name}: {counts_of(limited)} problems. {'; '.join(lines)}")


class _Found:
    """The problems of a file, each prompt once, and which prompts have several answers."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.first: dict[str, tuple[int, bytes, Problem]] = {}  # by prompt
        self.unclear: set[str] = set()
        self.duplicates = 0

    def add(self, path: Path, number: int, line: bytes, problem: Problem) -> None:
        """Keep a problem if its prompt is new. Raises R1kitError where the prompt had another answer."""
        key = prompt_key(problem)
        if key not in self.first:
            self.first[key] = (number, line, problem)
            return
        earlier, _, known = self.first[key]
        if not _same_gold(self.check, known, problem):
            self.unclear.add(key)
            raise R1kitError(
                f"{path}:{number}: the prompt of row {earlier} with another answer ({problem.answer!r:.60}; "
                f"there {known.answer!r:.60}); correct or remove one of them"
            )
        self.duplicates += 1

    def drop_unclear(self, path: Path) -> list[dict[str, Any]]:
        """Leave out the prompts with several answers; returns their first rows as bad rows."""
        dropped = [self.first.pop(key) for key in sorted(self.unclear)]
        fault = "a later row has this prompt with another answer; correct or remove one of them"
        return [_bad_row(number, line, f"{path}:{number}: {fault}") for number, line, _ in dropped]


def _bad_row(number: int, line: bytes, error: str) -> dict[str, Any]:
    return {"line": number, "error": error, "row": line.decode("utf-8", "replace").rstrip("\n")}


def _read_file(name: str, config: DatasetConfig, path: Path) -> Reading:
    """All usable rows of a file as problems, each prompt once."""
    found = _Found(config.check)
    bad: list[dict[str, Any]] = []
    columns: Columns | None = None
    rows = 0
    for number, line in read_lines(path):
        rows += 1
        try:
            row = parse_row(path, number, line)
            columns = columns or _choose_columns(path, number, row, config)
            found.add(path, number, line, _problem(name, config, columns, path, number, row))
        except R1kitError as error:
            if config.bad_rows == "error":
                raise R1kitError(
                    f"{error}\n(tasks.{name}.bad_rows: quarantine writes such rows to another file and "
                    "continues)"
                ) from None
            bad.append(_bad_row(number, line, str(error)))
    bad += found.drop_unclear(path)
    if len(bad) > BAD_ROWS_LIMIT * rows:
        raise R1kitError(
            f"{path}: {len(bad)} of {rows} rows cannot be used, more than {BAD_ROWS_LIMIT:.0%}; the "
            f"first: {bad[0]['error']}"
        )
    problems = tuple(problem for _, _, problem in found.first.values())
    if columns is None or not problems:
        raise R1kitError(f"{path}: no rows; a row is a JSON object with a prompt and an answer")
    if bad:
        _write_aside(path, bad)
    _refuse_equal_ids(path, problems)
    return Reading(path, columns, problems, rows, len(bad), found.duplicates)


def _same_gold(check: Check, one: Problem, other: Problem) -> bool:
    """Whether two problems with one prompt have the same answer. Tests may differ: a program can pass all."""
    golds = str(one.answer), str(other.answer)
    if check == "program" or golds[0].split() == golds[1].split():
        return True
    return check == "math" and any(
        check_math_batch([gold], [f"\\boxed{{{answer}}}"])[0].outcome == "correct"
        for gold, answer in (golds, golds[::-1])
    )


def _solution(row: Mapping[str, Any], written: str) -> dict[str, str]:
    """The worked solution of a row as plain text, where there is one: of its own column, or what leads to the
    gold answer."""
    text = row["solution"] if isinstance(row.get("solution"), str) else written
    worked = _CALCULATION.sub("", text.rpartition("####")[0] if "####" in text else text).strip()
    return {"solution": worked} if worked and (worked != written.strip() or boxed(worked)) else {}


def _problem(
    name: str, config: DatasetConfig, columns: Columns, path: Path, number: int, row: dict[str, Any]
) -> Problem:
    prompt, context = _prompt(path, number, row, columns.prompt)
    written = "" if config.check == "program" else _text(path, number, row, columns.answer)
    if not prompt or is_null_like(prompt):
        raise R1kitError(
            f"{path}:{number}: column {columns.prompt!r} is empty; write the problem or remove the row"
        )
    try:
        if config.check == "program":
            more = program_columns(row, columns.answer, config.time_limit_s, config.memory_limit_mb)
            gold = more["reference"]
            prompt = ask_for_program(prompt, {**more, "starter_code": row.get("starter_code")})
        else:
            if config.decimal_comma and isinstance(inner(row, columns.answer), str):
                written = with_decimal_points(written)
            gold, more = _GOLD[config.check](written), _solution(row, written)
    except ValueError as error:
        raise R1kitError(f"{path}:{number}: column {columns.answer!r}: {error}") from None
    text = prompt + (json.dumps(context, sort_keys=True) if context else "")
    key = (
        column(path, number, row, config.id) if config.id else hashlib.sha256(text.encode()).hexdigest()[:16]
    )
    level = float(_number(path, number, row, config.difficulty)) if config.difficulty else None
    kept = {**columns_with(context, row, is_conversation(inner(row, columns.prompt))), **more}
    return Problem(f"{name}/{key}", name, prompt, gold, config.language, level, kept)


def _prompt(path: Path, number: int, row: dict[str, Any], name: str) -> tuple[str, Context]:
    """(prompt, turns before it) of a column, which is a text or a conversation."""
    value = inner(row, name)
    if not is_conversation(value):
        return _text(path, number, row, name).strip(), ()
    prompt, context = read_prompt(path, number, name, value)
    return prompt.strip(), context


def _choose_columns(path: Path, number: int, row: dict[str, Any], config: DatasetConfig) -> Columns:
    """The columns that the recipe names, else those that the first row has."""
    verl = isinstance(row.get("reward_model"), dict) and "ground_truth" in row["reward_model"]
    program = config.check == "program"
    prompts, answers = (PROGRAM_PROMPTS, TESTS) if program else (PROMPTS, ANSWERS)
    prompt = config.prompt or next((name for name in (*prompts, *CONVERSATIONS) if name in row), None)
    if program and not config.prompt and {"query", "problem_description"} <= set(row):
        prompt = "query"  # LeetCode sets: their column prompt is code that runs before the program
    answer = config.answer or (
        next((name for name in answers if has_tests(row, name)), None)
        or next((name for name in answers if name in row), None)
        if program
        else "reward_model.ground_truth"
        if verl
        else next((name for name in answers if name in row and name != prompt), None)
    )
    if prompt is None or answer is None:
        missing, known = ("prompt", prompts) if prompt is None else ("answer", answers)
        raise R1kitError(
            f"{path}:{number}: no column for the {missing} ({', '.join(known)}); the row has: "
            f"{columns_of(row)}. Say which: {missing}: COLUMN"
        )
    return Columns(prompt, answer)


def _text(path: Path, number: int, row: dict[str, Any], name: str) -> str:
    """A column's text; with dots of an inner object."""
    return column(path, number, {**row, name: inner(row, name)} if "." in name else row, name)


def _number(path: Path, number: int, row: dict[str, Any], name: str) -> str:
    """The number in a column such as 3 or "Level 3"."""
    text = column(path, number, row, name)
    found = re.search(r"-?\d+(?:\.\d+)?", text)
    if found is None:
        raise R1kitError(f"{path}:{number}: column {name!r}: {text!r} holds no number")
    return found.group()


def _math_gold(written: str) -> str:
    gold = gold_text(written)
    fault = gold_fault(gold)
    if fault is not None:
        raise ValueError(fault)
    if len(gold) > LONGEST_GOLD or "\n" in gold:
        raise ValueError(
            "a text without a final answer; end it with #### ANSWER or \\boxed{ANSWER}, or name "
            "another column (answer: COLUMN)"
        )
    return gold


def _choice_gold(written: str) -> str:
    found = _LETTER.fullmatch(gold_text(written))
    if found is None:
        raise ValueError(f"{written[:40]!r} is no choice; write one letter from A to J")
    return found[1]


def _exact_gold(written: str) -> str:
    if not written.strip():
        raise ValueError("no gold answer; write it, or remove the row")
    _refuse_null_like(written)
    return written.strip()


def _refuse_null_like(gold: str) -> None:
    if is_null_like(gold):
        raise ValueError(
            f"{gold.strip()!r} stands for a missing value; write the gold answer (in other words if this is "
            "the answer), or remove the row"
        )


_GOLD: dict[str, Callable[[str], str]] = {"math": _math_gold, "choice": _choice_gold, "exact": _exact_gold}


def _quarantine(path: Path) -> Path:
    return path.with_name(f"{path.name}.bad.jsonl")


def _write_aside(path: Path, bad: Sequence[dict[str, Any]]) -> None:
    aside = _quarantine(path)
    try:
        write_jsonl(aside, bad)
    except OSError as error:
        fix = "correct them, or copy the file to where you may write"
        raise R1kitError(
            f"{aside}: cannot be written ({error.strerror or error}): {path.name} has {len(bad)} bad "
            f"rows; {fix}"
        ) from None


def _refuse_equal_ids(path: Path, problems: Sequence[Problem]) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise R1kitError(
                f"{path}: two problems have the id {problem.id.partition('/')[2]!r}; leave the option "
                "id out, or correct the column"
            )
        seen.add(problem.id)
