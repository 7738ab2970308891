"""Python programs in processes of their own that start at once. A process that has imported what r1kit's
commands need forks for each of them; a new interpreter would spend two seconds of the processor on imports.

A program that is to show what an interpreter imports at its start, or how it ends, needs a new one."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# Forks for each line that it reads.
SERVER = """\
import atexit, gc, json, os, runpy, sys, tempfile, threading, traceback
import r1kit.commands.chat, r1kit.commands.cli, r1kit.commands.export, r1kit.report, r1kit.runs.execute
import r1kit.runs.verify, r1kit.runtime.local, r1kit.stages

def run(kind, *rest):
    if kind == "-m":
        sys.argv = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        runpy.run_path(kind, run_name="__main__")

def be(program):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(program["printed"], 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(program["environment"])
    os.chdir(program["folder"])
    tempfile.tempdir = None  # TMPDIR may be another
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    code = 1
    try:
        run(*program["words"])
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = 1 if isinstance(ended.code, str) else int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:  # without the end of an interpreter, which would touch and so copy all memory
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

gc.collect()
gc.freeze()  # a collection in a fork leaves alone what was there before
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        be(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forked:
    """The process that forks, which starts with the first program. ``folder`` gets what programs print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = itertools.count()
        self.server: subprocess.Popen[str] | None = None

    def run(
        self, *words: object, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run what ``python`` would run with these words (``-m`` MODULE, ``-c`` CODE or a file, and its
        arguments) in a folder, with the environment, by default this process's own."""
        number = next(self.number)
        printed = [self.folder / f"{number}.out", self.folder / f"{number}.err"]
        order = {
            "words": list(map(str, words)),
            "printed": list(map(str, printed)),
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
        }
        self.server = self.server or self._start()
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps(order) + "\n")
        code = self.server.stdout.readline()
        assert code, "the process that forks has ended"
        said = [file.read_text(encoding="utf-8") for file in printed]
        return subprocess.CompletedProcess(order["words"], int(code), *said)

    def _start(self) -> subprocess.Popen[str]:
        paths = os.pathsep.join(
            filter(None, [str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH")])
        )
        return subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )

    def close(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.communicate()
