"""Untrusted programs: isolation, a warm pool of workers, typed verdicts.

``run_program`` runs one program against tests, ``run_programs`` many on all cores; ``probe`` checks the
isolation."""

from r1kit.sandbox.comparison import matches
from r1kit.sandbox.jobs import Job
from r1kit.sandbox.programs import results_of, run_jobs, run_program, run_programs
from r1kit.sandbox.self_check import probe

__all__ = ["Job", "matches", "probe", "results_of", "run_jobs", "run_program", "run_programs"]
