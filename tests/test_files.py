"""files.py: folders that are made below a run's folder, and what may stand in their place."""

import os
from pathlib import Path

import pytest

from r1kit.config import R1kitError
from r1kit.files import make_folder


def test_missing_folders_are_made_and_present_ones_are_left_alone(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b")
    (tmp_path / "a/b/file").write_text("kept")
    make_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b/file").read_text() == "kept"


@pytest.mark.parametrize("there", ["a", "a/b"])
@pytest.mark.parametrize("kind", ["file", "link to nothing", "pipe"])
def test_what_is_no_folder_is_named_and_left_alone(tmp_path: Path, there: str, kind: str) -> None:
    place = tmp_path / there
    place.parent.mkdir(exist_ok=True)
    if kind == "file":
        place.write_text("x")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "absent")
    with pytest.raises(R1kitError, match=f"{place}: a .*Move it away"):
        make_folder(tmp_path / "a/b")
    assert os.path.lexists(place) and not (tmp_path / "absent").exists()
