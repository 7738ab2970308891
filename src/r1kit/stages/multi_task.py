"""Fine-tuning on one or several tasks with answers of their own: question answering, summarisation,
classification, translation, programs. Each is a file of rows and a metric.

The tasks are mixed by proportion or temperature (data/task_mixing.py). While the stage trains, each task's
held-out rows give its loss and its metric: the model answers them greedily (programs: ``samples`` times at
temperature 1), and the answer is what stands in its <answer> tags where it follows the template, else all of
it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from r1kit.chat import Chat, parse, problem_of
from r1kit.config import Config, InputError, R1kitError
from r1kit.data.sources import BadRows, read_pairs
from r1kit.data.task_mixing import MixingConfig, mixed, rates
from r1kit.engine import Engine
from r1kit.figures.statistics import mean_pass_at_k
from r1kit.jsonl import first_error, read_usable
from r1kit.rewards.text_metrics import MetricName, check_installed, text_figures
from r1kit.seeds import derive_seed
from r1kit.stages.sampling import sample
from r1kit.tasks.dataset import Dataset
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.supervised import SupervisedConfig, update_batches
from r1kit.types import Problem, Rollout, Row, Sampling

ANSWERS = "answers"  # a column with further right answers of a row


class TaskFiles(Config):
    """``train``: rows as the stage's ``data`` has them. ``held_out``: rows that are measured, with the same
    columns and further right answers in ``answers``; programs have tests in their place, as ``check:
    program`` of a data set reads them. ``metric``: rewards/text_metrics.py, or ``pass_at_k``."""

    train: str
    held_out: str | None = None
    metric: MetricName | Literal["pass_at_k"] = "exact"


class TaskEvaluation(Config):
    """When and on how much the tasks are measured: every ``every`` updates (0: at the end alone), the first
    ``problems`` held-out rows of each, answers of at most ``max_tokens``. ``samples`` of each program and
    ``k``: pass@k."""

    every: int = Field(0, ge=0)
    problems: int = Field(64, ge=1)
    max_tokens: int = Field(64, ge=1)
    samples: int = Field(4, ge=1)
    k: int = Field(1, ge=1)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A row that is measured: the problem, its right answers, and the written response (empty where there is
    none)."""

    problem: Problem
    answers: tuple[str, ...]
    response: str


def task_errors(tasks: Mapping[str, TaskFiles], bad_rows: BadRows) -> Iterator[InputError]:
    """What is wrong with the tasks' files, and packages that are missing, before anything runs."""
    for name, task in tasks.items():
        files = {"train": task.train, "held_out": task.held_out}
        for key, file in files.items():
            if file is None or file.startswith("@") or (key == "held_out" and task.metric == "pass_at_k"):
                continue
            error = first_error(Path(file).expanduser(), read_pairs, bad_rows)
            if error is not None:
                yield ("tasks", name, key), error
        try:
            check_installed(task.metric)
        except R1kitError as error:
            yield ("tasks", name, "metric"), str(error)


def read_held_out(name: str, task: TaskFiles, path: Path, most: int) -> list[HeldOut]:
    """The first rows of a task's held-out file. Raises R1kitError naming file and row."""
    if task.metric == "pass_at_k":
        programs = Dataset(name, train=str(path), held_out=str(path), check="program")
        return [HeldOut(problem, (), "") for problem in programs.problems("held_out")[:most]]

    def use(file: Path, number: int, row: dict[str, object]) -> HeldOut:
        prompt, response = read_pairs(file, number, row)[-1]
        more = row.get(ANSWERS, [])
        if not isinstance(more, list) or not all(isinstance(one, str) for one in more):
            raise R1kitError(f"{file}:{number}: column {ANSWERS!r} must be a list of texts")
        problem = replace(problem_of(prompt), id=f"{name}/{number}", task=name)
        return HeldOut(problem, tuple(dict.fromkeys([answer_in(response), *more])), response)

    return list(read_usable(path, use))[:most]


def answer_in(text: str) -> str:
    """The answer of a response: what stands in its tags where it follows the template, else all of it."""
    parsed = parse(text.strip())
    return text.strip() if parsed is None else parsed[1]


class TaskWatch:
    """Measures each task's held-out rows by its metric, and their loss."""

    def __init__(
        self,
        tasks: Mapping[str, TaskFiles],
        held_out: Mapping[str, Sequence[HeldOut]],
        rows: Mapping[str, Sequence[Row]],
        config: TaskEvaluation,
        chat: Chat,
        steps: int,
    ) -> None:
        """``rows`` are the held-out rows as training rows, for the loss."""
        self.tasks, self.held_out, self.rows = tasks, held_out, rows
        self.config, self.chat, self.steps = config, chat, steps

    def is_due(self, step: int) -> bool:
        return step >= self.steps or (bool(self.config.every) and step % self.config.every == 0)

    def measure(self, learner: LearnerProtocol, engine: Engine) -> Metrics:
        """The figures of all tasks, as ``task/NAME/FIGURE``."""
        found: Metrics = {}
        for name, measured in self.held_out.items():
            figures = self._figures(name, measured, engine)
            if rows := self.rows.get(name):
                logprobs = learner.logprobs(rows)
                tokens = sum(int(row.mask[1:].sum()) for row in rows)
                figures["loss"] = -sum(float(one.sum()) for one in logprobs) / max(1, tokens)
            found |= {f"task/{name}/{figure}": value for figure, value in figures.items()}
        return found

    def _figures(self, name: str, measured: Sequence[HeldOut], engine: Engine) -> Metrics:
        metric, config = self.tasks[name].metric, self.config
        problems = [one.problem for one in measured]
        programs = metric == "pass_at_k"
        sampling = Sampling(config.samples, 1.0) if programs else Sampling(1, 0.0)
        sampling = replace(sampling, max_tokens=config.max_tokens)
        groups = sample(engine, self.chat, problems, sampling, derive_seed(0, "tasks"))
        if metric == "pass_at_k":
            return {f"pass_{config.k}": _pass_at_k(name, groups, config.k)}
        predictions = [_prediction(group[0]) for group in groups]
        return text_figures(metric, predictions, [one.answers for one in measured])


def _prediction(rollout: Rollout) -> str:
    return rollout.text.strip() if rollout.answer is None else rollout.answer


def _pass_at_k(name: str, groups: Sequence[Sequence[Rollout]], k: int) -> float:
    """pass@k of programs that run against their tests."""
    flat = [rollout for group in groups for rollout in group]
    checker = Dataset(name, train="", check="program")
    verdicts = iter(checker.check_batch([one.problem for one in flat], [_prediction(one) for one in flat]))
    right = [[next(verdicts).outcome == "correct" for _ in group] for group in groups]
    return mean_pass_at_k([(sum(own), len(own)) for own in right], k)


def task_updates(
    rows: Mapping[str, Sequence[Row]], mixing: MixingConfig, training: SupervisedConfig, seed: int
) -> list[list[Row]]:
    """The updates of a fine-tuning on all tasks."""
    whole = sum(map(len, rows.values()))
    draws = mixing.rows or max(1, round(training.epochs * whole))
    return list(update_batches(iter(mixed(rows, mixing, draws, seed)), training.sizes()))


def mixture_line(rows: Mapping[str, Sequence[Row]], mixing: MixingConfig) -> str:
    """One line for the log: the rows and the share of each task."""
    shares = rates({name: len(own) for name, own in rows.items()}, mixing)
    return "tasks: " + ", ".join(f"{name} {len(rows[name])} rows, {shares[name]:.1%}" for name in rows)
