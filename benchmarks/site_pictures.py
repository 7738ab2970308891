"""Pictures of the documentation site (make docs), light and dark, wide and narrow, to be looked at; and what
its pages ask of the network, which has to be nothing.

    python benchmarks/site_pictures.py [--to FOLDER]        # needs the extra browser, and Chromium

It fails where a page asks for an address outside of the site, or the search finds nothing."""

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from driving import chromium, served_files, visitor

SITE = ROOT / "build/site"
PAGES = ("index", "how-to/first-reward", "recipe-keys", "tutorial/03_grpo_from_scratch", "stages/r1_zero")
SIZES = {"wide": (1280, 900), "narrow": (400, 860)}


def look(browser: Any, address: str, to: Path) -> int:
    """Take the pictures; return how many pages a search finds. Raises AssertionError for a request that
    leaves the site, and for an error in a page's scripts."""
    found = 0
    for mode in ("dark", "light"):
        for name, (width, height) in SIZES.items():
            size = {"width": width, "height": height}
            with visitor(browser, address, viewport=size, color_scheme=mode) as page:
                for place in PAGES:
                    page.goto(f"{address}/{place}.html", timeout=300_000, wait_until="domcontentloaded")
                    page.wait_for_timeout(1500)  # styles and figures
                    page.screenshot(path=to / f"{place.replace('/', '-')}-{mode}-{name}.png")
                if name == "wide":
                    page.locator("input.md-search__input").press_sequentially("curriculum")
                    page.locator(".md-search-result__item").first.wait_for()
                    found = page.locator(".md-search-result__item").count()
                    page.wait_for_timeout(300)
                    page.screenshot(path=to / f"search-{mode}.png")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--to", type=Path, default=ROOT / "build/site-pictures")
    to = parser.parse_args().to
    to.mkdir(parents=True, exist_ok=True)
    with served_files(SITE) as address, chromium() as browser:
        found = look(browser, address, to)
    print(f"{to}: pictures; the search finds {found} pages; nothing was asked outside of the site")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
