"""Which modules import which, read from their text: import statements and module names in strings."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def modules_in(folder: Path, package: str = "") -> dict[str, Path]:
    """Every module below a folder by its dotted name; a package's __init__ has the package's name."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        name = ".".join([*([package] if package else []), *parts])
        if name:
            found[name] = file
    return found


def imports(file: Path, known: Iterable[str], name: str = "") -> Iterator[tuple[int, str]]:
    """(line, module) of every known module that a file imports, within functions too.

    A string that is a known dotted name, alone or before ":", counts: importlib could be given it."""
    known = frozenset(known)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name, file)
            wanted = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names
            ]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.fullmatch(r"([A-Za-z_]\w*(?:\.\w+)+)(?::[\w.]+)?", node.value)
            wanted = [match[1]] if match and match[1] in known else []
        else:
            continue
        for module in wanted:
            nearest = _nearest(module, known)
            if nearest:
                yield node.lineno, nearest


def _absolute(node: ast.ImportFrom, name: str, file: Path) -> str:
    """The module that an import statement names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    parts = parts[: len(parts) - node.level + (file.name == "__init__.py")]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _nearest(module: str, known: frozenset[str]) -> str:
    """The known module that a dotted name leads to: itself, or the nearest one around it."""
    while module and module not in known:
        module = module.rpartition(".")[0]
    return module


def circle(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle of a graph, its first node repeated at the end; empty if there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        path.append(node)
        for following in sorted(edges.get(node, ())):
            if found := visit(following):
                return found
        path.pop()
        done.add(node)
        return []

    return next((found for node in sorted(edges) if (found := visit(node))), [])
