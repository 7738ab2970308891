"""The linear probe: its weights are the ridge's, it finds what is there, and not what is not."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import model, model_directory, tokenizer
from typer.testing import CliRunner

from r1kit.commands.cli import app
from r1kit.config import ConfigError, R1kitError
from r1kit.train.probe import (
    TASKS,
    LabelledText,
    hidden_states,
    labelled_texts,
    probe,
    probe_accuracy,
    ridge,
)


def test_the_ridge_s_weights_have_no_slope_left() -> None:
    rng = np.random.default_rng(0)
    x_ND, y_NO = rng.normal(size=(30, 5)), rng.normal(size=(30, 2))
    weights = torch.tensor(ridge(x_ND, y_NO, 0.7), requires_grad=True)
    loss = ((torch.tensor(x_ND) @ weights - torch.tensor(y_NO)) ** 2).sum() + 0.7 * (weights**2).sum()
    loss.backward()
    assert float(weights.grad.abs().max()) < 1e-10 and float(weights.detach().abs().min()) > 0


def test_a_probe_finds_a_direction_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(1)
    labels_N = rng.integers(0, 3, 600)
    test = np.arange(600) % 4 == 0
    noise_ND = rng.normal(size=(600, 8))
    assert probe_accuracy(noise_ND, labels_N, test, 0) == pytest.approx(1 / 3, abs=0.12)
    shown_ND = noise_ND.copy()
    shown_ND[:, :3] += 6 * np.eye(3)[labels_N]
    assert probe_accuracy(shown_ND, labels_N, test, 0) > 0.98


def test_hidden_states_are_those_of_each_text_alone() -> None:
    made = model()
    texts = [np.array([5, 9, 12, 40]), np.array([7, 8])]
    last = hidden_states(made, texts)
    assert list(last) == ["embed_tokens", "layers.0", "layers.1", "norm"]
    mean = hidden_states(made, texts, "mean", bidirectional=True)
    for place, ids in enumerate(texts):
        tokens_BT = torch.from_numpy(ids)[None]
        with torch.no_grad():
            alone = made(tokens_BT).hidden_BTD[0, -1].numpy()
            both = made(tokens_BT, bidirectional=True).hidden_BTD[0].mean(0).numpy()
            embedded = made.embed_tokens(tokens_BT)[0, -1].numpy()
        assert np.allclose(last["norm"][place], alone, atol=1e-5)
        assert np.allclose(mean["norm"][place], both, atol=1e-5)
        assert np.allclose(last["embed_tokens"][place], embedded)


def test_an_operator_is_not_in_the_last_token_s_embedding_and_attention_brings_it() -> None:
    texts = labelled_texts("operator", 400, seed=0)
    figures = {one.layer: one for one in probe(model(), tokenizer(), texts)}
    assert figures["embed_tokens"].accuracy == pytest.approx(figures["embed_tokens"].majority, abs=0.15)
    assert figures["norm"].accuracy > figures["embed_tokens"].accuracy + 0.2
    assert figures["norm"].shuffled < 0.45
    assert figures["norm"].stderr == pytest.approx(
        (figures["norm"].accuracy * (1 - figures["norm"].accuracy) / 100) ** 0.5
    )


@pytest.mark.parametrize("task", TASKS)
def test_built_in_texts_are_different_and_their_labels_nearly_even(task: str) -> None:
    texts = labelled_texts(task, 300, seed=1)
    assert len({one.text for one in texts}) == 300
    shares = Counter(one.label for one in texts)
    assert len(shares) in (2, 4) and min(shares.values()) > 300 / len(shares) * 0.7
    assert labelled_texts(task, 300, seed=1) == texts != labelled_texts(task, 300, seed=2)


def test_labels_of_built_in_texts_are_right() -> None:
    for one in labelled_texts("parity_of_sum", 50, 0):
        left, right = one.text.removesuffix("=").split("+")
        assert one.label == ("odd" if (int(left) + int(right)) % 2 else "even")
    for one in labelled_texts("operator", 50, 0):
        assert one.label in one.text
    for one in labelled_texts("parity", 50, 0):
        assert (one.label == "odd") == (one.text[-2] in "13579")


def test_what_cannot_be_probed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'parity'"):
        labelled_texts("parrity", 10, 0)
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "a", "label": "x"}\n{"text": "b"}\n')
    with pytest.raises(R1kitError, match=r"own\.jsonl:2: column 'label' is missing"):
        labelled_texts(str(file), 10, 0)
    with pytest.raises(R1kitError, match="30 texts with 1 labels"):
        probe(model(), tokenizer(), [LabelledText(str(i), "x") for i in range(30)])
    long = [LabelledText("a b " * 400 + str(i), str(i % 2)) for i in range(30)]
    with pytest.raises(R1kitError, match="the model reads 512"):
        probe(model(), tokenizer(), long)


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    folder = model_directory(tmp_path / "model")
    words = ["probe", str(folder), "--texts", "60"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert "layers.1" in found.output and "commonest" in found.output
    rows = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)[str(folder)]
    assert [row["layer"] for row in rows] == ["embed_tokens", "layers.0", "layers.1", "norm"]
