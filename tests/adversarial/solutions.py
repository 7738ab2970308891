"""The tests of ``f(x) = 3 * x + 1`` and of the script that prints it, and true solutions in many styles; each must pass."""
# ruff: noqa: E501 - a program is a line here, so that the corpus can be read as a list

TESTS = [{"args": [1], "expected": 4}, {"args": [10], "expected": 31}, {"args": [-2], "expected": -5}]
STDIO_TESTS = [{"stdin": "1\n", "stdout": "4\n"}, {"stdin": "10\n", "stdout": "31\n"}]
TEST_TEXT = "assert f(1) == 4\nassert f(10) == 31\nassert abs(f(-2) + 5) < 1e-9\nassert f(0) == 1"
UNITTEST_TEXT = """
import unittest
class TestF(unittest.TestCase):
    def test_values(self):
        self.assertEqual(f(1), 4)
        self.assertEqual(f(10), 31)
    def test_negative(self):
        self.assertAlmostEqual(f(-2), -5)
"""
CHECK_TEXT = """
def check(candidate):
    assert candidate(1) == 4
    assert candidate(10) == 31
    try:
        assert candidate(-2) == -5
    except SystemExit:
        pass
"""

# True solutions of f(x) = 3 * x + 1 in many styles; each must pass.
SOLUTIONS: dict[str, str] = {
    "plain": "def f(x):\n    return 3 * x + 1",
    "lambda": "f = lambda x: 3 * x + 1",
    "partial": "from functools import partial\nf = partial(lambda a, x: a * x + 1, 3)",
    "callable object": "class F:\n    def __call__(self, x): return 3 * x + 1\nf = F()",
    "static method": "class S:\n    @staticmethod\n    def g(x): return 3 * x + 1\nf = S.g",
    "bound method": "class S:\n    def g(self, x): return 3 * x + 1\nf = S().g",
    "cached": "from functools import lru_cache\n@lru_cache(None)\ndef f(x): return 3 * x + 1",
    "recursive": "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(x, n=20000):\n    return 3 * x + 1 if n == 0 else f(x, n - 1)",
    "main guard": "def f(x): return 3 * x + 1\nif __name__ == '__main__':\n    print(f(int(input())))",
    "prints on the way": "def f(x):\n    print('thinking about', x)\n    return 3 * x + 1",
    "writes to stderr": "import sys\ndef f(x):\n    print('x', file=sys.stderr)\n    return 3 * x + 1",
    "int subclass": "class N(int): pass\ndef f(x): return N(3 * x + 1)",
    "int enum": "from enum import IntEnum\nclass E(IntEnum):\n    A = 4\n    B = 31\n    C = -5\n    D = 1\ndef f(x): return E(3 * x + 1)",
    "generator inside": "def f(x): return sum(3 for _ in range(abs(x))) * (1 if x > 0 else -1) + 1",
    "threads": "import threading\ndef f(x):\n    r = []\n    t = threading.Thread(target=lambda: r.append(3 * x + 1))\n    t.start()\n    t.join()\n    return r[0]",
    "large thread stack": "import threading, sys\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(64 << 20)\ndef f(x):\n    r = []\n    t = threading.Thread(target=lambda: r.append(3 * x + 1))\n    t.start()\n    t.join()\n    return r[0]",
    "thread pool": "from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n    with ThreadPoolExecutor(4) as p: return sum(p.map(lambda i: x, range(3))) + 1",
    "asyncio": "import asyncio\nasync def g(x):\n    await asyncio.sleep(0)\n    return 3 * x + 1\ndef f(x): return asyncio.run(g(x))",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    def v(self): return 3 * self.x + 1\ndef f(x): return P(x).v()",
    "typing": "from __future__ import annotations\nfrom typing import List, Optional\ndef f(x: int, y: Optional[List[int]] = None) -> int: return 3 * x + 1",
    "decimal": "from decimal import Decimal\ndef f(x): return int(Decimal(3) * x + 1)",
    "many imports": "import collections, itertools, heapq, bisect, math, re, string, random, statistics, operator, json, copy, datetime, calendar\ndef f(x): return 3 * x + 1",
    "shadowed builtins": "list = [3]\nsum = 1\ndef f(x): return list[0] * x + sum",
    "match": "def f(x):\n    match x:\n        case 0: return 1\n        case _: return 3 * x + 1",
    "walrus": "def f(x): return (y := 3 * x) + 1",
    "exec inside": "exec('def f(x): return 3 * x + 1')",
    "unicode": "def f(x):\n    '''é 数 🎉'''\n    größe = 3 * x\n    return größe + 1",
    "windows line ends": "def f(x):\r\n    y = 3 * x\r\n    return y + 1\r\n",
    "catches everything": "def f(x):\n    try: raise ValueError\n    except BaseException: return 3 * x + 1",
    "context manager": "from contextlib import contextmanager\n@contextmanager\ndef c(): yield 3\ndef f(x):\n    with c() as k: return k * x + 1",
    "some memory": "def f(x):\n    v = [0] * 10 ** 6\n    return 3 * x + 1 + sum(v)",
    "pickles itself": "import pickle\nclass A:\n    def __init__(s, x): s.x = x\ndef f(x): return 3 * pickle.loads(pickle.dumps(A(x))).x + 1",
    "signal handler": "import signal\ndef f(x):\n    signal.signal(signal.SIGALRM, lambda *a: None)\n    return 3 * x + 1",
    "regex": "import re\ndef f(x): return 3 * int(re.search(r'-?\\d+', f'<{x}>')[0]) + 1",
    "global state": "calls = []\ndef f(x):\n    calls.append(x)\n    return 3 * calls[-1] + 1",
    "nested closures": "def make(a):\n    def g(b):\n        def h(x): return a * x + b\n        return h\n    return g\nf = make(3)(1)",
    "generator pipeline": "def g(x):\n    for _ in range(3): yield x\n    yield 1\ndef f(x): return sum(g(x))",
    "recursion five thousand deep": "import sys\nsys.setrecursionlimit(10_000)\ndef g(n): return 0 if n == 0 else 1 + g(n - 1)\ndef f(x): return 3 * x + 1 + g(5000) - 5000",
    "property": "class P:\n    def __init__(s, x): s.x = x\n    @property\n    def v(s): return 3 * s.x + 1\ndef f(x): return P(x).v",
    "class with slots": "class P:\n    __slots__ = ('x',)\n    def __init__(s, x): s.x = x\ndef f(x): return 3 * P(x).x + 1",
    "named tuple": "from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(x):\n    p = P(3, 1)\n    return p.a * x + p.b",
    "abstract class": "from abc import ABC, abstractmethod\nclass A(ABC):\n    @abstractmethod\n    def v(self, x): ...\nclass B(A):\n    def v(self, x): return 3 * x + 1\nf = B().v",
    "metaclass": "class M(type):\n    def __new__(m, n, b, d): return super().__new__(m, n, b, {**d, 'k': 3})\nclass A(metaclass=M): pass\ndef f(x): return A.k * x + 1",
    "decorator with wraps": "import functools\ndef d(g):\n    @functools.wraps(g)\n    def h(*a, **k): return g(*a, **k) + 1\n    return h\n@d\ndef f(x): return 3 * x",
    "singledispatch": "from functools import singledispatch\n@singledispatch\ndef f(x): raise TypeError\n@f.register\ndef _(x: int): return 3 * x + 1",
    "nested functions and nonlocal": "def f(x):\n    t = 1\n    def add():\n        nonlocal t\n        t += x\n    for _ in range(3): add()\n    return t",
    "async gather": "import asyncio\nasync def g(x): return x\nasync def h(x): return sum(await asyncio.gather(g(x), g(x), g(x))) + 1\ndef f(x): return asyncio.run(h(x))",
    "async generator": "import asyncio\nasync def g(x):\n    for _ in range(3): yield x\nasync def h(x): return sum([v async for v in g(x)]) + 1\ndef f(x): return asyncio.run(h(x))",
    "event loop by hand": "import asyncio\nloop = asyncio.new_event_loop()\nasync def g(x): return 3 * x + 1\ndef f(x): return loop.run_until_complete(g(x))",
    "fractions": "from fractions import Fraction\ndef f(x): return int(Fraction(9, 3) * x + 1)",
    "bits": "def f(x): return (x << 1) + x + 1",
    "text work": "def f(x): return int(str(3 * x)) + 1",
    "temporary file": "import tempfile, os\ndef f(x):\n    try:\n        with tempfile.TemporaryFile('w+') as o:\n            o.write(str(3 * x + 1))\n            o.seek(0)\n            return int(o.read())\n    except OSError: return 3 * x + 1",
    "string io": "import io\ndef f(x):\n    o = io.StringIO()\n    print(3 * x + 1, file=o)\n    return int(o.getvalue())",
    "json round trip": "import json\ndef f(x): return json.loads(json.dumps({'v': 3 * x + 1}))['v']",
    "struct": "import struct\ndef f(x): return struct.unpack('<q', struct.pack('<q', 3 * x + 1))[0]",
    "heap": "import heapq\ndef f(x):\n    h = [3 * x + 1, 10 ** 9]\n    heapq.heapify(h)\n    return heapq.heappop(h)",
    "union find class": "class D:\n    def __init__(s, n): s.p = list(range(n))\n    def find(s, a):\n        while s.p[a] != a: a = s.p[a] = s.p[s.p[a]]\n        return a\ndef f(x): return 3 * x + 1 + D(100).find(0)",
    "memo by default argument": "def f(x, memo={}):\n    if x not in memo: memo[x] = 3 * x + 1\n    return memo[x]",
    "cached method": "from functools import cached_property\nclass A:\n    def __init__(s, x): s.x = x\n    @cached_property\n    def v(s): return 3 * s.x + 1\ndef f(x): return A(x).v",
    "random with a seed": "import random\nrandom.seed(1)\ndef f(x): return 3 * x + 1 + 0 * random.randint(0, 9)",
    "uuid and hashes": "import uuid, hashlib\ndef f(x):\n    uuid.uuid4()\n    hashlib.sha256(b'x').hexdigest()\n    return 3 * x + 1",
    "regex callback": "import re\ndef f(x): return int(re.sub(r'-?\\d+', lambda m: str(3 * int(m[0]) + 1), str(x)))",
    "timing itself": "import time\ndef f(x):\n    t = time.perf_counter()\n    time.sleep(0.001)\n    return 3 * x + 1 if time.perf_counter() > t else 0",
    "type checks itself": "def f(x):\n    assert isinstance(x, int) and not isinstance(x, bool)\n    return 3 * x + 1",
    "logging": "import logging\nlogging.basicConfig(level=logging.DEBUG)\ndef f(x):\n    logging.info('x = %s', x)\n    return 3 * x + 1",
    "warnings": "import warnings\ndef f(x):\n    warnings.warn('slow')\n    return 3 * x + 1",
    "contextvars": "import contextvars\nc = contextvars.ContextVar('c', default=3)\ndef f(x): return c.get() * x + 1",
    "many prints": "def f(x):\n    for i in range(20_000): print(i)\n    return 3 * x + 1",
    "custom exception": "class Found(Exception):\n    def __init__(s, v): s.v = v\ndef f(x):\n    try: raise Found(3 * x + 1)\n    except Found as e: return e.v",
    "star arguments": "def f(*args, **kwargs): return 3 * args[0] + 1",
    "keyword of the same name": "def f(x, /, *, y=1): return 3 * x + y",
    "doctest in it": "def f(x):\n    \"\"\"\n    >>> f(1)\n    4\n    \"\"\"\n    return 3 * x + 1\nif __name__ == '__main__':\n    import doctest\n    doctest.testmod()",
    "tabs": "def f(x):\n\tif x:\n\t\treturn 3 * x + 1\n\treturn 1",
    "byte order mark": "\ufeffdef f(x): return 3 * x + 1",
    "encoding comment": "# -*- coding: utf-8 -*-\ndef f(x): return 3 * x + 1",
    "long lines": "def f(x): return 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 3 * x + 1",
    "numpy where it is": "try:\n    import numpy as np\nexcept ImportError:\n    np = None\ndef f(x): return int(np.int64(3) * x + 1) if np else 3 * x + 1",
    "numpy scalar where it is": "try:\n    import numpy as np\n    def f(x): return np.int64(3 * x + 1)\nexcept ImportError:\n    def f(x): return 3 * x + 1",
    "executor of futures": "from concurrent.futures import ThreadPoolExecutor, as_completed\ndef f(x):\n    with ThreadPoolExecutor(8) as p: return sum(t.result() for t in as_completed([p.submit(lambda: x) for _ in range(3)])) + 1",
    "timer thread": "import threading\ndef f(x):\n    r = []\n    t = threading.Timer(0.01, lambda: r.append(3 * x + 1))\n    t.start()\n    t.join()\n    return r[0]",
}  # fmt: skip

STDIO_SOLUTIONS: dict[str, str] = {
    "input": "print(3 * int(input()) + 1)",
    "stdin": "import sys\nprint(3 * int(sys.stdin.readline()) + 1)",
    "stdin.read": "import sys\nprint(3 * int(sys.stdin.read()) + 1)",
    "buffer": "import sys\nprint(3 * int(sys.stdin.buffer.read()) + 1)",
    "open 0": "print(3 * int(open(0).read()) + 1)",
    "os.read": "import os\nprint(3 * int(os.read(0, 100)) + 1)",
    "for line in stdin": "import sys\nfor line in sys.stdin: print(3 * int(line) + 1)",
    "stdout.write": "import sys\nsys.stdout.write(str(3 * int(input()) + 1))",
    "stdout buffer": "import sys\nsys.stdout.buffer.write(b'%d\\n' % (3 * int(input()) + 1))",
    "os.write": "import os\nos.write(1, b'%d\\n' % (3 * int(input()) + 1))",
    "sys.exit 0": "import sys\nprint(3 * int(input()) + 1)\nsys.exit(0)",
    "exit()": "print(3 * int(input()) + 1)\nexit()",
    "os._exit": "import os, sys\nprint(3 * int(input()) + 1)\nsys.stdout.flush()\nos._exit(0)",
    "main": "def main():\n    print(3 * int(input()) + 1)\nif __name__ == '__main__':\n    main()",
    "threaded main": "import sys, threading\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(64 << 20)\ndef main():\n    print(3 * int(input()) + 1)\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "redefined input": "import sys\ninput = sys.stdin.readline\nprint(3 * int(input()) + 1)",
    "redefined print": "import sys, io\nout = io.StringIO()\nprint(3 * int(input()) + 1, file=out)\nsys.stdout.write(out.getvalue())",
    "eof error caught": "try:\n    while True: print(3 * int(input()) + 1)\nexcept EOFError:\n    pass",
    "trailing blanks": "print(3 * int(input()) + 1, end='  \\n\\n')",
    "atexit": "import atexit\natexit.register(lambda: None)\nprint(3 * int(input()) + 1)",
    "fileinput": "import fileinput\nfor line in fileinput.input(): print(3 * int(line) + 1)",
    "input till the end": "import sys\nwhile True:\n    try: line = input()\n    except EOFError: break\n    print(3 * int(line) + 1)",
    "readlines": "import sys\nprint(*[3 * int(l) + 1 for l in sys.stdin.readlines()], sep='\\n')",
    "iter of input": "for line in iter(lambda: __import__('sys').stdin.readline(), ''): print(3 * int(line) + 1)",
    "split of the buffer": "import sys\ndata = sys.stdin.buffer.read().split()\nprint(3 * int(data[0]) + 1)",
    "text over the buffer": "import io, sys\nsys.stdin = io.TextIOWrapper(sys.stdin.buffer)\nprint(3 * int(input()) + 1)",
    "string io as input": "import io, os, sys\nsys.stdin = io.StringIO(os.read(0, os.fstat(0).st_size).decode())\nprint(3 * int(input()) + 1)",
    "buffer of the output": "import sys\nwrite = sys.stdout.buffer.write\nwrite(f'{3 * int(sys.stdin.buffer.readline()) + 1}\\n'.encode())",
    "carriage returns": "import sys\nsys.stdout.write(f'{3 * int(input()) + 1}\\r\\n')",
    "trailing space": "print(3 * int(input()) + 1, end=' ')",
    "no line end": "print(3 * int(input()) + 1, end='')",
    "class with main": "class Solution:\n    def run(self): print(3 * int(input()) + 1)\nSolution().run()",
    "yield and join": "def g():\n    yield str(3 * int(input()) + 1)\nprint('\\n'.join(g()))",
    "mapped input": "import mmap\nm = mmap.mmap(0, 0, prot=mmap.PROT_READ)\nprint(3 * int(m[:].split()[0]) + 1)",
    "asyncio main": "import asyncio\nasync def main(): print(3 * int(input()) + 1)\nasyncio.run(main())",
    "dunder main import": "import __main__\nx = 1\nprint(3 * int(input()) + __main__.x)",
    "argv is there": "import sys\nprint(3 * int(input()) + len(sys.argv[:1]))",
    "output in a finalizer": "import sys\nclass A:\n    def __del__(s): sys.stdout.write(s.v)\na = A()\na.v = str(3 * int(input()) + 1)\ndel a",
    "output at exit": "import atexit\nx = int(input())\natexit.register(lambda: print(3 * x + 1))",
    "thread left running": "import threading\nx = int(input())\nthreading.Thread(target=lambda: print(3 * x + 1)).start()",
    "sys.exit of nothing": "import sys\nprint(3 * int(input()) + 1)\nsys.exit()",
    "closes the output": "import sys\nprint(3 * int(input()) + 1)\nsys.stdout.close()",
    "wraps the output": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, line_buffering=True)\nprint(3 * int(input()) + 1)",
    "keeps both outputs": "import io, sys\nprint(3 * int(input()) + 1)\nsys.stdout = io.StringIO()\nprint('not seen')",
    "quit": "print(3 * int(input()) + 1)\nquit()",
    "redirected": "import contextlib, io, sys\no = io.StringIO()\nwith contextlib.redirect_stdout(o): print(3 * int(input()) + 1)\nprint(o.getvalue(), end='')",
}  # fmt: skip
