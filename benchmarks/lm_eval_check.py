"""Score a served model with lm-eval, and with r1kit itself, on two tasks made here.

    python benchmarks/lm_eval_check.py MODEL [--python PYTHON] [--problems 100]

``served_sums`` (generative, local-chat-completions, greedy): "Compute a+b-c+d."; right is a last \\boxed{} of
the result. ``served_choices`` (multiple choice, local-completions): which of four numbers is the likeliest
after "a+b="; lm-eval sends ids and reads the log-probabilities of the echoed prompt. r1kit's own figures: the
engine's greedy completions judged by r1kit's verifier, and the choice with the highest sum of the learner's
log-probabilities. Both have float32. PYTHON is an interpreter that has ``lm-eval[api]``; the server runs with
this one. Prints a line of JSON, and ends with 1 where the figures differ."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from abuse import served

from r1kit.commands.serve import name_of
from r1kit.engine.native import NativeEngine
from r1kit.model.huggingface import load_pretrained
from r1kit.stages.models import PromptStyle, prompt_style_of
from r1kit.tasks.mathematics.check import check_math
from r1kit.tokenizer import Tokenizer
from r1kit.train.learner import Learner, LearnerConfig
from r1kit.types import Row, Sampling

_TOKENS = 112
_SUMS = """\
task: served_sums
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|never|>"], temperature: 0, max_gen_toks: TOKENS}
filter_list:
  - name: boxed
    filter:
      - {function: regex, regex_pattern: '\\\\boxed\\{(-?[0-9]+)\\}', group_select: -1}
      - {function: take_first}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
_CHOICES = """\
task: served_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
target_delimiter: ""
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
_SUFFIXES = ("sums", "choices")
Problem = dict[str, Any]


def problems(count: int) -> list[Problem]:
    """Sums as the miniature's models know them, and sums with four possible results each."""
    source, found = random.Random(0), []
    for _ in range(count):
        a, b, c, d = (source.randint(2, 40) for _ in range(4))
        wrong = source.sample([a + b + more for more in (-11, -10, -2, -1, 1, 2, 9, 10)], 3)
        choices = sorted(str(one) for one in (a + b, *wrong))
        found.append(
            {
                "question": f"Compute {a}+{b}-{c}+{d}.",
                "answer": str(a + b - c + d),
                "context": f"{a}+{b}=",
                "choices": choices,
                "right": choices.index(str(a + b)),
            }
        )
    return found


def own_sums(model: Path, asked: Sequence[Problem]) -> float:
    """The share of sums that the engine gets right, greedy."""
    chat = prompt_style_of(model, PromptStyle()).chat(model)
    engine = NativeEngine(load_pretrained(model), chat.tokenizer.end_ids, "float32")
    prompts = [chat.turn_ids([("user", one["question"])]) for one in asked]
    groups = engine.generate(prompts, Sampling(temperature=0.0, max_tokens=_TOKENS))
    texts = [chat.tokenizer.decode(group[0].token_ids) for group in groups]
    right = [is_right(text, one["answer"]) for text, one in zip(texts, asked, strict=True)]
    return sum(right) / len(right)


def is_right(text: str, answer: str) -> bool:
    """What r1kit's verifier says."""
    return check_math(answer, text.rpartition("</think>")[2]).reward == 1.0


def own_choices(model: Path, asked: Sequence[Problem]) -> tuple[float, list[list[float]]]:
    """The share of right choices, and every choice's log-probability, by the learner."""
    tokenizer = Tokenizer.load(model)
    learner = Learner(load_pretrained(model), LearnerConfig(context=64, lines=4, precision="float32"))
    values = []
    for one in asked:
        begun, rows = len(tokenizer.encode(one["context"])), []
        for choice in one["choices"]:
            ids = tokenizer.encode(one["context"] + choice)
            rows.append(Row(ids, np.arange(len(ids)) >= begun, 1.0))
        found = learner.logprobs(rows)
        values.append([float(row[begun:].sum()) for row in found])
    right = [int(np.argmax(row)) == one["right"] for row, one in zip(values, asked, strict=True)]
    return sum(right) / len(right), values


def scored(python: str, model: Path, port: int, folder: Path) -> dict[str, Any]:
    """Run lm-eval on both tasks; return its figures and the choices' log-probabilities."""
    address = f"base_url=http://127.0.0.1:{port}/v1"
    ids = f"tokenizer={model.absolute()},tokenizer_backend=huggingface"
    chats = ["local-chat-completions", f"model={name_of(model)},{address}/chat/completions"]
    texts = ["local-completions", f"model={name_of(model)},{address}/completions,{ids}"]
    found: dict[str, Any] = {}
    for suffix, (kind, arguments), more in (
        ("sums", chats, ["--apply_chat_template"]),
        ("choices", texts, ["--batch_size", "8"]),
    ):
        command = [
            python, "-m", "lm_eval", "--model", kind, "--model_args", arguments,
            "--tasks", f"served_{suffix}", "--include_path", str(folder),
            "--output_path", str(folder / suffix), "--log_samples", *more,
        ]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
        subprocess.run(command, check=True, env=os.environ | offline, stdout=subprocess.DEVNULL)
        (results,) = (folder / suffix).rglob("results_*.json")
        found[suffix] = json.loads(results.read_text())["results"][f"served_{suffix}"]
        (samples,) = (folder / suffix).rglob("samples_*.jsonl")
        found[f"{suffix} samples"] = [json.loads(line) for line in samples.read_text().splitlines()]
    return found


def compared(model: Path, python: str, count: int) -> dict[str, Any]:
    """Both sides' figures."""
    asked = problems(count)
    with tempfile.TemporaryDirectory() as name, served(model, "--precision", "float32") as target:
        folder = Path(name)
        data = folder / "problems.jsonl"
        data.write_text("".join(json.dumps(one) + "\n" for one in asked))
        for suffix, task in zip(_SUFFIXES, (_SUMS, _CHOICES), strict=True):
            text = task.replace("FILE", json.dumps(str(data))).replace("TOKENS", str(_TOKENS))
            (folder / f"{suffix}.yaml").write_text(text)
        theirs = scored(python, model, target.port, folder)
    accuracy, values = own_choices(model, asked)
    samples = sorted(theirs["choices samples"], key=lambda one: one["doc_id"])
    seen = [[float(pair[0]) for pair in one["filtered_resps"]] for one in samples]
    return {
        "model": name_of(model),
        "problems": count,
        "sums, lm-eval": theirs["sums"]["exact_match,boxed"],
        "sums, r1kit": own_sums(model, asked),
        "choices, lm-eval": theirs["choices"]["acc,none"],
        "choices, r1kit": accuracy,
        "largest difference of a log-probability": float(np.abs(np.array(seen) - np.array(values)).max()),
    }


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--problems", type=int, default=100)
    asked = parser.parse_args()
    if subprocess.run([asked.python, "-c", "import lm_eval"], capture_output=True).returncode:
        print(f"skipped: {asked.python} has no lm-eval (pip install 'lm-eval[api]')")
        return
    found = compared(asked.model, asked.python, asked.problems)
    print(json.dumps(found))
    same = all(found[f"{one}, lm-eval"] == found[f"{one}, r1kit"] for one in _SUFFIXES)
    if not same or found["largest difference of a log-probability"] > 1e-3:
        sys.exit("the figures differ")


if __name__ == "__main__":
    main()
