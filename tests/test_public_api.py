"""The public names: each resolves, and importing the package loads nothing heavy."""

import subprocess
import sys

import pytest

import r1kit


@pytest.mark.parametrize("name", r1kit.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(r1kit, name).__module__.startswith("r1kit")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chek_math'"):
        r1kit.chek_math  # noqa: B018


def test_importing_the_package_loads_no_torch() -> None:
    code = "import r1kit, sys; print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
