# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 7. Reward models, and how they are hacked
#
# No rule can say whether a greeting is friendly. There the paper trains a **reward model**: people (or a
# strong model) say which of two answers is better, and a network learns to predict it. This lesson trains
# such a model, then optimises against it and watches it being hacked. Everything is small enough for a
# table of five numbers, so that you can see *what* the model has learned.

# %%
import math
from collections.abc import Callable

import torch
from lesson import TINY, grade, sparkline
from torch import Tensor

# %% [markdown]
# ## Answers, and what people like
#
# Each answer is described by three numbers: how *helpful* it is, how *long*, and how many *exclamation
# marks* it has. In our world people like help, and a moderate length: beyond 2 an answer annoys them. They
# do not care about exclamation marks. This true quality is what we want, and what no training ever sees.
#
# There is one catch, and it is a realistic one. In the answers that people were shown, those who tried hard
# wrote more. So length goes along with help in the data, and never gets beyond 2.


# %%
def quality(answers_N3: Tensor) -> Tensor:
    """The true quality of each answer: help, less what is longer than 2."""
    helpful_N, long_N, _ = answers_N3.unbind(-1)
    return helpful_N - (long_N - 2).clamp(min=0)


def shown_answers(count: int, chance: torch.Generator) -> Tensor:
    """Answers as people were shown them: help and length go together."""
    effort_N = torch.rand(count, generator=chance)
    noise_N3 = torch.rand(count, 3, generator=chance)
    helpful_N = effort_N + 0.5 * noise_N3[:, 0]
    long_N = (1.8 * effort_N + 0.3 * noise_N3[:, 1]).clamp(max=2)
    return torch.stack([helpful_N, long_N, noise_N3[:, 2]], -1)


def labels(one_N3: Tensor, other_N3: Tensor, chance: torch.Generator) -> Tensor:
    """Whether people prefer ``one``: the better by chance more often, as people disagree."""
    return torch.rand(len(one_N3), generator=chance) < torch.sigmoid(
        4 * (quality(one_N3) - quality(other_N3))
    )


chance = torch.Generator().manual_seed(0)
PAIRS = 300 if TINY else 3000
first, second = shown_answers(PAIRS, chance), shown_answers(PAIRS, chance)
prefers = labels(first, second, chance)[:, None]
chosen, rejected = torch.where(prefers, first, second), torch.where(prefers, second, first)
agreed = float((quality(chosen) > quality(rejected)).float().mean())
print(f"{PAIRS} pairs; the label names the truly better answer in {agreed:.0%}")

# %% [markdown]
# With a run of your own you give such labels in the browser: `r1kit ui` shows two answers side by side, and
# what you choose becomes a file of pairs for the stage `reward_models` ([ui.md](../ui.md),
# [the how-to pages](../how-to/README.md)).
#
# ## The one equation
#
# Bradley and Terry's model: an answer has a hidden value $v$, and people prefer $a$ to $b$ with probability
# $\sigma(v_a - v_b)$, where $\sigma(x) = 1/(1+e^{-x})$. Only the difference matters, so people need no
# common scale. Maximum likelihood over the pairs is
#
# $$L = -\frac{1}{N} \sum \log \sigma(v_{chosen} - v_{rejected})$$
#
# The gradient is largest where the model is surely wrong, and vanishes where it is surely right.
#
# ## Training
#
# The model's value is linear in the three numbers. (r1kit's reads tokens with a transformer; the loss is
# the same, [preference.py](../../src/r1kit/train/preference.py).) For a small weight on everything we add a
# little decay.

# %%
weights = torch.zeros(3, requires_grad=True)
optimizer = torch.optim.Adam([weights], lr=0.05, weight_decay=1e-3)
for _ in range(50 if TINY else 400):
    optimizer.zero_grad()
    torch.nn.functional.softplus(-((chosen - rejected) @ weights)).mean().backward()
    optimizer.step()
learned = weights.detach()
print(
    "value =",
    " + ".join(f"{w:.2f} {name}" for w, name in zip(learned, ("help", "length", "marks"), strict=True)),
)


def agreement(one: Tensor, other: Tensor) -> float:
    """How often the reward model prefers the truly better answer."""
    return float((((one - other) @ learned > 0) == (quality(one) > quality(other))).float().mean())


test = shown_answers(1000, chance), shown_answers(1000, chance)
print(f"on new answers of the same kind it names the better one in {agreement(*test):.0%}")

# %% [markdown]
# Good on answers like those it was trained on. But no pair has shown it that long answers are bad.
#
# ## Optimising against it
#
# **Best of n**: draw $n$ answers, keep the one that the reward model likes best. Here a policy has more
# freedom than those who wrote the shown answers: it chooses help (which is hard: most attempts have little)
# and length (which is easy) separately, and there is no limit on length.


# %%
def free_answers(count: int, n: int, chance: torch.Generator) -> Tensor:
    """[count, n, 3]: help is rare, length is cheap."""
    noise = torch.rand(count, n, 3, generator=chance)
    return torch.stack([1.5 * noise[..., 0] ** 2, -0.9 * noise[..., 1].log(), noise[..., 2]], -1)


print(f"{'n':>5} {'reward':>8} {'quality':>8} {'help':>6} {'length':>7}")
rewards, qualities = [], []
for n in (1, 2, 4, 8, 16, 64, 256):
    drawn = free_answers(400, n, chance)
    best = drawn[torch.arange(400), (drawn @ learned).argmax(1)]
    rewards.append(float((best @ learned).mean()))
    qualities.append(float(quality(best).mean()))
    print(f"{n:5} {rewards[-1]:8.2f} {qualities[-1]:8.2f} {best[:, 0].mean():6.2f} {best[:, 1].mean():7.2f}")
print(f"reward {sparkline(rewards)}  quality {sparkline(qualities)}")

# %% [markdown]
# The reward always rises: that is what best-of-n selects. Quality rises with it at first. Once the answers
# leave the range of the shown answers, quality falls. This is **over-optimisation**; with RL in the place
# of best-of-n it is faster, since the policy moves. The paper's answers: rules wherever a rule can check,
# reward models only for the rest and only in the last few hundred steps. r1kit's stage `alignment_rl`
# measures reward and an independent score while it trains and stops where they part
# ([alignment_rl](../stages/alignment_rl.md)).
#
# One remedy is more labels where the policy goes: label its own best-of-n answers, and train again.

# %%
drawn = free_answers(PAIRS, 16, chance)
order = (drawn @ learned).argsort(1, descending=True)
tops = [drawn[torch.arange(PAIRS), order[:, place]] for place in (0, 1)]
print(f"on pairs of its own favourites the reward model names the better one in {agreement(*tops):.0%}")

# %% [markdown]
# ## Your part: the loss
#
# Write Bradley and Terry's loss. `torch.sigmoid` followed by `log` is not exact enough: for a difference of
# -200 it gives infinity.


# %%
def pairwise_loss(chosen_Y: Tensor, rejected_Y: Tensor) -> Tensor:
    """The mean over the pairs of -log sigmoid(chosen - rejected), a number with gradient."""
    raise NotImplementedError("write pairwise_loss; torch.nn.functional.softplus or logsigmoid helps")


# %%
def check_pairwise_loss(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Compare with plain arithmetic. Raises AssertionError with a hint."""
    better, worse = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([1.0, 0.7, 1.5])
    each = [math.log1p(math.exp(b - a)) for a, b in zip(better.tolist(), worse.tolist(), strict=True)]
    found = function(better, worse)
    assert isinstance(found, Tensor) and found.ndim == 0, "return one number, the mean over the pairs"
    wanted = sum(each) / 3
    assert abs(float(found) - float(sum(each))) > 1e-5, "this is the sum over the pairs; take the mean"
    assert abs(float(found) + wanted) > 1e-5, "the sign: it is minus the log-probability"
    turned = (
        sum(math.log1p(math.exp(a - b)) for a, b in zip(better.tolist(), worse.tolist(), strict=True)) / 3
    )
    assert abs(found.item() - turned) > 1e-5, "chosen and rejected are the wrong way round"
    assert abs(found.item() - wanted) < 1e-5, f"found {found.item():.4f}, by hand {wanted:.4f}"
    far = torch.tensor([-100.0], requires_grad=True)
    loss = function(far, torch.tensor([100.0]))
    assert math.isfinite(loss.item()), (
        "for a difference of -200 the loss is not finite; use softplus or logsigmoid"
    )
    assert abs(loss.item() - 200) < 1e-3, f"for a difference of -200 the loss is 200, not {loss.item():.1f}"
    (slope,) = torch.autograd.grad(loss, far)
    assert abs(float(slope) + 1) < 1e-5, "a surely wrong pair has the slope -1: no clamping"


grade(check_pairwise_loss, pairwise_loss)

# %% [markdown]
# Next: [lesson 8](08_distillation.py), how a small model gets all of this without any RL.
