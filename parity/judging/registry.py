"""Every metric that a record can hold, once. To add one, add an entry here and write
docs/glossary.md again.

A metric of two arrays (`fn`) needs nothing more: it can be limited, is measured where it is, and is
in the report, the glossary and the ledger. Any other needs the code that measures it. Imports no
pytest, no torch, no converter.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from parity.core.errors import ParityError
from parity.judging.metrics import EXACT_DB, iou
from parity.judging.spec import CHAIN_OF_PROOF, LOWERING, MetricSpec, Sense

# The ledger's least changes. 4e-6 is 64 roundings of float32 (2^-24), which reordered sums reach; 1
# - cosine is about half the square of a relative error, so 1e-6 is an error of 0.14 per cent.
REORDERED, ANGLE = 4e-6, 1e-6
# Half a per cent lets any flipped case count among up to 200; half a row, any row.
FLIPPED_SHARE, FLIPPED_ROWS = 0.005, 0.5
# A noise ratio is an error against what the precision itself costs. Correct files have up to about
# 1.5, from below where the twin is noisier than the file; which of these it is says nothing, so all
# of them count as 1.5.
NOISE, NATURAL_NOISE = 0.25, 1.5
# What no precision may cost, as a share of an output's rms: zeros in place of the output are 1 off.
# Right int8 files of trained models lose 0.02 to 0.06, of architectures with random weights 0.01 to
# 0.68 (research/README.md).
USELESS = 0.8

_DIFFERENCES = (
    MetricSpec("max_abs", "max", "output", "Largest absolute difference of any element."),
    MetricSpec(
        "max_rel",
        "max",
        "ratio",
        "Largest difference relative to the element, or to the rms of the reference if that is "
        "larger, so that noise "
        "around zero does not explode.",
        ledger_floor=REORDERED,
    ),
    MetricSpec("mean_abs", "max", "output", "Mean absolute difference."),
    MetricSpec("rms", "max", "output", "Root of the mean squared difference."),
    MetricSpec(
        "rel_rms",
        "max",
        "ratio",
        "Rms of the difference over the rms of the reference; 10^(-sqnr / 20).",
        # Orders of magnitude of what each precision costs on trained networks, with room.
        fallback={"fp32": 1e-4, "fp16": 2e-2, "dynamic": 0.15, "int8": 0.25},
        ledger_floor=REORDERED,
    ),
    MetricSpec(
        "mean_signed",
        "max",
        "output",
        "Mean difference with its sign: rounding averages out, a wrong zero point or a lost bias "
        "does not. A limit "
        "judges its magnitude.",
        signed=True,
    ),
    MetricSpec(
        "cosine",
        "min",
        "ratio",
        "Cosine of the angle between the two outputs; 1 is the same direction, blind to scale. 1 "
        "when both are exactly "
        "zero, 0 when only one is.",
        low=-1.0,
        high=1.0,
        limits={"fp32": 0.99, "fp16": 0.95},  # the thresholds that mobile export guides state
        ledger_floor=ANGLE,
    ),
    MetricSpec(
        "sqnr",
        "min",
        "dB",
        f"Signal to quantisation noise in decibels: 20 dB more is a tenth of the error. {EXACT_DB:g} dB means equal.",
        low=-EXACT_DB,
        high=EXACT_DB,
        ledger_floor=REORDERED,
    ),
    MetricSpec(
        "psnr",
        "min",
        "dB",
        f"Peak signal to noise in decibels: the range of the reference over the rms. {EXACT_DB:g} dB means equal.",
        low=-EXACT_DB,
        high=EXACT_DB,
        ledger_floor=REORDERED,
    ),
    MetricSpec(
        "iou",
        "min",
        "ratio",
        "Intersection over union of two masks, elements above a half; of integers, the mean over "
        "the classes of the "
        "reference. 1 is the same mask.",
        high=1.0,
        fn=iou,
    ),
)
_DECISIONS = (
    MetricSpec(
        "top1",
        "min",
        "share",
        "Share of rows, over all cases, whose best class is the same; of tied classes the first is best.",
        "decision",
        "all cases",
        high=1.0,
        ledger_floor=FLIPPED_SHARE,
    ),
    MetricSpec(
        "top5",
        "min",
        "share",
        "Share of rows, over all cases, whose best class in the reference is among the file's "
        "five best. Needs more "
        "than five classes.",
        "decision",
        "all cases",
        high=1.0,
        ledger_floor=FLIPPED_SHARE,
    ),
    MetricSpec(
        "decision_flips",
        "max",
        "rows",
        "Number of rows, over all cases, whose best class changed.",
        "decision",
        "all cases",
        ledger_floor=FLIPPED_ROWS,
    ),
    MetricSpec(
        "flip_margin",
        "max",
        "output",
        "Over the rows that changed class: the largest lead that the lost class had in the reference.",
        "decision",
    ),
)
_ACCURACY = (
    MetricSpec(
        "top1_drop",
        "max",
        "share",
        "Loss of top-1 accuracy against the PyTorch model.",
        "accuracy",
        "all cases",
        low=-1.0,
        high=1.0,
        limits={"fp32": 0.0, "fp16": 0.01, "dynamic": 0.02, "int8": 0.05},
        ledger_floor=FLIPPED_SHARE,
    ),
    MetricSpec(
        "top1_accuracy",
        "min",
        "share",
        "Share of labelled cases that the file gets right.",
        "accuracy",
        "all cases",
        high=1.0,
    ),
)
_NOISE = (
    MetricSpec(
        "noise_ratio",
        "max",
        "ratio",
        "Error of the file over the error that the precision itself costs (each against the "
        "oracle). About 1 is a "
        "correct conversion; limits of 2 to 4 find small faults.",
        "noise",
        "all cases",
        statistic="pooled",
        ledger_floor=NOISE,
        natural=NATURAL_NOISE,
    ),
    MetricSpec(
        "noise_ratio_case",
        "max",
        "ratio",
        "The noise ratio of one case, so that one bad input is not averaged away.",
        "noise",
        statistic="worst",
        tail=True,
        ledger_floor=NOISE,
        natural=NATURAL_NOISE,
    ),
    MetricSpec(
        "noise_ratio_channel",
        "max",
        "ratio",
        "The noise ratio of one class or channel over all cases, by what the precision costs the channels of its size: "
        "shows a lost bias, in small channels beside large ones too.",
        "noise",
        "all cases",
        statistic="channel",
        tail=True,
        ledger_floor=NOISE,
        natural=NATURAL_NOISE,
    ),
    MetricSpec(
        "noise_ratio_peak",
        "max",
        "ratio",
        "The largest error of any element over the twin's largest.",
        "noise",
        "all cases",
        statistic="peak",
        tail=True,
        ledger_floor=NOISE,
        natural=NATURAL_NOISE,
    ),
    MetricSpec(
        "precision_cost",
        "max",
        "ratio",
        "Error that the precision itself explains, over the rms of the output, or of its elements that stand beside "
        "far larger ones: the file's, but no more than the twin's, or than one int8 grid costs. "
        "0.05 is an output 5 % off; "
        "1 is no better than zeros.",
        "noise",
        "all cases",
        limits={"default": USELESS},
    ),
    MetricSpec(
        "noise_ratio_drawn",
        "max",
        "ratio",
        "The noise ratio of one drawn input, other size or step of a sequence, over a floor of its own.",
        "drawn",
        tail=True,
        ledger_floor=NOISE,
        natural=NATURAL_NOISE,
    ),
    MetricSpec(
        "differing_share",
        "max",
        "share",
        "Integer outputs: the share of elements that differ from the oracle's, ties left out: what the precision's "
        "twin, or the model with its results moved by a unit of the precision, decides otherwise too.",
        "integers",
        high=1.0,
        # Set by hand: what may flip depends on margins that an index does not show, and no example model has such an
        # output to measure. At fp32 ties are all that may differ.
        limits={"fp32": 0.0, "fp16": 0.05, "dynamic": 0.1, "int8": 0.2},
    ),
    MetricSpec(
        "always_differing",
        "max",
        "elements",
        "Integer outputs: elements that differ from the oracle's in every case, where no twin or moved model does. "
        "Measured over four cases or more.",
        "integers",
        "all cases",
        limits={"default": 0.0},
    ),
    MetricSpec(
        "lost_classes",
        "max",
        "classes",
        "Integer outputs: values that the oracle gives in eight elements or more where no twin or moved model decides "
        "otherwise, and the artefact gives in no element of any case.",
        "integers",
        "all cases",
        limits={"default": 0.0},
    ),
    MetricSpec(
        "flips_beyond_noise",
        "max",
        "rows",
        "Number of rows, over all cases, whose best class changed although its lead in the oracle is beyond what the "
        "precision moves, and whose twin keeps it.",
        "noise",
        "all cases",
        limits={"default": 0.0},
        tail=True,
    ),
)
_RESIZING = tuple(
    MetricSpec(
        f"resize_{name}",
        "max",
        "ratio",
        f"Video: how far {resizer} in place of the declared resizer moves the oracle's output, as a share of its rms.",
        "resizing",
        "all cases",
    )
    for name, resizer in (
        ("opencv", "OpenCV's bilinear"),
        ("area", "OpenCV's area"),
        ("torch", "torch's bilinear"),
        ("filtered", "torch's filtered bilinear"),
    )
)
_PROOF = tuple(
    MetricSpec(name, "max", "count", doc, "proof", "cell", limits={CHAIN_OF_PROOF: 0.0})
    for name, doc in (
        ("links_failed", "Links of the chain of proof that found a culprit."),
        ("match_faults", "Constants of the file that are no tensor of the model."),
        (
            "audit_faults",
            "Stored tensors further from the model's than half a step of their precision.",
        ),
        (
            "copies_faults",
            "Stored tensors that are a tensor of the model but for some rows, where no audit could be made.",
        ),
        (
            "lift_faults",
            "Outputs on which the file's own graph, with the model's weights, is not the model.",
        ),
        (
            "local_faults",
            "Operators that are wrong on their own inputs, on some kernel set of the runtime.",
        ),
        ("range_faults", "Tensors whose calibrated range does not fit the golden data."),
        (
            "operators_faults",
            "Operators that draw random numbers, or normalise by the batch, where the module does not.",
        ),
    )
)
_UNEXPLAINED = MetricSpec(
    "unexplained_operators",
    "max",
    "count",
    "Operators of the file that decide by data where the module does not, and that nobody accepted.",
    "proof",
    "cell",
)
_EXTRA = MetricSpec(
    "unexplained_constants",
    "max",
    "count",
    "Constants of the file that no tensor of the module explains, and that nobody accepted.",
    "proof",
    "cell",
)
_DRAWN_COST = MetricSpec(
    "drawn_cost",
    "max",
    "ratio",
    "int8: error over the rms of the output on drawn inputs within the declared range. Far more than on golden data "
    "where calibration data do not reach over the range.",
    "drawn",
    "all cases",
)
_ONE_WAY = MetricSpec(
    "one_way_decisions",
    "max",
    "count",
    "Decisions of the module by its inputs that went the same way in every case, and that nobody accepted: the other "
    "way was never compared.",
    "drawn",
    "cell",
)
_LOWERING = (
    MetricSpec(
        "lowering_db",
        "min",
        "dB",
        "Core ML: signal to noise of the file's fp32 sibling with no activation rounded, in "
        "decibels. Sound "
        "conversions keep more than 110; less than 100 is a fault of the conversion.",
        "lowering",
        "all cases",
        high=EXACT_DB,
        # Right conversions of 34 networks keep 113 to 150 dB, since fp32 weights are all that is
        # rounded; the least of the known faults falls to 90.
        limits={LOWERING: 100.0},
    ),
    MetricSpec(
        "lowering_ratio",
        "max",
        "ratio",
        "Core ML files without an fp32 sibling: error with no activation rounded, over what "
        "storing the weights at "
        "that precision costs.",
        "lowering",
        "all cases",
        limits={LOWERING: 4.0},  # as everywhere at fp32
    ),
)
_CELL = (
    MetricSpec(
        "flex_ops",
        "max",
        "count",
        "Operators that run only in apps that link the Flex delegate.",
        "operators",
        "cell",
        limits={"default": 0.0},
    ),
    MetricSpec(
        "unmeasured_signatures",
        "max",
        "count",
        "Signatures of a TFLite file, functions of a Core ML file, programs of a .pt2 file, or other ways to run a "
        "TorchScript file, beside the one that was measured, which nobody accepted: an app may call them.",
        "operators",
        "cell",
        limits={"default": 0.0},
    ),
    MetricSpec(
        "power",
        "min",
        "share",
        "Share of the injected faults that the checks of this cell notice; a limit on it has it measured.",
        "power",
        "cell",
        high=1.0,
    ),
)
_DESCRIPTIONS = tuple(
    MetricSpec(name, "max", unit, doc, "description", "all cases", low=-math.inf)
    for name, unit, doc in (
        ("gain", "ratio", "Slope of the file's values over the reference's; 1 is none."),
        ("offset", "output", "What the file adds to gain times the reference."),
        (
            "bias",
            "output",
            "Mean difference with its sign over all cases: quantisation has a real one.",
        ),
    )
)
_MEASUREMENTS = (
    MetricSpec(
        "reference_drift",
        "max",
        "ratio",
        "Rms of the oracle now less the stored reference, over the rms of the reference.",
        "measurement",
    ),
    MetricSpec(
        "changed",
        "max",
        "elements",
        "Elements of an output that differ in any bit when order, session or past differ. None may.",
        "measurement",
    ),
    MetricSpec(
        "steps_right",
        "min",
        "steps",
        "Steps of a sequence before the first that is wrong. All must be right.",
        "measurement",
    ),
    MetricSpec(
        "prefill_gap",
        "max",
        "ratio",
        "Rms between the model's own decoding and its prefill in float64, over the rms of its scores.",
        "measurement",
        "all cases",
    ),
    MetricSpec(
        "undefined_share",
        "max",
        "share",
        "Share of the drawn inputs that say nothing of an output: the model is undefined there at "
        "the cell's precision, or decides between equals.",
        "measurement",
        "all cases",
        high=1.0,
    ),
)
_CONTRACT = tuple(
    MetricSpec(name, "min", "yes or no", doc, "contract", "cell", high=1.0)
    for name, doc in (
        ("inputs_count", "The file has the declared number of inputs."),
        ("outputs_count", "The file has the declared number of outputs."),
        ("present", "The file has the declared input or output, by name."),
        ("shape", "The shape is the declared one, and dynamic axes are dynamic."),
        ("enumerated", "The file takes the declared sizes of an enumerated axis, and no others."),
        ("dtype", "The element type is the declared one; at int8, its scale and zero point."),
        ("operators", "The operators of the file could be listed."),
        ("opset", "The ONNX operator set is the one that was asked for."),
        ("labels", "The classes that the file names are the declared labels, in their order."),
        ("repeats", "Two runs on one input give the same bits."),
        ("tensor_name", "The file's own name of an input or output is not the model's name of another."),
        ("uninitialised", "An output follows memory that nothing wrote only where the module's does so too."),
        ("overwrites", "The file writes into an input only where the module does so too: its caller still holds it."),
    )
)

METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        *_NOISE,
        *_DIFFERENCES,
        *_DECISIONS,
        *_ACCURACY,
        *_LOWERING,
        *_CELL,
        *_PROOF,
        _UNEXPLAINED,
        _EXTRA,
        _ONE_WAY,
        _DRAWN_COST,
        *_RESIZING,
        *_DESCRIPTIONS,
        *_MEASUREMENTS,
        *_CONTRACT,
    )
}
"""Every metric by name; a project's own come last."""

BUILT_IN = tuple(METRICS.values())
"""The metrics that every project has, in the glossary's order."""


def register_metric(
    name: str,
    fn: Callable[[npt.NDArray[Any], npt.NDArray[Any]], float],
    *,
    sense: Sense,
    doc: str,
    unit: str = "",
) -> MetricSpec:
    """Add a metric `fn(got, want) -> float` that a limit may then name.

    `fn` sees the two arrays as given, of equal shape, with no non-finite element but infinities of
    the same sign at the same place. A result that is not finite fails its check. A name cannot be
    taken twice.
    """
    if not name.isidentifier() or name in {"axis", "also", "got", "want"}:
        raise ParityError(f"register_metric: {name!r} cannot name a metric: use a Python identifier, not an argument")
    if name in METRICS:
        raise ParityError(f"register_metric: the metric {name!r} exists: choose another name")
    if sense not in ("max", "min"):
        raise ParityError(f"register_metric: sense of {name!r} is {sense!r}: use 'max' (value <= limit) or 'min'")
    METRICS[name] = MetricSpec(name, sense, unit, doc, low=-math.inf, fn=fn)
    return METRICS[name]


def compared(name: str) -> MetricSpec:
    """The metric of that name that `compare` measures. Raises ParityError with the nearest name."""
    spec = METRICS.get(name)
    if spec is not None and spec.compared:
        return spec
    names = [other.name for other in METRICS.values() if other.compared]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(names))}"
    raise ParityError(f"compare: there is no metric {name!r}: {hint}")


def of_family(*families: str) -> tuple[str, ...]:
    """The names of the metrics of some families, in order."""
    return tuple(spec.name for spec in METRICS.values() if spec.family in families)


def limitable() -> tuple[str, ...]:
    """The names that a limit can have, in order."""
    return tuple(spec.name for spec in METRICS.values() if not spec.unlimited)
