"""How much memory a child may hold, and what it no longer uses given back to the system."""

from __future__ import annotations

import ctypes

import psutil

LEAST_CAP = 8 << 30  # bytes
SHARE = 0.5  # of the machine's memory: a second worker may convert a large model at the same time


def usual_cap() -> int:
    """The bytes that one child may hold where the configuration does not say: half of the machine's memory, and no less
    than 8 GiB. A cap that every machine has ends the conversion of models that the larger ones take."""
    return max(LEAST_CAP, int(SHARE * psutil.virtual_memory().total))


def give_back() -> None:
    """Return freed memory to the system, where the C library can: glibc keeps most of it.

    The cap of a child counts resident memory, and a next stage would come on top of what an earlier one has freed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
