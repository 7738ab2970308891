"""The names that stages imported from here before it was split; to be removed when they no longer do."""

from r1kit.data.mixture import Mixture
from r1kit.stages.models import PromptStyle as PromptStyle
from r1kit.stages.models import PromptStyle as Talk
from r1kit.stages.models import fits as fits
from r1kit.stages.models import model_of as model_of
from r1kit.stages.models import prompt_style_of as talk_of
from r1kit.stages.recipe_names import RewardSpec as RewardSpec
from r1kit.stages.recipe_names import TaskSpec as TaskSpec
from r1kit.stages.recipe_names import log_tasks as tell_tasks
from r1kit.stages.recipe_names import rules as rules
from r1kit.stages.results import finish as finish
from r1kit.stages.results import report as report
from r1kit.stages.rl import reinforce as reinforce
from r1kit.stages.sampling import sample as sample
from r1kit.stages.stage import Context

__all__ = [
    "PromptStyle",
    "RewardSpec",
    "Talk",
    "TaskSpec",
    "finish",
    "fits",
    "model_of",
    "reinforce",
    "report",
    "rules",
    "sample",
    "talk_of",
    "tell_left_out",
    "tell_tasks",
]


def tell_left_out(ctx: Context, mixture: Mixture, room: int) -> None:
    for name, count in mixture.left_out.items():
        ctx.log.info(f"{name}: {count} problems left out, whose prompts are longer than {room} tokens")
