# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 6. Rejection sampling and fine-tuning
#
# After its first RL the paper does something that looks odd: it throws the model away. It keeps only what
# the model *wrote*, and of that only what is right and readable, and fine-tunes the *base* on it. This
# lesson shows why that works.

# %%
import json
from collections.abc import Callable, Sequence

import numpy as np
from lesson import grade, held_out, is_right, run_stages, sample, show

from r1kit import Completion, Problem, Rollout, language_share

# %% [markdown]
# ## From rollouts to data
#
# The stages: a cold start and RL ([lesson 5](05_cold_start_and_language.py)), then four samples of each of
# some hundred problems, filtered, then SFT of the base. What is finished is not run again.

# %%
run = run_stages("pretrain", "r1_zero", "cold_start", "reasoning_rl", "rejection_sampling", "sft")
report = json.loads((run / "stages/rejection_sampling/report.json").read_text(encoding="utf-8"))
print("from samples to data:", {name: report[name] for name in ("sampled", "correct", "kept", "general")})
print("left out as unreadable:", report["unreadable"])
lines = (run / "stages/rejection_sampling/data.jsonl").read_text(encoding="utf-8").splitlines()
for line in lines[:3]:
    row = json.loads(line)
    print(f"  {row['prompt']!r}\n      -> {row['completion']!r}")

# %% [markdown]
# ## Before and after

# %%
problems, tasks = held_out(24)
for stage in ("pretrain", "reasoning_rl", "sft"):
    found = [r for group in sample(run / "stages" / stage / "model", problems, n=4) for r in group]
    shares = [language_share(r.thinking or "", r.problem.language) for r in found]
    known = [share for share in shares if share is not None] or [0.0]
    right = [is_right(r, tasks) for r in found]
    print(f"{stage:14} right {sum(right) / len(right):.2f}   in the prompt's language {np.mean(known):.2f}")
show(found, ["right" if yes else "wrong" for yes in right])

# %% [markdown]
# ## The one equation
#
# Let $\pi(o)$ be the policy that samples, and $r(o)$ be 1 for what the filter keeps and 0 for the rest. The
# kept completions are samples of
#
# $$\pi'(o) = \frac{\pi(o)\, r(o)}{\sum_{o'} \pi(o')\, r(o')}$$
#
# SFT minimises $-E_{\pi'}[\log \pi_\theta(o)]$, which is least where $\pi_\theta = \pi'$. So a perfect fit
# is right on *every* problem for which anything was kept, even if the policy was right in one sample of a
# hundred. Its gradient is that of policy gradient with the advantages 1 and 0: it learns from successes
# only. It never sees what to avoid, which RL does, but it is stable and needs no engine while it trains. A
# problem that is solved with probability $p$ is in the data with probability $1 - (1-p)^n$, so hard
# problems are rare in it.
#
# The filter is more than the answer's check. Whatever it asks for (one language, short, no repetition) the
# next model does by itself: the model is what its data is.
#
# ## Your part: the filter
#
# Choose what to keep of one problem's rollouts:
#
# 1. right ones only: `right[i]` says so for `rollouts[i]`;
# 2. whose thinking is in the problem's language: `language_share(thinking, language)` is at least 0.99
#    (None, no words at all, is fine);
# 3. no text twice;
# 4. of these the `keep` shortest, by the length of the text; of equal lengths the one that was sampled
#    first.


# %%
def select(rollouts: Sequence[Rollout], right: Sequence[bool], keep: int) -> list[Rollout]:
    """What is kept of the rollouts of one problem, the shortest first."""
    raise NotImplementedError("write select: right, in one language, no text twice, the shortest `keep`")


# %%
def made(texts: Sequence[str], language: str = "en") -> list[Rollout]:
    """Rollouts with these thoughts and the answer 7."""
    problem = Problem("p", "chain", "3 + 4", "7", language)
    nothing = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), "stop")
    return [
        Rollout(problem, place, nothing.token_ids, nothing, f"<think>{text}</think>7", text, "7")
        for place, text in enumerate(texts)
    ]


def check_select(function: Callable[[Sequence[Rollout], Sequence[bool], int], list[Rollout]]) -> None:
    """Try the rules one by one. Raises AssertionError with a hint."""
    thoughts = [
        "we add three and four",
        "first 然后 we add 四",
        "3 + 4 = 7",
        "we add three and four",
        "I add both",
    ]
    cases: list[tuple[str, list[bool], int, list[int], str]] = [
        ("en", [True, False, False, False, False], 9, [0], "rule 1: wrong rollouts are left out"),
        ("en", [True, True, False, False, False], 9, [0], "rule 2: rollout 1 mixes two languages"),
        ("en", [False, False, True, False, False], 9, [2], "rule 2: a thinking without words (None) is fine"),
        ("en", [True, False, False, True, False], 9, [0], "rule 3: a text is kept once, where it came first"),
        ("en", [True, False, True, False, True], 9, [2, 4, 0], "rule 4: the shortest comes first"),
        ("en", [True, True, True, True, True], 2, [2, 4], "rule 4: at most `keep` of them"),
        (
            "zh",
            [True, False, False, False, False],
            9,
            [],
            "rule 2: the problem's language counts, not English",
        ),
        ("en", [False] * 5, 2, [], "nothing is kept where nothing is right"),
    ]
    for language, right, keep, wanted, hint in cases:
        found = [rollout.index for rollout in function(made(thoughts, language), right, keep)]
        assert found == wanted, f"right={right}, keep={keep}: kept {found}, should be {wanted}. Hint: {hint}"
    equal = made(["bb", "aa", "cc"], "en")
    found = [rollout.index for rollout in function(equal, [True] * 3, 2)]
    assert found == [0, 1], f"of equal lengths kept {found}. Hint: rule 4: what was sampled first comes first"


grade(check_select, select)

# %% [markdown]
# Next: [lesson 7](07_reward_models.py), what to do where no rule can say what is right.
