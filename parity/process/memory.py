"""Memory that a child no longer uses, given back to the system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return freed memory to the system, where the C library can: glibc keeps most of it.

    The cap of a child counts resident memory, and a next stage would come on top of what an earlier one has freed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
