"""Programs and tests as people write them: ways to read and print, LeetCode's lists and trees, test texts of
many styles. Right ones and their near misses; each goes through a file and an answer, as in a run."""
# ruff: noqa: E501 - one case, one entry

import json
import sys
from typing import Any

import pytest

from r1kit.tasks import Dataset

CASES: dict[str, tuple[dict[str, Any], str, str]] = {}


def case(name: str, row: dict[str, Any], program: str, outcome: str = "correct") -> None:
    assert name not in CASES
    CASES[name] = row, program, outcome


def py(program: str) -> str:
    return f"Here it is:\n```python\n{program}\n```"


def S(given: str, printed: str, **more: Any) -> dict[str, Any]:
    return {"tests": [{"stdin": given, "stdout": printed}], **more}


sys.set_int_max_str_digits(0)
# stdin/stdout
case("crlf in", S("1\r\n2\r\n", "3\n"), py("print(int(input())+int(input()))"))
case("crlf out", S("1\n", "1\r\n2\r\n"), py("print(1);print(2)"))
case("crlf printed", S("1\n", "1\n2\n"), py("print('1\\r\\n2\\r')"))
case("trailing sp", S("", "1 2 \n3\n\n\n"), py("print('1 2');print(3)"))
case("leading blank lines", S("", "1\n"), py("print();print(1)"), "wrong")
case("blank line between", S("", "1\n\n2\n"), py("print(1);print();print(2)"))
case("blank missing", S("", "1\n\n2\n"), py("print(1);print(2)"), "wrong")
case("inner double spaces", S("", "1 2\n"), py("print('1  2')"), "wrong")
case("tab vs space", S("", "1 2\n"), py("print('1\\t2')"), "wrong")
case("bom stdin", S("\ufeff5\n", "5\n"), py("print(int(input().lstrip('\\ufeff')))"))
case("bom stdin plain int", S("\ufeff5\n", "5\n"), py("print(int(input()))"))
case("bom expected", S("", "\ufeff5\n"), py("print(5)"))
case("bom program", S("", "5\n"), "```python\n\ufeffprint(5)\n```")
case(
    "main guard",
    S("2 3\n", "5\n"),
    py(
        "def main():\n    a,b=map(int,input().split())\n    print(a+b)\nif __name__ == '__main__':\n    main()"
    ),
)
case("main never called", S("2 3\n", "5\n"), py("def main():\n    print(5)"), "wrong")
case(
    "eof loop",
    S("1\n2\n3", "6\n"),
    py("s=0\nwhile True:\n    try:\n        s+=int(input())\n    except EOFError:\n        break\nprint(s)"),
)
case("for line in stdin", S("1\n2\n3\n", "6\n"), py("import sys\nprint(sum(int(l) for l in sys.stdin))"))
case("buffer", S("1 2 3", "6\n"), py("import sys\nprint(sum(map(int,sys.stdin.buffer.read().split())))"))
case(
    "buffer readline",
    S("1 2 3\n", "6\n"),
    py("import sys\ninput=sys.stdin.buffer.readline\nprint(sum(map(int,input().split())))"),
)
case(
    "os.read",
    S("1 2 3\n", "6\n"),
    py("import os\nprint(sum(map(int,os.read(0,os.fstat(0).st_size).split())))"),
)
case("open(0)", S("1 2 3\n", "6\n"), py("print(sum(map(int,open(0).read().split())))"))
case(
    "io.BytesIO fast",
    S("1 2 3\n", "6\n"),
    py(
        "import sys,io,os\ninput=io.BytesIO(os.read(0,os.fstat(0).st_size)).readline\nprint(sum(map(int,input().split())))"
    ),
)
case(
    "fileinput",
    S("1 2 3\n", "6\n"),
    py("import fileinput\nfor l in fileinput.input(): print(sum(map(int,l.split())))"),
)
case(
    "mmap",
    S("1 2 3\n", "6\n"),
    py("import mmap\nm=mmap.mmap(0,0,access=mmap.ACCESS_READ)\nprint(sum(map(int,m[:].split())))"),
)
case("/dev/stdin", S("1 2 3\n", "6\n"), py("print(sum(map(int,open('/dev/stdin').read().split())))"))
case("stdout.write", S("", "a\nb\n"), py("import sys\nsys.stdout.write('a\\nb')"))
case("stdout.buffer", S("", "a\n"), py("import sys\nsys.stdout.buffer.write(b'a\\n')"))
case("os.write", S("", "a\n"), py("import os\nos.write(1,b'a\\n')"))
case(
    "recursion thread",
    S("", "50000\n"),
    py(
        "import sys,threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(64<<20)\ndef f(n): return 0 if n==0 else 1+f(n-1)\ndef main(): print(f(50000))\nt=threading.Thread(target=main);t.start();t.join()"
    ),
)
case(
    "recursion main",
    S("", "20000\n"),
    py("import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n==0 else 1+f(n-1)\nprint(f(20000))"),
)
case(
    "stack_size 256",
    S("", "1\n"),
    py(
        "import sys,threading\nthreading.stack_size(2**27)\nsys.setrecursionlimit(2**20)\nt=threading.Thread(target=lambda:print(1));t.start();t.join()"
    ),
)
case(
    "resource stack",
    S("", "1\n"),
    py(
        "import resource\nresource.setrlimit(resource.RLIMIT_STACK,(resource.RLIM_INFINITY,resource.RLIM_INFINITY)) if 0 else None\nprint(1)"
    ),
)
case("exit()", S("", "1\n"), py("print(1)\nexit()"))
case("exit(0)", S("", "1\n"), py("import sys\nprint(1)\nsys.exit(0)"))
case("quit()", S("", "1\n"), py("print(1)\nquit()"))
case("float fmt", S("", "0.5\n"), py("print(f'{0.5:.6f}')"))
case("float exp", S("", "0.0000001\n"), py("print(1e-7)"))
case("float tail", S("", "0.30000000000000004\n"), py("print(0.1+0.2)"))
case("float tail 2", S("", "0.3\n"), py("print(0.1+0.2)"), "wrong")
case("float tol", S("", "0.3\n", tolerance=1e-6), py("print(0.1+0.2)"))
case("float tol miss", S("", "0.3\n", tolerance=1e-6), py("print(0.30001)"), "wrong")
case("float tol rel", S("", "1000000.0\n", tolerance=1e-6), py("print(1000000.5)"))
case("-0.0", S("", "0.0\n"), py("print(-0.0)"))
case("int vs float", S("", "3\n"), py("print(3.0)"))
case("big", S(str(10**5000) + "\n", str(10**5000 + 1) + "\n"), py("print(int(input())+1)"))
case("big near", S(str(10**5000) + "\n", str(10**5000 + 1) + "\n"), py("print(int(input()))"), "wrong")
case("nan", S("", "nan\n", tolerance=1e-6), py("print(float('nan'))"))
case("nan vs num", S("", "1.0\n", tolerance=1e-6), py("print(float('nan'))"), "wrong")
case("inf", S("", "inf\n"), py("print(float('inf'))"))
case("yes case", S("", "YES\n"), py("print('Yes')"), "wrong")
case("list print", S("", "[1, 2]\n"), py("print([1,2])"))
case("unicode", S("é\n", "é\n"), py("print(input())"))
case("unicode lines", S("a\u2028b\n", "a\u2028b\n"), py("print(input())"))
case("no final newline input", S("5", "5\n"), py("print(input())"))
case("empty input", S("", "ok\n"), py("import sys\nprint(sys.stdin.read() or 'ok')"))
case("empty expected", S("1\n", ""), py("pass"))
case("empty expected prints", S("1\n", ""), py("print('x')"), "wrong")
case("stderr noise", S("", "1\n"), py("import sys\nprint('dbg',file=sys.stderr)\nprint(1)"))
case("warn", S("", "1\n"), py("x='\\d'\nprint(1)"))
case("unused random import", S("", "1\n"), py("import numpy as np\nprint(np.array([1])[0])"))
case("input prompt printed", S("5\n", "5\n"), py("n=input('n? ')\nprint(n)"), "wrong")
case(
    "lru deep",
    S("", "1\n"),
    py(
        "from functools import lru_cache\nimport sys\nsys.setrecursionlimit(10**7)\n@lru_cache(None)\ndef f(n): return 1 if n==0 else f(n-1)\nprint(f(3000))"
    ),
)
case(
    "class main",
    S("1\n", "1\n"),
    py("class Solution:\n    def solve(self): print(input())\nSolution().solve()"),
)
case(
    "dataclass",
    S("", "1\n"),
    py("from dataclasses import dataclass\n@dataclass\nclass A:\n    x:int\nprint(A(1).x)"),
)
case("future annotations", S("", "1\n"), py("from __future__ import annotations\nprint(1)"))
case(
    "pickle of own class",
    S("", "1\n"),
    py("import pickle\nclass A:\n    def __init__(s): s.x=1\nprint(pickle.loads(pickle.dumps(A())).x)"),
)
case("multiple prints end", S("", "1 2 3\n"), py("for i in (1,2,3): print(i,end=' ')"))
case("print flush", S("", "1\n"), py("print(1,flush=True)"))
case("sys.argv", S("", "1\n"), py("import sys\nprint(len(sys.argv))"))
case("__file__", S("", "1\n"), py("import os\nos.path.dirname(os.path.abspath(__file__))\nprint(1)"))
case(
    "bits import",
    S("", "1\n"),
    py(
        "from heapq import *\nfrom collections import *\nfrom itertools import *\nfrom math import *\nprint(1)"
    ),
)
case("async", S("", "1\n"), py("import asyncio\nasync def m(): print(1)\nasyncio.run(m())"))
case("signal alarm", S("", "1\n"), py("import signal\nprint(1)"))
case("input reassign stdin", S("1\n", "1\n"), py("import sys\nsys.stdin=open(0)\nprint(input())"))
case(
    "setrlimit try",
    S("", "1\n"),
    py(
        "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_STACK,[0x10000000,resource.RLIM_INFINITY])\nexcept Exception: pass\nprint(1)"
    ),
)


def F(tests: Any, entry_point: str, **more: Any) -> dict[str, Any]:
    return {"tests": tests, "entry_point": entry_point, **more}


LN = "class Solution:\n    def reverse(self, head: Optional[ListNode]) -> Optional[ListNode]:\n        p=None\n        while head:\n            head.next, p, head = p, head, head.next\n        return p"
LIST = [{"args": [[1, 2, 3]], "expected": [3, 2, 1]}]
case("listnode args as list", F(LIST, "Solution().reverse"), py(LN))
case(
    "listnode args as list wrong",
    F(LIST, "Solution().reverse"),
    py(LN.replace("return p", "return head")),
    "wrong",
)
TN = "class Solution:\n    def depth(self, root: Optional[TreeNode]) -> int:\n        return 0 if not root else 1+max(self.depth(root.left),self.depth(root.right))"
case(
    "treenode args", F([{"args": [[3, 9, 20, None, None, 15, 7]], "expected": 3}], "Solution().depth"), py(TN)
)
INV = "class Solution:\n    def invert(self, root: TreeNode) -> TreeNode:\n        if root:\n            root.left,root.right=self.invert(root.right),self.invert(root.left)\n        return root"
case(
    "treenode result",
    F([{"args": [[4, 2, 7, 1, 3, 6, 9]], "expected": [4, 7, 2, 9, 6, 3, 1]}], "Solution().invert"),
    py(INV),
)
LC = """def list_node(v):
    h=None
    for x in reversed(v): h=ListNode(x,h)
    return h
def is_same_list(a,b):
    while a and b:
        if a.val!=b.val: return False
        a,b=a.next,b.next
    return a is None and b is None
class ListNode:
    def __init__(self,val=0,next=None):
        self.val=val; self.next=next
"""
case(
    "LeetCode dataset listnode asserts",
    {
        "prompt": "Q",
        "tests": LC
        + "def check(candidate):\n    assert is_same_list(candidate(head = list_node([1,2,3])), list_node([3,2,1]))\n",
        "entry_point": "Solution().reverse",
    },
    py(LN),
)
case(
    "LeetCode dataset listnode asserts wrong",
    {
        "prompt": "Q",
        "tests": LC
        + "def check(candidate):\n    assert is_same_list(candidate(head = list_node([1,2,3])), list_node([3,2,1]))\n",
        "entry_point": "Solution().reverse",
    },
    py(LN.replace("return p", "return head")),
    "wrong",
)
PRE = "from typing import *\n" + LC
case(
    "LeetCode newfacade row",
    {
        "prompt": PRE,
        "query": "Q",
        "problem_description": "Q",
        "entry_point": "Solution().reverse",
        "test": "def check(candidate):\n    assert is_same_list(candidate(head = list_node([1,2,3])), list_node([3,2,1]))\n",
    },
    py(LN),
)
case(
    "LeetCode newfacade row wrong",
    {
        "prompt": PRE,
        "query": "Q",
        "problem_description": "Q",
        "entry_point": "Solution().reverse",
        "test": "def check(candidate):\n    assert is_same_list(candidate(head = list_node([1,2,3])), list_node([3,2,1]))\n",
    },
    py(LN.replace("return p", "return ListNode(3,ListNode(2))")),
    "wrong",
)
case(
    "several methods",
    F([{"args": [2], "expected": 5}], "Solution().f"),
    py("class Solution:\n    def g(self,x): return x+1\n    def f(self,x): return self.g(x)+2"),
)
case(
    "state fresh",
    F([{"args": [1], "expected": [1]}, {"args": [2], "expected": [2]}], "Solution().f"),
    py(
        "class Solution:\n    def __init__(self): self.r=[]\n    def f(self,x):\n        self.r.append(x)\n        return self.r"
    ),
)
case(
    "in place None",
    F([{"args": [[3, 1, 2]], "expected": None}], "Solution().sort"),
    py("class Solution:\n    def sort(self,a): a.sort()"),
)
case(
    "design class asserts",
    {
        "tests": "s=Stack()\ns.push(1)\ns.push(2)\nassert s.pop()==2\nassert s.size()==1",
        "entry_point": "Stack",
    },
    py(
        "class Stack:\n    def __init__(self): self.a=[]\n    def push(self,x): self.a.append(x)\n    def pop(self): return self.a.pop()\n    def size(self): return len(self.a)"
    ),
)
case(
    "asserts several",
    {"tests": ["assert enc('a')=='b'", "assert dec('b')=='a'"]},
    py("def enc(s): return chr(ord(s)+1)\ndef dec(s): return chr(ord(s)-1)"),
)
case(
    "asserts several wrong",
    {"tests": ["assert enc('a')=='b'", "assert dec('b')=='a'"]},
    py("def enc(s): return chr(ord(s)+1)\ndef dec(s): return s"),
    "wrong",
)
case(
    "asserts roundtrip",
    {"tests": ["assert dec(enc('a'))=='a'"], "entry_point": "enc, dec"},
    py("def enc(s): return s\ndef dec(s): return s"),
)
case(
    "assert isclose",
    {"tests": "import math\nassert math.isclose(area(1), 3.14159, rel_tol=1e-5)", "entry_point": "area"},
    py("import math\ndef area(r): return math.pi*r*r"),
)
case(
    "assert pytest approx",
    {"tests": "assert abs(area(1)-3.14159) < 1e-4", "entry_point": "area"},
    py("import math\ndef area(r): return math.pi*r*r"),
)
case(
    "unittest",
    {
        "tests": "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1),2)\n        with self.assertRaises(ValueError): f(-1)\nunittest.main()",
        "entry_point": "f",
    },
    py("def f(x):\n    if x<0: raise ValueError\n    return x+1"),
)
case(
    "pytest raises",
    {
        "tests": "import pytest\ndef test_a():\n    assert f(1)==2\n    with pytest.raises(ValueError):\n        f(-1)\n",
        "entry_point": "f",
    },
    py("def f(x):\n    if x<0: raise ValueError\n    return x+1"),
)
case(
    "pytest param",
    {
        "tests": "import pytest\n@pytest.mark.parametrize('a,b',[(1,2),(2,3)])\ndef test_a(a,b):\n    assert f(a)==b\n",
        "entry_point": "f",
    },
    py("def f(x): return x+1"),
)
case(
    "from solution import",
    {"tests": "from solution import f\ndef test_a():\n    assert f(1)==2\n", "entry_point": "f"},
    py("def f(x): return x+1"),
)
case(
    "from solution import wrong",
    {"tests": "from solution import f\ndef test_a():\n    assert f(1)==2\n", "entry_point": "f"},
    py("def f(x): return x"),
    "wrong",
)
case(
    "METADATA humaneval",
    {
        "prompt": "def f(x):\n    pass\n",
        "test": "\n\nMETADATA = {'author': 'jt'}\n\n\ndef check(candidate):\n    assert candidate(1) == 2\n",
        "entry_point": "f",
    },
    py("def f(x): return x+1"),
)
case(
    "check(f) called",
    {"tests": "def check(c):\n    assert c(1)==2\ncheck(f)", "entry_point": "f"},
    py("def f(x): return x+1"),
)
case(
    "input_output APPS float",
    {"input_output": json.dumps({"inputs": ["1\n"], "outputs": ["0.50\n"]})},
    py("print(0.5)"),
)
case(
    "APPS outputs no newline",
    {"input_output": json.dumps({"inputs": ["1"], "outputs": ["2"]})},
    py("print(int(input())+1)"),
)
case(
    "APPS fn list-of-list out",
    {"input_output": json.dumps({"fn_name": "f", "inputs": [[[1, 2]]], "outputs": [[[2, 1]]]})},
    py("def f(a): return a[::-1]"),
)
case(
    "APPS fn tuple",
    {"input_output": json.dumps({"fn_name": "f", "inputs": [[1]], "outputs": [[1, 2]]})},
    py("def f(a): return (1,2)"),
)
case("kwargs", F([{"kwargs": {"a": 1, "b": 2}, "expected": 3}], "f"), py("def f(a,b): return a+b"))
case(
    "string arg w/ newline LCB",
    {
        "public_test_cases": json.dumps(
            [{"input": '"a\\nb"\n2', "output": '"a\\nb"', "testtype": "functional"}]
        ),
        "metadata": json.dumps({"func_name": "f"}),
    },
    py("class Solution:\n    def f(self,s,k): return s"),
)
case("float int func", F([{"args": [1], "expected": 2.0}], "f"), py("def f(x): return 2"), "wrong")
case("func tol", F([{"args": [1], "expected": 0.3, "tolerance": 1e-6}], "f"), py("def f(x): return 0.1+0.2"))
case("lambda", F([{"args": [1], "expected": 2}], "f"), py("f = lambda x: x+1"))
case(
    "decorated",
    F([{"args": [1], "expected": 2}], "f"),
    py("import functools\n@functools.cache\ndef f(x): return x+1"),
)
case(
    "partial",
    F([{"args": [1], "expected": 2}], "f"),
    py("from functools import partial\ndef g(a,b): return a+b\nf=partial(g,1)"),
)
case(
    "generator result",
    F([{"args": [2], "expected": [0, 1]}], "f"),
    py("def f(n): return (i for i in range(n))"),
    "wrong",
)
case("prints in func", F([{"args": [2], "expected": 2}], "f"), py("def f(n):\n    print(n)\n    return n"))
case(
    "reads input at load",
    F([{"args": [2], "expected": 2}], "f"),
    py("def f(n):\n    return n\nif __name__=='__main__':\n    print(f(int(input())))"),
)
case(
    "typing no import",
    F([{"args": [[1]], "expected": 1}], "f"),
    py("def f(a: List[int]) -> int: return a[0]"),
    "wrong",
)
case("num set", F([{"args": [[1, 1]], "expected": {"a": 1}}], "f"), py("def f(a): return {'a':1}"))
case("deep result", F([{"args": [50], "expected": 1}], "f"), py("def f(n): return 1"))
case(
    "numpy scalar",
    F([{"args": [1], "expected": 2}], "f"),
    py("import numpy as np\ndef f(x): return np.int64(2)"),
)
case(
    "numpy array",
    F([{"args": [1], "expected": [1, 2]}], "f"),
    py("import numpy as np\ndef f(x): return np.array([1,2])"),
)

case(
    "KodCode no entry",
    {"prompt": "Q", "test": "from solution import f\n\ndef test_a():\n    assert f(1)==2\n"},
    py("def f(x): return x+1"),
)
case(
    "KodCode no entry wrong",
    {"prompt": "Q", "test": "from solution import f\n\ndef test_a():\n    assert f(1)==2\n"},
    py("def f(x): return x"),
    "wrong",
)
case(
    "KodCode two",
    {
        "prompt": "Q",
        "test": "from solution import (f,\n    g)\n\ndef test_a():\n    assert f(1)==2\n    assert g(1)==1\n",
    },
    py("def f(x): return x+1\ndef g(x): return x"),
)
case(
    "KodCode class",
    {
        "prompt": "Q",
        "test": "from solution import Stack\n\ndef test_a():\n    s=Stack()\n    s.push(1)\n    assert s.pop()==1\n",
    },
    py(
        "class Stack:\n    def __init__(self): self.a=[]\n    def push(self,x): self.a.append(x)\n    def pop(self): return self.a.pop()"
    ),
)
case(
    "missing test module",
    {"tests": "import nosuchmodule\nassert f(1)==2", "entry_point": "f"},
    py("def f(x): return x+1"),
    "unverifiable",
)
case(
    "param miss",
    {
        "tests": "import pytest\n@pytest.mark.parametrize('a,b',[(1,2),(2,4)])\ndef test_a(a,b):\n    assert f(a)==b\n",
        "entry_point": "f",
    },
    py("def f(x): return x+1"),
    "wrong",
)
case(
    "param single",
    {
        "tests": "import pytest\n@pytest.mark.parametrize('a',[1,(2)])\n@pytest.mark.parametrize(['b'],[(0,),pytest.param(0)])\ndef test_a(a,b):\n    assert f(a)==a+1+b\n",
        "entry_point": "f",
    },
    py("def f(x): return x+1"),
)
case(
    "unittest wrong",
    {
        "tests": "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1),2)\nunittest.main()",
        "entry_point": "f",
    },
    py("def f(x): return x"),
    "wrong",
)
case(
    "k lists",
    F([{"args": [[[1, 4], [2, 3]]], "expected": [1, 2, 3, 4]}], "Solution().m"),
    py(
        "class Solution:\n    def m(self, lists: List[Optional[ListNode]]) -> Optional[ListNode]:\n        v=[]\n        for n in lists:\n            while n: v.append(n.val); n=n.next\n        h=None\n        for x in sorted(v,reverse=True): h=ListNode(x,h)\n        return h"
    ),
)
case(
    "own ListNode",
    F(LIST, "reverse"),
    py("class ListNode:\n    def __init__(self, x):\n        self.val=x\n        self.next=None\n" + LN),
)
case(
    "circle",
    F([{"args": [[1, 2]], "expected": [1, 2]}], "Solution().c"),
    py("class Solution:\n    def c(self, h: ListNode) -> ListNode:\n        h.next.next=h\n        return h"),
    "wrong",
)
case("empty list", F([{"args": [[]], "expected": []}], "Solution().reverse"), py(LN))
case(
    "LC json lists",
    {
        "input_output": [{"input": "head = [1,2,3]", "output": "[3,2,1]"}],
        "query": "Q",
        "entry_point": "Solution().reverse",
    },
    py(LN),
)
TT = (
    LC
    + "class TreeNode:\n    def __init__(self,val=0,left=None,right=None):\n        self.val=val;self.left=left;self.right=right\ndef tree_node(v):\n    if not v: return None\n    root=TreeNode(v[0]); q=[root]; i=1\n    while q and i<len(v):\n        n=q.pop(0)\n        if i<len(v) and v[i] is not None: n.left=TreeNode(v[i]); q.append(n.left)\n        i+=1\n        if i<len(v) and v[i] is not None: n.right=TreeNode(v[i]); q.append(n.right)\n        i+=1\n    return root\ndef is_same_tree(p,q):\n    if p is None and q is None: return True\n    if p is None or q is None: return False\n    return p.val==q.val and is_same_tree(p.left,q.left) and is_same_tree(p.right,q.right)\n"
)
case(
    "tree asserts",
    {
        "tests": TT
        + "def check(candidate):\n    assert is_same_tree(candidate(root = tree_node([4,2,7,None,3])), tree_node([4,7,2,None,None,3]))\n",
        "entry_point": "Solution().invert",
    },
    py(INV),
)
case(
    "tree asserts wrong",
    {
        "tests": TT
        + "def check(candidate):\n    assert is_same_tree(candidate(root = tree_node([4,2,7,None,3])), tree_node([4,7,2,None,3]))\n",
        "entry_point": "Solution().invert",
    },
    py(INV),
    "wrong",
)

sys.set_int_max_str_digits(4300)


@pytest.mark.parametrize("name", CASES)
def test_what_people_write_is_judged_as_it_should_be(name: str, tmp_path: Any) -> None:
    row, answer, outcome = CASES[name]
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": "Q", **row}) + "\n")
    task = Dataset("d", held_out=str(tmp_path / "d.jsonl"), check="program")
    (problem,) = task.problems("held_out")
    verdict = task.check(problem, answer)
    assert verdict.outcome == outcome, verdict.reason
