"""The bodies of requests. A key that is not known, or asks for what the engine does not do, is an error that
names the key; nothing is ignored that would change the answer."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from r1kit.config import explain_problem, suggest
from r1kit.serve.errors import ApiError

MOST_COMPLETIONS = 64  # n
MOST_PROMPTS = 128  # in one body
_MOST_PROBLEM = 300  # characters of a message


def _is_text(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair is no text") from None
    return value


Text = Annotated[str, BeforeValidator(_is_text)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256), BeforeValidator(_is_text)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]

# Keys that do not change an answer.
_WITHOUT_EFFECT = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity")
)
# Keys of OpenAI's interface, or of servers like it, that the engine does not have, with the values that ask
# for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "best_of": (1,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "structured_outputs": (),
    "prompt_logprobs": (),
}


class Strict(BaseModel):
    """A part of a body: every key is known, and has its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(Strict):
    """What a stream has besides."""

    include_usage: bool = False
    include_obfuscation: bool = False


class TemplateSettings(Strict):
    """Whether the model thinks."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """A turn. Keys of an earlier answer that comes back, its thinking for instance, are not read."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def turn(self) -> tuple[str, str]:
        """Role and text."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return "system" if self.role == "developer" else self.role, text


class Body(BaseModel):
    """What both kinds of completions have. None: the server's own value."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: Text | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MOST_COMPLETIONS)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=0, lt=2**31)

    @classmethod
    def read(cls, content: bytes) -> Self:
        """The body of a request. Raises ApiError naming the key."""
        data = read_object(content)
        try:
            body = cls.model_validate(data)
        except ValidationError as error:
            raise _api_error(error) from None
        for key, value in (body.model_extra or {}).items():
            _check_extra(key, value, list(cls.model_fields))
        return body

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a completion."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatBody(Body):
    """``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    chat_template_kwargs: TemplateSettings = TemplateSettings()
    reasoning_effort: str | None = None

    @property
    def thinking(self) -> bool | None:
        """Whether the model is asked to think; None: as it was trained. Raises ApiError."""
        settings = self.chat_template_kwargs
        if self.reasoning_effort not in (None, "none"):
            raise ApiError(
                400,
                "reasoning_effort: the model thinks as long as it was trained to; only 'none' is possible",
                "reasoning_effort",
            )
        given = [settings.enable_thinking, settings.thinking, False if self.reasoning_effort else None]
        return next((value for value in given if value is not None), None)


class CompletionBody(Body):
    """``/v1/completions``."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MOST_PROMPTS)
        ]
    )
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class TokenizeBody(BaseModel):
    """``/tokenize``: a text, or a conversation as it is prompted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Text | None = None
    prompt: Text | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: Literal[True] = True
    return_token_strs: bool = False

    @classmethod
    def read(cls, content: bytes) -> Self:
        """The body of a request. Raises ApiError naming the key."""
        try:
            body = cls.model_validate(read_object(content))
        except ValidationError as error:
            raise _api_error(error) from None
        if (body.prompt is None) == (not body.messages):
            raise ApiError(400, "give either prompt or messages", "prompt")
        return body


class DetokenizeBody(BaseModel):
    """``/detokenize``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Text | None = None
    tokens: list[TokenId]

    @classmethod
    def read(cls, content: bytes) -> Self:
        """The body of a request. Raises ApiError naming the key."""
        try:
            return cls.model_validate(read_object(content))
        except ValidationError as error:
            raise _api_error(error) from None


def read_object(content: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {str(error)[:_MOST_PROBLEM]}") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body has to be a JSON object")
    return data


def _api_error(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False)[0]
    place = [str(part) for part in problem["loc"]]
    param = place[0] if place else None
    return ApiError(400, f"{param or 'body'}: {explain_problem(problem)[:_MOST_PROBLEM]}", param)


def _check_extra(key: str, value: Any, known: list[str]) -> None:
    """Raise ApiError for a key that is not known, or whose value asks for what there is not."""
    if key in _WITHOUT_EFFECT or value is None:
        return
    if key not in _REFUSED:
        near = suggest(key, [*known, *_REFUSED], "it is not known here")
        raise ApiError(400, f"{key[:80]!r}: {near}", key[:80])
    neutral = _REFUSED[key]
    if not any((type(value) is not bool and value == one) or value is one for one in neutral):
        allowed = f"; only {' or '.join(json.dumps(one) for one in neutral)} is possible" if neutral else ""
        raise ApiError(
            400, f"{key}: r1kit's engine does not have this{allowed}", key, "unsupported_parameter"
        )
