"""Which names of a test text are the program's, by reading the text alone: no program decides what tests
it."""

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence

_OTHER = "(an argument)"  # stands for whatever a function of the tests is called with
_PROGRAM_MODULES = frozenset(
    ("solution", "solutions", "submission", "answer", "candidate", "main", "program", "your_module")
)
_CHECKED = "candidate"  # what HumanEval's check is called with: the entry point


def entry_points(named: str | None) -> list[str]:
    """The names in an entry point, which commas separate."""
    return [] if named is None else [name.strip() for name in named.split(",")]


def free_names(nodes: Sequence[ast.AST]) -> list[str]:
    """Names that a module, of which these are all nodes, reads and neither defines nor finds among the
    builtins, in order of appearance."""
    bound: set[str] = set()
    read: dict[str, None] = {}
    for node in nodes:
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                read.setdefault(node.id)
            else:
                bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return [
        name
        for name in read
        if name not in bound and not hasattr(builtins, name) and name not in ("__name__", "__file__")
    ]


def imports_of_program(body: Sequence[ast.stmt]) -> list[ast.ImportFrom]:
    """The statements that import from the program, as test texts of several data sets do (KodCode: ``from
    solution import add``). Their names are the program's."""
    return [
        statement
        for statement in body
        if isinstance(statement, ast.ImportFrom)
        and (statement.module or "") in _PROGRAM_MODULES
        and not any(name.asname for name in statement.names)
    ]


def functions_under_test(nodes: Sequence[ast.AST], entries: Sequence[str], names: Sequence[str]) -> set[str]:
    """Those of the undefined ``names`` that are tested for themselves, as ``entries`` are: each is only
    called, with arguments that hold nothing of the program, and no statement joins what comes from it with
    what comes from another function of the program."""
    known = {*entries, *names, _CHECKED}
    carried = _carried(nodes, known)
    refused = {name for name in names if _used_without_call(nodes, name)}
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            if _sources(arguments, known, carried):
                refused.add(node.func.id)
        if isinstance(node, ast.stmt):
            sources = _sources(_expressions(node), known, carried)
            refused |= sources.intersection(names) if len(sources) > 1 else set()
    return set(names) - refused


def _expressions(statement: ast.stmt) -> list[ast.AST]:
    """The expressions of a statement itself, without those of the statements inside it."""
    return [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.expr | ast.withitem)]


def _sources(trees: Iterable[ast.AST], known: set[str], carried: dict[str, set[str]]) -> set[str]:
    """The functions of the program whose results expressions hold, directly or by a variable."""
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                found |= carried.get(node.id, {node.id} & known)
    return found


def _carried(nodes: Sequence[ast.AST], known: set[str]) -> dict[str, set[str]]:
    """The functions of the program whose results each variable of the tests may hold."""
    carried: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            carried |= {
                argument.arg: {_OTHER} for argument in every if argument.arg not in ("self", _CHECKED)
            }
    changed = True
    while changed:
        changed = False
        for targets, value in _bindings(nodes):
            sources = _sources([value], known, carried)
            for target in ast.walk(targets):
                if isinstance(target, ast.Name) and not sources <= carried.get(target.id, set()):
                    carried[target.id] = carried.get(target.id, set()) | sources
                    changed = True
    return carried


def _bindings(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(target, value) of every assignment, loop and with."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            yield from ((target, node.value) for target in node.targets)
        elif isinstance(node, ast.AugAssign | ast.NamedExpr | ast.AnnAssign) and node.value is not None:
            yield node.target, node.value
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            yield node.target, node.iter
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            yield node.optional_vars, node.context_expr


def _used_without_call(nodes: Sequence[ast.AST], name: str) -> bool:
    called = {
        id(node.func) for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return any(isinstance(node, ast.Name) and node.id == name and id(node) not in called for node in nodes)
