"""System calls that the kernel is to refuse to this process for good, by seccomp. Linux; standard library only."""

from __future__ import annotations

import ctypes
import errno
import platform
import sys
from collections.abc import Sequence

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # prctl(PR_SET_NO_NEW_PRIVS), prctl(PR_SET_SECCOMP, MODE_FILTER)
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF: load a word, jump if equal, jump if >=, return
REFUSED, ALLOWED = 0x00050000 | errno.EPERM, 0x7FFF0000  # SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; one argument takes 8 bytes

# Machine -> (its AUDIT_ARCH, number of socket). io_uring opens sockets by itself; x32 calls have numbers of their own.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP, _X32 = 425, 0x40000000


class _Rule(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("rules", ctypes.POINTER(_Rule))]


def install(rules: Sequence[tuple[int, int, int, int]]) -> bool:
    """Run a BPF program before every system call from now on; whether the kernel takes it.

    A rule is (code, rules to skip where it holds, rules to skip where it does not, value).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    program = (_Rule * len(rules))(*(_Rule(*rule) for rule in rules))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return bool(libc.prctl(_SECCOMP, _FILTER, ctypes.byref(_Program(len(rules), program)), 0, 0) == 0)


def offered() -> bool:
    """Whether sockets can be refused here."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    # A filter that cannot be read: a kernel with seccomp looks at it (EFAULT), another does not know it (EINVAL).
    libc.prctl(_SECCOMP, _FILTER, None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT


def refuse_sockets() -> bool:
    """Have the kernel refuse new sockets of every family to this process; whether it does."""
    if not offered():
        return False
    architecture, socket = _MACHINES[platform.machine()]
    return install(
        [
            (LOAD, 0, 0, ARCHITECTURE),
            (EQUAL, 0, 5, architecture),  # else refused: another architecture has other numbers
            (LOAD, 0, 0, NUMBER),
            (AT_LEAST, 3, 0, _X32),
            (EQUAL, 2, 0, socket),
            (EQUAL, 1, 0, _IO_URING_SETUP),
            (RETURN, 0, 0, ALLOWED),
            (RETURN, 0, 0, REFUSED),
        ]
    )
