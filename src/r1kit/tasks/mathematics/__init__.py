"""Mathematical answers: find the final one, read it, compare it with the gold answer."""

from r1kit.tasks.mathematics.check import check_math, check_math_batch, final_answer

__all__ = ["check_math", "check_math_batch", "final_answer"]
