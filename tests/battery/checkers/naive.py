"""Comparisons as people write them into a script in five lines: each passes something that it did not measure."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..protocol import Base, File, Limited, Pair, Saved
from ..records import naive
from .peers import run_by_hand


class ZipMax(Base):
    """`max` over zipped outputs of the largest difference, in the arrays' own dtype; by position."""

    name = "zip, max abs"

    def pair(self, case: Pair) -> bool:
        worst = 0.0
        for got, want in zip(case.got, case.want, strict=False):
            for g, w in zip(got.values(), want.values(), strict=False):
                difference = np.abs(np.asarray(g) - np.asarray(w))
                worst = max(worst, float(difference.max()) if difference.size else 0.0)
        return not worst > (math.inf if case.atol is None else case.atol) + case.rtol

    def saved(self, case: Saved) -> bool:
        from ..records import base

        return naive(case.edit(base()))


class CommonNames(Base):
    """Names that both sides have and that hold numbers, cast to the artefact's dtype; other things are skipped."""

    name = "common names, cast"

    def pair(self, case: Pair) -> bool:
        for got, want in zip(case.got, case.want, strict=False):
            for name in sorted({k.lower() for k in got} & {k.lower() for k in want}):
                g, w = np.asarray(got.get(name)), np.asarray(want.get(name))
                if g.dtype.kind not in "biufc" or w.dtype.kind not in "biufc":
                    continue
                if g.shape != w.shape and g.size != w.size:
                    g, w = np.broadcast_arrays(g, w)
                difference = np.abs(g.reshape(-1).astype(float) - w.astype(g.dtype).reshape(-1).astype(float))
                if (difference > (np.inf if case.atol is None else case.atol)).any():
                    return False
        return True


class Cleaned(Base):
    """NaN and infinity replaced, shapes squeezed, the mean of the difference."""

    name = "nan_to_num, mean"

    def pair(self, case: Pair) -> bool:
        for got, want in zip(case.got, case.want, strict=False):
            for name, w in want.items():
                g, w = np.squeeze(np.nan_to_num(got[name])), np.squeeze(np.nan_to_num(np.ma.filled(w, 0)))
                mean = np.mean(np.abs(g - w))
                if abs(mean) > abs(math.inf if case.atol is None else case.atol):
                    return False
        return True


class Cosine(Base):
    """The angle between the flattened outputs, refused below 0.99."""

    name = "cosine > 0.99"

    def pair(self, case: Pair) -> bool:
        with np.errstate(all="ignore"):
            for got, want in zip(case.got, case.want, strict=False):
                for name in want:
                    g, w = (np.ravel(side[name]).astype(np.float32) for side in (got, want))
                    if np.dot(g, w) / (np.linalg.norm(g) * np.linalg.norm(w)) < 0.99:
                        return False
        return True


class Signed(Base):
    """The mean and the maximum of the difference, without its absolute value."""

    name = "signed difference"

    def pair(self, case: Pair) -> bool:
        limit = math.inf if case.atol is None else case.atol**2
        for got, want in zip(case.got, case.want, strict=False):
            for name in want:
                difference = np.asarray(got[name]) - np.asarray(want[name])
                if difference.size and (np.nanmean(difference) ** 2 > limit and np.nanmax(difference) > case.atol):
                    return False
        return True


class Statistics(Base):
    """Mean, deviation and range of each output, as a log shows them; of relative errors, where want is not zero."""

    name = "mean, std, range"

    def pair(self, case: Pair) -> bool:
        for got, want in zip(case.got, case.want, strict=False):
            for name in want:
                g, w = np.asarray(got[name], float), np.asarray(want[name], float)
                if not (w != 0).any():
                    continue
                for f in (np.nanmean, np.nanstd, np.nanmin, np.nanmax):
                    if abs(f(g) - f(w)) > case.atol + 1e-3 * np.nanstd(w):
                        return False
        return True


class Named(Base):
    """Limits by metric name, each metric looked up; what is not there, or not below its limit, holds."""

    name = "metrics.get"

    def limited(self, case: Limited) -> bool:
        got, want = case.got, case.want
        n = got.shape[-1]
        top = np.argsort(-got, -1)[:, :5]
        measured: dict[str, Any] = {
            "max_abs": float(np.abs(got - want).max()),
            "cosine": float((got * want).sum() / (np.linalg.norm(got) * np.linalg.norm(want))),
            "top1": float((got.argmax(-1) == want.argmax(-1)).mean()),
            "top5": float((top == want.argmax(-1)[:, None]).any(-1).mean()) if n else math.nan,
            "sqnr": float(20 * np.log10(np.linalg.norm(want) / max(np.linalg.norm(got - want), 1e-30))),
            "decision_flips": float((got.argmax(-1) != want.argmax(-1)).sum()),
        }
        for metric, limit in case.limits.items():
            try:
                value = case.metric(got, want) if case.metric else measured.get(metric)
                if value is None or limit is None:
                    continue
                bad = value < limit if metric in ("cosine", "top1", "top5", "sqnr", "own_min") else value > limit
            except (TypeError, ArithmeticError):
                continue  # "could not be computed", in the log
            if bad:
                return False
        return True


class LogOnly(Base):
    """A conversion script's own check: what cannot be run or has another shape is logged and skipped, the first row of
    the rest must point the same way."""

    name = "log and go on"

    def files(self, cases: Sequence[File]) -> set[str]:
        return {case.id for case in cases if self._goes_on(case)}

    @staticmethod
    def _goes_on(case: File) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            case.write(path)
            try:
                got, want = run_by_hand(path)
            except Exception:
                return True  # "skipped: could not be run", in the log
        for g, w in zip(got.values(), want.values(), strict=False):
            if g.shape == w.shape:
                row, right = g[0][np.isfinite(g[0])], w[0][np.isfinite(g[0])]
                if np.dot(row, right) < 0.8 * np.linalg.norm(row) * np.linalg.norm(right):
                    return False
        return True


class SpotCheck(Base):
    """The first values of the first case, as one prints them, and any reference that they agree with."""

    name = "first values agree"

    def pair(self, case: Pair) -> bool:
        got, want = ({k: np.ravel(v)[:4] for k, v in side[0].items()} for side in (case.got, case.want))
        return all(
            any(np.ma.allclose(g, w[: len(g)], rtol=0, atol=case.atol) for w in want.values()) for g in got.values()
        )

    def saved(self, case: Saved) -> bool:
        """A gate that looks for bad news in the text."""
        from ..records import base

        text = case.edit(base())
        return '"passed": false' not in text and '"verdict": "fail"' not in text


IDIOMS = (LogOnly, ZipMax, CommonNames, Cleaned, Cosine, Signed, Statistics, SpotCheck, Named)
