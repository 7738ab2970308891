#!/bin/sh
# Make .venv complete: torch first, as a step of its own, so that nothing later picks another build of it; then r1kit with its tools.
#   R1KIT_PYTHON   the Python to use (default: python3.12 or python3.11, whichever is found)
#   R1KIT_TORCH    what to install as torch (default: torch==2.13.0), such as torch==2.11.0
set -eu
cd "$(dirname "$0")"

python=${R1KIT_PYTHON:-}
for candidate in python3.12 python3.11 python3; do
    [ -n "$python" ] && break
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
        python=$candidate
    fi
done
if [ -z "$python" ]; then
    echo "setup: no Python 3.11 or 3.12 found: install one, or name it: R1KIT_PYTHON=/path/to/python make ..." >&2
    exit 1
fi

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear .venv || {
        echo "setup: $python cannot make virtual environments: install its venv package (Debian: apt install python3-venv)" >&2
        exit 1
    }
fi
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet"

echo "setup: installing PyTorch and r1kit's packages into .venv: 1 GB, two to three minutes on a quiet machine" >&2
$pip "${R1KIT_TORCH:-torch==2.13.0}"
.venv/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >.venv/torch.txt
$pip -e ".[dev]" -c constraints.txt -c .venv/torch.txt
touch .venv/ready
echo "setup: done. \`. .venv/bin/activate\` makes the command r1kit known to this terminal" >&2
