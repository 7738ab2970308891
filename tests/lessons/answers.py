"""Right and wrong answers to the exercises of docs/tutorial/. Read a lesson first."""

import math
import re

import torch
from torch import Tensor

from r1kit import language_share


def _ratio(logprobs_RT: Tensor, old_RT: Tensor) -> Tensor:
    return (logprobs_RT - old_RT).exp()


def grpo_loss(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon=0.2):
    ratio_RT, advantages_R1 = _ratio(logprobs_RT, old_RT), advantages_R[:, None]
    clipped_RT = ratio_RT.clamp(1 - epsilon, 1 + epsilon)
    gain_RT = torch.minimum(ratio_RT * advantages_R1, clipped_RT * advantages_R1) * mask_RT
    return -gain_RT.sum(-1) / mask_RT.sum(-1)


def _grpo_sign(*arguments):
    return -grpo_loss(*arguments)


def _grpo_sum(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon=0.2):
    return grpo_loss(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon) * mask_RT.sum(-1)


def _grpo_width(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon=0.2):
    return _grpo_sum(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon) / mask_RT.shape[-1]


def _grpo_unclipped(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon=0.2):
    return grpo_loss(logprobs_RT, old_RT, advantages_R, mask_RT, 1e9)


def _grpo_clipped_only(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon=0.2):
    clipped_RT = _ratio(logprobs_RT, old_RT).clamp(1 - epsilon, 1 + epsilon)
    return -(clipped_RT * mask_RT).sum(-1) / mask_RT.sum(-1) * advantages_R


def _grpo_fixed_epsilon(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon=0.2):
    return grpo_loss(logprobs_RT, old_RT, advantages_R, mask_RT, 0.2)


def _grpo_unmasked(logprobs_RT, old_RT, advantages_R, mask_RT, epsilon=0.2):
    return grpo_loss(logprobs_RT, old_RT, advantages_R, torch.ones_like(mask_RT), epsilon)


def _grpo_mean(*arguments):
    return grpo_loss(*arguments).mean()


def grade_whole_number(gold, response):
    answer = response.rpartition("</think>")[2]
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", answer)
    numbers = re.findall(r"(?<![\w.,])[-+]?\d[\d,]*(?:\.\d+)?(?!\w)", boxes[-1] if boxes else answer)
    return {float(number.replace(",", "")) for number in numbers} == {float(gold)}


def _grade_contains(gold, response):
    return str(gold) in response


def _grade_last_number(gold, response):
    numbers = re.findall(r"-?\d+", response)
    return bool(numbers) and int(numbers[-1]) == gold


def _grade_none(gold, response):
    return None


def next_token_loss(logits_TV, targets_T):
    return (logits_TV.logsumexp(-1) - logits_TV.gather(1, targets_T[:, None])[:, 0]).mean()


def _next_token_sign(logits_TV, targets_T):
    return -next_token_loss(logits_TV, targets_T)


def _next_token_sum(logits_TV, targets_T):
    return next_token_loss(logits_TV, targets_T) * len(targets_T)


def _next_token_overflow(logits_TV, targets_T):
    return -(logits_TV.exp() / logits_TV.exp().sum(-1, keepdim=True))[range(len(targets_T)), targets_T].log().mean()


def _next_token_detached(logits_TV, targets_T):
    return next_token_loss(logits_TV, targets_T).detach()


def pass_at_k(n, c, k):
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def _pass_naive(n, c, k):
    return 1 - (1 - c / n) ** k


def _pass_fails(n, c, k):
    return math.comb(n - c, k) / math.comb(n, k)


def _pass_share(n, c, k):
    return min(1.0, k * c / n)


def _is_pure(rollout):
    share = language_share(rollout.thinking, rollout.problem.language)
    return share is None or share >= 0.99


def select(rollouts, right, keep):
    first = {}
    for rollout, yes in zip(rollouts, right, strict=True):
        if yes and _is_pure(rollout):
            first.setdefault(rollout.text, rollout)
    return sorted(first.values(), key=lambda rollout: len(rollout.text))[:keep]


def _select_any(rollouts, right, keep):
    return select(rollouts, [True] * len(rollouts), keep)


def _select_mixed(rollouts, right, keep):
    return [rollout for rollout, yes in zip(rollouts, right, strict=True) if yes][:keep]


def _select_all(rollouts, right, keep):
    return select(rollouts, right, len(rollouts))


def _select_without_words(rollouts, right, keep):
    worded = [language_share(r.thinking, r.problem.language) is not None for r in rollouts]
    return select(rollouts, [yes and some for yes, some in zip(right, worded, strict=True)], keep)


# Name of the exercise -> its right answer, and wrong ones with what their hint has to mention.
WRONG = {
    "grpo_loss": [
        (_grpo_sign, "sign"),
        (_grpo_sum, "divide by the number of the rollout's tokens"),
        (_grpo_width, "not by the width"),
        (_grpo_unclipped, "not clipped"),
        (_grpo_clipped_only, "min of both"),
        (_grpo_fixed_epsilon, "another epsilon"),
        (_grpo_unmasked, "tokens that exist"),
        (_grpo_mean, "one number for each rollout"),
    ],
    "grade_whole_number": [
        (_grade_contains, "in the thinking does not count"),
        (_grade_last_number, "in the thinking does not count"),
        (_grade_none, "True or False"),
    ],
    "next_token_loss": [
        (_next_token_sign, "sign"),
        (_next_token_sum, "divide by their number"),
        (_next_token_overflow, "overflows"),
        (_next_token_detached, "no gradient"),
    ],
    "pass_at_k": [(_pass_naive, "twice"), (_pass_fails, "all k are wrong"), (_pass_share, "the equation")],
    "select": [
        (_select_any, "rule 1"),
        (_select_mixed, "rule 2: rollout 1"),
        (_select_all, "at most"),
        (_select_without_words, "(None)"),
    ],
}
