"""data/: the samples are what they claim to be, and the script brings the right files and no others."""

import hashlib
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from public_data import DATA, ROOT, holds_all

from r1kit.tasks import load_tasks

GET = SimpleNamespace(**runpy.run_path(str(ROOT / "data/get.py")))
SAMPLES = ROOT / "data/samples"


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (SAMPLES / name).read_text(encoding="utf-8").splitlines()]


def test_every_equation_of_the_samples_holds_and_the_last_number_is_the_answer() -> None:
    rows = rows_of("arithmetic.jsonl")
    equation = re.compile(r"[\d(][\d+*/()= -]*=[ -]*\d+")
    for row in rows:
        worked, _, answer = row["answer"].partition("\n#### ")
        for found in equation.findall(worked):
            assert len({eval(side) for side in found.split(" = ")}) == 1, found
        assert answer in re.findall(r"-?\d+", worked), row
    assert sum(" = " in row["answer"] for row in rows) > 40 and len({row["question"] for row in rows}) == 48


def test_the_samples_are_read_by_the_tasks_that_they_are_for() -> None:
    spec = {
        "arithmetic": {"kind": "dataset", "train": str(SAMPLES / "arithmetic.jsonl")},
        "general": {"kind": "prompts", "train": str(SAMPLES / "general_prompts.jsonl")},
    }
    tasks = {name: task for name, (task, _) in load_tasks({**spec, "general": {**spec["general"]}}).items()}
    for task in tasks.values():
        assert len(task.problems("train")) > 20 and len(task.problems("held_out")) > 1
    kinds = {problem.columns.get("kind") for problem in tasks["general"].problems("train")}
    languages = {problem.language for problem in tasks["general"].problems("train")}
    assert kinds == {None, "forbidden"} and languages == {"en", "zh"}
    for row in rows_of("pairs.jsonl"):
        assert set(row) == {"prompt", "chosen", "rejected"} and row["chosen"] != row["rejected"]


@pytest.mark.skipif(not holds_all(DATA), reason="the public data sets are not here")
def test_no_sample_stands_in_a_public_file() -> None:
    public = {
        (row.get("question") or row.get("problem") or row.get("text") or "").strip().casefold()
        for file in DATA.glob("*.jsonl")
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())
    }
    own = [row["question"] for row in rows_of("arithmetic.jsonl")]
    own += [row["prompt"] for name in ("general_prompts.jsonl", "pairs.jsonl") for row in rows_of(name)]
    assert len(public) > 9_000 and not {text.strip().casefold() for text in own} & public


@pytest.mark.parametrize("name", [name for name, file in GET.FILES.items() if file.sha256])
def test_the_table_describes_the_public_files(name: str, tmp_path: Path) -> None:
    file = DATA / name
    if not file.is_file():
        pytest.skip(f"{name} is not here")
    assert GET.get(name, GET.copy_from(DATA), tmp_path) == f"{tmp_path / name}: {GET.FILES[name].rows} rows"
    assert (tmp_path / name).read_bytes() == file.read_bytes()
    assert "here already" in GET.get(name, GET.copy_from(tmp_path / "none"), tmp_path)
    damaged = file.read_bytes().replace(b"e", b"f", 1)
    for content, said in (
        (damaged, "SHA-256"),
        (damaged + b"{}\n", f"{GET.FILES[name].rows + 1} rows instead"),
    ):
        with pytest.raises(GET.DataError, match=said):
            GET.check(name, content)


def test_a_wrong_file_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/aime24_test.jsonl").write_text("{}\n" * 30)
    with pytest.raises(GET.DataError, match=r"aime24_test\.jsonl: SHA-256 .* instead of .*another version"):
        GET.get("aime24_test.jsonl", GET.copy_from(tmp_path / "there"), tmp_path)
    with pytest.raises(GET.DataError, match="No such file"):
        GET.get("aime24_test.jsonl", GET.copy_from(tmp_path), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


def test_rows_are_counted_and_hashed_as_anyone_would() -> None:
    content = b"{}\n\n{}\n"
    one = GET.PublicFile(2, hashlib.sha256(content).hexdigest())
    GET.check("a", content, {"a": one})
    with pytest.raises(GET.DataError, match="a: 1 rows instead of 2"):
        GET.check("a", b"{}", {"a": one})


def test_names_are_files_or_their_beginnings(capsys: pytest.CaptureFixture[str]) -> None:
    assert GET.chosen(["gsm8k", "mbpp.jsonl", "gsm8k_test"]) == [
        "gsm8k_train.jsonl",
        "gsm8k_test.jsonl",
        "mbpp.jsonl",
    ]
    with pytest.raises(GET.DataError, match=r"data/stem\.jsonl is yours to bring: JSON Lines of questions"):
        GET.chosen(["stem.jsonl"])
    assert (
        GET.main(["gsm9k"]) == 1
        and "no public file 'gsm9k'; there are: gsm8k_train" in capsys.readouterr().err
    )
    assert GET.main([]) == 0 and "math500_test.jsonl" in capsys.readouterr().out


def test_the_page_has_every_file_with_its_rows_and_hash() -> None:
    page = (ROOT / "data/README.md").read_text(encoding="utf-8")
    for name, file in GET.FILES.items():
        assert f"| `{name}` | {file.rows:,} |" in page and file.sha256 in page
    assert all(f"`{name}`" in page for name in GET.YOURS)
