"""Drawn inputs together: what golden data and each input alone have too few elements of a channel to show.

Two golden cases of a vector say little of what a precision costs one of its numbers: by chance the next error is
several times larger, and so a lost bias may be. The drawn inputs are many, so the twin is run on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parity.core.case import Array
from parity.core.contract import OutputSpec
from parity.core.errors import NoTwin
from parity.core.record import Check
from parity.judging import judge
from parity.judging.floor import Floor, Ratio, channel_axis, floor
from parity.judging.parts import chance
from parity.judging.post_processing import post_process
from parity.suite.bench import Bench, Result

UNSURE = 2.0  # times what golden data shows that a channel may be off by chance: from there the drawn inputs are asked
FEWEST = 4  # drawn inputs that say more than golden data
CASE = "all drawn inputs"


def checks(bench: Bench, results: Sequence[Result]) -> list[Check]:
    """The worst channel over all drawn inputs within the declared ranges, of each output that golden data is too small
    for; none where too few inputs can be judged, or the model has no twin."""
    specs = [spec for spec in bench.model.contract.outputs if _unsure(bench, spec)]
    chosen = [r for r in results if _counts(bench, r)]
    if not specs or len(chosen) < FEWEST:
        return []
    floors: dict[str, Floor] = {}
    ratios: dict[str, Ratio] = {}
    for flavour in bench.flavours():
        asked = [spec for spec in specs if spec.name not in ratios or not _within(bench, spec, ratios[spec.name])]
        rows = _twin(bench, chosen, flavour) if asked else []
        for spec in asked if rows else ():
            wants = [_of(r.want.outputs if r.want else {}, spec) for r in chosen]
            twin = [_of(row, spec) for row in rows]
            known = floors.get(spec.name)
            axis = channel_axis(spec, wants[0].ndim)
            made = known.with_another(twin) if known else floor(wants, twin, bench.cell.precision, axis)
            floors[spec.name] = made
            ratios[spec.name] = made.ratio([_of(r.got.outputs if r.got else {}, spec) for r in chosen])
    judged = {name: ratio for name, ratio in ratios.items() if ratio.worst_channel is not None}
    return [_check(bench, spec, judged[spec.name], len(chosen)) for spec in specs if spec.name in judged]


def _unsure(bench: Bench, spec: OutputSpec) -> bool:
    channels = bench.usual[spec.name].channels
    return any(float(chance(part.count * part.peers).max()) > UNSURE for part in channels)


def _counts(bench: Bench, result: Result) -> bool:
    """Whether an input shows what the precision costs: a declared one, on which all outputs were judged."""
    if result.recipe is None or result.recipe.flat or result.skipped or result.broke or result.silent:
        return False
    judged = result.judged.values()
    return bench.promised(result) and not any(j.reason for j in judged)


def _twin(bench: Bench, results: Sequence[Result], flavour: str) -> list[Mapping[str, Array]]:
    """The outputs of a twin as they are compared, a row a result; none where it cannot be asked."""
    precision = bench.cell.precision
    try:
        rows = bench.session.evaluated(
            bench.model, [r.case for r in results], "twin", True, precision=precision, flavour=flavour
        )
    except NoTwin:
        return []
    return [
        post_process(bench.model.contract.outputs, row, r.want).outputs for r, row in zip(results, rows, strict=True)
    ]


def _of(outputs: Mapping[str, Array], spec: OutputSpec) -> Array:
    return outputs[spec.name]


def _within(bench: Bench, spec: OutputSpec, ratio: Ratio) -> bool:
    limit = bench.limit(spec.name, None).value
    return limit is None or ratio.worst_channel is None or ratio.channel <= limit


def _check(bench: Bench, spec: OutputSpec, ratio: Ratio, count: int) -> Check:
    where = f"number {ratio.worst_channel} along axis {ratio.axis}, over {count} drawn inputs"
    return judge.single("property", CASE, spec, bench.limit(spec.name, None), ratio.channel, ratio.reason or where)
