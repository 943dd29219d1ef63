"""The words of the report, taught: states, verdicts, kinds of checks, metrics and the ideas behind them.

Also fixes the order of the states in every output (what blocks comes first) and the tone in which each is
drawn.
"""

from __future__ import annotations

from typing import Final

from parity.core.kinds import KINDS
from parity.core.record import State, Verdict

STATE_ORDER: Final[tuple[State, ...]] = (
    "fail",
    "crash",
    "error",
    "timeout",
    "missing",
    "unavailable",
    "waived",
    "pass",
)
BLOCKING: Final[frozenset[State]] = frozenset({"fail", "crash", "error", "timeout", "missing"})
GAPS: Final[frozenset[State]] = frozenset({"missing", "unavailable"})

TONES: Final[dict[State, str]] = {
    "fail": "bad",
    "crash": "bad",
    "error": "bad",
    "timeout": "bad",
    "missing": "gap",
    "unavailable": "off",
    "waived": "let",
    "pass": "ok",
}
VERDICT_TONES: Final[dict[Verdict, str]] = {
    "pass": "ok",
    "fail": "bad",
    "incomplete": "gap",
    "partial": "let",
}
EMOJI: Final[dict[State, str]] = {
    "fail": "❌",
    "crash": "💥",
    "error": "⚠️",
    "timeout": "⏳",
    "missing": "❓",
    "unavailable": "➖",
    "waived": "🏳️",
    "pass": "✅",
}
VERDICT_EMOJI: Final[dict[Verdict, str]] = {"pass": "✅", "fail": "❌", "incomplete": "❓", "partial": "🔎"}

KINDS_OF_CHECKS: Final = "Kinds of checks"

GLOSSARY: Final[tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = (
    (
        "States of a cell",
        (
            ("pass", "Every planned check has a finite measurement, and each is inside its limit."),
            ("fail", "A check was measured and lies outside its limit."),
            (
                "error",
                "A step (export, convert, load, run, compare) ended with a message instead of a result.",
            ),
            (
                "crash",
                "The process that built or ran the file died: segmentation fault, abort, out of memory.",
            ),
            ("timeout", "The step did not end within its time."),
            ("missing", "The cell was planned and nothing reported on it. Never read as pass."),
            ("unavailable", "This machine cannot measure the cell; the reason says what it would need."),
            ("waived", "Outside its limit, and a waiver with a reason and an expiry date accepts that."),
        ),
    ),
    (
        "Verdicts of a run",
        (
            ("pass", "Every planned cell passed, or is covered by a waiver that holds."),
            ("fail", "At least one cell blocks the release."),
            ("incomplete", "A check that was planned or required has no measurement."),
            (
                "partial",
                "The matrix was narrowed by the user: useful while working, never a release verdict.",
            ),
        ),
    ),
    (
        KINDS_OF_CHECKS,
        tuple((kind.name, kind.sentence) for kind in KINDS),
    ),
    (
        "Metrics",
        (
            (
                "noise_ratio",
                "Error of the file over the error that the precision itself costs (each "
                "against the oracle). About 1 is a correct conversion; limits of 2 to 4 find small faults.",
            ),
            ("noise_ratio_case", "The noise ratio of one case, so that one bad input is not averaged away."),
            ("noise_ratio_channel", "The noise ratio of one class or channel over all cases: shows a lost bias."),
            ("noise_ratio_peak", "The largest error of any element over the twin's largest."),
            ("max_abs", "Largest absolute difference of any element."),
            ("mean_abs", "Mean absolute difference."),
            (
                "max_rel",
                "Largest difference relative to the element, or to the output's typical size if larger.",
            ),
            ("rms", "Root of the mean squared difference."),
            ("rel_rms", "Rms of the difference over the rms of the reference."),
            ("mean_signed", "Mean difference with its sign: shows a wrong zero point or a lost bias."),
            (
                "cosine",
                "Cosine of the angle between the two outputs; 1 is the same direction, blind to scale.",
            ),
            ("sqnr", "Signal to quantisation noise in decibels: 20 dB more is a tenth of the error."),
            ("psnr", "Peak signal to noise in decibels."),
            ("top1", "Share of rows whose best class is the same."),
            ("top5", "Share of rows whose best class is among the five best of the other."),
            ("iou", "Intersection over union of two masks, elements above a half; 1 is the same mask."),
            ("decision_flips", "Number of rows whose best class changed."),
            ("flip_margin", "Over the rows that changed class: the largest lead that the lost class had."),
            ("top1_accuracy", "Share of labelled cases that the file gets right."),
            ("top1_drop", "Loss of top-1 accuracy against the PyTorch model."),
            (
                "lowering_db",
                "Core ML: signal to noise of the file's fp32 sibling with no activation rounded, in decibels. Sound "
                "conversions keep more than 110; less than 100 is a fault of the conversion.",
            ),
            (
                "lowering_ratio",
                "Core ML files without an fp32 sibling: error with no activation rounded, over what storing the "
                "weights at that precision costs.",
            ),
            ("gain", "Slope of the file's values over the reference's; description, 1 is none."),
            ("offset", "What the file adds to gain times the reference; description."),
            ("bias", "Mean difference with its sign over all cases; description: quantisation has a real one."),
            ("power", "Share of the injected faults that the checks of this cell notice."),
            ("links_failed", "Links of the chain of proof that found a culprit."),
            ("match_faults", "Constants of the file that are no tensor of the model."),
            ("audit_faults", "Stored tensors further from the model's than half a step of their precision."),
            ("lift_faults", "Outputs on which the file's own graph, with the model's weights, is not the model."),
            ("local_faults", "Operators that are wrong on their own inputs, on some kernel set of the runtime."),
            ("range_faults", "Tensors whose calibrated range does not fit the golden data."),
        ),
    ),
    (
        "Facts of the contract",
        (
            ("inputs_count", "The file has the declared number of inputs."),
            ("outputs_count", "The file has the declared number of outputs."),
            ("present", "The file has the declared input or output, by name."),
            ("shape", "The shape is the declared one, and dynamic axes are dynamic."),
            ("dtype", "The element type is the declared one; at int8, its scale and zero point."),
            ("operators", "The operators of the file could be listed."),
            ("flex_ops", "Operators that run only in apps that link the Flex delegate."),
            ("opset", "The ONNX operator set is the one that was asked for."),
            ("repeats", "Two runs on one input give the same bits."),
        ),
    ),
    (
        "Ideas",
        (
            ("required", "A cell that must be measured on this machine for the verdict to be pass."),
            ("cell", "One model for one target at one precision: skin-tflite-int8."),
            ("route", "The chain of converters that built the file."),
            ("artefact", "The file or folder that would ship, with its size and sha256."),
            ("case", "One input: a golden picture, a video frame, a drawn tensor, a step of a sequence."),
            (
                "limit",
                "What a check may reach, and the rule that set it: precision, target, model, output ...",
            ),
            ("limit used", "Share of the way from perfect to the limit: 100 % is at the limit."),
            ("headroom", "What is left of the limit: 100 % less the share used. A limit without room just holds."),
            ("undecided", "The figure is inside the limit, and from so few cases it may as well be beyond it."),
            ("oracle", "The untouched PyTorch module in float64: what the model means."),
            (
                "natural spread",
                "The noise ratios that correct exports of many models were measured to have, per target and precision.",
            ),
            (
                "chain of proof",
                "Match, audit, lift, local and range: together they show that the file is the model.",
            ),
            ("drift", "How the error grows along the network when the file runs by itself, layer by layer."),
            ("twin", "The PyTorch model with weights and activations rounded as the precision rounds them."),
            (
                "noise floor",
                "The twin's error against the oracle: what the precision costs even when all is right.",
            ),
            (
                "power",
                "Share of injected faults (swapped channels, dropped bias ...) that the checks notice.",
            ),
            ("survivor", "An injected fault that the checks did not notice: this gate is blind to it."),
            ("diagnosis", "Known faults whose effect resembles the measured error, best first."),
            ("first divergence", "The first layer at which the error is introduced."),
            ("waiver", "An accepted failure: a cell, a metric, a reason and a date at which it expires."),
            ("baseline", "The figures of the last release, to which this run is compared."),
        ),
    ),
)


def word_id(group: str, word: str) -> str:
    """The HTML id of a glossary entry."""
    return f"w_{group.split()[0].lower()}_{word.replace(' ', '_')}"


METRIC_WORDS: Final[dict[str, str]] = {
    word: word_id(group, word) for group in ("Facts of the contract", "Metrics") for word, _ in dict(GLOSSARY)[group]
}
KIND_WORDS: Final[dict[str, str]] = {
    word: word_id(KINDS_OF_CHECKS, word) for word, _ in dict(GLOSSARY)[KINDS_OF_CHECKS]
}


def markdown() -> str:
    """The glossary as a page of the documentation, docs/glossary.md, which a test holds against it."""
    lines = ["# Glossary", "", "The words of the report, the record and the configuration. Made from the report's own."]
    for group, words in GLOSSARY:
        lines += ["", f"## {group}", ""]
        if group == KINDS_OF_CHECKS:
            lines.append("Each says what it measures in [`parity/core/kinds.py`](../parity/core/kinds.py).")
            continue
        lines += ["| word | meaning |", "| --- | --- |"]
        lines += [f"| `{word}` | {meaning.replace('|', chr(92) + '|')} |" for word, meaning in words]
    return "\n".join(lines) + "\n"
