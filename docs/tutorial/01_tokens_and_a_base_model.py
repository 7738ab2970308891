# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 1. Tokens and a base model
#
# Everything later in these lessons starts from a **base model**: a network that has read text and predicts
# what comes next. Here you train one, look at what it writes, and write the loss that trained it.

# %%
import math
from collections.abc import Callable
from itertools import islice

import torch
from lesson import grade, held_out, rows_of, run_stages, sample, show, sparkline
from torch import Tensor

from r1kit import LanguageModel, ModelConfig, Tokenizer
from r1kit.tasks.miniature.corpus import CorpusMix, documents

# %% [markdown]
# ## Tokens
#
# A model reads numbers, not letters. A tokenizer cuts a text into pieces from a fixed list, the vocabulary.
# It starts with the 256 bytes, so it can spell anything, and merges the pairs that occur most often. Our
# corpus is made by rules: small problems in English and Chinese, with and without working, some of it
# wrong.

# %%
texts = list(islice(documents(7, CorpusMix()), 600))
tokenizer = Tokenizer.train(texts, 400)
print("one document of the corpus:", repr(texts[0][:150]))
for text in ("3 + 4 = 7", "The answer", "Zebra"):
    print(f"{text!r} -> {tokenizer.pieces(tokenizer.encode(text))}")

# %% [markdown]
# Frequent words are one token, rare ones are spelled. Decoding is exact: no text is lost.
#
# ## The one equation
#
# The network gives a probability $p(x_t \mid x_{<t})$ for every possible next token. The probability of a
# whole text is their product, because $p(x_1 .. x_T) = \prod_t p(x_t \mid x_{<t})$ holds for any
# distribution. Maximum likelihood is minimising minus its logarithm, per token:
#
# $$L = -\frac{1}{T} \sum_{t=1}^{T} \log p(x_t \mid x_{<t})$$
#
# A network that knows nothing gives each of $V$ tokens $1/V$, so its loss is $\ln V$. Let us see:

# %%
untrained = LanguageModel(ModelConfig.preset("nano", vocab_size=tokenizer.vocab_size), seed=0)
tokens_T = torch.from_numpy(tokenizer.encode(texts[0]).astype("int64"))
logits_TV = untrained.logits(untrained(tokens_T[None, :-1]).hidden_BTD)[0].detach()
loss = -logits_TV.log_softmax(-1).gather(1, tokens_T[1:, None]).mean()
print(f"untrained: {loss:.3f} nats a token; ln {tokenizer.vocab_size} = {math.log(tokenizer.vocab_size):.3f}")

# %% [markdown]
# Notice the shift: the logits at position $t$ predict token $t + 1$. Forgetting it is the classic mistake.
# The loss then falls nearly to zero, and the model writes one token again and again.
#
# ## Training
#
# The stage `pretrain` of the lessons' recipe ([lessons.yaml](lessons.yaml)) trains a small DeepSeek-V3:
# latent attention, a mixture of experts, multi-token prediction. A finished stage is not run again.

# %%
run = run_stages("pretrain")
losses = rows_of(run, "pretrain", "loss")
print(f"loss {losses[0]:.2f} {sparkline(losses)} {losses[-1]:.2f}")

# %% [markdown]
# ## What it writes
#
# A *problem* becomes a prompt, an *engine* samples a completion token by token, and a *rollout* is the
# result, parsed. At temperature 1 tokens are drawn with the model's own probabilities.

# %%
base = run / "stages" / "pretrain" / "model"
problems, _ = held_out(3)
for group in sample(base, problems, n=2):
    show(group)

# %% [markdown]
# The base has the manner of a solver, not its habits: it stops early, mixes languages, answers at once.
# Sampling many times shows that it *can* solve some problems. That is all that reinforcement learning
# needs.
#
# ## Your part: the loss
#
# Write the equation above. `logits_TV[t]` are the logits that predict `targets_T[t]` (already shifted). Use
# `torch.logsumexp`, or subtract the largest logit first, but no ready-made softmax or cross-entropy.


# %%
def next_token_loss(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """The mean over the tokens of -log softmax(logits)[target], a number with gradient."""
    raise NotImplementedError("write next_token_loss: -log p = logsumexp(logits) - logits[target], the mean")


# %%
def check_next_token_loss(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Compare with sums of plain exponentials. Raises AssertionError with a hint."""
    logits_TV = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0], [0.5, 0.5, 0.5], [1.0, -2.0, 0.0]])
    targets_T = torch.tensor([2, 1, 0, 0])
    each = [
        math.log(sum(math.exp(x) for x in row)) - row[target]
        for row, target in zip(logits_TV.tolist(), targets_T.tolist(), strict=True)
    ]
    found = function(logits_TV, targets_T)
    assert isinstance(found, Tensor) and found.ndim == 0, "return one number, the mean over the tokens"
    value, wanted = float(found), sum(each) / len(each)
    assert abs(value + wanted) > 1e-5, "the sign: it is minus the log-probability, and never negative"
    assert abs(value - sum(each)) > 1e-5, "this is the sum over the tokens; divide by their number"
    assert abs(value - wanted) < 1e-5, f"found {value:.4f}, by hand it is {wanted:.4f}: check the equation"
    large = float(function(logits_TV + 1000, targets_T))
    assert abs(large - wanted) < 1e-3, (
        f"with 1000 added to every logit the loss must not change, but it is {large}: exp overflows. "
        "Subtract the largest logit first, or use torch.logsumexp"
    )
    leaf = logits_TV.clone().requires_grad_()
    loss = function(leaf, targets_T)
    assert loss.requires_grad, "the loss has no gradient: stay with tensors, without .item() or float()"
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert float(gradient.sum().abs()) < 1e-5, "the gradient is softmax minus one-hot: its sum must be 0"


grade(check_next_token_loss, next_token_loss)

# %% [markdown]
# Next: [lesson 2](02_rewards.py), what "right" means to a program.
