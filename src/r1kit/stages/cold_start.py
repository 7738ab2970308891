"""Cold start: a few readable solutions for the base model (DeepSeek-R1, Nature version, section 3 and
supplement B.3.2).

In the paper: thousands of R1-Zero's rollouts, sampled at temperature 1, kept where correct and readable
(answers compared, repetition and language mixing filtered), then rewritten by people and DeepSeek-V3 into a
first-person thinking in the question's language and a summary. Here: the same harvest and filters. The
miniature's rewriter is tasks/miniature/worked_solutions.py, which reads a thinking back into its steps and
writes them anew; a rollout whose steps do not hold is dropped. Other solutions are prose: they are kept as
they are where readable, and get a summary, which is checked again. ``solutions`` adds written solutions of
one's own data, as the paper's annotators did."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from r1kit.data.curation import readable
from r1kit.data.mixture import Mixture
from r1kit.data.sources import write_jsonl
from r1kit.model.huggingface import read_config
from r1kit.rewards import check_all
from r1kit.seeds import derive_seed
from r1kit.stages.policy import Talk, TaskSpec, fits, model_of, talk_of, tell_tasks
from r1kit.stages.sampling import harvest
from r1kit.stages.sft import finetune_on
from r1kit.stages.stage import Context, Stage
from r1kit.tasks import Procedural, load_tasks
from r1kit.tasks.miniature.general import General, reference_answer, reference_thinking
from r1kit.tasks.miniature.worked_solutions import holds, read_steps, write_readable, write_summary
from r1kit.tasks.task import Task, final_answer
from r1kit.train.learner import LearnerConfig
from r1kit.train.supervised import SupervisedConfig
from r1kit.types import Problem, Rollout, Sampling


class ColdStart(Stage):
    """Harvest ``problems`` x ``samples`` rollouts, keep at most ``rows`` (one per problem), add at most
    ``solutions`` rows of the data's own written solutions and ``general_share`` of general ones, fine-tune
    ``init``."""

    writes: ClassVar[tuple[str, ...]] = ("data.jsonl", "model", "report.json")

    stage: Literal["cold_start"] = "cold_start"
    init: str = "@pretrain"
    rollouts_from: list[str] = ["@r1_zero"]
    tasks: TaskSpec = {"reasoning": 1.0}
    problems: int = Field(900, ge=1)
    samples: int = Field(2, ge=1)
    rows: int = Field(700, ge=1)
    solutions: int = Field(0, ge=0)
    purity: float = Field(
        0.99, ge=0.0, le=1.0
    )  # of prose: least share of the thinking's words in the prompt's language
    general_share: float = Field(0.08, ge=0.0, lt=1.0)
    max_tokens: int = 112
    talk: Talk = Talk()
    training: SupervisedConfig = SupervisedConfig()
    learner: LearnerConfig = LearnerConfig()

    def run(self, ctx: Context) -> None:
        data = ctx.out / "data.jsonl"
        tasks = load_tasks(self.tasks)
        tell_tasks(ctx, tasks)
        harvest = [rollout for source in self.rollouts_from for rollout in self._harvest(ctx, source)]
        written = [row for row in (self._rewrite(rollout, tasks) for rollout in harvest) if row is not None][
            : self.rows
        ]
        solutions = written_solutions(tasks, self.solutions, derive_seed(ctx.seed, "solutions"))
        general = general_rows(len(written) + len(solutions), self.general_share, ctx.seed)
        counts = f"{len(harvest)} problems with a correct rollout, {len(written)} rewritten"
        ctx.log.info(
            f"{counts}; {len(solutions)} of the data's own solutions and {len(general)} general rows "
            "beside them"
        )
        rows = written + solutions + general
        write_jsonl(data, [{"prompt": prompt, "completion": completion} for prompt, completion in rows])
        finetune_on(ctx, self.init, rows, self.talk, self.training, self.learner)

    def _rewrite(self, rollout: Rollout, tasks: Mapping[str, tuple[Task, float]]) -> tuple[str, str] | None:
        task = tasks[rollout.problem.task][0]
        return rewrite(rollout) if isinstance(task, Procedural) else rewrite_prose(rollout, task, self.purity)

    def _harvest(self, ctx: Context, source: str) -> list[Rollout]:
        """Correct rollouts of the source model, at most one per problem."""
        model = model_of(ctx.path(source))
        chat, engine = talk_of(model, self.talk).chat(model), ctx.runtime.engine(model)
        tasks = load_tasks(self.tasks)
        count = self.problems // len(self.rollouts_from)
        keep = fits(chat, read_config(model).max_positions - self.max_tokens)
        problems = train_problems(self.tasks, count, derive_seed(ctx.seed, "harvest", source), keep)
        sampling = Sampling(self.samples, max_tokens=self.max_tokens)
        groups = harvest(
            ctx,
            source.strip("@").replace("/", "_"),
            engine,
            chat,
            problems,
            sampling,
            derive_seed(ctx.seed, source),
        )
        ctx.runtime.release(engine)
        return [r for group in correct(groups, tasks) for r in group[:1]]


def rewrite(rollout: Rollout) -> tuple[str, str] | None:
    """(prompt, readable response) of a correct rollout; None where its thinking has no steps or one that does
    not hold."""
    answer = final_answer(rollout.answer or "")
    steps = read_steps(rollout.thinking or "")
    if not steps or answer is None or not all(holds(step) for step in steps) or len(set(steps)) < len(steps):
        return None
    rng = random.Random(f"rewrite/{rollout.problem.id}")
    language = rollout.problem.language
    thinking = write_readable(steps, answer, language, rng)
    return rollout.problem.prompt, f"<think>{thinking}</think>{write_summary(answer, language)}"


def rewrite_prose(rollout: Rollout, task: Task, purity: float) -> tuple[str, str] | None:
    """(prompt, thinking and summary) of a correct rollout in free text; None where the thinking is not
    readable. The answer goes into a box, unless the task then no longer takes it for right."""
    problem, said = rollout.problem, (rollout.answer or "").strip()
    if not readable(rollout.thinking or "", problem.language, purity):
        return None
    boxed = said if "\\boxed" in said else write_summary(said, problem.language)
    summary = boxed if task.check(problem, boxed).outcome == "correct" else said
    return problem.prompt, f"<think>{rollout.thinking}</think>{summary}"


def written_solutions(
    tasks: Mapping[str, tuple[Task, float]], count: int, seed: int
) -> list[tuple[str, str]]:
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
        (p.prompt, f"<think>{p.columns['solution']}</think>{write_summary(str(p.answer), p.language)}")
        for p in chosen
    ]


def general_rows(beside: int, share: float, seed: int, quality: float = 0.8) -> list[tuple[str, str]]:
    """General prompts with written answers, as the paper reuses DeepSeek-V3's data: so many that they are
    ``share`` of all rows when ``beside`` others stand with them (a few, where none does). No writer is
    perfect (``quality``)."""
    count = round(max(beside, 16) * share / (1 - share))
    rng = random.Random(f"general/{seed}")
    prompts = General().problems("train")
    chosen = [rng.choice(prompts) for _ in range(count)]
    return [
        (p.prompt, f"<think>{reference_thinking(p)}</think>{reference_answer(p, rng, quality)}")
        for p in chosen
    ]


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
    """Of each group, the rollouts that their task calls correct; all answers of a task are checked as one
    batch."""
    flat = [rollout for group in groups for rollout in group]
    right: set[tuple[str, int]] = set()
    for name, (task, _) in tasks.items():
        own = [rollout for rollout in flat if rollout.problem.task == name]
        right |= {
            (r.problem.id, r.index)
            for r, verdict in zip(own, check_all(task, own), strict=True)
            if verdict.outcome == "correct"
        }
    return [[r for r in group if (r.problem.id, r.index) in right] for group in groups]
