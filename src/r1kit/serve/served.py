"""The model that is served: prompts from bodies, and log-probabilities of given texts."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from r1kit.chat import Chat, Turn, stop_end
from r1kit.config import R1kitError
from r1kit.engine.compiled import TRIED_IN_TALK
from r1kit.engine.live import MOST_TOPS, Asked
from r1kit.engine.native import NativeEngine, Precision
from r1kit.engine.random_draws import rollout_key
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import load_pretrained
from r1kit.serve.bodies import Body, ChatBody, CompletionBody
from r1kit.serve.errors import ApiError
from r1kit.serve.text import Characters, Stops, Writer
from r1kit.stages.models import PromptStyle, prompt_style_of
from r1kit.types import Sampling

NO_THINKING = "<think>\n\n</think>\n\n"  # what a completion is made to begin with, as Qwen3's template does
_QUICK = 2000  # characters that become ids in less time than another thread takes to begin
_POSITIONS_AT_ONCE = 256  # of a text, through the head


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for, and how much runs at once. ``context``: tokens of a prompt and its
    completion; ``rows``: completions in the batch; ``queue``: completions that wait; ``memory``: bytes of
    keys and values; ``body``: bytes; ``seconds`` of a request, ``patience`` for its head and for its body;
    ``connections`` at a time."""

    context: int = 8192
    rows: int = 64
    queue: int = 256
    memory: int = 2 << 30
    body: int = 4 << 20
    seconds: float = 600.0
    patience: float = 20.0
    connections: int = 1024


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of the tokens of a text from the second on [T - 1], and the likeliest tokens at each
    place [T - 1, tops] with theirs."""

    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


class Served:
    """A model ready to answer: ``sampling`` is what a body that says nothing gets."""

    def __init__(
        self, name: str, chat: Chat, model: LanguageModel, sampling: Sampling, limits: Limits,
        precision: Precision = "bfloat16",
    ) -> None:  # fmt: skip
        self.name, self.chat, self.model, self.sampling = name, chat, model, sampling
        # Of its own: texts become ids in another thread, and a tokenizer cannot do both at once.
        self.tokenizer = deepcopy(chat.tokenizer)
        self.context = min(model.config.max_positions, limits.context)
        self.limits = limits
        self.engine = NativeEngine(
            model, self.tokenizer.end_ids, precision=precision, speculate=TRIED_IN_TALK, lean=True
        )
        special = self.tokenizer.special_tokens
        self._texts: dict[int, str] = {}  # of single tokens
        self._here = replace(chat, tokenizer=self.tokenizer)
        self._end_ids = frozenset(self.tokenizer.end_ids)
        self._stop_ids = frozenset(self.tokenizer.id(text) for text in chat.stop if text in special)

    @classmethod
    def load(
        cls, folder: Path, name: str, sampling: Sampling, limits: Limits,
        style: PromptStyle | None = None, precision: Precision = "bfloat16",
    ) -> "Served":  # fmt: skip
        """Read a model's folder. ``style`` is how it is prompted, by default as it was trained."""
        style = style or prompt_style_of(folder, PromptStyle())
        return cls(name, style.chat(folder), load_pretrained(folder).eval(), sampling, limits, precision)

    def check_name(self, name: str | None) -> None:
        """Raise ApiError for the name of another model."""
        if name not in (None, "", self.name):
            raise ApiError(
                404, f"there is no model {name[:200]!r}, only {self.name!r}", "model", "model_not_found"
            )

    def chat_prompt(self, turns: Sequence[Turn], thinking: bool | None) -> tuple[np.ndarray, str]:
        """Ids of a conversation, and the text that its completion has begun with. Raises ApiError."""
        return self._prompted(self.chat, turns, thinking)

    def quick_prompt(self, turns: Sequence[Turn], thinking: bool | None) -> tuple[np.ndarray, str] | None:
        """``chat_prompt`` for the thread that has ``tokenizer``; None where it may take long."""
        if self.chat.template == "model" or sum(len(text) for _, text in turns) > _QUICK:
            return None
        return self._prompted(self._here, turns, thinking)

    def _prompted(self, chat: Chat, turns: Sequence[Turn], thinking: bool | None) -> tuple[np.ndarray, str]:
        if turns[-1][0] != "user":
            raise ApiError(400, "messages: the last one has to be the user's", "messages")
        chat = self._thinking(chat, thinking)
        try:
            return chat.turn_ids(turns), chat.begun
        except R1kitError as error:
            raise ApiError(400, f"messages: {error}", "messages") from None

    @staticmethod
    def _thinking(given: Chat, thinking: bool | None) -> Chat:
        """The chat with thinking on or off: by the template where it has that, else by what a completion
        begins with."""
        if thinking is None:
            return given
        chat = replace(given, thinking=thinking)
        try:
            chat.check()
            return chat
        except R1kitError:  # this template has no such switch
            return given if thinking else replace(given, opening=NO_THINKING)

    def text_prompt(self, prompt: str | Sequence[int], begin: bool = True) -> np.ndarray:
        """Ids of a prompt that is no conversation. Raises ApiError."""
        if isinstance(prompt, str):
            return self.chat.text_ids(prompt, begin)
        ids = np.asarray(prompt, dtype=np.int32)
        if len(ids) and ids.max() >= self.model.config.vocab_size:
            raise ApiError(400, f"prompt: token {ids.max()} is not in the vocabulary", "prompt")
        return ids

    def asked(self, prompt: np.ndarray, body: Body, seed: int, tops: int) -> list[Asked]:
        """The rollouts of a body for one prompt: those of ``NativeEngine.generate`` with this seed. Raises
        ApiError where they have no place."""
        given = body.max_tokens
        if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
            given = body.max_completion_tokens
        left = self.context - len(prompt)
        if not len(prompt) or left < 1:
            what = f"it has {len(prompt)} tokens, and the context is {self.context}"
            param = "messages" if isinstance(body, ChatBody) else "prompt"
            raise ApiError(400, f"{param}: {what}", param, "context_length_exceeded")
        if given == 0:
            raise ApiError(400, "max_tokens: at least 1, or 0 with echo", "max_tokens")
        sampling = self._sampling(body, min(left, self.sampling.max_tokens if given is None else given))
        return [Asked(prompt, sampling, rollout_key(seed, index), tops) for index in range(body.n or 1)]

    def _sampling(self, body: Body, max_tokens: int) -> Sampling:
        own = self.sampling

        def value(given: float | None, otherwise: float) -> float:
            return otherwise if given is None else float(given)

        top_k = own.top_k if body.top_k is None else max(0, body.top_k)
        return Sampling(
            n=1,
            temperature=value(body.temperature, own.temperature),
            top_p=value(body.top_p, own.top_p),
            min_p=value(body.min_p, own.min_p),
            top_k=top_k,
            max_tokens=max_tokens,
        )

    def writer(self, body: Body, begun: str = "") -> Writer:
        """What makes a completion's text. The model's own stop texts end conversations only."""
        talks = isinstance(body, ChatBody)
        own = [text for text in self.chat.stop if talks and text not in self.tokenizer.special_tokens]
        kept = [text for text in own if stop_end(text, [text]) == len(text)]
        cut = [text for text in own if text not in kept]
        end_ids = self._end_ids | (self._stop_ids if talks else frozenset())
        stops = Stops([*body.stops, *cut], kept)
        return Writer(Characters(self.tokenizer, self._texts), stops, end_ids, begun, split=talks)

    def check_tops(self, tops: int, most: int) -> None:
        """Raise ApiError where the engine does not record the likeliest tokens."""
        if tops > most:
            raise ApiError(
                400,
                "top_logprobs: without the compiled kernels only the sampled token's is known (r1kit doctor "
                "says why they do not run)",
                "top_logprobs",
                "unsupported_parameter",
            )

    @torch.inference_mode()
    def score(self, ids: np.ndarray, temperature: float, tops: int) -> Scored:
        """Log-probabilities of a given text [T] in float32, as the learner computes them; temperature 0 is
        taken as 1, as in Completion."""
        tokens_T = torch.from_numpy(ids.astype(np.int64))
        hidden_TD = self.model(tokens_T[None]).hidden_BTD[0, :-1]
        logprobs, top_ids, top_logprobs = [], [], []
        for first in range(0, len(hidden_TD), _POSITIONS_AT_ONCE):
            logits_TV = self.model.logits(hidden_TD[first : first + _POSITIONS_AT_ONCE]).float()
            all_TV = (logits_TV / (temperature or 1.0)).log_softmax(-1)
            next_T = tokens_T[first + 1 : first + 1 + len(all_TV)]
            logprobs.append(all_TV.gather(1, next_T[:, None])[:, 0].numpy())
            values, found = all_TV.topk(min(tops, MOST_TOPS, all_TV.shape[-1]), dim=-1)
            top_ids.append(found.numpy())
            top_logprobs.append(values.numpy())
        nothing = np.zeros((0, tops))
        return Scored(
            np.concatenate([np.zeros(0, dtype=np.float32), *logprobs]),
            np.concatenate(top_ids or [nothing]),
            np.concatenate(top_logprobs or [nothing]),
        )


def tops_of(body: Body) -> int:
    """How many of the likeliest tokens a body asks for. Raises ApiError."""
    if isinstance(body, CompletionBody):
        return body.logprobs or 0
    assert isinstance(body, ChatBody)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs: true", "top_logprobs")
    return body.top_logprobs or 0


def wants_logprobs(body: Body) -> bool:
    """Whether a body asks for log-probabilities."""
    if isinstance(body, CompletionBody):
        return body.logprobs is not None
    return isinstance(body, ChatBody) and bool(body.logprobs)


def finish_of(state: str | None) -> Literal["stop", "length"]:
    """The reason to finish, of an engine's."""
    return "stop" if state == "stop" else "length"
