"""The benchmark of speed: r1kit and its peers at the same work. ../bench.py is the command."""
