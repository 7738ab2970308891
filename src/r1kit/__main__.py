"""``python -m r1kit``: the command line, also where the package is not installed."""

from r1kit.commands.cli import main

main()
