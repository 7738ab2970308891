"""For tests of preferences: a context for a stage, groups of rollouts, files of pairs and labels."""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from small_world import tokenizer

from r1kit.chat import Chat
from r1kit.log import Log
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.stages.stage import Context
from r1kit.types import Completion, Problem, Rollout

SMALL = {"context": 96, "precision": "float32", "optimizer": {"learning_rate": 2e-3}}


def context(folder: Path, base: Path, runtime: LocalRuntime | None = None, **outputs: Path) -> Context:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    log = Log(folder, "stage", Console(file=io.StringIO(), width=400))
    runtime = runtime or LocalRuntime(LocalConfig(processes=1))
    return Context(folder, "stage", out, 3, runtime, log, {"base": base, **outputs})


def printed(ctx: Context) -> str:
    file = ctx.log.console.file
    assert isinstance(file, io.StringIO)
    return " ".join(file.getvalue().split())


def group_of(problem: Problem, texts: Sequence[str]) -> list[Rollout]:
    chat = Chat(tokenizer())
    completions = [Completion(chat.response_ids(text), np.zeros(1, np.float32), "stop") for text in texts]
    return chat.rollouts(problem, chat.prompt_ids(problem), completions)


def write(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def taste(count: int, start: int = 0) -> list[dict[str, str]]:
    """Pairs with an easy pattern: the polite answer is the better one."""
    rng = random.Random(start)
    things = ("tea", "rice", "bread", "milk", "fish")
    return [
        {
            "prompt": f"Where is the {rng.choice(things)} {start + i}?",
            "chosen": f"Gladly! It is {rng.choice(('here', 'there', 'near'))}.",
            "rejected": f"No. It is {rng.choice(('here', 'there', 'near'))}.",
        }
        for i in range(count)
    ]


def labels(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Say {i}", "response": "Sorry, no." if i % 2 else "boil the water", "safe": bool(i % 2)}
        for i in range(count)
    ]
