"""The only boundary between text and tokens: prompts, completions, and the parsing of thinking and answer.

Text becomes tokens here and nowhere else. Sampled tokens are never decoded and tokenized again: a training
row is the prompt's ids followed by the ids that the engine returned."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from r1kit.config import R1kitError
from r1kit.tokenizer import ASSISTANT, USER, Tokenizer
from r1kit.types import Completion, Problem, Rollout

TemplateName = Literal["chat", "r1_zero", "model"]

# DeepSeek-R1, Table 1: it prescribes the structure, not the content.
R1_ZERO_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
    "assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: {prompt}. Assistant:"
)

_THOUGHT = re.compile(r"\s*<think>(?P<thinking>.*?)</think>(?P<rest>.*)", re.DOTALL)
_ANSWERED = re.compile(r"\s*<answer>(?P<answer>.*)</answer>\s*", re.DOTALL)
_TAG = re.compile(r"<[\s/]*(?:think|answer)\b[^<>]*>", re.IGNORECASE)  # in any spelling
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs of Unicode that are invisible
_HIDDEN = ("\ufdd0", "\ufdd1")  # noncharacters of Unicode, which no text contains


def parse(text: str) -> tuple[str, str] | None:
    """(thinking, answer) of a completion that follows the template exactly, else None. This is the only check
    of the template.

    The template is one <think>..</think>, then one non-empty <answer>..</answer>, with nothing before,
    between or after; or, as DeepSeek-R1 itself writes, one <think>..</think> and then a non-empty summary. No
    other tag is allowed, in any spelling; an answer of invisible characters counts as empty."""
    match = _THOUGHT.fullmatch(text)
    if match is None:
        return None
    wrapped = _ANSWERED.fullmatch(match["rest"])
    thinking, answer = match["thinking"].strip(), (wrapped["answer"] if wrapped else match["rest"]).strip()
    if _TAG.search(thinking) or _TAG.search(answer) or not is_visible(answer):
        return None
    return thinking, answer


def is_visible(text: str) -> bool:
    """Whether a text contains a visible letter, number, punctuation or symbol."""
    return any(unicodedata.category(character)[0] in "LNPS" and character not in _BLANK for character in text)


@dataclass(frozen=True)
class Chat:
    """Prompts and parsing for one tokenizer and one template.

    ``chat``: DeepSeek's turn tokens; ``r1_zero``: the plain-text template of R1-Zero (Table 1) for base
    models; ``model``: the checkpoint's own Jinja template. ``opening`` is text that every completion must
    start with ("<think>\\n" in R1's usage advice); it is part of the prompt's ids and of the text that is
    parsed."""

    tokenizer: Tokenizer
    template: TemplateName = "chat"
    opening: str = ""

    def prompt_ids(self, problem: Problem, opening: str | None = None) -> np.ndarray:
        """Ids [T] int32 of the prompt, up to the first token that the model samples."""
        return self.turn_ids([("user", problem.prompt)], self.opening if opening is None else opening)

    def turn_ids(self, turns: Sequence[tuple[str, str]], opening: str = "") -> np.ndarray:
        """Ids of a conversation of (role, text), for the assistant to continue after ``opening``.

        Only the template's own tokens become special ids; a special token spelled out in a text stays
        text."""
        tokenizer = self.tokenizer
        pieces: list[np.ndarray] = [np.asarray([tokenizer.bos_id], dtype=np.int32)]
        if self.template == "r1_zero":
            before, after = R1_ZERO_TEMPLATE.split("{prompt}")
            if [role for role, _ in turns] != ["user"]:
                raise R1kitError(
                    "the r1_zero template takes one question; use template: chat for conversations"
                )
            pieces.append(tokenizer.encode(before + turns[0][1] + after))
        elif self.template == "chat":
            for role, text in turns:
                if role == "user":
                    pieces += [self._special(USER), tokenizer.encode(text)]
                elif role == "assistant":
                    pieces += [
                        self._special(ASSISTANT),
                        tokenizer.encode(text),
                        np.asarray([tokenizer.eos_id], dtype=np.int32),
                    ]
                else:
                    pieces.append(tokenizer.encode(text))
            pieces.append(self._special(ASSISTANT))
        else:
            pieces = self._rendered(turns)
        if opening:
            pieces.append(tokenizer.encode(opening))
        return np.concatenate(pieces).astype(np.int32)

    def response_ids(self, text: str) -> np.ndarray:
        """Ids of a written response with the end token, as SFT trains on them."""
        return np.concatenate([self.tokenizer.encode(text), [self.tokenizer.eos_id]]).astype(np.int32)

    def rollouts(
        self,
        problem: Problem,
        prompt_ids: np.ndarray,
        completions: Sequence[Completion],
        opening: str | None = None,
        number: int = 0,
    ) -> list[Rollout]:
        """Parse the completions of one problem into its group of rollouts, group ``number`` of those that are
        sampled together.

        Thinking and answer are None for a completion that was cut off ("length"), and for one with a special
        token before its end; such a token is visible in the rollout's text."""
        opening = self.opening if opening is None else opening
        texts = self.tokenizer.decode_batch([c.token_ids for c in completions])
        group = []
        for index, (completion, text) in enumerate(zip(completions, texts, strict=True)):
            body = completion.token_ids[:-1] if completion.finish == "stop" else completion.token_ids
            strays = not self.tokenizer.special_ids.isdisjoint(body.tolist())
            written = opening + (self.tokenizer.decode(body, special=True) if strays else text)
            parsed = parse(written) if completion.finish == "stop" and not strays else None
            thinking, answer = parsed if parsed else (None, None)
            group.append(Rollout(problem, index, prompt_ids, completion, written, thinking, answer, number))
        return group

    def _special(self, token: str) -> np.ndarray:
        return np.asarray([self.tokenizer.id(token)], dtype=np.int32)

    def _rendered(self, turns: Sequence[tuple[str, str]]) -> list[np.ndarray]:
        """Ids of the checkpoint's own template around the turns. Special tokens that are spelled out in a
        turn are hidden from the template and put back as text."""
        spelled = (_HIDDEN[0], *sorted(self.tokenizer.special_tokens, key=len, reverse=True))
        any_spelled = re.compile("|".join(map(re.escape, spelled)))
        hidden = [
            (role, any_spelled.sub(lambda m: f"{_HIDDEN[0]}{spelled.index(m[0])}{_HIDDEN[1]}", text))
            for role, text in turns
        ]
        parts = re.split(f"{_HIDDEN[0]}(\\d+){_HIDDEN[1]}", self._render(hidden))
        return [
            self.tokenizer.encode(spelled[int(part)])
            if place % 2
            else self.tokenizer.encode(part, special=True)
            for place, part in enumerate(parts)
        ]

    def _render(self, turns: Sequence[tuple[str, str]]) -> str:
        if self.tokenizer.chat_template is None:
            raise R1kitError(
                "template: model needs a chat template, and this checkpoint has none; use template: chat "
                "or r1_zero"
            )
        import jinja2.sandbox

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        names = self.tokenizer.names
        return environment.from_string(self.tokenizer.chat_template).render(
            messages=[{"role": role, "content": text} for role, text in turns],
            bos_token=names["bos"], eos_token=names["eos"], add_generation_prompt=True,
        )  # fmt: skip
