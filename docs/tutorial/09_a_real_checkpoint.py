# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 9. A real checkpoint
#
# Until here a model began from random weights, so that everything could be seen. Now one that was released:
# SmolLM2-135M-Instruct, seventy times as large as the miniature's. Nothing of the method changes; what is new
# is that the model comes with a template, with habits, and with opinions about how an answer looks.

# %%
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lesson import FOLDER, TINY, grade, print_curve, rows_of, run_stages

import r1kit

ROOT = Path(__file__).parents[2]
MODEL = Path(os.environ.get("R1KIT_LESSON_MODEL", ROOT / "models/SmolLM2-135M-Instruct"))
if TINY:  # a stand-in, so that the lesson's code runs in seconds
    MODEL = run_stages("pretrain") / "stages/pretrain/model"
HERE = (MODEL / "config.json").is_file()
print(
    f"{MODEL}: {'found' if HERE else 'not there, so the training is skipped. Get it: python models/get.py'}"
)

# %% [markdown]
# ## How it wants to be asked
#
# A chat model was trained on one layout of turns, its *template*. Asked in another it still answers, only
# worse, and no error says so. Look at the folder: `tokenizer_config.json` or `chat_template.jinja` has the
# template, `generation_config.json` the tokens that end a turn. r1kit reads both (`talk: {template: model}`).

# %%
if HERE:
    tokenizer = r1kit.Tokenizer.load(MODEL)
    shape = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    print(
        f"{shape['model_type']}: vocabulary {tokenizer.vocab_size}, ends with the tokens {tokenizer.end_ids}"
    )

# %% [markdown]
# ## What it can do before, and after a little RL
#
# The recipe is [real.yaml](../../recipes/real.yaml) with less of everything: six updates of 32 rollouts on
# word problems of two steps. A model of this size does not follow the paper's template from its words alone,
# so four worked examples come before every question, and every completion begins with `<think>`.

# %%
LESS = (
    "runtime.processes=1", "stages.r1_zero.grpo.steps=6", "stages.r1_zero.grpo.problems=4",
    "stages.r1_zero.grpo.group=8", "stages.r1_zero.preflight=off", "stages.evaluate.problems=24",
)  # fmt: skip
TINIER = (
    "stages.r1_zero.talk={}", "stages.evaluate.talk={}", "stages.r1_zero.grpo.steps=1",
    "stages.r1_zero.grpo.problems=2", "stages.r1_zero.grpo.group=2", "stages.r1_zero.grpo.max_tokens=8",
    "stages.r1_zero.grpo.gate_problems=0", "stages.evaluate.problems=2", "stages.evaluate.n=2",
    "stages.evaluate.max_tokens=8", "stages.r1_zero.learner.context=192",
)  # fmt: skip
run = FOLDER / ("lesson-real-tiny" if TINY else "lesson-real")
if HERE:
    recipe = r1kit.load(
        ROOT / "recipes/real.yaml",
        [
            *LESS, *(TINIER if TINY else ()), f"stages.r1_zero.init={MODEL}",
            f"stages.evaluate.models.base={MODEL}", f"out={run}",
        ],
    )  # fmt: skip
    r1kit.run(recipe, show_rollouts=1)
    for name in ("reward/accuracy/mean", "reward/format/mean", "completions/mean_length"):
        print_curve(name, rows_of(run, "r1_zero", name))

# %%
if HERE:
    report = json.loads((run / "stages/evaluate/report.json").read_text(encoding="utf-8"))
    for name, figures in report["models"].items():
        overall = figures["overall"]
        print(f"{name:8} pass@1 {overall['pass@1']:.3f}   format {overall['format']:.2f}")

# %% [markdown]
# ## The one equation
#
# Is that a difference? With so few problems most differences are chance. Each of $P$ problems was asked
# $n$ times; $r_{pi}$ is 1 where sample $i$ of problem $p$ was right. pass@1 is the mean over problems of
# $m_p = \frac{1}{n} \sum_i r_{pi}$. The samples of one problem are alike (an easy problem is right each
# time), so the number of independent draws is $P$, not $P n$, and the standard error is
#
# $$\mathrm{SE} = \sqrt{\frac{1}{P (P - 1)} \sum_p (m_p - \bar m)^2}$$
#
# A difference of two models on the same problems is a difference for each problem, and the same equation
# holds for those. Below two standard errors, say "no difference was seen".
#
# ## Your part


# %%
def standard_error(right_PN: np.ndarray) -> float:
    """The standard error of pass@1 from ``right_PN``, 1 or 0 for each of N samples of each of P problems."""
    raise NotImplementedError("write standard_error; first the mean of each problem")


# %%
def check_standard_error(function: Callable[[np.ndarray], float]) -> None:
    """Compare with results by hand, and with what repeated experiments spread by. Raises AssertionError."""
    by_hand = np.array([[1, 1], [1, 0], [0, 0]])  # means 1, 1/2, 0: sum of squares 1/2, so sqrt(1/2 / 6)
    for right_PN, wanted in ((by_hand, math.sqrt(1 / 12)), (np.ones((4, 3)), 0.0), (np.eye(2), 0.0)):
        found = function(right_PN)
        if abs(found - wanted) < 1e-9:
            continue
        means = right_PN.mean(-1)
        flat = right_PN.reshape(-1)
        hint = "compare with the equation"
        if (
            abs(found - flat.std(ddof=1) / math.sqrt(len(flat))) < 1e-9
            or abs(found - math.sqrt(flat.mean() * (1 - flat.mean()) / len(flat))) < 1e-9
        ):
            hint = "the samples of a problem are not independent: take the mean of each problem first"
        elif abs(found - means.std() / math.sqrt(len(means))) < 1e-9:
            hint = "the mean was estimated from the same problems: divide by P - 1, not by P"
        elif abs(found - means.std(ddof=1)) < 1e-9:
            hint = "this is the spread of single problems; that of their mean is smaller by the root of P"
        raise AssertionError(f"for\n{right_PN}\nfound {found:.4f}, not {wanted:.4f}. Hint: {hint}")


grade(check_standard_error, standard_error)

# %% [markdown]
# `make real` runs the whole recipe, and [real.md](../real.md) has its figures with three seeds. Another
# checkpoint is another folder: `init: models/Qwen2.5-0.5B` ([a model from anywhere](../how-to/model.md)).
# Next: [lesson 10](10_a_cluster.py), the same with learner and engine in different processes.
