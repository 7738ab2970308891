"""Token shards: every token once, best-fit lines, fill in the middle, continuation to the same bytes, and a
loader that is a function of its seed."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from r1kit.config import ConfigError, R1kitError
from r1kit.data.best_fit import place
from r1kit.data.corpora import SourceConfig
from r1kit.data.fim import DEEPSEEK, FIM, FIMConfig, with_fim_tokens
from r1kit.data.packed_corpus import (
    PackedConfig,
    Recipe,
    check_shards,
    pack_sources,
    packed_lines,
    tokenizer_texts,
)
from r1kit.data.token_loader import Lines, LineStream, Permutation, updates
from r1kit.data.token_shards import TokenShard, header_path, read_header
from r1kit.tokenizer import Tokenizer

CONTEXT = 32


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text_of(i) for i in range(50)], 300)


def text_of(index: int) -> str:
    rng = random.Random(index)
    return " ".join(
        rng.choice(("river", "stone", "bird", "7", "水", "fn(x)")) for _ in range(rng.randint(1, 60))
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "web.jsonl"
    path.write_text("".join(json.dumps({"text": text_of(i)}) + "\n" for i in range(300)))
    return path


def settings(file: Path, **options) -> PackedConfig:
    return PackedConfig(sources={"web": SourceConfig(path=str(file))}, **{"shard_tokens": 1500, **options})


def pieces_of(folder: Path):
    for paths in check_shards(folder, CONTEXT).values():
        for path in paths:
            shard = TokenShard.open(path, whole=True)
            for index in range(shard.header.lines):
                yield shard.line(index)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def brute_force_place(lengths, context):
    """Best fit decreasing as it is defined, in quadratic time."""
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        free = [context - sum(lengths[i] for i in chosen) for chosen in bins]
        fitting = [(left, at) for at, left in enumerate(free) if left >= lengths[index]]
        if fitting:
            bins[min(fitting)[1]].append(index)
        else:
            bins.append([index])
    return bins


@pytest.mark.parametrize("seed", range(5))
def test_placement_is_best_fit_decreasing(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(0, 40) for _ in range(200)]
    assert place(lengths, 40) == brute_force_place(lengths, 40)


@pytest.mark.parametrize("masks", [True, False])
def test_every_token_is_in_one_line_and_lines_are_nearly_full(tmp_path, file, tokenizer, masks):
    recipe = Recipe(settings(file, document_masks=masks), tokenizer, CONTEXT, seed=1)
    pack_sources(tmp_path / "tokens", recipe)
    lines = list(pieces_of(tmp_path / "tokens"))
    expected: Counter[tuple[int, ...]] = Counter()
    for index in range(300):
        ids = [tokenizer.bos_id, *tokenizer.encode(text_of(index)).tolist(), tokenizer.eos_id]
        expected.update(tuple(ids[start : start + CONTEXT + 1]) for start in range(0, len(ids) - 1, CONTEXT))
    found = Counter(tuple(piece.tolist()) for line in lines for piece in line)
    assert found == expected
    own = 1 if masks else 0
    filled = [sum(len(piece) - own for piece in line) for line in lines]
    assert max(filled) == CONTEXT + 1 - own
    assert sum(filled) / (len(lines) * (CONTEXT + 1 - own)) > 0.97


def test_a_document_of_one_context_more_is_two_pieces_and_an_empty_one_is_kept():
    long = np.arange(2 * CONTEXT + 1, dtype=np.int32)
    lines = packed_lines([long, np.array([1, 2])], CONTEXT, True)
    lengths = sorted(len(piece) for line in lines for piece in line)
    assert lengths == [2, CONTEXT + 1, CONTEXT + 1]
    targets = sum(len(piece) - 1 for line in lines for piece in line)
    assert targets == len(long) - 1 + 1  # every token but the first of each document is a target once


@pytest.mark.parametrize("after", [0, 1, 2])
def test_packing_that_was_killed_continues_to_the_same_bytes(tmp_path, file, tokenizer, after):
    recipe = Recipe(settings(file, fim=FIMConfig(rate=0.5)), with_tokens(tokenizer), CONTEXT, seed=1)
    pack_sources(tmp_path / "whole", recipe)
    whole = bytes_of(tmp_path / "whole")
    assert len(whole) >= 8

    class KilledError(BaseException):
        pass

    made: list[str] = []

    def kill(text: str) -> None:
        made.append(text)
        if sum("shard" in line for line in made) > after:
            raise KilledError

    with pytest.raises(KilledError):
        pack_sources(tmp_path / "killed", recipe, kill)
    assert len(bytes_of(tmp_path / "killed")) < len(whole)
    (tmp_path / "killed/web" / f"{after + 1:05d}.bin").write_bytes(b"half")
    pack_sources(tmp_path / "killed", recipe)
    assert bytes_of(tmp_path / "killed") == whole


def with_tokens(tokenizer: Tokenizer) -> Tokenizer:
    return with_fim_tokens(Tokenizer.train([text_of(i) for i in range(50)], 300))


@pytest.mark.parametrize("damage", ["tokens", "header", "seed"])
def test_what_is_damaged_or_of_other_settings_is_made_again(tmp_path, file, tokenizer, damage):
    pack_sources(tmp_path / "tokens", Recipe(settings(file), tokenizer, CONTEXT, seed=1))
    whole = bytes_of(tmp_path / "tokens")
    path = header_path(tmp_path / "tokens/web", 1)
    seed = 1
    if damage == "tokens":
        content = bytearray(path.with_suffix(".bin").read_bytes())
        content[5] ^= 1
        path.with_suffix(".bin").write_bytes(content)
    elif damage == "header":
        path.write_text(path.read_text()[:-20])
    else:
        seed = 2
    said: list[str] = []
    pack_sources(tmp_path / "tokens", Recipe(settings(file), tokenizer, CONTEXT, seed), said.append)
    assert any("made again" in line for line in said)
    now = bytes_of(tmp_path / "tokens")
    assert (now == whole) == (damage != "seed")


def test_a_changed_source_is_packed_again(tmp_path, file, tokenizer):
    recipe = Recipe(settings(file), tokenizer, CONTEXT, seed=1)
    pack_sources(tmp_path / "tokens", recipe)
    before = sum(1 for _ in pieces_of(tmp_path / "tokens"))
    file.write_text(file.read_text() * 2)
    pack_sources(tmp_path / "tokens", recipe)
    assert sum(1 for _ in pieces_of(tmp_path / "tokens")) > 1.9 * before


@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_the_middle_is_moved_to_the_end_and_nothing_is_lost(tokenizer, spm):
    own = with_tokens(tokenizer)
    fim = FIM.of(FIMConfig(rate=1.0, spm=spm), own, seed=3)
    begin, hole, end = map(own.id, DEEPSEEK)
    text = text_of(4)
    cut = fim.cuts(7, text)
    assert cut is not None and cut.prefix + cut.middle + cut.suffix == text
    prefix, middle, suffix = (own.encode(part).tolist() for part in (cut.prefix, cut.middle, cut.suffix))
    joined = fim.join([own.encode(part) for part in (cut.prefix, cut.middle, cut.suffix)], cut.suffix_first)
    psm = [begin, *prefix, hole, *suffix, end, *middle]
    assert joined.tolist() == (psm if spm == 0.0 else [begin, hole, *suffix, end, *prefix, *middle])


def test_the_rate_of_cut_documents_and_of_their_order_is_that_of_the_settings(tokenizer):
    fim = FIM.of(FIMConfig(rate=0.1, spm=0.25), with_tokens(tokenizer), seed=3)
    cuts = [fim.cuts(number, "some text here") for number in range(20_000)]
    made = [cut for cut in cuts if cut is not None]
    assert abs(len(made) / 20_000 - 0.1) < 0.01
    assert abs(sum(cut.suffix_first for cut in made) / len(made) - 0.25) < 0.04
    assert {len(cut.prefix) for cut in made} == set(range(15))  # also at the beginning and the end
    assert cuts == [fim.cuts(number, "some text here") for number in range(20_000)]


def test_a_tokenizer_without_the_tokens_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="fim: the tokenizer has no tokens such as"):
        FIM.of(FIMConfig(), tokenizer, seed=1)


def test_fim_tokens_survive_saving(tmp_path, tokenizer):
    own = with_tokens(tokenizer)
    own.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert [loaded.id(name) for name in DEEPSEEK] == [own.id(name) for name in DEEPSEEK]
    assert loaded.encode("<｜fim▁hole｜>").tolist() != [own.id(DEEPSEEK[1])]  # a text cannot forge it


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_an_order_is_a_permutation_and_depends_on_the_seed(count):
    orders = [[Permutation(count, seed)(index) for index in range(count)] for seed in (1, 2)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    if count > 16:
        assert orders[0] != orders[1] and orders[0] != list(range(count))


def lines_of(tmp_path, file, tokenizer, name="web", **options) -> Lines:
    packed = PackedConfig(sources={name: SourceConfig(path=str(file))}, shard_tokens=1500)
    pack_sources(tmp_path / name, Recipe(packed, tokenizer, CONTEXT, seed=1))
    return Lines.open(name, check_shards(tmp_path / name, CONTEXT)[name], **options)


def keys(lines):
    return [tuple(np.concatenate(line).tolist()) for line in lines]


def test_an_epoch_has_every_line_once_and_each_epoch_another_order(tmp_path, file, tokenizer):
    web = lines_of(tmp_path, file, tokenizer, epochs=2)
    stream = LineStream([web], seed=4)
    found = keys(stream.lines())
    every = Counter(keys(web.line(index) for index in range(len(web))))
    assert len(found) == 2 * len(web)
    assert Counter(found[: len(web)]) == Counter(found[len(web) :]) == every
    assert found[: len(web)] != found[len(web) :]


@pytest.mark.parametrize("start", [1, 17, 300])
def test_the_stream_continues_at_any_line(tmp_path, file, tokenizer, start):
    other = file.with_name("other.jsonl")
    other.write_text("".join(json.dumps({"text": f"other {i}"}) + "\n" for i in range(40)))
    sources = [
        lines_of(tmp_path, file, tokenizer, weight=3.0),
        lines_of(tmp_path, other, tokenizer, "other", epochs=1.5),
    ]
    stream = LineStream(sources, seed=4)
    whole = keys(itertools.islice(stream.lines(), 500))
    assert keys(itertools.islice(stream.lines(start), 500 - start)) == whole[start:]
    drawn = Counter(index for index, _ in itertools.islice(stream.draws(), 500))
    assert drawn[1] == round(1.5 * len(sources[1]))  # and no more, once it is exhausted


def test_weights_are_shares_of_the_lines(tmp_path, file, tokenizer):
    one = lines_of(tmp_path, file, tokenizer, "one", weight=1.0)
    three = lines_of(tmp_path, file, tokenizer, "three", weight=3.0)
    drawn = Counter(index for index, _ in itertools.islice(LineStream([one, three], 4).draws(), 20_000))
    assert abs(drawn[1] / 20_000 - 0.75) < 0.02


@pytest.mark.parametrize("joined", [True, False])
def test_updates_are_made_ahead_and_continue_at_any_update(tmp_path, file, tokenizer, joined):
    web = lines_of(tmp_path, file, tokenizer, epochs=1)
    stream = LineStream([web], seed=4)
    whole = list(updates(stream, itertools.repeat(5), joined, lambda ids: tuple(ids.tolist())))
    assert len(whole) == -(-len(web) // 5)
    flat = [one for update in whole for one in update]
    expected = (
        keys(stream.lines()) if joined else [tuple(p.tolist()) for line in stream.lines() for p in line]
    )
    assert flat == expected
    assert (
        list(updates(stream, itertools.repeat(5), joined, lambda ids: tuple(ids.tolist()), start=7))
        == whole[7:]
    )
    sizes = [1, 2, 3, 4, 5]
    rising = list(updates(stream, sizes, joined, lambda ids: tuple(ids.tolist())))
    assert len(rising) == 5
    assert [one for update in rising for one in update] == [one for update in whole[:3] for one in update]
    assert list(updates(stream, sizes, joined, lambda ids: tuple(ids.tolist()), start=2)) == rising[2:]


def test_what_the_second_thread_raises_is_raised_to_the_reader(tmp_path, file, tokenizer):
    def fail(ids):
        raise R1kitError("no row of this")

    web = lines_of(tmp_path, file, tokenizer)
    with pytest.raises(R1kitError, match="no row of this"):
        next(updates(LineStream([web], 4), itertools.repeat(5), False, fail))


def test_a_longer_context_and_unfinished_shards_are_refused(tmp_path, file, tokenizer):
    recipe = Recipe(settings(file), tokenizer, CONTEXT, seed=1)
    pack_sources(tmp_path / "tokens", recipe)
    with pytest.raises(R1kitError, match=r"packed for a context of 32, longer than learner\.context 16"):
        check_shards(tmp_path / "tokens", 16)
    paths = sorted((tmp_path / "tokens/web").glob("*.json"))
    paths[1].unlink()
    with pytest.raises(R1kitError, match=r"00001\.json: missing"):
        check_shards(tmp_path / "tokens", CONTEXT)
    for path in paths[2:]:
        path.unlink()
    with pytest.raises(R1kitError, match="the shards end before their source does"):
        check_shards(tmp_path / "tokens", CONTEXT)
    damaged = paths[0].with_suffix(".bin")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(R1kitError, match="damaged"):
        TokenShard.open(paths[0])


def test_ids_take_two_bytes_where_the_vocabulary_allows(tmp_path, file, tokenizer):
    pack_sources(tmp_path / "tokens", Recipe(settings(file), tokenizer, CONTEXT, seed=1))
    assert read_header(header_path(tmp_path / "tokens/web", 0)).dtype == "<u2"


def test_a_tokenizer_learns_from_sources_by_weight(file, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": f"other {i}"}) + "\n" for i in range(200)))
    sources = {
        "web": SourceConfig(path=str(file), weight=3.0),
        "other": SourceConfig(path=str(other), weight=1.0),
    }
    texts = tokenizer_texts(sources, 200, seed=1)
    share = sum(text.startswith("other") for text in texts) / len(texts)
    assert 0.15 < share < 0.35
