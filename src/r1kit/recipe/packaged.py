"""The recipes that come with r1kit, by their names: ``r1kit run nano`` works in any folder.

A file of that name always comes first. In an installed package the recipes are in r1kit/recipes, in a
checkout in recipes/."""

from difflib import get_close_matches
from pathlib import Path

from r1kit.config import ConfigError

_HERE = Path(__file__).resolve().parents[1]


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with r1kit, by name."""
    for folder in (_HERE / "recipes", _HERE.parents[1] / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find_recipe(given: Path) -> Path:
    """The file ``given``, or, where there is none and it is a name without a folder and an ending, the recipe
    of that name. Raises ConfigError for a name that is neither."""
    if given.exists() or given.suffix or len(given.parts) != 1:
        return given
    known = packaged_recipes()
    if given.name in known:
        return known[given.name]
    close = get_close_matches(given.name, known, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(
        f"{given}: no such file, and no recipe of that name comes with r1kit.{meant} They are: "
        f"{', '.join(known) or 'none here'}"
    )
