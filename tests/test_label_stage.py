"""The stage label: pairs of answers in an order, labels of a scripted annotator or of people, and the run
that waits for people."""

import io
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import recipe_fakes
from preference_world import SMALL, context, printed, read, taste, write
from rich.console import Console
from scripted import ScriptedRuntime
from small_world import model_directory

from r1kit.chat import Chat
from r1kit.config import ConfigError, R1kitError
from r1kit.data.labels import JUDGED, LabelStore, judge, pair_of, read_labels, read_pairs
from r1kit.data.preferences import read_preferences
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.records import label_file
from r1kit.rewards.annotators import load_annotator, load_scorer
from r1kit.rewards.taste import Taste
from r1kit.runs.execute import WaitingRunError, run
from r1kit.runtime import RUNTIMES
from r1kit.runtime.local import LocalConfig, LocalRuntime
from r1kit.stages.label import LabelPairs, label_by, verdict_of
from r1kit.stages.reward_models import RewardModels
from r1kit.stages.stage import Context, Stage, WaitingError
from r1kit.tokenizer import Tokenizer
from r1kit.train.preference import read_values, text_row
from r1kit.types import Problem, Response

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


def script(prompt: str, index: int) -> str:
    """Four samples: a polite answer twice, a rude one, and one that breaks the template."""
    answers = ("Gladly! It is here.", "Gladly! It is here.", "No", None)
    answer = answers[index % 4]
    return "no template" if answer is None else f"<think>I look {index}.</think>{answer}"


class Counting(ScriptedRuntime):
    """Counts how often an engine samples."""

    def __init__(self) -> None:
        super().__init__(self._said)
        self.said = 0

    def _said(self, prompt: str, index: int) -> str:
        self.said += 1
        return script(prompt, index)


@pytest.fixture
def prompts(tmp_path: Path) -> dict[str, Any]:
    file = write(tmp_path / "questions.jsonl", [{"prompt": f"Where is tea {n}?"} for n in range(40)])
    return {"questions": {"kind": "prompts", "train": str(file)}}


def stage(prompts: dict[str, Any], **keys: Any) -> LabelPairs:
    given = {"models": ["@base"], "prompts": prompts, "problems": 20, "labels": 12, **keys}
    return LabelPairs.parse(given, "label")


def test_a_scripted_annotator_labels_pairs_of_different_answers(
    tmp_path: Path, base: Path, prompts: dict[str, Any]
) -> None:
    ctx = context(tmp_path, base, ScriptedRuntime(script))
    stage(prompts, annotator="taste", options={"noise": 0.0}).run(ctx)
    pairs = read_pairs(ctx.out / "pairs.jsonl")
    assert len(pairs) == len({str(pair.prompt) for pair in pairs}) == 20
    assert {pair.first.partition("</think>")[2] for pair in pairs} == {"Gladly! It is here."}
    assert all(pair.models == ("@base", "@base") for pair in pairs)
    found = read_preferences(ctx.out / "labels.jsonl")
    assert len(found) == 12 and {(one.chosen.answer, one.rejected.answer) for one in found} == {
        ("Gladly! It is here.", "No")
    }
    facts = json.loads((ctx.out / "report.json").read_text())
    assert facts["labels"] == facts["preferences"] == facts["verdicts"]["better"] == 12
    (tmp_path / "again").mkdir()
    again = context(tmp_path / "again", base, ScriptedRuntime(script))
    stage(prompts, annotator="taste", options={"noise": 0.0}).run(again)
    assert (again.out / "labels.jsonl").read_bytes() == (ctx.out / "labels.jsonl").read_bytes()


def test_with_a_person_the_stage_waits_and_continues_without_sampling_again(
    tmp_path: Path, base: Path, prompts: dict[str, Any]
) -> None:
    runtime = Counting()
    ctx = context(tmp_path, base, runtime)
    asked = stage(prompts, labels=3)
    with pytest.raises(
        WaitingError, match=r"0 of 3 pairs are labelled in .*labels/stage.jsonl.*\n  r1kit ui "
    ):
        asked.run(ctx)
    shown, said = (ctx.out / "pairs.jsonl").read_bytes(), runtime.said
    pairs, store = read_pairs(ctx.out / "pairs.jsonl"), LabelStore(label_file(tmp_path, "stage"))
    store.add(judge(pairs[0], "ann", "better", 0))
    store.add(judge(pairs[1], "ann", "skip", 0))
    store.add(judge(pairs[0], "ben", "worse", 0))
    with pytest.raises(WaitingError, match="1 of 3"):  # one pair, by two annotators
        asked.run(ctx)
    store.add(judge(pairs[2], "ann", "tie", 0))
    store.add(judge(pairs[3], "ann", "worse", 0))
    store.undo("ann")
    store.add(judge(pairs[4], "ann", "unsafe", 0, unsafe=["first"]))
    asked.run(ctx)
    assert (ctx.out / "pairs.jsonl").read_bytes() == shown and runtime.said == said > 0
    kept = read_labels(ctx.out / "labels.jsonl")
    assert [label.verdict for label in kept] == ["better", "skip", "worse", "tie", "unsafe"]
    assert json.loads((ctx.out / "report.json").read_text())["annotators"] == 2


def test_labels_of_earlier_rounds_stay_and_are_not_asked_for_again(
    tmp_path: Path, base: Path, prompts: dict[str, Any]
) -> None:
    first = context(tmp_path, base, ScriptedRuntime(script))
    keys: dict[str, Any] = {"annotator": "taste", "problems": 40}
    stage(prompts, **keys).run(first)
    (tmp_path / "two").mkdir()
    second = context(tmp_path / "two", base, ScriptedRuntime(script), label_1=first.out)
    stage(prompts, **keys, earlier="@label_1/labels.jsonl").run(second)
    both = read_labels(second.out / "labels.jsonl")
    assert both[:12] == read_labels(first.out / "labels.jsonl")
    assert len({label.pair for label in both}) == len(both) == 24


@pytest.mark.slow
def test_pairs_of_the_smallest_margin_come_first(tmp_path: Path, base: Path, prompts: dict[str, Any]) -> None:
    def varied(prompt: str, index: int) -> str:
        rng = random.Random(f"{prompt}/{index}")
        words = " ".join(rng.choice(("Gladly", "No", "here", "there", "tea")) for _ in range(4))
        return f"<think>I look.</think>{words}."

    ctx = context(tmp_path, base, LocalRuntime(LocalConfig(processes=1)))
    pairs = str(write(tmp_path / "pairs.jsonl", taste(32)))
    keys = {"init": "@base", "preferences": pairs, "batch": 8, "epochs": 2, "learner": SMALL}
    RewardModels.parse(keys, "reward_models").run(ctx)
    (tmp_path / "two").mkdir()
    labelled = context(tmp_path / "two", base, ScriptedRuntime(varied), rewards=ctx.out)
    choice = {"choose": "margin", "scorers": ["@rewards"], "learner": SMALL, "annotator": "taste"}
    stage(prompts, **choice, problems=40, pairs_per_prompt=100).run(labelled)
    found = read_pairs(labelled.out / "pairs.jsonl")
    model = ctx.out / "helpful"
    learner = ctx.runtime.learner(model, stage(prompts, **choice).learner, scalar_head=True)
    chat = Chat(Tokenizer.load(model))
    margins = []
    for pair in found:
        problem = Problem("", "", str(pair.prompt), None)
        answers = [text.partition("</think>")[2] for text in (pair.first, pair.second)]
        one, other = read_values(learner, [text_row(chat, problem, answer, 96) for answer in answers])
        margins.append(abs(one - other))
    assert len(margins) > 60 and margins[-1] > 2 * margins[0]
    assert all(before <= after + 1e-4 for before, after in pairwise(margins))


@pytest.mark.slow
def test_a_reward_model_and_a_safety_model_train_on_labels(tmp_path: Path, base: Path) -> None:
    store = LabelStore(tmp_path / "labels.jsonl")
    for number, row in enumerate(taste(24)):
        pair = pair_of(row["prompt"], row["chosen"], row["rejected"])
        verdict = "better" if pair.first == row["chosen"] else "worse"
        if number % 6 == 5:
            verdict = JUDGED[2 + number % 3]
        marked = ("first",) if verdict == "unsafe" else ()
        store.add(judge(pair, "ann", verdict, 0, unsafe=marked))
    store.add(judge(pair_of("Steal?", "Do it.", "Never."), "ann", "unsafe", 0, unsafe=["first"]))
    preferences = sum(label.verdict in ("better", "worse") for label in store.labels())
    ctx = context(tmp_path, base)
    file = str(store.file)
    keys = {"init": "@base", "preferences": file, "safety": file, "batch": 8, "epochs": 1, "learner": SMALL}
    RewardModels.parse(keys, "reward_models").run(ctx)
    facts = json.loads((ctx.out / "report.json").read_text())
    assert preferences == 20 == facts["helpful_pairs"] + facts["helpful_held_out_pairs"]
    assert facts["safety_responses"] + facts["safety_held_out"] == 2 * len(store.labels())
    assert "labels.jsonl:" in printed(ctx) and len(read(store.file)) == 25


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"choose": "margin"}, "choose: margin needs 1 reward model "),
        ({"choose": "disagreement", "scorers": ["@a"]}, "choose: disagreement needs 2 reward models"),
        ({"options": {"noise": 1}}, "options go with an annotator that is no person"),
        ({"annotator": "tase"}, "did you mean 'taste'"),
        ({"annotator": "taste", "options": {"nose": 1}}, "did you mean 'noise'"),
        ({"models": []}, "models"),
    ],
)
def test_what_cannot_be_labelled_is_an_error_of_the_recipe(
    prompts: dict[str, Any], keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        stage(prompts, **keys)


def test_prompts_without_two_different_answers_are_named(
    tmp_path: Path, base: Path, prompts: dict[str, Any]
) -> None:
    ctx = context(tmp_path, base, ScriptedRuntime(lambda prompt, index: "<think>I look.</think>The same."))
    with pytest.raises(R1kitError, match="no prompt has two answers that differ"):
        stage(prompts).run(ctx)


def test_verdicts_follow_from_scores() -> None:
    assert verdict_of(0.5, 0.4, 0.0, None) == "better" and verdict_of(0.4, 0.5, 0.0, None) == "worse"
    assert verdict_of(0.5, 0.45, 0.1, None) == "tie" and verdict_of(0.5, 0.5, 0.0, None) == "tie"
    assert verdict_of(0.1, 0.2, 0.0, 0.3) == "both_bad" and verdict_of(0.1, 0.3, 0.0, 0.3) == "worse"


def test_an_answer_that_the_annotator_leaves_out_is_a_skipped_pair() -> None:
    def annotator(asked: Any, rng: random.Random) -> Any:
        for _, responses in asked:
            yield [(1.0, responses[0])]

    pair = pair_of("p", "a", "b")
    assert [label.verdict for label in label_by(annotator, [(PROBLEM, pair)], random.Random(0))] == ["skip"]


PROBLEM = Problem("x", "t", "Where?", None, "en")


def test_the_taste_is_the_weighted_sum_that_it_says() -> None:
    answer = "Gladly! 在 here."  # 16 characters, one of three words in another language
    by_hand = (0.2 * len(answer) / 60 + 0.2 * 2 / 3 + 0.2 * 1 + 0.4 * 1) / 1.0
    assert Taste().score(PROBLEM, answer) == pytest.approx(by_hand)
    assert Taste(1, 0, 0, 0).score(PROBLEM, "x" * 90) == 1.0 and Taste(0, 0, 0, 1).score(PROBLEM, "no") == 0.0
    assert load_scorer("taste")(PROBLEM, [answer, "no"])[0] == pytest.approx(by_hand)
    annotator = load_annotator("taste", {"noise": 0.0, "word": 0.0}, None)  # type: ignore[arg-type]
    (((score, _),),) = annotator([(PROBLEM, [Response(answer, answer)])], random.Random(0))
    assert score == pytest.approx((0.2 * len(answer) / 60 + 0.2 * 2 / 3 + 0.2) / 0.6)


class Waits(Stage):
    """Waits until a file is there."""

    stage: Literal["waits"] = "waits"

    def run(self, ctx: Context) -> None:
        if not (ctx.run / "given").exists():
            raise WaitingError("give what it needs")


def test_a_run_that_waits_says_what_for_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(RUNTIMES, "local", "recipe_fakes:FakeRuntime")
    monkeypatch.setitem(sys.modules, "r1kit.report", recipe_fakes.report)
    file = tmp_path / "tiny.yaml"
    file.write_text("name: tiny\nstages:\n  - {stage: write, name: base}\n  - {stage: waits, name: people}\n")
    recipe = build(read_layers(file, [f"out={tmp_path}/run"]), {**recipe_fakes.STAGES, "waits": Waits})
    console = Console(file=io.StringIO())
    with pytest.raises(WaitingRunError) as waiting:
        run(recipe, console=console, command="r1kit run tiny.yaml")
    words = str(waiting.value)
    assert words.startswith("stage 'people' waits: give what it needs") and "failed" not in words
    assert "Finished and kept: base." in words and "r1kit run tiny.yaml" in words
    assert waiting.value.exit_code == 4 and not (tmp_path / "run/logs").exists()
    (tmp_path / "run/given").touch()
    assert run(recipe, console=console).states == {"base": "done", "people": "continue"}
