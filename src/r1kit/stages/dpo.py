"""Direct Preference Optimization, the baseline of learning from preferences without a reward model
(2305.18290).

DeepSeek-R1 has no such stage: it trains reward models and then RL. Here the pairs that the reward models
learn from train the policy itself, so that the two ways can be compared on the same preferences."""

from pathlib import Path
from typing import Literal

from r1kit.chat import Chat
from r1kit.data.sources import column, read_jsonl
from r1kit.seeds import derive_seed
from r1kit.stages.policy import Talk, model_of, report
from r1kit.stages.sft import training_row
from r1kit.stages.stage import Context, Stage
from r1kit.train import checkpoint, dpo
from r1kit.train.dpo import DPOConfig, RowPair
from r1kit.train.learner import LearnerConfig
from r1kit.train.optimizers import OptimizerConfig


class DPO(Stage):
    """``pairs`` and ``held_out`` are JSON Lines of {"prompt", "chosen", "rejected"} (TRL's columns), written
    by reward_models or by hand; an empty ``held_out`` measures nothing. ``init`` is both the start and the
    reference."""

    stage: Literal["dpo"] = "dpo"
    init: str = "@sft"
    pairs: str = "@reward_models/pairs.jsonl"
    held_out: str = "@reward_models/pairs_held_out.jsonl"
    talk: Talk = Talk()
    dpo: DPOConfig = DPOConfig()
    learner: LearnerConfig = LearnerConfig(optimizer=OptimizerConfig(learning_rate=1e-4))

    def run(self, ctx: Context) -> None:
        model = model_of(ctx.path(self.init))
        chat, learner = self.talk.chat(model), ctx.runtime.learner(model, self.learner)
        pairs = self._pairs(ctx, chat, ctx.path(self.pairs))
        held_out = self._pairs(ctx, chat, ctx.path(self.held_out)) if self.held_out else []
        before = dpo.read_logprobs(learner, held_out)
        last = dpo.train(learner, pairs, self.dpo, derive_seed(ctx.seed, "order"), ctx.log, ctx.out)
        if held_out:
            last |= {
                f"held_out_{name}": value
                for name, value in dpo.evaluate(learner, held_out, before, self.dpo.beta).items()
            }
        ctx.runtime.export(learner, ctx.out / "model")
        ctx.runtime.release(learner)
        checkpoint.discard(ctx.out)
        report(ctx, pairs=len(pairs), held_out_pairs=len(held_out), **last)

    def _pairs(self, ctx: Context, chat: Chat, file: Path) -> list[RowPair]:
        """The rows of a file's pairs, without those of which a response does not fit."""
        found = []
        for number, row in read_jsonl(file):
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
