"""Cold start: a few readable solutions for the base model (DeepSeek-R1, Nature version, section 3 and
supplement B.3.2).

In the paper: thousands of R1-Zero's rollouts, sampled at temperature 1, kept where correct and readable
(answers compared, repetition and language mixing filtered), then rewritten by people and DeepSeek-V3 into a
first-person thinking in the question's language and a summary. Here: the same harvest and filters, then the
recipe's ``rewriter``: a rule by name (data/rewriters.py), a function of your own, a model of the run, or an
endpoint. Its task checks every rewritten solution again. ``solutions`` adds written solutions of the data, as
the paper's annotators did, and ``general`` answers to general prompts."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator

from r1kit.chat import Prompt, parse, prompt_column
from r1kit.config import R1kitError, describe_problems
from r1kit.data.curation import why_unreadable
from r1kit.data.rewriters import ModelRewriter, Rewritten, load_rule, read_rewritten, write_request
from r1kit.data.sources import write_jsonl
from r1kit.model.config_json import read_config
from r1kit.seeds import derive_seed
from r1kit.stages.general import GeneralSpec, general_rows, general_tasks
from r1kit.stages.held_out_watch import WatchConfig
from r1kit.stages.models import PromptStyle, fits, prompt_style_of
from r1kit.stages.recipe_names import RequiredTasks, log_tasks
from r1kit.stages.sampling import CHUNK, Endpoint, ask_endpoint, correct, harvest, mean_length, train_problems
from r1kit.stages.sft import finetune_on, tuning_phase, watched
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan
from r1kit.stages.written import replies_of_model
from r1kit.tasks import load_tasks
from r1kit.tasks.documents import write_summary
from r1kit.tasks.task import Task
from r1kit.train.learner import LearnerConfig
from r1kit.train.supervised import SupervisedConfig
from r1kit.types import Rollout, Sampling

Tasks = Mapping[str, tuple[Task, float]]


class ColdStart(Stage):
    """Sample ``problems`` x ``samples`` rollouts, rewrite one correct rollout per problem and keep at most
    ``rows``. Add at most ``solutions`` written solutions of the data and, if ``general`` is given, general
    answers as ``general_share`` of all rows. Then fine-tune ``init``.

    ``rewriter``: ``prose``, ``worked_solutions``, ``my_rewriter.py:name``, ``{model: "@sft"}`` or
    ``{endpoint: URL, model: NAME}``. ``purity``: the smallest share of the thinking's words that must be in
    the prompt's language (for ``prose`` and for models). Without any row the stage stops; ``allow_empty``
    keeps the model as it is instead."""

    writes: ClassVar[tuple[str, ...]] = ("data.jsonl", "model", "report.json")

    stage: Literal["cold_start"] = "cold_start"
    init: str = "@pretrain"
    rollouts_from: list[str] = ["@r1_zero"]  # models that write the rollouts
    tasks: RequiredTasks = {}
    problems: int = Field(900, ge=1)
    samples: int = Field(2, ge=1)
    rows: int = Field(700, ge=1)
    rewriter: str | ModelRewriter = "prose"
    purity: float = Field(0.99, ge=0.0, le=1.0)
    solutions: int = Field(0, ge=0)
    general: GeneralSpec | None = None
    general_share: float = Field(0.08, ge=0.0, lt=1.0)
    max_tokens: int = 112
    allow_empty: bool = False
    talk: PromptStyle = PromptStyle()
    training: SupervisedConfig = SupervisedConfig()
    learner: LearnerConfig = LearnerConfig()
    watch: WatchConfig | None = None

    @field_validator("rewriter", mode="before")
    @classmethod
    def _rewriter_is_known(cls, rewriter: Any) -> Any:
        if isinstance(rewriter, Mapping):
            try:
                return ModelRewriter.model_validate(rewriter)
            except ValidationError as error:  # as one error: the key may hold a name instead
                raise ValueError(describe_problems(error)) from None
        if isinstance(rewriter, str):
            load_rule(rewriter, {}, 1.0)
        return rewriter

    def run(self, ctx: Context) -> None:
        tasks, general = load_tasks(self.tasks), general_tasks(ctx, self.general)
        log_tasks(ctx, {**tasks, **general})
        sampled = [group for source in self.rollouts_from for group in self._sample(ctx, source)]
        right = correct(sampled, tasks) if sampled else []
        harvested = [rollout for group in right for rollout in group[:1]]
        written = self._rewrite(ctx, harvested, tasks)[: self.rows]
        solutions = written_solutions(tasks, self.solutions, derive_seed(ctx.seed, "solutions"))
        answers = general_rows(general, len(written) + len(solutions), self.general_share, ctx.seed)
        ctx.log.info(
            f"{len(harvested)} problems with a correct rollout, {len(written)} rewritten; "
            f"{len(solutions)} of the data's own solutions, {len(answers)} general rows"
            + ("" if self.general else " (no general: is given)")
        )
        rows = written + solutions + answers
        write_jsonl(
            ctx.out / "data.jsonl",
            [{"prompt": prompt, "completion": completion} for prompt, completion in rows],
        )
        finetune_on(
            ctx, self.init, rows, self.talk, self.training, self.learner, self.watch, tasks, self.allow_empty,
            facts={"mean_length": mean_length(sampled)},
        )  # fmt: skip

    def plan(self) -> StagePlan:
        completions = float(self.problems * self.samples)
        sources = len(self.rollouts_from) or 1
        rewritten = min(self.rows, self.problems) if self.rollouts_from else 0  # one of a problem's rollouts
        rows = (rewritten + self.solutions) / (1 - self.general_share if self.general else 1)
        at_once = float(min(self.problems // sources, CHUNK) * self.samples)
        sampling = tuple(
            SamplingPhase(completions / sources, self.max_tokens, source, self.samples, at_once)
            for source in self.rollouts_from
        )
        tuning = tuning_phase(self.init, self.learner, self.training, (), rows, self.max_tokens)
        return StagePlan(
            sampled_tokens=completions * self.max_tokens,
            phases=(*sampling, tuning, *watched(self.watch, tuning)),
            rows=rows,
            row_tokens=self.max_tokens,
        )

    def _sample(self, ctx: Context, source: str) -> list[list[Rollout]]:
        """Rollouts of the source model, a group for each problem."""
        model = ctx.model(source)
        chat, engine = prompt_style_of(model, self.talk).chat(model), ctx.runtime.engine(model)
        count = self.problems // len(self.rollouts_from)
        keep = fits(chat, read_config(model).max_positions - self.max_tokens)
        problems = train_problems(self.tasks, count, derive_seed(ctx.seed, "harvest", source), keep)
        sampling = Sampling(self.samples, max_tokens=self.max_tokens)
        seed = derive_seed(ctx.seed, source)
        groups = harvest(ctx, _file_name(source), model, engine, chat, problems, sampling, seed)
        ctx.runtime.release(engine)
        return groups

    def _rewrite(self, ctx: Context, rollouts: Sequence[Rollout], tasks: Tasks) -> list[tuple[Prompt, str]]:
        """(prompt, response) of the rollouts that the rewriter could rewrite and whose tasks accept the
        result."""
        if isinstance(self.rewriter, ModelRewriter):
            made = self._rewritten_by_model(ctx, self.rewriter, rollouts)
        else:
            rule = load_rule(self.rewriter, {name: task for name, (task, _) in tasks.items()}, self.purity)
            made = _only_pairs(self.rewriter, rule(rollouts), len(rollouts))
        rewritten = [
            with_response(rollout, pair) for rollout, pair in zip(rollouts, made, strict=True) if pair
        ]
        checked = correct([[rollout] for rollout in rewritten if rollout.answer is not None], tasks)
        kept = [rollout for group in checked for rollout in group]
        lost = Counter(
            why_unreadable(rollout.thinking or "", rollout.problem.language, self.purity) or "not rewritten"
            for rollout, pair in zip(rollouts, made, strict=True)
            if not pair
        )
        lost["no longer right when rewritten"] = len(rewritten) - len(kept)
        if lost.total():
            said = ", ".join(f"{count} {reason}" for reason, count in lost.items() if count)
            ctx.log.info(f"left out of {len(rollouts)}: {said}")
        return [(prompt_column(rollout.problem), rollout.text) for rollout in kept]

    def _rewritten_by_model(
        self, ctx: Context, config: ModelRewriter, rollouts: Sequence[Rollout]
    ) -> list[Rewritten | None]:
        requests = [write_request(config, rollout) for rollout in rollouts]
        seed = derive_seed(ctx.seed, "rewrite")
        if config.endpoint:
            endpoint = Endpoint(
                config.endpoint,
                config.model,
                config.temperature,
                config.max_tokens,
                config.key_variable,
                config.seconds,
            )
            questions = [
                (text, derive_seed(seed, r.problem.id)) for text, r in zip(requests, rollouts, strict=True)
            ]
            replies = ask_endpoint(ctx, "rewritten", endpoint, questions)
        else:
            replies = _replies_of_model(ctx, config, rollouts, requests, seed)
        return [
            read_rewritten(reply, rollout.problem.language, self.purity)
            for reply, rollout in zip(replies, rollouts, strict=True)
        ]


def _replies_of_model(
    ctx: Context, config: ModelRewriter, rollouts: Sequence[Rollout], requests: Sequence[str], seed: int
) -> list[str]:
    """What a model of the run replies to each request."""
    # Two sources may have solved the same problem, so requests are numbered.
    names = [f"rewrite/{number}/{rollout.problem.id}" for number, rollout in enumerate(rollouts)]
    kind = f"rewritten_{_file_name(config.model)}"
    asked = list(zip(names, requests, strict=True))
    return replies_of_model(ctx, kind, config.model, asked, config.temperature, config.max_tokens, seed)


def _file_name(reference: str) -> str:
    return reference.strip("@").replace("/", "_")


def _only_pairs(name: str, made: Sequence[Any], count: int) -> list[Rewritten | None]:
    """What a rewriter returned. Raises R1kitError where it is not a pair of texts or None for each
    rollout."""
    if len(made) != count:
        raise R1kitError(f"rewriter {name}: {len(made)} results for {count} rollouts; return one for each")
    for result in made:
        pair = isinstance(result, tuple | list) and len(result) == 2
        if result is not None and not (pair and all(isinstance(text, str) for text in result)):
            raise R1kitError(
                f"rewriter {name}: a result is (thinking, summary) or None, not {type(result).__name__}: "
                f"{result!r:.80}"
            )
    return list(made)


def with_response(rollout: Rollout, rewritten: Rewritten) -> Rollout:
    """The rollout as if it had written ``rewritten``; its answer is None where that does not follow the
    template."""
    text = f"<think>{rewritten[0]}</think>{rewritten[1]}"
    thinking, answer = parse(text) or (None, None)
    return replace(rollout, text=text, thinking=thinking, answer=answer)


def written_solutions(tasks: Tasks, count: int, seed: int) -> list[tuple[Prompt, str]]:
    """At most ``count`` training problems with the solutions that their data set has, as (prompt, thinking
    and summary)."""
    solved = [
        p
        for task, _ in tasks.values()
        if count
        for p in task.problems("train")
        if p.answer and p.columns.get("solution")
    ]
    chosen = random.Random(f"solutions/{seed}").sample(solved, min(count, len(solved)))
    return [
        (
            prompt_column(p),
            f"<think>{p.columns['solution']}</think>{write_summary(str(p.answer), p.language)}",
        )
        for p in chosen
    ]
