"""One record from the records of a plan's shards, or the reason why they do not make one. Pure.

Shards run on machines that know nothing of each other. What can be lost between them is a whole shard, so the parts
are counted against the plan that each of them carries: a missing one leaves its cells `missing`, and a doubled or
foreign one is refused. So is one that an earlier run left behind: each carries what the whole plan was made from.
Merged shards are judged as one run of the whole plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from parity.core.errors import ParityError
from parity.core.record import BaselineRecord, CellRecord, RunRecord, ShardRecord
from parity.judging import gate

MOST = 10_000  # shards of one plan; a foreign record may claim any number
_COMPUTED = ("weights", "attributes")  # parts of a fingerprint that depend on the processor


def merge(named: Sequence[tuple[str, RunRecord]]) -> RunRecord:
    """The judged record of the whole plan, from (name, record) of its shards in any order.

    Raises ParityError for a record that is no shard, a shard of another plan, of other package versions or made from
    another commit or other files, or a part that is given twice. A part that is not given makes its cells `missing`,
    and so the verdict incomplete.
    """
    if not named:
        raise ParityError("nothing to merge: give the parity.json of every shard")
    first_name, first = named[0]
    given: dict[int, tuple[str, RunRecord]] = {}
    for name, record in named:
        shard = _shard(name, record)
        _same_plan(first_name, first, name, record)
        if shard.part in given:
            also = given[shard.part][0]
            raise ParityError(f"{name}: shard {shard.part}/{shard.parts} is given twice, also by {also}")
        given[shard.part] = name, record
    whole = _shard(first_name, first)
    parts = [given[k][1] for k in sorted(given)]
    absent = [k for k in range(1, whole.parts + 1) if k not in given]
    merged = replace(
        first,
        cells=_cells(whole, given, absent),
        started=min(r.started for r in parts),
        seconds=max(r.seconds for r in parts),
        partial=whole.partial,
        command=f"parity report merge, {len(parts)} of {whole.parts} shards",
        builds=sum(r.builds for r in parts),
        waivers=tuple(w for r in parts for w in r.waivers),
        read={path: digest for r in parts for path, digest in r.read.items()},
        baseline=BaselineRecord(first.baseline.path, tuple(c for r in parts for c in r.baseline.regressions)),
        shard=None,
    )
    return gate.judge(merged)


def _shard(name: str, record: RunRecord) -> ShardRecord:
    if record.shard is None:
        raise ParityError(f"{name}: not the record of a shard; make one with pytest -m parity --parity-shard K/N")
    shard = record.shard
    if not 1 <= shard.part <= shard.parts <= MOST or any(id.count("-") != 2 for id in shard.cells):
        raise ParityError(f"{name}: shard {shard.part}/{shard.parts} of cells that no plan has: parity did not make it")
    if not shard.origin:
        raise ParityError(f"{name}: does not say which commit and files it was made from: run the shard again")
    return shard


def _same_plan(first_name: str, first: RunRecord, name: str, record: RunRecord) -> None:
    a, b = _shard(first_name, first), _shard(name, record)
    if (a.plan, a.parts, a.cells, a.partial, first.profile) != (b.plan, b.parts, b.cells, b.partial, record.profile):
        raise ParityError(f"{name}: a shard of another plan than {first_name}: run every shard on the same commit")
    mine, others = first.environment, record.environment
    packages = {**mine.packages, "Python": mine.python}, {**others.packages, "Python": others.python}
    for package in sorted({*packages[0], *packages[1]}):
        versions = [p.get(package, "absent") for p in packages]
        if versions[0] != versions[1]:
            raise ParityError(f"{name}: ran with {package} {versions[1]}, and {first_name} with {versions[0]}: "
                              "run every shard with the same packages")  # fmt: skip
    for chain in sorted(mine.toolchains.keys() & others.toolchains.keys()):  # a shard may do without one
        ours, theirs = mine.toolchains[chain], others.toolchains[chain]
        if ours != theirs:
            raise ParityError(f"{name}: converted with toolchain {chain} {theirs}, and {first_name} with {ours}: "
                              "run every shard with the same toolchains")  # fmt: skip
    for what, theirs, ours in _origins(first, record):
        raise ParityError(f"{name}: made from another {what} than {first_name} ({ours} and {theirs}): "
                          "run every shard again, on one commit and the same files")  # fmt: skip


def _origins(first: RunRecord, record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """What two shards of a plan were made from and differs: its name, and what each was made from.

    Models that only one of them made are not compared, but files that models of both read are. Weights are, and values
    that are computed when a model is made, where both processors are of one kind: the last bit of a sine differs
    between kinds.
    """
    a, b = _shard("", first), _shard("", record)
    for what in [*a.origin, *(key for key in b.origin if key not in a.origin)]:
        theirs, ours = a.origin.get(what, "none"), b.origin.get(what, "none")
        if theirs != ours:
            yield what, _short(theirs), _short(ours)
    for path in sorted(first.read.keys() & record.read.keys()):
        if first.read[path] != record.read[path]:
            yield f"{path}, which a model reads,", _short(first.read[path]), _short(record.read[path])
    places = [(r.environment.machine, r.environment.processor) for r in (first, record)]
    computed = () if places[0] == places[1] else _COMPUTED
    for model in sorted(a.models.keys() & b.models.keys()):
        theirs_of, ours_of = a.models[model], b.models[model]
        for part in sorted({*theirs_of, *ours_of}.difference(computed)):
            theirs, ours = theirs_of.get(part, "none"), ours_of.get(part, "none")
            if theirs != ours:
                yield f"model {model}, by its {part},", _short(theirs), _short(ours)


def _short(digest: str) -> str:
    return ", then ".join(part[:12] for part in digest.split(", then ")) or "none"


def _cells(
    whole: ShardRecord, given: dict[int, tuple[str, RunRecord]], absent: Sequence[int]
) -> tuple[CellRecord, ...]:
    found: dict[str, CellRecord] = {}
    for name, record in given.values():
        for cell in record.cells:
            if cell.id not in whole.cells:
                raise ParityError(f"{name}: cell {cell.id} is not in the plan that the shard belongs to")
            if cell.id in found:
                raise ParityError(f"{name}: cell {cell.id} was measured by another shard too")
            found[cell.id] = cell
    shards = "shard " + ", ".join(f"{k}/{whole.parts}" for k in absent) + " was not given" if absent else ""
    return tuple(found.get(id) or _missing(id, shards or "no shard measured it") for id in whole.cells)


def _missing(id: str, reason: str) -> CellRecord:
    model, target, precision = id.split("-")
    return CellRecord(id, model, target, precision, "missing", reason, rerun=f"pytest -m parity -k {id}")
