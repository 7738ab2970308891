"""Rejection sampling: the reasoning model writes the next model's data (DeepSeek-R1, Nature version,
supplement B.3.3).

In the paper: several samples per prompt from the first RL stage's checkpoint; kept where correct, and where
the thinking neither mixes languages nor runs on in long paragraphs or code blocks: about 600k; plus about
200k general samples. Here the same filters, at most two different solutions a problem, and where the recipe
gives ``general`` prompts, ``general_share`` of their written answers (22 % in the paper's table 5)."""

from typing import ClassVar, Literal

from pydantic import Field

from r1kit.chat import prompt_column
from r1kit.data.curation import readable
from r1kit.data.sources import write_jsonl
from r1kit.seeds import derive_seed
from r1kit.stages.general import GeneralSpec, general_rows, general_tasks
from r1kit.stages.models import PromptStyle, fits, longest_prompt, model_of
from r1kit.stages.recipe_names import RequiredTasks, log_tasks
from r1kit.stages.results import report
from r1kit.stages.sampling import correct, harvest, train_problems
from r1kit.stages.stage import Context, SamplingPhase, Stage, StagePlan
from r1kit.tasks import load_tasks
from r1kit.types import Rollout, Sampling


class RejectionSampling(Stage):
    """Draw ``problems`` x ``samples`` from ``init``, keep at most ``keep`` a problem, and write data.jsonl.

    ``purity`` is the least share of the thinking's words that are in the prompt's language."""

    writes: ClassVar[tuple[str, ...]] = ("data.jsonl", "report.json")

    stage: Literal["rejection_sampling"] = "rejection_sampling"
    init: str = "@reasoning_rl"
    tasks: RequiredTasks = {}
    problems: int = Field(1200, ge=1)
    samples: int = Field(4, ge=1)
    keep: int = Field(2, ge=1)
    purity: float = Field(0.99, ge=0.0, le=1.0)
    general: GeneralSpec | None = None
    general_share: float = Field(0.22, ge=0.0, lt=1.0)
    temperature: float = 1.0
    max_tokens: int = 112
    talk: PromptStyle = PromptStyle()

    def run(self, ctx: Context) -> None:
        model = model_of(ctx.path(self.init))
        chat, engine = self.talk.chat(model), ctx.runtime.engine(model)
        tasks, general = load_tasks(self.tasks), general_tasks(ctx, self.general)
        log_tasks(ctx, {**tasks, **general})
        keep = fits(chat, longest_prompt(self.max_tokens, model))
        problems = train_problems(self.tasks, self.problems, derive_seed(ctx.seed, "problems"), keep)
        sampling = Sampling(self.samples, self.temperature, max_tokens=self.max_tokens)
        groups = harvest(
            ctx, "reasoning", model, engine, chat, problems, sampling, derive_seed(ctx.seed, "sample")
        )
        ctx.runtime.release(engine)
        right = correct(groups, tasks)
        kept = [r for group in right for r in self._readable(group)[: self.keep]]
        written = [(prompt_column(r.problem), r.text) for r in kept]
        written += general_rows(general, len(kept), self.general_share, ctx.seed)
        write_jsonl(
            ctx.out / "data.jsonl",
            [{"prompt": prompt, "completion": completion} for prompt, completion in written],
        )
        counts = {"sampled": len(problems) * self.samples, "correct": sum(map(len, right)), "kept": len(kept)}
        ctx.log.info(
            ", ".join(f"{count} {name}" for name, count in counts.items())
            + f"; {len(written) - len(kept)} general rows"
            + ("" if general else " (no general: is given)")
        )
        report(ctx, **counts, general=len(written) - len(kept))

    def plan(self) -> StagePlan:
        completions = float(self.problems * self.samples)
        kept = self.problems * min(self.keep, self.samples)
        return StagePlan(
            sampled_tokens=completions * self.max_tokens,
            phases=(SamplingPhase(completions, self.max_tokens, self.init, self.samples),),
            rows=kept / (1 - self.general_share) if self.general else float(kept),
            row_tokens=self.max_tokens,
        )

    def _readable(self, group: list[Rollout]) -> list[Rollout]:
        """Different texts whose thinking a person can read, in the prompt's language."""
        return list(
            {r.text: r for r in group if readable(r.thinking or "", r.problem.language, self.purity)}.values()
        )
