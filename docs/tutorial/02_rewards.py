# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 2. Rewards, and why graders are hard
#
# DeepSeek-R1 learned to reason from two rules: is the final answer right (*accuracy*), and is the response
# `<think>working</think>` followed by an answer (*format*). No person and no other model judged the
# working.
#
# A rule sounds easy. This lesson shows three rules that look fine, what a policy makes of them, and what
# the checker of r1kit does instead.

# %%
import re
from collections.abc import Callable

import torch
from lesson import TINY, grade, sparkline

from r1kit import check_math, format_reward

# %% [markdown]
# ## Eight responses to "What is 3 · 4?"
#
# A person sees at once which of them answer 12. The first three are right, the others are not.

# %%
RESPONSES = {
    "plain": "<think>4 + 4 + 4 = 12</think>12",
    "sentence": "<think>3 times 4</think>The answer is $12$.",
    "decimal": "<think>3 * 4</think>\\boxed{12.0}",
    "wrong": "<think>3 + 4</think>7",
    "thought only": "<think>It is 12, or maybe 7.</think>7",
    "list": "<think></think>" + ", ".join(map(str, range(30))),
    "hedge": "<think>hard</think>It is 7 or 34 or 12.",
    "question": "<think>easy</think>3 * 4 = 12? No, it is 7.",
}
RIGHT = {"plain", "sentence", "decimal"}


def contains(gold: str, response: str) -> bool:
    """Rule 1: the right answer occurs in the response."""
    return gold in response


def last_number(gold: str, response: str) -> bool:
    """Rule 2: the last number of the response is the right answer, as text."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", response)
    return bool(numbers) and numbers[-1] == gold


def exact(gold: str, response: str) -> bool:
    """Rule 3: what follows the thinking is the right answer and nothing else."""
    return response.partition("</think>")[2].strip() == gold


def checked(gold: str, response: str) -> bool:
    """r1kit's checker: find the final answer, read it as mathematics, compare exactly."""
    return check_math(gold, response).outcome == "correct"


RULES = {"contains": contains, "last number": last_number, "exact": exact, "check_math": checked}
print(f"{'':14}{'a person':>10}" + "".join(f"{name:>13}" for name in RULES))
for name, response in RESPONSES.items():
    marks = "".join(f"{'yes' if rule('12', response) else '-':>13}" for rule in RULES.values())
    print(f"{name:14}{'yes' if name in RIGHT else '-':>10}{marks}")

# %% [markdown]
# Each simple rule errs in its own way. *Contains* accepts a list of all numbers. *Last number* accepts a
# guess of several, as long as the right one is last. *Exact* refuses right answers that are written in
# another way. A verdict of `check_math` comes with its reason, which is worth reading when a reward is
# unexpectedly 0:

# %%
for name in ("hedge", "list"):
    verdict = check_math("12", RESPONSES[name])
    print(f"{name}: {verdict.outcome}, because {verdict.reason or 'the final answer is another number'}")

# %% [markdown]
# ## The one equation
#
# Let a policy solve a share $p$ of its problems, and let the grader err: it accepts a wrong answer with
# probability $f_+$ and refuses a right one with $f_-$. The expected reward is
#
# $$E[r] = p\,(1 - f_-) + (1 - p)\, f_+ = f_+ + p\,(1 - f_- - f_+)$$
#
# If the errors are mere chance, the slope with respect to $p$ is smaller but points the same way: the
# policy learns the right thing, only slower. But errors are not chance. They depend on *how* a response is
# written, and the policy chooses that. It can raise $f_+$ instead of $p$. This is **reward hacking**.
#
# Let us watch it. A policy with one logit for each of the eight ways to respond is trained on the expected
# reward $\sum_i \pi_i r_i$ with each rule. We measure how often its responses are really right. To make it
# realistic, honest work is not always successful: the right ways succeed in 70 of 100 cases.

# %%
SUCCESS = 0.7


def optimise(rule: Callable[[str, str], bool], steps: int) -> tuple[torch.Tensor, list[float]]:
    """The probabilities of the ways to respond after training on ``rule``, and how often the policy was
    really right after each step."""
    rewards = torch.tensor(
        [
            SUCCESS * rule("12", text) + (1 - SUCCESS) * rule("13", text)
            if name in RIGHT
            else rule("12", text)
            for name, text in RESPONSES.items()
        ],
        dtype=torch.float32,
    )
    right = torch.tensor([SUCCESS * (name in RIGHT) for name in RESPONSES])
    logits, curve = torch.zeros(len(RESPONSES), requires_grad=True), []
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(logits.softmax(0) @ rewards, logits)
        logits = (logits + gradient).detach().requires_grad_()
        curve.append(float(logits.detach().softmax(0) @ right))
    return logits.softmax(0).detach(), curve


for name, rule in RULES.items():
    shares, curve = optimise(rule, 20 if TINY else 200)
    favourite = max(zip(shares.tolist(), RESPONSES, strict=True))
    print(f"{name:12} really right {sparkline(curve, 30)} {curve[-1]:.2f}   mostly: {favourite[1]!r}")

# %% [markdown]
# With *contains* and *last number* the policy ends at responses that are never right, and its reward is a
# perfect 1.0, above the 0.7 of honest work. Nothing in the reward curve shows it; only a look at the
# rollouts does. So: read rollouts, early and often.
#
# ## Format
#
# The second rule of R1. It is all or nothing: one `<think>..</think>`, then an answer, nothing else.

# %%
for text in (
    "<think>3 * 4</think>12",
    "12",
    "<think>3 * 4</think>",
    "<think></think>12",
    "Sure! <think>x</think>12",
):
    print(f"  format {format_reward(text):.0f}  {text!r}")

# %% [markdown]
# ## Your part: a grader for whole numbers
#
# Write a grader for problems whose answer is a whole number. The rules:
#
# - Only what follows the last `</think>` counts; the whole response if there is none.
# - If there is a `\boxed{...}`, the last box is the answer. Otherwise the text must contain exactly one
#   *different* number: several different ones are a hedge, and wrong.
# - `12`, `12.0`, `+12` and `1,200` (thousands) are whole numbers. `12.5` is another number, and `x12` or
#   `12th` is none. A minus directly before the number belongs to it.
#
# Regular expressions are enough. The check has more than twenty responses, written by people who wanted a
# reward without the work.


# %%
def grade_whole_number(gold: int, response: str) -> bool:
    """Whether the final answer of ``response`` is the number ``gold``."""
    raise NotImplementedError("write grade_whole_number; begin with response.rpartition('</think>')")


# %%
CASES: list[tuple[int, str, bool, str]] = [
    (12, "12", True, "a bare number"),
    (12, "13", False, "another number"),
    (12, "<think>7 + 5</think>12", True, "numbers in the thinking do not count"),
    (12, "<think>12</think>7", False, "an answer in the thinking does not count"),
    (12, "<think>a</think>7<think>b</think>12", True, "only what follows the last </think> counts"),
    (12, "The answer is 12.", True, "a full stop ends the sentence, not the number"),
    (12, "12.0", True, "12.0 is 12"),
    (12, "12.5", False, "12.5 is not 12, and not 12 and 5"),
    (5, "12.5", False, "12.5 is not 5"),
    (1200, "1,200", True, "thousands may be separated"),
    (200, "1,200", False, "1,200 is one number, not 1 and 200"),
    (-12, "-12", True, "a minus belongs to the number"),
    (12, "-12", False, "a minus belongs to the number"),
    (12, "+12", True, "+12 is 12"),
    (12, "12 or 7", False, "two different numbers are a hedge"),
    (12, "12, that is 12 apples", True, "the same number twice is no hedge"),
    (12, ", ".join(map(str, range(30))), False, "a list of all numbers is a hedge"),
    (12, "3 * 4 = \\boxed{12}", True, "of a text with a box only the box counts"),
    (12, "\\boxed{7} no, \\boxed{12}", True, "the last box is the answer"),
    (12, "\\boxed{12} no, \\boxed{7}", False, "the last box is the answer"),
    (12, "\\boxed{12, 7}", False, "two numbers in the box are a hedge"),
    (12, "\\boxed{12.0}", True, "12.0 is 12, also in a box"),
    (12, "x12", False, "x12 is a name, not a number"),
    (12, "on the 12th", False, "12th is not a number"),
    (12, "", False, "no answer is wrong, and no error"),
    (12, "I do not know.", False, "no answer is wrong, and no error"),
    (0, "0", True, "zero is a number like any other"),
]


def check_grade_whole_number(grader: Callable[[int, str], bool]) -> None:
    """Judge all cases by ``grader``. Raises AssertionError with the first that it gets wrong."""
    for gold, response, wanted, why in CASES:
        found = grader(gold, response)
        assert isinstance(found, bool), f"return True or False, not {found!r}"
        assert found == wanted, (
            f"gold {gold}, response {response!r}: {found}, should be {wanted}. Hint: {why}"
        )


grade(check_grade_whole_number, grade_whole_number)

# %% [markdown]
# Your grader is now as good as the cases that you thought of, and a policy makes millions of attempts.
# r1kit's checkers are tested with hundreds of thousands of answers ([verifiers.md](../verifiers.md));
# programs run in a sandbox, since they attack more than the grader. To train with a reward of your own:
# [the how-to pages](../how-to/README.md). Next: [lesson 3](03_grpo_from_scratch.py), how a reward becomes
# a gradient.
