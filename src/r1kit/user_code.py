"""Import user code that a recipe names: ``my_rewards:brevity`` (a module) or ``my_tasks.py:Chess`` (a file).

A file is looked up from the current folder. A module is looked up in the current folder first, then as usual.
"""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from r1kit.config import ConfigError, suggest

_MARK = "imported by r1kit.user_code"  # in a module's specification


def load_name(name: str) -> Any:
    """Import what ``module:attribute`` or ``file.py:attribute`` names. Raises ConfigError saying which half
    is wrong."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ConfigError(f"{name!r} does not name code: write module:attribute or file.py:attribute")
    module = load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    if not hasattr(module, attribute):
        hint = suggest(attribute, dir(module), f"name something that {place} defines")
        raise ConfigError(f"{name}: {place} has no {attribute!r}; {hint}")
    return getattr(module, attribute)


def loaded_files() -> tuple[str, ...]:
    """The files of the user's code that this process has imported, in order."""
    specifications = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    return tuple(str(one.origin) for one in specifications if one is not None and one.loader_state == _MARK)


def load_file(path: Path) -> ModuleType:
    """Import a file of the user's code, once. Raises ConfigError where that fails."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; a file of your own code is looked up from the current folder"
        )
    # One module per file, so that a class imported twice is the same class. The hash in its name keeps a
    # user's json.py from replacing Python's.
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    specification = importlib.util.spec_from_file_location(module_name, path)
    if specification is None or specification.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    specification.loader_state = _MARK
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(module_name, None)
        raise ConfigError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _load_module(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error
