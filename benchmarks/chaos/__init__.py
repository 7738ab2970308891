"""What chaos.py does to runs: kills (kills.py), failing system calls (calls.py), damaged files (cases.py)."""
