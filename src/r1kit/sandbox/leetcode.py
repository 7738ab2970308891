"""What LeetCode's runner gives a program with ``class Solution`` before it runs: modules, their names, node
types; and lists and trees as LeetCode writes them, [1, 2, 3] and [4, 2, 7, null, 3], for nodes.

Such a program is written without imports. Any other program gets nothing: there ``List`` without an import is
the NameError that Python raises. No name of Python's own is replaced (``pow`` stays)."""

import builtins
import importlib
import inspect
import itertools
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_SOLUTION = re.compile(r"^class Solution\b", re.MULTILINE)
_MODULES = (
    "bisect",
    "collections",
    "copy",
    "datetime",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "sys",
    "typing",
)
_NODE = re.compile(r"\b(ListNode|TreeNode)\b")
_SEVERAL = re.compile(r"(?:typing\.)?(?:List|Sequence|Iterable)\[|list\[")
NODES = ("ListNode", "TreeNode")
MOST_NODES = 1_000_000
_OPENED = ("typing", "collections", "itertools", "functools", "heapq", "bisect", "math")


class ListNode:
    """A node of a linked list."""

    def __init__(self, val: Any = 0, next: "ListNode | None" = None) -> None:
        self.val = val
        self.next = next


class TreeNode:
    """A node of a binary tree."""

    def __init__(self, val: Any = 0, left: "TreeNode | None" = None, right: "TreeNode | None" = None) -> None:
        self.val = val
        self.left = left
        self.right = right


def names_for(program: str) -> dict[str, Any]:
    """The names that a program finds defined: none without ``class Solution``."""
    if not _SOLUTION.search(program):
        return {}
    modules = {name: importlib.import_module(name) for name in _MODULES}
    found: dict[str, Any] = {}
    for module in _OPENED:
        public = getattr(modules[module], "__all__", None) or dir(modules[module])
        found |= {name: getattr(modules[module], name) for name in public if not name.startswith("_")}
    kept = {
        name: value
        for name, value in found.items()
        if not hasattr(builtins, name) and not isinstance(value, types.ModuleType)
    }
    return {**kept, **modules, "ListNode": ListNode, "TreeNode": TreeNode}


def written_as_list(node: Any) -> list[Any]:
    """A linked list's values, or a tree's by level with None for a child that is missing. Raises ValueError
    for more than MOST_NODES of them, as in a circle."""
    found: list[Any] = []
    if type(node).__name__ == "ListNode":
        while node is not None and len(found) <= MOST_NODES:
            found.append(node.val)
            node = node.next
    else:
        waiting = deque([node])
        while waiting and len(found) <= MOST_NODES:
            node = waiting.popleft()
            found.append(None if node is None else node.val)
            waiting.extend(() if node is None else (node.left, node.right))
        while found and found[-1] is None:
            found.pop()
    if len(found) > MOST_NODES:
        raise ValueError(f"a list or tree of more than {MOST_NODES} nodes")
    return found


def made_of_nodes(kind: str, values: Iterable[Any], names: Mapping[str, Any]) -> Any:
    """The linked list or tree that ``values`` write, of the program's own class where it has one."""
    make = names[kind]
    left = iter(values)
    if kind == "ListNode":
        nodes = [make(value) for value in left]
        for node, following in itertools.pairwise(nodes):
            node.next = following
        return nodes[0] if nodes else None
    root = next(left, None)
    root = None if root is None else make(root)
    waiting = deque([root] if root is not None else [])
    while waiting:
        node = waiting.popleft()
        for side in ("left", "right"):
            value = next(left, None)
            if value is not None:
                setattr(node, side, make(value))
                waiting.append(getattr(node, side))
    return root


def taking_lists(method: Callable[..., Any], names: Mapping[str, Any], plain: bool) -> Callable[..., Any]:
    """A method that takes lists for the nodes of its annotations. It then returns lists for nodes too, and
    always if ``plain``."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return method
    texts = {name: str(parameter.annotation) for name, parameter in signature.parameters.items()}
    returned = str(signature.return_annotation)
    if not any(map(_NODE.search, (*texts.values(), returned))):
        return method

    def call(*arguments: Any, **keywords: Any) -> Any:
        bound = signature.bind(*arguments, **keywords)
        given = dict(bound.arguments)
        for name, value in given.items():
            bound.arguments[name] = _with_nodes(texts[name], value, names)
        result = method(*bound.args, **bound.kwargs)
        changed = any(bound.arguments[name] is not value for name, value in given.items())
        return _without_nodes(returned, result) if plain or changed else result

    return call


def _with_nodes(annotation: str, value: Any, names: Mapping[str, Any]) -> Any:
    kind = _NODE.search(annotation)
    if kind is None or not isinstance(value, list):
        return value
    if _SEVERAL.search(annotation):
        return [made_of_nodes(kind[0], one, names) if isinstance(one, list) else one for one in value]
    return made_of_nodes(kind[0], value, names)


def _without_nodes(annotation: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nodes("", one) for one in value]
    if type(value).__name__ in NODES:
        return written_as_list(value)
    return [] if value is None and _NODE.search(annotation) and not _SEVERAL.search(annotation) else value
