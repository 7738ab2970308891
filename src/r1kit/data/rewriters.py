"""Rewriters: what makes a model's own solutions readable for the cold start (DeepSeek-R1, Nature version,
supplement B.3.2).

A rewriter is a function from rollouts to (thinking, summary) pairs, with None for a rollout that it cannot
rewrite. A recipe names a rule of RULES, code of its own (``my_rewriter.py:name``), or a model: one of the
run, or one behind an OpenAI-compatible endpoint, which gets ``REWRITE_PROMPT`` or the recipe's own prompt. In
the paper people and DeepSeek-V3 rewrite, and the result is checked again; here the stage checks it."""

import re
from collections.abc import Callable, Mapping, Sequence

from pydantic import Field, field_validator

from r1kit.chat import prompt_column
from r1kit.config import Config, ConfigError, suggest
from r1kit.data.curation import readable
from r1kit.log import prompt_text
from r1kit.tasks.documents import write_summary
from r1kit.tasks.miniature.rewriter import rewrite_steps
from r1kit.tasks.task import Task
from r1kit.types import Rollout
from r1kit.user_code import Shape, load_name

Rewritten = tuple[str, str]  # thinking, summary
Rewriter = Callable[[Sequence[Rollout]], Sequence[Rewritten | None]]

REWRITE_PROMPT = (
    "Below are a question, a draft that solves it, and the draft's answer. Write the solution again so "
    "that a person can follow it.\n"
    "First the thinking: in the first person, in whole sentences, in the language of the question, in the "
    "draft's order. Leave out repetitions and detours; add no step that the draft does not have.\n"
    "Then the summary: a short solution in the same language, with the final answer in \\boxed{}.\n"
    "Reply in exactly this form and with nothing else:\n"
    "### Thinking\n(the thinking)\n### Summary\n(the summary)\n\n"
    "Question:\n{question}\n\nDraft:\n{thinking}\n\nAnswer:\n{answer}"
)

_PARTS = re.compile(
    r"^#+ *Thinking *:?\s*\n(?P<thinking>.*?)^#+ *Summary *:?\s*\n(?P<summary>.*)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)


class ModelRewriter(Config):
    """A model as rewriter: ``{model: "@sft"}`` is one of the run or a folder, ``{endpoint: URL, model:
    NAME}`` one behind an OpenAI-compatible endpoint (".../v1", key in the environment variable
    ``key_variable``, ``seconds`` for one attempt).

    In ``prompt`` {question}, {thinking} and {answer} are replaced. A reply that was cut off at ``max_tokens``
    or is not of the form that the prompt asks for is left out."""

    model: str = Field(min_length=1)  # a stage, a folder, or the model's name at the endpoint
    endpoint: str = ""  # the server's address, up to /v1
    prompt: str = REWRITE_PROMPT
    temperature: float = Field(0.6, ge=0.0)
    max_tokens: int = Field(2048, ge=1)
    key_variable: str = "OPENAI_API_KEY"
    seconds: float = Field(120.0, gt=0)

    @field_validator("prompt")
    @classmethod
    def _prompt_shows_the_draft(cls, prompt: str) -> str:
        if "{thinking}" not in prompt or "{question}" not in prompt:
            raise ValueError("the prompt must contain {question} and {thinking}; {answer} too where it helps")
        return prompt


def prose(tasks: Mapping[str, Task], purity: float) -> Rewriter:
    """Keep a readable thinking as it is, and put the answer into a box if the task still accepts it then.
    ``purity`` is the least share of the thinking's words in the prompt's language."""

    def rewrite(rollout: Rollout) -> Rewritten | None:
        problem, said = rollout.problem, (rollout.answer or "").strip()
        if not readable(rollout.thinking or "", problem.language, purity):
            return None
        boxed = said if "\\boxed" in said else write_summary(said, problem.language)
        accepted = tasks[problem.task].check(problem, boxed).outcome == "correct"
        return rollout.thinking or "", boxed if accepted else said

    return lambda rollouts: [rewrite(rollout) for rollout in rollouts]


def worked_solutions(tasks: Mapping[str, Task], purity: float) -> Rewriter:
    """The miniature's rule (tasks/miniature/rewriter.py), for thinkings made of equations."""
    return lambda rollouts: [rewrite_steps(rollout) for rollout in rollouts]


OWN_REWRITER = Shape(
    "a rewriter",
    "a function (rollouts) that returns (thinking, summary), or None, for each",
    functions=(("rollouts",),),
)
RULES: dict[str, Callable[[Mapping[str, Task], float], Rewriter]] = {
    "prose": prose,
    "worked_solutions": worked_solutions,
}


def load_rule(name: str, tasks: Mapping[str, Task], purity: float) -> Rewriter:
    """The rule or the user's function that a recipe names. Raises ConfigError for any other name."""
    if name in RULES:
        return RULES[name](tasks, purity)
    if ":" not in name:
        raise ConfigError(
            f"unknown rule {name!r}: {suggest(name, RULES)}; your own is file.py:function, "
            'a model is {model: "@sft"} or {endpoint: URL, model: NAME}'
        )
    rewriter: Rewriter = load_name(name, OWN_REWRITER)
    return rewriter


def write_request(config: ModelRewriter, rollout: Rollout) -> str:
    """The request to a model to rewrite a rollout."""
    parts = {
        "{question}": prompt_text(prompt_column(rollout.problem)),
        "{thinking}": rollout.thinking or "",
        "{answer}": rollout.answer or "",
    }
    return re.sub("|".join(map(re.escape, parts)), lambda match: parts[match[0]], config.prompt)


def read_rewritten(reply: str, language: str, purity: float) -> Rewritten | None:
    """(thinking, summary) of a model's reply; None where it has another form or is not readable."""
    match = _PARTS.search(reply)
    if match is None:
        return None
    thinking, summary = match["thinking"].strip(), match["summary"].strip()
    return (thinking, summary) if summary and readable(thinking, language, purity) else None
