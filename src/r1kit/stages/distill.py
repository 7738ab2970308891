"""Distillation: a small dense model learns from the final model's own answers (DeepSeek-R1, Nature version,
supplement B.4.3).

In the paper: SFT only, on the 800k samples, two to three epochs, cosine to a tenth; a student that is
distilled beats the same student trained by RL at scale. Here: the teacher's correct answers to training
problems, and its answers to general prompts. With ``on_policy`` the student then writes itself and is drawn
to the teacher token by token (train/distillation.py), as Qwen3's small models were (2505.09388, section 4.5).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from r1kit.data.mixture import Mixture
from r1kit.data.sources import write_jsonl
from r1kit.model.huggingface import read_config
from r1kit.seeds import derive_seed
from r1kit.stages.cold_start import correct, train_problems
from r1kit.stages.policy import Talk, TaskSpec, fits, model_of, report, tell_left_out, tell_tasks
from r1kit.stages.sampling import harvest
from r1kit.stages.sft import finetune_on
from r1kit.stages.stage import Context, Stage
from r1kit.tasks import load_tasks
from r1kit.tasks.miniature.general import General
from r1kit.tasks.task import Task
from r1kit.train import checkpoint, distillation
from r1kit.train.distillation import OnPolicyConfig
from r1kit.train.learner import LearnerConfig
from r1kit.train.rollouts import Player
from r1kit.train.supervised import SupervisedConfig
from r1kit.types import Sampling

GENERAL_SHARE = 0.25  # 200k of 800k samples (DeepSeek-R1, Nature version, supplement B.3.3)


class Distill(Stage):
    """``teacher`` answers ``problems`` x ``samples``; correct ones, and all well-formed general ones,
    fine-tune ``student``. ``on_policy`` then goes on without answers: sft/ keeps the model in between. It
    needs one tokenizer."""

    writes: ClassVar[tuple[str, ...]] = ("data.jsonl", "model", "sft", "report.json")

    stage: Literal["distill"] = "distill"
    student: str = "@student_base"
    teacher: str = "@alignment_rl"
    tasks: TaskSpec = {"reasoning": 1.0}
    problems: int = Field(2400, ge=1)
    samples: int = Field(2, ge=1)
    general: bool = True
    temperature: float = 1.0
    max_tokens: int = 112
    talk: Talk = Talk()
    training: SupervisedConfig = SupervisedConfig()
    on_policy: OnPolicyConfig | None = None
    learner: LearnerConfig = LearnerConfig()

    def run(self, ctx: Context) -> None:
        if self.on_policy is None:
            finetune_on(ctx, self.student, self._answers(ctx), self.talk, self.training, self.learner)
            return
        distillation.require_comparable(model_of(ctx.path(self.student)), model_of(ctx.path(self.teacher)))
        first = replace(ctx, out=ctx.out / "sft")
        first.out.mkdir(exist_ok=True)
        if not (first.out / "model" / "config.json").is_file():
            finetune_on(first, self.student, self._answers(ctx), self.talk, self.training, self.learner)
        self._on_policy(ctx, self.on_policy, first.out)

    def _answers(self, ctx: Context) -> list[tuple[str, str]]:
        """The teacher's texts that the student learns from, (prompt, response) each, which are also written
        to data.jsonl."""
        model = model_of(ctx.path(self.teacher))
        chat, engine = self.talk.chat(model), ctx.runtime.engine(model)
        sampling = Sampling(self.samples, self.temperature, max_tokens=self.max_tokens)
        tasks = load_tasks(self.tasks)
        tell_tasks(ctx, tasks)
        keep = fits(chat, read_config(model).max_positions - self.max_tokens)
        problems = train_problems(self.tasks, self.problems, derive_seed(ctx.seed, "problems"), keep)
        groups = correct(
            harvest(ctx, "reasoning", engine, chat, problems, sampling, derive_seed(ctx.seed, "sample")),
            tasks,
        )
        ctx.log.info(
            f"{len(problems) * self.samples} answers of the teacher, {sum(map(len, groups))} correct"
        )
        if self.general:
            talked = harvest(
                ctx,
                "general",
                engine,
                chat,
                General().problems("train"),
                sampling,
                derive_seed(ctx.seed, "general"),
            )
            groups += [[r for r in group if r.answer is not None] for group in talked]
        ctx.runtime.release(engine)
        rows = [(r.problem.prompt, r.text) for group in groups for r in {r.text: r for r in group}.values()]
        write_jsonl(ctx.out / "data.jsonl", [{"prompt": prompt, "completion": text} for prompt, text in rows])
        return rows

    def _on_policy(self, ctx: Context, config: OnPolicyConfig, sft: Path) -> None:
        """Go on from the fine-tuned student in ``sft``."""
        teacher = model_of(ctx.path(self.teacher))
        student, told = (
            ctx.runtime.learner(sft / "model", self.learner),
            ctx.runtime.learner(teacher, self.learner),
        )
        player = Player(student, ctx.runtime.engine_of(student), self.talk.chat(sft / "model"))
        positions = min(read_config(model).max_positions for model in (sft / "model", teacher))
        room = min(self.learner.context + 1, positions) - config.max_tokens
        mixture = Mixture(
            self._prompts(), "train", derive_seed(ctx.seed, "on_policy"), fits(player.chat, room)
        )
        tell_left_out(ctx, mixture, room)
        last = distillation.train(config, player, told, mixture, ctx.seed, ctx.log.part("on_policy"), ctx.out)
        ctx.runtime.export(student, ctx.out / "model")
        checkpoint.discard(ctx.out)
        ctx.runtime.release(player.engine, student, told)
        report(
            ctx,
            **json.loads((sft / "report.json").read_text(encoding="utf-8")),
            on_policy_divergence=last.get("distill/divergence"),
        )

    def _prompts(self) -> dict[str, tuple[Task, float]]:
        """What the student writes about: the tasks' training problems, and general prompts as often as in the
        paper's 800k."""
        tasks = load_tasks(self.tasks)
        if self.general and "general" not in tasks:
            tasks["general"] = (
                General(),
                GENERAL_SHARE / (1 - GENERAL_SHARE) * sum(weight for _, weight in tasks.values()),
            )
        return tasks
