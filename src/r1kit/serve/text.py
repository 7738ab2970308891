"""From tokens to text as they come: whole characters, up to a stop text, thinking and answer apart.

The pieces of a stream are the pieces of the whole answer: both go through ``Writer``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from r1kit.tokenizer import Tokenizer

Part = tuple[Literal["reasoning", "content"], str]

THINK, END_THINK = "<think>", "</think>"
_MOST_PENDING = 8  # tokens of one character, at most; more are no text


class Characters:
    """Tokens to text. A piece is decoded with the token or tokens before it, since some tokenizers drop a
    space at the beginning; a character may take several tokens. ``texts`` keeps the texts of single tokens,
    for all completions of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, texts: dict[int, str] | None = None) -> None:
        self._tokenizer, self._texts = tokenizer, {} if texts is None else texts
        self._ids: list[int] = []  # the tokens before, then those that are pending
        self._pending = 0
        self._known = ""  # the text of the tokens before

    def feed(self, token_id: int) -> str:
        """The text that is complete with this token."""
        self._ids.append(token_id)
        self._pending += 1
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\ufffd") and self._pending < _MOST_PENDING:
            return ""
        return self._taken(text, self._ids[len(self._ids) - self._pending :])

    def whole(self, token_ids: Sequence[int]) -> str | None:
        """The text that these tokens would complete; None where they hold parts of characters."""
        text = self._tokenizer.decode([*self._ids, *token_ids])[len(self._known) :]
        return None if "\ufffd" in text or self._pending else text

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """The text of each token alone; together they are the whole text for most tokenizers."""
        return [self._alone(token_id) for token_id in token_ids]

    def take(self, token_ids: Sequence[int], text: str) -> None:
        """Take tokens whose text is ``whole``."""
        last = token_ids[-1:] if "\ufffd" not in self._alone(token_ids[-1]) else token_ids
        self._taken(self._known + text, list(last))

    def end(self) -> str:
        """What is left, with a sign in the place of a character that is not complete."""
        return self._taken(self._tokenizer.decode(self._ids), []) if self._pending else ""

    def _taken(self, text: str, before: list[int]) -> str:
        """The new part of a text; ``before`` are the tokens that the next piece is decoded with."""
        new = text[len(self._known) :]
        self._known = self._alone(before[0]) if len(before) == 1 else self._tokenizer.decode(before)
        self._ids, self._pending = before, 0
        return new

    def _alone(self, token_id: int) -> str:
        """The text of one token, decoded once for all completions."""
        if (text := self._texts.get(token_id)) is None:
            text = self._texts[token_id] = self._tokenizer.decode([token_id])
        return text


class Stops:
    """A text up to the first stop text in it. ``kept`` ones belong to the text, others do not. Only what may
    be the beginning of a stop text is held back."""

    def __init__(self, stops: Sequence[str], kept: Sequence[str] = ()) -> None:
        self._stops = [(one, False) for one in stops] + [(one, True) for one in kept]
        self.held = ""  # what may be the beginning of a stop text
        self.ended = False

    def feed(self, piece: str) -> str:
        """The text that surely belongs to the answer; ``ended`` is set with the last of it."""
        if not self._stops:
            return piece
        text = self.held + piece
        found = [
            (place + len(one), place + len(one) if kept else place)
            for one, kept in self._stops
            if (place := text.find(one)) >= 0
        ]
        if found:
            self.ended, self.held = True, ""
            return text[: min(found)[1]]
        held = max(beginning_at_end(text, one) for one, _ in self._stops)
        self.held = text[len(text) - held :]
        return text[: len(text) - held]

    def are_in(self, piece: str) -> bool:
        """Whether the text would end with this piece."""
        text = self.held + piece
        return any(one in text for one, _ in self._stops)

    def end(self) -> str:
        """What was held back and is no stop text."""
        held, self.held = self.held, ""
        return held


class Sections:
    """Thinking and answer. A text that begins with <think> thinks up to </think>; the blanks around the
    thinking are left out. Any other text is an answer as it is."""

    def __init__(self) -> None:
        self._state: Literal["start", "thinking", "after", "content"] = "start"
        self._held = ""
        self._shown = False  # whether any of the thinking has been given out

    @property
    def thinks(self) -> bool:
        """Whether the thinking has begun and not ended."""
        return self._state == "thinking"

    def turn_in(self, piece: str) -> bool:
        """Whether thinking might begin or end with this piece."""
        text = self._held + piece
        if self._state == "start":
            return text.lstrip().startswith(THINK)
        return self._state == "thinking" and END_THINK in text

    def feed(self, piece: str) -> list[Part]:
        """The parts that this piece completes."""
        parts: list[Part] = []
        self._held += piece
        if self._state == "start":
            self._start()
        if self._state == "thinking":
            parts += self._think()
        if self._state == "after":
            self._held = self._held.lstrip()
            self._state = "content" if self._held else "after"
        if self._state == "content" and self._held:
            parts.append(("content", self._held))
            self._held = ""
        return parts

    def end(self) -> list[Part]:
        """What was held back."""
        held, self._held = self._held, ""
        if self._state == "thinking":
            held = held.rstrip()
        if not held or self._state == "after":
            return []
        return [("reasoning" if self._state == "thinking" else "content", held)]

    def _start(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(THINK):
            self._state, self._held = "thinking", begun.removeprefix(THINK)
        elif begun and not THINK.startswith(begun):
            self._state = "content"

    def _think(self) -> list[Part]:
        text, found, rest = self._held.partition(END_THINK)
        if not self._shown:
            text = text.lstrip()
        if found:
            self._state, self._held = "after", rest
            text = text.rstrip()
        else:
            shown = text[: len(text) - beginning_at_end(text, END_THINK)].rstrip()
            text, self._held = shown, text[len(shown) :]
        self._shown = self._shown or bool(text)
        return [("reasoning", text)] if text else []


def beginning_at_end(text: str, wanted: str) -> int:
    """How many characters at the end of a text may begin ``wanted``, all of it not counted."""
    longest = min(len(text), len(wanted) - 1)
    if text.find(wanted[0], len(text) - longest) < 0:
        return 0
    return next((size for size in range(longest, 0, -1) if text.endswith(wanted[:size])), 0)


@dataclass(slots=True)
class Writer:
    """The text of one completion. ``end_ids`` end it and have no text; ``begun`` is what the prompt has
    already begun of it; ``split`` separates thinking and answer."""

    characters: Characters
    stops: Stops
    end_ids: frozenset[int]
    begun: str = ""
    split: bool = True
    sections: Sections = field(default_factory=Sections)
    tokens: int = 0
    reasoning_tokens: int = 0
    finish: Literal["stop", "length"] | None = None

    def start(self) -> list[Part]:
        """The parts that the prompt has begun."""
        return self._parts(self.begun)

    def write(self, token_ids: Sequence[int]) -> tuple[int, list[Part]]:
        """Take tokens until the completion ends; return how many were taken and the parts they complete."""
        ends = [place for place, token_id in enumerate(token_ids) if token_id in self.end_ids]
        texts = token_ids[: ends[0]] if ends else token_ids
        taken, parts = self._write(texts)
        if self.finish is None and ends:
            self.tokens += 1
            self.finish = "stop"
            return taken + 1, parts + self._rest()
        return taken, parts

    def _write(self, token_ids: Sequence[int]) -> tuple[int, list[Part]]:
        """Tokens that do not end the completion themselves: at once where nothing ends in their text and no
        thinking begins or ends, else one by one."""
        text = self.characters.whole(token_ids) if len(token_ids) > 1 else None
        if text is None:
            return self._one_by_one(map(self.characters.feed, token_ids))
        if self.stops.are_in(text) or (self.split and self.sections.turn_in(self.stops.held + text)):
            pieces = self.characters.pieces(token_ids)
            if "".join(pieces) != text:
                return self._one_by_one(map(self.characters.feed, token_ids))
            self.characters.take(token_ids, text)
            return self._one_by_one(pieces)
        self.characters.take(token_ids, text)
        self.tokens += len(token_ids)
        self.reasoning_tokens += len(token_ids) if self.sections.thinks else 0
        return len(token_ids), self._parts(self.stops.feed(text))

    def _one_by_one(self, pieces: Iterable[str]) -> tuple[int, list[Part]]:
        """The texts of tokens, to the one that ends the completion."""
        taken, parts = 0, []
        for taken, piece in enumerate(pieces, 1):
            thought = self.sections.thinks
            parts += self._parts(self.stops.feed(piece))
            self.tokens += 1
            self.reasoning_tokens += thought or self.sections.thinks
            if self.stops.ended:
                self.finish = "stop"
                return taken, parts + self.sections.end()
        return taken, parts

    def end(self, finish: Literal["stop", "length"]) -> list[Part]:
        """End the completion for another reason; return the parts that were held back."""
        self.finish = finish
        return self._rest()

    def _rest(self) -> list[Part]:
        text = self.stops.feed(self.characters.end())
        return self._parts(text if self.stops.ended else text + self.stops.end()) + self.sections.end()

    def _parts(self, text: str) -> list[Part]:
        if not self.split:
            return [("content", text)] if text else []
        return self.sections.feed(text) if text else []


def merged(parts: Sequence[Part]) -> list[Part]:
    """The parts with neighbours of one kind put together."""
    found: list[Part] = []
    for kind, text in parts:
        if found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + text)
        else:
            found.append((kind, text))
    return found
