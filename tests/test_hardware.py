"""Memory that the allocator keeps goes back to the kernel."""

import json
import subprocess
import sys

import pytest
import torch

from hydratune.models import hardware

# Freed blocks between used blocks, which glibc by itself never returns.
_HOLES = """
import json
import resource
from pathlib import Path
import torch
from hydratune.models import hardware

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

hardware.keep_memory()
blocks = [torch.ones(2**20) for _ in range(160)]  # 640 MiB
kept = blocks[1::2]
calm = hardware.give_back(2**28)
del blocks
before = resident()
modest = hardware.give_back(2**30)
gave = hardware.give_back(2**28)
after = resident()
total = sum(float(k.sum()) for k in kept)
facts = {"calm": calm, "modest": modest, "gave": gave, "less": before - after, "sum": total}
print(json.dumps(facts))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_blocks_between_used_blocks_are_returned_to_the_system():
    ran = subprocess.run(
        [sys.executable, "-c", _HOLES], capture_output=True, text=True, timeout=120, check=True
    )
    facts = json.loads(ran.stdout)
    assert not facts["calm"]  # everything is in use
    assert not facts["modest"]  # it keeps less than that
    assert facts["gave"]
    assert facts["less"] > 250 * 2**20
    assert facts["sum"] == 80 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="proc(5)")
def test_the_peak_of_a_process_is_not_that_of_its_parent() -> None:
    held = torch.ones(400_000_000, dtype=torch.uint8)
    code = "from hydratune.models.hardware import peak_memory; print(peak_memory())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = int(asked.stdout)
    assert 100e6 < imported < 500e6
    assert hardware.peak_memory() > imported + held.numel() / 2
