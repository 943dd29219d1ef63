"""Sizes: rows of a batch against the same rows alone, and every dynamic axis at other sizes, all of them distinct.

A file whose batch was fixed, whose rows leak into each other, or that took one axis for another is right at the
example's sizes and wrong here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from parity.cases import draw
from parity.cases.recipes import ELEMENTS
from parity.core.case import Array, Case
from parity.core.contract import Contract
from parity.core.errors import ParityError
from parity.core.kinds import BATCH
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.formats.target import Target
from parity.judging import judge
from parity.judging.single import GIVES_NAN, OVERFLOWS, distance, size_of
from parity.process.isolate import ChildFailure
from parity.session.planning import Data
from parity.session.session import Runtime
from parity.suite.bench import Bench, Result
from parity.suite.check_kind import CheckContext, SuiteKind, measures
from parity.suite.recorder import Recorder

STRIDE = 32
FURTHER = 1.5  # times the largest declared size, at least
ALONE = 1e-6  # of the output: rows that differ by more than this in float64 are mixed by the model itself

_MAKE_NUMBERS = "leave out inputs on which it does (golden data, range), or let post make numbers of its NaN"

Batch = tuple[Case, list[Case]]
"""Several rows as one case, and the rows one by one."""


def planned(model: ModelConfig, target: Target, data: Data) -> bool:
    """Where one file of the target takes more sizes than the example's."""
    return target.several_sizes(model)


def run(check: CheckContext) -> None:
    """Outputs are the oracle's at every declared size of every axis, and a batch's rows are those of single rows."""
    runtime, parity = check.runtime, check.recorder
    bench = Bench(runtime, parity.limits, parity.proved)
    session, model = runtime.session, bench.model
    if bench.fixed:
        _record(bench, bench.judge_cases(_held(bench, session.config.seed, parity)), parity)
        return
    sizes = model.contract.sizes()
    batches = _batches(runtime, model, sizes)
    cases = _sizes(model.contract, session.config.seed)
    cases = _taken(bench, cases, parity)
    _record(bench, _judged(bench, batches, cases, parity), parity)
    _beyond(bench, parity)
    if not parity.checks:
        raise ParityError("no size to try that the model takes: list two or more in dims")


def _judged(bench: Bench, batches: Sequence[Batch], cases: Sequence[Case], parity: Recorder) -> list[Result]:
    """The results of batches, against their rows alone, and of other cases. Raises ChildFailure."""
    if not batches and not cases:
        return []
    session, model = bench.session, bench.model
    alone = _alone(bench.runtime, model, batches, parity) if batches else {}
    cases = [case for case, _ in batches] + list(cases)
    oracle = session.evaluated(model, cases, "oracle", True)
    wants = [alone.get(case.id) or want for case, want in zip(cases, oracle, strict=True)]
    return bench.judge_cases(cases, wants)


def _taken(bench: Bench, cases: Sequence[Case], parity: Recorder) -> list[Case]:
    """The cases of sizes that the model itself takes; all of them where somebody declared the sizes."""
    contract = bench.model.contract
    invented = sorted(axis for axis in contract.sizes() if axis not in contract.dims and not contract.is_batch(axis))
    if not invented:
        return list(cases)
    taken = []
    for case in cases:
        if why := _refusal(bench, case):
            sizes = ", ".join(f"{axis} = [...]" for axis in invented)
            parity.find(f"{case.id} is not tried: {why}; say which sizes it takes: dims = {{ {sizes} }}", "warning")
        else:
            taken.append(case)
    return taken


def _refusal(bench: Bench, case: Case) -> str:
    """Why the model gives nothing to compare with on a case: its own error, or NaN; else empty."""
    try:
        (row,) = bench.session.evaluated(bench.model, [case], "oracle", True)
    except ChildFailure as failure:
        if failure.state != "error":
            raise
        return f"the model itself refuses it: {failure.reason}"
    return GIVES_NAN if any(np.isnan(value).any() for value in row.values() if value.dtype.kind == "f") else ""


def _beyond(bench: Bench, parity: Recorder) -> None:
    """One batch, and one set of lengths, larger than any declared: a file may be right up to these and no further.

    Nobody declared that size: one that the model refuses, or is not finite at, says nothing, and a file may refuse it.
    """
    model = bench.model
    contract = model.contract
    larger: dict[str, int] = {}  # each axis at a size of its own, so that none is taken for another
    for axis, sizes in contract.sizes().items():
        if axis not in model.enumerated:
            larger[axis] = further(sizes, larger.values())
    batches = _batches(bench.runtime, model, {axis: (size,) for axis, size in larger.items()})
    for batch in batches:
        _try(bench, [batch], [], parity)
    lengths = {axis: size for axis, size in larger.items() if not contract.is_batch(axis)}
    if lengths:
        dims = {**contract.example(), **lengths}
        _try(bench, [], [_drawn(contract, dims, bench.session.config.seed)], parity)


def further(sizes: Sequence[int], taken: Collection[int] = ()) -> int:
    """A size beyond all of `sizes`, by half or more, that is none of those `taken`.

    It is a multiple of what `sizes` are multiples of, of 32 at most: what networks ask of pictures.
    """
    step = math.gcd(*sizes)
    step = STRIDE if step % STRIDE == 0 else step
    size = step * math.ceil(FURTHER * max(sizes) / step)
    while size in taken:
        size += step
    return size


def _try(bench: Bench, batches: Sequence[Batch], cases: Sequence[Case], parity: Recorder) -> None:
    """Record what came of one case of undeclared size, unless model or file does not take it."""
    (case,) = [*(case for case, _ in batches), *cases]
    if sum(value.size for value in case.inputs.values()) > ELEMENTS:
        return
    try:
        (result,) = _judged(bench, batches, cases, parity)
    except ChildFailure as failure:
        parity.find(f"{case.id}, beyond the sizes in dims, was not measured: {failure.reason}", "note")
        return
    alone = any(len(sizes) == 1 for sizes in bench.model.contract.sizes().values())
    if why := result.undefined or (not alone and result.broke):  # no other size has shown that the axis is open
        parity.find(f"{case.id}, beyond the sizes in dims, was not measured: {why}", "note")
        return
    if bench.fails(result) and not result.broke:
        text = f"{case.id} is beyond the sizes in dims: the file takes it, and gives something else than the model"
        parity.find(f"{text}: mend the file, or fix the axis in it", "warning")
    _record(bench, [result], parity)


def _held(bench: Bench, seed: int, parity: Recorder) -> list[Case]:
    """Drawn inputs at each size that a file with fixed axes enumerates; at the example's, with a note, where it
    enumerates none."""
    contract = bench.model.contract
    lead = next(iter(bench.enumerated), "")
    if not lead:
        parity.find("this route fixed the dynamic axes: measured at the example's sizes only")
        return [Case("example sizes", draw.inputs(contract, contract.example(), seed))]
    cases = []
    for size in bench.enumerated[lead]:
        dims = bench.sizes({lead: size})
        name = ",".join(f"{axis}={dims[axis]}" for axis in bench.enumerated)
        cases.append(Case(name, draw.inputs(contract, dims, seed)))
    return cases


def _batches(runtime: Runtime, model: ModelConfig, sizes: Mapping[str, Sequence[int]]) -> list[Batch]:
    """A batch for each of the `sizes` of the batch axis, where there is one: golden rows, or drawn ones without golden
    data or where its cases cannot be stacked."""
    contract = model.contract
    name = next((d for d in sizes if contract.is_batch(d)), None)
    if name is None:
        return []
    found = []
    golden = _stackable(runtime.session.golden_if_any(model), contract, name)
    for size in sizes[name]:
        rows = [golden[i % len(golden)].inputs for i in range(size)] if golden else []
        if not rows:
            dims = {**contract.example(), name: 1}
            rows = [draw.inputs(contract, dims, runtime.session.config.seed + i) for i in range(size)]
            shared = {s.name: rows[0][s.name] for s in contract.inputs if name not in s.shape}
            rows = [{**row, **shared} for row in rows]
        found.append(
            (Case(f"{name}={size}", _stack(rows, contract, name)), [Case(f"row {i}", r) for i, r in enumerate(rows)])
        )
    return found


def _stackable(golden: Sequence[Case], contract: Contract, batch: str) -> list[Case]:
    """The golden cases of one row that agree with the first in all that is not a row of its own."""

    def fits(case: Case) -> bool:
        for spec in contract.inputs:
            mine, first = case.inputs[spec.name], golden[0].inputs[spec.name]
            if mine.shape != first.shape or (spec.shape[:1] == (batch,) and mine.shape[0] != 1):
                return False
            if batch not in spec.shape and not np.array_equal(mine, first):
                return False
        return all(s.shape[0] == batch for s in contract.inputs if batch in s.shape)

    return [case for case in golden if fits(case)]


def _stack(rows: Sequence[Mapping[str, Array]], contract: Contract, batch: str) -> dict[str, Array]:
    return {
        s.name: np.concatenate([row[s.name] for row in rows]) if s.shape[:1] == (batch,) else rows[0][s.name]
        for s in contract.inputs
    }


def _alone(
    runtime: Runtime, model: ModelConfig, batches: Sequence[Batch], parity: Recorder
) -> dict[str, dict[str, Array]]:
    """For each batch, the outputs of its rows alone, stacked: what the batch must give. An output that the model itself
    does not compute row by row is left to the oracle on the whole batch, with a note.

    Rows are stacked as the model computes them, and post-processed as a batch later: `argmax` leaves no axis of rows.
    """
    session = runtime.session
    largest = max((rows for _, rows in batches), key=len)
    oracle = session.evaluated(model, largest, "oracle", True)
    whole = session.evaluated(model, [case for case, _ in batches], "oracle", True)
    found: dict[str, dict[str, Array]] = {}
    mixed: set[str] = set()
    for (case, rows), want in zip(batches, whole, strict=True):
        found[case.id] = dict(want)
        for name, value in want.items():
            by_row = [oracle[i][name] for i in range(len(rows))]
            if not all(s.ndim and s.shape[0] == 1 for s in by_row):
                continue  # an output without rows
            stacked = np.concatenate(by_row)
            if np.isnan(value).any() and np.array_equal(np.isnan(value), np.isnan(stacked)):
                continue  # nothing is compared with NaN, and the batch check says so
            if distance(stacked, value) <= ALONE * size_of(value):
                found[case.id][name] = stacked
            else:
                mixed.add(name)
    for name in sorted(mixed):
        parity.find(f"the model itself mixes the rows of a batch in {name}: a batch is compared as a whole", "warning")
    return found


def _sizes(contract: Contract, seed: int) -> list[Case]:
    """Drawn inputs with all dynamic axes moved together, to sizes that differ pairwise where they can; every declared
    size of every axis occurs."""
    sizes = contract.sizes()
    others = [name for name in sizes if not contract.is_batch(name)]
    if not others:
        return []
    cases = []
    for turn in range(max(len(sizes[name]) for name in others)):
        dims: dict[str, int] = {}
        for place, (name, values) in enumerate(sizes.items()):
            order = [values[(turn + place + k) % len(values)] for k in range(len(values))]
            if not contract.is_batch(name):
                order = [values[(turn + k) % len(values)] for k in range(len(values))]
            dims[name] = next((v for v in order if v not in dims.values()), order[0])
        cases.append(dims)
    for name in others:
        missing = set(sizes[name]) - {d[name] for d in cases}
        cases += [{**contract.example(), name: size} for size in sorted(missing)]
    return [_drawn(contract, dims, seed) for dims in cases]


def _drawn(contract: Contract, dims: Mapping[str, int], seed: int) -> Case:
    return Case(",".join(f"{n}={s}" for n, s in dims.items()), draw.inputs(contract, dims, seed))


def _record(bench: Bench, results: Sequence[Result], parity: Recorder) -> None:
    for result in results:
        undefined = {name: judged.undefined for name, judged in result.judged.items() if judged.undefined}
        reasons = {result.refused, *undefined.values()} - {"", OVERFLOWS}
        if reasons:
            reason = reasons.pop()
            advice = _MAKE_NUMBERS if reason == GIVES_NAN else "narrow the range of its input"
            raise ParityError(f"batch {result.case.id}: {reason}: {advice}")
        if undefined:  # says nothing of the file; the drawn inputs tell how often
            parity.find(f"not judged: {result.case.id}: {OVERFLOWS}", "note")
        for spec in bench.model.contract.outputs:
            want = result.want.outputs.get(spec.name) if result.want else None
            got = result.got.outputs.get(spec.name) if result.got else None
            if want is not None:
                expected, shape = list(want.shape), None if got is None else list(got.shape)
                text = result.broke or f"expected {expected}, got {shape}"
                parity.add(judge.fact(result.case.id, spec.name, "shape", shape == expected, text, "batch"))
            if spec.name not in result.silent and spec.name not in undefined:
                parity.add(bench.check("batch", result, spec))
    parity.add(*bench.lift_checks("batch", results))
    if ties := bench.words_of_ties(results):
        parity.find(ties, "note")
    bench.tell_twins(parity)


@measures(BATCH)
def test_batch(parity_cell: Cell, parity_runtime: Runtime, parity: Recorder) -> None:
    """Rows of a batch are those of single rows, and every dynamic axis is right at every declared size."""
    run(CheckContext(parity_runtime, parity))


KIND = SuiteKind(BATCH, planned, run, test_batch)
