"""The checkers that the battery knows: this suite's public interface, its peers, and idioms of people's own scripts."""

from __future__ import annotations

from collections.abc import Callable

from ..protocol import Checker
from . import naive, peers, suite

SUITE: tuple[Callable[[], Checker], ...] = (suite.Compare, suite.Check, suite.Gate)
PEERS: tuple[Callable[[], Checker], ...] = (
    peers.Polygraphy, peers.TorchOnnx, peers.OnnxSim, peers.NumpyAssert, peers.NumpyClose, peers.TorchClose,
)  # fmt: skip
NAIVE: tuple[Callable[[], Checker], ...] = tuple(naive.IDIOMS)
