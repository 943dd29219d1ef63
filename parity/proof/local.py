"""Every operator of the artefact by itself, on the artefact's own inputs: a float kernel's answer, put on the grid, may
be one step away from the integer kernel's. Run on every kernel set of the runtime: an operator that is wrong on one
and right on another is the runtime's fault, one that is wrong on all is the file's. `weighed` asks what a fault of the
runtime costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.core.proof import Culprit, Link
from parity.formats.graph import Array, Artefact, Graph, Grid, Operator, Run, Values, feed
from parity.process.memory import give_back
from parity.proof.calibration import CLOSE, KEEPING, SHIFT
from parity.proof.lift import Case, error_of, whole_error

STEPS = 1.0  # integer kernels round their products once more; +-1 step is legal and differs between kernel sets
FLOAT = 1e-4  # of the largest output: float kernels approximate transcendental functions and sum in another order
PORTION = 64 << 20  # bytes of activations that operators are judged on at a time
_SIZED = 256  # activations that are fetched at a time to learn their sizes
HALF = 4e-3  # the same where activations are fp16: a few units in the last place
RUNTIME_COST = 1.5  # times the error without a fault of the runtime, up to which it is a warning
_TIES = ("ARG_MAX", "ARG_MIN", "TOPK_V2", "ArgMax", "ArgMin", "TopK")  # equal integers may be told apart as floats


Hybrid = tuple[float, str]  # the largest sum of a channel's |weights|, and the tensor that they multiply


@dataclass
class _Score:
    """The worst deviation of each operator on one kernel set, in units of what is allowed."""

    worst: dict[int, float] = field(default_factory=dict)
    refused: str = ""

    def add(self, operator: int, value: float) -> None:
        self.worst[operator] = max(self.worst.get(operator, 0.0), value)


def local(artefact: Artefact, cases: Sequence[Case], whole: bool = True) -> Link:
    """Judge each operator on each kernel set. A kernel set that cannot run the operators is named in the figures.

    Not `whole`: on the first kernel set alone, unless it cannot run them. The link fails by that set or not at all: the
    others say whether it is the file's fault or the runtime's.
    """
    graph = artefact.graph
    scores = _scores(artefact, cases, whole)
    culprits, elsewhere = _culprits(artefact, scores)
    ran = {kernels: score for kernels, score in scores.items() if not score.refused}
    if not ran:
        reasons = "; ".join(f"{k}: {s.refused}" for k, s in scores.items())
        return Link("local", "not possible", reason=f"no kernel set runs the operators alone ({reasons})")
    judged = {i for score in ran.values() for i in score.worst}
    fine = judged - {operator for operator, _ in culprits}
    figures = {
        "operators": len(judged),
        "within": len(fine),
        "unit": "one" if graph.grids else "rounding",
        "worst": {k: round(max(s.worst.values(), default=0.0), 4) for k, s in ran.items()},
        "elsewhere": [str(culprit) for culprit in elsewhere],
        "refused": {k: s.refused for k, s in scores.items() if s.refused},
        "right_on": [k for k, s in ran.items() if max(s.worst.values(), default=0.0) <= 1],
        "cases": len(cases),
    }
    return Link.judged("local", figures, [culprit for _, culprit in culprits])


def weighed(link: Link, artefact: Artefact, cases: Sequence[Case], oracle: Sequence[Case]) -> Link:
    """The link, unless all that fails in it is the runtime's fault and costs the outputs little: the file is right, and
    the noise ratio has the last word. What it costs is the file's error over that without the fault; where the outputs
    have none with it, it costs them nothing."""
    if link.state != "failed" or any(culprit.kind != "runtime" for culprit in link.culprits):
        return link
    error = whole_error(artefact, cases, oracle)
    least, without = _without_fault(link, artefact, cases, oracle)
    figures = {**link.figures, "runtime_costs": _ratio(error, least)}
    if not figures["runtime_costs"] <= RUNTIME_COST:
        return Link("local", "failed", figures, link.culprits)
    more = f" (and {len(link.culprits) - 1} more)" if len(link.culprits) > 1 else ""
    words = f"the outputs are {figures['runtime_costs']:.2f} times as far off as {without}"
    words = words if error else "the outputs are exact all the same"
    return Link("local", "not possible", figures, reason=f"{link.culprits[0]}{more}; {words}")


def _without_fault(link: Link, artefact: Artefact, cases: Sequence[Case], oracle: Sequence[Case]) -> tuple[float, str]:
    """The error of the file without the faults of the runtime, and what computes it: the kernel sets that have none, or
    else the file's graph in float with every activation rounded on its grid."""
    right = [kernels for kernels in link.figures.get("right_on", ()) if kernels != artefact.kernels[0]]
    if right:
        least = min(whole_error(artefact, cases, oracle, kernels) for kernels in right)
        return least, f"on {' or '.join(right)}"
    rounded = artefact.rounded({}, artefact.graph.grids)
    return error_of(artefact, rounded, cases, oracle), "with every operator exact on its grids"


def _ratio(error: float, least: float) -> float:
    if not error:
        return 0.0
    return error / least if least else float("inf")


def _scores(artefact: Artefact, cases: Sequence[Case], whole: bool) -> dict[str, _Score]:
    """The scores of the kernel sets that were asked."""
    graph = artefact.graph
    hybrid = _hybrid_reach(graph)
    scores: dict[str, _Score] = {}
    for operators in _portions(artefact, cases[0]):
        names = {name for op in operators for name in (*op.inputs, *op.outputs)}
        lifted = artefact.alone_lifted(operators)
        runs: dict[str, Run] = {}
        for case in cases:
            trace = artefact.trace(feed(graph, case), names)
            real = {name: _as_float(graph, name, value) for name, value in trace.items()}
            want = lifted(real)
            for kernels in artefact.kernels:
                score = scores.setdefault(kernels, _Score())
                if not score.refused:
                    try:
                        run = runs[kernels] = runs.get(kernels) or artefact.alone(kernels, operators)
                        got = run(trace)
                    except Exception as error:  # native runtimes raise what they like
                        score.refused = str(error).strip().splitlines()[0][:160]
                        continue
                    for op in operators:
                        for name in got.keys() & set(op.outputs):
                            expected = want.get(name, real.get(op.inputs[0]))
                            score.add(op.index, _deviation(graph, op, name, got[name], expected, real, hybrid))
                    if not whole:
                        break
        give_back()
    return scores


def _portions(artefact: Artefact, case: Case) -> list[list[Operator]]:
    """The operators in order, so many at a time that what they read and write of a case takes at most PORTION bytes."""
    graph, sizes = artefact.graph, dict[str, int]()
    for start in range(0, len(graph.activations), _SIZED):
        names = graph.activations[start : start + _SIZED]
        sizes |= {name: value.nbytes for name, value in artefact.trace(feed(graph, case), names).items()}
    portions: list[list[Operator]] = []
    taken: set[str] = set()
    for op in graph.operators:
        taken |= {*op.inputs, *op.outputs}
        if not portions or sum(sizes.get(name, 0) for name in taken) > PORTION:
            portions.append([])
            taken = {*op.inputs, *op.outputs}
        portions[-1].append(op)
    return portions


def _as_float(graph: Graph, name: str, stored: Array) -> Array:
    grid = graph.grids.get(name)
    if grid is not None:
        return grid.real(stored).astype(np.float32)
    return stored.astype(np.float32) if stored.dtype == np.float16 else stored


def _deviation(
    graph: Graph, op: Operator, name: str, got: Array, want: Array | None, real: Values, hybrid: Mapping[int, Hybrid]
) -> float:
    """How far an operator's output is from the float kernel's, in units of what is allowed: more than 1 is a fault."""
    if want is None or got.shape != want.shape:
        return float("inf")
    whole = want
    grid = graph.grids.get(name)
    if grid is not None:
        return float(np.abs(got.astype(np.float64) - grid.nearest(want.astype(np.float64))).max(initial=0)) / STEPS
    if got.dtype.kind != "f":
        return 0.0 if op.kind in _TIES or np.array_equal(got, want) else float("inf")
    kind = got.dtype
    largest = np.finfo(kind).max  # beyond it one kernel gives infinity, and another stops at it
    got, want = (np.clip(values.astype(np.float64), -largest, largest) for values in (got, want))
    differs = got != want
    differs &= ~(np.isnan(got) & np.isnan(want))  # 0/0 of small numbers that quantisation made 0
    error = float(np.abs(got - want)[differs].max(initial=0))
    finite = np.abs(whole[np.isfinite(whole)])
    allowed = (HALF if kind == np.float16 else FLOAT) * (float(finite.max(initial=0)) or 1.0)
    if kind == np.float16:
        allowed = max(allowed, float(np.finfo(np.float16).smallest_subnormal))
    if op.index in hybrid:
        reach, data = hybrid[op.index]
        allowed += reach * float(np.abs(real[data]).max(initial=0)) / 127 / 2
    return error / allowed if np.isfinite(error) else float("inf")


def _hybrid_reach(graph: Graph) -> dict[int, Hybrid]:
    """Operators with integer weights and float data, by index: the kernel puts the data on a grid of its own at run
    time, and half a step of that, times the largest sum of a channel's |weights|, bounds the error."""
    reach: dict[int, Hybrid] = {}
    for constant in graph.constants.values():
        for slot in constant.slots:
            if slot.role == "weight" and constant.grid is not None and slot.data not in graph.grids:
                axis = slot.layout.index("O") if slot.layout.count("O") == 1 else 0
                real = np.abs(constant.real)
                sums = np.moveaxis(real, axis, 0).reshape(real.shape[axis], -1).sum(axis=1)
                known, _ = reach.get(slot.operator, (0.0, ""))
                reach[slot.operator] = max(known, float(sums.max(initial=0))), slot.data
    return reach


def _culprits(artefact: Artefact, scores: Mapping[str, _Score]) -> tuple[list[tuple[int, Culprit]], list[Culprit]]:
    """Who is to blame, by operator, the file before the runtime; and faults of kernel sets that apps do not get first,
    which do not fail a file that computes the right thing on the first."""
    graph, found, elsewhere = artefact.graph, list[tuple[int, Culprit]](), list[Culprit]()
    ran = {k: s for k, s in scores.items() if not s.refused}
    for op in graph.operators:
        wrong = {k: s.worst[op.index] for k, s in ran.items() if s.worst.get(op.index, 0.0) > 1}
        if not wrong:
            continue
        right = [k for k in ran if k not in wrong]
        unit = "steps" if op.outputs[0] in graph.grids else "times what rounding allows"
        off = f"off by {max(wrong.values()):.3g} {unit}"
        where = f"operator {op.index}, {op.outputs[0]}"
        if not right and _copied(graph, op, max(wrong.values())):
            what = f"{off} on every kernel set ({where}): they copy what it reads from a grid that differs a little"
            found.append((op.index, Culprit("runtime", f"{op.kind} {op.index}", what)))
            continue
        if not right:
            found.append(
                (op.index, Culprit("operator", f"{op.kind} {op.index}", f"{off} on every kernel set ({where})"))
            )
            continue
        what = f"{off} on {', '.join(wrong)}, right on {', '.join(right)} ({where}): the runtime's fault"
        culprit = Culprit("runtime", f"{', '.join(wrong)} {op.kind}", what)
        if artefact.kernels[0] in wrong:
            found.append((op.index, culprit))
        else:
            elsewhere.append(culprit)
    return sorted(found, key=lambda pair: pair[1].kind != "operator"), elsewhere


def _copied(graph: Graph, op: Operator, off: float) -> bool:
    """Whether an operator that keeps a grid copies integers from one grid to another, and is `off` by what follows from
    that alone. The two may differ as two calibrations of the same values do, and only inside the file: an app reads
    the scales of inputs and outputs.
    """
    ports = {port.tensor for port in (*graph.inputs, *graph.outputs)}
    written = graph.grids.get(op.outputs[0])
    read = [graph.grids[name] for name in op.inputs if name in graph.grids]
    if op.kind not in KEEPING or written is None or not read or ports & {*op.inputs, *op.outputs}:
        return False
    return all(_nearly(grid, written) for grid in read) and off <= max(_apart(grid, written) for grid in read) + STEPS


def _nearly(grid: Grid, other: Grid) -> bool:
    """Whether two grids, each of one scale, may be made of the same values."""
    if grid.per_channel or other.per_channel:
        return False
    return bool(abs(grid.scale[0] / other.scale[0] - 1) <= CLOSE and abs(grid.zero[0] - other.zero[0]) <= SHIFT)


def _apart(grid: Grid, other: Grid) -> float:
    """How many steps of `other` an integer is off that was copied to it from `grid`, at most."""
    integers = np.arange(grid.low, grid.high + 1)
    return float(np.abs(other.nearest(grid.real(integers)) - integers).max())
