"""From measured ratios of correct exports to the table of default limits. Pure: reads `natural.csv`, runs nothing.

    python research/natural_table.py [--write] [--check]

`natural.csv` has one line for every output of every cell and flavour of twin, as `natural.py rows` measured it. Wrong
exports must not make limits, so each cell passes a *guard* first: it is not taken in, and is named, when its chain of
proof failed, or when its ratio is an outlier against all other architectures. With --write the table goes to
`parity/judging/natural.json`; --check says whether that file is what the lines give.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parity.core.plan import PRECISIONS  # noqa: E402
from parity.judging.floor import STATISTICS  # noqa: E402
from parity.reference.recipes import RECIPES  # noqa: E402

LINES = Path(__file__).with_name("natural.csv")
TABLE = ROOT / "parity" / "judging" / "natural.json"
MARGIN, LEAST = 1.5, {"fp32": 4.0, "fp16": 3.0, "dynamic": 1.5, "int8": 1.5}
TIED = 0.05
FAR, NARROWEST = 6.0, float(np.log(1.25))
GUARD = (
    "a cell is not taken in when its chain of proof failed, or, unless the chain proved it, when ln(ratio) of one of "
    f"its outputs is more than {FAR:g} robust deviations (1.4826 times the median absolute deviation, at least ln "
    "1.25) above the median of all other architectures of the target and precision"
)
RULE = (
    f"limit = {MARGIN} x median of the cell x tail; the tail is the larger of the cell's own (largest ratio / median) "
    "and of the middle one of all targets at the precision, since few exports of one target show its tail; rounded up "
    "to one decimal; at least 4 at fp32 and 3 at fp16, where faults are hundreds of times the floor and other kernels "
    "or another order of folding are as correct, and at least 1.5 otherwise. The twin's flavour is the one whose error "
    f"is nearest to the artefacts' (the least mean |ln pooled ratio|; within {TIED:g} the precision's default). "
    f"Guard: {GUARD}. left_out: correct exports that would fail by the guard and the limits that all other models give"
)
TRACED = {
    "decoder-onnx-int8": "ONNX Runtime's calibration gives the causal mask and the scores it is added to a scale of "
    "inf, because -inf is in their range: later positions are attended to",
    "decoder-tflite-int8": "the causal mask's least float gives the scores it is added to a scale of 1.3e36: later "
    "positions are attended to, and LiteRT's own kernels abort when they open the file",
    "inception-tflite-int8": "the stem's output (0 to 3.41 in calibration) gets the range of a border slice of the "
    "average pool behind it (0 to 1.65), because slice, pool and stem must share one scale: half its range is clipped",
    "groupnet-coreml-fp32": "coremltools writes a gain and a shift as a batch_norm and leaves its epsilon of 1e-5",
    "groupnet-coreml_nn-fp32": "as groupnet-coreml-fp32",
    **{
        f"groupnet-tflite-{precision}": "onnx2tf gives the second convolution its picture in the wrong order: "
        "16 channels of 16 x 16 behind GroupNorm's reshape can not be told apart by length (docs/found-faults.md)"
        for precision in PRECISIONS
    },
    "lstm-tflite-int8": "REVERSE_V2 copies integers, and the file gives what it reads and what it "
    "writes two grids, 1.6 % apart",
    "text-tflite-int8": "LiteRT's XNNPACK ignores a zero point in BATCH_MATMUL",
    "mixer-tflite-int8": "as vit-tflite-int8",
    "vit-tflite-int8": "the Erf that onnx2tf puts in the place of Flex divides 0 by 0, and the NaN goes onto a grid",
}
"""Exports that were found to be wrong, each traced to its cause: never taken in, whether the guard sees them or not."""


@dataclass(frozen=True)
class Line:
    """One output of one cell under one flavour of twin: its ratios, and what the chain of proof said of the file."""

    model: str
    target: str
    precision: str
    flavour: str
    output: str
    floor: float  # the twin's relative error
    absolute: bool  # the twin is on the least floor, and says nothing of the flavour
    pooled: float
    worst: float
    channel: float  # NaN without such an axis
    peak: float
    distance: float
    proof: str = ""  # "proved", "not possible", "failed: ...", or empty where no chain was asked

    @property
    def cell(self) -> str:
        return f"{self.model}-{self.target}-{self.precision}"

    @property
    def kind(self) -> str:
        return f"{self.target}-{self.precision}"


def read(file: Path = LINES) -> list[Line]:
    """The lines of a CSV file."""
    numbers = {f.name for f in fields(Line) if f.type == "float"}
    with file.open(encoding="utf-8", newline="") as text:
        return [
            Line(**{k: float(v) if k in numbers else v == "True" if k == "absolute" else v for k, v in row.items()})
            for row in csv.DictReader(text)
        ]


def write(lines: Iterable[Line], file: Path = LINES) -> None:
    """Lines sorted and rounded to four digits, so that the same measurements make the same file."""
    rows = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(line).items()} for line in lines]
    rows.sort(key=lambda r: (r["target"], r["precision"], r["model"], r["output"], r["flavour"]))
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, [f.name for f in fields(Line)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def flavours(lines: Sequence[Line]) -> dict[str, dict[str, float]]:
    """By kind of cell, how far each flavour of twin is from the artefacts: the mean |ln pooled ratio|, up to ln 10."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        if not line.absolute and np.isfinite(line.pooled):
            logs = found.setdefault(line.kind, {}).setdefault(line.flavour, [])
            logs.append(min(abs(float(np.log(max(line.pooled, 1e-3)))), float(np.log(10))))
    return {kind: {f: statistics.mean(v) for f, v in by.items()} for kind, by in found.items()}


def nearest(lines: Sequence[Line]) -> list[Line]:
    """The lines of each kind's nearest flavour."""
    best = {}
    for kind, by in flavours(lines).items():  # a precision's first flavour is its default
        tied = [f for f in by if by[f] <= min(by.values()) + TIED]
        best[kind] = next(f for f in RECIPES[kind.rpartition("-")[2]] if f in tied)
    return [line for line in lines if line.flavour == best.get(line.kind)]


def refused(lines: Sequence[Line]) -> dict[str, str]:
    """The cells that the guard does not take in, with why; `lines` are of one flavour a kind."""
    found: dict[str, str] = {}
    for line in lines:
        if line.proof.startswith("failed"):
            found.setdefault(line.cell, f"the chain of proof {line.proof}")
    for line in lines:
        others = [o.pooled for o in lines if o.kind == line.kind and o.model != line.model and o.cell not in found]
        if line.cell not in found and line.proof != "proved" and len(others) >= 4:
            far, usual = _far(line.pooled, others)
            if far > FAR:
                found[line.cell] = (
                    f"ratio {line.pooled:.3g} where the others have {usual:.3g}: {far:.3g} deviations away"
                )
    return found


def _far(ratio: float, others: Sequence[float]) -> tuple[float, float]:
    """How many robust deviations a ratio is above the others', and their median."""
    logs = np.log(np.maximum([o for o in others if np.isfinite(o)], 1e-3))
    middle = float(np.median(logs))
    deviation = max(1.4826 * float(np.median(np.abs(logs - middle))), NARROWEST)
    far = (float(np.log(max(ratio, 1e-3))) - middle) / deviation if np.isfinite(ratio) else float("inf")
    return far, float(np.exp(middle))


Spread = Mapping[str, Mapping[str, float]]  # statistic -> {"median", "p95", "max"}


def fitted(lines: Sequence[Line], earlier: Mapping[str, Spread] | None = None) -> dict[str, dict[str, float]]:
    """The limits by kind and statistic that these correct exports give: the rule of RULE. Of kinds that no line is of,
    the spread that was measured `earlier` speaks."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        for s in STATISTICS:
            if not np.isnan(getattr(line, s)):
                ratios.setdefault((line.kind, s), []).append(max(getattr(line, s), 1e-9))
    medians = {key: statistics.median(values) for key, values in ratios.items()}
    tails = {key: max(values) / medians[key] for key, values in ratios.items()}
    for kind, spread in (earlier or {}).items():
        for s in STATISTICS:
            if s in spread and kind not in {line.kind for line in lines}:
                medians[kind, s] = spread[s]["median"]
                tails[kind, s] = spread[s]["max"] / spread[s]["median"]
    found: dict[str, dict[str, float]] = {}
    for (kind, s), median in medians.items():
        precision = kind.rpartition("-")[2]
        middle = statistics.median([t for (k, x), t in tails.items() if x == s and k.endswith(f"-{precision}")])
        value = float(np.ceil(10 * MARGIN * median * max(tails[kind, s], middle) - 1e-9) / 10)
        found.setdefault(kind, {})[s] = max(LEAST[precision], value)
    return found


def taken(lines: Sequence[Line]) -> list[Line]:
    """The lines that make the limits: of each kind's nearest flavour, neither known to be wrong nor refused."""
    near = nearest([line for line in lines if line.cell not in TRACED])
    out = refused(near)
    return [line for line in near if line.cell not in out]


def left_out(lines: Sequence[Line], model: str, earlier: Mapping[str, Spread] | None = None) -> list[str]:
    """The correct cells of a model that would fail by what all other models give: how well the rule holds for the next
    one. A cell whose chain of proof failed is not counted: the gate refuses it for that."""
    others = [line for line in lines if line.model != model]
    limits = fitted(taken(others), earlier)
    best = {line.kind: line.flavour for line in nearest([o for o in others if o.cell not in TRACED])}
    over = {
        line.cell for line in lines
        if line.model == model and line.kind in limits and line.flavour == best[line.kind]
        and line.cell not in TRACED and not line.proof.startswith("failed")
        and any(getattr(line, s) > limits[line.kind].get(s, float("inf")) for s in STATISTICS)
    }  # fmt: skip
    return sorted(over)


def table(lines: Sequence[Line], about: Mapping[str, Any]) -> dict[str, Any]:
    """By target and precision the nearest flavour, default limits, the spread they come from, and who is not in it.

    `about`: versions of packages, cells without an artefact with why, and under "earlier" entries whose single lines
    were not kept. Kinds that no line is of have limits by the same rule from that spread, and `left_out` is unknown; of
    the others no limit is below what its margin makes of the largest ratio there.
    """
    earlier = {kind: entry["spread"] for kind, entry in about["earlier"].items()}
    correct = [line for line in lines if line.cell not in TRACED]
    kept, out = taken(lines), refused(nearest(correct))
    limits, distances = fitted(kept, earlier), flavours(correct)
    for kind, spread in earlier.items():  # what more models had, when they were measured, is as natural
        for s in set(spread) & set(limits[kind]):
            limits[kind][s] = max(limits[kind][s], float(np.ceil(10 * MARGIN * spread[s]["max"] - 1e-9) / 10))
    alarms = [cell for model in sorted({line.model for line in lines}) for cell in left_out(lines, model, earlier)]
    cells: dict[str, Any] = {}
    for kind in sorted(limits):
        own = [line for line in kept if line.kind == kind]
        if not own:
            cells[kind] = {**about["earlier"][kind], "limits": limits[kind], "left_out": None}
            continue
        everyone = [line for line in lines if line.kind == kind]
        spreads = {s: _spread([v for o in own if not np.isnan(v := getattr(o, s))]) for s in (*STATISTICS, "distance")}
        cells[kind] = {
            "flavour": own[0].flavour,
            "count": len(own),
            "models": len({o.model for o in own}),
            "limits": limits[kind],
            "spread": {s: v for s, v in spreads.items() if v},
            "left_out": [cell for cell in alarms if cell.endswith(f"-{kind}")],
            "on_least_floor": sum(o.absolute for o in own),
            "flavours": {
                f: {"distance": round(d, 3), **_spread([o.pooled for o in everyone if o.flavour == f])}
                for f, d in distances[kind].items()
            },
            "refused": {c: why for c, why in sorted(out.items()) if c.endswith(f"-{kind}")},
            "not_correct": {c: TRACED[c] for c in sorted({o.cell for o in everyone} & set(TRACED))},
            "no_artefact": sorted(c for c in about["no_artefact"] if c.endswith(f"-{kind}")),
        }
    return {"rule": RULE, "packages": dict(about["packages"]), "cells": cells}


def _spread(values: Sequence[float]) -> dict[str, float]:
    finite = [v for v in values if np.isfinite(v)]
    if not finite:
        return {}
    return {
        "median": round(statistics.median(finite), 3),
        "p95": round(float(np.percentile(finite, 95)), 3),
        "max": round(max(finite), 3),
    }


def show(found: Mapping[str, Any]) -> None:
    """The table as Markdown, what the guard refused, and the rate of false alarms."""
    print("| cell | twin | outputs | median / p95 / max | limit | case | channel | peak | distance | left out |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, cell in found["cells"].items():
        pooled, limits = cell["spread"]["pooled"], cell["limits"]
        print(
            f"| {name} | {cell['flavour']} | {cell['count']} | {pooled['median']:.2f} / {pooled['p95']:.2f} / "
            f"{pooled['max']:.2f} | {' | '.join(str(limits.get(s, '')) for s in STATISTICS)} | "
            f"{cell['spread']['distance']['median']:.3f} | "
            + (f"{len(cell['left_out'])} of {cell['models']} |" if cell["left_out"] is not None else "earlier |")
        )
    own = [cell for cell in found["cells"].values() if cell["left_out"] is not None]
    over = [name for cell in own for name in cell["left_out"]]
    total = sum(cell["models"] for cell in own)
    print(
        f"\nleft out, each model's own cells: {len(over)} of {total} fail ({len(over) / total:.1%}): {', '.join(over)}"
    )
    print("\nRefused by the guard:")
    for kind in found["cells"].values():
        for cell, why in kind.get("refused", {}).items():
            print(f"- {cell}: {why}")


def unaided(lines: Sequence[Line]) -> None:
    """Which of the exports that are known to be wrong the guard refuses by itself."""
    out = refused(nearest(lines))
    known = sorted({line.cell for line in lines} & set(TRACED))
    print(f"\nOf {len(known)} exports known to be wrong the guard refuses {sum(c in out for c in known)} unaided:")
    for cell in known:
        print(f"- {cell}: {out.get(cell, 'TAKEN IN')}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, default=LINES)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("--check", action="store_true", help=f"is {TABLE.name} what the lines give?")
    args = parser.parse_args()
    lines, known = read(args.lines), json.loads(TABLE.read_text(encoding="utf-8"))
    side = args.lines.with_suffix(".json")
    about = json.loads(side.read_text(encoding="utf-8"))
    found = table(lines, about)
    if args.check:
        same = bool(known == found)
        print("the table is what the lines give" if same else "the table is not what the lines give")
        return 0 if same else 1
    show(found)
    unaided(lines)
    if args.write:
        TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
