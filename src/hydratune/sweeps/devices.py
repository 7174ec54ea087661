"""The GPUs of this machine, found without torch, which would make a process large."""

import os
import re
import shutil
import subprocess
from itertools import takewhile


def visible_gpus() -> list[str]:
    """Return the values of ``CUDA_VISIBLE_DEVICES`` that choose one GPU each; none without GPUs."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is not None:  # like CUDA, which stops at the first that does not exist
        names = (name.strip() for name in variable.split(","))
        return list(takewhile(lambda name: name not in ("", "-1"), names))
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        text = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    # by their ids: nvidia-smi's order of numbers is not CUDA's
    return re.findall(r"^GPU \d+:.*\(UUID: (GPU-[^)]+)\)", text, re.MULTILINE)
