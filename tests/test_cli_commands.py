"""What the commands show: models of a run, model cards, plans, the doctor's findings, a conversation."""

import io
import json
import subprocess
from dataclasses import replace

import pytest
import torch
import yaml
from figure_fakes import PROTOCOL, evaluation, model_figures, scores
from rich.console import Console

from r1kit.commands import doctor
from r1kit.commands.chat import Speaker, converse
from r1kit.commands.export import export_model
from r1kit.config import ConfigError
from r1kit.figures import write
from r1kit.model.config import ModelConfig
from r1kit.model.decoder import LanguageModel
from r1kit.model.huggingface import save_pretrained
from r1kit.records import find_model, mark_outputs, stage_folder
from r1kit.tokenizer import Tokenizer
from r1kit.types import Sampling


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A random two-layer model with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(["seven times eight is fifty-six 七乘八"] * 20, 300)
    torch.manual_seed(0)
    config = ModelConfig.preset("mini", vocab_size=tokenizer.vocab_size, layers=2, max_positions=64)
    save_pretrained(LanguageModel(config, seed=0), folder)
    tokenizer.save(folder)
    return folder


def make_stage(run_dir, name, kind, finished, inputs=(), config=None, **reports):
    folder = run_dir / "stages" / name
    (folder / "model").mkdir(parents=True)
    (folder / "model/config.json").write_text('{"model_type": "deepseek_v3"}')
    record = {
        "stage": kind,
        "name": name,
        "config": config or {"tokens": 5},
        "inputs": {name: stage_folder(run_dir, name).record_hash() for name in inputs},
        "seconds": 61.0,
    }
    record |= {"finished": finished, "versions": {"torch": "2.13.0"}}
    record |= {"seed": 0, "files": {}, "setting": {}}
    if reports:
        (folder / "report.json").write_text(json.dumps(reports))
    (folder / "stage.json").write_text(json.dumps({**record, "outputs": {}}))
    mark(folder)


def mark(folder):
    """Write into a stage's record what its folder holds now."""
    outputs = {file: mark.model_dump() for file, mark in mark_outputs(folder).items()}
    record = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps({**record, "outputs": outputs}))


@pytest.fixture
def finished_run(tmp_path):
    run_dir = tmp_path / "mini"
    make_stage(run_dir, "base", "pretrain", 1)
    make_stage(run_dir, "zero", "r1_zero", 2, ["base"])
    make_stage(run_dir, "aside", "sft", 3, ["base"])
    make_stage(run_dir, "student", "distill", 4, ["zero"])
    make_stage(
        run_dir, "table", "evaluate", 5, ["zero"], {"models": {"R1-Zero": "@zero"}},
    )  # fmt: skip
    tasks = {"chain": scores(0.75)}
    write(
        run_dir / "stages/table/report.json",
        evaluation({"R1-Zero": replace(model_figures(0.8125), tasks=tasks)}),
    )
    (run_dir / "stages/table/model/config.json").unlink()
    mark(run_dir / "stages/table")
    (run_dir / "env.json").write_text(json.dumps({"command": "r1kit run recipes/mini.yaml"}))
    return run_dir


def test_model_of_a_run_is_its_main_result_or_the_named_stage(finished_run):
    assert find_model(finished_run) == finished_run / "stages/aside/model"
    assert find_model(finished_run, "student") == finished_run / "stages/student/model"
    assert find_model(finished_run / "stages/base/model") == finished_run / "stages/base/model"
    with pytest.raises(ConfigError, match="no finished stage 'zeor' with a model: did you mean 'zero'"):
        find_model(finished_run, "zeor")


def test_exported_model_has_a_card_that_says_how_it_was_made(finished_run, tmp_path):
    to = export_model(finished_run, "zero", tmp_path / "given")
    assert (to / "config.json").exists()
    card = (to / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers" and "r1_zero" in header["tags"]
    assert "`base` → `zero`" in card and "aside" not in card
    assert (
        "| pass@1 | 0.812 |" in card
        and "| chain: pass@1 | 0.750 |" in card
        and "| cons@16 | 0.912 |" in card
        and PROTOCOL.in_words() in card
    )
    assert "r1kit run recipes/mini.yaml" in card and "| torch | 2.13.0 |" in card
    with pytest.raises(ConfigError, match="already holds something"):
        export_model(finished_run, "zero", to)


@pytest.mark.parametrize(
    ("stage", "layers", "training", "stale"),
    [
        ("r1_zero", 1, None, True),
        ("dpo", 1, None, True),
        ("sft", 1, {"mtp_weight": 0.0}, True),
        ("sft", 1, {"mtp_weight": 0.1}, False),
        ("r1_zero", 0, None, False),
    ],
)
def test_the_card_names_a_prediction_layer_that_was_not_trained_with_the_rest(
    tmp_path, stage, layers, training, stale
):
    run_dir = tmp_path / "run"
    make_stage(run_dir, "made", stage, 1, config={"training": training} if training else {"steps": 3})
    (run_dir / "stages/made/model/config.json").write_text(json.dumps({"num_nextn_predict_layers": layers}))
    mark(run_dir / "stages/made")
    card = (export_model(run_dir, "made", tmp_path / "given") / "README.md").read_text()
    assert ("without its multi-token-prediction layer" in card) == stale


@pytest.mark.parametrize(
    ("torch_version", "vllm", "transformers", "level", "says"),
    [
        ("2.13.0+cpu", "0.30.1", "5.23.0", "ok", ""),
        ("2.13.0+cpu", "0.32.0", "5.23.0", "note", "transformers older than 5.20"),
        ("2.13.0", "0.26.0", "5.19.0", "note", "do not fit together"),
        ("2.11.0+cu130", "0.26.0", "5.23.0", "ok", ""),
        ("2.15.0", "0.33.0", "5.23.0", "note", "not a pair that r1kit knows"),
    ],
)
def test_doctor_knows_which_vllm_fits_which_torch(torch_version, vllm, transformers, level, says):
    finding = doctor.judge_vllm(torch_version, vllm, transformers)
    assert finding.level == level and says in finding.detail and bool(finding.fix) == (level != "ok")
    assert doctor.judge_vllm(torch_version, None, transformers) is None


def test_doctor_gives_one_fix_for_each_failing_line_and_is_unfit_when_something_is_broken():
    findings = [doctor.Finding("disk", "ok", "9 GB"), doctor.Finding("torch", "broken", "gone", "install it")]
    lines = doctor.as_lines(findings)
    assert not doctor.is_fit(findings) and doctor.is_fit(findings[:1])
    assert [line.split()[0] for line in lines] == ["ok", "BROKEN", "->", "1"]


def test_doctor_finds_a_torchvision_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}.get)
    clash = subprocess.CompletedProcess(
        [], 1, "", "Traceback\nRuntimeError: operator torchvision::nms does not exist\n"
    )
    monkeypatch.setattr(doctor, "run_python", lambda code: clash)
    (finding,) = doctor.examine_vision()
    assert (
        finding.level == "broken"
        and "nms does not exist" in finding.detail
        and finding.fix.startswith("pip uninstall -y torchvision")
    )


def test_streamed_answer_is_the_engines_own_and_ends_at_the_limit(model_dir):
    sampling = Sampling(n=1, temperature=1.0, top_p=1.0, max_tokens=12)
    speaker = Speaker(model_dir, sampling)
    pieces = list(speaker.answer([("user", "seven times eight")], seed=5))
    prompt_ids = speaker.chat.turn_ids([("user", "seven times eight")])
    completion = speaker.engine.generate([prompt_ids], sampling, [5])[0][0]
    assert completion.finish == "length" and pieces[-1] == " [cut off after 12 tokens]"
    assert speaker.tokenizer.decode(completion.token_ids).startswith("".join(pieces[:-1]))


def test_pieces_add_up_to_the_text_whatever_its_tokens_split(model_dir, monkeypatch):
    speaker = Speaker(model_dir, Sampling(max_tokens=400))
    text = " 数学 is maths, naïve 😀😀 x = 3,  and\nso on"
    ids = speaker.tokenizer.encode(text)
    monkeypatch.setattr(speaker.engine, "stream", lambda *_: iter([*ids, speaker.tokenizer.eos_id]))
    pieces = list(speaker.answer([("user", "seven")], seed=0))
    assert len(ids) > len(text) / 2 and sum(bool(piece) for piece in pieces) > 10
    assert "".join(pieces) == speaker.tokenizer.decode([*ids, speaker.tokenizer.eos_id]) and text in "".join(
        pieces
    )


def test_conversation_answers_lines_until_an_empty_one(model_dir):
    file = io.StringIO()
    console = Console(file=file, width=200)
    lines = iter(["seven", "/more eight", ""])
    console.input = lambda *_: next(lines)
    converse(model_dir, Sampling(max_tokens=4), console)
    assert file.getvalue().count("[cut off after 4 tokens]") == 2
