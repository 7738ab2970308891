"""The miniature's rewriter for the cold start: a rule that reads a thinking back into its steps and writes
them again as whole sentences in the prompt's language (DeepSeek-R1, Nature version, supplement B.3.2, where
people and DeepSeek-V3 rewrite)."""

import random

from r1kit.tasks.documents import write_summary
from r1kit.tasks.miniature.worked_solutions import holds, read_steps, write_readable
from r1kit.tasks.task import single_answer
from r1kit.types import Rollout


def rewrite_steps(rollout: Rollout) -> tuple[str, str] | None:
    """(thinking, summary) of a correct rollout; None where its thinking has no steps, one twice, or one that
    does not hold."""
    answer = single_answer(rollout.answer or "")
    steps = read_steps(rollout.thinking or "")
    if not steps or answer is None or not all(holds(step) for step in steps) or len(set(steps)) < len(steps):
        return None
    rng = random.Random(f"rewrite/{rollout.problem.id}")
    language = rollout.problem.language
    return write_readable(steps, answer, language, rng), write_summary(answer, language)
