"""The only boundary between text and tokens: prompts, completions, and the parsing of thinking and answer.

Text becomes tokens here and nowhere else. Sampled tokens are never decoded and tokenized again: a training
row is the prompt's ids followed by the ids that the engine returned."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from r1kit.config import R1kitError, shorten
from r1kit.templates import Template, place_of, render
from r1kit.tokenizer import ASSISTANT, USER, Tokenizer
from r1kit.types import Completion, Problem, Rollout

TemplateName = Literal["chat", "r1_zero", "model"]
Turn = tuple[str, str]  # role and text
Prompt = str | list[dict[str, str]]  # as in a file: a text, or turns of which the last is the user's

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
_OPENED = re.compile(r"<think>(?:(?!<think>).)*\Z", re.DOTALL)  # in what a generation prompt adds
_ENDS_OPEN = re.compile(r"<think>\s*(?:</think>\s*)?\Z")  # at the end of a prompt that always opens
_THINKS = re.compile(r"\b(?:enable_)?thinking\b")  # in a template: the variable that turns thinking on
_CLOSES = re.compile(r"(?:</[^<>]+>|[}\])])\s*\Z")  # at the end of a stop text
_ROLES = ("system", "user", "assistant")
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


def turns_of(problem: Problem) -> list[Turn]:
    """The conversation that a problem asks to continue: its earlier turns, where ``columns["messages"]`` is a
    tuple of {"role", "content"}, then its prompt as the user's turn. A column of that name that came with a
    data set is a list, and no part of the prompt."""
    earlier = problem.columns.get("messages")
    turns = [(turn["role"], turn["content"]) for turn in earlier] if isinstance(earlier, tuple) else []
    return [*turns, ("user", problem.prompt)]


def is_conversational(problem: Problem) -> bool:
    """Whether a problem's prompt was given as turns, and not as a text."""
    return isinstance(problem.columns.get("messages"), tuple)


def messages_of(problem: Problem) -> list[dict[str, str]]:
    """``turns_of`` a problem as messages, {"role", "content"}."""
    return [{"role": role, "content": text} for role, text in turns_of(problem)]


def prompt_column(problem: Problem) -> Prompt:
    """A problem's prompt as a column of a file: its text, or all turns where there are earlier ones."""
    turns = messages_of(problem)
    return problem.prompt if len(turns) == 1 else turns


def problem_of(prompt: Prompt) -> Problem:
    """A problem with this prompt, and nothing else."""
    if isinstance(prompt, str):
        return Problem("", "", prompt, None)
    return Problem("", "", prompt[-1]["content"], None, columns={"messages": tuple(prompt[:-1])})


def default_template(tokenizer: Tokenizer) -> TemplateName:
    """The template of a model of which a recipe says nothing: DeepSeek's turns where the vocabulary has them,
    else the checkpoint's own. Raises R1kitError with the fix where there is neither."""
    if tokenizer.has(USER) and tokenizer.has(ASSISTANT):
        return "chat"
    if tokenizer.chat_template is not None:
        return "model"
    raise R1kitError(
        "this checkpoint has no chat template, and its vocabulary lacks DeepSeek's turn tokens; say how it "
        "is prompted: talk: {template: r1_zero} (plain text, for a base model), or talk: {template: "
        "my.jinja} (a file of your own)"
    )


def stop_end(text: str, stop: Sequence[str]) -> int | None:
    """Where a completion's text ends for the first stop text in it, None where there is none; the token that
    completes it may hold more. A stop text that closes something (``</answer>``, ``}``) belongs to the text,
    any other ("User:", a blank line, ``<|end|>``) is what follows it."""
    found = [(place + len(one), place, one) for one in stop if (place := text.find(one)) >= 0]
    if not found:
        return None
    end, begin, one = min(found)
    return end if _CLOSES.search(one) else begin


@dataclass(frozen=True)
class Chat:
    """Prompts and parsing for one tokenizer and one template.

    ``chat``: DeepSeek's turn tokens; ``r1_zero``: the plain-text template of R1-Zero (Table 1) for base
    models; ``model``: the checkpoint's own Jinja template, rendered by r1kit.templates. ``opening`` is text
    that every completion must start with ("<think>\\n" in R1's usage advice); it is part of the prompt's
    ids and of the text that is parsed. So is the tag of a checkpoint's template that opens the thinking
    itself; there is never a second one.

    ``system`` and ``examples``, (question, response) each, come before every question; a conversation with a
    system turn of its own keeps that one. ``thinking`` is what the checkpoint's template reads as
    ``enable_thinking``.

    ``stop`` are texts that end a completion. Its ids are those that were sampled, up to the token that
    completes the text, and no end token is added to them. What its text ends with: ``stop_end``."""

    tokenizer: Tokenizer
    template: TemplateName = "chat"
    opening: str = ""
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    stop: tuple[str, ...] = ()
    thinking: bool | None = None

    @property
    def begun(self) -> str:
        """The text that every completion starts with: what the checkpoint's template opens, then
        ``opening``. An opening that has the tag itself takes the place of the template's."""
        own = self._opened
        if not self.opening.lstrip().startswith("<think>"):
            return own + self.opening
        return own if own.strip() == self.opening.strip() == "<think>" else self.opening

    def prompt_ids(self, problem: Problem, opening: str | None = None) -> np.ndarray:
        """Ids [T] int32 of the prompt with its earlier turns, up to the first token that the model samples.
        ``opening`` is what the completion starts with, ``begun`` unless it is given."""
        return self.turn_ids(turns_of(problem), opening)

    def turn_ids(self, turns: Sequence[Turn], opening: str | None = None) -> np.ndarray:
        """Ids of a conversation of (role, text), for the assistant to continue after ``opening``, which is
        ``begun`` unless it is given.

        Only the template's own tokens become special ids; a special token spelled out in a text stays text.
        Raises R1kitError with the reason for a conversation that the template does not have."""
        opening = self.begun if opening is None else opening
        if self.template == "r1_zero":
            pieces = self._zero(turns)
        elif self.template == "model":
            return self._rendered(self._framed(turns), opening)
        else:
            pieces = self._chat(self._framed(turns))
        if opening:
            pieces.append(self.tokenizer.encode(opening))
        return np.concatenate([self.tokenizer.start_ids, *pieces]).astype(np.int32)

    def text_ids(self, text: str, begin: bool = True) -> np.ndarray:
        """Ids [T] int32 of a whole prompt that its writer has put together, for a server: special tokens that
        it spells out are meant, and texts that have a start token get it where it is missing."""
        ids, start = self.tokenizer.encode(text, special=True), self.tokenizer.start_ids
        missing = begin and len(start) and (not len(ids) or ids[0] != start[0])
        return np.concatenate([start, ids]).astype(np.int32) if missing else ids

    def check(self) -> None:
        """Raise R1kitError with the fix where the tokenizer or the template cannot write these prompts."""
        self.prompt_ids(Problem("", "", "1+1?", None))
        named = self.tokenizer.chat_template or ""
        if self.thinking is not None and not (self.template == "model" and _THINKS.search(named)):
            raise R1kitError(
                "thinking: only a checkpoint's own template that reads enable_thinking has it, and this one "
                "does not; leave it out, and use opening instead"
            )

    def response_ids(self, text: str) -> np.ndarray:
        """Ids of a written response with the end token, as SFT trains on them: the one with which the
        checkpoint's template ends a turn, if sampling stops there, else the tokenizer's."""
        end = self.turn_end
        if end is None or end not in (*self.tokenizer.end_ids, *self._stop_ids):
            end = self.tokenizer.eos_id
        return np.concatenate([self.tokenizer.encode(text), [end]]).astype(np.int32)

    @property
    def turn_end(self) -> int | None:
        """The special or end token that the checkpoint's template writes after the assistant's text, with no
        more than white space between. A model that is trained on the template ends there, whether or not the
        checkpoint lists that token."""
        tokenizer = self.tokenizer
        if self.template != "model" or tokenizer.chat_template is None:
            return None
        for index in tokenizer.encode(_turn_end(self._template, self._names), special=True).tolist():
            if index in tokenizer.special_ids or index in tokenizer.end_ids:
                return int(index)
            if tokenizer.decode([index]).strip():
                return None
        return None

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
        opening = self.begun if opening is None else opening
        bodies = [self._without_end(completion) for completion in completions]
        texts = self.tokenizer.decode_batch(bodies)
        group = []
        for index, (completion, body, text) in enumerate(zip(completions, bodies, texts, strict=True)):
            strays = not self.tokenizer.special_ids.isdisjoint(body.tolist())
            written = self.tokenizer.decode(body, special=True) if strays else text
            written = opening + written[: stop_end(written, self.stop)]
            parsed = parse(written) if completion.finish == "stop" and not strays else None
            thinking, answer = parsed if parsed else (None, None)
            group.append(Rollout(problem, index, prompt_ids, completion, written, thinking, answer, number))
        return group

    def _without_end(self, completion: Completion) -> np.ndarray:
        """The ids without the end token, or a special token that is a stop text."""
        ids = completion.token_ids
        ends = {*self.tokenizer.end_ids, *self._stop_ids}
        ended = completion.finish == "stop" and len(ids) and int(ids[-1]) in ends
        return ids[:-1] if ended else ids

    @property
    def _stop_ids(self) -> list[int]:
        special = self.tokenizer.special_tokens
        return [self.tokenizer.id(text) for text in self.stop if text in special]

    def _framed(self, turns: Sequence[Turn]) -> list[Turn]:
        """A conversation with the system turn and the examples before it."""
        own = list(turns[:1]) if turns and turns[0][0] == "system" else []
        system = own or ([("system", self.system)] if self.system else [])
        shown = [
            turn
            for question, response in self.examples
            for turn in (("user", question), ("assistant", response))
        ]
        return [*system, *shown, *turns[len(own) :]]

    def _zero(self, turns: Sequence[Turn]) -> list[np.ndarray]:
        """Table 1's text around the question; examples are questions and answers in the same form before
        it."""
        if [role for role, _ in turns] != ["user"] or self.system:
            raise R1kitError(
                "the r1_zero template takes one question, without system turn or earlier turns; use "
                "template: chat for conversations, or a template file for another instruction"
            )
        instruction, _, question = R1_ZERO_TEMPLATE.partition("User: ")
        gap = "" if self.begun else " "
        text = instruction
        for prompt, response in self.examples:
            text += f"User: {question.replace('{prompt}', prompt)}{gap}{response}\n"
        return [self.tokenizer.encode(f"{text}User: {question.replace('{prompt}', turns[0][1])}")]

    def _chat(self, turns: Sequence[Turn]) -> list[np.ndarray]:
        pieces: list[np.ndarray] = []
        for role, text in turns:
            if role not in _ROLES:
                raise R1kitError(
                    f"template: chat has no role {role!r}, only {', '.join(_ROLES)}; rename it in the data"
                )
            if role != "system":
                pieces.append(self._special(USER if role == "user" else ASSISTANT))
            pieces.append(self.tokenizer.encode(text))
            if role == "assistant":
                pieces.append(np.asarray([self.tokenizer.eos_id], dtype=np.int32))
        return [*pieces, self._special(ASSISTANT)]

    def _special(self, token: str) -> np.ndarray:
        if not self.tokenizer.has(token):
            raise R1kitError(
                f"template: chat writes DeepSeek's turn token {token}, which this vocabulary lacks; leave "
                "the template out for the checkpoint's own (template: model), or use template: r1_zero for a "
                "base model"
            )
        return np.asarray([self.tokenizer.id(token)], dtype=np.int32)

    @property
    def _opened(self) -> str:
        """What the template's generation prompt opens: "<think>\\n", say, or nothing."""
        if self.template != "model" or self.tokenizer.chat_template is None:
            return ""
        return _opened(self._template, self._names, tuple(self._variables.items()))

    @property
    def _template(self) -> Template:
        return Template(self.tokenizer.chat_template or "", self.tokenizer.template_file)

    @property
    def _variables(self) -> dict[str, Any]:
        if self.thinking is None:
            return {}
        return {"enable_thinking": self.thinking, "thinking": self.thinking}

    @property
    def _names(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.tokenizer.names.items())

    def _rendered(self, turns: Sequence[Turn], opening: str) -> np.ndarray:
        """Ids of the checkpoint's own template around the turns, which ends with ``opening`` in the place of
        what it opens itself. Special tokens that are spelled out in a turn are hidden from the template and
        put back as text."""
        spelled = (_HIDDEN[0], *sorted(self.tokenizer.special_tokens, key=len, reverse=True))
        any_spelled = re.compile("|".join(map(re.escape, spelled)))
        hidden = [
            (role, any_spelled.sub(lambda m: f"{_HIDDEN[0]}{spelled.index(m[0])}{_HIDDEN[1]}", text))
            for role, text in turns
        ]
        rendered, opened = self._render(hidden), self._opened
        if rendered.endswith(opened) and opening.startswith(opened):
            opening = opening.removeprefix(opened)
        else:
            rendered = rendered.removesuffix(opened)
        parts = re.split(f"{_HIDDEN[0]}(\\d+){_HIDDEN[1]}", rendered)
        pieces = [
            self.tokenizer.encode(spelled[int(part)])
            if place % 2
            else self.tokenizer.encode(part, special=True)
            for place, part in enumerate(parts)
        ]
        return np.concatenate([*pieces, self.tokenizer.encode(opening)]).astype(np.int32)

    def _render(self, turns: Sequence[Turn]) -> str:
        template = self.tokenizer.chat_template
        if template is None:
            named = ", ".join(self.tokenizer.templates)
            has = f"only others than its default: {named}" if named else "none"
            raise R1kitError(
                f"template: model needs a chat template, and this checkpoint has {has}; use template: chat "
                "or r1_zero"
            )
        rendered = render(self._template, self.tokenizer.names, turns, variables=self._variables)
        responses = [text for role, text in turns if role == "assistant"]  # those of the examples come first
        for response in responses[: len(self.examples)]:
            if response.strip() not in rendered:
                raise R1kitError(
                    f"{place_of(self._template)}the checkpoint's chat template does not write an example's "
                    f"completion as it is (some leave out earlier thinking): {response!r:.60}; shorten the "
                    "completion, or use template: chat, or a template file of your own"
                )
        for place, (role, text) in enumerate(turns):
            said = text.rpartition("</think>")[2] if role == "assistant" else text
            if said.strip() not in rendered and not self._writes(turns, place):
                fix = "move its text into the user's turn" if role == "system" else "correct the template"
                raise R1kitError(
                    f"{place_of(self._template)}the checkpoint's chat template leaves out the {role} turn "
                    f"{shorten(said.strip())}; "
                    f"{fix}, or use template: chat"
                )
        return rendered

    def _writes(self, turns: Sequence[Turn], place: int) -> bool:
        """Whether the template writes a turn in some form, escaped for instance: another text in its place
        changes what is rendered."""
        other = [*turns[:place], (turns[place][0], _HIDDEN[0]), *turns[place + 1 :]]
        return _HIDDEN[0] in render(self._template, self.tokenizer.names, other, variables=self._variables)


@lru_cache
def _opened(
    template: Template, names: tuple[tuple[str, str], ...], variables: tuple[tuple[str, Any], ...]
) -> str:
    """What a template's generation prompt opens after a question: "<think>\\n", with the text that it begins
    the thinking with, a thinking that it closes too, or nothing.

    A tag before the generation prompt, in the template's own system turn for instance, opens nothing."""
    try:
        prompt, question = (
            render(template, dict(names), [("user", "1+1?")], generation, dict(variables))
            for generation in (True, False)
        )
    except R1kitError:  # what it refuses is said where it is used
        return ""
    shared = 0
    while prompt[shared : shared + 1] and prompt[shared] == question[shared : shared + 1]:
        shared += 1
    added = prompt[shared:]
    match = _OPENED.search(added) if added else _ENDS_OPEN.search(prompt)
    return match[0] if match else ""


@lru_cache
def _turn_end(template: Template, names: tuple[tuple[str, str], ...]) -> str:
    """What a template writes after the assistant's text."""
    turns = [("user", "1+1?"), ("assistant", _HIDDEN[0])]
    try:
        return render(template, dict(names), turns, generation=False).rpartition(_HIDDEN[0])[2]
    except R1kitError:
        return ""
