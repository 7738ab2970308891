"""The documentation: commands, links and anchors (docs/check_docs.py), and the site (docs/site_hooks.py)."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import check_docs
import driving
import pytest
import site_hooks
import yaml
from check_docs import Command

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


PAGES = check_docs.pages()
name_of = {page: str(page.relative_to(ROOT)) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=name_of.get)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert check_docs.dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of.get)
def test_every_command_is_one(page: Path) -> None:
    found = [(one.line, check_docs.check(one)[1]) for one in check_docs.commands(page)]
    assert [(line, fault) for line, fault in found if fault] == []


def test_the_pages_have_commands() -> None:
    ways = [check_docs.check(one)[0] for page in PAGES for one in check_docs.commands(page)]
    assert ways.count("parsed") + ways.count("run") > 150 and ways.count("named") < len(ways) / 3


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("r1kit rnu mini", "no command 'rnu'"),
        ("r1kit run mini --frsh", "--frsh"),
        ("r1kit run recipes/mini.yaml stages.r1_zero.grpo.stepps=1", "did you mean 'steps'"),
        ("make minni", "no target minni"),
        ("python benchmarks/absent.py", "no such file"),
        ("python benchmarks/pictures.py --onlly board", "no option --onlly"),
        ("cd runs && r1kit shwo mini", "no command 'shwo'"),
        ("frobnicate x", "does not know"),
        ("R1KIT_DEBUG=1 make minni", "no target minni"),
        ("./absent.sh", "no such file"),
    ],
)
def test_a_wrong_command_is_found(line: str, fault: str) -> None:
    assert fault in check_docs.check(Command("README.md", line, "sh"))[1]


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("r1kit run mini --fresh", "parsed"),
        ("r1kit show mini", "run"),
        ("make mini CHANGES=\"seed=1\"", "parsed"),
        ("python benchmarks/pictures.py --only board", "parsed"),
        ("pip install x; r1kit doctor", "run"),
        ("git clone ADDRESS", "named"),
        ("python -c \"a; b\"", "named"),
    ],
)  # fmt: skip
def test_a_right_command_is_accepted(line: str, way: str) -> None:
    assert check_docs.check(Command("README.md", line, "sh")) == (way, "")


def test_dead_links_are_found_and_live_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text(
        "# A title: with `code`\n\n## Two words\n\n## Two words\n\n```\n# no heading\n```\n"
    )
    page = tmp_path / "a.md"
    page.write_text(
        "# Here\n[1](b.md) [2](b.md#a-title-with-code) [3](b.md#two-words-1) [4](#here) [5](https://x.org)\n"
        "`[6](c.md)`\n"
    )
    assert check_docs.dead_links(page) == []
    page.write_text("[1](c.md) [2](b.md#no-heading) [3](#there)\n")
    assert [one.partition(": ")[0] for one in check_docs.dead_links(page)] == [
        "c.md",
        "b.md#no-heading",
        "#there",
    ]


# The site


def navigation() -> list[str]:
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    found: list[str] = []

    def visit(entry: object) -> None:
        if isinstance(entry, str):
            found.append(entry)
        elif isinstance(entry, dict):
            for value in entry.values():
                visit(value)
        elif isinstance(entry, list):
            for value in entry:
                visit(value)

    visit(yaml.safe_load(text)["nav"])
    return found


def test_every_page_and_lesson_is_in_the_navigation_once() -> None:
    files = [str(page.relative_to(ROOT)) for page in [*DOCS.rglob("*.md"), *DOCS.glob("tutorial/[0-9]*.py")]]
    expected = {
        site_hooks.site_place(name)
        for name in [*files, "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
    }
    places = navigation()
    assert set(places) == expected and len(places) == len(set(places)), set(places) ^ expected


def test_a_place_leads_back_to_its_file() -> None:
    for name in (
        "README.md",
        "SECURITY.md",
        "docs/stages/r1_zero.md",
        "docs/tutorial/03_grpo_from_scratch.py",
    ):
        assert site_hooks.source_of(site_hooks.site_place(name)) == name


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](../src/r1kit/log.py)", "[a](repository/src/r1kit/log.py.txt)"),
        ("[`b`](stages.md#x)", "[`b`](stages.md#x)"),
        ("[c](https://x.org)", "[c](https://x.org)"),
        ("`[d](../README.md)`", "`[d](../README.md)`"),
        ("[e `code` e](../README.md)", "[e `code` e](index.md)"),
        ("[f](absent.md)", "[f](absent.md)"),
    ],
)
def test_links_are_rewritten_and_code_is_not(link: str, expected: str) -> None:
    text, made = f"Before {link} after.", f"Before {expected} after."
    assert site_hooks.rewritten(text, "docs/ui.md", "ui.md") == made


def test_links_of_the_first_page_lead_into_the_site() -> None:
    assert (
        site_hooks.rewritten("[x](docs/how-to/README.md)", "README.md", "index.md") == "[x](how-to/README.md)"
    )


def test_a_picture_has_its_dark_companion_in_the_site_where_there_is_one() -> None:
    assert site_hooks.light_and_dark("![A b](../pictures/board-light.png)", "how-to/pages.md") == (
        "![A b](../pictures/board-light.png#only-light)![A b](../pictures/board-dark.png#only-dark)"
    )
    for alone in ("![A](pictures/absent-light.png)", "[A](pictures/board-light.png)", "![A](pictures/a.png)"):
        assert site_hooks.light_and_dark(alone, "ui.md") == alone


def drawings() -> list[Path]:
    return sorted((DOCS / "figures").glob("*.svg"))


@pytest.mark.parametrize("drawing", drawings(), ids=lambda file: file.stem)
def test_every_drawing_has_a_ground_and_colours_for_light_and_dark(drawing: Path) -> None:
    text = drawing.read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in text and re.search(
        r"<rect width=\"\S+\" height=\"\S+\" fill=", text
    )


def test_a_lesson_becomes_a_page() -> None:
    made = site_hooks.lesson(
        "# ---\n# jupyter: x\n# ---\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n"
    )
    assert made == "# Title\n\nText.\n\n```python\nx = 1\n```\n"


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml")
    made = site_hooks.formulas("of $x^2$ and $$\\frac{a}{b}$$ but not `$HOME`")
    assert made.count("<math") == 2 and "<mfrac>" in made and "`$HOME`" in made and "$$" not in made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: make docs-check has it (pip install 'r1kit[docs]')")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    loads = re.compile(
        r"<(?:script|img|iframe|source|video)[^>]+src=\"?(?:https?:)?//|<link[^>]+href=\"?(?:https?:)?//|@import|url\([\"']?(?:https?:)?//"
    )
    files = [*pages, *site.rglob("*.css")]
    canonical = re.compile(r"<link rel=\"?canonical[^>]*>")
    outside = [
        str(file) for file in files if loads.search(canonical.sub("", file.read_text(encoding="utf-8")))
    ]
    assert len(pages) > 60 and outside == []
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    assert "curriculum" in index and "tutorial/04_r1_zero.html" in index


@pytest.mark.slow
@pytest.mark.skipif(bool(driving.missing()), reason=driving.missing())
def test_the_search_finds_pages_in_a_browser_and_nothing_for_no_word(site: Path) -> None:
    with (
        driving.served_files(site) as address,
        driving.chromium() as browser,
        driving.visitor(browser, address) as page,
    ):
        page.goto(f"{address}/index.html")
        field, hits = page.locator("input.md-search__input"), page.locator(".md-search-result__link")
        field.press_sequentially("qqxzqv")  # the search reads its field when a key comes up
        page.get_by_text("No matching documents").wait_for()
        assert hits.count() == 0
        field.fill("")
        field.press_sequentially("annotator")
        hits.first.wait_for()
        found = {hit.get_attribute("href").partition("?")[0] for hit in hits.all()}
        assert any(place.endswith(("stages/label.html", "feedback.html")) for place in found), found
        hits.first.click()
        page.wait_for_url("**/*.html?h=*")
        assert "annotator" in page.locator("article").inner_text().lower()
