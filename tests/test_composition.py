"""The mixture of fine-tuning data: the paper's composition at any size, filters, thinking for general
prompts, and what is missing."""

import itertools
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from scripted import context, endpoint
from small_world import model_directory

from r1kit.config import ConfigError, R1kitError
from r1kit.data.composition import PAPER, PAPER_ROWS, apportion, largest_total, missing, shared_evenly
from r1kit.data.thought_filters import ThoughtFilters, language_of, thinking_of
from r1kit.recipe.inputs import check_inputs
from r1kit.recipe.layers import read_layers
from r1kit.recipe.recipe import build
from r1kit.stages.mixture import ComposeMixture


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("base") / "model").parent


def test_the_papers_table_adds_up_and_comes_back_exactly():
    assert PAPER_ROWS == 804_745  # table 5
    assert apportion(PAPER_ROWS, PAPER) == PAPER


@pytest.mark.parametrize("total", [0, 1, 7, 100, 1000, 4999])
def test_largest_remainders_by_brute_force(total):
    counts = apportion(total, PAPER)
    assert sum(counts.values()) == total
    quotas = {name: Fraction(total * rows, PAPER_ROWS) for name, rows in PAPER.items()}
    assert all(
        0 <= quotas[name] - counts[name] + 1 <= 2 and abs(counts[name] - quotas[name]) < 1 for name in PAPER
    )
    rest = {name: quotas[name] - int(quotas[name]) for name in PAPER}
    more = sorted(PAPER, key=lambda name: (-rest[name], list(PAPER).index(name)))[
        : total - sum(map(int, quotas.values()))
    ]
    assert {name for name in PAPER if counts[name] > int(quotas[name])} == set(more)


@pytest.mark.parametrize("weights", [{"a": 0.0}, {"a": -1.0, "b": 2.0}])
def test_weights_without_a_share_are_refused(weights):
    with pytest.raises(ValueError, match="above 0"):
        apportion(3, weights)


def test_the_largest_total_has_all_its_rows():
    there = {"math": 400, "code": 300, "stem": 9, "logic": 30, "general": 200}
    total = largest_total(5000, PAPER, there)
    needed = apportion(total, PAPER)
    assert not missing(needed, there)
    possible = [size for size in range(5000) if not missing(apportion(size, PAPER), there)]
    assert total == max(possible)
    assert largest_total(100, PAPER, there) == 100 and largest_total(5, PAPER, {}) == 0


def test_named_sources_share_evenly_as_far_as_they_have_rows():
    assert shared_evenly(10, {"a": 100, "b": 100, "c": 100}) == {"a": 4, "b": 3, "c": 3}
    assert shared_evenly(10, {"a": 1, "b": 100, "c": 4}) == {"a": 1, "b": 5, "c": 4}
    assert shared_evenly(10, {"a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert shared_evenly(0, {"a": 1}) == {"a": 0}


FILTERS = ThoughtFilters()
NUMERALS = ["".join(letters) for letters in itertools.product("abcdefg", repeat=3)]  # words, all different
WORDS = "I add the numbers and look at what is left over here. "


@pytest.mark.parametrize(
    "thinking, why",
    [
        (WORDS, None),
        ("3 + 4 = 7", None),
        ("我先算一下，然后再看结果是不是对的。" * 2 + WORDS, "mixed languages"),
        ("word " * 301, "repetitions"),
        (" ".join(NUMERALS[:301]), "chaotic paragraphs"),
        (" ".join(NUMERALS[:300]), None),
        ("a" * 61, "chaotic paragraphs"),
        ("☃☀☁☂★ " * 6 + "so it is", "chaotic paragraphs"),
        ("```python\n" + "x = 1\n" * 6 + "```", "long code"),
        (WORDS + "```python\n" + "x = 1\n" * 5 + "```", None),
        ("```\n" + "y\n" * 40, "long code"),  # a block that is never closed
    ],
)
def test_each_filter_and_its_near_miss(thinking, why):
    assert FILTERS.why_not(thinking, "en") == why


def test_a_chinese_thinking_belongs_to_a_chinese_prompt():
    thinking = "我先把两个数加起来，然后减去三。"
    assert FILTERS.why_not(thinking, "zh") is None and FILTERS.why_not(thinking, "en") == "mixed languages"
    assert language_of("请计算三加四等于多少") == "zh" and language_of("What is 3+4?") == "en"
    assert thinking_of("<think>so</think>7") == "so" and thinking_of("<think></think>7") is None


def row_file(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def reasoning(path, domain, count):
    rows = [
        {"prompt": f"{domain} {n}?", "completion": f"<think>I see {domain} number {n}.</think>{n}"}
        for n in range(count)
    ]
    return row_file(path / f"{domain}.jsonl", rows)


def sources(path, general):
    own = {
        name: [reasoning(path, name, count)]
        for name, count in (("math", 60), ("code", 30), ("stem", 3), ("logic", 3))
    }
    return {**own, "general": general}


def general_file(path, name="writing", count=30):
    rows = [
        {"prompt": f"Write a poem about {name} number {n}, please.", "response": f"Roses {n}."}
        for n in range(count)
    ]
    return row_file(path / f"{name}.jsonl", [*rows, {"prompt": "Hello!", "response": f"Hello from {name}!"}])


def composed(ctx, **keys):
    ComposeMixture(**keys).run(ctx)
    rows = [json.loads(line) for line in (ctx.out / "data.jsonl").read_text().splitlines()]
    return rows, json.loads((ctx.out / "report.json").read_text())


def test_the_mixture_has_the_papers_composition(tmp_path, base):
    ctx = context(tmp_path, base)
    general = {name: general_file(tmp_path, name) for name in ("writing", "role_play")}
    rows, facts = composed(ctx, rows=100, sources=sources(tmp_path, general))
    assert (
        Counter(row["domain"] for row in rows) == Counter(apportion(100, PAPER)) == Counter(facts["domains"])
    )
    parts = Counter(row["source"] for row in rows if row["domain"] == "general")
    assert abs(parts["writing"] - parts["role_play"]) <= 1
    assert all(row["completion"].startswith("<think></think>") for row in rows if row["domain"] == "general")
    assert len({(row["prompt"], row["completion"]) for row in rows}) == 100


def test_what_is_dropped_is_counted_by_domain_and_reason(tmp_path, base):
    ctx = context(tmp_path, base)
    given = sources(tmp_path, [general_file(tmp_path)])
    bad = [
        {"prompt": "a?", "completion": "<think></think>1"},
        {"prompt": "b?", "completion": "<think>我先算一下然后再看结果</think>1"},
        {"prompt": "math 0?", "completion": "<think>I see math number 0.</think>0"},
    ]
    given["math"].append(row_file(tmp_path / "bad.jsonl", bad))
    _, facts = composed(ctx, rows=100, sources=given)
    assert facts["dropped"]["math"] == {"no thinking": 1, "mixed languages": 1, "the same row twice": 1}
    assert facts["read"]["math"] == 63 and facts["there"]["math"] == 60 and facts["dropped"]["code"] == {}


def test_too_few_rows_stop_or_shrink_the_whole(tmp_path, base):
    given = sources(tmp_path, [general_file(tmp_path)])
    ctx = context(tmp_path, base)
    with pytest.raises(
        R1kitError, match=r"too few rows for 200.*math lacks 38, code lacks 22.*enough for 116"
    ):
        composed(ctx, rows=200, sources=given)
    rows, _ = composed(ctx, rows=200, sources=given, missing="shrink")
    assert Counter(row["domain"] for row in rows) == Counter(apportion(116, PAPER))
    assert apportion(116, PAPER)["code"] == 30 < apportion(117, PAPER)["code"]  # of which 30 are there


def test_a_model_writes_thinking_for_general_prompts_and_none_for_trivial_ones(tmp_path, base):
    ctx = context(tmp_path, base)
    asked = []

    def reply(request):
        text = request["messages"][0]["content"]
        asked.append(text)
        number = int(text.partition("number ")[2].partition(",")[0])
        return "我先想一想应该怎么写这首诗才好" if number == 3 else f"They want a poem about {number}."

    with endpoint(reply) as (address, _):
        rows, facts = composed(
            ctx, rows=60, sources=sources(tmp_path, [general_file(tmp_path, count=13)]),
            thoughts={"endpoint": address, "model": "w"}, composition={**PAPER, "general": 190_820.0},
        )  # fmt: skip
    general = [row for row in rows if row["domain"] == "general"]
    assert len(general) == 14  # all that are there
    hello = next(row for row in general if row["prompt"] == "Hello!")
    assert hello["completion"] == "<think></think>Hello from writing!"
    poems = [row for row in general if row is not hello]
    for row in poems:
        number = int(row["prompt"].partition("number ")[2].partition(",")[0])
        thinking = "" if number == 3 else f"They want a poem about {number}."
        assert row["completion"] == f"<think>{thinking}</think>Roses {number}."
    assert facts["thoughts"] == {"without": 14, "trivial": 1, "written": 12, "not usable": 1}
    assert len(asked) == 13 and not any("Hello!" in text for text in asked)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"sources": {"math": ["a.jsonl"]}}, "code, general, logic, stem have no sources"),
        (
            {"sources": {"poems": ["a.jsonl"]}, "composition": {"math": 0.0, "poetry": 0.0, "poems": 0.0}},
            "above 0",
        ),
        ({"sources": {"math": ["a"], "x": ["b"]}, "composition": {"math": 1.0}}, "x is no domain"),
    ],
)
def test_domains_and_sources_belong_together(keys, said):
    with pytest.raises(ConfigError, match=said):
        ComposeMixture.parse(keys, "mixture")


RECIPE = """
name: m
stages:
  - {{stage: rejection_sampling, init: "{base}", tasks: {{chain: 1.0}}, problems: 20, keep: 2}}
  - {{stage: mixture, rows: {rows}, composition: {{math: 1.0, general: 1.0}},
     sources: {{math: ["@rejection_sampling/data.jsonl"], general: ["{general}"]}}}}
"""


@pytest.mark.parametrize(
    "rows, said",
    [
        (60, None),
        (90, r"math lacks 5, general lacks 14\."),  # 20 problems x 2 are 40 rows at most
        (200, r"math lacks 60, general lacks 69"),
    ],
)
def test_what_the_sources_cannot_have_is_said_before_anything_runs(tmp_path, base, rows, said):
    file = tmp_path / "r.yaml"
    general = general_file(tmp_path)
    file.write_text(RECIPE.format(base=base / "model", rows=rows, general=general))
    layers = read_layers(file, [])
    recipe = build(layers)
    if said is None:
        check_inputs(recipe, layers)
        return
    with pytest.raises(ConfigError, match=said):
        check_inputs(recipe, layers)


def test_a_bad_row_names_its_place(tmp_path, base):
    ctx = context(tmp_path, base)
    bad = row_file(Path(tmp_path) / "t.jsonl", [{"prompt": "a", "response": "b", "thinking": 3}])
    with pytest.raises(R1kitError, match=r"t.jsonl:1: column 'thinking' is to be a text, not int"):
        composed(ctx, rows=1, sources={"general": [bad]}, composition={"general": 1.0})
