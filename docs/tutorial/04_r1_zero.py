# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 4. R1-Zero and its curves
#
# [Lesson 3](03_grpo_from_scratch.py)'s loop on a transformer: from the base of [lesson
# 1](01_tokens_and_a_base_model.py) straight to reinforcement learning, with rules as the only reward.
# DeepSeek called the result R1-Zero: no one had shown it a worked solution of the kind it wrote in the end.

# %%
from collections.abc import Callable
from itertools import combinations

from lesson import grade, held_out, is_right, print_curve, rows_of, run_stages, sample, show

# %% [markdown]
# ## Training
#
# Each step draws 32 problems, samples eight rollouts of each, scores them (1 for a right answer, 0.1 for
# the format) and updates once. Watch the printed reward; each line is one step.

# %%
run = run_stages("pretrain", "r1_zero")

# %% [markdown]
# ## Its curves
#
# Curves that one always looks at. *Accuracy* is the mean over the step's rollouts. *Length* is in
# tokens: nothing in the reward asks for long responses, yet it grows, because problems that are worked out
# are solved more often. *Entropy* measures how undecided the policy is at each token; if it falls to 0, all
# rollouts of a group are alike. *Groups without a difference* have advantages of zero and teach nothing.

# %%
CURVES = {
    "accuracy": "reward/accuracy/mean",
    "format": "reward/format/mean",
    "length": "completions/mean_length",
    "entropy": "policy/entropy",
    "groups without a difference": "reward/zero_std_groups",
}
for name, key in CURVES.items():
    print_curve(name, rows_of(run, "r1_zero", key))

# %% [markdown]
# ## Its rollouts
#
# A curve says that something changed; only the rollouts say what. The same held-out problems, before and
# after (`r1kit ui` shows all rollouts of the training in a browser):

# %%
problems, tasks = held_out(24)
SAMPLES = 8
groups = {}
for stage in ("pretrain", "r1_zero"):
    groups[stage] = sample(run / "stages" / stage / "model", problems, n=SAMPLES)
    marks = [["right" if is_right(r, tasks) else "wrong" for r in group] for group in groups[stage]]
    share = sum(mark == "right" for group in marks for mark in group) / (SAMPLES * len(problems))
    print(f"{stage}: pass@1 {share:.2f} on {len(problems)} held-out problems")
    for group, marked in list(zip(groups[stage], marks, strict=True))[:3]:
        show(group, marked, most=1)

# %% [markdown]
# ## The one equation
#
# Does RL teach new skills, or does it make likely what the base could do rarely? One looks at **pass@k**:
# the probability that at least one of $k$ samples is right. Sample $n \ge k$ completions, of which $c$ are
# right. The naive estimate $1 - (1 - c/n)^k$ is biased: it draws the same sample twice. Instead, think of
# all $\binom{n}{k}$ ways to choose $k$ of the $n$ samples. A choice fails if it consists of wrong samples
# only, and there are $\binom{n-c}{k}$ of these. So
#
# $$\mathrm{pass@}k = 1 - \binom{n-c}{k} \Big/ \binom{n}{k}$$
#
# is the mean over all choices, and its expectation is the true pass@k, since each choice is $k$ independent
# samples.
#
# ## Your part
#
# `math.comb(a, b)` is $\binom{a}{b}$; it is 0 for $b > a$.


# %%
def pass_at_k(n: int, c: int, k: int) -> float:
    """The probability that at least one of ``k`` samples is right, from ``n`` samples with ``c`` right."""
    raise NotImplementedError("write pass_at_k; import math and use math.comb")


# %%
def check_pass_at_k(function: Callable[[int, int, int], float]) -> None:
    """Compare with going through all choices. Raises AssertionError with a hint."""
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                samples = [True] * c + [False] * (n - c)
                choices = list(combinations(samples, k))
                wanted = sum(any(choice) for choice in choices) / len(choices)
                found = function(n, c, k)
                if abs(found - wanted) < 1e-9:
                    continue
                hint = "compare with the equation"
                if abs(found - (1 - (1 - c / n) ** k)) < 1e-9:
                    hint = "this estimate draws the same sample twice; choose k different ones of the n"
                elif abs(found - (1 - wanted)) < 1e-9:
                    hint = "this is the probability that all k are wrong"
                raise AssertionError(
                    f"n={n}, c={c}, k={k}: found {found:.4f}, but {sum(map(any, choices))} of {len(choices)} "
                    f"choices have a right sample, {wanted:.4f}. Hint: {hint}"
                )


grade(check_pass_at_k, pass_at_k)

# %% [markdown]
# With your function, base and R1-Zero side by side. Where the base's pass@8 comes near R1-Zero's, RL has
# mostly made likely what was there. Next: [lesson 5](05_cold_start_and_language.py), a policy that a person
# can read.

# %%
try:
    for stage, found in groups.items():
        counts = [sum(is_right(r, tasks) for r in group) for group in found]
        means = {k: sum(pass_at_k(SAMPLES, c, k) for c in counts) / len(counts) for k in (1, 2, 4, 8)}
        print(stage, *(f"pass@{k} {mean:.2f}" for k, mean in means.items()))
except NotImplementedError:
    print("This table is printed when pass_at_k is written.")
