"""Sampling for data: which problems, what the model answers to them, and which answers are correct.

``harvest`` samples chunk by chunk and keeps each chunk on the disk, so that an interrupted stage continues
where it was; ``sample`` keeps nothing. A chunk's file is written whole. Its first line says what the chunk is
of: the owner and the part of the run (as in a training state), the model by its hash, the problems and their
prompts, the sampling settings, the seed; and the SHA-256 of the rest. A file with another first line, or a
damaged one, is sampled again, with a warning: rollouts are a function of their seeds, so no problem is lost
or repeated."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from r1kit.chat import Chat
from r1kit.data.mixture import Mixture
from r1kit.engine import Engine
from r1kit.files import hash_text, make_folder, write_whole
from r1kit.marks import hash_tree
from r1kit.records import SAMPLED, part_of
from r1kit.rewards import check_all, complete_chat
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle, sampling_style
from r1kit.stages.recipe_names import TaskSpec
from r1kit.stages.stage import Context
from r1kit.tasks import load_tasks
from r1kit.tasks.task import Task
from r1kit.types import Completion, Problem, Rollout, Sampling

CHUNK = 512  # problems, after which their rollouts are written to the disk
REQUESTS = 64  # to an endpoint, after which the replies are kept
PARALLEL = 8  # requests to an endpoint at a time


def train_problems(
    spec: TaskSpec, count: int, seed: int, keep: Callable[[Problem], bool] = lambda problem: True
) -> list[Problem]:
    """``count`` training problems of the tasks by weight, of those that ``keep`` accepts, each at most
    once."""
    stream = Mixture(load_tasks(spec), "train", seed, keep)
    return list({problem.id: problem for problem in stream.draw(count)}.values())


def correct(
    groups: Sequence[Sequence[Rollout]], tasks: Mapping[str, tuple[Task, float]]
) -> list[list[Rollout]]:
    """The correct rollouts of each group. All answers of a task are checked as one batch."""
    flat = [(place, rollout) for place, group in enumerate(groups) for rollout in group]
    right: set[tuple[int, int]] = set()
    for name, (task, _) in tasks.items():
        own = [(place, rollout) for place, rollout in flat if rollout.problem.task == name]
        verdicts = check_all(task, [rollout for _, rollout in own])
        right |= {
            (place, rollout.index)
            for (place, rollout), verdict in zip(own, verdicts, strict=True)
            if verdict.outcome == "correct"
        }
    return [[r for r in group if (place, r.index) in right] for place, group in enumerate(groups)]


def sample(
    engine: Engine,
    chat: Chat,
    problems: Sequence[Problem],
    sampling: Sampling,
    seed: int,
    opening: str | None = None,
) -> list[list[Rollout]]:
    """A group of rollouts per problem; seeds depend on the problem alone, not on its neighbours."""
    prompts = [chat.prompt_ids(problem, opening) for problem in problems]
    sampling = replace(sampling, stop=chat.stop)
    groups = engine.generate(prompts, sampling, [derive_seed(seed, problem.id) for problem in problems])
    return [
        chat.rollouts(problem, prompt, group, opening, number)
        for number, (problem, prompt, group) in enumerate(zip(problems, prompts, groups, strict=True))
    ]


def mean_length(groups: Sequence[Sequence[Rollout]]) -> float | None:
    """The mean number of tokens of completions, for the plan of another run; None without any."""
    lengths = [len(rollout.completion.token_ids) for group in groups for rollout in group]
    return sum(lengths) / len(lengths) if lengths else None


def answers_of(
    ctx: Context,
    reference: str,
    place: int,
    talk: PromptStyle,
    problems: Sequence[Problem],
    sampling: Sampling,
) -> list[list[Rollout]]:
    """What a model of the run answers to each problem, prompted as it was trained or as ``talk`` says; its
    engine is released. ``place`` keeps the answers of several models of a stage apart."""
    model = ctx.model(reference)
    engine, chat = ctx.runtime.engine(model), sampling_style(model, talk).chat(model)
    seed = derive_seed(ctx.seed, "answers", place)
    groups = harvest(ctx, f"answers_{place}", model, engine, chat, problems, sampling, seed)
    ctx.runtime.release(engine)
    return groups


def harvest(
    ctx: Context,
    name: str,
    model: Path,
    engine: Engine,
    chat: Chat,
    problems: Sequence[Problem],
    sampling: Sampling,
    seed: int,
) -> list[list[Rollout]]:
    """A group of rollouts per problem; seeds depend on the problem alone. ``name`` keeps the files of a
    stage's harvests apart; ``model`` is the folder of the engine's model."""
    groups, model_hash = [], hash_tree(model)
    sampling = replace(sampling, stop=chat.stop)
    for start in range(0, len(problems), CHUNK):
        chunk = problems[start : start + CHUNK]
        prompts = [chat.prompt_ids(problem) for problem in chunk]
        asked = {"problems": [problem.id for problem in chunk], "prompts": _hash_prompts(prompts)}
        wanted = {"model": model_hash, **asked, "sampling": asdict(sampling), "seed": seed}
        file = _file(ctx, name, start)
        lines = _read(ctx, file, wanted)
        if lines is None:
            sampled = engine.generate(prompts, sampling, [derive_seed(seed, problem.id) for problem in chunk])
            lines = [[_plain(completion) for completion in group] for group in sampled]
            _write(ctx, file, wanted, lines)
        groups += [
            chat.rollouts(problem, prompt, [_completion(plain) for plain in group], number=number)
            for number, (problem, prompt, group) in enumerate(zip(chunk, prompts, lines, strict=True), start)
        ]
    return groups


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint ``url`` (".../v1"), and how it samples; ``seconds`` is for one
    attempt."""

    url: str
    model: str
    temperature: float
    max_tokens: int
    key_variable: str = "OPENAI_API_KEY"
    seconds: float = 120.0


def ask_endpoint(
    ctx: Context, name: str, endpoint: Endpoint, questions: Sequence[tuple[str, int]]
) -> list[str]:
    """The replies to (request, seed) pairs, without the model's thinking, ``PARALLEL`` at a time. They are
    kept like a harvest's chunks, since an endpoint may reply differently when it is asked again."""

    def ask(question: tuple[str, int]) -> str:
        text, seed = question
        body = {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": endpoint.temperature,
            "max_tokens": endpoint.max_tokens,
            "seed": seed,
        }
        reply = complete_chat(endpoint.url, body, endpoint.key_variable, endpoint.seconds)
        return reply.rpartition("</think>")[2]

    replies: list[str] = []
    for start in range(0, len(questions), REQUESTS):
        chunk = questions[start : start + REQUESTS]
        # As a hash, because an address may hold a password.
        wanted = {"questions": hash_text(json.dumps([asdict(endpoint), chunk]))}
        file = _file(ctx, name, start)
        lines = _read(ctx, file, wanted)
        if lines is None:
            with ThreadPoolExecutor(PARALLEL) as threads:
                lines = list(threads.map(ask, chunk))
            _write(ctx, file, wanted, lines)
        replies += lines
    return replies


def _file(ctx: Context, name: str, start: int) -> Path:
    folder = ctx.out / SAMPLED
    make_folder(folder)
    return folder / f"{name}_{start:08d}.jsonl"


def _hash_prompts(prompts: Sequence[np.ndarray]) -> str:
    return hash_text(json.dumps([prompt.tolist() for prompt in prompts]))


def _write(ctx: Context, file: Path, wanted: Mapping[str, Any], lines: Sequence[Any]) -> None:
    body = "\n".join(json.dumps(line) for line in lines) + "\n"
    owner = next(iter(ctx.identities), "")
    ctx.log.check_place()
    write_whole(file, _head(ctx, file, owner, wanted, body) + "\n" + body)


def _read(ctx: Context, file: Path, wanted: Mapping[str, Any]) -> list[Any] | None:
    """The lines of a chunk. None where there is no file, and with a warning where it has another first line
    or is damaged."""
    try:
        head, _, body = file.read_bytes().decode("utf-8").partition("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        _warn(ctx, file, f"it cannot be read ({error})")
        return None
    if head in (_head(ctx, file, owner, wanted, body) for owner in ctx.identities or ("",)):
        return [json.loads(line) for line in body.splitlines()]
    _warn(ctx, file, _difference(head, _head(ctx, file, "", wanted, body)))
    return None


def _head(ctx: Context, file: Path, owner: str, wanted: Mapping[str, Any], body: str) -> str:
    """The first line of a chunk."""
    place = {"owner": owner, "part": part_of(ctx.out), "chunk": file.stem}
    return json.dumps({**place, **wanted, "sha256": hash_text(body)})


def _difference(found: str, wanted: str) -> str:
    """What is wrong with a chunk, from its first line and the one that it should have for any owner."""
    try:
        written, needed = json.loads(found), json.loads(wanted)
        keys = [key for key in needed if key != "owner" and written[key] != needed[key]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "its first line is damaged"
    if "sha256" in keys:
        return "its rows are not those that were written"
    return f"it is of another {', '.join(keys or ['run or configuration'])}"


def _warn(ctx: Context, file: Path, why: str) -> None:
    ctx.log.info(f"warning: {file}: {why}; these problems are sampled again")


def _plain(completion: Completion) -> dict[str, Any]:
    return {
        "token_ids": completion.token_ids.tolist(),
        "logprobs": completion.logprobs.tolist(),
        "finish": completion.finish,
        "version": completion.version,
    }


def _completion(plain: Mapping[str, Any]) -> Completion:
    token_ids, logprobs = (
        np.asarray(plain["token_ids"], dtype=np.int32),
        np.asarray(plain["logprobs"], dtype=np.float32),
    )
    return Completion(token_ids, logprobs, plain["finish"], plain["version"])
