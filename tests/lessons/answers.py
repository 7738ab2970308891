"""Right and wrong answers to the exercises of docs/tutorial/. Read a lesson first."""

import math
import re

import numpy as np
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
    return (
        -(logits_TV.exp() / logits_TV.exp().sum(-1, keepdim=True))[range(len(targets_T)), targets_T]
        .log()
        .mean()
    )


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


def pairwise_loss(chosen_Y, rejected_Y):
    return torch.nn.functional.softplus(rejected_Y - chosen_Y).mean()


def _pairwise_turned(chosen_Y, rejected_Y):
    return pairwise_loss(rejected_Y, chosen_Y)


def _pairwise_infinite(chosen_Y, rejected_Y):
    return -torch.sigmoid(chosen_Y - rejected_Y).log().mean()


def _pairwise_sum(chosen_Y, rejected_Y):
    return pairwise_loss(chosen_Y, rejected_Y) * len(chosen_Y)


def _pairwise_clamped(chosen_Y, rejected_Y):
    return torch.nn.functional.softplus((rejected_Y - chosen_Y).clamp(max=30)).mean()


def forward_kl(teacher_TV, student_TV):
    log_p, log_q = teacher_TV.detach().log_softmax(-1), student_TV.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def _kl_reverse(teacher_TV, student_TV):
    log_p, log_q = teacher_TV.detach().log_softmax(-1), student_TV.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def _kl_sum(teacher_TV, student_TV):
    return forward_kl(teacher_TV, student_TV) * len(teacher_TV)


def _kl_trains_the_teacher(teacher_TV, student_TV):
    log_p, log_q = teacher_TV.log_softmax(-1), student_TV.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def _kl_overflow(teacher_TV, student_TV):
    p, q = (x.exp() / x.exp().sum(-1, keepdim=True) for x in (teacher_TV.detach(), student_TV))
    return (p * (p / q).log()).sum(-1).mean()


def _kl_cross_entropy(teacher_TV, student_TV):
    return -(teacher_TV.detach().softmax(-1) * student_TV.log_softmax(-1)).sum(-1).mean()


def share_in(text, language):
    english = len(re.findall(r"[A-Za-z]+", text))
    chinese = len(re.findall("[\u4e00-\u9fff]", text)) / 2
    total = english + chinese
    return (english if language == "en" else chinese) / total if total else None


def _share_zero(text, language):
    return share_in(text, language) or 0.0


def _share_of_characters(text, language):
    english, chinese = (len(re.findall(kind, text)) for kind in ("[A-Za-z]", "[\u4e00-\u9fff]"))
    return (english if language == "en" else chinese) / (english + chinese) if english + chinese else None


def _share_of_english(text, language):
    return share_in(text, "en")


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
        (_grade_last_number, "12.0 is 12"),
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
    "pairwise_loss": [
        (_pairwise_turned, "wrong way round"),
        (_pairwise_infinite, "not finite"),
        (_pairwise_sum, "take the mean"),
        (_pairwise_clamped, "the loss is 200"),
    ],
    "forward_kl": [
        (_kl_reverse, "reverse"),
        (_kl_sum, "mean over T"),
        (_kl_trains_the_teacher, "detach its logits"),
        (_kl_overflow, "log_softmax"),
        (_kl_cross_entropy, "entropy is missing"),
    ],
    "share_in": [
        (_share_zero, "not 0"),
        (_share_of_characters, "two characters are one word"),
        (_share_of_english, "none of the words is Chinese"),
    ],
}


def standard_error(right_PN):
    means_P = right_PN.mean(-1)
    return float(means_P.std(ddof=1) / math.sqrt(len(means_P)))


def _error_of_samples(right_PN):
    flat = right_PN.reshape(-1)
    return float(flat.std(ddof=1) / math.sqrt(len(flat)))


def _error_binomial(right_PN):
    flat = right_PN.reshape(-1)
    return math.sqrt(flat.mean() * (1 - flat.mean()) / len(flat))


def _error_by_p(right_PN):
    means_P = right_PN.mean(-1)
    return float(means_P.std() / math.sqrt(len(means_P)))


def _error_of_one(right_PN):
    return float(right_PN.mean(-1).std(ddof=1))


def weights(learner_T, engine_T, cap):
    return np.minimum(np.exp(learner_T - engine_T), cap)


def _weights_without_cap(learner_T, engine_T, cap):
    return np.exp(learner_T - engine_T)


def _weights_turned(learner_T, engine_T, cap):
    return np.minimum(np.exp(engine_T - learner_T), cap)


def _weights_masked(learner_T, engine_T, cap):
    plain_T = np.exp(learner_T - engine_T)
    return np.where(plain_T <= cap, plain_T, 0.0)


def _weights_of_the_whole(learner_T, engine_T, cap):
    return np.minimum(np.exp((learner_T - engine_T).sum()), cap)


WRONG["standard_error"] = [
    (_error_of_samples, "mean of each problem first"),
    (_error_binomial, "mean of each problem first"),
    (_error_by_p, "divide by P - 1"),
    (_error_of_one, "smaller by the root of P"),
]
WRONG["weights"] = [
    (_weights_without_cap, "truncate it at cap"),
    (_weights_turned, "engine over learner"),
    (_weights_masked, "masking"),
    (_weights_of_the_whole, "one weight for each token"),
]
