"""Sizes: rows of a batch against the same rows alone, and every dynamic axis at other sizes, all of them distinct.

A file whose batch was fixed, whose rows leak into each other, or that took one axis for another is right at the
example's sizes and wrong here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.cases import draw
from parity.cases.recipes import ELEMENTS
from parity.cases.sizes import batches_beside, beyond, covering, crowds, equal_sizes, far_lengths, lengths_beside
from parity.core.case import Array, Case
from parity.core.contract import Contract
from parity.core.errors import ParityError
from parity.core.kinds import BATCH
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.formats.target import Target
from parity.judging import judge
from parity.judging.single import GIVES_NAN, distance, size_of
from parity.process.isolate import ChildFailure
from parity.session.planning import Data
from parity.session.session import Runtime
from parity.suite.bench import Bench, Result
from parity.suite.check_kind import CheckContext, SuiteKind, measures
from parity.suite.recorder import Recorder

MANY_ELEMENTS = 1 << 20  # of all inputs; a larger batch of many rows is not tried
SECONDS = 1.0  # of one run of the file; what would take longer by its numbers is not tried beyond the usual sizes
ALONE = 1e-6  # of the output: rows that differ by more than this in float64 are mixed by the model itself

_MAKE_NUMBERS = "leave out inputs on which it does (golden data, range), or let post make numbers of its NaN"

Batch = tuple[Case, list[Case]]
"""Several rows as one case, and the rows one by one."""


@dataclass(frozen=True)
class Attempt:
    """One case of undeclared size: a batch or a case, or why it is not tried."""

    id: str
    batch: Batch | None = None
    case: Case | None = None
    refusal: str = ""


def planned(model: ModelConfig, target: Target, data: Data) -> bool:
    """Where one file of the target takes more sizes than the example's."""
    return target.several_sizes(model)


def run(check: CheckContext) -> None:
    """Outputs are the oracle's at every declared size of every axis, and a batch's rows are those of single rows."""
    runtime, parity = check.runtime, check.recorder
    bench = Bench(runtime, parity.limits, parity.proved)
    session, model = runtime.session, bench.model
    if bench.fixed:
        _declared(bench, bench.judge_cases(_held(bench, session.config.seed, parity)), parity)
        return
    sizes = model.contract.sizes()
    batches = _batches(runtime, model, sizes)
    cases = _sizes(model.contract, session.config.seed)
    cases = _taken(bench, cases, parity)
    cases += _combined(bench, parity)
    _declared(bench, _judged(bench, batches, cases, parity), parity)
    _undeclared(bench, parity)
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


def _combined(bench: Bench, parity: Recorder) -> list[Case]:
    """Combinations of the sizes that somebody declared for several axes, where they cost little. One that the model
    itself refuses says nothing: sizes may belong together."""
    contract, seed = bench.model.contract, bench.session.config.seed
    declared = {axis: sizes for axis, sizes in contract.sizes().items()
                if axis in contract.dims and axis not in bench.model.enumerated}  # fmt: skip
    dims = [{**contract.example(), **sizes} for sizes in covering(declared, _planned(contract))]
    if not dims:
        return []
    most = min(ELEMENTS, _cheap(bench))
    taken, left = [], []
    for sizes in dims:
        case = _drawn(contract, sizes, seed)
        why = "it would take too long" if _numbers(contract, sizes) > most else _refusal(bench, case)
        if why:
            left.append((case.id, why))
        else:
            taken.append(case)
    _tell_left(left, "a combination of sizes in dims", parity)
    return taken


def _tell_left(left: Sequence[tuple[str, str]], which: str, parity: Recorder) -> None:
    """Note the cases that were not measured, by id and why; `which` says what sizes they are of."""
    if left:
        (first, why), *rest = left
        also = "".join(f"; nor was {case}" for case, _ in rest)
        parity.find(f"{first}, {which}, was not measured: {why}{also}", "note")


def _undeclared(bench: Bench, parity: Recorder) -> None:
    """Sizes that nobody declared: beyond all that are, and others next to the example's. A file may be right at the
    declared ones alone.

    One that the model refuses, or is not finite at, says nothing, and a file may refuse it.
    """
    model = bench.model
    contract = model.contract
    larger = beyond(contract, model.enumerated)
    more = batches_beside(contract, larger)
    single = any(
        len(sizes) == 1 for sizes in contract.sizes().values()
    )  # only `larger` shows that such an axis is open
    rows, lengths = _batches_of(bench, larger, ELEMENTS), _lengths_of(bench, [larger])
    unmeasured = _try(bench, rows, parity, refusable=not single)
    unmeasured += _try(bench, lengths, parity, refusable=not single)
    others = [attempt for dims in more for attempt in _batches_of(bench, dims, MANY_ELEMENTS)]
    others += _lengths_of(bench, lengths_beside(contract, larger))
    unmeasured += _try(bench, others, parity, refusable=True)
    tried = {attempt.id for attempt in (*rows, *lengths, *others)}
    unmeasured += _try(bench, [a for a in _further(bench, larger) if a.id not in tried], parity, refusable=True)
    _tell_left(unmeasured, "none of the sizes in dims", parity)


def _batches_of(bench: Bench, dims: Mapping[str, int], most: int) -> list[Attempt]:
    """The batch of the size in `dims`, where there is one; why not, where it holds more than `most` numbers."""
    contract = bench.model.contract
    batch = {axis: size for axis, size in dims.items() if contract.is_batch(axis)}
    if not batch:
        return []
    if (numbers := _numbers(contract, batch)) > most:
        return [Attempt(_id(batch), refusal=f"{numbers} numbers are too many to try")]
    made = _batches(bench.runtime, bench.model, {axis: (size,) for axis, size in batch.items()})
    return [Attempt(case.id, batch=(case, rows)) for case, rows in made]


def _lengths_of(bench: Bench, sizes: Sequence[Mapping[str, int]]) -> list[Attempt]:
    """Drawn inputs at each of the `sizes` of the axes that are no batch."""
    contract = bench.model.contract
    attempts = []
    for dims in sizes:
        lengths = {axis: size for axis, size in dims.items() if not contract.is_batch(axis)}
        dims = {**contract.example(), **lengths}
        if not lengths:
            continue
        if (numbers := _numbers(contract, lengths)) > ELEMENTS:
            attempts.append(Attempt(_id(dims), refusal=f"{numbers} numbers are too many to try"))
        else:
            attempts.append(Attempt(_id(dims), case=_drawn(contract, dims, bench.session.config.seed)))
    return attempts


def _further(bench: Bench, larger: Mapping[str, int]) -> list[Attempt]:
    """Drawn inputs of many rows, of one step and of many, and of axes that are all alike, where they cost little: each
    is compared with the model on the whole of it."""
    contract = bench.model.contract
    example = contract.example()
    sizes = [*crowds(contract, larger), *far_lengths(contract, larger), equal_sizes(contract, larger)]
    asked = {_id(dims): dims for dims in sizes if dims and {**example, **dims} != example}
    if not asked:
        return []
    most = min(MANY_ELEMENTS, _cheap(bench))
    attempts = []
    for dims in ({**example, **dims} for dims in asked.values()):
        if _numbers(contract, dims) > most:
            attempts.append(Attempt(_id(dims), refusal="it would take too long"))
        else:
            attempts.append(Attempt(_id(dims), case=_drawn(contract, dims, bench.session.config.seed)))
    return attempts


def _cheap(bench: Bench) -> float:
    """So many numbers the file takes in `SECONDS`, by its time for the example's."""
    contract = bench.model.contract
    return SECONDS / bench.seconds * _numbers(contract, contract.example())


def _numbers(contract: Contract, dims: Mapping[str, int]) -> int:
    """How many numbers all inputs hold together at `dims`, and the example's sizes of all other axes."""
    return sum(math.prod(spec.sized({**contract.example(), **dims})) for spec in contract.inputs)


def _try(bench: Bench, attempts: Sequence[Attempt], parity: Recorder, refusable: bool) -> list[tuple[str, str]]:
    """Record what came of cases of undeclared size; the ids of those that model or file does not take, and why.

    `refusable`: the file may end in an error.
    """
    unmeasured = [(attempt.id, attempt.refusal) for attempt in attempts if attempt.refusal]
    attempts = [attempt for attempt in attempts if not attempt.refusal]
    batches = [attempt.batch for attempt in attempts if attempt.batch]
    cases = [attempt.case for attempt in attempts if attempt.case]
    try:
        results = _judged(bench, batches, cases, parity)
    except ChildFailure as failure:
        if len(attempts) == 1:
            return [*unmeasured, (attempts[0].id, failure.reason)]
        for attempt in attempts:
            unmeasured += _try(bench, [attempt], parity, refusable)
        return unmeasured
    for result in results:
        empty = [name for name, value in result.want.outputs.items() if not value.size] if result.want else []
        if empty:  # a reference that divides the length takes it, and gives nothing
            unmeasured.append((result.case.id, f"the model gives no element of {empty[0]}"))
            continue
        if why := result.undefined or (refusable and result.broke):
            unmeasured.append((result.case.id, why))
            continue
        if bench.fails(result) and not result.broke:
            text = (
                f"{result.case.id} is none of the sizes in dims: the file takes it, and gives something else than the "
            )
            parity.find(f"{text}model: mend the file, or fix the axis in it", "warning")
        _record(bench, [result], parity)
    return unmeasured


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
    """Drawn inputs at the planned sizes."""
    return [_drawn(contract, dims, seed) for dims in _planned(contract)]


def _planned(contract: Contract) -> list[dict[str, int]]:
    """All dynamic axes moved together, to sizes that differ pairwise where they can; every declared size of every axis
    occurs."""
    sizes = contract.sizes()
    others = [name for name in sizes if not contract.is_batch(name)]
    if not others:
        return []
    cases: list[dict[str, int]] = []
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
    return cases


def _drawn(contract: Contract, dims: Mapping[str, int], seed: int) -> Case:
    return Case(_id(dims), draw.inputs(contract, dims, seed))


def _id(dims: Mapping[str, int]) -> str:
    return ",".join(f"{axis}={size}" for axis, size in dims.items())


def _declared(bench: Bench, results: Sequence[Result], parity: Recorder) -> None:
    """Record what came of declared sizes. Raises ParityError where the model gives nothing to compare with at one."""
    for result in results:
        if result.refused:
            raise ParityError(f"batch {result.case.id}: {result.refused}: narrow the range of its input")
        if any(judged.skipped for judged in result.judged.values()) and not bench.fails(result):
            raise ParityError(f"batch {result.case.id}: {GIVES_NAN}: {_MAKE_NUMBERS}")
    _record(bench, results, parity)


def _record(bench: Bench, results: Sequence[Result], parity: Recorder) -> None:
    for result in results:
        undefined = {name: judged.undefined for name, judged in result.judged.items() if judged.undefined}
        for name, why in undefined.items():  # says nothing of the file; the drawn inputs tell how often
            parity.find(f"not judged: {name} of {result.case.id}: {why}", "note")
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
