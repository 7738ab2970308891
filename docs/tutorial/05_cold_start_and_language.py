# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# ---
# %% [markdown]
# # 5. Cold start, and one language
#
# R1-Zero is right, and hard to read: it mixes languages, because the reward looks at the answer only. The
# paper's two remedies are the subject of this lesson. A **cold start** fine-tunes the base on a few
# readable solutions before RL. A **language reward** pays for thinking in the language of the question.

# %%
from collections.abc import Callable

from lesson import grade, held_out, is_right, print_curve, rows_of, run_stages, sample, show

from r1kit import language_share

# %% [markdown]
# ## What R1-Zero writes
#
# The cold start takes right rollouts of R1-Zero, has them rewritten (here by a program, in the paper by
# people), and fine-tunes the base on them. Then RL again, with the language reward added to accuracy and
# format.

# %%
run = run_stages("pretrain", "r1_zero", "cold_start", "reasoning_rl")
problems, tasks = held_out(24)
for stage in ("r1_zero", "cold_start", "reasoning_rl"):
    found = [r for group in sample(run / "stages" / stage / "model", problems, n=4) for r in group]
    shares = [language_share(r.thinking or "", r.problem.language) for r in found]
    known = [share for share in shares if share is not None] or [0.0]
    right = sum(is_right(r, tasks) for r in found) / len(found)
    print(f"{stage:13} right {right:.2f}   in the question's language {sum(known) / len(known):.2f}")
    show(found, ["no words" if share is None else f"{share:.2f}" for share in shares], most=2)

# %% [markdown]
# The cold start alone is readable and often wrong: a few examples teach the manner, not the skill. RL
# brings the skill back, and the reward keeps the manner:

# %%
for name, key in (("accuracy", "reward/accuracy/mean"), ("language", "reward/language/mean")):
    print_curve(name, rows_of(run, "reasoning_rl", key))

# %% [markdown]
# ## The one equation
#
# The paper's equation 7 is the share of the words of the thinking that are in the question's language:
#
# $$r_{language} = \frac{\mathrm{Num}(\text{words in the target language})}{\mathrm{Num}(\text{words})}$$
#
# It is added to the accuracy reward with weight 1. Why add, and not multiply? GRPO compares sums within a
# group: with $r = r_{accuracy} + r_{language}$ a wrong but readable rollout is still better than a wrong
# unreadable one, so even a group without a right answer teaches something. The price is a trade: being in
# the language is worth as much as being right. The paper reports that accuracy is slightly lower with it,
# and keeps it because people prefer to read the result.
#
# ## Your part
#
# Write equation 7 for English and Chinese. A *word* is a run of Latin letters, or a run of Chinese
# characters (from `\u4e00` to `\u9fff`), which counts half a word for each character. Digits and signs
# belong to no language. Without any word the share is 0 / 0: return None, "does not apply", and not 0 (a
# calculation is readable in every language).


# %%
def share_in(text: str, language: str) -> float | None:
    """The share of the words of ``text`` in ``language``, "en" or "zh"; None without words."""
    raise NotImplementedError("write share_in; re.findall finds the runs of letters")


# %%
def check_share_in(function: Callable[[str, str], float | None]) -> None:
    """Try texts whose words are counted by hand. Raises AssertionError with a hint."""
    cases = [
        ("we add them", "en", 1.0, "all three words are English"),
        ("we add them", "zh", 0.0, "none of the words is Chinese"),
        ("我们相加", "zh", 1.0, "Chinese characters only"),
        ("then 然后", "en", 0.5, "two characters are one word: one of two words is English"),
        ("so we add 然后", "en", 0.75, "three English words and one Chinese word"),
        ("first we add 然后相加", "zh", 0.4, "four characters are two words: two of five"),
        ("3 + 4 = 7", "en", None, "no word at all: None, not 0"),
        ("", "zh", None, "no word at all: None, and no division by zero"),
        ("add 3, then 4.", "en", 1.0, "digits and signs are not words"),
    ]
    for text, language, wanted, hint in cases:
        found = function(text, language)
        same = found is None if wanted is None else found is not None and abs(found - wanted) < 1e-9
        assert same, f"{text!r} in {language!r}: {found}, should be {wanted}. Hint: {hint}"


grade(check_share_in, share_in)

# %% [markdown]
# r1kit's `language_share` knows fifteen scripts, and leaves out what is in no language: code, formulas,
# links, names. Next: [lesson 6](06_rejection_sampling_and_sft.py), where the model writes its successor's
# data.
