"""How far int8 files are off on drawn inputs within the declared range, where calibration data reach less far.

A file clips what lies beyond its calibrated ranges, and its twin, calibrated by the same data, clips alike: each such
input is excused, and nothing but the size of the error shows that the file gives something else there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parity.cases.recipes import family
from parity.core.case import Case
from parity.core.contract import InputSpec, OutputSpec
from parity.judging import judge
from parity.judging.single import size_of
from parity.suite.bench import Bench, Result
from parity.suite.recorder import Recorder

MUCH = 0.5  # of the output's rms: an output that is half lost
TIMES_GOLDEN = 2.0  # what int8 costs on golden data is no matter of how far calibration reaches
MOST_OF_IT = 0.75  # of the declared range: pictures seldom hold both of its ends
METRIC = "drawn_cost"


def check(bench: Bench, drawn: Sequence[Result], parity: Recorder) -> None:
    """Record how far each float output is off on drawn inputs within the declared range; warn where that is much and
    calibration data do not reach over it. Nothing for other precisions, and without calibration data."""
    calibration = bench.session.quantising(bench.model, bench.cell.precision)
    if not calibration:
        return
    chosen = [r for r in drawn if bench.promised(r) and not (r.skipped or r.broke or r.silent or bench.fails(r))]
    short = [text for spec in bench.model.contract.inputs if (text := _short(spec, calibration))]
    for spec in bench.model.contract.outputs:
        share = _share(spec, chosen)
        if share is None:
            continue
        detail = f"over {len(chosen)} drawn inputs within the declared range"
        parity.add(judge.described("property", spec, METRIC, share, parity.limits(spec.name), detail))
        if short and share > max(MUCH, TIMES_GOLDEN * bench.usual[spec.name].relative):
            parity.find(
                f"{'; '.join(short)}. On drawn inputs within the declared range {spec.name} is off by {share:.0%} of "
                "its rms, and so is the twin: calibrate over the whole range, or declare the range that inputs have",
                "warning",
            )


def _share(spec: OutputSpec, results: Sequence[Result]) -> float | None:
    """The rms error of an output over its rms, all inputs together; None where there is nothing to measure."""
    errors, sizes = [], []
    for result in results:
        judged, want = result.judged[spec.name], result.want
        if judged.exact or want is None or not math.isfinite(judged.error):
            continue
        errors.append(judged.error)
        sizes.append(size_of(want.outputs[spec.name]))
    size = float(np.sqrt(np.mean(np.square(sizes)))) if sizes else 0.0
    return float(np.sqrt(np.mean(np.square(errors)))) / size if size else None


def _short(spec: InputSpec, calibration: Sequence[Case]) -> str:
    """How far the calibration data of an input reach, where that is not most of its declared range; else empty."""
    if family(spec) != "float" or spec.range is None:
        return ""
    low, high = spec.range
    least = min(float(case.inputs[spec.name].min()) for case in calibration)
    most = max(float(case.inputs[spec.name].max()) for case in calibration)
    if min(most, high) - max(least, low) >= MOST_OF_IT * (high - low):
        return ""
    return (
        f"{spec.name}: calibration data reach from {least:.3g} to {most:.3g}, the declared range is {low:g} to {high:g}"
    )
