"""The how-to pages do what they say: their files are written and their commands run, page after page, in one
folder."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from r1kit.commands.cli import app
from r1kit.config import R1kitError
from r1kit.tasks import Dataset

PAGES = Path(__file__).parents[1] / "docs/how-to"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What each page goes on from; a page without commands is left out.
AFTER = {
    "data": (),
    "reward": ("data",),
    "task": ("reward",),
    "benchmark": ("reward",),
    "model": ("reward",),
    "model-family": ("model",),
    "stage": ("reward",),
    "algorithm": ("model",),
    "engine": ("algorithm",),
    "runtime": ("algorithm",),
    "cluster": ("reward",),
    "first-reward": (),
    "pages": ("first-reward",),
    "why-zero": ("first-reward",),
    "findings": ("why-zero", "pages"),
}
# So that a page takes seconds: changes of a recipe that are added to the page's own command.
PETS = (
    "stages.pretrain.tokens=8000",
    "stages.r1_zero.grpo.steps=2",
    "stages.r1_zero.preflight=off",
    "stages.evaluate.problems=4",
    "stages.evaluate.n=1",
)
PENS = (
    "stages.pretrain.tokens=8000",
    "stages.r1_zero.grpo.steps=2",
    "stages.r1_zero.grpo.problems=4",
    "stages.r1_zero.preflight=off",
    "stages.evaluate.problems=4",
    "stages.evaluate.n=1",
)
SMALLER = {
    "r1kit run cold.yaml": ("stages.pretrain.tokens=8000", "stages.cold_start.problems=8"),
    "r1kit run mine.yaml": PENS,
    "r1kit run average.yaml": PENS,
    "r1kit run best-of-n.yaml --out runs/own-engine runtime.engine=my_engine.py:Plain": (
        "stages.r1_zero.rl.max_tokens=8",  # for each token it computes all positions again
        "stages.r1_zero.rl.gate_problems=1",
    ),
    "r1kit run pets.yaml": PETS,
    "r1kit run pets-control.yaml": (
        *PETS,
        "stages.without.grpo.steps=2",
        "stages.without.preflight=off",
        "stages.both.problems=4",
        "stages.both.n=1",
    ),
}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, file name or nothing, text) of every listing of a page."""
    return BLOCK.findall((PAGES / f"{page}.md").read_text(encoding="utf-8"))


class Reader:
    """Follows pages in a folder, each once, and keeps what their commands printed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.printed = folder, dict[str, str]()

    def follow(self, page: str) -> str:
        """Do what the page says, after the pages that it goes on from; return what was printed."""
        for earlier in AFTER[page]:
            self.follow(earlier)
        if page not in self.printed:
            self.printed[page] = ""
            for language, name, text in blocks(page):
                if name:
                    (self.folder / name).write_text(text, encoding="utf-8")
                elif language == "bash":
                    for line in text.splitlines():
                        self.printed[page] += self._do(line)
        return self.printed[page]

    def _do(self, line: str) -> str:
        program, *words = shlex.split(line)
        assert program in ("python", "r1kit"), line
        if program == "r1kit":
            result = CliRunner().invoke(app, [*words, *SMALLER.get(line, ())])
            cannot_learn = words[0] == "preflight" and result.exit_code == 3  # a verdict, not a failure
            if result.exception is not None and result.exit_code != 0 and not cannot_learn:
                raise AssertionError(
                    f"{line}: {result.exit_code}\n{result.output[-3000:]}"
                ) from result.exception
            return result.output
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(self.folder))  # as python does for a script
            shown: list[str] = []
            patch.setattr("builtins.print", lambda *values, **_: shown.append(" ".join(map(str, values))))
            runpy.run_path(words[0], run_name="__main__")
        return "\n".join(shown) + "\n"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("how_to"))


@pytest.fixture(autouse=True)
def in_the_folder(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader.folder)


def metrics(run: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(f"runs/{run}/metrics.jsonl").read_text().splitlines()]


def test_every_page_is_followed() -> None:
    pages = {page.stem for page in PAGES.glob("*.md")} - {"README"}
    assert pages == set(AFTER)
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    assert [page for page in pages if f"({page}.md)" not in index] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", AFTER)
def test_a_page_does_what_it_says(page: str, reader: Reader) -> None:
    printed = reader.follow(page)
    check = CHECKS.get(page)
    if check is not None:
        check(printed)


def says(*texts: str, printed: str) -> None:
    said = " ".join(printed.split())
    assert [text for text in texts if text not in said] == []


def learned(run: str) -> None:
    rows = metrics(run)
    assert [row["step"] for row in rows] == [0, 1] and all("rows" in row for row in rows)
    record = json.loads(Path(f"runs/{run}/stages/r1_zero/stage.json").read_text())
    assert record["config"]["rl"]["at_least"] == 0.9 and record["config"]["grpo"] is None
    assert "my_algo.py:BestOfN" in record["files"]


def own_reward(printed: str) -> None:
    says("my_rewards.py:brevity", printed=printed)
    promised = [
        text.splitlines()[0].partition("; ...")[0] for _, _, text in blocks("data") if "held out prob" in text
    ]
    says(*promised, printed=printed)
    assert promised and any("reward/my_rewards.py:names_a_number/mean" in row for row in metrics("mine"))


def first_reward(printed: str) -> None:
    record = json.loads(Path("runs/pets/stages/r1_zero/stage.json").read_text())
    assert (
        record["config"]["rewards"]["my_reward.py:brief"] == 0.3 and "my_reward.py:brief" in record["files"]
    )
    assert Path("runs/pets/report.md").is_file() and "A cat eats" in printed


def own_family(printed: str) -> None:
    config = json.loads(Path("runs/family/stages/r1_zero/model/config.json").read_text())
    assert config["model_type"] == "centred_llama"


def why_zero(printed: str) -> None:
    """The table of verdicts, and the first line that the page shows."""
    lines = [line for line in printed.splitlines() if line.startswith(("correct", "wrong", "unverifiable"))]
    assert [line.split(" ", 2)[:2] for line in lines] == [
        ["correct", "1.0"], ["correct", "1.0"], ["wrong", "1.0"], ["correct", "0.0"], ["wrong", "0.0"]
    ]  # fmt: skip
    shown = next(text for language, _, text in blocks("why-zero") if language == "text")
    assert shown.strip() in printed


def two_runs(printed: str) -> None:
    figures = json.loads(Path("runs/pets/stages/both/report.json").read_text())["models"]
    assert set(figures) == {"with_it", "without"}
    given = {
        name: json.loads(Path(f"runs/pets/stages/{name}/stage.json").read_text())
        for name in ("r1_zero", "without")
    }
    different = {
        key for key, value in given["r1_zero"]["config"].items() if given["without"]["config"][key] != value
    }
    assert (
        different == {"name", "seed_of", "rewards"} and given["r1_zero"]["seed"] == given["without"]["seed"]
    )


def measured(printed: str) -> None:
    rows = Path("out/half/half.jsonl").read_text().splitlines()
    assert len(rows) == 1 + 6 and "Halves" in printed


def launched(printed: str) -> None:
    says("torchrun", "#SBATCH --nodes=2", printed=printed)


CHECKS = {
    "reward": own_reward,
    "task": lambda printed: says("parity", "whole_test", printed=printed),
    "benchmark": measured,
    "model-family": own_family,
    "first-reward": first_reward,
    "why-zero": why_zero,
    "pages": lambda printed: says("advantage", printed=printed),
    "findings": two_runs,
    "cluster": launched,
    "algorithm": lambda printed: learned("best-of-n"),
    "engine": lambda printed: learned("own-engine"),
    "runtime": lambda printed: learned("own-runtime"),
}


def test_error_messages_on_the_page_are_those_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (PAGES / "data.md").read_text(encoding="utf-8")
    good = '{"question": "a", "answer": "1"}\n'
    for line, bad in (
        (3, '{"question": "a" "answer": 1}\n'),
        (9, '{"question": "a", "answer": "It is\\nso."}\n'),
    ):
        (tmp_path / "train.jsonl").write_text(good * (line - 1) + bad)
        with pytest.raises(R1kitError) as error:
            Dataset("pens", train="train.jsonl").problems("train")
        assert str(error.value).splitlines()[0] in page.splitlines()
