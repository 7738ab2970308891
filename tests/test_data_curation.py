"""Curation: what is dropped and why, planted duplicates, leaks and personal data, the stage in a recipe."""

import json
import random
import shutil
from pathlib import Path

import pytest

from r1kit.config import ConfigError, R1kitError
from r1kit.data.contamination import Contamination, Evaluation, evaluations_of
from r1kit.data.curation_settings import Kept, check_counts
from r1kit.data.text_rules import ADDRESS, PHONE, chinese_fault, mask_numbers

QUESTION = (
    "A farmer sells 12 baskets of ripe apples each morning and gives 3 baskets to his neighbour. "
    "How many baskets are left after one week?"
)
CHINESE = "小明的农场每天早上卖出十二篮苹果，并送给邻居三篮，请问一周以后他还剩下多少篮苹果？"
FILLER = "Snow fell over the quiet village while the old clock struck nine and the baker opened his shop. "


def contaminated(*texts: str, gram: int = 10) -> Contamination:
    return Contamination([Evaluation(f"test.jsonl:{i}", text) for i, text in enumerate(texts, 1)], gram)


LEAKS = {
    "as it is": QUESTION,
    "upper case": QUESTION.upper(),
    "full width": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in QUESTION),
    "wide spaces": QUESTION.replace(" ", " \u3000\n  "),
    "no spaces": QUESTION.replace(" ", ""),
    "spaced letters": " ".join(QUESTION),
    "other punctuation": QUESTION.replace(".", " -").replace("?", "!!"),
    "a part of ten words": " ".join(QUESTION.split()[3:13]),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_question_is_found_in_any_spelling(name):
    leak = contaminated(QUESTION, CHINESE).find(FILLER + LEAKS[name] + FILLER)
    assert leak is not None and leak.where == "test.jsonl:1"


@pytest.mark.parametrize("text", [CHINESE, " ".join(CHINESE), CHINESE.replace("，", "\n"), CHINESE[5:20]])
def test_a_chinese_question_is_found_in_any_spelling(text):
    leak = contaminated(QUESTION, CHINESE).find("今天天气很好。" + text + "我们去公园。")
    assert leak is not None and leak.where == "test.jsonl:2"


@pytest.mark.parametrize(
    "text",
    [
        FILLER * 3,
        " ".join(QUESTION.split()[3:12]),  # nine words
        QUESTION.replace("12", "14")
        .replace("ripe", "red")
        .replace("gives 3", "gave 5")
        .replace("left", "there"),
        "",
        "中文" * 50,
    ],
)
def test_other_texts_are_not_found(text):
    assert contaminated(QUESTION, CHINESE).find(FILLER + text) is None


def test_the_run_has_as_many_words_as_the_settings_say():
    part = FILLER + " ".join(QUESTION.split()[:12]) + " end."
    assert contaminated(QUESTION, gram=12).find(part) is not None
    assert contaminated(QUESTION, gram=13).find(part) is None
    assert contaminated(QUESTION, gram=13).find(FILLER + " ".join(QUESTION.split()[:13])) is not None


def test_a_short_question_is_found_as_a_whole_line_only():
    short = contaminated("What is 17 times 24?")
    assert short.find(f"{FILLER}\n what is 17  times 24? \n{FILLER}") is not None
    assert short.find(f"{FILLER} what is 17 times 24? {FILLER}") is None
    assert short.find("What is 17 times 25?") is None
    assert contaminated("2+2?").find("2+2?") is None  # too short to be anyone's own


def test_what_many_questions_begin_with_is_left_out():
    opening = "Answer the following question and write the final result in a box please: "
    rng = random.Random(0)
    questions = [
        opening + " ".join(rng.choice(("red", "blue", "two", "six", "cats", "dogs")) for _ in range(15))
        for _ in range(20)
    ]
    found = contaminated(*questions)
    assert found.find(opening + "something else that no question has in it at all") is None
    assert found.find(FILLER + questions[7].removeprefix(opening)) is not None


def test_a_brute_force_search_finds_the_same_documents():
    rng = random.Random(1)
    vocabulary = ["a", "be", "cat", "lamp3", "1", "22", "水", "火", "Straße"]

    def sentence(count):
        return " ".join(rng.choice(vocabulary) for _ in range(count))

    questions = [sentence(14) for _ in range(8)]
    documents = [sentence(80) for _ in range(200)]
    documents += [sentence(20) + " " + q[5:70] + " " + sentence(20) for q in questions for _ in range(4)]
    found = contaminated(*questions, gram=6)

    def letters(text):
        return "".join(c for c in text.casefold() if c.isalnum())

    def split(text):
        return text.replace("lamp3", "lamp 3").casefold().split()

    runs = {"".join(split(q)[i : i + 6]) for q in questions for i in range(len(split(q)) - 5)}
    for document in documents:
        by_hand = any(run in letters(document) for run in runs)
        assert (found.find(document) is not None) == by_hand


def test_reference_solutions_count_and_answers_do_not(tmp_path):
    path = tmp_path / "test.jsonl"
    solution = "First we multiply the baskets by seven and then subtract those given away\n#### 63"
    path.write_text(json.dumps({"question": QUESTION, "answer": solution}) + "\n")
    texts = evaluations_of([str(path)])
    found = Contamination(texts)
    assert found.find(FILLER + solution) is not None
    assert found.find("63") is None
    assert [text.question for text in texts] == [True, False]


GOOD_CHINESE = (
    "春天到了，公园里的花都开了，孩子们在草地上奔跑，老人们坐在长椅上聊天。\n"
    "远处传来鸟儿的歌声，让人觉得心情舒畅，仿佛一切烦恼都消失了。\n"
    "我们沿着湖边慢慢地走，看着水里的鱼儿游来游去，谁也不想回家。\n"
)

CHINESE_TEXTS = [
    (GOOD_CHINESE, None),
    (GOOD_CHINESE[:40], "zh_short"),
    (GOOD_CHINESE + "锟斤拷锟斤拷", "zh_broken_encoding"),
    (GOOD_CHINESE + "buy cheap watches online now " * 40, "zh_few_han"),
    (GOOD_CHINESE + "★☆◆◇" * 20, "zh_many_signs"),
    ("\n".join(GOOD_CHINESE.replace("。", "").split("，") * 2), "zh_few_sentence_ends"),
    (GOOD_CHINESE + "".join(chr(0x4E00 + i) for i in range(400)) + "。", "zh_long_sentence"),
    (GOOD_CHINESE + GOOD_CHINESE, "zh_repeated_lines"),
    (GOOD_CHINESE + "欢迎访问我们的官方网站，" * 30 + "谢谢。", "zh_repeated_runs"),
]


@pytest.mark.parametrize(("text", "fault"), CHINESE_TEXTS, ids=[str(case[1]) for case in CHINESE_TEXTS])
def test_each_rule_for_chinese_drops_what_it_is_for(text, fault):
    assert chinese_fault(text) == fault


@pytest.mark.parametrize(
    "number",
    ["13812345678", "+86 138 1234 5678", "138-1234-5678", "+44 20 7946 0958", "(0212) 555-1234",
     "212-555-1234", "+1 (212) 555 1234", "010-12345678"],
)  # fmt: skip
def test_telephone_numbers_are_masked(number):
    assert mask_numbers(f"Call {number}, please.") == f"Call {PHONE}, please."


@pytest.mark.parametrize(
    "text",
    ["3 + 4 = 7", "x = 12345", "2026-11-27", "3.14159265358", "1,234,567,890", "192.168.0.1", "12:30:45",
     "+5 +7", "138123456789012", "a[1:2:3]", "std::vector", "::1", "fe80::1", "ISBN 978-0-306-40615-7"],
)  # fmt: skip
def test_other_numbers_stay(text):
    assert mask_numbers(text) == text


def test_a_public_address_is_masked():
    assert mask_numbers("ping 2001:4860:4860::8888 now") == f"ping {ADDRESS} now"


def test_counts_that_do_not_add_up_are_an_error():
    check_counts({"web": Kept(read=3, kept=2, dropped={"near": 1, "lines_removed": 5})})
    with pytest.raises(R1kitError, match="web: 3 documents were read, 1 kept and 1 dropped"):
        check_counts({"web": Kept(read=3, kept=1, dropped={"near": 1})})


# From here on datatrove is needed.


def words_of(rng, count):
    letters = "abcdefghijklmnopqrstuvwxyz"
    common = ("the", "of", "and", "to", "that", "with", "have", "be")
    return " ".join(
        rng.choice(common) if rng.random() < 0.4 else "".join(rng.choices(letters, k=rng.randint(3, 8)))
        for _ in range(count)
    )


def page(rng):
    return "\n".join(words_of(rng, rng.randint(14, 30)).capitalize() + "." for _ in range(10))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A curation of planted documents: (its folder, counts, reasons, the rows that are kept by source)."""
    pytest.importorskip("datatrove")
    from r1kit.data.curation_pipeline import curate, report_of

    folder = tmp_path_factory.mktemp("curation")
    sources, config = planted(folder)
    curate(folder / "work", sources, config)
    counts, reasons = report_of(folder / "work", list(sources))
    return folder / "work", counts, reasons, kept_rows(folder / "work")


def kept_rows(work: Path):
    return {
        below.name: [json.loads(line) for path in sorted(below.glob("*.jsonl")) for line in path.open()]
        for below in sorted((work / "kept").iterdir())
    }


def planted(folder: Path):
    from r1kit.data.corpora import SourceConfig
    from r1kit.data.curation_settings import CurationConfig, ExecutorConfig

    rng = random.Random(5)
    pages = [page(rng) for _ in range(40)]
    near = pages[1].split(" ")
    near[20], near[60] = "changed", "also"
    quoted = "\n".join([*page(rng).split("\n")[:5], *pages[2].split("\n")[3:7], *page(rng).split("\n")[5:]])
    rows = [
        *pages,
        pages[0],
        " ".join(near),
        quoted,
        "Too short to be of use.",
        page(rng) + f"\n{QUESTION}\n" + page(rng),
        page(rng).replace("\n", " Write to jane.doe@corp.com or 13812345678 at 8.8.8.8.\n", 1),
        page(rng).replace("that", "dÃ©jÃ\xa0 vu", 1),
        GOOD_CHINESE,
        GOOD_CHINESE[:40],
        words_of(rng, 3) + " buy buy now" * 80,
    ]
    text = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    (folder / "web.jsonl").write_text(text + '{"text": null}\n')
    pairs = [{"instruction": f"Say {i} to jane.doe@corp.com", "output": f"Well, {i}."} for i in range(3)]
    pairs += [pairs[0], {"instruction": QUESTION, "output": "63"}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "test.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "#### 63"}) + "\n")
    sources = {
        "web": SourceConfig(path=str(folder / "web.jsonl"), bad_rows="quarantine"),
        "pairs": SourceConfig(path=str(folder / "pairs.jsonl")),
    }
    tests = [str(folder / "test.jsonl")]
    return sources, CurationConfig(decontaminate=tests, executor=ExecutorConfig(tasks=2))


def test_every_document_is_kept_or_dropped_for_a_reason(finished):
    _, counts, reasons, kept = finished
    check_counts(counts)
    assert counts["web"].read == 50 and counts["web"].bad == 1 and counts["web"].kept == len(kept["web"])
    dropped = counts["web"].dropped
    assert dropped["exact"] == 1 and dropped["near"] == 1 and dropped["lines_removed"] == 1
    assert dropped["gopher_short_doc"] == 1 and dropped["zh_short"] == 1
    assert dropped["contaminated_test.jsonl"] == 1
    assert sum(dropped.values()) == 7  # and the page of repetitions, whichever rule of Gopher's is first
    assert counts["pairs"].dropped == {"exact": 1, "contaminated_test.jsonl": 1}
    leak = reasons["contaminated_test.jsonl"]["examples"][0]["leak"]
    assert leak["where"] == "test.jsonl:1" and "12baskets" in leak["run"]


def test_texts_are_repaired_and_masked_and_lines_of_other_documents_removed(finished):
    _, _, _, kept = finished
    texts = [row["text"] for row in kept["web"]]
    assert not any("jane.doe" in text or "13812345678" in text or "8.8.8.8" in text for text in texts)
    assert sum("email@example.com" in text and PHONE in text and "192.0.2.1" in text for text in texts) == 1
    assert sum("déjà vu" in text for text in texts) == 1
    assert sum(text == GOOD_CHINESE.rstrip("\n") or text == GOOD_CHINESE for text in texts) == 1
    first = next(row["text"] for row in kept["web"] if row["id"].endswith("web.jsonl:3"))
    quoted = next(row["text"] for row in kept["web"] if row["id"].endswith("web.jsonl:43"))
    assert first.count("\n") == 9 and quoted.count("\n") == 9  # of 14 lines four stand in the first page
    assert set(first.split("\n")).isdisjoint(quoted.split("\n"))


def test_rows_that_are_no_texts_keep_their_columns(finished):
    _, _, _, kept = finished
    assert sorted((row["prompt"], row["completion"]) for row in kept["pairs"]) == [
        (f"Say {i} to email@example.com", f"Well, {i}.") for i in range(3)
    ]
    assert all(row["id"].startswith("/") and ":" in row["id"] for row in kept["pairs"])


def test_bad_rows_are_in_quarantine_with_their_place(finished):
    work, *_ = finished
    bad = [json.loads(line) for path in (work / "quarantine").glob("*.jsonl") for line in path.open()]
    assert [one["where"].rpartition("/")[2] for one in bad] == ["web.jsonl:51"]


def test_an_interrupted_curation_continues_and_gives_the_same_rows(finished):
    from r1kit.data.curation_pipeline import curate

    work, _, _, kept = finished
    again = work.with_name("again")
    shutil.copytree(work, again)
    shutil.rmtree(again / "kept")
    shutil.rmtree(again / "logs/kept")
    (again / "logs/apart/completions/00001").unlink()
    (again / "apart/00001.jsonl").write_text("torn")
    before = (again / "clean/00000.jsonl").stat().st_mtime_ns
    curate(again, *planted(work.parent))
    assert kept_rows(again) == kept
    assert (again / "clean/00000.jsonl").stat().st_mtime_ns == before  # finished steps are not repeated


def test_what_other_settings_left_is_removed_and_its_own_stays(tmp_path):
    from r1kit.data.corpora import SourceConfig
    from r1kit.data.curation_settings import CurationConfig, ExecutorConfig
    from r1kit.stages.curate import clear_other, mark_of

    class Lines:
        said: list[str] = []

        def info(self, text):
            self.said.append(text)

    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    sources, config = {"web": SourceConfig(path=str(path))}, CurationConfig()
    mark = mark_of(sources, config)
    workers = CurationConfig(executor=ExecutorConfig(workers=2))
    assert mark == mark_of(sources, workers) != mark_of(sources, CurationConfig(gram=13))
    folders = (tmp_path / "steps", tmp_path / "data")
    clear_other(Lines(), folders, mark)
    (folders[0] / "clean").mkdir()
    clear_other(Lines(), folders, mark)
    assert (folders[0] / "clean").is_dir() and not Lines.said
    path.write_text('{"text": "b"}\n' * 2)
    clear_other(Lines(), folders, mark_of(sources, config))
    assert not (folders[0] / "clean").exists() and "curated again" in Lines.said[0]


RECIPE = """
name: curated
runtime: {{kind: local, processes: 1}}
stages:
  - stage: curate
    sources: {{web: {{path: {web}, bad_rows: quarantine}}}}
    curation: {{rules: [gopher], decontaminate: [{test}]}}
  - stage: pretrain
    model: {{preset: nano}}
    tokens: 3000
    tokenizer: 320
    corpus: {{packed: {{sources: {{web: {{path: "@curate/data/web"}}}}, fim: {{rate: 0.3}}}}}}
    learner: {{context: 64, lines: 8}}
    training: {{batch_tokens: 512, save_every: 2}}
  - stage: pretrain
    name: again
    seed_of: pretrain
    model: {{preset: nano}}
    tokens: 3000
    tokenizer: "@pretrain"
    corpus: {{packed: {{folder: "@pretrain/tokens"}}}}
    learner: {{context: 64, lines: 8}}
    training: {{batch_tokens: 512, save_every: 2}}
"""


@pytest.mark.slow
def test_a_recipe_curates_packs_and_pretrains(tmp_path, monkeypatch):
    pytest.importorskip("datatrove")
    import r1kit

    monkeypatch.chdir(tmp_path)
    planted(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(web=tmp_path / "web.jsonl", test=tmp_path / "test.jsonl"))
    r1kit.run(r1kit.load(str(recipe)))
    stages = tmp_path / "runs/curated/stages"
    report = json.loads((stages / "curate/report.json").read_text())
    assert report["read"] == 50 and report["bad"] == 1 and 40 <= report["kept"] < 50
    assert (stages / "curate/quarantine.jsonl").read_text().count("\n") == 1
    assert not (stages / "curate/steps").exists()
    assert (stages / "pretrain/tokens/web/00000.json").is_file()
    assert json.loads((stages / "pretrain/report.json").read_text())["steps"] == 5
    models = [(stages / name / "model/model.safetensors").read_bytes() for name in ("pretrain", "again")]
    assert models[0] == models[1] and not (stages / "again/tokens").exists()  # the same shards and seed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"web": "none.jsonl"}, r"none\.jsonl: no such file, folder or pattern"),
        ({"test": "none.jsonl"}, r"none\.jsonl: no such file"),
    ],
)
def test_missing_files_are_named_before_anything_runs(tmp_path, monkeypatch, change, message):
    import r1kit
    from r1kit.recipe.inputs import check_inputs

    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "test.jsonl").write_text('{"text": "a"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(**{"web": "web.jsonl", "test": "test.jsonl", **change}))
    with pytest.raises(ConfigError, match=message):
        check_inputs(r1kit.load(str(recipe)))
