"""r1kit: the whole DeepSeek-R1 recipe as software.

The names imported below are the public API. Each is imported when it is first used, so ``import r1kit`` costs
next to nothing:

    import r1kit

    recipe = r1kit.load("recipes/nano.yaml", ["seed=1"])
    summary = r1kit.run(recipe)
"""

import ast
import functools
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the one list of the public names: type checkers read it, and so does _homes
    from r1kit.chat import Chat as Chat
    from r1kit.config import Config as Config
    from r1kit.config import ConfigError as ConfigError
    from r1kit.config import R1kitError as R1kitError
    from r1kit.engine import Engine as Engine
    from r1kit.engine.native import NativeEngine as NativeEngine
    from r1kit.language import language_share as language_share
    from r1kit.model.config import ModelConfig as ModelConfig
    from r1kit.model.decoder import LanguageModel as LanguageModel
    from r1kit.model.huggingface import load_pretrained as load_pretrained
    from r1kit.model.huggingface import save_pretrained as save_pretrained
    from r1kit.recipe.recipe import Recipe as Recipe
    from r1kit.recipe.recipe import load as load
    from r1kit.rewards import format_reward as format_reward
    from r1kit.rewards.reward import Reward as Reward
    from r1kit.runs.execute import run as run
    from r1kit.runtime import Runtime as Runtime
    from r1kit.sandbox import run_program as run_program
    from r1kit.stages.stage import Context as Context
    from r1kit.stages.stage import Stage as Stage
    from r1kit.tasks.mathematics.check import check_math as check_math
    from r1kit.tasks.task import Task as Task
    from r1kit.tokenizer import Tokenizer as Tokenizer
    from r1kit.train.grpo import GRPOConfig as GRPOConfig
    from r1kit.types import Completion as Completion
    from r1kit.types import Problem as Problem
    from r1kit.types import Rollout as Rollout
    from r1kit.types import Row as Row
    from r1kit.types import Sampling as Sampling
    from r1kit.types import Score as Score
    from r1kit.types import Verdict as Verdict


@functools.cache
def _homes() -> dict[str, str]:
    """The module of every public name, as the list above has it."""
    nodes = ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {
        alias.name: str(node.module)
        for node in imports
        for alias in node.names
        if str(node.module).startswith("r1kit.")
    }


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_homes())
    if name.startswith("__") or name not in _homes():
        raise AttributeError(f"module 'r1kit' has no attribute {name!r}")
    return getattr(import_module(_homes()[name]), name)
