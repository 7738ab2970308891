"""stages/kept.py: what stands in the place of a kept folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1kit.stages.kept import is_kept


@pytest.mark.parametrize("there", ["nothing", "file", "link to nothing"])
def test_what_is_no_folder_is_removed_with_a_warning_and_the_folder_can_be_made(
    tmp_path: Path, there: str
) -> None:
    lines: list[str] = []
    ctx: Any = SimpleNamespace(out=tmp_path, log=SimpleNamespace(info=lines.append), identities=("owner",))
    if there == "file":
        (tmp_path / "init").write_text("x")
    elif there == "link to nothing":
        (tmp_path / "init").symlink_to(tmp_path / "absent")
    assert not is_kept(ctx, "init")
    (tmp_path / ".init.tmp").mkdir()
    (tmp_path / ".init.tmp").rename(tmp_path / "init")
    assert len(lines) == (there != "nothing") and all(f"{tmp_path / 'init'}: " in line for line in lines)
