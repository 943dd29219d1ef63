"""What a lifted graph gave before in this child: faults that the lift takes out of a file leave it the same graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from parity.formats.graph import Run, Values

_KEPT = 6  # one of the lift, the golden and the calibration data each, of a faulty module and of the right one
_known: dict[tuple[str, str], dict[str, Any]] = {}


class Lifted:
    """A lifted graph, opened when it is first run. Graphs of the same `content` give the same values."""

    def __init__(self, content: bytes, opened: Callable[[], Run]):
        self.digest = hashlib.sha256(content).hexdigest()
        self._opened = opened
        self._run: Run | None = None

    def __call__(self, case: Values) -> Values:
        if self._run is None:
            self._run = self._opened()
        return self._run(case)


def known(run: Run, fed: Sequence[Values]) -> dict[str, Any]:
    """A place for what `run` gave for the values that it was `fed`: what was put there for the same graph and values is
    there, as long as few others were asked for. An empty one where nothing says what graph it is."""
    if not isinstance(run, Lifted):
        return {}
    key = run.digest, _digest(fed)
    found = _known.pop(key, {})
    while len(_known) >= _KEPT:
        del _known[next(iter(_known))]
    _known[key] = found
    return found


def _digest(fed: Sequence[Values]) -> str:
    digest = hashlib.sha256()
    for values in fed:
        for name, value in values.items():
            digest.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
            digest.update(value.tobytes())
    return digest.hexdigest()
