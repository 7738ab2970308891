"""Rules about the source text itself: shape letters come from one legend, and no modules import in a
circle."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from import_graph import circle, imports, modules_in

import r1kit.types

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "benchmarks")


def legend(text):
    """The letters that a legend explains: a capital, then its meaning, several to an indented line."""
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    return [letter for line in lines for letter in re.findall(r"(?:^ +|  )([A-Z]) (?=[a-z])", line)]


def identifiers(tree):
    """(line, name) of every variable, argument, attribute, function and keyword."""
    for node in ast.walk(tree):
        for field in ("id", "arg", "attr", "name"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield getattr(node, "lineno", 0), name


def unexplained(source, letters):
    """(line, name) of identifiers with a suffix of capitals (``logprobs_BT``) that uses another letter."""
    for line, name in identifiers(ast.parse(source)):
        suffix = re.search(r"(?<=[a-z0-9])_([0-9]*[A-Z][A-Z0-9]*)$", name)
        if suffix and not set(re.sub(r"\d", "", suffix[1])) <= set(letters):
            yield line, name


def test_no_letter_of_the_legend_has_two_meanings():
    repeated = [letter for letter, count in Counter(legend(r1kit.types.__doc__)).items() if count > 1]
    assert not repeated


def test_shape_suffixes_use_the_legends_letters():
    letters = legend(r1kit.types.__doc__)
    assert {"B", "T", "V", "P", "G"} <= set(letters)
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line, name in unexplained(file.read_text(encoding="utf-8"), letters)
    ]
    assert not wrong, "give the letters a meaning in types.py, or use its letters:\n" + "\n".join(wrong)


def test_the_check_of_suffixes_finds_a_letter_without_meaning():
    small = legend("Letters:\n\n    B lines    T token positions\n    2 is a size\n")
    assert small == ["B", "T"]
    source = "def f(x_BT, y_BQ):\n    self.z_1B = x_BT\n    g(w_TQ=1)\n    return NAME_Q, do_q\n"
    assert sorted(unexplained(source, small)) == [(1, "y_BQ"), (3, "w_TQ")]


def graph(folder):
    """Every module of a folder with those that it imports."""
    modules = modules_in(folder)
    return {
        name: {module for _, module in imports(file, modules, name)} - {name}
        for name, file in modules.items()
    }


@pytest.mark.parametrize("folder", ["src", "benchmarks"])
def test_no_modules_import_each_other_in_a_circle(folder):
    edges = graph(ROOT / folder)
    assert sum(map(len, edges.values())) > 10
    assert circle(edges) == []


def test_a_circle_is_found_also_through_a_string_and_a_function(tmp_path):
    (tmp_path / "one.py").write_text("import two\n")
    (tmp_path / "two.py").write_text("def late():\n    from pack.three import x\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/three.py").write_text("import os\n")
    assert circle(graph(tmp_path)) == []
    (tmp_path / "pack/three.py").write_text("import_module('one')\nNAME = 'pack.four'\n")
    (tmp_path / "pack/four.py").write_text("from one import y\n")
    assert circle(graph(tmp_path)) == ["one", "two", "pack.three", "pack.four", "one"]


def long_functions(source, most):
    """(name, lines) of the functions with more than ``most`` lines, from the first decorator to the last
    line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = (node.end_lineno or first) - first + 1
            if lines > most:
                yield node.name, lines


def test_a_function_can_be_seen_at_once():
    wrong = [
        f"{file.relative_to(ROOT)}: {name} has {lines} lines"
        for file in sorted((ROOT / "src").rglob("*.py"))
        for name, lines in long_functions(file.read_text(encoding="utf-8"), 50)
    ]
    assert not wrong


def test_decorators_and_docstrings_count_as_lines_of_a_function():
    source = 'class A:\n  @first\n  @second\n  def f(self):\n    """One\n    two."""\n    return 1\n'
    assert list(long_functions(source, 5)) == [("f", 6)] and not list(long_functions(source, 6))
