"""The processor that this machine computes on, and what must be known of it. Imports seccomp alone.

Runtimes choose their kernels by its instruction sets, so the last bits of float32 sums differ between processors. One
choice is wrong: before 1.25, ONNX Runtime on processors with AMX computes row 31 of every 32 of a product of 8-bit
integers wrongly, in the last columns of a product whose columns leave a rest of 17 to 31 of 32 (microsoft/onnxruntime
#26324, mended in pull request #27671).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import re
import sys
from functools import cache
from pathlib import Path

from parity.process import seccomp

MENDED = (1, 25)  # the first version of ONNX Runtime that multiplies rightly
_ARCH_PRCTL, _GRANTED, _ASK = 158, 0x1022, 0x1023  # arch_prctl(ARCH_GET_XCOMP_PERM), (ARCH_REQ_XCOMP_PERM)
_TILES = 18  # XFEATURE_XTILEDATA


@cache
def name() -> str:
    """The processor's model as the system calls it; its architecture where the system has no name for it."""
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.processor() or platform.machine()


@cache
def multiplies_wrongly() -> str:
    """The version of ONNX Runtime here, where it multiplies 8-bit integers wrongly on this processor; else empty."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or " amx_int8" not in _cpuinfo():
        return ""
    try:
        version = importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return version if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < MENDED else ""


@cache
def without_amx() -> bool:
    """Have the kernel refuse AMX to this process for good, so that every runtime in it takes other kernels; whether it
    does. A process in which a runtime has asked for it already keeps it."""
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp.install(
        [
            (seccomp.LOAD, 0, 0, seccomp.NUMBER),
            (seccomp.EQUAL, 0, 3, _ARCH_PRCTL),
            (seccomp.LOAD, 0, 0, seccomp.ARGUMENT),
            (seccomp.EQUAL, 0, 1, _ASK),
            (seccomp.RETURN, 0, 0, seccomp.REFUSED),
            (seccomp.RETURN, 0, 0, seccomp.ALLOWED),
        ]
    )
    granted = ctypes.c_uint64(1 << _TILES)
    libc.syscall(_ARCH_PRCTL, _GRANTED, ctypes.byref(granted))
    return not granted.value >> _TILES & 1


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return ""
