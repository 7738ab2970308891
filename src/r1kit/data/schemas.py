"""The schemas of the field's data sets in one table: how a row is recognised, and what its columns are in
r1kit's own words.

Every row becomes one of eight kinds, with these columns:

    text          text
    pair          prompt, completion                 prompt: a text, or turns that end with the user
    conversation  messages                           turns; those of the assistant are trained on
    preference    chosen, rejected, prompt where it is a column
    unpaired      prompt, completion, label          TRL's KTO rows; r1kit's safe rows have safe
    problem       problem, answer, solution where there is one
    program       problem, tests, entry_point and solution where there are any
    prompt        prompt                             no answer

Only names are changed here. What a column holds is checked by the readers of r1kit.data.sources,
r1kit.data.preferences and r1kit.tasks.dataset, whose names of columns and tests are used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from r1kit.config import ConfigError, suggest
from r1kit.jsonl import columns_of
from r1kit.tasks.dataset import ANSWERS, PROGRAM_PROMPTS
from r1kit.tasks.prompts import CONVERSATIONS, PROMPTS, RESPONSES
from r1kit.tasks.test_layouts import TESTS, has_tests, inner
from r1kit.tasks.turns import is_conversation

Kind = Literal["text", "pair", "conversation", "preference", "unpaired", "problem", "program", "prompt"]
Columns = dict[str, Any]

TEXTS = ("text", "content", "raw_content")
SOLUTIONS = ("canonical_solution", "code", "solution", "solutions", "generated_solution")
_FUNCTIONS = ("entry_point", "fn_name", "func_name")
_CODE_SETS = frozenset(("input_output", "verification_info", "public_test_cases", "private_test_cases"))


@dataclass(frozen=True, slots=True)
class Schema:
    """One schema: ``fits`` says whether a row has it, ``reshape`` gives the row the columns of its
    ``kind``. ``about``: the columns by which it is known."""

    name: str
    kind: Kind
    about: str
    fits: Callable[[Mapping[str, Any]], bool]
    reshape: Callable[[Mapping[str, Any]], Columns]


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(name in row for name in names)


def _keep(*names: str) -> Callable[[Mapping[str, Any]], Columns]:
    """Take these columns as they are, those that the row has."""
    return lambda row: {name: row[name] for name in names if name in row}


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if row.get(name) is not None), None)


def _preference(row: Mapping[str, Any]) -> Columns:
    """A prompt that the two conversations begin with themselves (UltraFeedback) is left out."""
    whole = all(is_conversation(row[side]) and len(row[side]) > 1 for side in ("chosen", "rejected"))
    names = ("chosen", "rejected") if whole else ("prompt", "chosen", "rejected")
    columns = _keep(*names)(row)
    if not whole and "prompt" not in row and "question" in row:
        columns["prompt"] = row["question"]
    return columns


def _unpaired(row: Mapping[str, Any]) -> Columns:
    return {"prompt": row["prompt"], "completion": row["completion"], "label": row["label"]}


def _safe(row: Mapping[str, Any]) -> Columns:
    return {"prompt": row["prompt"], "completion": row[_first(row, RESPONSES) or "response"]} | _keep("safe")(
        row
    )


def _alpaca(row: Mapping[str, Any]) -> Columns:
    """The input follows the instruction after an empty line; a system text is a turn of its own."""
    asked, given = row["instruction"], row.get("input")
    if isinstance(asked, str) and isinstance(given, str) and given.strip():
        asked = f"{asked}\n\n{given}"
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        asked = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
    return {"prompt": asked, "completion": row.get("output", row.get("response"))}


def _conversation(row: Mapping[str, Any]) -> Columns:
    """Turns of ``messages`` or ShareGPT's ``conversations``; a system text in a column of its own comes
    first."""
    turns = row[next(name for name in CONVERSATIONS if is_conversation(row.get(name)))]
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        turns = [{"role": "system", "content": system}, *turns]
    return {"messages": turns}


def _is_conversation(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: is_conversation(row.get(name))


def _problem(*answers: str) -> Callable[[Mapping[str, Any]], Columns]:
    """A problem with the first of these answers; the solution is kept."""

    def reshape(row: Mapping[str, Any]) -> Columns:
        found = _first(row, answers)
        columns = {
            "problem": row[_first(row, PROGRAM_PROMPTS) or "problem"],
            "answer": inner(row, found or answers[0]),
        }
        if isinstance(row.get("solution"), str) and found != "solution":
            columns["solution"] = row["solution"]
        return columns

    return reshape


def _verl(row: Mapping[str, Any]) -> Columns:
    name = "tests" if _is_verl_tests(row) else "answer"
    return {"problem": row["prompt"], name: inner(row, "reward_model.ground_truth")}


def _is_verl(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("reward_model"), Mapping) and "prompt" in row


def _is_verl_tests(row: Mapping[str, Any]) -> bool:
    value = inner(row, "reward_model.ground_truth") if _is_verl(row) else None
    if isinstance(value, str):
        return value.lstrip()[:1] in ("{", "[") and "input" in value
    return isinstance(value, list | dict)


def _program(row: Mapping[str, Any]) -> Columns:
    """The problem, the columns of its tests under their own names, and a written solution."""
    asked = _first(row, PROGRAM_PROMPTS)
    if asked == "prompt" and {"query", "problem_description"} <= set(row):
        asked = "query"  # LeetCode sets: their column prompt is code that runs before the program
    kept = ("starter_code", "metadata", "time_limit", "memory_limit", *_FUNCTIONS)
    columns: Columns = {"problem": row[asked or "prompt"]}
    columns |= {name: inner(row, name) for name in TESTS if has_tests(row, name)}
    columns |= {name: row[name] for name in kept if row.get(name) is not None}
    solution = _first(row, SOLUTIONS)
    return columns | ({} if solution is None else {"solution": row[solution]})


def _is_program(row: Mapping[str, Any]) -> bool:
    named = any(name in row for name in PROGRAM_PROMPTS)
    written = any(has_tests(row, name) for name in ("test_list", "public_tests", "official_tests", "tests"))
    return named and (written or bool(_CODE_SETS & {name for name in row if row[name] not in (None, "")}))


def _is_humaneval(row: Mapping[str, Any]) -> bool:
    return {"prompt", "test", "entry_point"} <= set(row)


def _answered(row: Mapping[str, Any]) -> Columns:
    return {
        "prompt": row[_first(row, PROMPTS) or "prompt"],
        "completion": row[_first(row, RESPONSES) or "response"],
    }


def _is_answered(row: Mapping[str, Any]) -> bool:
    return any(name in row for name in PROMPTS) and any(name in row for name in RESPONSES)


def _is_gsm8k(row: Mapping[str, Any]) -> bool:
    return {"question", "answer"} <= set(row) and "####" in str(row["answer"])


def _text(row: Mapping[str, Any]) -> Columns:
    return {"text": row[next(name for name in TEXTS if name in row)]}


def _is_text(row: Mapping[str, Any]) -> bool:
    return any(name in row for name in TEXTS)


_UNPAIRED = ("prompt", "completion", "label")

# A row has the first schema that fits, so the narrow ones come first.
SCHEMAS: dict[str, Schema] = {
    schema.name: schema
    for schema in (
        Schema("preference", "preference", "chosen, rejected", _has("chosen", "rejected"), _preference),
        Schema("unpaired", "unpaired", "prompt, completion, label", _has(*_UNPAIRED), _unpaired),
        Schema(
            "safe",
            "unpaired",
            "prompt, response, safe",
            lambda row: "safe" in row and "prompt" in row and _first(row, RESPONSES) is not None,
            _safe,
        ),
        Schema("verl_tests", "program", "prompt, reward_model.ground_truth (tests)", _is_verl_tests, _verl),
        Schema("verl", "problem", "prompt, reward_model.ground_truth", _is_verl, _verl),
        Schema("humaneval", "program", "prompt, test, entry_point", _is_humaneval, _program),
        Schema("tests", "program", "a problem with test_list, input_output ...", _is_program, _program),
        Schema("alpaca", "pair", "instruction, input, output", _has("instruction", "output"), _alpaca),
        Schema("open_r1", "problem", "problem, solution, answer", _has("problem", "solution", "answer"),
               _problem("answer", "solution")),
        Schema("math", "problem", "problem, solution", _has("problem", "solution"), _problem("solution")),
        Schema("gsm8k", "problem", "question, answer with ####", _is_gsm8k, _problem("answer")),
        Schema("sharegpt", "conversation", "conversations", _is_conversation("conversations"), _conversation),
        Schema("messages", "conversation", "messages", _is_conversation("messages"), _conversation),
        Schema("prompt_completion", "pair", "prompt, completion", _has("prompt", "completion"),
               _keep("prompt", "completion")),
        Schema("answered", "pair", "prompt, question or instruction, with response", _is_answered, _answered),
        Schema(
            "problem",
            "problem",
            "prompt, problem or question, with answer, ground_truth or solution",
            lambda row: _first(row, (*PROMPTS, "problem")) is not None and _first(row, ANSWERS) is not None,
            _problem(*ANSWERS),
        ),
        Schema("text", "text", "text, content or raw_content", _is_text, _text),
        Schema("prompt", "prompt", "prompt", _has("prompt"), _keep("prompt")),
    )
}  # fmt: skip


def recognise(row: Mapping[str, Any]) -> Schema | None:
    """The schema of a row: the first that fits; None where none does."""
    return next((schema for schema in SCHEMAS.values() if schema.fits(row)), None)


def schema_named(name: str) -> Schema:
    """Raises ConfigError for a name that is not in the table."""
    if name not in SCHEMAS:
        raise ConfigError(f"schema_name: unknown schema {name!r}: {suggest(name, SCHEMAS)}")
    return SCHEMAS[name]


def unrecognised(row: Mapping[str, Any]) -> str:
    """What to say of a row that has no schema of the table."""
    known = "; ".join(f"{schema.name} ({schema.about})" for schema in SCHEMAS.values())
    return (
        f"no schema fits the columns {columns_of(row)}; known: {known}. For texts name the columns: "
        "fields: [COLUMN]"
    )


def as_pair(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of a schema of question and answer with the columns prompt and completion; any other row as it
    is."""
    schema = recognise(row)
    if schema is None or schema.kind != "pair" or {"prompt", "completion"} <= set(row):
        return row
    return schema.reshape(row)
