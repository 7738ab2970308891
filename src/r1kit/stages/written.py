"""Texts that a model writes for a stage: a model of the run, or one behind an OpenAI-compatible endpoint."""

from collections.abc import Sequence

from pydantic import Field, field_validator

from r1kit.addresses import read_address
from r1kit.config import Config
from r1kit.endpoints import DEFAULT_KEY, check_variable
from r1kit.model.config_json import read_config
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, fits, prompt_style_of
from r1kit.stages.sampling import Endpoint, ask_endpoint, harvest
from r1kit.stages.stage import Context
from r1kit.types import Problem, Rollout, Sampling


class WriterConfig(Config):
    """``{model: "@sft"}`` is a model of the run or a folder, ``{endpoint: URL, model: NAME}`` one behind an
    OpenAI-compatible endpoint (".../v1", key in the environment variable ``key_variable``, ``seconds`` for
    one attempt)."""

    model: str = Field(min_length=1)  # "@sft", a folder, or the name behind the endpoint
    endpoint: str = ""  # OpenAI-compatible, ".../v1"
    temperature: float = Field(0.6, ge=0.0)
    max_tokens: int = Field(1024, ge=1)
    key_variable: str = DEFAULT_KEY
    seconds: float = Field(120.0, gt=0)

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, endpoint: str) -> str:
        if endpoint:
            read_address(endpoint)
        return endpoint

    @field_validator("key_variable")
    @classmethod
    def _is_a_variable(cls, variable: str) -> str:
        check_variable(variable)
        return variable


def write(
    ctx: Context, kind: str, config: WriterConfig, requests: Sequence[tuple[str, str]], seed: int
) -> list[str]:
    """What the writer replies to each (name, request), without its thinking; empty for a request that is too
    long for it, or a reply that was cut off. ``kind`` keeps the files of a stage's requests apart. Replies
    are kept, so an interrupted stage does not ask again."""
    if not requests:
        return []
    if not config.endpoint:
        return replies_of_model(
            ctx, kind, config.model, requests, config.temperature, config.max_tokens, seed
        )
    endpoint = Endpoint(
        config.endpoint,
        config.model,
        config.temperature,
        config.max_tokens,
        config.key_variable,
        config.seconds,
    )
    questions = [(text, derive_seed(seed, name)) for name, text in requests]
    return [reply.strip() for reply in ask_endpoint(ctx, kind, endpoint, questions)]


def replies_of_model(
    ctx: Context,
    kind: str,
    reference: str,
    requests: Sequence[tuple[str, str]],
    temperature: float,
    max_tokens: int,
    seed: int,
) -> list[str]:
    """As ``write``, of a model of the run or a folder."""
    model = ctx.model(reference)
    chat, engine = prompt_style_of(model, PromptStyle()).chat(model), ctx.runtime.engine(model)
    keep = fits(chat, read_config(model).max_positions - max_tokens)
    problems = [Problem(name, kind, text, None) for name, text in requests]
    asked = [problem for problem in problems if keep(problem)]
    if len(asked) < len(requests):
        ctx.log.info(
            f"{len(requests) - len(asked)} of {len(requests)} requests left out: the request to {reference} "
            f"and a reply of max_tokens {max_tokens} are longer than its context"
        )
    sampling = Sampling(1, temperature, max_tokens=max_tokens)
    groups = harvest(ctx, kind, model, engine, chat, asked, sampling, seed)
    ctx.runtime.release(engine)
    replies = {problem.id: reply_of(group[0]) for problem, group in zip(asked, groups, strict=True)}
    return [replies.get(name, "") for name, _ in requests]


def reply_of(rollout: Rollout) -> str:
    """What a model replied: its answer where it thinks first, else the whole text."""
    if rollout.answer is not None:
        return rollout.answer
    return rollout.text if rollout.completion.finish == "stop" and "</think>" not in rollout.text else ""
