"""Memory that a child gives back."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from parity.process import memory

CODE = """
import psutil
from parity.process.memory import give_back
kept = [bytearray(1 << 10) for _ in range(1 << 17)]  # small pieces, which glibc keeps on its heap
last = bytearray(1 << 10)
del kept
before = psutil.Process().memory_info().rss
give_back()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc_trim")
def test_freed_memory_goes_back_to_the_system() -> None:
    given = int(subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout)
    assert given > 64 << 20


@pytest.mark.parametrize(("gibibytes", "cap"), [(4, 8), (16, 8), (24, 12), (64, 32)])
def test_a_child_may_hold_half_of_the_machine_or_8_gib(
    monkeypatch: pytest.MonkeyPatch, gibibytes: int, cap: int
) -> None:
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(total=gibibytes << 30))
    assert memory.usual_cap() == cap << 30
