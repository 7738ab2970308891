# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 8. Distillation
#
# The paper's last result surprised many: small models that were fine-tuned on R1's *responses* reason
# better than the same small models after RL of their own. Here a dense student with another architecture
# learns from the model of [lesson 6](06_rejection_sampling_and_sft.py).

# %%
import math
from collections.abc import Callable

import torch
from lesson import grade, held_out, is_right, print_curve, rows_of, run_stages, sample, show
from torch import Tensor

# %% [markdown]
# ## Training
#
# The student has its own pretraining on the same corpus, only less of it. Then the teacher answers some
# hundred problems, right answers are kept, and the student is fine-tuned on them.

# %%
TEACHER = ("pretrain", "r1_zero", "cold_start", "reasoning_rl", "rejection_sampling", "sft")
run = run_stages(*TEACHER, "student_base", "distill")
print_curve("loss on the teacher's answers", rows_of(run, "distill", "loss"))

# %%
problems, tasks = held_out(24)
for stage in ("student_base", "distill", "sft"):
    found = [r for group in sample(run / "stages" / stage / "model", problems, n=4) for r in group]
    right = [is_right(r, tasks) for r in found]
    print(f"{stage:13} right {sum(right) / len(right):.2f}")
    show(found, ["right" if yes else "wrong" for yes in right], most=2)

# %% [markdown]
# ## The one equation
#
# Let $\pi$ be the teacher and $q_\theta$ the student. Fine-tuning on the teacher's samples minimises the
# cross-entropy $-E_{o \sim \pi}[\log q_\theta(o)]$. Subtract the teacher's entropy, which does not depend
# on $\theta$:
#
# $$-E_\pi[\log q_\theta] - H(\pi) = E_\pi[\log (\pi(o) / q_\theta(o))] = \mathrm{KL}(\pi \| q_\theta)$$
#
# So plain SFT *is* minimising a divergence, the **forward** one. It is infinite where the teacher writes
# what the student holds to be impossible, so the student has to cover everything the teacher does, and
# spreads out if it is too small for that. The **reverse** one, $\mathrm{KL}(q_\theta \| \pi)$, is an
# expectation over the *student's* samples: it asks that all that the student writes is likely for the
# teacher, so a small student chooses a part and does that well. It needs samples from the student, as RL
# does, and is called on-policy distillation ([distill](../stages/distill.md) has it too).
#
# The difference in three numbers. The teacher has two ways to answer, each half of the time, and a third
# one that it never takes. The student can only be a bump over neighbours, of a place and a width:

# %%
teacher_V = torch.tensor([0.49, 0.02, 0.49])


def student(place: float, width: float) -> Tensor:
    """A bump over three tokens."""
    return torch.softmax(-((torch.arange(3) - place) ** 2) / width, 0)


students = [(place / 10, width) for place in range(21) for width in (0.1, 0.3, 1.0, 3.0, 10.0)]
for name, divergence in (
    ("forward, KL(teacher || student)", lambda q: float((teacher_V * (teacher_V / q).log()).sum())),
    ("reverse, KL(student || teacher)", lambda q: float((q * (q / teacher_V).log()).sum())),
):
    best = min(students, key=lambda s: divergence(student(*s).clamp(min=1e-9)))
    print(f"{name}: the best student is {[round(float(p), 2) for p in student(*best)]}")

# %% [markdown]
# Forward covers both ways and gives the middle, which the teacher never takes, a third. Reverse chooses one
# way.
#
# ## Your part: a divergence from logits
#
# With the teacher's logits at hand, the divergence at each token can be computed exactly, over the whole
# vocabulary. Write the forward one. Work with log-probabilities (`log_softmax`), so that nothing overflows.
# The teacher is not trained: its logits get no gradient.


# %%
def forward_kl(teacher_TV: Tensor, student_TV: Tensor) -> Tensor:
    """The mean over tokens of KL(teacher || student), from logits; with gradient for the student only."""
    raise NotImplementedError("write forward_kl: sum over V of p (log p - log q), the mean over T")


# %%
def check_forward_kl(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Compare with plain arithmetic. Raises AssertionError with a hint."""
    teacher = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    learner = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64, requires_grad=True)

    def plain(logits: Tensor) -> list[list[float]]:
        exps = [[math.exp(x) for x in row] for row in logits.tolist()]
        return [[x / sum(row) for x in row] for row in exps]

    def divergence(one: list[list[float]], other: list[list[float]]) -> float:
        rows = zip(one, other, strict=True)
        return sum(a * math.log(a / b) for p, q in rows for a, b in zip(p, q, strict=True))

    p, q = plain(teacher), plain(learner)
    loss = function(teacher, learner)
    assert isinstance(loss, Tensor) and loss.ndim == 0, "return one number, the mean over the tokens"
    found, wanted = float(loss), divergence(p, q) / 2
    cross = -sum(a * math.log(b) for x, y in zip(p, q, strict=True) for a, b in zip(x, y, strict=True)) / 2
    assert abs(found - divergence(q, p) / 2) > 1e-6, (
        "this is the reverse one: the expectation is the teacher's"
    )
    assert abs(found - wanted * 2) > 1e-6, "this is the sum over the tokens; take the mean over T"
    assert abs(found - wanted * 2 / 3) > 1e-6, "sum over the vocabulary; the mean is over the tokens only"
    assert abs(found - cross) > 1e-6, "this is the cross-entropy; the teacher's entropy is missing"
    assert abs(found + wanted) > 1e-6, "the sign: a divergence is never negative"
    assert abs(found - wanted) < 1e-6, f"found {found:.4f}, by hand {wanted:.4f}"
    of_teacher, of_learner = torch.autograd.grad(loss, (teacher, learner), allow_unused=True)
    assert of_learner is not None, "the student gets no gradient: something was detached"
    slope = (torch.tensor(q, dtype=torch.float64) - torch.tensor(p, dtype=torch.float64)) / 2
    assert torch.allclose(of_learner, slope), "the gradient by the student's logits must be (q - p) / T"
    assert of_teacher is None or not of_teacher.any(), "the teacher gets a gradient: detach its logits"
    large = float(function(teacher.detach() * 1000, learner.detach() * 1000))
    assert math.isfinite(large), "with large logits the result is not finite: use log_softmax"


grade(check_forward_kl, forward_kl)

# %% [markdown]
# That is the whole recipe. `make mini` runs all of it at once; `make real` does R1-Zero on a released
# model of 135 million parameters; [the how-to pages](../how-to/README.md) puts your task, data and reward
# in the place of ours.
