"""Check the sandbox in use: short programs that try forbidden things, and one harmless program."""

import os

from r1kit.config import R1kitError
from r1kit.sandbox.jobs import Job
from r1kit.sandbox.pool import UNSAFE, current_tier
from r1kit.sandbox.programs import run_jobs

Probe = tuple[str, bool, str]

# Each defines f, which returns "reached" if the program reached what must be closed to it.
_FORBIDDEN = {
    "network": """
import socket
def f():
    socket.create_connection(('127.0.0.1', 22), 0.2)
    return 'reached'
""",
    "name service": """
import socket
def f():
    socket.getaddrinfo('localhost', 80)
    socket.socket()
    return 'reached'
""",
    "home folder": """
import os, pathlib
def f():
    homes = [p for p in ('/root', HOME) if os.path.exists(p + '/.profile')]
    return 'reached' if homes and os.listdir(HOME) else ''
""",
    "password file": """
def f():
    return 'reached' if open('/etc/passwd').read() else ''
""",
    "secrets in the environment": """
import os
def f():
    return 'reached' if any(k not in ALLOWED for k in os.environ) else ''
""",
    "other processes": """
import os
def f():
    me = str(os.getpid())
    others = [p for p in os.listdir('/proc') if p.isdigit() and p != me]
    return 'reached' if others else ''
""",
    "new processes": """
import os
def f():
    if os.fork() == 0: os._exit(0)
    return 'reached'
""",
    "nested namespaces": """
import ctypes
def f():
    return 'reached' if ctypes.CDLL(None).unshare(0x10000000) == 0 else ''
""",
    "signals to others": """
import os
def f():
    os.kill(os.getppid() or 2, 0)
    return 'reached'
""",
    "writing to libraries": """
import os
def f():
    open(os.path.dirname(os.__file__) + '/r1kit-probe', 'w')
    return 'reached'
""",
    "leftovers": """
def f():
    open('/tmp/r1kit-probe', 'w').close()
    return 'kept'
""",
}
_ALLOWED = ("PYTHONHASHSEED", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LC_ALL", "HOME", "LC_CTYPE", "PWD")


def probe() -> list[Probe]:
    """Check the sandbox in use: (what, whether it holds, detail) for each program; a tier that cannot be used
    is one failed entry.

    The tier without isolation is not checked: there the programs would really do what they try."""
    try:
        tier = current_tier()
        if tier == UNSAFE:
            return [
                (
                    "sandbox tier",
                    False,
                    f"{tier}: programs written by a model can read, change and send whatever you can",
                )
            ]
        results: list[Probe] = [("sandbox tier", True, tier)]
        home = f"HOME = {os.path.expanduser('~')!r}\nALLOWED = {_ALLOWED!r}\n"
        tests = [{"args": [], "expected": "reached"}]
        jobs = [Job(home + text, tests, "function", "f", 2.0, 256) for text in _FORBIDDEN.values()]
        jobs.append(Job("def f(x): return x", [{"args": [1], "expected": 1}], "function", "f", 2.0, 256))
        verdicts = run_jobs(jobs)
    except R1kitError as error:
        return [("sandbox tier", False, str(error))]
    for name, verdict in zip(_FORBIDDEN, verdicts, strict=False):
        holds = verdict.outcome == "wrong" and not os.path.exists("/tmp/r1kit-probe")
        results.append((name, holds, "closed" if holds else f"OPEN ({verdict.outcome} {verdict.reason})"))
    results.append(("a harmless program", verdicts[-1].outcome == "correct", verdicts[-1].reason or "runs"))
    return results
