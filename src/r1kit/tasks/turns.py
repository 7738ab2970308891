"""Conversations in data files: who says what, in the field's layouts, as (context, last turn).

A turn is ``{"role": "user", "content": "Hi"}`` or ``{"from": "human", "value": "Hi"}``; its content is a text
or a list of text parts. Roles in other words (human, gpt, developer ...) are those of ``ROLES``. After system
turns, user and assistant take turns."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1kit.config import R1kitError
from r1kit.jsonl import column

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}

Turn = dict[str, str]
Context = tuple[Turn, ...]


def is_conversation(value: Any) -> bool:
    """Whether a column's value is a list of turns."""
    return isinstance(value, list)


def read_turns(path: Path, number: int, name: str, value: Any) -> list[Turn]:
    """The turns of a column, each with role (system, user or assistant) and content. Raises R1kitError naming
    file, row and fix."""
    where = f"{path}:{number}: column {name!r}"
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise R1kitError(
            f'{where}: a conversation is a list of turns such as {{"role": "user", "content": "Hi"}}'
        )
    turns = [_turn(path, number, name, place, turn) for place, turn in enumerate(value)]
    spoken = [turn["role"] for turn in turns if turn["role"] != "system"]
    if any(one == other for one, other in itertools.pairwise(spoken)):
        raise R1kitError(
            f"{where}: one user turn, then one assistant turn, and so on; here two of one role follow "
            "each other; split or remove the row"
        )
    return turns


def read_prompt(path: Path, number: int, name: str, value: Any) -> tuple[str, Context]:
    """(the last user turn, the turns before it) of a prompt in turns. Raises R1kitError for a conversation
    that does not end with the user."""
    turns = read_turns(path, number, name, value)
    if turns[-1]["role"] != "user":
        raise R1kitError(
            f"{path}:{number}: column {name!r}: a prompt ends with a user turn, not with one of the "
            f"{turns[-1]['role']}; remove what follows it, or the row"
        )
    return turns[-1]["content"], tuple(turns[:-1])


def columns_with(context: Context, row: Mapping[str, Any], conversational: bool = False) -> dict[str, Any]:
    """A row's columns with ``messages``: the turns before the prompt, empty where a ``conversational`` row
    has none; absent where the prompt is a text."""
    columns = {name: value for name, value in row.items() if name != "messages"}
    return {**columns, "messages": context} if context or conversational else columns


def _turn(path: Path, number: int, name: str, place: int, turn: Mapping[str, Any]) -> Turn:
    where = f"{path}:{number}: column {name!r}, turn {place}"
    written = turn.get("role", turn.get("from"))
    role = ROLES.get(written.lower()) if isinstance(written, str) else None
    if role is None:
        raise R1kitError(f"{where}: the role {written!r} is not read; known: {', '.join(ROLES)}")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "".join(_part(where, part) for part in content)
    if not isinstance(content, str):
        raise R1kitError(f"{where}: the content is missing or not a text; write it or remove the row")
    return {"role": role, "content": column(path, number, {name: content}, name)}


def _part(where: str, part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise R1kitError(f"{where}: a part of the kind {kind!r} is not read, only text; remove the row")
    return text
