"""The GPUs that packs are dealt out to, found without torch: the process that starts packs must
stay small.
"""

import os
import re
import shutil
import subprocess
from itertools import takewhile


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` may be set to for one of them; empty without any."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:  # like CUDA, which stops at the first that does not exist
        return list(
            takewhile(lambda gpu: gpu not in ("", "-1"), (gpu.strip() for gpu in named.split(",")))
        )
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    # its own order of numbers is not CUDA's
    return re.findall(r"^GPU \d+:.*\(UUID: (GPU-[^)]+)\)", listed, re.MULTILINE)
