"""The artefact's own graph in float, with the torch weights in its reduced constants' places, must equal the oracle.

What is left in the comparison is the structure: with quantisation noise gone, an epsilon or an activation that was
swapped stands out at 1e-5 where the artefact itself is off by percents. When it fails, the layers that were matched
serve as anchors: the first one that reads something else than its torch layer reads bounds the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from parity.core.proof import Culprit, Link
from parity.formats.graph import Array, Artefact, Constant, Graph, Run, Values, feed, relative_rms
from parity.formats.kept import known
from parity.judging.floor import FP16_MAX
from parity.judging.scales import hidden_error
from parity.proof.audit import ROUNDING, Audited, natural_step
from parity.proof.source import Source

LIMIT = 1e-5  # relative rms; clean lifts measured 2e-7 to 1e-6
_EAGER = 16.0  # a model that float32 itself cannot compute better than this many times its own error widens the limit
_UNTOLD = 0.01  # eager error from which on the widened limit, a sixth of the outputs, tells nothing
_JITTER = 3.0  # how many times the effect of rounding what stayed unmatched
_SHORT = 16.0  # fractions of so many parts are written by people, and no rounding gives a tensor of them alone
_COARSE = 64.0  # from which on every half is a multiple of such a fraction
_APART = 2.0  # limits that the lift must be off by with another value, to say that the value is wrong
_TRIED = 64  # constants that are tried one by one; a file with more that are not torch's is another model's
_FEW = 3  # cases to try them on
_ANCHOR = 10.0  # an anchor is off when it is off by this many limits

LEAST_HALF = float(np.finfo(np.float16).smallest_subnormal)

SILENT = "the outputs hold one value in all elements of all cases, and show nothing of what is before them"
NOT_THE_MODULE = "computes something else than the module, with the module's own weights"

Case = Mapping[str, Array]


def lift(
    artefact: Artefact,
    source: Source,
    audited: Mapping[str, Audited],
    cases: Sequence[Case],
    oracle: Sequence[Case],
    eager: float,
    whole: bool = True,
) -> Link:
    """Run the lifted graph on `cases`.

    `eager` is the relative rms error of the module in float32. The limit is widened by it, and by what unmatched or
    unsound constants, which stay as they are, may cost; both are named in the figures. Not `whole`: where it fails,
    the place is not looked for.
    """
    graph = artefact.graph
    weights = replacements(graph, audited)
    run = artefact.lift(weights)
    errors = _errors(graph, run, cases, oracle)
    noise, kept = _widening(artefact, weights, run, cases[0], oracle)
    limit = max(LIMIT, _EAGER * eager) + _JITTER * noise
    while max(errors.values()) > limit and artefact.reread():
        errors = _errors(graph, artefact.lift(weights), cases, oracle)
    worst = max(errors, key=lambda name: errors[name])
    figures = {
        "relative_rms": errors[worst],
        "outputs": errors,
        "limit": limit,
        "eager_fp32": eager,
        "widened_by": dict.fromkeys(kept, noise),
        "replaced": len(weights),
        "silent": silent(oracle),
    }
    if errors[worst] <= limit:
        return Link("lift", "proved", figures)
    if not whole:
        return Link("lift", "failed", figures, (Culprit("structure", "the file", NOT_THE_MODULE),))
    culprits = list(_blame(artefact, source, audited, cases, oracle, limit))
    return Link("lift", "failed", figures, tuple(culprits))


def replacements(graph: Graph, audited: Mapping[str, Audited]) -> Values:
    """Torch values for the weights that are stored reduced, and for other reduced constants that passed the audit.

    Constants in full precision stay the artefact's own, so that a fault in them is seen.
    """
    return {
        name: a.expected
        for name, a in audited.items()
        if graph.constants[name].reduced and (a.sound or graph.constants[name].slot("weight"))
    }


def right_without_torch(
    artefact: Artefact,
    audited: Mapping[str, Audited],
    cases: Sequence[Case],
    oracle: Sequence[Case],
    eager: float,
) -> set[str]:
    """Which unsound constants hold what belongs there all the same, so that the torch tensor that was matched does not.

    The lift with the file's own values in all of them equals the oracle, and with the torch tensor in this one it does
    not. Where it cannot tell the two apart, the torch tensor stays the measure.
    """
    graph = artefact.graph
    unsound = [name for name, a in audited.items() if not a.sound]
    if not unsound or len(unsound) > _TRIED or any(_mostly_torch(audited[name]) for name in unsound):
        return set()
    weights = replacements(graph, {name: a for name, a in audited.items() if a.sound})
    run = artefact.lift(weights)
    base = max(LIMIT, _EAGER * eager)
    error = max(_errors(graph, run, cases, oracle).values())
    noise, _ = _widening(artefact, weights, run, cases[0], oracle) if error > base else (0.0, [])
    limit = base + _JITTER * noise
    if error > limit:
        return set()
    right = set()
    for name in unsound:
        others = (artefact.lift({**weights, name: values}) for values in _torch_values(audited[name]))
        errors = (max(_errors(graph, other, cases[:_FEW], oracle[:_FEW]).values()) for other in others)
        if all(error > _APART * limit for error in errors):
            right.add(name)
    return right


def _mostly_torch(audited: Audited) -> bool:
    """Whether most values are the torch tensor's, so that the others are faults and no unknown expression."""
    return float(np.mean(audited.excess > 0)) < 0.5


def _torch_values(audited: Audited) -> Iterator[Array]:
    """What torch's tensor may stand for here: with the gain of each channel, which a changed value leads astray, with
    that of the most, and with none."""
    yield audited.expected
    yield audited.match.values * np.median(audited.gain)
    yield audited.match.values


def silent(rows: Sequence[Case]) -> bool:
    """Whether every output holds one value in all its elements, in all cases: it shows nothing of what is before it, as
    where a ReLU behind untrained weights gives 0 everywhere."""
    together = (_flat([row[name] for row in rows]) for name in rows[0])
    return all(np.array_equal(values, np.broadcast_to(values[:1], values.shape)) for values in together)


def blind(link: Link, remains: float | None) -> Link:
    """The link, unless it says no more than the noise ratio does: because no output moves; because its limit is so wide
    by what was not matched, to the error of the file itself, quantisation and all; or because float32 itself cannot
    compute the module."""
    if link.state == "proved" and link.figures.get("silent"):
        return Link("lift", "not possible", link.figures, reason=SILENT)
    eager = link.figures.get("eager_fp32", 0.0)
    if link.state == "proved" and eager > _UNTOLD and link.figures["relative_rms"] > LIMIT:
        reason = (
            f"the module in float32 is off by {eager:.2g} of its own outputs: it decides between equals, or amplifies"
        )
        return Link("lift", "not possible", link.figures, reason=reason)
    kept = link.figures.get("widened_by")
    if link.state != "proved" or not kept or remains is None or link.figures["limit"] < remains:
        return link
    some = ", ".join(list(kept)[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
    reason = (
        f"no tensor of the module fits {some}, whose rounding may cost {max(kept.values()):.2g}: "
        f"as much as the file is off by, {remains:.2g}"
    )
    return Link("lift", "not possible", link.figures, reason=reason)


def kept(links: Sequence[Link]) -> float:
    """What the rounding of constants that stay as they are may cost the outputs, relative rms, by the lift among these
    links: anything where there are some and no output moves; 0 where the lift was not made."""
    figures = next((link.figures for link in links if link.name == "lift"), {})
    widened: Mapping[str, float] = figures.get("widened_by", {})
    if widened and figures.get("silent"):
        return math.inf
    return max((float(noise) for noise in widened.values()), default=0.0)


def _widening(
    artefact: Artefact, weights: Values, run: Run, case: Case, oracle: Sequence[Case]
) -> tuple[float, list[str]]:
    """What the rounding of the reduced constants that no torch value replaces may cost, and their names."""
    constants = artefact.graph.constants.values()
    kept = [c for c in constants if c.reduced and c.slots and c.name not in weights and not _exact(c)]
    return (_jitter(artefact, weights, kept, run, case, oracle) if kept else 0.0), [c.name for c in kept]


def _exact(constant: Constant) -> bool:
    """Whether no rounding was needed: integers and halves at fp16; in a quantised tensor, values that are all alike,
    which the end of a scale that was made for them holds."""
    real = constant.real
    if constant.grid is None:
        return bool(np.array_equal(real * _SHORT, np.rint(real * _SHORT))) and _stated(real)
    made_for_it = constant.grid.step(real.ndim) <= natural_step(constant.grid, real) * (1 + ROUNDING)
    return bool(np.ptp(np.abs(real)) == 0 and np.all(made_for_it))


def _stated(real: Array) -> bool:
    """Whether the halves that are too large for fractions are what somebody wrote: -10000 is, and -64992 is -65000."""
    large = np.unique(real[np.abs(real) >= _COARSE])
    return large.size <= _TRIED and all(float(str(np.float16(v))) == v or abs(v) == FP16_MAX for v in large)


def _errors(graph: Graph, run: Run, cases: Sequence[Case], oracle: Sequence[Case]) -> dict[str, float]:
    """Relative rms by output over all cases, and of the elements that larger ones hide where that is worse; infinite
    where shapes differ, as they do when a batch is lost."""
    fed = [feed(graph, case) for case in cases]
    kept = known(run, fed)
    if "outputs" not in kept:
        wanted = [port.tensor for port in graph.outputs]
        kept["outputs"] = [{name: found[name] for name in wanted} for found in map(run, fed)]
    results = kept["outputs"]
    errors = {}
    for port in graph.outputs:
        got = [port.fetch(r[port.tensor]) for r in results]
        want = [row[port.name] for row in oracle]
        same = all(g.shape == w.shape for g, w in zip(got, want, strict=True))
        errors[port.name] = _error(got, want) if same else float("inf")
    return errors


def _error(got: Sequence[Array], want: Sequence[Array]) -> float:
    overall = relative_rms(_flat(got), _flat(want))
    if not math.isfinite(overall):
        return overall
    return max(overall, hidden_error([np.asarray(g, np.float64) - w for g, w in zip(got, want, strict=True)], want))


def _flat(arrays: Sequence[Array]) -> Array:
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])


def _jitter(
    artefact: Artefact, weights: Values, kept: Sequence[Constant], run: Run, case: Case, oracle: Sequence[Case]
) -> float:
    """How far the outputs move when every kept constant moves by up to half a step: what its rounding may cost. `case`
    is the first of the oracle's."""
    rng = np.random.default_rng(0)
    moved = {constant.name: _moved(constant, rng) for constant in kept}
    values = feed(artefact.graph, case)
    before, after = run(values), artefact.lift({**weights, **moved})(values)
    worst = 0.0
    for port in artefact.graph.outputs:
        first, second = (port.fetch(values[port.tensor]) for values in (before, after))
        worst = max(worst, relative_rms(second, first))
        want = [row[port.name] for row in oracle]
        if first.shape == want[0].shape and math.isfinite(worst):
            worst = max(worst, hidden_error([np.asarray(second, np.float64) - first], want))
    return worst


def _moved(constant: Constant, rng: np.random.Generator) -> Array:
    """Values that round to those of the constant.

    One number moves by the whole half step, and so alike wherever the file holds it: equal numbers are off by as much,
    and do not make up for one another. The least number of fp16 stands for 0, where a converter lets none vanish.
    """
    real = constant.real
    if constant.grid is not None:
        step = constant.grid.step(real.ndim)
    else:
        step = np.maximum(np.abs(real) * 2.0**-10, LEAST_HALF)
        if real.size == 1 and abs(real.item()) == LEAST_HALF:
            return np.zeros_like(real)
    share = rng.uniform(-0.5, 0.5, real.shape) if real.size > 1 else -0.5
    return np.asarray(real + share * step)


def _blame(
    artefact: Artefact,
    source: Source,
    audited: Mapping[str, Audited],
    cases: Sequence[Case],
    oracle: Sequence[Case],
    limit: float,
) -> Iterator[Culprit]:
    """The constants, when torch values in all of them make the lift clean; else the part of the structure."""
    suspects = {name: a for name, a in audited.items() if not a.sound or bool(np.any(a.gain != 1))}
    pure = {name: a.match.values for name, a in audited.items()}
    gained = {name: a.expected for name, a in audited.items()}
    if suspects and max(_errors(artefact.graph, artefact.lift(pure), cases, oracle).values()) <= limit:
        for a in suspects.values():
            yield _stored_otherwise(a)
        return
    _, last, first = max(_region(artefact, source, audited, values, cases[0], limit) for values in (gained, pure))
    named = {a.match.name for a in audited.values()}
    absent = [
        w.bias.name for w in source.weights if w.name == last and w.bias.values.any() and w.bias.name not in named
    ]
    if absent:
        yield Culprit("tensor", absent[0], "no constant of the file holds it")
    if first:
        region = f"between {last} and what {first} reads" if last else f"before {first}"
    else:
        region = f"from {last or 'the input'} to the outputs"
    yield Culprit("structure", region, NOT_THE_MODULE, after=last, before=first)


def _stored_otherwise(audited: Audited) -> Culprit:
    gains, axis = audited.gain, audited.match.axis
    off = np.abs(gains - 1).reshape(-1)
    if not audited.sound and not off.any():
        return Culprit("tensor", audited.match.name, "differs from the torch tensor; with torch's, the lift is clean")
    channels = tuple(int(i) for i in np.argsort(-off, kind="stable") if off[i] > 0) if axis is not None else ()
    worst = float(gains.reshape(-1)[int(off.argmax())])
    return Culprit(
        "tensor", audited.match.name, f"stored {worst:.6g} times the torch values, and nothing makes up for it",
        channels[:32] if off.size > 1 else (),
    )  # fmt: skip


def _region(
    artefact: Artefact, source: Source, audited: Mapping[str, Audited], values: Values, case: Case, limit: float
) -> tuple[int, str, str]:
    """How far the artefact follows the module: the position of the first anchor that is off, the last layer that reads
    what it should, and the first that does not, "" where all do."""
    graph = artefact.graph
    layers = sorted(
        (slot.operator, a.match.name, a.match.weight.anchor, _unpadded(graph, slot.data), slot.layout)
        for name, a in audited.items()
        if a.match.weight and (slot := graph.constants[name].slot("weight"))
    )
    layers = [layer for layer in layers if layer[3] in graph.activations]
    theirs = source.run([case[port.name] for port in graph.inputs], [layer[2] for layer in layers])
    ours = artefact.lift(values, [layer[3] for layer in layers])(feed(graph, case))
    folds = any(bool(np.any(a.gain != 1)) for a in audited.values())
    last = ""
    for position, (_, name, anchor, tensor, layout) in enumerate(layers):
        if anchor not in theirs:
            continue
        want = theirs[anchor]
        if "H" in layout and graph.channels_last:
            want = np.moveaxis(want, 1, -1)
        if _differs(ours[tensor], want, folds) > _ANCHOR * limit:
            return position, last, name
        last = name
    return len(layers), last, ""


def _unpadded(graph: Graph, tensor: str) -> str:
    """A convolution's data before the padding that the converter made an operator of its own."""
    before = next((op for op in graph.operators if tensor in op.outputs), None)
    return before.inputs[0] if before is not None and before.kind in ("PAD", "PADV2", "Pad") else tensor


def _differs(got: Array, want: Array, folds: bool) -> float:
    """Relative rms; where the converter `folds` factors into weights, up to one; 0 where sizes cannot be compared."""
    if got.size != want.size:
        return 0.0
    got, want = got.astype(np.float64).reshape(-1), want.reshape(-1)
    power = float(got @ got)
    factor = float(got @ want) / power if power and folds else 1.0
    return relative_rms(got * factor, want)


def whole_error(artefact: Artefact, cases: Sequence[Case], oracle: Sequence[Case], kernels: str = "") -> float:
    """Relative rms error of the artefact itself, on `kernels` or else as apps run it: what is left for the precision to
    answer for."""
    return error_of(artefact, artefact.whole(kernels or artefact.kernels[0]), cases, oracle)


def error_of(artefact: Artefact, run: Run, cases: Sequence[Case], oracle: Sequence[Case]) -> float:
    """Relative rms error of the worst output of `run`, one of the artefact's."""
    return max(_errors(artefact.graph, run, cases, oracle).values())
