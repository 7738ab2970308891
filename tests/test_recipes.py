"""The recipes that ship, and the page about one's own: everything they say can be run."""

import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
import yaml
from public_data import DATA, holds_all
from tokenizers import decoders, models, pre_tokenizers, trainers
from typer.testing import CliRunner

from r1kit.chat import R1_ZERO_TEMPLATE
from r1kit.commands.cli import app
from r1kit.config import R1kitError
from r1kit.planning.plan import StageCost, plan_recipe
from r1kit.recipe.recipe import Recipe, load
from r1kit.tasks import Dataset
from r1kit.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def r1kit(*words: str) -> str:
    """Call the command line in this process; return what it printed."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not (
        isinstance(result.exception, SystemExit) and result.exit_code == 0
    ):
        raise result.exception
    return result.output


@cache
def planned(file: Path) -> tuple[Recipe, dict[str, StageCost]]:
    """A recipe and its plan on no machine: sizes and tokens."""
    recipe = load(file)
    return recipe, {plan.name: plan for plan in plan_recipe(recipe, None)}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_is_shown_whole_and_planned(file, monkeypatch):
    monkeypatch.chdir(ROOT)  # a recipe's own code is named from the project's root
    shown = yaml.safe_load(r1kit("show", str(file)))
    recipe, plans = planned(file)
    assert [stage["name"] for stage in shown["stages"]] == [stage.name for stage in recipe.stages]
    assert list(plans) == [stage.name for stage in recipe.stages]
    for stage in recipe.stages:
        grpo = getattr(stage, "grpo", None)
        if grpo is not None:
            assert plans[stage.name].steps == grpo.steps


def test_the_full_recipe_has_the_papers_numbers():
    recipe, plans = planned(ROOT / "recipes" / "r1-full.yaml")
    assert plans["pretrain"].parameters == pytest.approx(671.03e9, rel=1e-4)
    assert plans["pretrain"].tokens == 14.8e12
    stages: dict[str, Any] = {stage.name: stage for stage in recipe.stages}
    zero, long = stages["r1_zero"], stages["r1_zero_long"]
    assert (
        zero.grpo.steps + long.grpo.steps == 10_400
        and long.grpo.max_tokens == 2 * zero.grpo.max_tokens == 65_536
    )
    for name in ("r1_zero", "r1_zero_long", "reasoning_rl", "alignment_rl"):
        grpo = stages[name].grpo
        assert (
            grpo.group * grpo.problems == 512
            and grpo.group * grpo.problems * grpo.updates_per_rollout == 8192
        )
        assert (
            grpo.beta == 0.001
            and grpo.reference_refresh == 400
            and stages[name].learner.optimizer.learning_rate == 3e-6
        )
        assert stages[name].learner.context >= grpo.max_tokens
    alignment = stages["alignment_rl"]
    assert (
        alignment.grpo.temperature == 0.7 and round(alignment.grpo.steps * alignment.preference_share) == 400
    )
    assert stages["sft"].init == "@pretrain" and stages["sft"].learner.optimizer.learning_rate == 5e-5


def qwen_checkpoint(folder: Path, texts: list[str]) -> Path:
    """A tiny Qwen2 model with Qwen's kind of tokenizer (no begin token, its own turns), both written by
    transformers."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([*texts, R1_ZERO_TEMPLATE, R1_ZERO_TEMPLATE], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=fast.eos_token_id,
        bos_token_id=fast.eos_token_id,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def write_sums(file: Path, numbers: range) -> Path:
    rows = [
        {"problem": f"What is {n} plus {n + 1}?", "solution": f"{n} + {n + 1} = \\boxed{{{2 * n + 1}}}."}
        for n in numbers
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


SMALL_GRPO = (
    "grpo.steps=4",
    "grpo.problems=2",
    "grpo.group=4",
    "grpo.updates_per_rollout=2",
    "grpo.max_tokens=24",
    "grpo.reference_refresh=2",
    "learner.context=320",
    "learner.optimizer.learning_rate=1e-3",
)
SMALL_EVALUATION = (
    "problems=3",
    "n=2",
    "max_tokens=24",
    "tasks.aime24=null",
    "tasks.math500.difficulty=null",
)


def test_zero_qwen_runs_on_a_checkpoint_that_transformers_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, held_out = (
        write_sums(tmp_path / "train.jsonl", range(100, 130)),
        write_sums(tmp_path / "test.jsonl", range(20)),
    )
    model = qwen_checkpoint(tmp_path / "qwen", train.read_text().splitlines())
    # Random weights solve nothing, and equal rewards teach nothing: this one differs between rollouts.
    (tmp_path / "mine.py").write_text(
        "def vowels(rollouts):\n    return [float(sum(c in 'aeiou' for c in r.text)) for r in rollouts]\n"
    )
    output = r1kit(
        "run",
        str(ROOT / "recipes" / "zero-qwen.yaml"),
        'stages.r1_zero.rewards={"mine.py:vowels": 1.0}',
        "runtime.device=cpu",
        "runtime.processes=1",
        f"stages.r1_zero.init={model}",
        f"stages.r1_zero.tasks.math.train={train}",
        f"stages.r1_zero.tasks.math.held_out={held_out}",
        "stages.r1_zero.tasks.math.decontaminate=[]",
        *(f"stages.r1_zero.{change}" for change in SMALL_GRPO),
        f"stages.evaluate.models.base={model}",
        f"stages.evaluate.tasks.math500.held_out={held_out}",
        *(f"stages.evaluate.{change}" for change in SMALL_EVALUATION),
    )
    assert "math: 30 train, 20 held out problems" in " ".join(output.split())
    stages = tmp_path / "runs" / "zero-qwen" / "stages"
    figures = json.loads((stages / "evaluate" / "report.json").read_text())["models"]
    assert set(figures) == {"base", "r1_zero"} and figures["r1_zero"]["overall"]["problems"] == 3
    # What came out is a Qwen2 checkpoint again, with the tokenizer it came with, and it has learned.
    out = transformers.AutoModelForCausalLM.from_pretrained(stages / "r1_zero" / "model")
    before = transformers.AutoModelForCausalLM.from_pretrained(model)
    assert out.config.model_type == "qwen2"
    assert any(not torch.equal(a, b) for a, b in zip(out.parameters(), before.parameters(), strict=True))
    text = "<|im_start|>What is 7?"
    ours, theirs = (
        Tokenizer.load(stages / "r1_zero" / "model"),
        transformers.AutoTokenizer.from_pretrained(model),
    )
    assert ours.encode(text, special=True).tolist() == theirs(text).input_ids


def test_distill_qwen_hands_the_teachers_answers_to_a_student_with_another_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher_says.jsonl").write_text(
        json.dumps({"prompt": "What is 1 plus 2?", "completion": "<think>\n1+2=3</think>3"}) + "\n"
    )
    held_out = write_sums(tmp_path / "test.jsonl", range(20))
    model = qwen_checkpoint(tmp_path / "qwen", held_out.read_text().splitlines())
    r1kit(
        "run",
        str(ROOT / "recipes" / "distill-qwen.yaml"),
        "runtime.device=cpu",
        "runtime.processes=1",
        "stages.rejection_sampling=null",
        "stages.sft.data=[teacher_says.jsonl]",
        f"stages.sft.init={model}",
        "stages.sft.learner.context=256",
        f"stages.evaluate.tasks.math500.held_out={held_out}",
        *(f"stages.evaluate.{change}" for change in SMALL_EVALUATION),
    )
    facts = json.loads((tmp_path / "runs/distill-qwen/stages/sft/report.json").read_text())
    assert facts["rows"] == 1 and facts["too_long"] == 0 and facts["loss"] > 0


GSM8K_IN_SECONDS = {
    "pretrain": ["model.preset=nano", "tokens=20_000", "tokenizer=400"],
    "r1_zero": ["grpo.steps=1", "grpo.problems=2", "grpo.group=2", "grpo.max_tokens=16"],
    "cold_start": ["problems=4", "samples=2", "solutions=20", "max_tokens=16"],
    "reasoning_rl": ["grpo.steps=1", "grpo.problems=2", "grpo.group=2", "grpo.max_tokens=16"],
    "rejection_sampling": ["problems=4", "samples=2", "max_tokens=16"],
    "reward_models": ["max_tokens=8", "max_pairs=8"],
    "alignment_rl": ["grpo.steps=2", "grpo.problems=2", "grpo.group=2", "grpo.max_tokens=16"],
    "student_base": ["tokens=8_000"],
    "distill": ["problems=4", "samples=1", "max_tokens=16", "allow_empty=true"],
    "evaluate": ["problems=2", "n=2", "max_tokens=16", "direct=[base]", "general=null"],
}


@pytest.mark.slow
@pytest.mark.skipif(not holds_all(DATA), reason="the public data sets are not here")
def test_gsm8k_goes_from_the_real_file_through_every_stage_with_nothing_solved(tmp_path, monkeypatch):
    """The recipe in seconds: a model that solves nothing stops no stage that may be left without rows, and
    the report says that it solves nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(DATA)
    changes = [f"stages.{stage}.{change}" for stage, own in GSM8K_IN_SECONDS.items() for change in own]
    said = " ".join(
        r1kit(
            "run",
            str(ROOT / "recipes/gsm8k.yaml"),
            "--out",
            str(tmp_path / "run"),
            "runtime.processes=1",
            *changes,
        ).split()
    )
    assert (
        "7462 train, 1319 held out problems" in said
        and "8 sampled, 0 correct, 0 kept" in said
        and "0 problems with a correct rollout" in said
    )
    evaluation = json.loads((tmp_path / "run/stages/evaluate/report.json").read_text())
    figures = evaluation["models"]
    assert len(figures) == 8 and all(
        set(model["tasks"]) == {"gsm8k_test", "math500_test"} for model in figures.values()
    )
    assert evaluation["protocol"]["problems"] == 4 and {
        model["overall"]["pass@1"] for model in figures.values()
    } == {0.0}
    rows = [
        json.loads(line) for line in (tmp_path / "run/stages/cold_start/data.jsonl").read_text().splitlines()
    ]
    assert sum("\\boxed{" in row["completion"] for row in rows) == 20 < len(rows)
    assert "| gsm8k_test (2 problems)" in (tmp_path / "run/report.md").read_text()


def strings_of(value):
    """Every string of a recipe's plain data, keys included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for inner in pair for text in strings_of(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings_of(inner)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_no_recipe_reads_outside_the_clone_and_every_data_file_can_be_had(file):
    texts = strings_of(yaml.safe_load(file.read_text()))
    outside = [text for text in texts if ".." in Path(text).parts or text.startswith(("/", "~"))]
    assert not outside
    get = runpy.run_path(str(ROOT / "data/get.py"))
    for text in texts:
        if text.startswith("data/samples/"):
            assert (ROOT / text).is_file(), text
        elif text.startswith("data/real-text/"):
            assert (ROOT / "data/real_text.py").is_file()  # the recipe's header names it
        elif text.startswith("data/"):
            assert text.removeprefix("data/") in {**get["FILES"], **get["YOURS"]}, text


def test_missing_data_files_stop_the_run_before_its_first_stage_and_are_named_with_how_to_get_them(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/get.py").write_text("")
    with pytest.raises(R1kitError) as error:
        Dataset("gsm8k", train="data/gsm8k_train.jsonl").problems("train")
    assert str(error.value) == (
        f"data/gsm8k_train.jsonl: no such file (looked up from {tmp_path}); get it with: python data/get.py "
        "gsm8k_train.jsonl"
    )
    with pytest.raises(R1kitError, match="no such file") as error:
        r1kit("run", str(ROOT / "recipes/gsm8k.yaml"))
    said = [line for line in str(error.value).splitlines() if "no such file" in line]
    missing = {
        line.partition("no such file")[0].rpartition("data/")[2].rstrip(": "): line.rpartition("; ")[2]
        for line in said
    }
    assert missing == {name: f"get it with: python data/get.py {name}" for name in missing}
    assert {"gsm8k_train.jsonl", "gsm8k_test.jsonl"} <= missing.keys()
    assert not (tmp_path / "runs").exists() or not list(tmp_path.glob("runs/*/stages/*"))
    (tmp_path / "data/get.py").unlink()
    with pytest.raises(R1kitError) as error:
        Dataset("gsm8k", train="data/gsm8k_train.jsonl").problems("train")
    assert str(error.value) == f"data/gsm8k_train.jsonl: no such file (looked up from {tmp_path})"


@pytest.mark.slow
def test_every_stage_reads_files_of_ones_own_and_none_of_the_miniatures(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    r1kit("run", "recipes/own-files.yaml", "--out", str(tmp_path / "run"))
    stages = tmp_path / "run/stages"
    rows = [json.loads(line) for line in (stages / "cold_start/data.jsonl").read_text().splitlines()]
    samples = {
        json.loads(line)["prompt"]: json.loads(line)["response"]
        for line in (ROOT / "data/samples/general_prompts.jsonl").read_text().splitlines()
    }
    solved = [row for row in rows if "\\boxed{" in row["completion"]]
    answers = [row for row in rows if row["prompt"] in samples]
    assert len(solved) == 20 and len(answers) == 9  # 9 of 29 rows are a share of 0.3
    assert all(row["completion"] == f"<think></think>{samples[row['prompt']]}" for row in answers)
    assert len(solved) + len(answers) == len(rows)
    preferred, judged = (
        json.loads((stages / stage / "report.json").read_text()) for stage in ("dpo", "reward_models")
    )
    assert preferred["pairs"] + preferred["held_out_pairs"] == 24  # an eighth of the prompts is held out
    assert judged["helpful_pairs"] == preferred["pairs"] and "safety_responses" not in judged
    aligned = json.loads((stages / "alignment_rl/report.json").read_text())
    assert aligned == {"steps_without_preference": 1, "steps_with_preference": 1}
    figures = json.loads((stages / "evaluate/report.json").read_text())["models"]
    assert set(figures) == {"base", "sft", "alignment_rl", "dpo", "distill"}
    assert all(set(model["tasks"]) == {"arithmetic"} for model in figures.values())
