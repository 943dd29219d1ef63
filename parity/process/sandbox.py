"""What a child that opens foreign files gives up for good: writing outside its scratch folder, and sockets.

A file that somebody else made is read by native code, and a fault in that is a way to run code. Such a child therefore
asks the kernel first to refuse it what no runtime needs: Landlock keeps every path but the given ones from being
written, made, moved or removed; seccomp keeps sockets from being opened (`seccomp`). Reading stays. Both hold for what
the child starts, and neither can be undone. Linux alone offers them; elsewhere nothing is given up, and `parity doctor`
says so. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from parity.process import seccomp

_NO_NEW_PRIVILEGES = 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_ASK_VERSION, _PATH_BENEATH = 1, 1
_SIZES = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}  # bytes of the attributes of a ruleset by version; 24 from 6 on

# Rights by their bits (linux/landlock.h), with the version that brought them. Reading and executing are not handled,
# so they stay as they are.
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_RIGHTS = {
    1: _WRITE_FILE | sum(1 << bit for bit in range(4, 13)),  # remove and make files, folders, links, devices
    2: 1 << 13,  # move to another folder
    3: _TRUNCATE,
}
_TCP = 0b11  # bind and connect, from version 4 on


def landlock_version() -> int:
    """The version of Landlock that the kernel offers to this process; 0 where it offers none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)))


def confine(writable: Iterable[Path]) -> bool:
    """Give up writing outside the folders `writable`, and sockets; whether the kernel took both.

    For the calling thread and all that it starts: called before a process has others.
    """
    no_sockets = seccomp.refuse_sockets()
    return _write_only(writable, landlock_version()) and no_sockets


def missing() -> str:
    """What of it this machine does not offer, in words; empty where it offers all."""
    if sys.platform != "linux":
        return f"{platform.system()} offers neither Landlock nor seccomp"
    lacking = [] if landlock_version() else ["Landlock: children can write wherever you can"]
    lacking += [] if seccomp.offered() else ["seccomp: children can open sockets"]
    return "this kernel offers no " + ", and no ".join(lacking) if lacking else ""


def _write_only(writable: Iterable[Path], version: int) -> bool:
    if not version:
        return False
    libc = _libc()
    rights = sum(bits for since, bits in _RIGHTS.items() if since <= version)
    # struct landlock_ruleset_attr: files, from version 4 on network, from 6 on what is scoped
    attributes = struct.pack("=QQQ", rights, _TCP, 0)[: _SIZES.get(version, 24)]
    rules = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return False
    try:
        for folder in writable:
            _allow(rules, folder, rights)
        _allow(rules, Path(os.devnull), rights & (_WRITE_FILE | _TRUNCATE))
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    """Add a path and all beneath it to a set of rules; one that is not there cannot be written either."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            beneath = struct.pack("=Qi", rights, folder)  # struct landlock_path_beneath_attr, packed
            _libc().syscall(_ADD_RULE, rules, _PATH_BENEATH, beneath, 0)
        finally:
            os.close(folder)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
