# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 10. A cluster
#
# A large model learns on some GPUs and samples on others. The loop stays that of [lesson 4](04_r1_zero.py);
# what is new is that engine and learner are different processes with copies of the weights. Here both are on
# this machine, in a Ray cluster that r1kit starts and ends.

# %%
import importlib.util
import json
from collections.abc import Callable

import numpy as np
from lesson import FOLDER, HERE, TINY, grade, print_curve, rows_of

import r1kit
from r1kit.train.corrections import CorrectionConfig, correct

RAY = importlib.util.find_spec("ray") is not None and not TINY
print(
    "Ray is used."
    if RAY
    else "One process: Ray is not installed (pip install 'r1kit[ray]'), or this is the tiny form."
)

# %% [markdown]
# ## One line of the recipe
#
# `runtime: {kind: ray, learners: 1, engines: 1}`. A rollout phase is then:
#
# 1. the engine's process samples, from its own copy of the weights;
# 2. the main process scores;
# 3. the learner's process updates;
# 4. **hand-over**: new weights go to the engine in buckets, with a version and a check. A completion carries
#    the version that it was sampled with.
#
# With `off_policy: 1` steps 1 and 3 happen at the same time: the engine samples the next phase with the old
# weights. No process waits, and every rollout is one phase old.

# %%
CHANGES = ["runtime={kind: ray, learners: 1, engines: 1}"] if RAY else []
LATE = ["stages.r1_zero.grpo.off_policy=1", "stages.r1_zero.grpo.correction=truncate"]
SMALL = [
    "stages.pretrain.tokens=8_000" if TINY else "stages.pretrain.tokens=60_000",
    "stages.r1_zero.preflight=off",
]
if TINY:
    SMALL += [
        "stages.r1_zero.grpo.steps=2",
        "stages.r1_zero.grpo.max_tokens=8",
        "stages.r1_zero.grpo.gate_problems=0",
    ]
OTHERS = (
    "cold_start", "reasoning_rl", "rejection_sampling", "sft", "reward_models", "alignment_rl",
    "student_base", "distill", "evaluate",
)  # fmt: skip
runs = {}
for name, late in (("in turn", []), ("at the same time", LATE)):
    if TINY and late:
        continue
    folder = FOLDER / f"lesson-cluster{'-tiny' if TINY else ''}{'-late' if late else ''}"
    left_out = [f"stages.{stage}=null" for stage in reversed(OTHERS)]
    recipe = r1kit.load(
        HERE.parents[1] / "recipes/nano.yaml", [*left_out, *SMALL, *CHANGES, *late, f"out={folder}"]
    )
    r1kit.run(recipe, show_rollouts=0)
    runs[name] = folder

# %% [markdown]
# ## What to look at
#
# `sampling/logp_gap_mean` is the mean difference between the log-probability with which a token was
# sampled and the one that the learner computes for it. In turn it would be rounding only, and with one
# update a phase it is not measured. At the same time it also contains how far the weights have moved
# since. `time/rollout` and `time/update` say which process waits for the other.

# %%
for name, folder in runs.items():
    print(f"{name}:")
    for key in ("sampling/logp_gap_mean", "time/rollout", "time/update"):
        print_curve(key, rows_of(folder, "r1_zero", key))
    record = json.loads((folder / "stages/r1_zero/stage.json").read_text(encoding="utf-8"))
    print(f"    the stage's record: seed {record['seed']}")

# %% [markdown]
# ## The one equation
#
# The engine sampled from $\mu$, the learner's policy is $\pi$. What we want is an expectation under
# $\pi$, what we have are samples of $\mu$:
#
# $$E_{o \sim \pi}[f(o)] = E_{o \sim \mu}\left[\frac{\pi(o)}{\mu(o)} f(o)\right]$$
#
# So every token gets the weight $w_t = \pi(o_t) / \mu(o_t) = \exp(\log \pi(o_t) - \log \mu(o_t))$. It is
# 1 where both agree. A token that the engine held to be nearly impossible would get a weight of hundreds
# and rule the update, so the weight is *truncated*: $w_t = \min(\pi(o_t) / \mu(o_t), c)$, with $c = 2$.
# That is a small bias for much less variance.
#
# ## Your part


# %%
def weights(learner_T: np.ndarray, engine_T: np.ndarray, cap: float) -> np.ndarray:
    """The truncated weight of each of T tokens, from its log-probability under learner and engine."""
    raise NotImplementedError("write weights; the difference of log-probabilities first")


# %%
def check_weights(function: Callable[[np.ndarray, np.ndarray, float], np.ndarray]) -> None:
    """Compare with r1kit's own correction. Raises AssertionError with a hint."""
    learner_T = np.log(np.array([0.5, 0.9, 0.2, 0.3]))
    engine_T = np.log(np.array([0.5, 0.1, 0.4, 0.2]))
    for cap in (2.0, 5.0):
        wanted_T = correct(learner_T, engine_T, CorrectionConfig(correction="truncate", correction_cap=cap))
        found_T = np.asarray(function(learner_T, engine_T, cap))
        plain_T = np.exp(learner_T - engine_T)
        hint = "compare with the equation"
        if found_T.shape != wanted_T.shape:
            hint = "one weight for each token"
        elif np.allclose(found_T, wanted_T, atol=1e-5):
            continue
        elif np.allclose(found_T, plain_T):
            hint = f"the second token's weight is {plain_T[1]:.0f}: truncate it at cap"
        elif np.allclose(found_T, np.minimum(1 / plain_T, cap)):
            hint = "this is engine over learner; the samples are the engine's, so it stands below"
        elif np.allclose(found_T, np.where(plain_T <= cap, plain_T, 0.0)):
            hint = "a token above the cap keeps the weight cap; this one leaves it out, which is masking"
        raise AssertionError(f"cap {cap}: found {found_T}, not {wanted_T}. Hint: {hint}")


grade(check_weights, weights)

# %% [markdown]
# On a real cluster the command `r1kit launch` writes the files for Slurm, Ray or Kubernetes ([from a
# laptop to a cluster](../how-to/cluster.md)). Lost engines are replaced, a lost learner continues from
# its last saved state ([scale.md](../scale.md#ray)). That was the last lesson: [your own
# reward](../how-to/first-reward.md) is next.
