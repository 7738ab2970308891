"""Derive seeds. A seed is always an argument and identifies what is drawn; it never comes from a clock or
from the order of calls.

A seed is derived from (run seed, stage, step, problem id, rollout index), so a result depends neither on how
the work was batched nor on where a run was interrupted."""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """Hash the parts to a seed in [0, 2**63): the same in every process, on every machine and in every
    version of Python.

    The types of the parts and where one ends count: (1, "23"), ("1", 23) and (12, "3") give three different
    seeds.
    """
    text = json.dumps([part if isinstance(part, str) else int(part) for part in parts])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
