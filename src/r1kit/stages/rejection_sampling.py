"""Rejection sampling: the reasoning model writes the next model's data (DeepSeek-R1, Nature version,
supplement B.3.3).

In the paper: several samples per prompt from the first RL stage's checkpoint; kept where correct, and where
the thinking neither mixes languages nor runs on in long paragraphs or code blocks: about 600k; plus about
200k general samples. Here the same filters, at most two different solutions a problem, and where the recipe
gives ``general`` prompts, ``general_share`` of their written answers (22 % in the paper's table 5)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from r1kit.chat import prompt_column
from r1kit.data.curation import why_unreadable
from r1kit.data.prompt_choice import only_chosen
from r1kit.data.sources import write_jsonl
from r1kit.seeds import derive_seed
from r1kit.stages.correctness import CorrectnessJudge, judged_correct
from r1kit.stages.general import GeneralSpec, general_rows, general_tasks
from r1kit.stages.models import PromptStyle, fits, longest_prompt, sampling_style
from r1kit.stages.recipe_names import RequiredTasks, log_tasks
from r1kit.stages.results import report
from r1kit.stages.sampling import CHUNK, correct, harvest, mean_length, train_problems
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan
from r1kit.tasks import load_tasks
from r1kit.tasks.task import Task
from r1kit.types import Problem, Rollout, Sampling


class RejectionSampling(Stage):
    """Draw ``problems`` x ``samples`` from ``init``, keep at most ``keep`` a problem, and write data.jsonl.

    ``purity`` is the least share of the thinking's words that are in the prompt's language. ``chosen``: a
    file of prompts that the stage choose has written, of which the first ``problems`` are sampled. ``judge``:
    a model that compares answers with the reference where no rule can. Each row has its problem's share of
    correct rollouts as ``pass_rate``."""

    writes: ClassVar[tuple[str, ...]] = ("data.jsonl", "report.json")

    stage: Literal["rejection_sampling"] = "rejection_sampling"
    init: str = "@reasoning_rl"
    tasks: RequiredTasks = {}
    chosen: str = ""
    judge: CorrectnessJudge | None = None
    problems: int = Field(1200, ge=1)
    samples: int = Field(4, ge=1)
    keep: int = Field(2, ge=1)
    purity: float = Field(0.99, ge=0.0, le=1.0)
    general: GeneralSpec | None = None  # written general answers to add: a file or a task
    general_share: float = Field(0.22, ge=0.0, lt=1.0)  # of all rows
    temperature: float = 1.0
    max_tokens: int = 112
    talk: PromptStyle = PromptStyle()

    def run(self, ctx: Context) -> None:
        model = ctx.model(self.init)
        chat, engine = sampling_style(model, self.talk).chat(model), ctx.runtime.engine(model)
        tasks, general = load_tasks(self.tasks), general_tasks(ctx, self.general)
        log_tasks(ctx, {**tasks, **general})
        keep = fits(chat, longest_prompt(self.max_tokens, model))
        problems = self._problems(ctx, tasks, keep)
        sampling = Sampling(self.samples, self.temperature, max_tokens=self.max_tokens)
        groups = harvest(
            ctx, "reasoning", model, engine, chat, problems, sampling, derive_seed(ctx.seed, "sample")
        )
        ctx.runtime.release(engine)
        right = correct(groups, tasks)
        if self.judge is not None:
            right = judged_correct(ctx, self.judge, groups, right, tasks)
        unreadable: Counter[str] = Counter()
        readable = [self._readable(group, unreadable) for group in right]
        kept = [r for group in readable for r in group[: self.keep]]
        rates = {
            own[0].problem.id: len(group) / self.samples for own, group in zip(groups, right, strict=True)
        }
        rows: list[dict[str, Any]] = [
            {"prompt": prompt_column(r.problem), "completion": r.text, "pass_rate": rates[r.problem.id]}
            for r in kept
        ]
        written = general_rows(general, len(kept), self.general_share, ctx.seed)
        rows += [{"prompt": prompt, "completion": completion} for prompt, completion in written]
        write_jsonl(ctx.out / "data.jsonl", rows)
        counts = {"sampled": len(problems) * self.samples, "correct": sum(map(len, right)), "kept": len(kept)}
        ctx.log.info(
            ", ".join(f"{count} {name}" for name, count in counts.items())
            + f"; {len(written)} general rows"
            + ("" if general else " (no general: is given)")
        )
        more = sum(map(len, right)) - unreadable.total() - len(kept)  # too many, or the same text
        for line in explain_losses(counts, _rejections(groups), unreadable, more):
            ctx.log.info(line)
        report(
            ctx, **counts, general=len(written), unreadable=dict(unreadable),
            mean_length=mean_length(groups),
        )  # fmt: skip

    def _problems(
        self, ctx: Context, tasks: Mapping[str, tuple[Task, float]], keep: Callable[[Problem], bool]
    ) -> list[Problem]:
        if not self.chosen:
            return train_problems(self.tasks, self.problems, derive_seed(ctx.seed, "problems"), keep)
        every = {p.id: p for task, _ in tasks.values() for p in task.problems("train")}
        return [p for p in only_chosen(ctx.path(self.chosen), every) if keep(p)][: self.problems]

    def plan(self) -> StagePlan:
        completions = float(self.problems * self.samples)
        kept = self.problems * min(self.keep, self.samples)
        return StagePlan(
            sampled_tokens=completions * self.max_tokens,
            phases=(
                SamplingPhase(
                    completions,
                    self.max_tokens,
                    self.init,
                    self.samples,
                    float(min(self.problems, CHUNK) * self.samples),
                ),
            ),
            rows=kept / (1 - self.general_share) if self.general else float(kept),
            row_tokens=self.max_tokens,
        )

    def _readable(self, group: list[Rollout], unreadable: Counter[str]) -> list[Rollout]:
        """Different texts whose thinking a person can read, in the prompt's language; the others are counted
        by reason."""
        found: dict[str, Rollout] = {}
        for rollout in group:
            reason = why_unreadable(rollout.thinking or "", rollout.problem.language, self.purity)
            if reason is None:
                found[rollout.text] = rollout
            else:
                unreadable[reason] += 1
        return list(found.values())


def _rejections(groups: Sequence[Sequence[Rollout]]) -> dict[str, int]:
    """Rollouts without an answer that could be checked, by reason."""
    flat = [rollout for group in groups for rollout in group]
    cut = sum(rollout.completion.finish == "length" for rollout in flat)
    other = sum(rollout.answer is None for rollout in flat) - cut
    return {"cut off at max_tokens": cut, "not in the format <think>..</think> answer": other}


def explain_losses(
    counts: Mapping[str, int], unanswered: Mapping[str, int], unreadable: Mapping[str, int], more: int
) -> list[str]:
    """How many rollouts were left out at which filter, and what to do where none is kept."""
    wrong = counts["sampled"] - counts["correct"] - sum(unanswered.values())
    lost = {**unanswered, "wrong": wrong, **unreadable, "the same text, or more than keep a problem": more}
    lines = ["left out: " + (", ".join(f"{count} {name}" for name, count in lost.items() if count) or "none")]
    if counts["kept"]:
        return lines
    fix = (
        "lower purity, or sample from a model whose thinking is readable"
        if counts["correct"]
        else "sample from a model that solves some of these problems, prompt it as it was trained (talk), "
        "raise max_tokens or samples, or use easier problems"
    )
    return [*lines, f"warning: no sampled row is kept; {fix}"]
