"""Answers in the shapes of OpenAI's interface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from r1kit.engine.live import Drawn
from r1kit.serve.served import Scored
from r1kit.serve.text import Part
from r1kit.tokenizer import Tokenizer

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """What a choice has got: parts of its text, its tokens, and the reason to finish with the last of it."""

    index: int
    parts: list[Part]
    drawn: Drawn | None = None
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request."""

    prompt: int
    completion: int
    reasoning: int

    def as_dict(self) -> Json:
        """As in an answer."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


@dataclass(slots=True)
class Choice:
    """A whole choice, put together from its steps."""

    texts: dict[str, str] = field(default_factory=lambda: {"reasoning": "", "content": ""})
    drawn: list[Drawn] = field(default_factory=list)
    finish: str | None = None

    def add(self, step: Step) -> None:
        """Add a step."""
        for kind, text in step.parts:
            self.texts[kind] += text
        if step.drawn is not None:
            self.drawn.append(step.drawn)
        self.finish = step.finish or self.finish


def first_of(drawn: Drawn, count: int) -> Drawn:
    """The first tokens of what was drawn."""
    if count == len(drawn.token_ids):
        return drawn
    return Drawn(
        drawn.token_ids[:count], drawn.logprobs[:count], drawn.top_ids[:count], drawn.top_logprobs[:count],
        drawn.state,
    )  # fmt: skip


def message(choice: Choice) -> Json:
    """The message of a chat's choice."""
    thought = choice.texts["reasoning"] or None
    return {
        "role": "assistant",
        "content": choice.texts["content"],
        "reasoning_content": thought,
        "reasoning": thought,
        "refusal": None,
    }


def delta(parts: Sequence[Part]) -> Json:
    """What a chat's stream adds to a message."""
    found: Json = {}
    for kind, text in parts:
        for key in ("reasoning_content", "reasoning") if kind == "reasoning" else ("content",):
            found[key] = found.get(key, "") + text
    return found


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token as a text of its own; one that is part of a character is named by its id."""
    text = tokenizer.decode_all([token_id])
    return f"token_id:{token_id}" if "\ufffd" in text or not text else text


def chat_logprobs(tokenizer: Tokenizer, drawn: Sequence[Drawn]) -> Json:
    """Log-probabilities as chats have them."""
    rows = []
    for one in drawn:
        for place, token_id in enumerate(one.token_ids.tolist()):
            tops = zip(one.top_ids[place].tolist(), one.top_logprobs[place].tolist(), strict=True)
            rows.append(
                _entry(tokenizer, token_id, float(one.logprobs[place]))
                | {"top_logprobs": [_entry(tokenizer, top, value) for top, value in tops if top >= 0]}
            )
    return {"content": rows, "refusal": None}


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> Json:
    text = token_text(tokenizer, token_id)
    whole = not text.startswith("token_id:")
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}


def text_logprobs(
    tokenizer: Tokenizer, prompt: np.ndarray | None, scored: Scored | None, drawn: Sequence[Drawn], tops: int
) -> Json:
    """Log-probabilities as completions have them: of an echoed prompt, whose first token has none, and of
    what was drawn. The sampled token is always among the likeliest."""
    ids: list[int] = [] if prompt is None else prompt.tolist()
    values: list[float | None] = [None] * len(ids[:1])
    likeliest: list[Mapping[str, float] | None] = [None] * len(ids[:1])
    blocks = [] if scored is None else [(ids[1:], scored.logprobs, scored.top_ids, scored.top_logprobs)]
    blocks += [(one.token_ids.tolist(), one.logprobs, one.top_ids, one.top_logprobs) for one in drawn]
    for token_ids, logprobs, top_ids, top_logprobs in blocks:
        values += [float(value) for value in logprobs]
        for place, token_id in enumerate(token_ids):
            pairs = [*zip(top_ids[place].tolist(), top_logprobs[place].tolist(), strict=True)]
            found = {token_text(tokenizer, int(top)): float(value) for top, value in pairs if top >= 0}
            likeliest.append({token_text(tokenizer, token_id): float(logprobs[place])} | found)
    ids = ids + [token_id for one in drawn for token_id in one.token_ids.tolist()]
    texts = [token_text(tokenizer, token_id) for token_id in ids]
    return {
        "tokens": texts,
        "token_logprobs": values,
        "top_logprobs": likeliest if tops else None,
        "text_offset": np.cumsum([0, *map(len, texts[:-1])]).tolist() if texts else [],
    }
