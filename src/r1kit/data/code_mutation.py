"""A program that does the same in other words: other local names, independent statements in another order.

Both are rules on the syntax tree, and neither proves that the program still does the same (a name may be read
through ``locals()``, a call may have an effect), so whoever uses them runs the program's tests again."""

import ast
import builtins
import random
import re
from collections.abc import Iterator, Sequence

from r1kit.data.substitution import UnclearError

# What may be called in a statement that is moved: no effect, and the same result at any time.
PURE = frozenset(
    (
        "abs", "all", "any", "bool", "dict", "enumerate", "float", "frozenset", "int", "len", "list", "max",
        "min", "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
    )
)  # fmt: skip
REFLECTIVE = frozenset(("locals", "globals", "vars", "eval", "exec", "getattr", "setattr", "dir"))
NEW_NAMES = (
    "value", "entry", "result", "current", "place", "found", "amount", "left_part", "right_part", "seen",
    "limit", "step", "rest", "best", "piece", "key_of", "other", "number", "state", "flag",
)  # fmt: skip


def parsed(program: str) -> ast.Module:
    """The program's syntax tree. Raises UnclearError for what is no Python."""
    try:
        return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UnclearError("a program that is no Python") from None


def mutated(program: str, tests: str, rng: random.Random) -> str:
    """The program with other local names, and statements in another order where some are independent.
    ``tests``: their text, whose words keep their names. Raises UnclearError where nothing can be changed."""
    tree = parsed(program)
    renamed = rename(tree, tests, rng)
    moved = reorder(tree, rng)
    if not renamed and not moved:
        raise UnclearError("no local name and no independent statement")
    return ast.unparse(ast.fix_missing_locations(tree))


def rename(tree: ast.Module, tests: str, rng: random.Random) -> dict[str, str]:
    """Give local names of functions new ones, the same in all functions; returns old -> new."""
    every = list(ast.walk(tree))
    names = {node.id for node in every if isinstance(node, ast.Name)}
    if names & REFLECTIVE:
        return {}
    local = sorted(set(_local_names(every)) - _kept_names(tree, every, tests))
    taken = (
        names
        | {node.arg for node in every if isinstance(node, ast.arg)}
        | set(dir(builtins))
        | set(re.findall(r"\w+", tests))
    )
    fresh = [name for name in NEW_NAMES if name not in taken]
    rng.shuffle(fresh)
    fresh += [
        f"{name}_{number}" for number in range(2, 9) for name in NEW_NAMES if f"{name}_{number}" not in taken
    ]
    new = dict(zip(local, fresh, strict=False))
    for node in every:
        if isinstance(node, ast.Name) and node.id in new:
            node.id = new[node.id]
        elif isinstance(node, ast.arg) and node.arg in new:
            node.arg = new[node.arg]
        elif isinstance(node, ast.ExceptHandler) and node.name in new:
            node.name = new[node.name]
    return new


def _local_names(every: Sequence[ast.AST]) -> Iterator[str]:
    """Names that a function binds: arguments, what is assigned in it, loop variables."""
    for node in every:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = node.args
            every_one = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            yield from (one.arg for one in every_one)
            body = node.body if isinstance(node.body, list) else [node.body]
            for inner in body:
                yield from (
                    one.id
                    for one in ast.walk(inner)
                    if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
                )


def _kept_names(tree: ast.Module, every: Sequence[ast.AST], tests: str) -> set[str]:
    """Names that have to stay: of the module, of keyword arguments, of classes' bodies, of the tests."""
    kept = {"self", "cls", *dir(builtins), *re.findall(r"\w+(?=\s*=[^=])", tests)}
    for body in (tree.body, *(node.body for node in every if isinstance(node, ast.ClassDef))):
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                kept.add(statement.name)
            else:
                kept |= {one.id for one in ast.walk(statement) if isinstance(one, ast.Name)}
    for node in every:
        if isinstance(node, ast.keyword) and node.arg:
            kept.add(node.arg)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            kept |= set(node.names)
        elif isinstance(node, ast.alias):
            kept.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or (
            isinstance(node, ast.MatchAs | ast.MatchStar) and node.name
        ):
            kept.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            kept.add(node.rest)
    return kept


def reorder(tree: ast.Module, rng: random.Random) -> int:
    """Exchange neighbouring statements that do not depend on each other; returns how many pairs."""
    moved = 0
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            place = 0
            while place + 1 < len(body):
                if independent(body[place], body[place + 1]) and rng.random() < 0.5:
                    body[place], body[place + 1] = body[place + 1], body[place]
                    moved += 1
                    place += 1
                place += 1
    return moved


def independent(one: ast.stmt, other: ast.stmt) -> bool:
    """Whether two statements in a row can be exchanged: both only define or assign plain names, call nothing
    with an effect, and neither reads or writes what the other writes."""
    if not (_is_plain(one) and _is_plain(other)):
        return False
    if isinstance(one, ast.FunctionDef) and isinstance(other, ast.FunctionDef):
        return one.name != other.name
    writes, reads = _names(one, ast.Store), _names(one, ast.Load)
    other_writes, other_reads = _names(other, ast.Store), _names(other, ast.Load)
    return not (writes & (other_writes | other_reads) or other_writes & reads)


def _is_plain(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.FunctionDef):
        plain = not statement.args.defaults and not any(statement.args.kw_defaults)
        return plain and not statement.decorator_list and statement.returns is None
    if not isinstance(statement, ast.Assign) or not all(map(_is_name, statement.targets)):
        return False
    allowed = (
        ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context, ast.List,
        ast.Tuple, ast.Dict, ast.Set, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.IfExp, ast.Call,
        ast.Starred,
    )  # fmt: skip
    every = list(ast.walk(statement.value))
    calls = [node for node in every if isinstance(node, ast.Call)]
    pure = all(
        isinstance(call.func, ast.Name) and call.func.id in PURE and not call.keywords for call in calls
    )
    return pure and all(isinstance(node, allowed) for node in every)


def _is_name(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) or (
        isinstance(target, ast.Tuple) and all(isinstance(one, ast.Name) for one in target.elts)
    )


def _names(statement: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    if isinstance(statement, ast.FunctionDef):
        if context is ast.Store:
            return {statement.name}
        return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, context)
    }
