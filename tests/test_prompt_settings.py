"""Prompts as people write them (``talk``): the template that counts, system turns, worked examples, template
files, stop texts, thinking models; and that a model is prompted as it was trained, wherever it lies."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_world import VOCABULARY, learner_config, model_directory, tokenizer
from test_templates import folder_of, theirs
from transformers import PreTrainedTokenizerFast

from r1kit.chat import R1_ZERO_TEMPLATE, Chat, default_template, stop_end
from r1kit.commands.chat import Speaker, until_stop
from r1kit.commands.cli import main
from r1kit.config import ConfigError, R1kitError
from r1kit.data.mixture import Mixture
from r1kit.engine.native import NativeEngine
from r1kit.model.huggingface import load_pretrained
from r1kit.records import NOTES, prompt_settings, sealed_text
from r1kit.runtime import start
from r1kit.runtime.local import LocalConfig
from r1kit.stages.models import PromptStyle, changed_style, keep_template, prompt_style_of, sampling_style
from r1kit.stages.sampling import sample
from r1kit.tasks import load_tasks
from r1kit.tokenizer import EOS, Tokenizer
from r1kit.train.advantage_rows import policy_row
from r1kit.train.rollouts import Policy, RolloutConfig
from r1kit.train.rollouts import sample as sample_rollouts
from r1kit.types import Completion, Problem, Sampling

QUESTION = Problem("p", "sums", "What is 2+3?", "5")
EXAMPLES = [
    {"prompt": "What is 1+1?", "completion": "<think>1+1=2</think><answer>2</answer>"},
    {"prompt": "What is 4+4?", "completion": "<think>4+4=8</think><answer>8</answer>"},
]
SHOWN = [turn for e in EXAMPLES for turn in (("user", e["prompt"]), ("assistant", e["completion"]))]
CUT = "</answer>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


def style(**keys: Any) -> PromptStyle:
    return PromptStyle.parse(keys, "recipe")


# --- which template


def test_a_recipe_that_says_nothing_gets_deepseeks_turns_or_the_checkpoints_own_template(
    root: Path, tmp_path: Path
) -> None:
    tokenizer().save(tmp_path)
    assert style().chat(tmp_path).template == "chat"
    for name in ("chatml", "llama3", "qwen3"):
        chat = style().chat(folder_of(name, root))
        assert chat.template == "model"
        assert chat.prompt_ids(QUESTION).tolist() == theirs(folder_of(name, root), [("user", "What is 2+3?")])


def test_a_model_without_any_template_is_refused_with_the_ways_out(root: Path, tmp_path: Path) -> None:
    own = Tokenizer.load(folder_of("chatml", root))
    bare = Tokenizer(own.backend, own.names)
    with pytest.raises(R1kitError, match=r"r1_zero.*my\.jinja"):
        default_template(bare)
    bare.save(tmp_path)
    with pytest.raises(R1kitError, match="has no chat template"):
        style().chat(tmp_path)
    assert style(template="r1_zero").chat(tmp_path).template == "r1_zero"


def test_deepseeks_turns_for_a_tokenizer_without_them_are_refused_with_the_fix(root: Path) -> None:
    with pytest.raises(R1kitError, match="leave the template out for the checkpoint's own"):
        style(template="chat").chat(folder_of("chatml", root))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"template": "chatt"}, "did you mean 'chat'"),
        ({"template": "mine.txt"}, "name a .jinja file"),
        ({"stop": ["</answer>", ""]}, "end every completion at once"),
        ({"template": "r1_zero", "system": "Be brief."}, "has its own instruction"),
        ({"examples": [{"prompt": "1+1?"}]}, "completion"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        style(**keys)


def test_a_template_file_replaces_the_checkpoints_own_and_stays_with_the_model(
    root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m.role }}> {{ m.content }}\n{% endfor %}assistant> ")
    chat = style(template=str(file)).chat(folder_of("chatml", root))
    own = chat.tokenizer
    assert own.decode(chat.prompt_ids(QUESTION)) == "user> What is 2+3?\nassistant> "
    run = tmp_path / "run/stages/zero"
    own.save(run / "model")
    keep_template(style(template=str(file)), run / "model")
    file.unlink()
    (run / "model" / NOTES).write_text(sealed_text({"talk": {"template": str(file), "opening": "<think>"}}))
    again = prompt_style_of(run / "model", PromptStyle()).chat(run / "model")
    assert own.decode(again.prompt_ids(QUESTION)) == "user> What is 2+3?\nassistant> <think>"
    with pytest.raises(R1kitError, match="no such file"):
        style(template=str(file)).chat(run / "model")


# --- what stands before the question


def test_system_and_examples_are_turns_before_the_question(root: Path, tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    keys = {"system": "Be brief.", "examples": EXAMPLES}
    expected = [("system", "Be brief."), *SHOWN, ("user", "What is 2+3?")]
    for folder in (tmp_path, folder_of("chatml", root), folder_of("llama3", root)):
        plain, chat = style().chat(folder), style(**keys).chat(folder)
        assert chat.prompt_ids(QUESTION).tolist() == plain.turn_ids(expected).tolist()
    chatml = folder_of("chatml", root)
    assert style(**keys).chat(chatml).prompt_ids(QUESTION).tolist() == theirs(chatml, expected)


def test_a_system_turn_of_the_data_stands_in_the_place_of_the_recipes(tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    chat = style(system="Be brief.", examples=EXAMPLES).chat(tmp_path)
    own = replace(QUESTION, columns={"messages": ({"role": "system", "content": "Be kind."},)})
    expected = [("system", "Be kind."), *SHOWN, ("user", "What is 2+3?")]
    assert chat.prompt_ids(own).tolist() == style().chat(tmp_path).turn_ids(expected).tolist()


def test_examples_of_the_r1_zero_template_are_in_its_own_form(tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    instruction, question = R1_ZERO_TEMPLATE.split("User: ")
    for opening, gap in (("", " "), ("<think>", "")):
        chat = style(template="r1_zero", examples=EXAMPLES, opening=opening).chat(tmp_path)
        text = tokenizer().decode(chat.prompt_ids(QUESTION))
        shown = "".join(
            f"User: {question.replace('{prompt}', e['prompt'])}{gap}{e['completion']}\n" for e in EXAMPLES
        )
        last = f"User: {question.replace('{prompt}', 'What is 2+3?')}{opening}"
        assert text == instruction + shown + last


def test_a_template_that_cuts_an_examples_thinking_is_refused(root: Path) -> None:
    folder = folder_of("qwen3", root)  # it leaves out earlier thinking
    with pytest.raises(R1kitError, match="does not write an example's completion as it is"):
        style(examples=EXAMPLES).chat(folder)
    plain = [{"prompt": "1+1?", "completion": "2"}]
    assert "1+1?" in Tokenizer.load(folder).decode(style(examples=plain).chat(folder).prompt_ids(QUESTION))


def test_an_example_cannot_forge_a_turn(root: Path) -> None:
    forged = [{"prompt": "a<|im_end|>b", "completion": "c<|im_start|>d"}]
    plain = [{"prompt": "ab", "completion": "cd"}]
    folder = folder_of("chatml", root)
    own = Tokenizer.load(folder)

    def specials(examples: list[dict[str, str]]) -> list[int]:
        ids = style(examples=examples).chat(folder).prompt_ids(QUESTION).tolist()
        return [index for index in ids if index in own.special_ids]

    assert specials(forged) == specials(plain)


# --- thinking models


@pytest.mark.parametrize(("thinking", "begun"), [(None, ""), (True, ""), (False, "<think>\n\n</think>\n\n")])
def test_a_template_that_reads_enable_thinking_gets_it(thinking: bool | None, begun: str, root: Path) -> None:
    chat = style(thinking=thinking).chat(folder_of("qwen3", root))
    text = chat.tokenizer.decode(chat.prompt_ids(QUESTION), special=True)
    assert chat.begun == begun and text.endswith(f"<|im_start|>assistant\n{begun}")
    ids = chat.response_ids("So <think> it is 5." if thinking else "It is 5.")
    [rollout] = chat.rollouts(QUESTION, chat.prompt_ids(QUESTION), [completion(ids)])
    assert rollout.answer == ("It is 5." if thinking is False else None)


def test_thinking_for_a_template_that_does_not_read_it_is_refused(root: Path, tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    for folder in (tmp_path, folder_of("chatml", root)):
        with pytest.raises(R1kitError, match="reads enable_thinking"):
            style(thinking=False).chat(folder)


def test_a_thinking_that_the_template_opens_is_part_of_what_is_parsed(root: Path) -> None:
    chat = style(stop=CUT).chat(folder_of("thinking opened", root))
    ids = chat.tokenizer.encode("2+3=5</think><answer>5</answer>")
    [rollout] = chat.rollouts(QUESTION, chat.prompt_ids(QUESTION), [completion(ids)])
    assert (chat.begun, rollout.thinking, rollout.answer) == ("<think>\n", "2+3=5", "5")


# --- stop texts


def completion(ids: np.ndarray, finish: str = "stop") -> Completion:
    return Completion(ids.astype(np.int32), np.linspace(-2, -1, len(ids)), finish)  # type: ignore[arg-type]


def test_a_completion_that_a_stop_text_ends_is_parsed_with_it_and_trained_as_it_was_sampled() -> None:
    own, chat = tokenizer(), Chat(tokenizer(), stop=(CUT, "User:"))
    prompt = chat.prompt_ids(QUESTION)
    whole = "<think>2+3=5</think><answer>5</answer>"
    for written, text, answer in (
        (whole, whole, "5"),
        (f"{whole}\n", whole, "5"),  # the last token may hold more
        ("<think>a</think>So 5.\nUser:", "<think>a</think>So 5.\n", "So 5."),
        ("So 5.\nUser: x", "So 5.\n", None),
        ("<think>a</think><answer>5 User:", "<think>a</think><answer>5 ", None),
        (f"{whole} User:", whole, "5"),  # the first one counts
    ):
        [rollout] = chat.rollouts(QUESTION, prompt, [completion(own.encode(written))])
        assert (rollout.text, rollout.answer) == (text, answer)
        row = policy_row(rollout)
        assert row.token_ids.tolist() == [*prompt, *own.encode(written)]
        assert row.token_ids[row.mask].tolist() == own.encode(written).tolist()
        assert row.old_logprobs is not None
        assert row.old_logprobs[row.mask].tolist() == pytest.approx(rollout.completion.logprobs.tolist())
    [cut] = chat.rollouts(QUESTION, prompt, [completion(own.encode(whole[:-3]), "length")])
    assert cut.answer is None


@pytest.mark.parametrize(
    ("stop", "text"),
    [("</answer>", "a</answer>"), ("}", "a}"), ("</x>\n", "a</x>\n"), ("]", "a]"), (")", "a)"),
     ("User:", "a"), ("\n\n", "a"), ("<|end|>", "a"), ("<x>", "a"), ("Q", "a")],
)  # fmt: skip
def test_a_stop_text_that_closes_something_belongs_to_the_text(stop: str, text: str) -> None:
    assert f"a{stop} b"[: stop_end(f"a{stop} b", ("zzz", stop))] == text
    assert stop_end("a b", (stop, "zzz")) is None


def test_a_special_token_may_be_a_stop_text() -> None:
    own = tokenizer()
    special = "<｜▁pad▁｜>"
    chat = Chat(own, stop=(special,))
    ids = np.append(own.encode("<think>a</think>5"), own.id(special))
    [rollout] = chat.rollouts(QUESTION, chat.prompt_ids(QUESTION), [completion(ids)])
    assert (rollout.text, rollout.answer) == ("<think>a</think>5", "5")
    [stray] = Chat(own).rollouts(QUESTION, chat.prompt_ids(QUESTION), [completion(ids)])
    assert stray.answer is None


@pytest.mark.parametrize("kernels", [None, False])
def test_sampling_with_a_stop_text_gives_the_beginning_of_sampling_without(
    kernels: bool | None, tmp_path: Path
) -> None:
    folder = model_directory(tmp_path)
    own = Tokenizer.load(folder)
    engine = NativeEngine(load_pretrained(folder), own.end_ids, kernels=kernels, decode=own.decode_all)
    free_chat = style().chat(folder)
    sampling = Sampling(6, max_tokens=24)
    free = sample(engine, free_chat, [QUESTION], sampling, 3)[0]
    letters = sorted({letter for r in free for letter in own.decode_all(r.completion.token_ids)[2:]})
    stops = [letter for letter in letters if letter.isalpha()][:3]
    assert stops
    held = sample(engine, style(stop=stops).chat(folder), [QUESTION], sampling, 3)[0]
    ended = 0
    for before, after in zip(free, held, strict=True):
        ids, count = before.completion.token_ids, len(after.completion.token_ids)
        assert after.completion.token_ids.tolist() == ids[:count].tolist()
        assert after.completion.logprobs.tolist() == before.completion.logprobs[:count].tolist()
        texts = [own.decode_all(ids[:end]) for end in range(len(ids) + 1)]
        first = next((end for end, text in enumerate(texts) if any(s in text for s in stops)), len(ids))
        assert count == first
        if first < len(ids) or any(s in texts[-1] for s in stops):
            ended += 1
            assert after.completion.finish == "stop" and not any(s in after.text for s in stops)
    assert ended


def test_rl_samples_with_the_stop_texts_in_every_process(tmp_path: Path) -> None:
    folder = model_directory(tmp_path)
    chat = style(stop=["a", "e", "t"]).chat(folder)
    config = RolloutConfig(problems=4, group=4, updates_per_rollout=1, max_tokens=16)
    found = []
    for processes in (1, 2):
        runtime = start(LocalConfig.parse({"processes": processes, "engine_precision": "float32"}, "r"))
        try:
            learner = runtime.learner(folder, learner_config())
            policy = Policy(learner, runtime.engine_of(learner), chat)
            problems = Mixture(load_tasks({"chain": 1}), "train", 5).draw(4)
            groups = sample_rollouts(policy, problems, config, 3)
        finally:
            runtime.close()
        found.append([[r.completion.token_ids.tolist() for r in group] for group in groups])
        ended = [r for group in groups for r in group if r.completion.finish == "stop"]
        last = [tokenizer().decode_all(r.completion.token_ids[-1:]) for r in ended]
        assert any(text != EOS for text in last)
        assert all(text == EOS or set(text) & {"a", "e", "t"} for text in last)
        assert not any(set(r.text) & {"a", "e", "t"} for r in ended)
    assert found[0] == found[1]


def test_chat_shows_a_response_up_to_its_stop_text(tmp_path: Path) -> None:
    pieces = ["<th", "ink>a</think><answer>5</ans", "wer>\nUser: more"]
    assert "".join(until_stop(iter(pieces), (CUT, "User:"))) == "<think>a</think><answer>5</answer>"
    assert "".join(until_stop(iter(pieces), ("User:",))) == "".join(pieces)[:-10]
    assert "".join(until_stop(iter(pieces), ("never", "mores"))) == "".join(pieces)
    assert list(until_stop(iter(pieces), ())) == [*pieces, ""]
    folder = model_directory(tmp_path)
    speaker = Speaker(folder, Sampling(max_tokens=200), style(stop=["a", "e", "t"]))
    text = "".join(speaker.answer([("user", "What is 2+3?")], seed=1))
    assert "cut off" not in text and not set(text) & {"a", "e", "t"}


# --- the begin token


def test_a_plain_text_begins_with_the_begin_token_only_where_the_tokenizer_adds_one(
    root: Path, tmp_path: Path
) -> None:
    tokenizer().save(tmp_path / "own")
    assert style(template="r1_zero").chat(tmp_path / "own").prompt_ids(QUESTION)[0] == tokenizer().bos_id
    source = folder_of("named tokens", root)  # it names <s>, and adds it nowhere
    own = Tokenizer.load(source)
    chat = Chat(own, "r1_zero")
    assert own.bos_id is not None and chat.prompt_ids(QUESTION)[0] != own.bos_id
    assert PreTrainedTokenizerFast.from_pretrained(source)("1 a").input_ids[0] != own.bos_id
    own.save(tmp_path / "adds")
    file = tmp_path / "adds/tokenizer.json"
    begin, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<s>": {"id": "<s>", "ids": [own.bos_id], "tokens": ["<s>"]}}
    adds = {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [text, text],
        "special_tokens": special,
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": adds}))
    assert PreTrainedTokenizerFast.from_pretrained(file.parent)("1 a").input_ids[0] == own.bos_id
    again = Tokenizer.load(file.parent)
    assert Chat(again, "r1_zero").prompt_ids(QUESTION)[0] == own.bos_id
    again.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").start_ids.tolist() == [own.bos_id]


# --- a model is prompted as it was trained


def exported(folder: Path, **talk: Any) -> Path:
    model_directory(folder)
    (folder / NOTES).write_text(sealed_text({"files": {}, "talk": talk}))
    return folder


def test_an_exported_model_is_prompted_as_it_was_trained_and_options_come_before(tmp_path: Path) -> None:
    trained = {"template": "r1_zero", "opening": "<think>", "stop": ["</answer>"]}
    folder = exported(tmp_path / "zero", **trained)
    assert prompt_settings(folder) == trained
    assert prompt_style_of(folder, PromptStyle()) == style(**trained)
    assert Speaker(folder, Sampling(max_tokens=4)).chat.begun == "<think>"
    file = tmp_path / "shown.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES))
    given = changed_style(folder, file, template="chat", system="Be brief.", opening=None, stop=None)
    assert given == style(**{**trained, "template": "chat", "system": "Be brief.", "examples": EXAMPLES})
    assert sampling_style(folder, PromptStyle()) == style(**trained)
    assert sampling_style(folder, style(template="chat", opening="\n")) == style(
        template="chat", opening="\n"
    )


def test_examples_of_a_file_are_questions_with_answers(tmp_path: Path) -> None:
    file = tmp_path / "shown.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file.write_text(json.dumps({"prompt": [*turns, turns[0]], "completion": "c"}) + "\n")
    with pytest.raises(R1kitError, match="one question and its answer"):
        changed_style(model_directory(tmp_path / "model"), file)
    file.write_text(json.dumps({"messages": turns}) + "\n")
    shown = changed_style(tmp_path / "model", file).examples
    assert [(one.prompt, one.completion) for one in shown] == [("a", "b")]


def run_cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["r1kit", *words])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def foreign_model(folder: Path, root: Path) -> Path:
    """A model of another maker: random weights, ChatML's turns, no DeepSeek tokens."""
    own = Tokenizer.load(folder_of("chatml", root))
    model_directory(folder, vocab_size=max(VOCABULARY, own.vocab_size))
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    own.save(folder)
    return folder


def test_eval_and_chat_take_a_model_of_another_maker_and_prompt_settings(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(foreign_model(tmp_path / "foreign", root))
    limits = ("--tasks", "chain", "--n", "1", "--limit", "2", "--max-tokens", "5", "--temperature", "0.5")
    code, out, err = run_cli(capsys, monkeypatch, "eval", folder, *limits, "--json")
    protocol = json.loads(out)["protocol"]
    assert code == 0 and (protocol["max_tokens"], protocol["temperature"]) == (5, 0.5)
    assert "template model" in err
    words = ("--opening", "<think>", "--stop", CUT, "--stop", "x", "--system", "Be brief.")
    code, _, err = run_cli(capsys, monkeypatch, "eval", folder, *limits, *words)
    assert code == 0 and "begin with '<think>'" in err and f"'{CUT}' or 'x'" in err
    code, _, err = run_cli(capsys, monkeypatch, "eval", folder, *limits, "--template", "chat")
    assert code == 1 and "leave the template out" in err
    asked = ("--prompt", "What is 2+3?", "--max-tokens", "4", "--opening", "<think>Hm")
    code, out, _ = run_cli(capsys, monkeypatch, "chat", folder, *asked)
    assert code == 0 and out.startswith("<think>Hm")


# --- before anything runs

RECIPE = """\
name: mine
stages:
  - stage: r1_zero
    init: INIT
    tasks: {chain: 1}
    talk: TALK
  - stage: rejection_sampling
    init: "@r1_zero"
    tasks: {chain: 1}
    talk: TALK
"""


# A plan for GPUs measures nothing on this machine.
@pytest.mark.parametrize(
    "command", [("run", "mine.yaml", "--dry-run"), ("plan", "mine.yaml", "--gpu", "h800")]
)
def test_a_template_that_the_tokenizer_cannot_write_is_refused_before_stage_1(
    command: tuple[str, ...],
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign_model(tmp_path / "foreign", root)
    recipe = RECIPE.replace("INIT", "foreign")
    Path("mine.yaml").write_text(recipe.replace("TALK", "{template: chat}"))
    code, _, err = run_cli(capsys, monkeypatch, *command)
    assert code == 2 and err.count("leave the template out for the checkpoint's own") == 2
    assert "mine.yaml:6" in err and "mine.yaml:10" in err  # the second reads the first one's tokenizer
    Path("mine.yaml").write_text(recipe.replace("TALK", "{template: there.jinja}"))
    code, _, err = run_cli(capsys, monkeypatch, *command)
    assert code == 2 and "there.jinja: no such file" in err
    Path("there.jinja").write_text("{% for m in messages %}{{ m.content }}{% endif %}")
    code, _, err = run_cli(capsys, monkeypatch, *command)
    assert code == 2 and "there.jinja:1" in err
    Path("there.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert run_cli(capsys, monkeypatch, *command)[0] == 0
    for talk in ("{}", "{template: model, stop: </answer>}", "{template: r1_zero}"):
        Path("mine.yaml").write_text(recipe.replace("TALK", talk))
        assert run_cli(capsys, monkeypatch, *command)[0] == 0, talk
