"""Worked solutions of public data, ended in the styles that models use; each with the gold answer and with the
next number."""

import json
from collections.abc import Iterator
from pathlib import Path

STYLES = {
    "gsm8k": ["#### {}", "A: {}", "The answer is {}.", "**{}**", "\\boxed{{{}}}"],
    "cmath": [
        "#### {}",
        "答：{}",
        "答案是{}。",
        "**{}**",
        "\\boxed{{{}}}",
        "所以一共是{}个。",
        "故答案为$ {} $。",
    ],
}


def solutions(file: Path) -> Iterator[tuple[str, str]]:
    """The gold answer and the text before it of every row: of GSM8K the working, of CMATH the question."""
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        working, mark, gold = str(row["answer"]).rpartition("####")
        yield gold.strip(), working.strip() if mark else row["question"]


def in_styles(file: Path, every: int = 1) -> Iterator[tuple[str, str, bool]]:
    """Gold answer, response, and whether it is right, for each style of every ``every``-th row."""
    styles = STYLES[file.name.partition("_")[0]]
    for gold, working in list(solutions(file))[::every]:
        shifted = gold.replace(",", "")
        for style in styles:
            yield gold, f"{working}\n{style.format(gold)}", True
            if shifted.lstrip("-").isdigit():
                yield gold, f"{working}\n{style.format(int(shifted) + 1)}", False
