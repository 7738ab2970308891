"""A model as a stage uses it: its folder, its prompt template, and which prompts fit its context."""

from collections.abc import Callable
from pathlib import Path

from r1kit.chat import Chat, TemplateName, turns_of
from r1kit.config import Config
from r1kit.model.huggingface import read_config
from r1kit.records import prompt_settings
from r1kit.tokenizer import Tokenizer
from r1kit.types import Problem


class PromptStyle(Config):
    """How prompts are written for the model (``talk`` in a recipe): the template (chat.py) and the text that
    every completion is made to start with, besides what the template itself opens."""

    template: TemplateName = "chat"
    opening: str = ""

    def chat(self, model: Path) -> Chat:
        return Chat(Tokenizer.load(model), self.template, self.opening)


def prompt_style_of(model: Path, otherwise: PromptStyle) -> PromptStyle:
    """How the stage that made this model wrote its prompts, so that it is prompted as it was trained;
    ``otherwise`` for any other model."""
    settings = prompt_settings(model)
    if settings is None:
        return otherwise
    return PromptStyle.parse(settings, f"{model.parent}: talk")


def longest_prompt(max_tokens: int, *models: Path, context: int | None = None) -> int:
    """How many tokens a prompt may have, so that it and a completion fit the positions of all ``models`` and,
    where they are trained on, the learner's ``context``."""
    limits = [read_config(model).max_positions for model in models]
    return min(limits if context is None else [context + 1, *limits]) - max_tokens


def fits(chat: Chat, limit: int) -> Callable[[Problem], bool]:
    """Whether a problem's prompt has at most ``limit`` tokens. A byte-level token has at least one byte, so a
    text with few bytes need not be encoded; conversations are always encoded."""
    frame = len(chat.prompt_ids(Problem("", "", "", None)))

    def fit(problem: Problem) -> bool:
        short = len(turns_of(problem)) == 1 and frame + len(problem.prompt.encode()) <= limit
        return short or len(chat.prompt_ids(problem)) <= limit

    return fit
