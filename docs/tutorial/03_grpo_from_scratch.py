# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 3. GRPO from scratch, on one page
#
# A language model that learns by reinforcement learning does four things again and again: it writes several
# completions of a prompt, a rule scores them, each score is compared with the others of its group, and a
# gradient step makes what was better than its group more likely. This page has all four in plain PyTorch.
#
# The language here is so small that we can list *every* completion. So each expectation can be computed
# exactly, and you can check a gradient against the truth instead of trusting it.

# %%
import itertools
import math
from collections.abc import Callable

import torch
from lesson import TINY, grade, sparkline
from torch import Tensor

from r1kit.train.advantages import advantages

# %% [markdown]
# ## A language that can be listed
#
# Three tokens: `0` ends a completion, `1` and `2` are "words". A completion has at most three tokens, so
# there are 15 of them. The prompt is always the same. The task: *write two words whose sum is 3, then
# stop*. Two of the 15 completions are right, `1 2 0` and `2 1 0`.
#
# The policy is a table: for each prefix that can occur a row of three logits. For a transformer the row
# comes out of the network; nothing else on this page would change.

# %%
WORDS, LONGEST = (1, 2), 3
PREFIXES = [p for length in range(LONGEST) for p in itertools.product(WORDS, repeat=length)]
COMPLETIONS = [
    (*prefix, token)
    for prefix in PREFIXES
    for token in (0, *WORDS)
    if token == 0 or len(prefix) == LONGEST - 1
]


def reward(completion: tuple[int, ...]) -> float:
    """1 for two words whose sum is 3 and an end, else 0."""
    return float(completion in ((1, 2, 0), (2, 1, 0)))


def token_logprobs(theta: Tensor, completions: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """log pi of every token of every completion [R, T], and which of these tokens exist [R, T]."""
    places_RT = [[PREFIXES.index(c[:t]) if t < len(c) else 0 for t in range(LONGEST)] for c in completions]
    tokens_RT = [[c[t] if t < len(c) else 0 for t in range(LONGEST)] for c in completions]
    mask_RT = torch.tensor([[t < len(c) for t in range(LONGEST)] for c in completions])
    return theta.log_softmax(-1)[torch.tensor(places_RT), torch.tensor(tokens_RT)] * mask_RT, mask_RT


def probabilities(theta: Tensor) -> Tensor:
    """pi(o) of all 15 completions: the product over their tokens."""
    return token_logprobs(theta, COMPLETIONS)[0].sum(-1).exp()


def expected_reward(theta: Tensor) -> float:
    """The sum over all completions of probability times reward: exact, nothing is sampled."""
    return float(probabilities(theta) @ torch.tensor([reward(c) for c in COMPLETIONS], dtype=theta.dtype))


uniform = torch.zeros(len(PREFIXES), 3, dtype=torch.float64)
print(f"{len(COMPLETIONS)} completions, their probabilities sum to {probabilities(uniform).sum():.6f}")
print(f"expected reward of the untrained policy: {expected_reward(uniform):.3f}")

# %% [markdown]
# ## Rollouts, and what a group is for
#
# We draw a *group* of eight completions and score them. The **advantage** of a completion is its reward
# minus the mean of its group, divided by the group's standard deviation:
#
# $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)}$$
#
# That is the G in GRPO. PPO trains a second network to say what reward was to be expected; GRPO asks the
# other rollouts. A group of equal rewards has advantages of zero: there is nothing to learn from it.


# %%
def draw(theta: Tensor, count: int, generator: torch.Generator) -> list[tuple[int, ...]]:
    """Completions, token by token, as an engine samples them."""
    drawn = []
    for _ in range(count):
        completion: tuple[int, ...] = ()
        while len(completion) < LONGEST and (not completion or completion[-1] != 0):
            row = theta[PREFIXES.index(completion)].softmax(-1)
            completion += (int(torch.multinomial(row, 1, generator=generator)),)
        drawn.append(completion)
    return drawn


chance = torch.Generator().manual_seed(11)
group = draw(uniform, 8, chance)
rewards = torch.tensor([reward(c) for c in group])
for completion, gain in zip(group, advantages(rewards.numpy(), "group_std"), strict=True):
    print(f"  {completion!s:12} reward {reward(completion):.0f}  advantage {gain:+.2f}")

# %% [markdown]
# ## The one equation
#
# We want the gradient of the expected reward, but the reward is a rule and has no gradient. It does not
# need one. Write the expectation as a sum over completions and use $\nabla \pi = \pi \nabla \log \pi$:
#
# $$\nabla \sum_o \pi(o) r(o) = \sum_o \pi(o) r(o) \nabla \log \pi(o) = E[r(o) \nabla \log \pi(o)]$$
#
# So the mean of $r \nabla \log \pi$ over *samples* is right on average. Subtracting a constant from $r$
# changes nothing on average, because $\sum_o \nabla \pi(o) = \nabla 1 = 0$, and it makes the noise smaller.
# The group's mean is that constant (almost: it contains the completion itself).
#
# Let us look at whether this is true. The left side by finite differences, the right side by autograd:


# %%
def finite_differences(function: Callable[[Tensor], float], theta: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of a function of the logits, one logit at a time: slow, and hard to get wrong."""
    gradient = torch.zeros_like(theta)
    for place in itertools.product(*map(range, theta.shape)):
        moved = torch.zeros_like(theta)
        moved[place] = step
        gradient[place] = (function(theta + moved) - function(theta - moved)) / (2 * step)
    return gradient


def policy(seed: int, distance: float = 1.0) -> Tensor:
    """Random logits."""
    noise = torch.randn(uniform.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return distance * noise


theta = policy(1).requires_grad_()
logprobs_RT, _ = token_logprobs(theta, COMPLETIONS)
weights_R = probabilities(theta).detach() * torch.tensor([reward(c) for c in COMPLETIONS])
(weights_R * logprobs_RT.sum(-1)).sum().backward()
difference = (theta.grad - finite_differences(expected_reward, theta.detach())).abs().max()
print(f"largest difference between the two sides: {difference:.1e}")

# %% [markdown]
# ## Training, first version
#
# Draw a group, compute advantages, take one step along $A \nabla \log \pi$, repeat. This is REINFORCE with
# a group's mean as the baseline. Each group is used once and thrown away.

# %%
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def reinforce(logprobs_RT: Tensor, old_RT: Tensor, advantages_R: Tensor, mask_RT: Tensor) -> Tensor:
    """-A log pi of each rollout, [R]."""
    return -advantages_R * (logprobs_RT * mask_RT).sum(-1)


def train(loss: Loss, steps: int, updates: int, seed: int = 0) -> tuple[Tensor, list[float]]:
    """The policy after ``steps`` groups of 8, each used for ``updates`` gradient steps, and the exact
    expected reward after each group."""
    theta, chance, curve = uniform.clone().requires_grad_(), torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.Adam([theta], lr=0.1)
    for _ in range(steps):
        group = draw(theta.detach(), 8, chance)
        scores = torch.tensor([reward(c) for c in group])
        advantages_R = torch.from_numpy(advantages(scores.numpy(), "group_std")).double()
        old_RT = token_logprobs(theta.detach(), group)[0]
        for _ in range(updates):
            logprobs_RT, mask_RT = token_logprobs(theta, group)
            optimizer.zero_grad()
            loss(logprobs_RT, old_RT, advantages_R, mask_RT).mean().backward()
            optimizer.step()
        curve.append(expected_reward(theta.detach()))
    return theta.detach(), curve


STEPS = 10 if TINY else 60
trained, curve = train(reinforce, STEPS, updates=1)
print(f"expected reward {curve[0]:.3f} {sparkline(curve)} {curve[-1]:.3f}")
print("rollouts after training:", *draw(trained, 6, chance))

# %% [markdown]
# ## Your part: GRPO's loss
#
# Sampling is the expensive part of RL, so one wants several updates from each group. After the first update
# the policy $\pi$ is no longer the policy $\pi_{old}$ that sampled. GRPO's answer has three parts:
#
# 1. Each token's gain is weighed by its **ratio** $\rho_t = \pi(o_t) / \pi_{old}(o_t)$, computed as
#    $\exp(\log\pi - \log\pi_{old})$. While $\pi = \pi_{old}$ its value is 1 and its gradient is $\nabla
#    \log \pi$.
# 2. The ratio is **clipped**, so that a token that has moved far enough is not pushed further. The gain is
#    $\min[\,\rho_t A,\ \mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon)\, A\,]$.
# 3. The gain of a rollout is the **mean over its tokens**, $\frac{1}{|o|} \sum_t$.
#
# All three are differentiable except at the clip's corners. Write the loss of each rollout: minus its gain.
# The mean over rollouts is taken by the caller, as in `train` above.


# %%
def grpo_loss(
    logprobs_RT: Tensor, old_RT: Tensor, advantages_R: Tensor, mask_RT: Tensor, epsilon: float = 0.2
) -> Tensor:
    """GRPO's loss of each rollout [R].

    logprobs_RT: log pi of each token, with gradient; old_RT: log pi_old; advantages_R: one number a rollout;
    mask_RT: False where a rollout has ended before (those entries must not count)."""
    raise NotImplementedError("write grpo_loss: ratio, clip, min, mean over the tokens of each rollout")


# %% [markdown]
# ## The check
#
# All 15 completions, each weighed by its probability under $\pi_{old}$: the sum *is* the expected loss. Its
# gradient by autograd through your function is compared with finite differences of the definition, written
# here with plain numbers, so the check shares no code with an answer.
#
# The first test is on policy. There the gradient has to be that of $-\sum_o \pi(o) A(o) / |o|$. Look at
# this: because of part 3, GRPO does not quite follow the expected reward. The same mistake costs each token
# of a long completion less. Dr. GRPO is GRPO without this division.

# %%
MISTAKES = {
    "the sign: a loss is minimised, so it is minus the gain": lambda gain, size, clip, a: -sum(gain) / size,
    "divide by the number of the rollout's tokens, mask_RT.sum(-1)": lambda gain, size, clip, a: sum(gain),
    "divide by the number of tokens that exist, not by the width": lambda gain, size, clip, a: sum(gain) / 3,
    "something is not clipped: the gain is the min of two products": lambda gain, size, clip, a: (
        sum(a * r for r, _ in clip) / size
    ),
    "take the min of both products; the clipped one alone also bounds what it should not": (
        lambda gain, size, clip, a: sum(a * c for _, c in clip) / size
    ),
}


def true_gain(
    theta: Tensor, old: Tensor, gains: list[float], rule: Callable[..., float], epsilon: float
) -> float:
    """The expectation under pi_old of the gain of a completion, in plain numbers."""
    new_RT, old_RT = (token_logprobs(table, COMPLETIONS)[0].tolist() for table in (theta, old))
    total = 0.0
    for row, (completion, a) in enumerate(zip(COMPLETIONS, gains, strict=True)):
        ratios = [new_RT[row][t] - old_RT[row][t] for t in range(len(completion))]
        pairs = [(r, min(max(r, 1 - epsilon), 1 + epsilon)) for r in map(math.exp, ratios)]
        best = [min(r * a, c * a) for r, c in pairs]
        total += math.exp(sum(old_RT[row])) * rule(best, len(best), pairs, a)
    return total


def check_grpo_loss(loss: Callable[..., Tensor]) -> None:
    """Compare the expected gradient of ``loss`` with enumeration. Raises AssertionError with a hint."""
    gains = [reward(c) - 0.3 * (c[0] == 2) - 0.1 for c in COMPLETIONS]  # both signs, no two rewards alike
    advantages_R = torch.tensor(gains, dtype=torch.float64)
    for where, old, epsilon in (
        ("on policy", policy(2), 0.2),
        ("after an update", policy(2) + policy(3, 0.4), 0.2),
        ("after an update, with another epsilon", policy(2) + policy(3, 0.4), 0.05),
    ):
        theta = policy(2).requires_grad_()
        logprobs_RT, mask_RT = token_logprobs(theta, COMPLETIONS)
        old_RT = token_logprobs(old, COMPLETIONS)[0]
        per_rollout = loss(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon)
        assert isinstance(per_rollout, Tensor) and per_rollout.shape == (len(COMPLETIONS),), (
            f"return one number for each rollout, shape [{len(COMPLETIONS)}], not "
            f"{list(getattr(per_rollout, 'shape', []))}: sum over the last dimension only"
        )
        assert per_rollout.requires_grad, "the loss has no gradient: something was detached"
        found = torch.autograd.grad(old_RT.sum(-1).exp() @ per_rollout, theta)[0]

        def gradient(rule: Callable[..., float], old: Tensor = old, epsilon: float = epsilon) -> Tensor:
            return finite_differences(lambda t: true_gain(t, old, gains, rule, epsilon), policy(2))

        wanted = -gradient(lambda gain, size, pairs, a: sum(gain) / size)
        if torch.allclose(found, wanted, atol=1e-7):
            continue
        fitting = (
            hint for hint, rule in MISTAKES.items() if torch.allclose(found, -gradient(rule), atol=1e-7)
        )
        hint = next(fitting, "compare your function with parts 1 to 3 above, one by one")
        worst = float((found - wanted).abs().max())
        raise AssertionError(f"{where}: the gradient is off by {worst:.1e} from enumeration. Hint: {hint}")


grade(check_grpo_loss, grpo_loss)

# %% [markdown]
# ## Training, second version
#
# With your loss each group serves four updates, and the curve rises sooner with the same number of samples.
# What r1kit trains with is this loss on packed rows of a transformer
# ([policy_loss.py](../../src/r1kit/train/policy_loss.py),
# [surrogates.py](../../src/r1kit/train/surrogates.py)); `recipes/mini.yaml` uses a mean over all tokens of
# the update and no division by the deviation, and [objectives.md](../objectives.md) lists the other
# choices. Next: [lesson 4](04_r1_zero.py), the same on a transformer that writes its own working.

# %%
try:
    trained, curve = train(grpo_loss, STEPS, updates=4)
    print(f"expected reward {curve[0]:.3f} {sparkline(curve)} {curve[-1]:.3f}, four updates a group")
except NotImplementedError:
    print("The second training runs when grpo_loss is written.")
