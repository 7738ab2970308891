"""Text as it comes, token by token, against the whole text."""

import random

import pytest
from small_world import tokenizer

from r1kit.serve.text import Characters, Sections, Stops, Writer, merged


def pieces(text: str, source: random.Random) -> list[str]:
    cuts = sorted(source.sample(range(len(text) + 1), min(len(text), source.randint(0, 6))))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("text", ["12 + 3 = 15", "你好，世界 🎉 naïve", "a\n\n b", "<think>x</think>"])
def test_characters_come_whole(text: str) -> None:
    characters = Characters(tokenizer())
    found = [characters.feed(token_id) for token_id in tokenizer().encode(text).tolist()]
    assert "".join(found) + characters.end() == text
    assert not any("\ufffd" in piece for piece in found)


def test_half_a_character_is_shown_at_the_end() -> None:
    characters = Characters(tokenizer())
    ids = tokenizer().encode("🎉").tolist()
    assert len(ids) > 1 and [characters.feed(one) for one in ids[:-1]] == [""] * (len(ids) - 1)
    assert characters.end() == "\ufffd"


def test_stops_cut_where_a_search_in_the_whole_text_does() -> None:
    source = random.Random(1)
    for _ in range(3000):
        text = "".join(source.choice("ab.") for _ in range(source.randint(0, 12)))
        stops = ["".join(source.choice("ab.") for _ in range(source.randint(1, 3))) for _ in range(2)]
        search, found = Stops(stops[:1], kept=stops[1:]), ""
        for piece in text:
            found += search.feed(piece)
            assert text.startswith(found)
            if search.ended:
                break
        found += search.end()
        ends = [(text.find(one) + len(one), kept) for kept, one in enumerate(stops) if one in text]
        if not ends:
            assert found == text and not search.ended
            continue
        end = min(ends)[0]
        cuts = {end - len(stops[0]) if not kept else end for where, kept in ends if where == end}
        assert len(found) in cuts and search.ended


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\na b\n</think>\n\n c ", "a b", "c "),
        ("  <think>a</think>b", "a", "b"),
        ("<think></think>b", "", "b"),
        ("<think> a </thin", "a </thin", ""),
        ("<think> a  ", "a", ""),
        ("no <think>a</think>", "", "no <think>a</think>"),
        ("<thin", "", "<thin"),
        ("<think>a</think>  ", "a", ""),
        ("<think>a<think>b</think>c</think>", "a<think>b", "c</think>"),
    ],
)
def test_thinking_and_answer_are_apart_however_the_text_comes(text: str, thinking: str, answer: str) -> None:
    source = random.Random(2)
    for _ in range(60):
        sections, parts = Sections(), []
        for piece in pieces(text, source):
            parts += sections.feed(piece)
        parts += sections.end()
        assert "".join(one for kind, one in parts if kind == "reasoning") == thinking
        assert "".join(one for kind, one in parts if kind == "content") == answer


def test_a_writer_counts_the_tokens_of_the_thinking() -> None:
    ids = tokenizer().encode("<think>12 ab</think>7").tolist()
    end = tokenizer().eos_id
    writer = Writer(Characters(tokenizer()), Stops([]), frozenset([end]))
    taken, parts = writer.write([*ids, end, *ids])
    assert taken == len(ids) + 1 == writer.tokens and writer.finish == "stop"
    assert merged(parts) == [("reasoning", "12 ab"), ("content", "7")]
    assert writer.reasoning_tokens == len(ids) - 1


def test_pieces_of_any_length_have_the_text_of_single_tokens() -> None:
    """Stop texts, tags, parts of characters and end tokens at any place of a piece."""
    source = random.Random(3)
    words = ["<think>", "</think>", "a", " b", "12", "🎉", "好", "\n\n", "<", "stop", "st", " "]
    for _ in range(400):
        text = "".join(source.choice(words) for _ in range(source.randint(1, 14)))
        ids = tokenizer().encode(source.choice(("", "<think>")) + text).tolist()
        if source.random() < 0.3:
            ids.insert(source.randrange(len(ids) + 1), tokenizer().eos_id)
        if source.random() < 0.3:  # half a character in the middle
            ids.insert(source.randrange(len(ids) + 1), tokenizer().encode("🎉").tolist()[0])
        stops = source.sample(["stop", "\n\n", "12", "</think>a"], source.randint(0, 2))
        found = []
        for longest in (1, 3, 40):
            writer = Writer(Characters(tokenizer()), Stops(stops), frozenset([tokenizer().eos_id]))
            parts, left = writer.start(), ids
            while left and writer.finish is None:
                count = source.randint(1, longest)
                _, more = writer.write(left[:count])
                parts, left = parts + more, left[count:]
            if writer.finish is None:
                parts += writer.end("length")
            texts = {kind: "".join(t for k, t in parts if k == kind) for kind in ("reasoning", "content")}
            found.append((texts, writer.finish, writer.tokens, writer.reasoning_tokens))
        assert found[0] == found[1] == found[2], (text, stops)


def test_what_a_prompt_began_is_part_of_the_answer() -> None:
    writer = Writer(Characters(tokenizer()), Stops(["7"]), frozenset(), begun="<think>\n")
    parts = writer.start() + writer.write(tokenizer().encode("x</think>5 67 8").tolist())[1]
    assert merged(parts) == [("reasoning", "x"), ("content", "5 6")] and writer.finish == "stop"
