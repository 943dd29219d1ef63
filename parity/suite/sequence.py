"""Order and state: the same input gives the same output whatever came before it, and what a model carries from step to
step stays right for as long as it runs.

The first is checked bit for bit, on the artefact alone. The second is checked step by step against the oracle, which
carries its own state in float64: once with the tokens given (teacher-forced), once with each choosing its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from parity.cases import draw
from parity.cases import sequence as steps_of
from parity.cases.drawing import Drawing
from parity.core.case import Array, Case
from parity.core.contract import OutputSpec
from parity.core.errors import NoTwin, ParityError
from parity.core.kinds import SEQUENCE
from parity.core.plan import Cell
from parity.core.record import Check
from parity.core.settings import ModelConfig
from parity.judging import judge, single
from parity.session.session import Runtime
from parity.suite.bench import Bench, Result
from parity.suite.check_kind import CheckContext, SuiteKind, always, measures
from parity.suite.recorder import Recorder

MOST = 6  # golden cases that are replayed and reordered
QUICK = 32  # steps of a sequence under the quick profile
GAP = 1e-6  # of the scores: what decoding and prefill of the model itself may differ by in float64


def run(check: CheckContext) -> None:
    """Replay, fresh against used, reordered; and, where state is declared, long sequences and the reset of it."""
    runtime, parity, drawing = check.runtime, check.recorder, check.drawing
    assert drawing is not None
    session = runtime.session
    model = session.config.models[runtime.cell.model]
    golden = session.golden_if_any(model)
    cases = [c.inputs for c in golden[:MOST]]
    while len(cases) < 3:
        cases.append(draw.inputs(model.contract, model.contract.example(), session.config.seed + len(cases)))
    _order(runtime, model, cases, parity)
    if model.decode is not None:
        quick = drawing.profile == "quick"
        _decode(runtime, model, parity, min(model.decode.steps, QUICK) if quick else model.decode.steps)
    elif model.states:
        _recurrent(runtime, model, [c.inputs for c in golden], parity)


def _order(runtime: Runtime, model: ModelConfig, cases: Sequence[Mapping[str, Array]], parity: Recorder) -> None:
    first, second = cases[0], cases[1]
    a, _, again = runtime.run([first, second, first])
    parity.add(*_same("A-B-A", model, a, again, "one input, before and after another"))
    forward = runtime.run(cases)
    backward = runtime.run(cases[::-1])[::-1]
    for number, (one, other) in enumerate(zip(forward, backward, strict=True)):
        parity.add(*_same(f"order {number}", model, one, other, "one input, at two places of a series"))
    fresh = Runtime(runtime.session, runtime.cell, runtime.artifact)
    try:
        new = fresh.open().run([first])[0]
    finally:
        fresh.close()
    parity.add(*_same("fresh", model, new, backward[0], "one input, in a new session and in a used one"))


def _same(
    case: str, model: ModelConfig, one: Mapping[str, Array], other: Mapping[str, Array], detail: str
) -> list[Check]:
    """A check an output: how many of its elements differ in any bit; none may."""
    checks = []
    for spec in model.contract.outputs:
        a, b = one.get(spec.name), other.get(spec.name)
        if a is None or b is None:
            checks.append(judge.limited("sequence", case, "changed", 1.0, 0.0, "the output is not there", spec.name))
            continue
        differs = a.size if a.shape != b.shape else int((_bits(a) != _bits(b)).sum())
        text = detail if not differs else f"{detail}: {differs} of {a.size} elements differ"
        checks.append(judge.limited("sequence", case, "changed", float(differs), 0.0, text, spec.name))
    return checks


def _bits(values: Array) -> Array:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}") if values.dtype.kind == "f" else values


def _decode(runtime: Runtime, model: ModelConfig, parity: Recorder, count: int) -> None:
    """Teacher-forced against the oracle (or the prefill model, which must agree with it), then free-running."""
    session, decode = runtime.session, model.decode
    assert decode is not None
    spec = next(o for o in model.contract.outputs if o.name == decode.scores)
    tokens = steps_of.tokens_of(model, _texts(runtime, model), session.config.seed)[:count]
    held = {n: v for n, v in session.example(model).items()
            if n not in (decode.token, decode.position, *model.states)}  # fmt: skip
    steps = steps_of.decoding(model, tokens, held)
    want = [row[spec.name] for row in session.sequence(model, steps, [spec.name])]
    if decode.prefill is not None:
        want = _prefilled(runtime, model, tokens, want, parity)
    got = [row.get(spec.name) for row in runtime.play(steps, model.states, [spec.name])]
    floors = _judge(runtime, "decode", spec, steps, got, want, parity)
    again = runtime.play(steps[:1], model.states, [spec.name])
    first = {spec.name: got[0]} if got[0] is not None else {}
    only = [c for c in _same("state reset", model, first, again[0], "the first step, before and after a long sequence")
            if c.output == spec.name]  # fmt: skip
    parity.add(*only)
    _free(runtime, model, spec, steps, floors, parity)


def _texts(runtime: Runtime, model: ModelConfig) -> list[Array]:
    """Golden tokens: of the prefill model, where there is one with integer inputs."""
    assert model.decode is not None
    other = runtime.session.config.models[model.decode.prefill] if model.decode.prefill else None
    if other is None or other.golden is None:
        return []
    name = other.contract.inputs[0].name
    return [c.inputs[name][:1] for c in runtime.session.golden(other)]


def _prefilled(runtime: Runtime, model: ModelConfig, tokens: Array, want: list[Array], parity: Recorder) -> list[Array]:
    """The scores that the prefill model's oracle gives at every step, having read everything at once; that decoding
    gives the same in float64 is a check of the models themselves."""
    session, decode = runtime.session, model.decode
    assert decode is not None and decode.prefill is not None
    other = session.config.models[decode.prefill]
    if len(other.contract.inputs) != 1:
        raise ParityError(f"decode.prefill {other.name!r}: it must take the tokens and nothing else")
    spec = other.contract.inputs[0]
    case = Case("prefill", {spec.name: tokens.reshape(1, -1).astype(spec.dtype)})
    row = session.evaluated(other, [case], "oracle", True)[0]
    if decode.scores not in row or row[decode.scores].ndim != 3:
        raise ParityError(
            f"decode.prefill {other.name!r}: it has no output {decode.scores!r} of [batch, steps, scores]"
        )
    whole = row[decode.scores]
    rows = [np.asarray(whole[:, n].reshape(w.shape)) for n, w in enumerate(want)]
    gaps = [single.distance(b, a) / (single.size_of(a) or 1.0) for a, b in zip(rows, want, strict=True)]
    worst = int(np.argmax(gaps))
    detail = f"the model's own decoding against its prefill in float64, worst at step {worst} of {len(gaps)}"
    parity.add(judge.limited("sequence", "all", "prefill_gap", float(gaps[worst]), GAP, detail, decode.scores))
    return rows


def _judge(
    runtime: Runtime,
    name: str,
    spec: OutputSpec,
    steps: Sequence[Mapping[str, Array]],
    got: Sequence[Array | None],
    want: Sequence[Array],
    parity: Recorder,
) -> list[float]:
    """A check a step, and one for how many come before the first that is wrong. The floors (rms) of the steps."""
    bench = Bench(runtime, parity.limits)
    judged = [single.judge(g, w, bench.usual[spec.name]) for g, w in zip(got, want, strict=True)]
    for flavour in bench.flavours():
        if all(bench.within(spec.name, j) for j in judged):
            break
        try:
            twin = runtime.session.sequence(
                bench.model, steps, [spec.name], precision=runtime.cell.precision, flavour=flavour
            )
        except NoTwin:
            continue
        judged = [single.settle(j, g, w, t[spec.name]) for j, g, w, t in zip(judged, got, want, twin, strict=True)]
    wrong = [n for n, j in enumerate(judged) if j.undefined or not bench.within(spec.name, j)]
    for number, verdict in enumerate(judged):
        result = Result(Case(f"{name} {number}", {}), judged={spec.name: verdict})
        parity.add(bench.check("sequence", result, spec))
    detail = f"all {len(judged)} steps hold"
    if wrong:
        first = judged[wrong[0]]
        what = first.reason or f"{first.ratio:.3g} times what the precision costs"
        detail = f"step {wrong[0]} is the first that differs: {what}; {len(wrong)} of {len(judged)} do"
        parity.find(f"{name}: {detail}", "warning")
    right = float(wrong[0] if wrong else len(judged))
    parity.add(judge.limited("sequence", f"{name} all", "steps_right", right, float(len(judged)), detail, spec.name))
    return [j.floor for j in judged]


def _free(
    runtime: Runtime,
    model: ModelConfig,
    spec: OutputSpec,
    steps: Sequence[Mapping[str, Array]],
    floors: Sequence[float],
    parity: Recorder,
) -> None:
    """Both choose their own tokens after the prompt; they part only where the oracle's two best are within noise."""
    decode = model.decode
    assert decode is not None
    prompt = min(decode.prompt, len(steps) - 1)
    free = steps_of.Free(decode.token, decode.scores, prompt)
    want = [row[spec.name] for row in runtime.session.sequence(model, steps, [spec.name], free)]
    rows = runtime.play(steps, model.states, [spec.name], free)
    right, detail = len(want), f"{len(want)} steps, the tokens of {len(want) - prompt} of them its own choice"
    for number, (row, oracle) in enumerate(zip(rows, want, strict=True)):
        got = row.get(spec.name)
        if got is None or not math.isfinite(single.distance(got, oracle)):
            right, detail = number, f"step {number}: no finite scores of the oracle's shape"
            break
        ours, theirs = steps_of.chosen(got), steps_of.chosen(oracle)
        if number < prompt or np.array_equal(ours, theirs):
            continue
        scores = oracle if oracle.ndim <= 2 else oracle[:, -1]
        at = tuple(np.argwhere(ours != theirs)[0])
        margin = float(scores[(*at, theirs[at])] - scores[(*at, ours[at])])
        noise = 2 * math.sqrt(2) * 3 * floors[number]  # three sigma of each of two scores, doubled
        said = f"step {number} is the first to choose another: {ours[at]} for {theirs[at]}, which leads by {margin:.3g}"
        if margin <= noise:
            parity.find(f"free-running: {said}, less than the precision's noise of {noise:.3g}: they part by right")
            break
        right, detail = number, f"{said}; the precision's noise is {noise:.3g}"
        parity.find(f"free-running: {detail}", "warning")
        break
    limit = float(len(want))
    parity.add(judge.limited("sequence", "free-running all", "steps_right", float(right), limit, detail, spec.name))


def _recurrent(runtime: Runtime, model: ModelConfig, golden: Sequence[Mapping[str, Array]], parity: Recorder) -> None:
    """Golden inputs as the steps of one sequence, each with the state that the step before left; then its reset."""
    fed = [{n: v for n, v in case.items() if n not in model.states} for case in golden]
    fed = [f for f in fed if all(f[n].shape == fed[0][n].shape for n in f)] if fed else []
    if not fed:
        example = runtime.session.example(model)
        fed = [{n: v for n, v in example.items() if n not in model.states}] * MOST
    rows = 1
    for given in model.contract.inputs:
        if given.name in fed[0] and model.contract.batched(given):
            rows = fed[0][given.name].shape[0]
    steps = [
        {**f, **(steps_of.initial(model.contract, model.states, rows) if n == 0 else {})} for n, f in enumerate(fed)
    ]
    outputs = [o.name for o in model.contract.outputs]
    want = runtime.session.sequence(model, steps, outputs)
    got = runtime.play(steps, model.states, outputs)
    for spec in model.contract.outputs:
        _judge(runtime, f"carried {spec.name}", spec, steps, [g.get(spec.name) for g in got],
               [w[spec.name] for w in want], parity)  # fmt: skip
    again = runtime.play(steps[:1], model.states, outputs)
    parity.add(*_same("state reset", model, got[0], again[0], "the first step, before and after the sequence"))


@measures(SEQUENCE)
def test_sequence(parity_cell: Cell, parity_runtime: Runtime, parity_drawing: Drawing, parity: Recorder) -> None:
    """What came before changes nothing, and what is carried from step to step stays the oracle's."""
    run(CheckContext(parity_runtime, parity, drawing=parity_drawing))


KIND = SuiteKind(SEQUENCE, always, run, test_sequence)
