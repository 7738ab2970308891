"""Code that a recipe names: ``my_tasks.py:Chess`` (a file) or ``my_rewards:brevity`` (a module).

A file is looked up from the current folder, a module in the current folder first, then as usual. Importing
code runs it, so three rules hold wherever a recipe names code:

- The file is found, parsed and searched for the name before anything is imported. What is not there, or has
  another form than its key needs (``Shape``), is not imported.
- Only code that is written for r1kit is accepted: Python that defines the name itself, outside Python's
  standard library, with the parameters or methods of its key. It is never called to find that out.
- Within ``imports(False)``, which is how commands that only look at a recipe work, nothing is imported; a
  stand-in takes the code's place."""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from r1kit.config import ConfigError, R1kitError, suggest

ANY = "**"  # in a list of parameters: any others may follow

_NAME = re.compile(r"(?P<place>[^\n\r\0]+\.py|[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")
_MARK = "imported by r1kit.user_code"  # in a module's specification
_PACKAGES = ("site-packages", "dist-packages")  # folders of installed packages

# Validators deep in a configuration load names, where no argument reaches. The value lasts for a ``with``.
_imports: ContextVar[bool] = ContextVar("imports", default=True)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the code under a key of a recipe has to be.

    ``what`` names it ("a reward") and ``form`` says how to write it, both for messages. A function needs
    the parameters of one of ``functions`` in this order (with ``ANY`` in front in any order, or only
    ``**columns``; with ``ANY`` at the end also others), and has to ``yield`` where ``yields`` says so; a
    class has to pass ``is_class``, anything else ``is_object``. Where one of the three is missing, nothing
    of that sort fits. ``stand_in`` is what ``load_name`` returns where nothing is imported; by default a
    function that cannot be called."""

    what: str
    form: str
    functions: tuple[tuple[str, ...], ...] = ()
    yields: bool = False
    is_class: Callable[[type], bool] | None = None
    is_object: Callable[[Any], bool] | None = None
    stand_in: Any = None


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of code that was found and not imported: its name in the recipe, its file and what it is called
    there."""

    name: str
    file: Path
    attribute: str

    def sha256(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()


@contextlib.contextmanager
def imports(allowed: bool) -> Iterator[None]:
    """Whether ``load_name`` imports what it is given within this block, or checks it without importing."""
    token = _imports.set(allowed)
    try:
        yield
    finally:
        _imports.reset(token)


def are_imported() -> bool:
    """Whether ``load_name`` imports code here."""
    return _imports.get()


def is_name(text: str) -> bool:
    """Whether a text has the form of a name of code. ``load_name`` takes no other."""
    return _NAME.fullmatch(text) is not None


def load_name(name: str, shape: Shape) -> Any:
    """Import what ``module:attribute`` or ``file.py:attribute`` names and check that it has the shape. Where
    nothing is imported, check it as ``find_code`` does and return the stand-in. Raises ConfigError saying
    what is wrong with the name or with the code."""
    code = find_code(name, shape)
    if not are_imported():
        return _uncallable(name) if shape.stand_in is None else shape.stand_in
    place = name.rpartition(":")[0]
    module = load_file(code.file) if place.endswith(".py") else _load_module(place, code.file)
    if not hasattr(module, code.attribute):
        raise ConfigError(f"{name}: {place} has no {code.attribute!r} after its import")
    found = getattr(module, code.attribute)
    if wrong := _misfit(found, shape) or _foreign(found, module, code):
        raise ConfigError(f"{name}: {wrong}")
    return found


def find_code(name: str, shape: Shape | None = None) -> Code:
    """Find the code that a name names, without importing anything: its file exists, is Python, and defines
    it, in the shape, as far as the text of the file shows. Raises ConfigError saying what is wrong."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"{name!r} does not name code: write module:attribute or file.py:attribute")
    place, attribute = match["place"], match["attribute"]
    code = Code(name, _existing_file(place), attribute)
    tree = _parsed(code.file)
    found = _definition(tree, attribute)
    if isinstance(found, Missing):
        hint = suggest(attribute, found.defined, f"name something that {place} defines")
        raise ConfigError(f"{name}: {place} has no {attribute!r}; {hint}")
    if shape is not None and (wrong := _misfit_of_text(found, shape)):
        raise ConfigError(f"{name}: {wrong}")
    return code


def code_file(name: str) -> Path | None:
    """The file of the code that a text names, without importing anything; None where there is none."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return _existing_file(match["place"])
    except ConfigError:
        return None


def loaded_files() -> tuple[str, ...]:
    """The files of the user's code that this process has imported, in order."""
    specifications = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    return tuple(str(one.origin) for one in specifications if one is not None and one.loader_state == _MARK)


def load_file(path: Path) -> ModuleType:
    """Import a file of the user's code, once. Raises ConfigError where that fails."""
    path = _existing_file(str(path))
    # One module per file, so that a class imported twice is the same class. The hash in its name keeps a
    # user's json.py from replacing Python's.
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    if not are_imported():
        raise R1kitError(f"{path}: code is not imported here; --trust imports it")
    loader = _SourceLoader(module_name, str(path))
    specification = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    if specification is None:
        raise ConfigError(f"{path}: not a Python file")
    specification.loader_state = _MARK
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(module_name, None)
        raise ConfigError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def takes(function: Any, *parameters: str) -> bool:
    """Whether a function can be called with this many positional arguments, and no others."""
    try:
        inspect.signature(function).bind(*parameters)
    except (TypeError, ValueError):
        return False
    return True


class _SourceLoader(SourceFileLoader):
    """Runs the text of the file itself, never a compiled copy in ``__pycache__``, which may come from
    elsewhere."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def _uncallable(name: str) -> Callable[..., Any]:
    def not_imported(rollouts: Any = None, **others: Any) -> Any:
        raise R1kitError(f"{name} was not imported; --trust imports it")

    return not_imported


def _existing_file(place: str) -> Path:
    """The file of a module or a path. Raises ConfigError where there is none, or where it is Python's own."""
    if not place.endswith(".py"):
        file = _module_file(place)
        if file is None:
            raise ConfigError(
                f"module {place!r} cannot be imported: no Python file has that name, in the current folder "
                "or among the installed packages"
            )
        return file
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; a file of your own code is looked up from the current folder"
        )
    if _in_standard_library(path):
        raise _standard_library(place)
    return path


def _standard_library(place: str) -> ConfigError:
    return ConfigError(
        f"{place} is part of Python's standard library, which has no code for a recipe: name a file of your "
        "own (file.py:name)"
    )


def _in_standard_library(path: Path) -> bool:
    folders = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")}
    return any(path.is_relative_to(folder) for folder in folders) and not set(_PACKAGES) & set(path.parts)


def _module_file(name: str) -> Path | None:
    """The source file of a module. The packages around it are looked up and not imported."""
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names or parts[0] in sys.builtin_module_names or parts[0] == "__main__":
        raise _standard_library(name)
    specification = PathFinder.find_spec(parts[0], [str(Path.cwd())])
    if specification is None or specification.origin is None:
        with contextlib.suppress(ImportError, ValueError):
            specification = importlib.util.find_spec(parts[0])
    for depth in range(2, len(parts) + 1):
        if specification is None or specification.submodule_search_locations is None:
            return None
        inside = list(specification.submodule_search_locations)
        specification = PathFinder.find_spec(".".join(parts[:depth]), inside)
    origin = specification.origin if specification is not None and specification.has_location else None
    return Path(origin).resolve() if origin is not None and origin.endswith(".py") else None


def _load_module(name: str, file: Path) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: a file of the folder must not replace a library
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    other = Path(getattr(module, "__file__", None) or "").resolve()
    if other != file:
        raise ConfigError(
            f"module {name!r}: {file} has the name of another module, {other}; rename it, "
            f"or write {file.name}:..."
        )
    return module


def _parsed(file: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the text of someone else's file
            return ast.parse(file.read_bytes(), str(file))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        why = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise ConfigError(f"{file}{line}: cannot be imported: not Python ({why})") from None


@dataclass(frozen=True, slots=True)
class Missing:
    """A file does not define a name; ``defined`` are those that it does define."""

    defined: tuple[str, ...]


def _definition(tree: ast.Module, name: str) -> ast.AST | Missing | None:
    """What defines a name at the top of a file; None where the text does not show it (``import *``)."""
    found: dict[str, ast.AST] = {}
    unclear = False
    waiting: list[ast.AST] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            unclear |= node.name == "__getattr__"
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            unclear |= any(alias.name == "*" for alias in node.names)
            found |= {alias.asname or alias.name.partition(".")[0]: node for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node.value for target in targets if isinstance(target, ast.Name)}
            waiting += [target for target in targets if not isinstance(target, ast.Name)]
        elif not isinstance(node, ast.Lambda):
            waiting += reversed(list(ast.iter_child_nodes(node)))
    if name in found:
        return found[name]
    return None if unclear else Missing(tuple(found))


def _misfit_of_text(node: ast.AST | None, shape: Shape) -> str:
    """What is wrong with a definition as far as its text shows, empty where nothing is."""
    if isinstance(node, ast.ClassDef):
        return "" if shape.is_class or node.decorator_list else _wrong("a class", shape)
    if isinstance(node, ast.Constant):
        return _wrong(f"the value {node.value!r:.40}", shape)
    if isinstance(node, ast.Lambda):
        return _wrong_function(_parameters_of_text(node.args), shape)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
        return _wrong_function(_parameters_of_text(node.args), shape)
    return ""


def _misfit(found: Any, shape: Shape) -> str:
    """What is wrong with an imported object, empty where it has the shape. Nothing of it is called."""
    if isinstance(found, type):
        fits = shape.is_class is not None and shape.is_class(found)
        return "" if fits else _wrong("a class" if shape.is_class is None else "another class", shape)
    if inspect.isfunction(found):
        if shape.yields and not _yields(found):
            return _wrong("a function that does not yield", shape)
        return _wrong_function(list(inspect.signature(found).parameters.values()), shape)
    if inspect.isbuiltin(found) or inspect.ismodule(found):
        return _wrong("a module" if inspect.ismodule(found) else "a function that is not Python", shape)
    fits = shape.is_object is not None and shape.is_object(found)
    return "" if fits else _wrong(f"an object of the type {type(found).__name__}", shape)


def _yields(found: Any) -> bool:
    said = str(found.__annotations__.get("return", ""))
    return inspect.isgeneratorfunction(found) or any(word in said for word in ("Iter", "Generator"))


def _wrong(found: str, shape: Shape) -> str:
    return f"this is {found}; {shape.what} is {shape.form}"


def _wrong_function(given: Sequence[inspect.Parameter], shape: Shape) -> str:
    if not shape.functions:
        return _wrong("a function", shape)
    if any(_fits(given, names) for names in shape.functions):
        return ""
    return _wrong(f"a function ({', '.join(one.name for one in given)})", shape)


def _fits(given: Sequence[inspect.Parameter], names: Sequence[str]) -> bool:
    """Whether parameters have these names, and none is needed beyond them."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [name for name in names if name != ANY]
    if names[0] == ANY:
        by_name = [one.name for one in given if one.kind is not inspect.Parameter.POSITIONAL_ONLY]
        takes_all = [one.kind for one in given] == [inspect.Parameter.VAR_KEYWORD]
        return takes_all or set(wanted) <= set(by_name)
    positional = [one for one in given if one.kind not in (*variable, inspect.Parameter.KEYWORD_ONLY)]
    first = positional[: len(wanted)]
    needed = [
        one
        for one in given
        if one.kind not in variable and one not in first and one.default is inspect.Parameter.empty
    ]
    return [one.name for one in first] == wanted and (names[-1] == ANY or not needed)


def _parameters_of_text(arguments: ast.arguments) -> list[inspect.Parameter]:
    kinds = inspect.Parameter
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = len(positional) - len(arguments.defaults)
    found = [
        kinds(
            one.arg,
            kinds.POSITIONAL_ONLY if place < len(arguments.posonlyargs) else kinds.POSITIONAL_OR_KEYWORD,
            default=kinds.empty if place < needed else None,
        )
        for place, one in enumerate(positional)
    ]
    if arguments.vararg:
        found.append(kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(kinds(one.arg, kinds.KEYWORD_ONLY, default=kinds.empty if default is None else None))
    if arguments.kwarg:
        found.append(kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD))
    return found


def _foreign(found: Any, module: ModuleType, code: Code) -> str:
    """Why a function or class is not the named file's own, empty where it is: defined there, in the same
    package, or in a file of the same folder."""
    if not (isinstance(found, type) or inspect.isfunction(found)):
        return ""
    home = str(getattr(found, "__module__", ""))
    if home.partition(".")[0] == module.__name__.partition(".")[0]:
        return ""
    with contextlib.suppress(TypeError, OSError):
        source = Path(inspect.getsourcefile(found) or "").resolve()
        own = source.is_relative_to(code.file.parent) and not set(_PACKAGES) & set(source.parts)
        if own and not _in_standard_library(source):
            return ""
    return f"it is defined in {home}, not in {code.file.name}; name the file or module that defines it"
