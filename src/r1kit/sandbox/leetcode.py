"""What LeetCode's runner gives a program with ``class Solution`` before it runs: modules, their names, node
types.

Such a program is written without imports. Any other program gets nothing: there ``List`` without an import is
the NameError that Python raises. No name of Python's own is replaced (``pow`` stays)."""

import builtins
import importlib
import re
import types
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
