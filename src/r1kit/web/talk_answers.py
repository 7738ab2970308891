"""An answer of the playground, from its question to the verdict, through ``r1kit serve``'s own code: a body
of /v1/chat/completions is read, prompted, sampled in the model's running batch and split into thinking and
answer as the server does it, so the same question, seed and temperature give the same text there."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from r1kit.chat import Turn, turns_of
from r1kit.config import R1kitError
from r1kit.serve.answering import Answering, Prompt
from r1kit.serve.bodies import ChatBody
from r1kit.serve.errors import ApiError
from r1kit.serve.served import Served, finish_of
from r1kit.serve.shapes import Step
from r1kit.types import Completion, Problem, Rollout
from r1kit.web.talk_models import LIMITS, Loaded, ModelPool, Talker
from r1kit.web.talk_problems import Judged, RunTasks

MOST_QUESTION = 20_000  # characters

State = Literal["loading", "waiting", "thinking", "answering", "done", "cut off", "stopped", "failed"]
OVER: tuple[State, ...] = ("done", "cut off", "stopped", "failed")


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are sampled. The same seed gives the same answer."""

    seed: int
    temperature: float = 0.6
    max_tokens: int = 1024


@dataclass(eq=False, slots=True)
class Answer:
    """What a model has written so far. ``thinking_seconds`` and ``seconds`` count from when its model was
    loaded and asked; ``error`` says why it failed; ``judged`` comes last, where a problem was asked."""

    talker: Talker
    settings: Settings
    state: State = "loading"
    thinking: str = ""
    text: str = ""
    thinking_tokens: int = 0
    tokens: int = 0
    error: str = ""
    judged: Judged | None = None
    judging: bool = False  # whether a verdict is still to come
    _begun: float | None = None
    _thought: float | None = None
    _ended: float | None = None
    _drawn: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes, the verdict included."""
        return self.state in OVER and not self.judging

    @property
    def seconds(self) -> float:
        """Since it was asked, until the last token."""
        return self._until(self._ended)

    @property
    def thinking_seconds(self) -> float:
        """Since it was asked, until the end of the thinking; 0 for an answer without."""
        return self._until(self._thought or self._ended) if self.thinking else 0.0

    def _until(self, end: float | None) -> float:
        if self._begun is None:
            return 0.0
        return (time.monotonic() if end is None else end) - self._begun

    def begin(self) -> None:
        """Its model is asked now."""
        self._begun, self.state = time.monotonic(), "waiting"

    def add(self, step: Step, tokens: int, thinking_tokens: int) -> None:
        """Add what has come; ``tokens`` and ``thinking_tokens`` are those of all so far."""
        now = time.monotonic()
        self.tokens, self.thinking_tokens = tokens, thinking_tokens
        for kind, text in step.parts:
            if kind == "reasoning":
                self.thinking += text
                self.state = "thinking"
            else:
                self._thought = now if self._thought is None else self._thought
                self.text += text
                self.state = "answering"
        if step.drawn is not None:
            self._drawn.append((step.drawn.token_ids, step.drawn.logprobs))

    def end(self, state: State, error: str = "") -> None:
        """Nothing more comes."""
        self._ended = time.monotonic()
        self.state, self.error = state, error

    def completion(self, finish: str | None) -> Completion:
        """The sampled tokens, as an engine returns them."""
        nothing = (np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32))
        ids, logprobs = zip(*self._drawn or [nothing], strict=True)
        return Completion(np.concatenate(ids), np.concatenate(logprobs), finish_of(finish))


async def give(
    answer: Answer, pool: ModelPool, turns: Sequence[Turn], problem: Problem | None, tasks: RunTasks
) -> None:
    """Let the model answer the conversation. Everything that goes wrong is in ``answer``; a cancelled one is
    "stopped", and its place in the batch is free."""
    answer.judging = problem is not None and problem.task in tasks.tasks
    try:
        body = body_of(turns, answer.settings)
        async with asyncio.timeout(LIMITS.seconds), pool.using(answer.talker) as loaded:
            rollout = await _sampled(answer, loaded, body, problem)
        if answer.judging:
            answer.judged = await tasks.judge(rollout)
    except asyncio.CancelledError:
        if answer.state not in OVER:
            answer.end("stopped")
        raise
    except TimeoutError:
        answer.end("failed", f"cut off after {LIMITS.seconds:g} s")
    except ApiError as error:
        answer.end("failed", error.message)
    except (R1kitError, OSError, MemoryError) as error:
        answer.end("failed", str(error) or type(error).__name__)
    except Exception as error:  # a model's folder can be wrong in any way; the page goes on
        answer.end("failed", f"{type(error).__name__}: {error}")
    finally:
        answer.judging = False


def body_of(turns: Sequence[Turn], settings: Settings) -> ChatBody:
    """The request that asks this. Raises ApiError naming what is wrong with it."""
    return ChatBody.read(
        json.dumps(
            {
                "messages": [{"role": role, "content": text} for role, text in turns],
                "seed": settings.seed,
                "temperature": settings.temperature,
                "max_tokens": settings.max_tokens,
            }
        ).encode()
    )


async def _sampled(answer: Answer, loaded: Loaded, body: ChatBody, problem: Problem | None) -> Rollout:
    """Sample into ``answer``; return the whole as training parses it."""
    served, batcher = loaded.served, loaded.batcher
    turns = [message.turn() for message in body.messages]
    ids, begun = await loaded.in_texts(served.chat_prompt, turns, None)
    answering = Answering(served, batcher, body, [Prompt(ids, begun)], 0, lambda seconds: None)
    finish = None
    answer.begin()
    try:
        async with aclosing(answering.steps()) as steps:
            async for step in steps:
                usage = answering.usage()
                answer.add(step, usage.completion, usage.reasoning)
                finish = step.finish
    finally:
        answering.close()
    completion = answer.completion(finish)
    answer.end("cut off" if finish == "length" else "done")
    asked = Problem("", "", turns[-1][1], None) if problem is None else problem
    return await loaded.in_texts(_parsed(served), asked, ids, completion)


def _parsed(served: Served) -> Callable[[Problem, np.ndarray, Completion], Rollout]:
    def parse(problem: Problem, ids: np.ndarray, completion: Completion) -> Rollout:
        return served.chat.rollouts(problem, ids, [completion])[0]

    return parse


def conversation(problem: Problem | None, question: str) -> list[Turn]:
    """The turns that ask a question: those of its problem, where it is one."""
    return turns_of(problem) if problem is not None else [("user", question)]
