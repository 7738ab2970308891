"""Direct Preference Optimization, the baseline of learning from preferences without a reward model
(2305.18290).

DeepSeek-R1 has no such stage: it trains reward models and then RL. Here the policy is trained directly on the
pairs that the reward models learn from, so that both ways can be compared on the same preferences."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from r1kit.chat import Chat
from r1kit.config import InputError
from r1kit.data.labels import not_about_preference
from r1kit.data.sources import column, read_jsonl
from r1kit.seeds import derive_seed
from r1kit.stages.models import PromptStyle
from r1kit.stages.results import finish
from r1kit.stages.sft import training_row
from r1kit.stages.stage import Context, Stage, StagePlan, TrainingPhase, file_errors
from r1kit.train import dpo
from r1kit.train.dpo import DPOConfig, RowPair
from r1kit.train.learner import LearnerConfig
from r1kit.train.optimizers import OptimizerConfig


class DPO(Stage):
    """``pairs`` and ``held_out`` are JSON Lines of {"prompt", "chosen", "rejected"} (TRL's columns), written
    by reward_models, by hand or by people who label (data/labels.py); an empty ``held_out`` measures nothing.
    ``init`` is both the start and the reference."""

    writes: ClassVar[tuple[str, ...]] = ("model", "report.json")

    stage: Literal["dpo"] = "dpo"
    init: str = "@sft"
    pairs: str = "@reward_models/pairs.jsonl"
    held_out: str = "@reward_models/pairs_held_out.jsonl"
    talk: PromptStyle = PromptStyle()
    dpo: DPOConfig = DPOConfig()  # the loss and its passes
    learner: LearnerConfig = LearnerConfig(optimizer=OptimizerConfig(learning_rate=1e-4))

    def input_errors(self) -> Iterator[InputError]:
        for key, file in (("pairs", self.pairs), ("held_out", self.held_out)):
            yield from file_errors(
                (key,), file, ("prompt", "chosen", "rejected"), without=not_about_preference
            )

    def plan(self) -> StagePlan:
        phase = TrainingPhase(
            self.learner, self.init, data=(self.pairs,), epochs=float(self.dpo.epochs), passes=2.0, frozen=1
        )
        return StagePlan(phases=(phase,))

    def run(self, ctx: Context) -> None:
        model = ctx.model(self.init)
        chat, learner = self.talk.chat(model), ctx.runtime.learner(model, self.learner)
        pairs = self._pairs(ctx, chat, ctx.path(self.pairs))
        held_out = self._pairs(ctx, chat, ctx.path(self.held_out)) if self.held_out else []
        before = dpo.read_logprobs(learner, held_out)
        order = derive_seed(ctx.seed, "order")
        last = dpo.train(learner, pairs, self.dpo, order, ctx.log, ctx.out, ctx.identities)
        if held_out:
            last |= {
                f"held_out_{name}": value
                for name, value in dpo.evaluate(learner, held_out, before, self.dpo.beta).items()
            }
        facts = {"pairs": len(pairs), "held_out_pairs": len(held_out), **last}
        finish(ctx, learner, facts=facts, talk=self.talk)

    def _pairs(self, ctx: Context, chat: Chat, file: Path) -> list[RowPair]:
        """The rows of a file's pairs, without pairs that have a response longer than the context."""
        found, passed = [], not_about_preference(file)
        for number, row in read_jsonl(file):
            if number in passed:
                continue
            prompt, *texts = (column(file, number, row, name) for name in ("prompt", "chosen", "rejected"))
            found.append(RowPair(*(training_row(chat, prompt, text) for text in texts)))
        kept = [
            pair
            for pair in found
            if max(len(pair.chosen.token_ids), len(pair.rejected.token_ids)) <= self.learner.context + 1
        ]
        if len(kept) < len(found):
            ctx.log.info(
                f"{file.name}: {len(found) - len(kept)} of {len(found)} pairs left out, longer than "
                f"learner.context {self.learner.context}"
            )
        return kept
