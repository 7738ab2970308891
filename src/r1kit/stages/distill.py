"""Distillation: a small dense model learns from the final model's own answers (DeepSeek-R1, Nature version, supplement B.4.3).

In the paper: SFT only, on the 800k samples, two to three epochs, cosine to a tenth; a student that is distilled beats the same student trained by
RL at scale. Here: the teacher's correct answers to training problems, and its answers to general prompts.
"""

from typing import Literal

from pydantic import Field

from r1kit.data.sources import write_jsonl
from r1kit.model.huggingface import read_config
from r1kit.seeds import derive_seed
from r1kit.stages.cold_start import correct, train_problems
from r1kit.stages.harvest import harvest
from r1kit.stages.policy import Talk, TaskSpec, fits, model_of, tell_tasks
from r1kit.stages.sft import finetune_on
from r1kit.stages.stage import Context, Stage
from r1kit.tasks import load_tasks
from r1kit.tasks.general import General
from r1kit.train.learner import LearnerConfig
from r1kit.train.supervised import SupervisedConfig
from r1kit.types import Sampling


class Distill(Stage):
    """``teacher`` answers ``problems`` x ``samples``; correct ones, and all well-formed general ones, fine-tune ``student``."""

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
    learner: LearnerConfig = LearnerConfig()

    def run(self, ctx: Context) -> None:
        model = model_of(ctx.path(self.teacher))
        chat, engine = self.talk.chat(model), ctx.runtime.engine(model)
        sampling = Sampling(self.samples, self.temperature, max_tokens=self.max_tokens)
        tasks = load_tasks(self.tasks)
        tell_tasks(ctx, tasks)
        keep = fits(chat, read_config(model).max_positions - self.max_tokens)
        problems = train_problems(self.tasks, self.problems, derive_seed(ctx.seed, "problems"), keep)
        groups = correct(harvest(ctx, "reasoning", engine, chat, problems, sampling, derive_seed(ctx.seed, "sample")), tasks)
        ctx.log.info(f"{len(problems) * self.samples} answers of the teacher, {sum(map(len, groups))} correct")
        if self.general:
            talked = harvest(ctx, "general", engine, chat, General().problems("train"), sampling, derive_seed(ctx.seed, "general"))
            groups += [[r for r in group if r.answer is not None] for group in talked]
        ctx.runtime.release(engine)
        rows = [(r.problem.prompt, r.text) for group in groups for r in {r.text: r for r in group}.values()]
        write_jsonl(ctx.out / "data.jsonl", [{"prompt": prompt, "completion": text} for prompt, text in rows])
        finetune_on(ctx, self.student, rows, self.talk, self.training, self.learner)
