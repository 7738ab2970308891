"""Programs of the process that forks (forked.py), also after a test has ended it."""

from pathlib import Path

from forked import Forked


def test_a_program_runs_after_the_process_that_forks_was_ended(tmp_path: Path) -> None:
    programs = Forked(tmp_path)
    try:
        first = programs.run("-c", "import sys; print(sys.argv[1]); sys.exit(3)", "a")
        assert (first.returncode, first.stdout) == (3, "a\n")
        assert programs.server is not None
        programs.server.kill()
        programs.server.wait()
        second = programs.run("-c", "raise ValueError('b')")
        assert second.returncode == 1 and "ValueError: b" in second.stderr
    finally:
        programs.close()
