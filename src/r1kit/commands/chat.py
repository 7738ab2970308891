"""``r1kit chat``: a conversation in the terminal. The answer appears as it is sampled, its thinking dimmed.

Every line is a conversation of its own, as in the model's training on single problems. A line that begins
with ``/more`` continues the conversation instead; earlier thinking is left out, as R1's template does."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from r1kit.chat import stop_end
from r1kit.config import R1kitError
from r1kit.engine.compiled import TRIED_IN_TALK
from r1kit.engine.native import NativeEngine, Precision
from r1kit.model.huggingface import load_pretrained
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, prompt_style_of
from r1kit.terminal import one_line
from r1kit.types import Sampling

Turn = tuple[str, str]

HELP = "type a question; /more question keeps the conversation; an empty line or Ctrl-D ends"
THINKING = ("<think>", "</think>")


class Speaker:
    """A model with its tokenizer and template, ready to answer."""

    def __init__(
        self, model_dir: Path, sampling: Sampling, style: PromptStyle | None = None,
        precision: Precision = "bfloat16",
    ) -> None:  # fmt: skip
        style = style or prompt_style_of(model_dir, PromptStyle())
        self.chat = style.chat(model_dir)
        self.tokenizer = self.chat.tokenizer
        model = load_pretrained(model_dir)
        self.longest = model.config.max_positions
        self.engine = NativeEngine(
            model, self.tokenizer.end_ids, precision=precision, decode=self.tokenizer.decode_all,
            speculate=TRIED_IN_TALK, lean=True,
        )  # fmt: skip
        self.sampling = replace(sampling, stop=self.chat.stop)

    def answer(self, turns: list[Turn], seed: int) -> Iterator[str]:
        """Yield the response piece by piece, up to a stop text. Raises R1kitError when the
        conversation fills the model's context."""
        prompt_ids = self.chat.turn_ids(turns)
        left = self.longest - len(prompt_ids)
        if left <= 0:
            raise R1kitError(f"the conversation fills the model's {self.longest} positions: begin a new one")
        sampling = replace(self.sampling, max_tokens=min(self.sampling.max_tokens, left))
        ids: list[int] = []
        if self.chat.begun:
            yield self.chat.begun
        pieces = self._pieces(self.engine.stream(prompt_ids, sampling, seed), ids)
        yield from until_stop(pieces, self.chat.stop)
        text = self.tokenizer.decode_all(ids)
        ended = any(stop in text for stop in self.chat.stop)
        if not ended and (not ids or ids[-1] not in self.tokenizer.end_ids):
            yield f" [cut off after {len(ids)} tokens]"

    def _pieces(self, tokens: Iterator[int], ids: list[int]) -> Iterator[str]:
        """The text of sampled tokens as they come, which are added to ``ids``."""
        begin, end, known = 0, 0, ""  # the tokens of the last piece that was yielded, and its text
        for token_id in tokens:
            ids.append(token_id)
            # With the piece before: some tokenizers drop a space at the beginning.
            text = self.tokenizer.decode(ids[begin:])
            # A character may take several tokens; its first bytes alone decode to the replacement character.
            if not text.endswith("\ufffd"):
                yield text[len(known) :]
                begin, end = end, len(ids)
                known = self.tokenizer.decode(ids[begin:])


def until_stop(pieces: Iterator[str], stop: tuple[str, ...]) -> Iterator[str]:
    """The pieces up to where the first stop text in them ends the response. As many characters as a stop text
    may still need are held back."""
    written, shown, most = "", 0, max(map(len, stop), default=1) - 1
    for piece in pieces:
        written += piece
        end = stop_end(written, stop)
        if end is not None:
            break
        yield written[shown : max(shown, len(written) - most)]
        shown = max(shown, len(written) - most)
    yield written[shown : stop_end(written, stop)]


def converse(
    model_dir: Path,
    sampling: Sampling,
    console: Console,
    prompt: str | None = None,
    style: PromptStyle | None = None,
    precision: Precision = "bfloat16",
) -> None:
    """Answer ``prompt``, or one line of the terminal after another until an empty one. ``style`` is how the
    model is prompted, by default as it was trained; ``precision`` that of its products."""
    if prompt is None:
        console.print(Text(f"loading {one_line(str(model_dir))}", style="dim"))
    speaker = Speaker(model_dir, sampling, style, precision)
    if prompt is not None:
        print_answer(speaker, [("user", prompt)], derive_seed(sampling.seed, 0), console)
        return
    console.print(Text(f"{one_line(str(model_dir))}: {HELP}", style="dim"))
    turns: list[Turn] = []
    for number, line in enumerate(_lines(console)):
        more = line.startswith("/more ")
        turns = [*(turns if more else []), ("user", line.removeprefix("/more ") if more else line)]
        turns.append(("assistant", print_answer(speaker, turns, derive_seed(sampling.seed, number), console)))


def print_answer(speaker: Speaker, turns: list[Turn], seed: int, console: Console) -> str:
    """Print a response as it is sampled; return it without its thinking."""
    response = ""
    for piece in speaker.answer(turns, seed):
        response += piece
        thinking = THINKING[0] in response and (THINKING[1] not in response or piece.endswith(THINKING[1]))
        console.print(Text(piece, style="dim" if thinking else ""), end="", soft_wrap=True)
    console.print()
    return response.rpartition(THINKING[1])[2].strip()


def _lines(console: Console) -> Iterator[str]:
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
