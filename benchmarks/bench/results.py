"""The measurements, as one JSON file to which later runs of the command add; on another machine a new file
begins.

ratios    {"grpo/7m/uniform/vs_trl": 5.1, ...}: how many times faster r1kit was, the median over pairs
spreads   the same names: median, least, most
missing   the same names: why there is no ratio
measured  by work and side: every repeat's tokens, seconds and memory; the limit; where r1kit's time went
growth    r1kit alone as one number changes;  lone: a single row;  peaks, machine
"""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.race import Measured, Spread, ratios
from bench.work import Work
from r1kit.config import R1kitError
from r1kit.files import write_whole


def machine() -> dict[str, Any]:
    """Processor, cores, system and versions; no names, no folders."""
    information = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*:\s*(.+)$", information, re.MULTILINE)
    flags = set(information.split())
    return {
        "processor": model[1].strip() if model else "processor not recorded",
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
    }


def revision() -> str:
    """The source's revision, with a + where files were changed."""
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def stamp() -> dict[str, str]:
    """When, and with which source, something is measured."""
    return {"date": time.strftime("%Y-%m-%d"), "revision": revision()}


def record(measured: Measured) -> dict[str, Any]:
    seconds = {"cpu_s": round(measured.cpu_s, 3), "wall_s": round(measured.wall_s, 3)}
    found = {"tokens": measured.tokens, **seconds, "peak_mb": round(measured.peak_mb)}
    return found | {key: measured.reply[key] for key in ("parts",) if key in measured.reply}


class Results:
    """The file's content; every change is written at once, so that an interrupted run loses nothing."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content

    @classmethod
    def open(cls, path: Path, quick: bool) -> "Results":
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh: dict[str, Any] = {"machine": machine(), "quick": quick}
        fresh |= {
            key: {}
            for key in ("ratios", "spreads", "missing", "measured", "growth", "lone", "peaks", "peers")
        }
        if not path.is_file():
            return cls(path, fresh)
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise R1kitError(
                f"{path}: not the JSON that this command wrote ({error}): remove it to measure again"
            ) from None
        return cls(path, fresh | found if found.get("machine") == fresh["machine"] else fresh)

    def save(self) -> None:
        write_whole(self.path, json.dumps(self.content, indent=1, sort_keys=True) + "\n")

    def add(
        self,
        work: Work,
        measured: Mapping[str, Sequence[Measured]],
        missing: Mapping[str, str],
        more: Mapping[str, Any],
    ) -> None:
        """Replace the earlier figures of a work and compute its ratios."""
        own = measured["r1kit"]
        for peer in work.peers:
            name = work.ratio_name(peer)
            for table in ("ratios", "spreads", "missing"):
                self.content[table].pop(name, None)
            if peer in measured:
                spread = ratios(own, measured[peer], work.cores)
                self.content["ratios"][name] = round(spread.median, 3)
                self.content["spreads"][name] = spread.json()
            else:
                self.content["missing"][name] = missing.get(peer, "not measured")
        sides = {
            side: {
                "rate": Spread.of([each.rate(work.cores) for each in found]).json(),
                "peak_mb": round(max(each.peak_mb for each in found)),
                "repeats": [record(each) for each in found],
            }
            for side, found in measured.items()
        }
        key = self._key(work)
        kept = {} if set(work.peers) >= set(self._sides(key)) else self._kept(key)
        self.content["measured"][key] = {"sides": kept | sides, **stamp(), "cores": work.cores, **more}
        self.save()

    def has(self, work: Work) -> bool:
        """Whether a work was measured with the source as it is, each of its peers with figures or a reason
        why there are none."""
        found = self.content["measured"].get(self._key(work), {})
        failed = {peer for peer in work.peers if work.ratio_name(peer) in self.content["missing"]}
        return found.get("revision") == revision() and set(work.peers) <= failed | set(found.get("sides", {}))

    @staticmethod
    def _key(work: Work) -> str:
        return work.name + ("" if work.cores == 1 else f"/{work.cores}cores")

    def _sides(self, key: str) -> list[str]:
        return [side for side in self._kept(key) if side != "r1kit"]

    def _kept(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.content["measured"].get(key, {}).get("sides", {})
        return found
