"""What zip archives state that they unpack to, looked at before anything in them is unpacked. Standard library only."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

# An archive that unpacks to at least so many bytes, and to so many times its own size, is a bomb: no weights are.
SUSPICIOUS_BYTES, MOST_TIMES = 256 << 20, 100


def check_sizes(members: Sequence[zipfile.ZipInfo], most_bytes: int) -> None:
    """Raise ValueError where the archive states more than it may unpack to, or one name twice.

    What a member has beyond its stated size is never read, so no archive takes more than it states.
    """
    size = sum(m.file_size for m in members)
    packed = sum(m.compress_size for m in members)
    if size > most_bytes:
        raise ValueError(f"unpacks to {_gibibytes(size)}, more than the {_gibibytes(most_bytes)} that it may take")
    if size > SUSPICIOUS_BYTES and size > MOST_TIMES * packed:
        raise ValueError(f"unpacks to {_gibibytes(size)}, from {packed / (1 << 20):.1f} MiB")
    if len({m.filename for m in members}) != len(members):
        raise ValueError("holds two members of one name")


def _gibibytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
