"""The words of the report, taught: states, verdicts, kinds of checks, metrics and the ideas behind them.

Also fixes the order of the states in every output (what blocks comes first) and the tone in which each is
drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from parity.core.kinds import KINDS
from parity.core.record import State, Verdict
from parity.judging.registry import BUILT_IN
from parity.judging.spec import MetricSpec

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


def _sentences(chosen: Callable[[MetricSpec], bool]) -> tuple[tuple[str, str], ...]:
    """(name, sentence) of the chosen metrics of the registry, in its order."""
    return tuple((spec.name, spec.doc) for spec in BUILT_IN if chosen(spec))


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
    ("Metrics", _sentences(lambda spec: not spec.unlimited)),
    ("Figures that no project limits", _sentences(lambda spec: spec.family in ("description", "measurement"))),
    ("Facts of the contract", _sentences(lambda spec: spec.family == "contract")),
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


METRIC_GROUPS: Final = ("Metrics", "Figures that no project limits", "Facts of the contract")
METRIC_WORDS: Final[dict[str, str]] = {
    word: word_id(group, word) for group in METRIC_GROUPS for word, _ in dict(GLOSSARY)[group]
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
