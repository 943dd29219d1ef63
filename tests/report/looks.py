"""What the test records hold to look at: pictures, values, distributions, drift, fates of faults. Deterministic."""

from __future__ import annotations

import math

import numpy as np

from parity.core.contract import OutputSpec, Preprocess
from parity.core.exhibits import Distribution, Exhibit, FaultFate, Spread
from parity.core.record import Drift, ExecutionRecord
from parity.suite import evidence, pictures

LABELS = ("nevus", "keratosis", "linear_rising", "linear_falling", "eccentric")
FAULTS = ("swap_rgb_bgr", "mean_bgr", "scale_256", "bias_dropped", "stale_layer", "same_padding", "bn_epsilon",
          "relu6_lost", "labels_rotated", "zero_point_off_by_one")  # fmt: skip


def photo(seed: int, size: int = 96) -> np.ndarray:
    """A drawn input [1, 3, size, size] in 0 to 1: a disc on a gradient."""
    y, x = np.mgrid[0:size, 0:size] / size
    disc = ((x - 0.3 - 0.04 * (seed % 9)) ** 2 + (y - 0.5) ** 2 < 0.05).astype(float)
    return np.stack([0.5 + 0.4 * disc * x, 0.4 + 0.3 * y, 0.6 - 0.4 * disc])[None].astype(np.float32)


def classified(kind: str, case: str, seed: int = 0, wrong: float = 0.3, metric: str = "noise_ratio") -> Exhibit:
    """A worst case of a classifier: a picture, and five scores."""
    picture = pictures.photograph(photo(seed), Preprocess(), "image")
    assert picture is not None
    want = tuple(round(4 * math.sin(seed + 1.7 * i), 4) for i in range(5))
    got = tuple(round(v + wrong * math.cos(3.1 * i + seed), 4) for i, v in enumerate(want))
    return Exhibit(kind, case, "logits", metric, 4.1, (picture,), "labelled nevus", LABELS, want, got)


def dense(kind: str, case: str, seed: int = 0) -> Exhibit:
    """A worst case of a dense output: input, reference, artefact and difference as pictures."""
    picture = pictures.photograph(photo(seed), Preprocess(), "frame")
    assert picture is not None
    want = photo(seed, 48)[:, :1]
    got = want + np.float32(0.02) * np.sin(np.arange(48, dtype=np.float32) / 3 + seed)
    got[0, 0, 20:24, 30:34] += 0.4
    maps = evidence._maps(OutputSpec("mask"), got, want)
    return Exhibit(kind, case, "landmarks", "noise_ratio_case", 5.2, (picture,), **maps)


def distribution(kind: str = "golden", output: str = "logits", worse: int = 2) -> Distribution:
    """Errors of a file that is `worse` half decades worse than its precision."""
    bell = [round(900 * math.exp(-((i - 9) ** 2) / 6)) for i in range(24)]
    moved = tuple(bell[max(i - worse, 0)] if i >= worse else 0 for i in range(24))
    return Distribution(kind, output, sum(moved) + 40, 2.31, -10.0, 0.5, moved, 40, 0, tuple(bell), 44)


def natural() -> tuple[Spread, ...]:
    """A natural spread of two metrics."""
    return Spread("noise_ratio", 1.0, 1.48, 1.76, 21), Spread("noise_ratio_case", 1.02, 3.87, 5.13, 21)


def drift(layers: int = 24, jump: int = 9) -> tuple[Drift, ...]:
    """A curve that follows its precision up to a layer and leaves it there."""
    found = []
    for i in range(layers):
        floor = 0.004 * (1 + 0.1 * i)
        error = floor * (1.1 if i < jump else 14)
        name = "net.stem.conv" if i == jump else f"net.block{i}.conv"
        found.append(Drift(name, error, floor, error if i == jump else floor / 3, "CONV_2D", f"t{i}"))
    return tuple(found)


def fates(survivors: tuple[str, ...]) -> tuple[FaultFate, ...]:
    """Every fault with its fate, one of each kind."""
    found = [FaultFate(f, "survived" if f in survivors else "noticed", f"the {f} fault") for f in FAULTS]
    return (*found, FaultFate("dropout_live", "equivalent"), FaultFate("gru_gates", "not applicable"))


def execution() -> ExecutionRecord:
    """One execution that a capsule brought back from a Mac."""
    return ExecutionRecord("coreml-runtime", "CPU_AND_NE", ("golden",), "9.0", "Mac15,3 macOS 15.1", 0.8, "a1b2c3d4e5",
                           {"ane": 40, "cpu": 2})  # fmt: skip
