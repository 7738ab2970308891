"""Sampling for data: problems are played chunk by chunk, and each chunk is kept on the disk, so that an
interrupted harvest goes on where it was.

A chunk's file is written whole; its first line names its problems, sampling and seed, and the SHA-256 of what
follows. A file that does not say what is wanted, or is not what was written, is sampled again: rollouts are a
function of their seeds, so no problem is lost or repeated."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from r1kit.chat import Chat
from r1kit.engine import Engine
from r1kit.files import hash_text, write_whole
from r1kit.records import SAMPLED
from r1kit.seeds import derive_seed
from r1kit.stages.stage import Context
from r1kit.types import Completion, Problem, Rollout, Sampling

CHUNK = 512  # problems


def harvest(
    ctx: Context,
    name: str,
    engine: Engine,
    chat: Chat,
    problems: Sequence[Problem],
    sampling: Sampling,
    seed: int,
) -> list[list[Rollout]]:
    """A group of rollouts per problem; seeds depend on the problem alone. ``name`` tells a stage's harvests
    apart."""
    folder = ctx.out / SAMPLED
    folder.mkdir(exist_ok=True)
    groups = []
    for start in range(0, len(problems), CHUNK):
        chunk = problems[start : start + CHUNK]
        prompts = [chat.prompt_ids(problem) for problem in chunk]
        wanted = json.loads(
            json.dumps(
                {"problems": [problem.id for problem in chunk], "sampling": asdict(sampling), "seed": seed}
            )
        )
        file = folder / f"{name}_{start:08d}.jsonl"
        completions = _read(file, wanted)
        if completions is None:
            completions = engine.generate(
                prompts, sampling, [derive_seed(seed, problem.id) for problem in chunk]
            )
            _write(file, wanted, completions)
        groups += [
            chat.rollouts(problem, prompt, group, number=number)
            for number, (problem, prompt, group) in enumerate(
                zip(chunk, prompts, completions, strict=True), start
            )
        ]
    return groups


def _write(file: Path, wanted: dict[str, Any], completions: Sequence[Sequence[Completion]]) -> None:
    lines = [json.dumps([_plain(completion) for completion in group]) for group in completions]
    body = "\n".join(lines) + "\n"
    write_whole(file, json.dumps({**wanted, "sha256": hash_text(body)}) + "\n" + body)


def _read(file: Path, wanted: dict[str, Any]) -> list[list[Completion]] | None:
    """The completions of a chunk, None where the file is not there, not wanted, or not what was written."""
    try:
        head, _, body = file.read_text(encoding="utf-8").partition("\n")
        if json.loads(head) != {**wanted, "sha256": hash_text(body)}:
            return None
        return [[_completion(plain) for plain in json.loads(line)] for line in body.splitlines()]
    except (FileNotFoundError, ValueError):
        return None


def _plain(completion: Completion) -> dict[str, Any]:
    return {
        "token_ids": completion.token_ids.tolist(),
        "logprobs": completion.logprobs.tolist(),
        "finish": completion.finish,
        "version": completion.version,
    }


def _completion(plain: dict[str, Any]) -> Completion:
    token_ids, logprobs = (
        np.asarray(plain["token_ids"], dtype=np.int32),
        np.asarray(plain["logprobs"], dtype=np.float32),
    )
    return Completion(token_ids, logprobs, plain["finish"], plain["version"])
