"""The report of a run: a pure function of the run's folder, as Markdown, HTML and JSON."""

from r1kit.report.report import warnings, write

__all__ = ["warnings", "write"]
