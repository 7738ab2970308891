"""r1kit: the whole DeepSeek-R1 recipe as software.

The names below are the public API; each is imported when it is first used, so ``import r1kit`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1kit.chat import Chat as Chat
    from r1kit.engine import Engine as Engine
    from r1kit.engine.native import NativeEngine as NativeEngine
    from r1kit.language import language_share as language_share
    from r1kit.model.config import ModelConfig as ModelConfig
    from r1kit.model.decoder import LanguageModel as LanguageModel
    from r1kit.model.huggingface import load_pretrained as load_pretrained
    from r1kit.model.huggingface import save_pretrained as save_pretrained
    from r1kit.rewards import format_reward as format_reward
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

_HOMES = {
    "Chat": "chat",
    "Completion": "types",
    "Context": "stages.stage",
    "Engine": "engine",
    "GRPOConfig": "train.grpo",
    "LanguageModel": "model.decoder",
    "ModelConfig": "model.config",
    "NativeEngine": "engine.native",
    "Problem": "types",
    "Rollout": "types",
    "Row": "types",
    "Sampling": "types",
    "Score": "types",
    "Stage": "stages.stage",
    "Task": "tasks.task",
    "Tokenizer": "tokenizer",
    "Verdict": "types",
    "check_math": "tasks.mathematics.check",
    "format_reward": "rewards",
    "language_share": "language",
    "load_pretrained": "model.huggingface",
    "run_program": "sandbox",
    "save_pretrained": "model.huggingface",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'r1kit' has no attribute {name!r}")
    return getattr(import_module(f"r1kit.{_HOMES[name]}"), name)
