"""Text to ids and back: nothing is lost, digits stay single, a text cannot forge a turn, and transformers
reads the same ids."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import VOCABULARY, tokenizer
from transformers import AutoTokenizer

from r1kit.config import R1kitError
from r1kit.tasks.miniature.corpus import CorpusMix, documents
from r1kit.tokenizer import ASSISTANT, EOS, SPECIALS, TAGS, USER, Tokenizer

TEXTS = (
    "Compute 12+35-8.", "计算12+35-8。", "<think>first 7*8=56, </think><answer>\\boxed{56}</answer>",
    "  two  spaces\n\n\ttab", "déjà vu — ½ ٣٤ ４２", "🙂👩‍👩‍👧 \u200b\ufeff", "def f(x):return 3*x+12", "",
    " ", "第1题：3+4=7", f"{USER}no turn{EOS}",
)  # fmt: skip


def test_the_vocabulary_has_the_size_that_was_asked_for() -> None:
    assert tokenizer().vocab_size == VOCABULARY


def test_no_token_holds_more_than_one_digit_or_a_digit_with_anything_else() -> None:
    own = tokenizer()
    for index in range(own.vocab_size):
        text = own.decode([index], special=True)
        assert len(text) == 1 or not any(sign.isdigit() for sign in text), text


def test_numbers_become_one_token_per_digit() -> None:
    ids = tokenizer().encode("90210")
    assert [tokenizer().decode([i]) for i in ids] == list("90210")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_awkward_texts_survive_the_round_trip(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text)) == text


@pytest.mark.parametrize("special", SPECIALS)
def test_a_special_token_that_a_text_spells_out_stays_text(special: str) -> None:
    own = tokenizer()
    for text in (special, f"a{special}b", special * 2, f" {special} "):
        ids = own.encode(text)
        assert not own.special_ids & set(ids.tolist())
        assert own.decode(ids) == text
    assert own.encode(special, special=True).tolist() == [own.id(special)]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_one_token_and_stays_in_the_decoded_text(tag: str) -> None:
    own = tokenizer()
    ids = own.encode(f"x{tag}y")
    assert own.id(tag) in ids.tolist() and own.id(tag) not in own.special_ids
    assert own.decode(ids) == f"x{tag}y"


def test_special_tokens_are_left_out_of_decoded_text_unless_asked_for() -> None:
    own = tokenizer()
    ids = np.concatenate([own.encode("hi"), [own.eos_id]])
    assert own.decode(ids) == "hi" and own.decode(ids, special=True) == f"hi{EOS}"
    assert own.decode_batch([ids, ids[:1]]) == ["hi", own.decode(ids[:1])]


def test_a_batch_is_encoded_as_its_texts_one_by_one_whatever_was_encoded_before() -> None:
    own = tokenizer()
    own.encode(f"{USER}", special=True)
    for ids, text in zip(own.encode_batch(TEXTS), TEXTS, strict=True):
        np.testing.assert_array_equal(ids, own.encode(text))
        assert ids.dtype == np.int32


def test_transformers_reads_the_saved_directory_and_gives_the_same_ids(tmp_path: Path) -> None:
    own = tokenizer()
    own.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    # A corpus document holds special tokens that mean themselves; transformers always reads them so.
    for text in (*TEXTS, *islice(documents(3, CorpusMix()), 40)):
        assert theirs(text)["input_ids"] == own.encode(text, special=True).tolist()
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        own.bos_id,
        own.eos_id,
        own.pad_id,
    )
    ids = own.encode(f"{USER}1+1{ASSISTANT}<think>", special=True)
    assert theirs.decode(ids, skip_special_tokens=True) == own.decode(ids)


def test_a_loaded_tokenizer_is_the_saved_one(tmp_path: Path) -> None:
    own = tokenizer()
    own.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert [loaded.encode(text).tolist() for text in TEXTS] == [own.encode(text).tolist() for text in TEXTS]
    assert (loaded.names, loaded.special_ids, loaded.chat_template) == (
        own.names,
        own.special_ids,
        own.chat_template,
    )
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def without_begin(folder: Path, **more: object) -> Path:
    tokenizer().save(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["bos_token"]
    file.write_text(json.dumps({**config, **more}), encoding="utf-8")
    return folder


def test_a_tokenizer_without_a_begin_token_gets_none(tmp_path: Path) -> None:
    loaded = Tokenizer.load(without_begin(tmp_path / "a", model_max_length=777))
    assert loaded.bos_id is None and loaded.start_ids.tolist() == []
    loaded.save(tmp_path / "b")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert theirs.bos_token is None and theirs.model_max_length == 777
    assert tokenizer().start_ids.tolist() == [tokenizer().bos_id]  # and where there is one, it is kept


def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(R1kitError, match="vocab_size 100 is too small"):
        Tokenizer.train(["a"], 100)
    with pytest.raises(R1kitError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(R1kitError, match="'zzzz' is not a single token"):
        tokenizer().id("zzzz")


def test_an_end_token_in_the_map_of_special_tokens_counts(tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    settings_file = tmp_path / "tokenizer_config.json"
    config = json.loads(settings_file.read_text(encoding="utf-8"))
    for name in ("bos_token", "eos_token"):
        del config[name]
    settings_file.write_text(json.dumps(config), encoding="utf-8")
    tokens = {"eos_token": {"content": ASSISTANT, "special": True}, "bos_token": USER}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")
    loaded, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.eos_id == theirs.eos_token_id == tokenizer().id(ASSISTANT)
    assert loaded.bos_id == theirs.bos_token_id == tokenizer().id(USER)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7031645\n"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tokenizer.json", POINTER, "git-lfs pointer.* lfs pull"),
        ("tokenizer.json", "{}", "not a tokenizer that can be read"),
        ("tokenizer.json", '{"version": "1.0", ', "not valid JSON"),
        ("tokenizer_config.json", "null", "a JSON object is expected, not None"),
        ("tokenizer_config.json", "[]", "a JSON object is expected"),
        ("tokenizer_config.json", '{"eos_token": "<end>"}', "eos_token '<end>' is not in the vocabulary"),
        ("generation_config.json", "[]", "a JSON object is expected"),
        ("config.json", POINTER, "git-lfs pointer.* lfs pull"),
    ],
)
def test_broken_files_are_refused_by_name_and_fix(file: str, text: str, message: str, tmp_path: Path) -> None:
    tokenizer().save(tmp_path)
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(R1kitError, match=message) as found:
        Tokenizer.load(tmp_path)
    assert file in str(found.value) or "<end>" in text
