"""Rows of named arrays, one a case, in one file of the store."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from parity.core.case import Array


def write(file: Path, rows: Iterable[Mapping[str, Array]]) -> None:
    """The rows as an .npz whose members are `number/name`."""
    np.savez(file, **{f"{i}/{name}": value for i, row in enumerate(rows) for name, value in row.items()})


def read(file: Path, count: int, names: Sequence[str] | None = None) -> list[dict[str, Array]]:
    """The `count` rows that were written, with the arrays of these `names` alone where some are given.

    Read at once: another process may put the entry aside meanwhile.
    """
    rows: list[dict[str, Array]] = [{} for _ in range(count)]
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as archive:
        keys = archive.files if names is None else [f"{i}/{name}" for i in range(count) for name in names]
        for key in keys:
            number, _, name = key.partition("/")
            rows[int(number)][name] = archive[key]
    return rows
