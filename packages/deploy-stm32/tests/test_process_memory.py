from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HELD_MIB = """
import contextlib, sys
from pathlib import Path
import numpy as np
from stdet_deploy_stm32.process_memory import large_blocks_returned

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 >> 20

with large_blocks_returned() if sys.argv[1] == "frugal" else contextlib.nullcontext():
    warm = np.ones(24 << 18, np.float32)
    del warm  # 24 MiB: from here on, glibc keeps smaller blocks
    before = resident()
    large, small = [], []
    for _ in range(40):
        large.append(np.ones(2 << 18, np.float32))  # 2 MiB
        small.append(np.ones(1 << 14, np.float32))  # between them, so that they can't be joined
    large.clear()
    print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a habit of glibc")
def test_freed_tensors_leave_the_process() -> None:
    """80 MiB in blocks of 2, freed with others still in use between them."""

    def held(how: str) -> int:
        words = [sys.executable, "-c", HELD_MIB, how]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert held("usual") > 60  # else the test shows nothing
    assert held("frugal") < 10
