"""A small run as files, for the tests of the pages."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.web.library import Library

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


def rollout(problem: str, index: int, accuracy: float, **changes: Any) -> dict[str, Any]:
    """A line of samples/ as training writes it."""
    line = {
        "problem": problem,
        "task": problem.partition("/")[0],
        "prompt": f"What is {problem}?",
        "group": 0,
        "index": index,
        "text": f"<think>thought {index}</think><answer>{index}</answer>",
        "answer": str(index),
        "truth": "0",
        "finish": "stop",
        "length": 7,
        "reward": accuracy + 0.1,
        "parts": {"accuracy": accuracy, "format": 1.0},
        "reasons": {} if accuracy else {"accuracy": "another number"},
        "advantage": accuracy - 0.5,
        "tokens": {"texts": ["a", " b"], "logprobs": [-0.01, -4.0]},
    }
    return {**line, **changes}


def write_samples(run: Path, stage: str, step: int, lines: Sequence[Mapping[str, Any]]) -> Path:
    file = run / "samples" / stage / f"step_{step:06d}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


def write_run(run: Path, steps: int = 6) -> Path:
    """A run of one unfinished RL stage with two problems a step, whose completions are all cut off."""
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(
        "name: small\nstages:\n- {stage: pretrain, name: base}\n"
        "- {stage: r1_zero, name: zero, init: '@base', grpo: {steps: 10}}\n"
    )
    rows = [
        {
            "stage": "zero",
            "step": step,
            "time": 1000.0 + 2 * step,
            "reward/mean": step / steps,
            "completions/clipped_ratio": 0.9,
        }
        for step in range(steps)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(steps):
        write_samples(
            run,
            "zero",
            step,
            [
                rollout(name, index, float(index < step), group=group)
                for group, name in enumerate(("sum/1", "word/2"))
                for index in range(3)
            ],
        )
    return run


def with_user(library: Library, what: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Call ``what`` with a simulated user of the pages; then stop the library."""
    from nicegui.testing.user_simulation import user_simulation

    from r1kit.web.server import add_pages

    async def visiting() -> None:
        async with user_simulation(root=lambda: None) as user:
            add_pages(library)
            await what(user)

    try:
        asyncio.run(visiting())
    finally:
        library.stop()
