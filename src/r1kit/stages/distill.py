"""Distillation: a small dense model learns from the final model's own answers (DeepSeek-R1, Nature version,
supplement B.4.3).

In the paper: SFT only, on the 800k samples, two to three epochs, cosine to a tenth; a distilled student beats
the same student trained by RL at scale. Here: SFT on the teacher's correct answers to training problems and
its answers to the recipe's ``general`` prompts. With ``on_policy`` the student then samples, and every token
is trained towards the teacher's distribution (train/distillation.py), as for Qwen3's small models
(2505.09388, section 4.5)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from r1kit.chat import Prompt, prompt_column
from r1kit.data.sources import write_jsonl
from r1kit.files import make_folder
from r1kit.jsonl import read_jsonl
from r1kit.log import Log
from r1kit.seeds import derive_seed
from r1kit.stages.general import GeneralSpec, general_tasks, prompts_in
from r1kit.stages.held_out_watch import WatchConfig
from r1kit.stages.kept import is_kept, keep
from r1kit.stages.models import PromptStyle, fits, longest_prompt, sampling_style
from r1kit.stages.recipe_names import TaskSpec, log_tasks
from r1kit.stages.results import finish
from r1kit.stages.rl import held_out_watch, together, training_problems
from r1kit.stages.sampling import CHUNK, correct, harvest, mean_length, train_problems
from r1kit.stages.sft import finetune_on, tuning_phase, watched
from r1kit.stages.stage import Context, Phase, SamplingPhase, Stage, StagePlan, TrainingPhase
from r1kit.tasks import load_tasks
from r1kit.tasks.task import Task
from r1kit.train import checkpoint, distillation
from r1kit.train.distillation import OnPolicyConfig
from r1kit.train.learner import LearnerConfig
from r1kit.train.rl_loop import train
from r1kit.train.rollouts import Policy
from r1kit.train.supervised import SupervisedConfig
from r1kit.types import Rollout, Sampling

GENERAL_SHARE = 0.25  # 200k of 800k samples (DeepSeek-R1, Nature version, supplement B.3.3)


class Distill(Stage):
    """``teacher`` answers ``problems`` of ``tasks`` and all ``general`` prompts, ``samples`` times each;
    correct answers, and all well-formed general ones, fine-tune ``student``. ``on_policy`` then continues on
    the student's own samples; sft/ keeps the model after fine-tuning. Both models must have the same
    tokenizer. Without ``talk`` the teacher is prompted as it was trained. Without any row the stage stops;
    ``allow_empty`` keeps the student as it is instead."""

    writes: ClassVar[tuple[str, ...]] = ("data.jsonl", "model", "sft", "report.json")

    stage: Literal["distill"] = "distill"
    student: str = "@student_base"
    teacher: str = "@alignment_rl"
    tasks: TaskSpec = {}
    problems: int = Field(2400, ge=1)
    samples: int = Field(2, ge=1)
    general: GeneralSpec | None = None
    temperature: float = 1.0
    max_tokens: int = 112
    allow_empty: bool = False
    talk: PromptStyle = PromptStyle()
    training: SupervisedConfig = SupervisedConfig()
    on_policy: OnPolicyConfig | None = None
    learner: LearnerConfig = LearnerConfig()
    watch: WatchConfig | None = None

    @model_validator(mode="after")
    def _has_prompts(self) -> Self:
        if not self.tasks and not self.general:
            raise ValueError(
                "name what the teacher answers: tasks: {gsm8k: {kind: dataset, train: "
                "data/gsm8k_train.jsonl}}, general: general.jsonl, or both"
            )
        return self

    def run(self, ctx: Context) -> None:
        if self.on_policy is None:
            self._finetune(ctx, ctx)
            return
        distillation.require_comparable(ctx.model(self.student), ctx.model(self.teacher))
        first = replace(ctx, out=ctx.out / "sft")
        if not ((first.out / "model").is_dir() and is_kept(ctx, "sft")):
            self._forget_on_policy(ctx)
            make_folder(first.out)
            self._finetune(ctx, first)
            keep(ctx, "sft", "data.jsonl")
        self._on_policy(ctx, self.on_policy, first.out)

    def _forget_on_policy(self, ctx: Context) -> None:
        """Remove what the second part has saved and logged: it follows the first one, which is made again."""
        if checkpoint.exists(ctx.out):
            checkpoint.discard(ctx.out)
            log = ctx.log.part("on_policy")
            log.truncate_from(0)
            log.close()

    def _finetune(self, ctx: Context, place: Context) -> None:
        """Fine-tune the student on the teacher's answers, in the folder of ``place``."""
        (rows, length), tasks = self._answers(ctx), load_tasks(self.tasks)
        finetune_on(
            place,
            self.student,
            rows,
            self.talk,
            self.training,
            self.learner,
            self.watch,
            tasks,
            self.allow_empty,
            facts={"mean_length": length},
        )

    def plan(self) -> StagePlan:
        general = prompts_in(self.general)
        prompts = [float(self.problems)] if self.tasks or general is None else []
        prompts += [general] if general else []
        completions = sum(prompts) * self.samples
        tuning = tuning_phase(self.student, self.learner, self.training, (), completions, self.max_tokens)
        sampling = tuple(
            SamplingPhase(
                count * self.samples, self.max_tokens, self.teacher, self.samples,
                min(count, CHUNK) * self.samples,
            )
            for count in prompts
        )  # fmt: skip
        return StagePlan(
            sampled_tokens=completions * self.max_tokens,
            phases=(*sampling, tuning, *watched(self.watch, tuning), *self._on_policy_phases()),
            rows=completions,
            row_tokens=self.max_tokens,
        )

    def _on_policy_phases(self) -> tuple[Phase, ...]:
        config = self.on_policy
        if config is None:
            return ()
        completions = float(config.steps * config.problems * config.group)
        at_once = float(config.problems * config.group)
        training = TrainingPhase(
            self.learner, self.student, updates=float(config.steps), rows=completions,
            row_tokens=config.max_tokens, passes=1.0, frozen=1, saves=config.steps / config.save_every,
        )  # fmt: skip
        return SamplingPhase(completions, config.max_tokens, group=config.group, at_once=at_once), training

    def _answers(self, ctx: Context) -> tuple[list[tuple[Prompt, str]], float | None]:
        """The teacher's texts that the student learns from, (prompt, response) each, which are also written
        to data.jsonl; and the mean number of tokens of all that it sampled."""
        model = ctx.model(self.teacher)
        chat, engine = sampling_style(model, self.talk).chat(model), ctx.runtime.engine(model)
        sampling = Sampling(self.samples, self.temperature, max_tokens=self.max_tokens)
        tasks, general = load_tasks(self.tasks), general_tasks(ctx, self.general)
        log_tasks(ctx, {**tasks, **general})
        keep = fits(chat, longest_prompt(self.max_tokens, model))
        groups: list[list[Rollout]] = []
        sampled: list[list[Rollout]] = []
        if tasks:
            problems = train_problems(self.tasks, self.problems, derive_seed(ctx.seed, "problems"), keep)
            seed = derive_seed(ctx.seed, "sample")
            sampled = harvest(ctx, "reasoning", model, engine, chat, problems, sampling, seed)
            groups = correct(sampled, tasks)
            ctx.log.info(
                f"{len(problems) * self.samples} answers of the teacher, {sum(map(len, groups))} correct"
            )
        if general:
            prompts = [p for task, _ in general.values() for p in task.problems("train") if keep(p)]
            seed = derive_seed(ctx.seed, "general")
            answered = harvest(ctx, "general", model, engine, chat, prompts, sampling, seed)
            groups += [[r for r in group if r.answer is not None] for group in answered]
            sampled = [*sampled, *answered]
        ctx.runtime.release(engine)
        rows = [
            (prompt_column(r.problem), r.text)
            for group in groups
            for r in {r.text: r for r in group}.values()
        ]
        write_jsonl(ctx.out / "data.jsonl", [{"prompt": prompt, "completion": text} for prompt, text in rows])
        return rows, mean_length(sampled)

    def _on_policy(self, ctx: Context, config: OnPolicyConfig, sft: Path) -> None:
        """Continue from the fine-tuned student in ``sft``."""
        folders = sft / "model", ctx.model(self.teacher)
        student, teacher = (ctx.runtime.learner(folder, self.learner) for folder in folders)
        engine, chat = ctx.runtime.engine_of(student), self.talk.chat(folders[0])
        policy = Policy(student, engine, chat, hand_over=ctx.runtime.hand_over)
        limit = longest_prompt(config.max_tokens, *folders, context=self.learner.context)
        tasks = with_general(load_tasks(self.tasks), general_tasks(ctx, self.general))
        mixture = training_problems(ctx, tasks, policy.chat, limit, "on_policy")
        algorithm = distillation.distil(config, policy, teacher)
        log = ctx.log.part("on_policy")
        watches = held_out_watch(self.watch, algorithm.config, load_tasks(self.tasks), self.talk, folders[0])
        watch = together(watches) if watches else None
        train(algorithm, mixture, ctx.seed, log, ctx.out, watch, ctx.identities)
        facts = json.loads((sft / "report.json").read_text(encoding="utf-8"))
        facts["on_policy_divergence"] = last_divergence(log)
        finish(ctx, student, policy.engine, teacher, facts=facts, talk=self.talk)


def last_divergence(log: Log) -> float | None:
    """The divergence of the last step, from the log: a training that was interrupted after its last step runs
    none."""
    log.sync()
    rows = [row for _, row in read_jsonl(log.metrics_file)]
    own = [row for row in rows if row.get("stage") == log.stage and row.get("part") == log.part_name]
    found: float | None = own[-1].get("distill/divergence") if own else None
    return found


def with_general(
    tasks: Mapping[str, tuple[Task, float]], general: Mapping[str, tuple[Task, float]]
) -> dict[str, tuple[Task, float]]:
    """The prompts of the on-policy part: the tasks' training problems, and general prompts with the share
    they have in the paper's 800k."""
    reasoning, talk = (sum(weight for _, weight in part.values()) for part in (tasks, general))
    share = GENERAL_SHARE / (1 - GENERAL_SHARE) * reasoning if tasks else 1.0
    added = {
        name: (task, weight / talk * share) for name, (task, weight) in general.items() if name not in tasks
    }
    return {**tasks, **added}
